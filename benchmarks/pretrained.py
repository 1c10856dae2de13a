"""Classifiers on the features of a pretrained backbone, beside what is usually done instead.

```
python -m benchmarks.pretrained heads     --dataset PATH --name "Caltech-101 subset" --backbone FOLDER --image_size 160
python -m benchmarks.pretrained baselines ...    # nearest class mean, logistic regression, on the same features
python -m benchmarks.pretrained runs      ...    # `paco-hf train` with nothing but --dataset and --backbone
python -m benchmarks.pretrained trainer   ...    # transformers.Trainer: the whole network, cross-entropy
python -m benchmarks.pretrained table            # benchmarks/pretrained.md, from the records
```

`benchmarks/fastai_finetune.py` is run by the Python of an environment that has fastai. All can be stopped at any time
and go on with the same command: a measurement whose record lies in `benchmarks/pretrained/` is not made again.
`heads` chooses the settings of a cell by cross-validation with seed 0, then trains on all images with each seed; the
test split is scored once a seed. Without --image_size the input is chosen as the command chooses it.
"""

import argparse
import dataclasses
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tqdm.auto import tqdm
from transformers import set_seed

from paco_hf.arguments.resolve import RunPlan
from paco_hf.data.images import Images
from paco_hf.data.loading import load_data
from paco_hf.data.spec import DataSpec
from paco_hf.data.torch_datasets import FeatureDataset
from paco_hf.inference.logits import balanced_logits
from paco_hf.runs.redaction import public_settings
from paco_hf.trainer.cross_validation import HeadSettings, cross_validate, train_head
from paco_hf.utils.files import as_yaml
from paco_hf.utils.hardware import one_thread
from paco_hf.workflows.choices import SCALES

from .pretrained_baselines import baselines, fine_tune
from .pretrained_data import Measured
from .pretrained_records import DATA_NAME, RECORDS, read_records, record_file, result, write_data, write_record
from .pretrained_table import write_tables

CLASSIFIERS, CENTERS = ("linear", "cosine"), ("random", "means")
LOSSES = ("ce", "balanced_softmax", "paco", "gpaco")
# Six settings a cell: these parts of the suggested learning rate, for each of a cosine classifier's scales.
RATES = {"cosine": (0.3, 1.0), "linear": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)}
SETTINGS = (
    *("loss", "per_device_train_batch_size", "num_train_epochs", "momentum", "alpha", "temperature", "queue_size"),
    *("projection_dim", "key_momentum"),
)
# What a line of the command ends.
STAGES = {
    "start": r".*\bsplits?[: ]",
    "check of the images": r"\d+ images of \d+ classes",
    "choice of the input": r"input \d+ x \d+ pixels, \w+: log loss",
    "features of the training images": r"features of [\d,]+ train images",
    "cross-validation": r"cross-validation, \d+ folds",
    "training": r"temperature |report of the images held out",
    "features of the test images": r"features of [\d,]+ test images",
    "reports": r"model card: ",
}


def heads(flags: argparse.Namespace) -> None:
    """Each cell: six settings by cross-validation, then all training images with each seed."""
    torch.set_num_threads(flags.threads)
    measured = Measured(flags)
    cells = list(itertools.product(flags.classifiers, flags.losses, flags.centers))
    with tqdm(cells, desc="cells", unit=" cells", disable=None) as progress:
        for classifier, loss, centers in progress:
            file = measured.file(f"head-{classifier}-{loss}-{centers}")
            if not file.is_file():
                progress.set_postfix_str(file.stem)
                record = _measure(measured, classifier, loss, centers, flags.seeds)
                write_record(file, record)
                progress.write(_line(file.stem, record))


def _measure(measured: Measured, classifier: str, loss: str, centers: str, seeds: list[int]) -> dict[str, Any]:
    plan, data = measured.plan(classifier=classifier, loss=loss, class_centers=centers)
    candidates, means = _candidates(plan), centers == "means"
    seeded, model = measured.model(plan, data, 0)
    start = time.perf_counter()
    found = cross_validate(
        model, seeded.args, measured.train, candidates, plan.folds, centers=measured.train if means else None
    )
    seconds = time.perf_counter() - start
    labels = np.asarray(measured.train.labels).tolist()
    trained = FeatureDataset([measured.train.features[None]], labels, plan.args.spec.views)
    results = {}
    for seed in seeds:
        seeded, model = measured.model(plan, data, seed)
        set_seed(seed)
        start = time.perf_counter()
        with one_thread(), torch.no_grad():
            with torch.enable_grad():
                head = train_head(model, seeded.args, trained, found.settings, measured.train if means else None)
            spent = time.perf_counter() - start
            logits = head.classifier(torch.from_numpy(measured.test.features).float().to(model.device))
        results[str(seed)] = result(logits.argmax(1).tolist(), measured.test.labels, measured.counts, spent)
    return {
        "kind": "head",
        "classifier": classifier,
        "loss": loss,
        "class_centers": centers,
        **measured.described,
        "settings": {name: getattr(plan.args, name) for name in SETTINGS if name not in plan.args.spec.ignores},
        "tried": [
            {**dataclasses.asdict(one), "log_loss": round(values[0], 5), "balanced_accuracy": round(values[1], 5)}
            for one, values in found.scores.items()
        ],
        "chosen": dataclasses.asdict(found.settings),
        "cross_validation_seconds": round(seconds, 2),
        "seeds": results,
    }


def _candidates(plan: RunPlan) -> list[HeadSettings]:
    run, args = plan.run, plan.args
    scales = SCALES if run.classifier == "cosine" else (run.classifier_scale,)
    rates = [float(f"{args.learning_rate * part:.3g}") for part in RATES[run.classifier]]
    return [HeadSettings(rate, args.weight_decay, scale) for rate in rates for scale in scales]


def _line(name: str, record: dict[str, Any]) -> str:
    scores = [f"{100 * one['balanced_accuracy']:.1f}" for one in record["seeds"].values()]
    return f"{name}: balanced {', '.join(scores)}; {record.get('cross_validation_seconds', 0):.0f} s to choose"


def runs(flags: argparse.Namespace) -> None:
    """The command as a user types it, its records and what it spent its time on.

    The first run finds no features of the images; the others find those of the first.
    """
    records, cache = Path(flags.records), (Path(flags.folder) / "cache").resolve()
    files = {seed: record_file(records, flags.name, f"run-seed{seed}") for seed in flags.seeds}
    if not any(file.is_file() for file in files.values()):
        shutil.rmtree(cache, ignore_errors=True)
    for seed, file in files.items():
        if not file.is_file():
            record = _run(flags, seed, cache)
            write_record(file, record)
            print(_line(file.stem, record), f"{record['wall_clock_seconds']:.0f} s in all", flush=True)


def _run(flags: argparse.Namespace, seed: int, cache: Path) -> dict[str, Any]:
    data = load_data(DataSpec(dataset=flags.dataset))
    if data.test is None:
        raise ValueError(f"--dataset {flags.dataset} has no test split, and the measurements are on one")
    file = record_file(Path(flags.records), flags.name, Path(DATA_NAME).stem)
    write_data(file, flags.name, data.class_counts, data.test.labels)
    Path(flags.folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
        command = [sys.executable, "-m", "paco_hf", "train", "--dataset", flags.dataset, "--backbone", flags.backbone]
        command += ["--output_dir", folder, "--seed", str(seed), "--overwrite", "true"]
        environment = {**os.environ, "HF_DATASETS_CACHE": str(cache), "PYTHONUNBUFFERED": "1"}
        lines, seconds = _timed(command, environment)
        logits = balanced_logits(folder, Images(data.test), data.class_names, flags.batch_size)[0]
        settings = yaml.safe_load(Path(folder, "recipe.yaml").read_text(encoding="utf-8"))
        names = {"recipe.yaml": as_yaml(public_settings(settings))}
        names |= {name: Path(folder, name).read_text("utf-8") for name in ("metrics.json", "run.json", "log.jsonl")}
    kept = record_file(Path(flags.records), flags.name, f"run-seed{seed}").with_suffix("")
    kept.mkdir(parents=True, exist_ok=True)
    for name, text in names.items():
        (kept / name).write_text(text, encoding="utf-8")
    chosen = {name: settings[name] for name in ("loss", "classifier", "class_centers", "image_size", "image_fit")}
    chosen |= {name: settings[name] for name in ("learning_rate", "classifier_scale", "cross_validation")}
    labels, split = data.test.labels, _stages(lines, seconds)
    spent = split.get("training", 0.0)
    return {
        "kind": "run",
        "features_computed": any(re.match(r"features of .* train images: computed in", line) for _, line in lines),
        "chosen": chosen,
        "wall_clock_seconds": round(seconds, 1),
        "stages": split,
        "seeds": {str(seed): result(logits.argmax(1), labels, data.class_counts, spent)},
    }


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


def table(flags: argparse.Namespace) -> None:
    """The tables of all data sets that have records."""
    root = Path(flags.records)
    folders = sorted(file.parent for file in root.glob(f"*/{DATA_NAME}"))
    print(write_tables({folder: read_records(folder) for folder in folders}, Path(flags.output)))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pretrained", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--records", default=str(RECORDS), help="folder of the records (default: benchmarks/pretrained)"
    )
    steps = parser.add_subparsers(dest="step", required=True)
    functions = {"heads": heads, "baselines": baselines, "runs": runs, "trainer": fine_tune, "table": table}
    each = {name: steps.add_parser(name, help=(f.__doc__ or "").splitlines()[0]) for name, f in functions.items()}
    for name in ("heads", "baselines", "runs", "trainer"):
        step = each[name]
        step.add_argument("--dataset", required=True, help="folder with a train and a test split")
        step.add_argument("--name", required=True, help="what the data set is called")
        step.add_argument("--backbone", required=True, help="folder that timm saved")
        step.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
        step.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(default: %(default)s)")
    for name in ("heads", "baselines", "trainer"):
        each[name].add_argument("--image_size", type=int, help="(default: chosen as the command does)")
        each[name].add_argument("--image_fit", choices=["crop", "pad"], help="(likewise)")
        each[name].add_argument("--folds", type=int, default=5, help="of cross-validation (default: %(default)s)")
    each["heads"].add_argument("--classifiers", nargs="+", choices=CLASSIFIERS, default=CLASSIFIERS)
    each["heads"].add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES)
    each["heads"].add_argument("--centers", nargs="+", choices=CENTERS, default=CENTERS)
    each["runs"].add_argument("--folder", default="runs/pretrained", help="for run folders (default: %(default)s)")
    each["runs"].add_argument("--batch_size", type=int, default=256, help="(default: %(default)s)")
    each["trainer"].add_argument("--learning_rate", type=float, default=1e-4, help="(default: %(default)s)")
    each["trainer"].add_argument("--epochs", type=float, default=5, help="(default: %(default)s)")
    each["trainer"].add_argument("--max_steps", type=int, default=-1, help="to try it: nothing is recorded")
    output = str(RECORDS.with_suffix(".md"))
    each["table"].add_argument("--output", default=output, help="(default: benchmarks/pretrained.md)")
    flags = parser.parse_args(argv)
    functions[flags.step](flags)


if __name__ == "__main__":
    main()
