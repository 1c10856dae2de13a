"""Times the first steps of a training, for an estimate of what the rest will take."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback

STEPS, FEWER_STEPS, SECONDS = 8, 2, 10.0  # timed steps: so many, or fewer where these take so many seconds
MOST = STEPS + 1  # steps after which it always knows enough; the first one is not counted


@dataclass(frozen=True)
class StepTimes:
    """What was timed.

    Args:
        step (`float`): seconds of an optimizer step, reading its images included.
        first (`float`): seconds by which the first step took longer.
        between (`float`, *optional*): seconds from an epoch's last step to the next one's first, with validation and
            checkpoint; `None` where no epoch has ended yet.
        steps (`int`): optimizer steps so far.
    """

    step: float
    first: float
    between: float | None
    steps: int


class StepTimer(TrainerCallback):
    """Times steps, and calls once when it knows enough: after a few, or where an epoch has fewer after that epoch.

    Args:
        report (callable): takes [`StepTimes`].
        stop (`bool`, *optional*, defaults to `False`): whether training is to end then.
    """

    def __init__(self, report: Callable[[StepTimes], None], stop: bool = False) -> None:
        self.report, self.stop = report, stop
        self.intervals: list[float] = []
        self.last: float | None = None
        self.done = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start with the first step; the later ones count from the end of the one before.

        Args:
            args, state, control, kwargs: as in [`transformers.TrainerCallback`].
        """
        if self.last is None:
            self.last = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the time of a step.

        Args:
            args, state, control, kwargs: as in [`transformers.TrainerCallback`].
        """
        if self.done or self.last is None:
            return
        if args.device.type != "cpu":
            torch.accelerator.synchronize()
        now = time.monotonic()
        self.intervals.append(now - self.last)
        self.last = now
        timed = self.intervals[1:]
        few = len(timed) >= FEWER_STEPS and sum(timed) >= SECONDS
        if self.stop and args.world_size > 1:  # all processes must end with the same step
            few = len(timed) == FEWER_STEPS
        if few or len(timed) >= STEPS:
            self._finish(control, None)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Where an epoch has passed before that, it tells what a whole one takes.

        Args:
            args, state, control, kwargs: as in [`transformers.TrainerCallback`].
        """
        if not self.done and not self.stop and self.last is not None:
            now = time.monotonic()
            self._finish(control, now - self.last)
            self.last = now

    def _finish(self, control: Any, between: float | None) -> None:
        self.done = True
        timed = self.intervals[1:] or self.intervals
        step = sum(timed) / len(timed)
        self.report(StepTimes(step, self.intervals[0] - step, between, len(self.intervals)))
        if self.stop:
            control.should_training_stop = True
