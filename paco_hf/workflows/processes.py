"""What the processes of a training must have in common, and what a run keeps that is resumed with another number."""

import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..arguments.resolve import RunPlan
from ..arguments.run_arguments import RunArguments
from ..arguments.training_args import PaCoTrainingArguments
from ..models.modeling_contrastive import TRAINING_STATE_NAME
from ..runs.folder import RunFolder
from ..runs.resume_points import process_count, resume_points, resumed_recipe
from ..utils.distributed import (
    check_agreement,
    gather_objects,
    in_all,
    printed_once,
    process_name,
    world_size,
)
from ..utils.main_process import computed_once

_PATIENCE = 5.0  # seconds in which a shared disk shows one computer what another has written
# Settings that may differ from one computer to the next, and make no other training.
_LOCAL_SETTINGS = {"dataset", "dataset_path", "dataloader_num_workers", "backbone", "pretrained_file"}


def check_shared(folder: Path, args: PaCoTrainingArguments) -> None:
    """That all processes see the run folder, or that each node writes one of its own, as `save_on_each_node` asks.

    Args:
        folder (`Path`): of the run; that of rank 0 exists.
        args (`PaCoTrainingArguments`): of the run.

    Raises:
        ValueError: in all processes, and names the first that does not see the folder, or should not.
    """
    if args.world_size == 1:
        return
    probe = in_all(lambda: _hidden_file(folder) if args.process_index == 0 else None)
    name = computed_once(lambda: Path(str(probe and probe.name)).name)
    until = time.monotonic() + _PATIENCE
    while not (sees := os.path.exists(folder / name)) and time.monotonic() < until:
        time.sleep(0.1)
        if args.save_on_each_node:  # it is not to be visible
            until = min(until, time.monotonic() + 1)
    nodes = gather_objects((args.process_index - args.local_process_index, sees))
    if probe:
        probe.close()
    for rank, (node, visible) in enumerate(nodes):
        if not visible and (node == 0 or not args.save_on_each_node):
            error = ValueError(
                f"--output_dir {folder} is not shared: {process_name(rank)} does not see what {process_name(0)} "
                "writes there: use a folder on a disk that all nodes share, or --save_on_each_node true for one "
                "run folder per node"
            )
            raise printed_once(error)
        if visible and node > 0 and args.save_on_each_node:
            error = ValueError(
                f"--save_on_each_node true writes one run folder per node, but {process_name(rank)} and "
                f"{process_name(0)} share --output_dir {folder}: remove the flag"
            )
            raise printed_once(error)


def _hidden_file(folder: Path) -> Any:
    return tempfile.NamedTemporaryFile(dir=folder, prefix=".shared-", suffix=".partial")


@dataclass(frozen=True)
class Before:
    """How the run that is resumed was trained so far.

    Args:
        processes (`int`): that trained it last.
        batch (`int`): images of a step, of all processes together.
        rates (`dict`): its learning rates, by their settings' names.
    """

    processes: int
    batch: int
    rates: dict[str, float]


def trained_before(run: RunArguments, args: PaCoTrainingArguments) -> Before | None:
    """How a run was trained that is now resumed with another number of processes; `None`: with as many, or it is new.

    Args:
        run, args: of the run.

    Raises:
        ValueError: its batch does not divide among so many processes.
    """
    points, recipe = resume_points(Path(args.output_dir), run, args), resumed_recipe(run, args)
    accumulated, share = (recipe.get(name) for name in ("gradient_accumulation_steps", "per_device_train_batch_size"))
    if not accumulated or not share:
        return None
    # A run that was ended before its first checkpoint has only its recipe.
    processes = process_count(points[0]) if points else recipe.get("global_batch_size", 0) // (share * accumulated)
    if processes in (0, args.world_size):
        return None
    # Of runs of before a recipe had it: what the processes came to that made the checkpoint.
    batch = int(recipe.get("global_batch_size") or processes * share * accumulated)
    parts = args.world_size * args.gradient_accumulation_steps
    if batch % parts:
        fitting = [n for n in range(1, batch + 1) if batch % (n * args.gradient_accumulation_steps) == 0]
        among = f"{args.world_size} processes"
        if args.gradient_accumulation_steps > 1:
            among += f" and {args.gradient_accumulation_steps} accumulation steps"
        raise ValueError(
            f"the run's batch of {batch} images cannot be divided among {among}: resume with {_listed(fitting)} "
            f"processes (it has used {processes})"
        )
    rates = {name: recipe[name] for name in ("learning_rate", "head_learning_rate") if recipe.get(name)}
    return Before(processes, batch, rates)


def first_processes(checkpoints: Sequence[Path]) -> int | None:
    """How many processes a run began with that is resumed, for which the order of its stream was made."""
    if not checkpoints:
        return None
    return RunFolder(checkpoints[0]).data.get("processes") or process_count(checkpoints[0])


def _listed(numbers: list[int]) -> str:
    shown = [str(number) for number in numbers[:8]]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"


def keep_batch(
    run: RunArguments, args: PaCoTrainingArguments, before: Before | None
) -> tuple[RunArguments, PaCoTrainingArguments]:
    """The arguments with as many images a step as the run had so far, and the learning rates that go with them.

    Args:
        run, args: of the run; where its batch is still open, they stay as they are.
        before ([`Before`], *optional*): of [`trained_before`].
    """
    if before is None or "per_device_train_batch_size" in run.automatic:
        return run, args
    parts = args.world_size * args.gradient_accumulation_steps
    share, now = before.batch // parts, args.per_device_train_batch_size * parts
    # What was scaled for the number of images that the flags come to with so many processes.
    rates = {
        name: rate
        for name, rate in before.rates.items()
        if (scaled := getattr(args, name)) and math.isclose(scaled, rate * now / before.batch)
    }
    run = replace(run, global_batch_size=before.batch)
    return run, args.changed(per_device_train_batch_size=share, **rates)


def describe_change(plan: RunPlan, before: Before, frozen: bool) -> str:
    """What another number of processes leaves as it was, and what it does not, in one line.

    Args:
        plan (`RunPlan`): of [`keep_batch`].
        before ([`Before`]): what it was.
        frozen (`bool`): no backbone is trained, so no BatchNorm counts its batches.
    """
    args = plan.args
    other = ["random numbers, such as for dropout", *([] if frozen else ["BatchNorm batches"])]
    kept = "images and views"
    if plan.run.view_draws == "batch":
        kept = "images"
        other.append("views (--view_draws batch)")
    if args.spec.contrastive and not args.gather_batch:
        other.append("the images that the loss contrasts")
    return (
        f"{args.world_size} process{'es' * (args.world_size > 1)} instead of {before.processes}: "
        f"{args.per_device_train_batch_size} images each, {before.batch} per step as before. The {kept} of each "
        f"step are the same; the results are not bitwise identical, because these differ: {', '.join(other)}"
    )


def check_alike(
    plan: RunPlan, checkpoint: Path | None, weights: str, data: dict[str, Any], manifest: dict[str, Any] | None
) -> None:
    """That all processes are about to train the same, from the same.

    Args:
        plan (`RunPlan`): of the run.
        checkpoint (`Path`, *optional*): that it resumes from.
        weights (`str`): name of the file with its weights.
        data (`dict`): what identifies the images.
        manifest (`dict`, *optional*): which of them are in which split.

    Raises:
        ValueError: one process differs from the first; in all processes.
    """
    if world_size() == 1:
        return
    settings = {name: value for name, value in plan.settings.items() if name not in _LOCAL_SETTINGS}
    # One process of each node reads it.
    content = _digest(checkpoint, weights) if checkpoint and plan.args.local_process_index == 0 else ""
    nodes = gather_objects((plan.args.local_process_index == 0, content))
    content = next(text for here, text in nodes[plan.args.process_index - plan.args.local_process_index :] if here)
    # Lists of images are long: what is sent, and shown, is a digest of each.
    digests = {name: _text_digest(part) for name, part in data.items()}
    digests |= {f"{name} images": _text_digest(part) for name, part in (manifest or {}).get("splits", {}).items()}
    start = f"{checkpoint.name} (content {content[:8]})" if checkpoint else "none"
    check_agreement(checkpoint_to_resume_from=start, settings=settings, data=digests)


def _text_digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _digest(checkpoint: Path, weights: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in (weights, TRAINING_STATE_NAME):
        if (checkpoint / name).is_file():
            with open(checkpoint / name, "rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()
