"""Runs of the command as a user types it, with their records and what they spent their time on."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from paco_hf.data.images import Images
from paco_hf.data.loading import load_data
from paco_hf.data.spec import DataSpec
from paco_hf.inference.logits import balanced_logits
from paco_hf.runs.redaction import public_settings
from paco_hf.utils.files import as_yaml, read_mapping

from .pretrained_records import DATA_NAME, one_line, record_file, result, write_data, write_record

CHOSEN = (
    *("loss", "classifier", "class_centers", "image_size", "image_fit", "learning_rate", "classifier_scale"),
    *("head_learning_rate", "optim", "num_train_epochs", "cross_validation"),
)
TIMED_STEPS = 10, 50
# What a line of the command ends.
STAGES = {
    "start": r".*\bsplits?[: ]",
    "check of the images": r"\d+ images of \d+ classes",
    "choice of the input": r"input \d+ x \d+ pixels, \w+, chosen by",
    "features of the training images": r"features of [\d,]+ train images",
    "cross-validation": r"cross-validation, \d+ folds",
    "training": r"temperature |report of the images held out",
    "features of the test images": r"features of [\d,]+ test images",
    "reports": r"model card: ",
}


def runs(flags: argparse.Namespace) -> None:
    """The command as a user types it, its records and what it spent its time on.

    The first run finds no features of the images; the others find those of the first.
    """
    files = {seed: record_file(Path(flags.records), flags.name, f"run-seed{seed}") for seed in flags.seeds}
    if not any(file.is_file() for file in files.values()):
        shutil.rmtree(_cache(flags), ignore_errors=True)
    for seed, file in files.items():
        if not file.is_file():
            _record(flags, file, seed, [], {"kind": "run"})


def tuned(flags: argparse.Namespace) -> None:
    """The command with other flags (`--more "--freeze_backbone false"`), for as many epochs as fill --minutes."""
    more = shlex.split(flags.more)
    for seed in flags.seeds:
        name = f"tuned-{re.sub(r'[^a-z0-9]+', '-', flags.label.lower()).strip('-')}-seed{seed}"
        file = record_file(Path(flags.records), flags.name, name)
        if not file.is_file():
            length = ["--num_train_epochs", f"{_epochs(flags, seed, more):.3g}"] if flags.minutes else []
            about = {"kind": "fine-tuned", "title": flags.label, "flags": [*more, *length]}
            _record(flags, file, seed, [*more, *length], about)


def _epochs(flags: argparse.Namespace, seed: int, more: list[str]) -> float:
    """How many fill the time, from some steps; the first of them, which prepare much, do not count."""
    seconds = []
    for steps in TIMED_STEPS:
        with tempfile.TemporaryDirectory(dir=_folder(flags)) as folder:
            _train(flags, folder, seed, [*more, "--max_steps", str(steps), "--report", "false"])
            record, settings = (read_mapping(Path(folder, name)) for name in ("run.json", "recipe.yaml"))
        seconds.append(record["training"]["seconds"])
    batch = settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
    step = (seconds[1] - seconds[0]) / (TIMED_STEPS[1] - TIMED_STEPS[0])
    return float(flags.minutes * 60 / step / (record["data"]["train"]["images"] // batch))


def _record(flags: argparse.Namespace, file: Path, seed: int, more: list[str], about: dict[str, Any]) -> None:
    record = {**about, **_run(flags, file, seed, more)}
    write_record(file, record)
    print(one_line(file.stem, record), f"{record['wall_clock_seconds']:.0f} s in all", flush=True)


def _run(flags: argparse.Namespace, file: Path, seed: int, more: list[str]) -> dict[str, Any]:
    data = load_data(DataSpec(dataset=flags.dataset))
    if data.test is None:
        raise ValueError(f"--dataset {flags.dataset} has no test split, and the measurements are on one")
    about_data = record_file(Path(flags.records), flags.name, Path(DATA_NAME).stem)
    write_data(about_data, flags.name, data.class_counts, data.test.labels)
    with tempfile.TemporaryDirectory(dir=_folder(flags)) as folder:
        lines, seconds = _train(flags, folder, seed, more)
        logits = balanced_logits(folder, Images(data.test), data.class_names, flags.batch_size)[0]
        settings, run = (read_mapping(Path(folder, name)) for name in ("recipe.yaml", "run.json"))
        names = {"recipe.yaml": as_yaml(public_settings(settings))}
        names |= {name: Path(folder, name).read_text("utf-8") for name in ("metrics.json", "run.json", "log.jsonl")}
    kept = file.with_suffix("")
    kept.mkdir(parents=True, exist_ok=True)
    for name, text in names.items():
        (kept / name).write_text(text, encoding="utf-8")
    split = _stages(lines, seconds)
    spent = split.get("training", 0.0) if "cross-validation" in split else run["training"]["seconds"]
    return {
        "features_computed": any(re.match(r"features of .* train images: computed in", line) for _, line in lines),
        "chosen": {name: settings[name] for name in CHOSEN if settings.get(name) is not None},
        "wall_clock_seconds": round(seconds, 1),
        "stages": split,
        "seeds": {str(seed): result(logits.argmax(1), data.test.labels, data.class_counts, spent)},
    }


def _folder(flags: argparse.Namespace) -> Path:
    folder = Path(flags.folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _cache(flags: argparse.Namespace) -> Path:
    return Path(flags.folder).resolve() / "cache"


def _train(
    flags: argparse.Namespace, folder: str, seed: int, more: list[str]
) -> tuple[list[tuple[float, str]], float]:
    """What the command prints, each line with its second, and how long it takes."""
    command = [sys.executable, "-m", "paco_hf", "train", "--dataset", flags.dataset, "--backbone", flags.backbone]
    command += ["--output_dir", folder, "--seed", str(seed), "--overwrite", "true", *more]
    return _timed(command, {**os.environ, "HF_DATASETS_CACHE": str(_cache(flags)), "PYTHONUNBUFFERED": "1"})


def _timed(command: list[str], environment: dict[str, str]) -> tuple[list[tuple[float, str]], float]:
    """What a command prints, each line with its second, and how long the command takes."""
    start, lines = time.perf_counter(), []
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append((time.perf_counter() - start, line.rstrip()))
            print(line, end="", flush=True)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit status {process.returncode}")
    return lines, time.perf_counter() - start


def _stages(lines: list[tuple[float, str]], seconds: float) -> dict[str, float]:
    """Seconds of each stage whose last line was printed; what comes after the last of them is the end."""
    split, before = {}, 0.0
    for name, pattern in STAGES.items():
        at = next((second for second, line in lines if second >= before and re.match(pattern, line)), None)
        if at is not None:
            split[name], before = round(at - before, 1), at
    return {**split, "end": round(seconds - before, 1)}
