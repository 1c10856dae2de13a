"""Times the first steps of a training, for an estimate of what the rest will take."""

import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import mean, median
from typing import Any

import torch
from transformers import TrainerCallback

from ..arguments.training_args import PaCoTrainingArguments

# Timed steps: so many, and more until they have taken some seconds; or fewer once they have taken many.
STEPS, FEWER_STEPS, LEAST_SECONDS, SECONDS = 8, 2, 2.0, 10.0


@dataclass(frozen=True)
class StepTimes:
    """What was timed, in seconds.

    Args:
        step (`float`): an optimizer step, reading its images included.
        update (`float`): what of it does not depend on the number of images: the optimizer and the key encoder.
        epoch_start (`float`): by which the first step of a later epoch took longer.
        validation, saving (`float`, *optional*): one of each; `None` where there was none.
    """

    step: float
    update: float = 0.0
    epoch_start: float = 0.0
    validation: float | None = None
    saving: float | None = None

    def scaled(self, images: float) -> "StepTimes":
        """Those of steps with `images` times as many images."""
        return replace(self, step=self.update + images * (self.step - self.update))


class StepTimer(TrainerCallback):
    """Times steps, and calls once when it knows enough. The first step, which prepares much, does not count; nor do,
    where there are enough, those whose images the workers of a data loader had ready by then.

    Args:
        report (callable): takes [`StepTimes`].
        stop (`bool`, *optional*, defaults to `False`): whether training is to end then.
    """

    def __init__(self, report: Callable[[StepTimes], None], stop: bool = False) -> None:
        self.report, self.stop = report, stop
        self.steps: list[float] = []
        self.parts: dict[str, list[float]] = defaultdict(list)
        self.last: float | None = None
        self.done = self.epoch_starts = False
        self.start = self.update_start = 0.0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note that the next step starts an epoch.

        Args:
            args, state, control, kwargs: as in [`transformers.TrainerCallback`].
        """
        self.epoch_starts = True

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start with the first step; the later ones count from the end of what was before.

        Args:
            args, state, control, kwargs: as in [`transformers.TrainerCallback`].
        """
        if self.last is None:
            self.last = time.monotonic()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note when the gradients are there.

        Args:
            args, state, control, kwargs: as in [`transformers.TrainerCallback`].
        """
        self.update_start = self._now(args)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the time of a step; report after enough of them.

        Args:
            args, state, control, kwargs: as in [`transformers.TrainerCallback`].
        """
        if self.done or self.last is None:
            return
        now, first = self._now(args), not self.start
        if first:
            self.start = now
        else:
            self.parts["update"].append(now - self.update_start)
            (self.parts["epoch_start"] if self.epoch_starts else self.steps).append(now - self.last)
        self.last, self.epoch_starts = now, False
        count = len(self.parts["update"])
        ready = (args.dataloader_prefetch_factor or 2) * args.dataloader_num_workers
        seconds = now - self.start
        enough = count >= ready + STEPS and seconds >= LEAST_SECONDS
        # Of a short training it should not be the last ones.
        enough |= count >= max(state.max_steps // 3, FEWER_STEPS)
        enough |= count >= FEWER_STEPS and seconds >= SECONDS
        if self.stop and args.world_size > 1:  # all processes must end with the same step
            enough = count == FEWER_STEPS
        if enough:
            self.done = True
            self.report(self._times(ready))
            if self.stop:
                control.should_training_stop = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the time of a validation.

        Args:
            args, state, control, kwargs: as in [`transformers.TrainerCallback`].
        """
        self._take("validation", args)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the time of a checkpoint.

        Args:
            args, state, control, kwargs: as in [`transformers.TrainerCallback`].
        """
        self._take("saving", args)

    def _take(self, part: str, args: Any) -> None:
        if self.last is not None:  # before the first step nothing is timed
            now = self._now(args)
            self.parts[part].append(now - self.last)
            self.last = now

    def _now(self, args: Any) -> float:
        if not self.done and args.device.type != "cpu":
            torch.accelerator.synchronize()
        return time.monotonic()

    def _times(self, ready: int) -> StepTimes:
        # Where an epoch has one step, that is what a step is.
        step = median(self.steps[ready:] or self.steps or self.parts["epoch_start"])
        starts, validation, saving = (self.parts[part] for part in ("epoch_start", "validation", "saving"))
        return StepTimes(
            step,
            update=min(median(self.parts["update"]), step),
            epoch_start=max(mean(starts) - step, 0) if self.steps and starts else 0.0,
            validation=mean(validation) if validation else None,
            saving=mean(saving) if saving else None,
        )


def updates_per_epoch(args: PaCoTrainingArguments, images: int) -> int:
    """Optimizer steps of an epoch, as transformers counts them.

    Args:
        args (`PaCoTrainingArguments`): with batch, processes and accumulation.
        images (`int`): to train on.
    """
    batches = images / (args.per_device_train_batch_size * args.world_size)
    whole = math.floor(batches) if args.dataloader_drop_last else math.ceil(batches)
    return max(math.ceil(whole / args.gradient_accumulation_steps), 1)


def images_per_step(args: PaCoTrainingArguments, images: int) -> tuple[float, float]:
    """Images of an optimizer step in a process: in the mean, and of a whole one. The last step of an epoch has what is
    left of the batches that a step adds up.

    Args:
        args, images: as those of [`updates_per_epoch`].
    """
    batch = args.per_device_train_batch_size
    share = images / args.world_size
    epoch = share // batch * batch if args.dataloader_drop_last else share
    return epoch / updates_per_epoch(args, images), min(epoch, batch * args.gradient_accumulation_steps)
