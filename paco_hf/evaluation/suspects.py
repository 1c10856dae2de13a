"""Labels that are probably wrong, from the probabilities of a model that was not trained on them, or from features."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..metrics import unit_rows
from .predictions import Predictions
from .priors import log_frequencies
from .selection import same_images

# Of class means on features: how steeply an image's weight falls where its label is the less likely one, how often the
# means are taken anew, and the pairs of images that a class's spread is taken to be known by beforehand.
STEEPNESS, ROUNDS, PAIRS = 40.0, 2, 6
# Cosine of centered features from which on two images are near-duplicates: another JPEG, a mirror image or a slightly
# other crop of a photo has 0.9 and more, photos of different objects 0.7 at most.
NEAR, NEARER = 0.9, 3.0  # and at least so many times as near as images are to the nearest ones otherwise
# Two classes are probably one where their images are told apart no better: area under the ROC curve, 0.5 is by chance.
SAME_CLASS, LEAST, DISTINCT = 0.75, 5, 0.9
LIKELIER = 10.0  # times as probable as the label the other class must be
_BLOCK = 20_000_000  # cosines, or probabilities, at a time
_SAMPLE = 20_000  # images that a scale is fitted on
_BINS, _TINY = 5001, 1e-300


@dataclass
class Suspect:
    """An image whose label may be wrong.

    Args:
        row (`int`): its place in the split.
        suggested (`int`): the class that it is more likely of.
        probability (`float`): of that class, 0 to 1.
        reason (`str`): in words.
        duplicate (`int`, *optional*): the place of a near-duplicate with another label.
    """

    row: int
    suggested: int
    probability: float
    reason: str
    duplicate: int | None = None


def class_mean_logits(features: np.ndarray, labels: Any, classes: int) -> np.ndarray:
    """Logits of images by the means of the classes, each image judged by a mean without it and its copies.

    Features are centered on the mean over classes. An image counts the less in the mean of its class the more another
    class suits it, so that wrong labels do not draw the means to themselves. The mean of a few images is longer than
    that of many, from their spread alone; its length is corrected by it, as rare classes would be suspected
    otherwise.

    Args:
        features (`(N, F)`): of a network that was not trained on these labels.
        labels (`(N,)`): class ids.
        classes (`int`): `C`.

    Returns:
        `(N, C)`; of an image that is alone in its class the lowest of its row for the label.
    """
    label = np.asarray(labels)
    unit = unit_rows(features)
    order = np.argsort(label, kind="stable")
    means = np.stack([unit[rows].mean(0) for rows in np.split(order, np.flatnonzero(np.diff(label[order])) + 1)])
    unit = unit_rows(unit - means.mean(0))
    copies, rows, weight = same_images(unit, label), np.arange(len(label)), np.ones(len(label), dtype=np.float32)
    for _ in range(ROUNDS + 1):
        cosines = _cosines(unit, label, classes, copies, weight)
        margin = cosines[rows, label] - _highest_other(cosines, label)
        weight = (1 / (1 + np.exp(np.clip(-STEEPNESS * margin, -50, 50)))).astype(np.float32)
    return cosines


def _cosines(unit: np.ndarray, label: np.ndarray, classes: int, copies: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Cosines `(N, C)` with the weighted means of classes, those of the labels without the image and its copies."""
    weighted, rows = unit * weight[:, None], np.arange(len(label))
    sums, group_sums = (np.zeros((size, unit.shape[1]), dtype=np.float32) for size in (classes, len(label)))
    np.add.at(sums, label, weighted)
    np.add.at(group_sums, copies, weighted)
    totals = [np.bincount(label, weight**power, classes) for power in (1, 2)]
    groups = [np.bincount(copies, weight**power, len(label))[copies] for power in (1, 2)]
    spread = _pairs((sums**2).sum(1), *totals)
    typical = float(max(spread[0].sum() / max(spread[1].sum(), 1e-9), 1e-6))
    cosines = unit @ sums.T / _lengths(*spread, totals[0], typical)
    others = sums[label] - group_sums[copies]
    left = [total[label] - group for total, group in zip(totals, groups, strict=True)]
    lengths = _lengths(*_pairs((others**2).sum(1), *left), left[0], typical)
    cosines[rows, label] = (unit * others).sum(1) / lengths
    alone = left[0] < 1e-6
    cosines[rows[alone], label[alone]] = cosines[alone].min(1)
    return np.asarray(cosines, dtype=np.float32)


def _pairs(squared: np.ndarray, weight: np.ndarray, weight_squared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the cosines of all pairs of different images, and of the weights of these pairs."""
    return squared - weight_squared, weight**2 - weight_squared


def _lengths(cosines: np.ndarray, pairs: np.ndarray, weight: np.ndarray, typical: float) -> np.ndarray:
    """The length that a sum of images has without what their spread adds to it: by the mean cosine of two images of a
    class, of few images drawn to the one that is typical."""
    mean = (cosines + PAIRS * typical) / (pairs + PAIRS)
    return np.asarray(np.sqrt(np.maximum(mean, typical / 4)) * np.maximum(weight, 1e-9))


def find_suspects(predictions: Predictions, logit_counts: Any = None) -> tuple[list[Suspect], np.ndarray]:
    """Labels that are probably wrong, by confident learning (Northcutt et al., JAIR 2021), and no more than there are.

    An image is confidently of a class where its probability is at least the mean probability of the images with that
    label. Where that is another class than its label, and it is ten times as probable, the label is suspect. The
    threshold of each class is its own, so a class that is hard to tell is not suspected as a whole. Where classes
    overlap, many right labels are improbable: so the worst labels are suspect as long as they are twice as many as
    there would be if labels were drawn from the probabilities.

    Args:
        predictions ([`Predictions`]): of a model that was not trained on these labels.
        logit_counts (`(C,)`, *optional*): the class frequencies that the model's logits are for; probabilities are
            divided by them, so that rare classes are not suspected for being rare. `None`: equal ones.

    Returns:
        the suspects, worst first; and the odds `(N,)` that they are sorted by, logarithms of the probability of the
        label by that of the most probable other class.
    """
    label, top = predictions.label, predictions.top_classes
    count = np.bincount(label, minlength=len(predictions.class_names))
    listed, right = _among(predictions, count > 0, logit_counts)
    # Of a class of a single image nothing tells the threshold.
    threshold = np.where(count > 1, np.bincount(label, right, len(count)) / np.maximum(count, 1), np.inf)
    expected = _expected(listed)
    others = np.where(top == label[:, None], 0, listed)
    odds = np.log(np.maximum(right, _TINY)) - np.log(np.maximum(others.max(axis=1), _TINY))
    order = np.argsort(odds, kind="stable")
    chance = expected[_bins(odds[order])] / np.arange(1, len(order) + 1)
    more = np.flatnonzero((chance <= 0.5) & (odds[order] < 0))
    worst = order[: more[-1] + 1] if len(more) else order[:0]
    confident = np.where(others >= threshold[top], others, 0)
    highest, place = confident.max(axis=1), confident.argmax(axis=1)
    suspected = (highest >= LIKELIER * right) & (highest > 0) & (count[label] > 1)
    return [
        Suspect(row, int(top[row, place[row]]), float(highest[row]), "another class is more probable")
        for row in worst[suspected[worst]].tolist()
    ], odds


def _among(predictions: Predictions, present: np.ndarray, logit_counts: Any) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the most probable classes and of the label, among the classes that there are labels of, and as
    if these were equally frequent."""
    label, top = predictions.label, predictions.top_classes
    weight = present.astype(np.float64)
    if logit_counts is not None:
        weight *= np.exp(-log_frequencies(logit_counts).astype(np.float64))
    listed, right = predictions.top_probabilities * weight[top], predictions.label_probability * weight[label]
    # What is left for classes that are not listed stays with them.
    left = np.maximum(1 - predictions.top_probabilities.astype(np.float64).sum(axis=1), 0) * weight.mean()
    total = np.where(top == label[:, None], 0, listed).sum(axis=1) + right + left
    return listed / total[:, None], right / total


def label_scale(logits: np.ndarray, labels: Any) -> float:
    """What logits are multiplied by to be those of the probabilities that the labels were drawn from.

    It makes the labels likeliest, together with the share of them that is wrong, which are drawn from all classes
    alike. Without these in it the scale would be that of a model that is unsure of all images.

    Args:
        logits (`(N, C)`): for equally frequent classes, of a model that was not trained on these labels.
        labels (`(N,)`): class ids.
    """
    label = np.asarray(labels)
    rows = np.linspace(0, len(label) - 1, min(len(label), _SAMPLE)).astype(int)
    sample, true = logits[rows].astype(np.float64), label[rows]

    def likelihood(scale: float) -> float:
        right, noise = np.exp(-_log_losses(scale * sample, true)), 0.05
        for _ in range(50):
            wrong = noise / sample.shape[1]
            noise = float((wrong / ((1 - noise) * right + wrong)).mean())
        return float(np.log((1 - noise) * right + noise / sample.shape[1]).mean())

    spread = max(float((sample - sample.mean(1, keepdims=True)).std()), 1e-12)
    best = max(np.geomspace(0.1, 100, 25) / spread, key=likelihood)
    return float(max(best * np.geomspace(0.8, 1.25, 9), key=likelihood))


def _expected(listed: np.ndarray) -> np.ndarray:
    """How many images would have odds of at most so much, by bin, if labels were drawn from the probabilities `(N, K)`
    of the most probable classes; what is left for all others has the odds of the last one."""
    odds = np.log(np.maximum(listed, _TINY)) - np.log(np.maximum(listed.max(axis=1, keepdims=True), _TINY))
    total = np.bincount(_bins(odds).ravel(), listed.ravel(), _BINS)
    rest = np.maximum(1 - listed.sum(axis=1), 0)
    return np.cumsum(total + np.bincount(_bins(odds.min(axis=1)), rest, _BINS))


def _bins(odds: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip((odds + 50) / 50 * (_BINS - 1), 0, _BINS - 1).astype(int))


def near_duplicates(features: np.ndarray, labels: Any) -> list[tuple[int, int]]:
    """Pairs of images that are almost the same and have different labels, most alike first; an image is in one pair.

    Args:
        features (`(N, F)`): of the images.
        labels (`(N,)`): class ids.
    """
    unit, label = torch.from_numpy(unit_rows(features)), torch.as_tensor(np.asarray(labels))
    unit = torch.nn.functional.normalize(unit - unit.mean(0), dim=1)
    pairs, near_limit = [], max(NEAR, 1 - (1 - _typical_neighbor(unit)) / NEARER)
    for rows in torch.arange(len(unit)).split(max(_BLOCK // len(unit), 1)):
        cosines = unit[rows] @ unit.T
        near = ((cosines >= near_limit) & (label[rows, None] != label)).nonzero()
        pairs += [
            (-cosine, int(rows[one]), other)
            for (one, other), cosine in zip(near.tolist(), cosines[near[:, 0], near[:, 1]].tolist(), strict=True)
            if rows[one] < other
        ]
    used, result = set[int](), []
    for _, one, other in sorted(pairs):
        if not {one, other} & used:
            used |= {one, other}
            result.append((one, other))
    return result


def _typical_neighbor(unit: torch.Tensor) -> float:
    """The cosine of an image and the one that is most like it: the median of a sample."""
    rows = torch.linspace(0, len(unit) - 1, min(len(unit), 1000)).long()
    cosines = unit[rows] @ unit.T
    cosines[torch.arange(len(rows)), rows] = -1
    return float(cosines.max(dim=1).values.median())


def same_classes(logits: np.ndarray, labels: Any) -> list[tuple[int, int, float]]:
    """Pairs of classes that are probably one, as their images are hardly told apart.

    Args:
        logits (`(N, C)`): of a model that was not trained on these images.
        labels (`(N,)`): class ids.

    Returns:
        `(class, class, area)`, the smallest area under the ROC curve first: the chance that an image of the one has a
        higher score for it, against the other, than an image of the other; of classes of at least [`LEAST`] images
        that the model tells from all others, which one that tells nothing does not.
    """
    label = np.asarray(labels)
    counted = np.flatnonzero(np.bincount(label, minlength=logits.shape[1]) >= LEAST)
    # Only the class that is taken for another most often may be it.
    rival = np.where(np.arange(logits.shape[1]) == label[:, None], -np.inf, logits).argmax(axis=1)
    result = []
    for one, other in sorted({tuple(sorted(p)) for p in zip(label.tolist(), rival.tolist(), strict=True)}):
        if one in counted and other in counted:
            difference, both = logits[:, one] - logits[:, other], (label == one) | (label == other)
            area = _area(difference[label == one], difference[label == other])
            if area <= SAME_CLASS and _distinct(logits, both, (one, other)):
                result.append((one, other, area))
    return sorted(result, key=lambda entry: entry[2])


def _distinct(logits: np.ndarray, both: np.ndarray, pair: tuple[int, int]) -> bool:
    """Whether the images of two classes are told from all others."""
    inside = logits[:, pair].max(axis=1)
    odds = inside - np.delete(logits, pair, axis=1).max(axis=1, initial=inside.min())
    return bool(both.all()) or _area(odds[both], odds[~both]) >= DISTINCT


def _area(higher: np.ndarray, lower: np.ndarray) -> float:
    """The share of pairs whose first is the higher one, ties counting half."""
    lower = np.sort(lower)
    below = np.searchsorted(lower, higher, "left") + np.searchsorted(lower, higher, "right")
    return float(below.mean() / 2 / len(lower))


def _highest_other(scores: np.ndarray, label: np.ndarray) -> np.ndarray:
    others = scores.copy()
    others[np.arange(len(label)), label] = -np.inf
    return np.asarray(others.max(axis=1))


def _log_losses(logits: np.ndarray, label: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(label)), label])
