"""Measures that inputs and settings are chosen by, on images that were held out."""

from typing import Any

import numpy as np
import torch

from .image_scores import row_blocks
from .priors import log_frequencies
from .temperature import fit_temperature

IMAGES, CLASSES = 400, 100  # of a small sample, about and at most
SHARPNESS = (5, 7, 10, 14, 20, 28, 40)  # what cosines are multiplied by
# Distance of features of length 1 up to which two images are the same: rounding leaves 1e-6, another JPEG of it 1e-2.
SAME, NEIGHBORS = 1e-4, 16
_BLOCK = 20_000_000  # cosines at a time


def balanced_log_loss(logits: np.ndarray, labels: Any, logit_counts: Any = None) -> float:
    """Log loss in nats, each class counting alike, at the temperature that is best for it.

    Args:
        logits (`(N, C)`): of images that were not trained on.
        labels (`(N,)`): their classes, two at least.
        logit_counts (`(C,)`, *optional*): what the logits are for, as for [`fit_temperature`].
    """
    true, temperature = np.asarray(labels), fit_temperature(logits, labels, logit_counts, balanced=True)
    parts = []
    for rows in row_blocks(logits):
        scores = logits[rows] / temperature
        if logit_counts is not None:
            scores -= log_frequencies(logit_counts)
        highest = scores.max(axis=1)
        right = np.take_along_axis(scores, true[rows, None], axis=1)[:, 0]
        parts.append(highest + np.log(np.exp(scores - highest[:, None]).sum(axis=1)) - right)
    losses, counts = np.concatenate(parts), np.bincount(true)
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
        raise ValueError("cross-validation needs a class with two or more images, and each has one: add images")
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
    # Its own part in the mean, and that of its copies, would have each image find its class.
    copies = same_images(features, labels)
    group_sums = np.zeros_like(unit)
    np.add.at(group_sums, copies, unit)
    cosines[rows, index] = (unit * _scaled(sums[index] - group_sums[copies])).sum(1)
    losses = [np.log(np.exp(s * (cosines - cosines[rows, index, None])).sum(1)) for s in SHARPNESS]
    return min(losses, key=lambda one: class_mean(one, labels)[0])


def same_images(features: np.ndarray, labels: Any = None) -> np.ndarray:
    """Which images are exact copies of one another, by their features.

    Args:
        features (`(N, F)`): of the images, by one network.
        labels (`(N,)`, *optional*): classes; images of different ones then are no copies.

    Returns:
        `(N,)`: of each image the row of one that stands for it and for all its copies.
    """
    unit, copies = _scaled(features.astype(np.float32)), np.arange(len(features))
    classes = np.zeros(len(unit)) if labels is None else np.asarray(labels)
    # Images that are the same lie beside one another in any direction.
    values = unit @ np.random.default_rng(0).standard_normal(unit.shape[1], dtype=np.float32)
    order = np.lexsort((values, classes))
    pairs = []
    for distance in range(1, min(NEIGHBORS, len(unit) - 1) + 1):
        one, other = order[:-distance], order[distance:]
        near = np.flatnonzero((values[other] - values[one] < SAME) & (classes[one] == classes[other]))
        gaps = [
            np.linalg.norm(unit[one[some]] - unit[other[some]], axis=1)
            for some in np.split(near, range(8192, len(near), 8192))
        ]
        pairs += [(place + distance, place) for place in near[np.concatenate(gaps) < SAME].tolist()]
    for later, earlier in sorted(pairs):
        copies[order[later]] = copies[order[earlier]]
    return copies


def most_alike(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The image that each image is most like.

    Args:
        features (`(N, F)`): of images.
        others (`(M, F)`): of the images to choose among.

    Returns:
        `(N,)`: rows of `others`, by the cosine after the mean of each is taken off, which all images share.
    """
    unit = (_scaled(part.astype(np.float32)) for part in (features, others))
    one, other = (torch.from_numpy(_scaled(part - part.mean(0))) for part in unit)
    # Many thousands of both are a matrix that no memory holds.
    rows = max(_BLOCK // len(other), 1)
    return torch.cat([(part @ other.T).argmax(1) for part in one.split(rows)]).numpy()


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
