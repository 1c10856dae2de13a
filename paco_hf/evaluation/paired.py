"""Differences of two sets of runs on the same test images, seed by seed and image by image."""

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from .intervals import bootstrap

LEVEL = 0.95


def seed_differences(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Mean difference of a score, with the interval of Student's t over the seeds: how far other seeds would differ.

    Args:
        ours (sequence of `float`): the score of each seed.
        theirs (sequence of `float`): that which it is compared to, of the same seeds.

    Returns:
        `mean`, `sd`, `low`, `high` and `values`; of one seed `None` in place of deviation and interval.
    """
    values = [one - other for one, other in zip(ours, theirs, strict=True)]
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "sd": None, "low": None, "high": None, "values": values}
    sd = statistics.stdev(values)
    half = student_quantile(LEVEL, len(values) - 1) * sd / len(values) ** 0.5
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half, "values": values}


def student_quantile(level: float, degrees: int) -> float:
    """The number that Student's t lies within, on either side of zero, with a probability."""
    # With t = sqrt(degrees) tan(angle) the density of the angle is a power of its cosine.
    angles = np.linspace(0.0, np.pi / 2, 100_001)
    density = np.cos(angles) ** (degrees - 1)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    angle = np.interp(level, below / below[-1], angles)
    return float(degrees**0.5 * np.tan(angle))


def image_differences(ours: np.ndarray, theirs: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Bootstrap intervals over the test images of the mean differences over seeds: how far another test set of this
    kind would differ.

    Args:
        ours (`(S, N)`): class ids that the runs of each seed predict.
        theirs (`(S, N)`): likewise of what they are compared to.
        labels (`(N,)`): class ids.

    Returns:
        `value`, `low` and `high` of `accuracy` and `balanced_accuracy`.
    """
    difference = (ours == labels).mean(axis=0) - (theirs == labels).mean(axis=0)
    classes = int(labels.max()) + 1

    def means(rows: np.ndarray) -> dict[str, float | None]:
        drawn = labels[rows]
        counts = np.bincount(drawn, minlength=classes)
        sums = np.bincount(drawn, weights=difference[rows], minlength=classes)
        present = counts > 0
        by_class = sums[present] / counts[present]
        return {"accuracy": float(difference[rows].mean()), "balanced_accuracy": float(by_class.mean())}

    return bootstrap(means, len(labels), level=LEVEL)


def pairwise_agreement(predictions: np.ndarray) -> float | None:
    """The share of images to which two runs give the same class, on average over pairs of runs.

    Args:
        predictions (`(S, N)`): class ids, a row a run; of a single run the result is `None`.
    """
    pairs = [(i, j) for i in range(len(predictions)) for j in range(i)]
    return float(np.mean([(predictions[i] == predictions[j]).mean() for i, j in pairs])) if pairs else None
