"""The reference's learning rates, as factors of the base rate by epoch (counted from 0)."""

import math


def cosine(epoch: int, epochs: int, warmup: int) -> float:
    """Linear warm-up over `warmup` epochs, then half a cosine. The last epoch's rate is small but not 0."""
    if epoch < warmup:
        return (epoch + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (epoch - warmup + 1) / (epochs - warmup + 1)))


def cifar_step(epoch: int, epochs: int, warmup: int) -> float:
    """Linear warm-up, then two steps of 0.1 after 80% and 90% of the epochs (320 and 360 of the papers' 400).

    As in the reference the warm-up runs one epoch too far: epoch `warmup` has `(warmup + 1) / warmup` of the rate.
    """
    if epoch <= warmup:
        return (epoch + 1) / warmup if warmup else 1.0
    return 1.0 if epoch <= 0.8 * epochs else 0.1 if epoch <= 0.9 * epochs else 0.01


EPOCH_SCHEDULES = {"cosine": cosine, "cifar_step": cifar_step}
