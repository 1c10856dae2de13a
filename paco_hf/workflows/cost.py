"""What a run costs, before it has cost it: time and memory, from a few timed steps."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback

from ..arguments.resolve import RunPlan, is_pretrained
from ..trainer.paco_trainer import PaCoTrainer
from ..trainer.step_timer import MOST, StepTimer, StepTimes
from ..utils.hardware import available_cores
from ..utils.memory import keep_freed_memory, used_memory
from .build import RunParts, build_trainer
from .prepare_data import RunData

PATIENCE = 3600.0  # seconds on a CPU above which shorter ways are named
_REPORT = 4.0  # seconds of figures, report and card
_WRITING = 4e8  # bytes a second of a checkpoint
_TIMED_IMAGES, _SAMPLE = 32, 8
_LONG_STEP = 8.0  # seconds; a dry run does not take longer steps


@dataclass(frozen=True)
class RunCost:
    """What is left of a run.

    Args:
        training (`float`): seconds of steps, validations and checkpoints.
        finishing (`float`): seconds of the scores and the report at the end.
        memory (`float`): bytes.
        length (`str`): its epochs and steps, in words.
    """

    training: float
    finishing: float
    memory: float
    length: str

    @property
    def seconds(self) -> float:
        return self.training + self.finishing

    def __str__(self) -> str:
        return f"about {duration(self.seconds)} on this computer, {self.memory / 1e9:.1f} GB; {self.length}"


def duration(seconds: float) -> str:
    """A time as one says it: in seconds, minutes or hours."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Estimate:
    """From timed steps to the cost of a run.

    Args:
        plan (`RunPlan`): of the run.
        data (`RunData`): its splits.
        trainer ([`PaCoTrainer`]): of the run, or one like it with other steps.
    """

    def __init__(self, plan: RunPlan, data: RunData, trainer: PaCoTrainer) -> None:
        self.plan, self.trainer, self.split_images = plan, trainer, data.images
        self.size = int(plan.run.image_size or 0)
        self.scored = [len(data.images[role].split.labels) for role in ("validation", "test") if role in data.images]

    def cost(self, times: StepTimes, memory: float = 0) -> RunCost:
        """What is left after the timed steps.

        Args:
            times ([`StepTimes`]): of the run's own batch.
            memory (`float`, *optional*, defaults to `0`): bytes that the run needs, where that is more than is in use.
        """
        args, per_epoch = self.plan.args, self._steps_per_epoch()
        steps = args.max_steps if args.max_steps > 0 else int(args.num_train_epochs * per_epoch)
        left = max(steps - self.trainer.state.global_step, 0)
        image = self.image_seconds
        if times.between is not None:
            beside = left / per_epoch * times.between
        else:
            validation = len(self.trainer.eval_dataset or ()) * image / args.world_size
            saving = sum(p.numel() for p in self.trainer.model.parameters()) * 12 / _WRITING  # with momentum, selected
            beside = left * validation / _interval(args.eval_strategy, args.eval_steps, per_epoch)
            beside += left * saving / _interval(args.save_strategy, args.save_steps, per_epoch)
        scoring = sum(self.scored) * image / args.world_size
        epochs = f"{args.num_train_epochs:g} epoch{'s' if args.num_train_epochs != 1 else ''}"
        length = f"{steps} steps" if args.max_steps > 0 else f"{epochs} of {per_epoch} steps"
        if self.trainer.state.global_step > times.steps:
            length += f", of which {left} steps are left"
        training = left * times.step + beside
        if self.plan.run.class_centers == "means" and self.trainer.state.global_step == 0:
            training += len(self.trainer.train_dataset) * image
        return RunCost(
            training,
            scoring + _REPORT * self.plan.run.report,
            max(memory, float(used_memory(args.device.type))),  # by now, a batch has been scored
            length,
        )

    def shorter(self, cost: RunCost, step: float) -> list[str]:
        """Flags that would make the run shorter, each with the time that it then takes.

        Args:
            cost ([`RunCost`]): of the run.
            step (`float`): seconds of one of its steps.
        """
        run, args, ways = self.plan.run, self.plan.args, []
        trained = not self.trainer.frozen_backbone and not run.lora_rank
        if trained and is_pretrained(run, self.plan.backbone):
            # What stays are the forward passes of the views, and reading the images.
            images = args.per_device_train_batch_size * args.gradient_accumulation_steps
            share = min(len(self.plan.views) * images * self.image_seconds / step, 1)
            ways.append(("--freeze_backbone true", cost.training * share))
        smaller = self.size * 2 // 3 // 32 * 32
        if smaller >= 64 and (ratio := self._size_ratio(smaller)):
            ways.append((f"--image_size {smaller}", cost.training * ratio))
        if args.max_steps <= 0 and (epochs := int(args.num_train_epochs / 4)):
            ways.append((f"--num_train_epochs {epochs}", cost.training * epochs / args.num_train_epochs))
        return [f"{flag}: about {duration(seconds + cost.finishing)}" for flag, seconds in ways]

    def _steps_per_epoch(self) -> int:
        args = self.plan.args
        batches = len(self.trainer.train_dataset) / (args.per_device_train_batch_size * args.world_size)
        whole = int(batches) if args.dataloader_drop_last else -int(-batches // 1)
        return max(whole // args.gradient_accumulation_steps, 1)

    @cached_property
    def image_seconds(self) -> float:
        """Of decoding and scoring one, in the precision of the scores."""
        images = next(self.split_images[role] for role in ("validation", "test", "train") if role in self.split_images)
        count = min(_SAMPLE, len(images))
        start = time.monotonic()
        self.plan.processor([images[i] for i in range(count)], return_tensors="pt")
        workers = 1 if images.decoded is not None else available_cores()
        reading = (time.monotonic() - start) / count / workers
        batch = self.plan.args.per_device_eval_batch_size
        timed = min(_TIMED_IMAGES, batch)
        image = _forward_seconds(self.trainer.model, timed, self.size) / timed
        batch = min(batch, max(self.scored, default=0))
        if timed < batch <= _LONG_STEP / 2 / image:
            # As many as will be scored at a time: these may take more memory than a step.
            image = _forward_seconds(self.trainer.model, batch, self.size) / batch
        return reading + image

    def _size_ratio(self, size: int) -> float | None:
        """The time of smaller images as a share; `None` where the backbone is built for one size."""
        whole = _forward_seconds(self.trainer.model, _SAMPLE, self.size)
        try:
            return _forward_seconds(self.trainer.model, _SAMPLE, size) / whole
        except (AssertionError, RuntimeError, ValueError):
            return None


def _interval(strategy: str, steps: float | None, per_epoch: int) -> float:
    """Steps from one validation or checkpoint to the next."""
    return math.inf if strategy == "no" else (steps or per_epoch) if strategy == "steps" else per_epoch


def _forward_seconds(model: torch.nn.Module, batch: int, size: int) -> float:
    """Of a batch of images through a model, in evaluation."""
    training, device = model.training, next(model.parameters()).device
    pixels = torch.zeros(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    model.eval()
    try:
        with torch.no_grad():
            for _ in range(2):  # the first one prepares
                start = time.monotonic()
                model(pixels)
                if device.type != "cpu":
                    torch.accelerator.synchronize()
    finally:
        model.train(training)
    return time.monotonic() - start


def announce_cost(plan: RunPlan, data: RunData, trainer: PaCoTrainer) -> None:
    """Have the trainer say, after its first steps, what the run will cost.

    Args:
        plan (`RunPlan`): of the run.
        data (`RunData`): its splits.
        trainer ([`PaCoTrainer`]): before it trains.
    """

    def announce(times: StepTimes) -> None:
        lines = _lines(plan, Estimate(plan, data, trainer), times)
        for line in lines if plan.args.process_index == 0 else ():
            trainer.lines.write(line)

    trainer.add_callback(StepTimer(announce))


def rehearse(plan: RunPlan, data: RunData, parts: RunParts, callbacks: Sequence[TrainerCallback]) -> list[str]:
    """What a run would cost, from a few steps of it that leave nothing behind.

    Where a step of the run's batch would take long, those of two smaller batches are timed, and a line is drawn
    through them.

    Args:
        plan (`RunPlan`): of the run.
        data (`RunData`): its splits.
        parts (`RunParts`): its model, whose weights change, and training data.
        callbacks (sequence of `transformers.TrainerCallback`): for the trainer.

    Returns:
        lines for the user.
    """
    if plan.args.device.type == "cpu":
        keep_freed_memory()
    timed = []
    for size in _batches_to_time(plan, parts):
        with TemporaryDirectory() as scratch:
            trainer, times = _train_briefly(plan, data, parts, callbacks, size, scratch)
        timed.append((size, times, float(used_memory(plan.args.device.type))))
    size, times, memory = timed[-1]
    if more := plan.args.per_device_train_batch_size - size:
        fewer, before, small = timed[0]
        step = times.step + more * max(times.step - before.step, 0) / (size - fewer)
        times = StepTimes(step, times.first, None, times.steps)
        memory += more * max(memory - small, 0) / (size - fewer)
    trainer.state.global_step = 0
    return _lines(plan, Estimate(plan, data, trainer), times, memory)


def _batches_to_time(plan: RunPlan, parts: RunParts) -> list[int]:
    """The run's batch, or where a step of it would take more than [`_LONG_STEP`] two smaller ones."""
    batch, size = plan.args.per_device_train_batch_size, int(plan.run.image_size or 0)
    model = parts.model.to(plan.args.device)
    image = _forward_seconds(model, 1, size)
    if image < _LONG_STEP / 20:
        image = _forward_seconds(model, _SAMPLE, size) / _SAMPLE
    # A step goes forward through each view, and backward, which is twice the work, through one.
    step = batch * image * (2 + len(plan.views))
    larger = max(int(batch * _LONG_STEP / step), 4)
    [sizes] = broadcast_object_list([[batch] if larger >= batch else [larger // 2, larger]])
    return list(sizes)


def _train_briefly(
    plan: RunPlan, data: RunData, parts: RunParts, callbacks: Sequence[TrainerCallback], size: int, folder: str
) -> tuple[PaCoTrainer, StepTimes]:
    results: list[StepTimes] = []
    quiet = {"disable_tqdm": True, "report_to": [], "push_to_hub": False, "logging_strategy": "no"}
    changes: dict[str, Any] = {"output_dir": folder, "per_device_train_batch_size": size, **quiet}
    args = plan.args.changed(**changes, eval_strategy="no", save_strategy="no", max_steps=MOST)
    trainer = build_trainer(replace(plan, args=args), data, parts, callbacks)
    trainer.add_callback(StepTimer(results.append, stop=True))
    trainer.train()
    return trainer, results[0]


def _lines(plan: RunPlan, estimate: Estimate, times: StepTimes, memory: float = 0) -> list[str]:
    cost = estimate.cost(times, memory)
    lines = [str(cost)]
    if cost.seconds > PATIENCE and plan.args.device.type == "cpu":
        lines += [f"shorter: {way}" for way in estimate.shorter(cost, times.step)]
    return lines
