"""What an existing output folder means for a new run."""

import shutil
from pathlib import Path
from typing import Any

from ..arguments.defaults import default_setting
from ..arguments.run_arguments import RunArguments
from ..arguments.settings import run_settings
from ..arguments.training_args import PaCoTrainingArguments
from ..data.spec import SPLITS_NAME
from ..models.lora import ADAPTER_FOLDER
from ..models.modeling_paco import CODE_FILES
from . import layout
from .folder import RunFolder, list_checkpoints


def open_folder(folder: Path, run: RunArguments, args: PaCoTrainingArguments) -> dict[str, Any] | None:
    """What an existing output folder means for a new run.

    Args:
        folder (`Path`): the `--output_dir`.
        run (`RunArguments`): of the new run.
        args (`PaCoTrainingArguments`): of the new run.

    Returns:
        the metrics of a finished run that was to be resumed; `None` where there is something to do.

    Raises:
        ValueError: the folder is a file, in use by another run, or of a run finished with other settings.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output_dir {folder} is a file")
    if run.resume and (folder / layout.METRICS_NAME).is_file():
        metrics = RunFolder(folder).metrics
        changed = changed_settings(folder, run_settings(run, args), only_named=True)
        if changed:
            raise ValueError(
                f"{folder} is finished, and was made with other settings ({changed}): give another --output_dir, or "
                f"remove its {layout.METRICS_NAME} to go on from its last checkpoint with the new ones"
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
    for leftover in (*list_checkpoints(folder), folder / layout.STAGING, folder / ADAPTER_FOLDER):
        shutil.rmtree(leftover, ignore_errors=True)
    for evaluated in folder.glob(f"{layout.EVALUATION_FOLDER}*/{layout.EVALUATION_NAME}"):
        shutil.rmtree(evaluated.parent)
    for pattern in (*layout.RUN_FILES, SPLITS_NAME, *CODE_FILES):
        for file in (*folder.glob(pattern), *folder.glob(f"{pattern}.*.partial")):
            file.unlink()


def changed_settings(folder: Path, settings: dict[str, Any], only_named: bool = False) -> str:
    """What differs from the settings that the run in `folder` was started with, as text.

    Args:
        folder (`Path`): of the run.
        settings (`dict`): the new ones, by name.
        only_named (`bool`, *optional*, defaults to `False`): leave out what `settings` does not name.
    """
    before = RunFolder(folder).recipe or settings
    names = settings.keys() if only_named else before.keys() | settings.keys()
    # The global batch follows from others; how many images are scored at a time makes no other model.
    bookkeeping = ("save_", "logging_", "report_to", "dataloader_num_workers", "global_batch_size", "per_device_eval_")
    changes = []
    for name in sorted(names):
        old, new = (values.get(name, default_setting(name)) for values in (before, settings))
        if old != new and not name.startswith(bookkeeping):
            changes.append(f"{name} {old} -> {new}")
    return ", ".join(changes)
