"""Measures that inputs and settings are chosen by, on images that were held out."""

from typing import Any

import numpy as np

from .priors import log_frequencies
from .temperature import fit_temperature

IMAGES, CLASSES = 400, 100  # of a small sample, about and at most
SHARPNESS = (5, 7, 10, 14, 20, 28, 40)  # what cosines are multiplied by


def balanced_log_loss(logits: np.ndarray, labels: Any, logit_counts: Any = None) -> float:
    """Log loss in nats at the best temperature, each class counting alike.

    Args:
        logits (`(N, C)`): of images that were not trained on.
        labels (`(N,)`): their classes, two at least.
        logit_counts (`(C,)`, *optional*): what the logits are for, as for [`fit_temperature`].
    """
    true, scores = np.asarray(labels), logits / fit_temperature(logits, labels, logit_counts)
    if logit_counts is not None:
        scores = scores - log_frequencies(logit_counts)
    highest = scores.max(axis=1)
    losses = highest + np.log(np.exp(scores - highest[:, None]).sum(axis=1)) - scores[np.arange(len(true)), true]
    counts = np.bincount(true)
    return float((np.bincount(true, losses)[counts > 0] / counts[counts > 0]).mean())


def small_sample(labels: Any, seed: int = 0) -> np.ndarray:
    """Rows of about [`IMAGES`] images, as many of each class as there are, of at most [`CLASSES`] classes with two.

    Args:
        labels (`(N,)`): class of each image.
        seed (`int`, *optional*, defaults to `0`): of the draw.

    Returns:
        `(M,)`, ascending.

    Raises:
        ValueError: no class has two images.
    """
    array, generator = np.asarray(labels), np.random.default_rng(seed)
    classes = np.flatnonzero(np.bincount(array) > 1)
    if not len(classes):
        raise ValueError("cross-validation needs a class with two images or more, and each has one")
    classes = generator.permutation(classes)[:CLASSES]
    most = max(-(-IMAGES // len(classes)), 2)
    return np.sort(np.concatenate([generator.permutation(np.flatnonzero(array == c))[:most] for c in classes]))


def leave_one_out(features: np.ndarray, labels: Any) -> np.ndarray:
    """Log losses of images by the nearest class mean, each told by the means of the others.

    Logits are cosines, times the one of [`SHARPNESS`] whose mean over classes is the least. Losses tell two inputs
    apart with a third of the images that it takes to count errors.

    Args:
        features (`(N, F)`): of the images.
        labels (`(N,)`): classes, of two images at least.

    Returns:
        `(N,)`, in nats.
    """
    classes, index = np.unique(labels, return_inverse=True)
    unit = _scaled(features.astype(np.float64))
    sums = np.zeros((len(classes), features.shape[1]))
    np.add.at(sums, index, unit)
    cosines = unit @ _scaled(sums).T
    rows = np.arange(len(unit))
    # Its own part in the mean would have each image find its class.
    cosines[rows, index] = (unit * _scaled(sums[index] - unit)).sum(1)
    losses = [np.log(np.exp(s * (cosines - cosines[rows, index, None])).sum(1)) for s in SHARPNESS]
    return min(losses, key=lambda one: class_mean(one, labels)[0])


def class_mean(values: np.ndarray, labels: Any) -> tuple[float, float]:
    """Mean over images, each class counting alike, and its standard error.

    Args:
        values (`(N,)`): of the images; of two ways the differences.
        labels (`(N,)`): their classes.
    """
    classes, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weights = 1 / counts[index] / len(classes)
    mean = float((weights * values).sum())
    return mean, float(np.sqrt((weights**2 * (values - mean) ** 2).sum()))


def _scaled(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
