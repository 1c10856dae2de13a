"""What an existing output folder means for a new run."""

import shutil
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from ..arguments.defaults import default_setting
from ..arguments.run_arguments import RunArguments
from ..arguments.settings import run_settings
from ..arguments.training_args import PaCoTrainingArguments
from ..data.spec import SPLITS_NAME
from ..models.image_processing_paco import PROCESSOR_FILE
from ..models.lora import ADAPTER_FILES, ADAPTER_FOLDER
from ..models.modeling_paco import CODE_FILES
from ..utils.files import is_changed
from ..utils.hub_names import split_revision
from ..utils.locks import LOCK_NAMES
from . import layout
from .folder import RunFolder, list_checkpoints
from .resume_points import lies_in, resume_points

_CODE = (*CODE_FILES, PROCESSOR_FILE)  # that travels with a model


def open_folder(folder: Path, run: RunArguments, args: PaCoTrainingArguments) -> dict[str, Any] | None:
    """What an existing output folder means for a new run.

    Args:
        folder (`Path`): the `--output_dir`.
        run (`RunArguments`): of the new run.
        args (`PaCoTrainingArguments`): of the new run.

    Returns:
        the metrics of a finished run that was to be resumed; `None` where there is something to do.

    Raises:
        OSError: there is no such checkpoint to resume from.
        ValueError: the folder is no run of ours, or of a run finished with other settings.
    """
    points = resume_points(folder, run, args)
    if run.resume and (folder / layout.METRICS_NAME).is_file():
        metrics = RunFolder(folder).metrics
        changed = changed_settings(folder, run_settings(run, args), only_named=True)
        if changed:
            raise ValueError(
                f"{folder} is finished and was trained with different settings ({changed}): use another --output_dir, "
                f"or remove its {layout.METRICS_NAME} to continue from its last checkpoint with the new settings"
            )
        return metrics
    if not folder.exists() or _is_fresh(folder):
        return None
    if not RunFolder(folder).started:
        inside = sorted(path.name for path in folder.iterdir() if path.name not in LOCK_NAMES)
        shown = ", ".join(inside[:5]) + (f" and {len(inside) - 5} more" if len(inside) > 5 else "")
        raise ValueError(f"--output_dir {folder} is not empty and has no run ({shown}): use another folder")
    if not (run.resume or run.overwrite or any(lies_in(point, folder) for point in points)):
        raise ValueError(
            f"--output_dir {folder} is not empty: resume its run with --resume, or replace it with --overwrite"
        )
    return None


def clear_run(folder: Path) -> None:
    """Remove what an earlier run left, and nothing else."""
    for checkpoint in (*list_checkpoints(folder), *folder.glob(f"checkpoint-*{layout.SET_ASIDE}")):
        if (checkpoint / layout.STATE_NAME).is_file():
            clear_checkpoint(checkpoint)
    shutil.rmtree(folder / layout.STAGING, ignore_errors=True)
    _remove(folder / ADAPTER_FOLDER, ADAPTER_FILES)
    for evaluated in (layout.EVALUATION_FOLDER, layout.VALIDATION_FOLDER):
        _remove(folder / evaluated, layout.EVALUATION_FILES)
    kept = [layout.CARD_NAME] if is_changed(folder / layout.CARD_NAME) else []
    _remove(folder, (*layout.RUN_FILES, SPLITS_NAME, *_CODE), kept)


def clear_checkpoint(folder: Path) -> None:
    """Remove the files of a checkpoint, and its folder where nothing else is in it."""
    _remove(folder, (*ADAPTER_FILES, *_CODE, *layout.CHECKPOINT_FILES))


def clear_unfinished(folder: Path) -> None:
    """Remove what a run that was killed had only begun to write: its next process has another name for it."""
    shutil.rmtree(folder / layout.STAGING, ignore_errors=True)
    evaluation = (f"{layout.EVALUATION_FOLDER}/{name}" for name in layout.EVALUATION_FILES)
    adapter = (f"{ADAPTER_FOLDER}/{name}" for name in ADAPTER_FILES)
    for name in (*layout.RUN_FILES, SPLITS_NAME, *_CODE, *evaluation, *adapter):
        for file in folder.glob(f"{name}.*.partial"):
            file.unlink()


def _remove(folder: Path, patterns: Iterable[str], kept: Collection[str] = ()) -> None:
    """Remove the files of these names, whole or partial, and the folder where nothing else is in it."""
    for pattern in patterns:
        for file in (*folder.glob(pattern), *folder.glob(f"{pattern}.*.partial")):
            if file.name not in kept:
                file.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _is_fresh(folder: Path) -> bool:
    """Whether nothing is in it but what a run has that was killed as it started."""
    log = folder / layout.LOG_NAME
    if log.is_file() and log.stat().st_size:
        return False
    names = {path.name for path in folder.iterdir() if path.suffix != ".partial"}
    return names <= {*LOCK_NAMES, log.name, layout.DATA_NAME, SPLITS_NAME}


def changed_settings(folder: Path, settings: dict[str, Any], only_named: bool = False) -> str:
    """What differs from the settings that the run in `folder` was started with, as text.

    Args:
        folder (`Path`): of the run.
        settings (`dict`): the new ones, by name.
        only_named (`bool`, *optional*, defaults to `False`): leave out what `settings` does not name.
    """
    before = RunFolder(folder).recipe or settings
    if before.get("backbone"):  # which runs of before have with the revision
        before = {**before, "backbone": split_revision(before["backbone"])[0]}
    names = set(settings if only_named else before.keys() | settings.keys())
    # A batch follows from the global one and the number of processes; how many images are scored at a time makes no
    # other model; what is split off for how images were looked at is compared by itself.
    bookkeeping = (
        *("save_", "logging_", "report_to", "dataloader_num_workers", "global_batch_size", "per_device_eval_"),
        "inspect",
    )
    changes, processes = [], [_processes(values) for values in (before, settings)]
    # Or it is what each of the processes had that the run began with.
    share = _batch(settings, RunFolder(folder).data.get("processes", 0))
    others = None not in processes and processes[0] != processes[1]
    if others or (share and share == before.get("global_batch_size")):
        names -= {"per_device_train_batch_size"}
    # A run of before they were kept is resumed with those of now.
    names -= {name for name in ("dataset_revision", "backbone_revision") if name not in before}
    for name in sorted(names):
        old, new = (values.get(name, default_setting(name)) for values in (before, settings))
        if old != new and not name.startswith(bookkeeping):
            changes.append(f"{name} {old} -> {new}")
    return ", ".join(changes)


def _processes(settings: dict[str, Any]) -> int | None:
    batch, share = settings.get("global_batch_size"), _batch(settings, 1)
    return batch // share if batch and share else None


def _batch(settings: dict[str, Any], processes: int) -> int:
    """The images of a step of so many processes; 0: the settings do not say."""
    share, accumulated = map(settings.get, ("per_device_train_batch_size", "gradient_accumulation_steps"))
    return processes * (share or 0) * (accumulated or 0)
