"""A run's folder: what it holds, what an existing one means, and how its results read."""

import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from .callbacks import LOG_NAME
from .checkpoints import list_checkpoints
from .data.carve import SPLITS_NAME, selection_of
from .lora import ADAPTER_FOLDER
from .modeling_paco import CODE_FILES
from .plots import CAPTIONS, EVALUATION_CAPTIONS
from .recipe_book import recipe_names
from .run_args import RunArguments, resolved
from .trainer import STAGING
from .training_args import PaCoTrainingArguments

METRICS_NAME, RECIPE_NAME, RUN_NAME, CONVERSION_NAME = "metrics.json", "recipe.yaml", "run.json", "conversion.json"
CARD_NAME, RESULTS_NAME = "README.md", ".eval_results/paco_hf.yaml"
EVALUATION_FOLDER, EVALUATION_NAME = "evaluation", "results.json"  # of `paco-hf evaluate`
_PATHS = ("dataset_path", "train_list", "validation_list", "test_list", "pretrained_file")
_RUN_FILES = (
    METRICS_NAME,
    RECIPE_NAME,
    RUN_NAME,
    SPLITS_NAME,
    CARD_NAME,
    RESULTS_NAME,
    *CAPTIONS,
    *EVALUATION_CAPTIONS,
    LOG_NAME,
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    *CODE_FILES,
    "selected-*.safetensors",
    "selected-*.partial",
    "*.partial.json",
)


def open_folder(folder: Path, run: RunArguments, args: PaCoTrainingArguments) -> dict[str, Any] | None:
    """What an existing output folder means for a new run.

    Returns:
        the metrics of a finished run that was to be resumed; `None` where there is something to do.

    Raises:
        ValueError: the folder is a file, in use by another run, or of a run finished with other settings.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output_dir {folder} is a file")
    if run.resume and (folder / METRICS_NAME).is_file():
        try:
            metrics = json.loads((folder / METRICS_NAME).read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{folder / METRICS_NAME} is damaged ({error}): remove it to score the run anew"
            ) from error
        changed = changed_settings(folder, resolved(run, args), only_given=True)
        if changed:
            raise ValueError(
                f"{folder} is finished, and was made with other settings ({changed}): give another --output_dir, or "
                f"remove its {METRICS_NAME} to go on from its last checkpoint with the new ones"
            )
        return metrics
    empty = not folder.exists() or not any(folder.iterdir())
    if not (empty or run.dry_run or run.resume or run.overwrite):
        raise ValueError(
            f"--output_dir {folder} is not empty: --resume goes on with the run in it, --overwrite replaces it"
        )
    return None


def clear_run(folder: Path) -> None:
    """Remove what an earlier run left, and nothing else."""
    for checkpoint in (*list_checkpoints(folder), folder / STAGING):
        shutil.rmtree(checkpoint, ignore_errors=True)
    shutil.rmtree(folder / ADAPTER_FOLDER, ignore_errors=True)
    for evaluated in folder.glob(f"{EVALUATION_FOLDER}*/{EVALUATION_NAME}"):
        shutil.rmtree(evaluated.parent)
    for pattern in _RUN_FILES:
        for file in folder.glob(pattern):
            file.unlink()


def changed_settings(folder: Path, settings: dict[str, Any], only_given: bool = False) -> str:
    """What differs from the settings that the run in `folder` was started with, as text."""
    path = folder / RECIPE_NAME
    before = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else settings
    names = settings.keys() if only_given else before.keys() | settings.keys()
    # What a recipe does not name has its default, as in one of before a setting existed. The global batch follows from
    # others.
    defaults = {f.name: f.default for kind in (RunArguments, PaCoTrainingArguments) for f in dataclasses.fields(kind)}
    pairs = {name: tuple(of.get(name, defaults.get(name)) for of in (before, settings)) for name in sorted(names)}
    bookkeeping = ("save_", "logging_", "report_to", "dataloader_num_workers", "global_batch_size")
    return ", ".join(
        f"{name} {old} -> {new}"
        for name, (old, new) in pairs.items()
        if old != new and not name.startswith(bookkeeping)
    )


def public_settings(settings: dict[str, Any], dataset: str | None = None) -> dict[str, Any]:
    """Settings of a run without what tells of its computer: paths are left out, of a folder its name stays.

    `dataset` is the public name, which was known when the run was made. Without it a name with a slash may be a path.
    """
    kept = {name: value for name, value in settings.items() if name not in _PATHS}
    if "dataset" in kept:
        kept["dataset"] = dataset or Path(str(kept["dataset"])).name
    if kept.get("class_centers") not in (None, "random", "means"):
        kept["class_centers"] = Path(kept["class_centers"]).name
    if "backbone" in kept and not str(kept["backbone"]).startswith("hf"):
        # A folder that timm saved; a name of timm's stays as it is.
        kept["backbone"] = Path(kept["backbone"]).name
    if isinstance(kwargs := kept.get("backbone_kwargs"), dict):
        kept["backbone_kwargs"] = {key: value for key, value in kwargs.items() if key != "pretrained_cfg_overlay"}
    return kept


def public_name(dataset: str) -> str:
    """A data set's name or Hub id; of a folder its name alone. Where it is relative, it must be there."""
    hub_id = re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(:[\w.-]+)?", dataset)
    return dataset if hub_id and not Path(dataset).exists() else Path(dataset).resolve().name


def public_text(text: str, run: RunArguments) -> str:
    """A text without the path of the data: of a folder its name stays."""
    for path in filter(None, (run.dataset, run.dataset_path)):
        if (name := public_name(path)) != path:
            escaped = name.replace("\\", r"\\")
            text = re.sub(rf"(?<![\w/.-]){re.escape(path)}(?![\w-]|\.\.)", escaped, text)
    return text


def run_record(
    run: RunArguments,
    args: PaCoTrainingArguments,
    splits: dict[str, Any],
    seconds: float,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """What `run.json` holds: the recipe, the images of each split, the time and the hardware of the training.

    A split's `selection` is the SHA-256 of its `row label` lines, rows counted in its source. `notes` are what the
    user was told of the data.
    """
    device = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else cpu_name()
    cores = "" if args.device.type == "cuda" else f", {os.cpu_count()} cores"
    return {
        "dataset": public_name(run.dataset),
        "recipe": run.recipe if run.recipe in recipe_names() else None,
        "data": {
            name: {
                "name": public_text(split.name, run),
                "images": len(split.labels),
                "selection": selection_of(split),
            }
            for name, split in splits.items()
            if split
        },
        **({"notes": [public_text(note, run) for note in notes]} if notes else {}),
        "training": {
            "seconds": None if math.isnan(seconds) else round(seconds, 1),
            "hardware": device + cores,
            "processes": args.world_size,
            "precision": args.resolved_precision,
        },
        "versions": {name: importlib.metadata.version(name) for name in ("paco-hf", "torch", "transformers", "timm")},
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def cpu_name() -> str:
    """What the CPU is called."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def as_yaml(settings: dict[str, Any]) -> str:
    return yaml.safe_dump(settings, sort_keys=False)


def read_json(path: Path) -> Any:
    """The content of a JSON file, `None` where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def write_text(path: Path, text: str) -> None:
    partial = path.with_suffix(f".partial{path.suffix}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def summary(metrics: dict[str, Any], title: str) -> str:
    """The scores of a run as a small table, in percent."""
    columns = ("accuracy", "many", "medium", "few", "balanced_accuracy")
    header = ("top-1", "many", "medium", "few", "balanced")
    lines = [title, f"{'':>12}" + "".join(f"{name:>10}" for name in header)]
    for split in ("validation", "test"):
        if metrics.get(split):
            values = [metrics[split][column] for column in columns]
            lines.append(f"{split:>12}" + "".join(f"{'-' if v is None else f'{100 * v:.1f}':>10}" for v in values))
    history = metrics.get("validation_balanced_accuracy_by_step")
    if history:
        selected, last = str(metrics["selected_step"]), list(history)[-1]
        lines.append(
            f"model of step {selected}, selected on validation ({100 * history.get(selected, 0):.1f} balanced there "
            f"during training; the last, of step {last}, {100 * history[last]:.1f})"
        )
    elif "last_step" in metrics:
        why = "validated only at the end, so not selected" if metrics.get("validation") else "no validation split"
        lines.append(f"model of the last step, {metrics['last_step']}; {why}")
    return "\n".join(lines)


@contextmanager
def new_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """A folder that takes its name when the block ends, and is gone where the block fails; `ValueError` where there is
    one already with something in it."""
    target = Path(folder).resolve()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(f"{os.fspath(folder)} exists and is not an empty folder: name another one, or remove it")
    existing = next(parent for parent in target.parents if parent.exists())
    if not existing.is_dir():
        raise ValueError(f"{os.fspath(folder)} cannot be made: {existing} is a file")
    with tempfile.TemporaryDirectory(dir=existing, prefix=f".{target.name}-") as scratch:
        made = Path(scratch) / target.name
        made.mkdir()
        yield made
        target.parent.mkdir(parents=True, exist_ok=True)
        made.rename(target)
