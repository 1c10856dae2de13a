"""Measures that inputs and settings are chosen by, on images that were held out."""

from typing import Any

import numpy as np

from .priors import log_frequencies
from .temperature import fit_temperature

IMAGES, CLASSES = 400, 100  # of a small sample, about and at most


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
    """Whether each image is nearest, by cosine, to the mean of the others of its class.

    Args:
        features (`(N, F)`): of the images.
        labels (`(N,)`): classes, of two images at least.

    Returns:
        `(N,)` of `bool`.
    """
    classes, index = np.unique(labels, return_inverse=True)
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    unit = unit.astype(np.float64)
    sums = np.zeros((len(classes), features.shape[1]))
    np.add.at(sums, index, unit)
    cosines = unit @ _scaled(sums).T
    # Its own part in the mean would have each image find its class.
    cosines[np.arange(len(unit)), index] = (unit * _scaled(sums[index] - unit)).sum(1)
    return np.asarray(cosines.argmax(1) == index)


def paired_error(ours: np.ndarray, theirs: np.ndarray, labels: Any) -> tuple[float, float]:
    """How much more of the images one way gets right, balanced over classes, and the standard error of that.

    Args:
        ours, theirs (`(N,)` of `bool`): which images each gets right.
        labels (`(N,)`): their classes.
    """
    classes, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weights = 1 / counts[index] / len(classes)
    difference = ours.astype(float) - theirs
    mean = float((weights * difference).sum())
    return mean, float(np.sqrt((weights**2 * (difference - mean) ** 2).sum()))


def _scaled(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
