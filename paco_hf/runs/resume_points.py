"""The checkpoints that a training may resume from, and what is wrong with one that cannot be read."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import safe_open
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_pt_utils import safe_globals

from ..arguments.run_arguments import RunArguments
from ..arguments.training_args import PaCoTrainingArguments
from ..models.modeling_contrastive import TRAINING_STATE_NAME
from ..utils.files import readable
from .folder import RunFolder, list_checkpoints
from .layout import SET_ASIDE


def resume_points(folder: Path, run: RunArguments, args: PaCoTrainingArguments) -> list[Path]:
    """The checkpoints that a training is to resume from, the first that is complete; none: it starts over.

    Args:
        folder (`Path`): the `--output_dir`.
        run (`RunArguments`): its `resume` asks for the last one of the folder, if there is one.
        args (`PaCoTrainingArguments`): its `resume_from_checkpoint` is a folder, or `true` for the last one.

    Raises:
        ValueError: flags that contradict each other.
        OSError: there is no such checkpoint.
    """
    last_first = list_checkpoints(folder)[::-1]
    chosen = str(args.resume_from_checkpoint or "")
    if chosen.lower() in ("", "false"):
        return last_first if run.resume else []
    if run.resume:
        raise ValueError(
            f"--resume_from_checkpoint {chosen} and --resume both select a checkpoint: use only one of them"
        )
    if chosen.lower() == "true":
        if not last_first:
            raise OSError(f"--resume_from_checkpoint true: {folder} has no complete checkpoint")
        points = last_first
    elif not (Path(chosen) / TRAINER_STATE_NAME).is_file():
        raise OSError(
            f"--resume_from_checkpoint {chosen} is not a training checkpoint: pass a folder such as "
            "RUN/checkpoint-20, or true for the last one in --output_dir"
        )
    else:
        points = [Path(chosen).resolve() if Path(chosen).is_symlink() else Path(chosen)]
    if run.overwrite and lies_in(points[0], folder):
        raise ValueError(
            f"--overwrite would remove {points[0]}, which --resume_from_checkpoint resumes from: "
            "remove one of the two flags"
        )
    return points


def resumed_recipe(run: RunArguments, args: PaCoTrainingArguments) -> dict[str, Any]:
    """The recipe of the run that is resumed, which may have no checkpoint yet; empty where none is.

    Args:
        run, args: as those of [`resume_points`], with the folder of the run.
    """
    points = resume_points(Path(args.output_dir), run, args)
    return RunFolder(points[0] if points else args.output_dir).recipe if points or run.resume else {}


def lies_in(checkpoint: Path, folder: Path) -> bool:
    """Whether a checkpoint is one of the run in a folder."""
    return checkpoint.resolve().parent == folder.resolve()


def first_complete(points: Sequence[Path], weights: str, args: PaCoTrainingArguments) -> tuple[Path, list[str]]:
    """The first checkpoint that can be read, and for the user a line about each before it.

    Args:
        points (sequence of `Path`): checkpoints, at least one.
        weights, args: as those of [`check_checkpoint`].

    Raises:
        OSError: none can be read: what is wrong with the first.
    """
    errors: list[OSError] = []
    for point in points:
        try:
            check_checkpoint(point, weights, args)
        except OSError as error:
            errors.append(error)
        else:
            reasons = [str(error).rpartition(": ")[0] for error in errors]
            return point, [f"WARNING: {reason}; resuming from the previous checkpoint" for reason in reasons]
    raise errors[0]


def set_aside_later(checkpoint: Path) -> None:
    """Rename the checkpoints of a run that come after one, which is resumed from: the run will write others."""
    later = list_checkpoints(checkpoint.parent)
    for other in later[later.index(checkpoint.parent / checkpoint.name) + 1 :]:
        shutil.rmtree(other.with_suffix(SET_ASIDE), ignore_errors=True)
        other.rename(other.with_suffix(SET_ASIDE))


def process_count(checkpoint: Path) -> int:
    """How many processes made a checkpoint: each has left the state of its random numbers."""
    ranks = [int(file.stem.rpartition("_")[2]) for file in checkpoint.glob("rng_state_*.pth")]
    return max(ranks) + 1 if ranks else 1


def _random_states(processes: int) -> list[str]:
    return [f"rng_state_{rank}.pth" for rank in range(processes)] if processes > 1 else ["rng_state.pth"]


def check_checkpoint(folder: Path, weights: str, args: PaCoTrainingArguments) -> dict[str, Any]:
    """Refuse a checkpoint that training cannot resume from exactly.

    Args:
        folder (`Path`): of the checkpoint.
        weights (`str`): name of the file with the weights.
        args (`PaCoTrainingArguments`): their loss may need a state of its own.

    Returns:
        the trainer's state, such as its `global_step`.

    Raises:
        OSError: a file is missing, or cannot be read.
    """
    others = [str(other) for other in list_checkpoints(folder.parent) if other.name != folder.name]
    such = f", such as {others[-1]}" if others else ""
    advice = f"choose another with --resume_from_checkpoint{such}, or start over with --overwrite"
    # Every process looks at those of all, so that all find the same.
    random_states = _random_states(process_count(folder))
    pickled = ("optimizer.pt", "scheduler.pt", *random_states)
    contrastive = [TRAINING_STATE_NAME] if args.spec.contrastive else []
    for name in (weights, *contrastive, *pickled, TRAINER_STATE_NAME):
        if not (folder / name).is_file():
            raise OSError(f"the checkpoint {folder} has no {name}: {advice}")
    for name in pickled:
        with readable(folder / name, advice), safe_globals():
            if not is_zipfile(folder / name):
                raise ValueError("not a complete file of torch.save")
            torch.load(folder / name, map_location="cpu", weights_only=True, mmap=True)
    for file in folder.glob("*.safetensors"):
        with readable(file, advice), safe_open(file, "pt"):
            pass
    with readable(folder / TRAINER_STATE_NAME, advice):
        state: dict[str, Any] = json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        return {**state, "global_step": int(state["global_step"])}
