"""A run's folder: what it holds, what an existing one means, and how its results read."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from ..arguments.arguments import RunArguments
from ..arguments.resolve import resolved
from ..arguments.training_args import PaCoTrainingArguments
from ..data.split_manifest import SPLITS_NAME
from ..models.lora import ADAPTER_FOLDER
from ..models.modeling_paco import CODE_FILES
from .layout import (
    CARD_NAME,
    EVALUATION_FOLDER,
    EVALUATION_NAME,
    FIGURE_NAMES,
    LOG_NAME,
    METRICS_NAME,
    RECIPE_NAME,
    RESULTS_NAME,
    RUN_NAME,
    STAGING,
)
from .resume_points import list_checkpoints

_RUN_FILES = (
    METRICS_NAME,
    RECIPE_NAME,
    RUN_NAME,
    SPLITS_NAME,
    CARD_NAME,
    RESULTS_NAME,
    *FIGURE_NAMES,
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
