"""Schedules of learning rates; the reference's are factors of the base rate by epoch (counted from 0)."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from transformers import get_scheduler

from ..arguments.method_arguments import FOLLOW_SCORES

if TYPE_CHECKING:
    from ..arguments.training_args import PaCoTrainingArguments


def cosine(epoch: int, epochs: int, warmup: int) -> float:
    """Linear warm-up, then half a cosine. The last epoch's rate is small but not 0.

    Args:
        epoch (`int`): counted from 0.
        epochs (`int`): of the whole training.
        warmup (`int`): epochs of the warm-up.

    Returns:
        the factor of the base rate.
    """
    if epoch < warmup:
        return (epoch + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (epoch - warmup + 1) / (epochs - warmup + 1)))


def cifar_step(epoch: int, epochs: int, warmup: int) -> float:
    """Linear warm-up, then two steps of 0.1 after 80% and 90% of the epochs (320 and 360 of the papers' 400).

    As in the reference the warm-up runs one epoch too far: epoch `warmup` has `(warmup + 1) / warmup` of the rate.

    Args:
        epoch, epochs, warmup (`int`): as of [`cosine`].

    Returns:
        the factor of the base rate.
    """
    if epoch <= warmup:
        return (epoch + 1) / warmup if warmup else 1.0
    return 1.0 if epoch <= 0.8 * epochs else 0.1 if epoch <= 0.9 * epochs else 0.01


def mae(epoch: float, epochs: float, warmup: float, least: float = 0.0) -> float:
    """MAE's fine-tuning schedule at a fractional epoch: linear warm-up from 0, then half a cosine.

    Args:
        epoch, epochs, warmup (`float`): as of [`cosine`], the first with its fraction.
        least (`float`, *optional*, defaults to `0.0`): the factor at the end.

    Returns:
        the factor of the base rate.
    """
    if epoch < warmup:
        return epoch / warmup
    if epochs <= warmup:
        return 1.0
    return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))


EPOCH_SCHEDULES = {"cosine": cosine, "cifar_step": cifar_step}


def step_factor(args: "PaCoTrainingArguments", steps: int, updates_per_epoch: int) -> Callable[[int], float]:
    """What the rate of an optimizer step is multiplied with, under `args.epoch_schedule`.

    Args:
        args (`PaCoTrainingArguments`): the schedule's name, its warm-up, and (mae) its least rate.
        steps (`int`): optimizer steps of the whole training.
        updates_per_epoch (`int`): optimizer steps of an epoch.

    Returns:
        a function of the step, counted from 0.
    """
    warmup = args.warmup_epochs
    if args.epoch_schedule == "mae":
        least = args.min_learning_rate / args.learning_rate if args.learning_rate else 0.0
        return lambda step: mae(step / updates_per_epoch, steps / updates_per_epoch, warmup, least)
    factor, epochs = EPOCH_SCHEDULES[args.epoch_schedule], math.ceil(steps / updates_per_epoch)
    return lambda step: factor(step // updates_per_epoch, epochs, warmup)


def rate_schedule(
    args: "PaCoTrainingArguments", optimizer: torch.optim.Optimizer, steps: int, updates_per_epoch: int
) -> Any:
    """The schedule of a training.

    Args:
        args (`PaCoTrainingArguments`): `epoch_schedule`; where it is `none` transformers' `lr_scheduler_type`.
        optimizer (`torch.optim.Optimizer`): whose rates follow it.
        steps (`int`): optimizer steps of the whole training.
        updates_per_epoch (`int`): optimizer steps of an epoch.
    """
    if args.epoch_schedule != "none":
        return torch.optim.lr_scheduler.LambdaLR(optimizer, step_factor(args, steps, updates_per_epoch))
    settings = args.lr_scheduler_kwargs
    if args.lr_scheduler_type in FOLLOW_SCORES:
        # They would take a score that rises for one that gets worse.
        settings = {"mode": "max" if args.greater_is_better else "min", **(settings or {})}
    return get_scheduler(
        args.lr_scheduler_type, optimizer, args.get_warmup_steps(steps), steps, scheduler_specific_kwargs=settings
    )
