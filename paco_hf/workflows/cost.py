"""What a run costs, before it has cost it: time and memory, from a few timed steps."""

import math
import os
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch
from accelerate.utils import broadcast_object_list
from torch.utils.data import Subset

from ..arguments.resolve import RunPlan, is_pretrained
from ..data.torch_datasets import FeatureDataset
from ..evaluation.selection import IMAGES
from ..trainer.cross_validation import seconds_a_step
from ..trainer.paco_trainer import PaCoTrainer
from ..trainer.step_timer import StepTimer, StepTimes, images_per_step, updates_per_epoch
from ..utils.hardware import available_cores, one_thread
from ..utils.memory import used_memory
from .build import RunParts, build_trainer, placeholder
from .choices import head_candidates
from .prepare_data import RunData

PATIENCE = 3600.0  # seconds on a CPU above which shorter ways are named
_REPORT, _LIBRARIES = 5.0, 3e8  # seconds of calibration, figures, report and card; bytes of what draws them
_DISK = 4e8  # bytes of a checkpoint that are written in a second
_SAMPLE, _FEWEST = 8, 16  # images of a timed forward pass, and of a timed step
_LONG_STEP = 8.0  # seconds; a dry run does not take longer steps


@dataclass(frozen=True)
class RunCost:
    """What is left of a run.

    Args:
        training (`float`): seconds of steps, validations and checkpoints.
        fixed (`float`): seconds, whatever the settings: scores and report.
        memory (`float`): bytes.
        length (`str`): its epochs and steps, in words.
        features (`float`, *optional*, defaults to `0.0`): seconds of features before the steps.
        folds (`float`, *optional*, defaults to `0.0`): seconds of cross-validation.
    """

    training: float
    fixed: float
    memory: float
    length: str
    features: float = 0.0
    folds: float = 0.0

    @property
    def changeable(self) -> float:
        return self.training + self.features + self.folds  # seconds that settings change

    @property
    def seconds(self) -> float:
        return self.changeable + self.fixed

    def __str__(self) -> str:
        return f"estimate: about {duration(self.seconds)} on this machine, {self.memory / 1e9:.1f} GB; {self.length}"


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
        steps, per_epoch (`int`): optimizer steps of the whole run, and of an epoch.
        done (`int`, *optional*, defaults to `0`): steps that are behind it.
    """

    def __init__(
        self, plan: RunPlan, data: RunData, trainer: PaCoTrainer, steps: int, per_epoch: int, done: int = 0
    ) -> None:
        self.plan, self.trainer, self.images = plan, trainer, data.images
        self.steps, self.per_epoch, self.left = steps, per_epoch, max(steps - done, 0)
        self.size = int(plan.run.image_size or 0)

    def cost(self, times: StepTimes, memory: float, resumed: bool = False) -> RunCost:
        """What is left.

        Args:
            times ([`StepTimes`]): of steps like those of the run.
            memory (`float`): bytes that a process needs for them.
            resumed (`bool`, *optional*, defaults to `False`): whether a part of the run was there before.
        """
        args, run = self.plan.args, self.plan.run
        validation, saving = times.validation, times.saving
        if self.plan.on_features:
            validation = 0.0
        if validation is None:
            validation = len(self.trainer.eval_dataset or ()) * self.image_seconds / args.world_size
        if saving is None:  # with momentum, and the weights selected
            saving = sum(parameter.numel() for parameter in self.trainer.model.parameters()) * 12 / _DISK
        training = self.left * (times.step + times.epoch_start / self.per_epoch)
        training += self._occasions(args.eval_strategy, args.eval_steps or args.logging_steps) * validation
        training += self._occasions(args.save_strategy, args.save_steps) * saving
        counts = {role: len(self.images[role]) for role in ("validation", "test") if role in self.images}
        scored = counts.get("test", 0) + counts.get("validation", 0) * (2 if run.calibrate else 1)
        fixed = scored * self.scoring_seconds / args.world_size + _REPORT * run.report
        epochs = f"{args.num_train_epochs:g} epoch{'s' if args.num_train_epochs != 1 else ''}"
        length = f"{self.steps} steps" if args.max_steps > 0 else f"{epochs} of {self.per_epoch} steps"
        if resumed:
            length += f", {self.left} steps left"
        memory = max(memory, used_memory(args.device.type))  # by now, a batch has been scored
        if args.device.type == "cpu":
            memory += _LIBRARIES * run.report
            memory *= int(os.environ.get("LOCAL_WORLD_SIZE") or args.world_size)
        return RunCost(training, fixed, memory, length)

    def _occasions(self, strategy: str, steps: float) -> float:
        """Of validation or saving, in the steps left."""
        if strategy == "no":
            return 0
        every = self.per_epoch
        if strategy == "steps":
            every = int(steps) if steps >= 1 else math.ceil(steps * self.steps)
        return self.left / every

    def features(self) -> float:
        """Seconds of all that comes before training on features: the choice of the input, the passes over the
        images."""
        run, inputs = self.plan.run, self.plan.inputs
        trained, validated = len(self.images["train"]), len(self.images.get("validation", ()))
        sampled = sum((choice.size / self.size) ** 2 for choice in inputs) * IMAGES if len(inputs) > 1 else 0
        drawn = run.feature_views * len(self.plan.views) * trained
        return (sampled + drawn + trained + validated) * self.scoring_seconds

    def folds(self, trained: FeatureDataset) -> float:
        """Seconds of cross-validation.

        Args:
            trained ([`FeatureDataset`]): features like those of the run.
        """
        if not self.plan.folds:
            return 0.0
        candidates = head_candidates(self.plan)
        step = seconds_a_step(self.trainer.classifier, self.plan.args, trained, candidates[0])
        # Each fold leaves out its part of an epoch, but not of a number of steps.
        trainings = self.plan.folds - (self.plan.args.max_steps <= 0)
        return sum(one.learning_rate > 0 for one in candidates) * trainings * self.steps * step

    def shorter(self, cost: RunCost) -> list[str]:
        """Flags that would make the run shorter, each with the time that it then takes.

        Args:
            cost ([`RunCost`]): of the run.
        """
        run, args, on_features = self.plan.run, self.plan.args, self.plan.on_features
        ways: dict[str, RunCost] = {}
        trained = not (self.trainer.frozen_backbone or run.lora_rank or args.trainable_convolutions)
        if trained and is_pretrained(run, self.plan.backbone):
            # What stays is one forward pass over the images, and reading them.
            features = len(self.images["train"]) * self.scoring_seconds
            ways["--freeze_backbone true"] = replace(cost, training=0.0, features=features)
        smaller = self.size * 2 // 3 // 32 * 32
        if smaller >= 64 and (ratio := self._size_ratio(smaller)):
            training = cost.training * (1 if on_features else ratio)
            ways[f"--image_size {smaller}"] = replace(cost, training=training, features=cost.features * ratio)
        name = "max_steps" if args.max_steps > 0 else "num_train_epochs"
        length = getattr(args, name)
        fewer = length // 4 if length >= 4 else length / 2
        if fewer >= 1 or name == "num_train_epochs":
            part = fewer / length
            ways[f"--{name} {fewer:g}"] = replace(cost, training=cost.training * part, folds=cost.folds * part)
        ways["--cross_validation none"] = replace(cost, folds=0.0)
        shorter = {flag: way for flag, way in ways.items() if way.changeable < 0.9 * cost.changeable}
        return [f"{flag}: about {duration(way.seconds)}" for flag, way in shorter.items()]

    @cached_property
    def image_seconds(self) -> float:
        """Of reading and scoring an image during training."""
        return self._reading_seconds + self._forward_seconds(self.size, self.plan.args.resolved_precision)

    @cached_property
    def scoring_seconds(self) -> float:
        """Of reading and scoring an image at the end: in full precision, as many at a time as will be."""
        args = self.plan.args
        seconds = self._forward_seconds(self.size, "fp32")
        batch = min(args.per_device_eval_batch_size, max(map(len, self.images.values())))
        if args.device.type == "cpu" and batch * seconds <= _LONG_STEP / 2:
            seconds = self._forward_seconds(self.size, "fp32", batch)
        return self._reading_seconds + seconds

    @cached_property
    def _reading_seconds(self) -> float:
        images = next(self.images[role] for role in ("validation", "test", "train") if role in self.images)
        count, seconds = min(_SAMPLE, len(images)), []
        for _ in range(2):  # the first one prepares
            start = time.monotonic()
            self.plan.processor([images[i] for i in range(count)], return_tensors="pt")
            seconds.append(time.monotonic() - start)
        return min(seconds) / count / (1 if images.decoded is not None else available_cores())

    def _forward_seconds(self, size: int, precision: str, batch: int = _SAMPLE) -> float:
        return _forward_seconds(self.trainer.model, batch, size, precision)

    def _size_ratio(self, size: int) -> float | None:
        """The time of smaller images as a share; `None` where the backbone is built for one size."""
        precision = self.plan.args.resolved_precision
        try:
            return self._forward_seconds(size, precision) / self._forward_seconds(self.size, precision)
        except (AssertionError, RuntimeError, ValueError):
            return None


def _forward_seconds(model: torch.nn.Module, batch: int, size: int, precision: str) -> float:
    """Seconds an image of a batch through a model in evaluation: the least of a few, as others may use the cores."""
    training, device = model.training, next(model.parameters()).device
    pixels = torch.zeros(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    model.eval()
    seconds: list[float] = []
    try:
        with torch.no_grad(), torch.autocast(device.type, dtype, enabled=precision != "fp32"):
            # The first one prepares.
            while len(seconds) < 2 or (len(seconds) < 5 and sum(seconds) < 1):
                start = time.monotonic()
                model(pixels)
                if device.type != "cpu":
                    torch.accelerator.synchronize()
                seconds.append(time.monotonic() - start)
    finally:
        model.train(training)
    return min(seconds) / batch


def announce_cost(plan: RunPlan, data: RunData, trainer: PaCoTrainer) -> None:
    """Have the trainer say, after its first steps, what the run will cost.

    Args:
        plan (`RunPlan`): of the run.
        data (`RunData`): its splits.
        trainer ([`PaCoTrainer`]): before it trains.
    """

    def announce(times: StepTimes) -> None:
        start, state = time.monotonic(), trainer.state
        memory = used_memory(plan.args.device.type)
        estimate = Estimate(plan, data, trainer, state.max_steps, trainer.updates_per_epoch, state.global_step)
        mean, whole = images_per_step(plan.args, len(data.images["train"]))
        lines = _lines(estimate, times.scaled(mean / whole), memory, trainer.resumed_step > 0)
        for line in lines if plan.args.process_index == 0 else ():
            trainer.lines.write(line)
        trainer.training_time.start += time.monotonic() - start  # that was no training

    trainer.add_callback(StepTimer(announce))


def rehearse(plan: RunPlan, data: RunData, parts: RunParts, done: int = 0) -> list[str]:
    """What a run would cost, from a few steps of it that leave nothing behind.

    Where a step would take long, those of fewer images are timed.

    Args:
        plan (`RunPlan`): of the run.
        data (`RunData`): its splits.
        parts (`RunParts`): its model, whose weights change, and training data; no features but a placeholder.
        done (`int`, *optional*, defaults to `0`): steps of the checkpoint that the run would resume from.

    Returns:
        lines for the user.

    Raises:
        ValueError: as the run.
    """
    args, count = plan.args, len(data.images["train"])
    batch = min(args.per_device_train_batch_size, max(count // args.world_size, 1))
    size = batch if plan.on_features else _images_to_time(plan, parts, batch)
    used = psutil.Process().memory_info().rss
    per_epoch = updates_per_epoch(args, count)
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)
    with TemporaryDirectory() as scratch:
        trainer, times, memory = _train_briefly(plan, data, parts, size, steps - done, scratch)
    if size < batch:  # on a CPU: an accelerator is never that slow
        fixed = used + _state_bytes(trainer)
        memory = max(memory, fixed + (memory - fixed) * batch / size)
    estimate = Estimate(plan, data, trainer, steps, per_epoch, done)
    times = times.scaled(images_per_step(args, count)[0] / size)
    features, folds = 0.0, 0.0
    if plan.on_features:
        features, folds = estimate.features(), estimate.folds(placeholder(plan, data, parts.model))
    elif plan.run.class_centers == "means" and not done:  # whose features come first
        features = count * estimate.scoring_seconds
    return _lines(estimate, times, memory, done > 0, features, folds)


def _images_to_time(plan: RunPlan, parts: RunParts, batch: int) -> int:
    """The run's batch, or as many images as make no step longer than [`_LONG_STEP`], but some."""
    size, model = int(plan.run.image_size or 0), parts.model.to(plan.args.device)
    # A step goes forward through each view, and backward, which is twice the work, through one.
    seconds = _forward_seconds(model, min(batch, _SAMPLE), size, plan.args.resolved_precision) * (2 + len(plan.views))
    [images] = broadcast_object_list([min(batch, max(int(_LONG_STEP / seconds), _FEWEST))])
    return int(images)


def _state_bytes(trainer: PaCoTrainer) -> int:
    """Gradients, and what the optimizer keeps."""
    tensors = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    for state in trainer.optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _train_briefly(
    plan: RunPlan, data: RunData, parts: RunParts, size: int, left: int, folder: str
) -> tuple[PaCoTrainer, StepTimes, float]:
    """A trainer after a few steps of `size` images, their times, and the bytes in use meanwhile. Of a run with fewer
    steps left, what the loss would become after these is its own affair."""
    results: list[tuple[StepTimes, float]] = []
    changes: dict[str, Any] = {"disable_tqdm": True, "report_to": [], "push_to_hub": False, "output_dir": folder}
    changes |= dict.fromkeys(("eval_strategy", "save_strategy", "logging_strategy"), "no")
    changes |= {"per_device_train_batch_size": size, "gradient_accumulation_steps": 1, "dataloader_drop_last": True}
    args = plan.args.changed(**changes, eval_on_start=False, max_steps=1000, torch_compile=False)  # the timer ends it
    trainer = build_trainer(replace(plan, args=args), data, parts, ())
    trainer.judged_steps = left
    timer = StepTimer(lambda times: results.append((times, used_memory(args.device.type))), stop=True)
    trainer.add_callback(timer)
    with one_thread() if plan.on_features else nullcontext():
        trainer.train()
    if trainer.eval_dataset is not None:  # some images, as the run's validation sees them
        trainer.predict(Subset(trainer.eval_dataset, range(min(len(trainer.eval_dataset), 2))))
    return trainer, *results[0]


def _lines(
    estimate: Estimate, times: StepTimes, memory: float, resumed: bool, features: float = 0.0, folds: float = 0.0
) -> list[str]:
    cost = replace(estimate.cost(times, memory, resumed), features=features, folds=folds)
    lines = [str(cost)]
    if cost.seconds > PATIENCE and estimate.plan.args.device.type == "cpu":
        lines += [f"to shorten it: {way}" for way in estimate.shorter(cost)]
    return lines
