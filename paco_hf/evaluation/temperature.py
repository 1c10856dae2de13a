"""Probabilities that can be trusted where a model is used: its temperature, and the class frequencies there."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .priors import log_frequencies

TEMPERATURE_RANGE = (0.02, 50.0)  # beyond, logits say nothing or everything
FEW_IMAGES = 100  # to fit a temperature on
SAMPLED = 50_000_000  # logits, above which a sample is searched
_CLOSE, _STEPS = 0.01, 5  # of the scale; where a sample says nothing of all images
_BLOCK = 1_000_000  # logits at a time


def fit_temperature(logits: Any, labels: Any, logit_counts: Any = None, *, balanced: bool = False) -> float:
    """Temperature scaling (Guo et al., ICML 2017) on a labeled split of any class frequencies.

    The labels' likelihood is that of `softmax(logits / T + log(frequencies of the labels))`: balanced logits are for a
    world where classes are equally frequent, the split mostly is not. Of logits that are for other frequencies the log
    of these is taken off.

    Of more than 50 million logits, those of [`representative_rows`] are searched, and a Newton step over all images
    follows, which squares what the sample is off by, and where that was more than 1% another: `T` is off by less than
    a thousandth.

    Args:
        logits (`(N, C)`): of images that were not trained on.
        labels (`(N,)`): their classes.
        logit_counts (`(C,)`, *optional*): what the logits are for (`PaCoConfig.logit_counts`); `None`: balanced.
        balanced (`bool`, *optional*, defaults to `False`): fit it to a world where classes are equally frequent, each
            class of the split counting alike.

    Returns:
        `T`, within 0.02 and 50.

    Raises:
        ValueError: fewer than two classes among the labels, which say nothing about a temperature.
    """
    scores, true = torch.as_tensor(np.asarray(logits)), torch.as_tensor(np.asarray(labels), dtype=torch.long)
    frequencies = torch.bincount(true, minlength=scores.shape[1]).double()
    # Classes that the split does not have cannot be its labels.
    present = frequencies.nonzero()[:, 0]
    if len(present) < 2:
        raise ValueError(
            f"a temperature needs images of at least two classes, got {len(true)} images of {len(present)}: use a "
            "larger validation split"
        )
    prior = torch.zeros(len(present)) if balanced else (frequencies[present] / frequencies.sum()).log()
    weights = 1 / frequencies[true] if balanced else torch.ones(len(true), dtype=torch.float64)
    if logit_counts is not None:
        prior = prior - torch.as_tensor(log_frequencies(logit_counts))[present].double()
    rows = torch.from_numpy(representative_rows(true.numpy(), scores.shape[1]))
    # Of a class, those of the sample stand for all.
    share = frequencies / torch.bincount(true[rows], minlength=len(frequencies)).clamp(min=1)
    data, high, low = (scores, true, present, prior), *(1 / t for t in TEMPERATURE_RANGE)
    sample = rows, _normalized((weights * share[true])[rows])
    scale = _root(lambda scale: _slopes(*data, sample, scale), high, low)
    for _ in range(_STEPS if len(rows) < len(true) else 0):
        slope, curvature = _slopes(*data, (torch.arange(len(true)), _normalized(weights)), scale)
        before, scale = scale, min(max(scale - slope / curvature, low), high) if curvature > 0 else scale
        # A step leaves the square of what was missing, in shares of the scale.
        if abs(scale - before) <= _CLOSE * before:
            break
    return 1 / scale


def representative_rows(labels: np.ndarray, classes: int, logits: int = SAMPLED) -> np.ndarray:
    """Rows of images that stand for all: the same share of each class, one at least, evenly spaced over its images.

    Args:
        labels (`(N,)`): class of each image.
        classes (`int`): logits of an image.
        logits (`int`, *optional*, defaults to 50 million): of the sample, about.

    Returns:
        `(M,)`, ascending; all `N` where they have no more logits.
    """
    if len(labels) * classes <= logits:
        return np.arange(len(labels))
    counts = np.bincount(labels)
    kept = np.maximum(np.rint(counts * (logits / (len(labels) * classes))), 1).astype(np.int64)
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    place = np.arange(len(labels)) - (np.cumsum(counts) - counts)[ordered]
    steps, size = kept[ordered], counts[ordered]
    return np.sort(order[place * steps // size < (place + 1) * steps // size])


def match_temperature(logits: Any, probabilities: Any) -> float:
    """The temperature at which logits give probabilities nearest to those of another classifier.

    It needs no labels, so the images may be those that both were trained on: unlike a [`fit_temperature`] to their
    labels, it hands on how sure the other classifier is, not how well it knows these images.

    Args:
        logits (`(N, C)`): of images.
        probabilities (`(N, C)`): of the other classifier.

    Returns:
        `T`, within 0.02 and 50, of the least mean cross-entropy.
    """
    scores, wanted = (torch.as_tensor(np.asarray(values)) for values in (logits, probabilities))
    blocks = torch.arange(len(scores)).split(max(_BLOCK // scores.shape[1], 1))

    def slopes(scale: float) -> tuple[float, float]:
        first = second = 0.0
        for rows in blocks:
            block = scores[rows].double()
            nearest = torch.softmax(block * scale, dim=1)
            means = (nearest * block).sum(1)
            first += float((means - (wanted[rows].double() * block).sum(1)).sum())
            second += float((nearest * (block - means[:, None]) ** 2).sum())
        return first / len(scores), second / len(scores)

    return 1 / _root(slopes, *(1 / t for t in TEMPERATURE_RANGE))


def _normalized(weights: Tensor) -> Tensor:
    return weights / weights.sum()


def _slopes(
    scores: Tensor, true: Tensor, present: Tensor, prior: Tensor, images: tuple[Tensor, Tensor], scale: float
) -> tuple[float, float]:
    """First and second derivative of the log loss by the scale of the logits; a block at a time in 64 bits.

    `images`: rows, and what each counts for.
    """
    first = second = 0.0
    size = max(_BLOCK // len(present), 1)
    for rows, weights in zip(*(one.split(size) for one in images), strict=True):
        block = scores[rows].double()
        truths = block.gather(1, true[rows, None])[:, 0]
        if len(present) < block.shape[1]:
            block = block[:, present]
        probabilities = torch.softmax(block * scale + prior, dim=1)
        means = (probabilities * block).sum(1)
        first += float(weights @ (means - truths))
        second += float(weights @ (probabilities * (block - means[:, None]) ** 2).sum(1))
    return first, second


def _root(slopes: Callable[[float], tuple[float, float]], high: float, low: float) -> float:
    """Where the slope of a convex function is 0, by Newton's method within bounds; the bound where it is beyond."""
    if slopes(low)[0] >= 0:
        return low
    if slopes(high)[0] <= 0:
        return high
    point = 1.0
    for _ in range(100):
        slope, curvature = slopes(point)
        low, high = (low, point) if slope > 0 else (point, high)
        step = point - slope / curvature if curvature > 0 else low
        after = step if low < step < high else math.sqrt(low * high)
        if abs(after - point) <= 1e-9 * point:
            break
        point = after
    return after


def temperature_warning(temperature: float, images: int) -> str:
    """What makes a fitted temperature doubtful, for the user to read; empty where nothing does.

    Args:
        temperature (`float`): of [`fit_temperature`].
        images (`int`): that it was fitted on.
    """
    if temperature in TEMPERATURE_RANGE:
        return (
            "WARNING: that is the limit of the search: the logits contain almost no information about the "
            "classes of these images"
        )
    return f"WARNING: with fewer than {FEW_IMAGES} images it may be inaccurate" if images < FEW_IMAGES else ""
