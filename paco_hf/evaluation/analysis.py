"""From the logits of a labelled split to everything that a report shows: scores with intervals, calibration,
confusions, accuracy under other class priors. Numpy only; [`paco_hf.reports.evaluation_report`] draws it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..metrics import GROUPS, shot_group
from .intervals import bootstrap, class_intervals, class_means, widen_ends
from .priors import log_frequencies, scores_under_priors, softmax

BINS = 15
_LISTED = 20
_WORST_CLASSES = 10
_EXAMPLES = 4


def evaluate_logits(
    logits: np.ndarray,
    labels: Any,
    *,
    class_names: Sequence[str],
    class_counts: Sequence[int] | None,
    temperature: float | None = None,
    logit_counts: Sequence[int] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """What `results.json` says of a split.

    Args:
        logits (`(N, C)`): neither divided by a temperature nor shifted by a prior.
        labels (`(N,)`): true class ids.
        class_names (`(C,)`): of the classes.
        class_counts (`(C,)`, *optional*): training images of each class, for the groups many, medium and few (more
            than 100, 20 to 100, fewer than 20) and for the priors; without it these are `None`.
        temperature (`float`, *optional*): divides the logits wherever probabilities are meant.
        logit_counts (`(C,)`, *optional*): the class frequencies that the logits are for (`PaCoConfig.logit_counts`).
            `None`: equal ones. Then `nll`, `brier`, `ece` and the reliability are of such a world too: each class of
            the test counts alike, however many images it has. Otherwise images count as they are.
        resamples (`int`, *optional*, defaults to `1000`): of the intervals, see [`bootstrap`]; those of the worst
            tenth, harmonic and geometric mean are drawn from a posterior of the classes' accuracies.
        level (`float`, *optional*, defaults to `0.95`): of the intervals.
        seed (`int`, *optional*, defaults to `0`): of the bootstrap.

    Returns:
        `dict` of plain numbers and lists, fractions in 0..1, `None` where something is not defined: `metrics` (each
        `{"value", "low", "high"}`), `per_class`, `calibration`, `confusion_groups`, `confusions`, `tail_to_head`,
        `worst_classes` and `priors`.

    Raises:
        ValueError: shapes that do not fit, logits that are not finite, or no images.
    """
    logits, true = np.asarray(logits, dtype=np.float32), np.asarray(labels)
    classes = len(class_names)
    if logits.shape != (len(true), classes) or len(true) == 0:
        raise ValueError(f"logits must be (N, C) = ({len(true)}, {classes}) with N of 1 or more, got {logits.shape}")
    if not np.isfinite(logits).all():
        row = int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
        raise ValueError(
            f"the logits of image {row} are not finite: the weights are damaged, or overflow in --precision"
        )
    counts = None if class_counts is None else np.asarray(class_counts)
    predicted = logits.argmax(axis=1)
    images = np.bincount(true, minlength=classes)
    scaled = logits / (temperature or 1.0)
    probabilities = softmax(scaled)
    weight = (len(true) / (images > 0).sum() / images[true]) if logit_counts is None else np.ones(len(true))
    scores = _Scores(probabilities, true, predicted, counts, weight)
    accuracy = scores.per_class(np.arange(len(true)))
    metrics = bootstrap(scores, len(true), resamples=resamples, level=level, seed=seed, basic={"ece"})
    group = scores.group
    error = metrics["ece"]
    if error and error["value"] <= scores.error_if_calibrated(resamples, level, seed):
        error["low"] = 0.0
    metrics |= class_intervals(metrics, images, accuracy, resamples, level, seed)
    widen_ends(metrics, images, group, level)
    neutral = scaled if logit_counts is None else scaled - log_frequencies(logit_counts)
    times_predicted = np.bincount(predicted, minlength=classes)
    return {
        "images": len(true),
        "class_names": list(class_names),
        "class_counts": None if counts is None else counts.tolist(),
        "confidence": {
            "level": level,
            "method": f"bootstrap, {resamples} resamples of the test images; worst tenth, harmonic and geometric "
            "mean: posterior of the classes' accuracies",
        },
        "metrics": metrics,
        "per_class": [
            {
                "class": c,
                "train_images": None if counts is None else int(counts[c]),
                "test_images": int(images[c]),
                "accuracy": None if images[c] == 0 else float(accuracy[c]),
                "predicted": int(times_predicted[c]),
            }
            for c in range(classes)
        ],
        "calibration": {
            "temperature": temperature,
            "balanced": logit_counts is None,
            "weighted": bool(np.ptp(weight) > 1e-9),
            "groups": _reliability(probabilities, true, group, weight),
            "uncalibrated": None if temperature is None else _reliability(softmax(logits), true, group, weight),
        },
        "confusion_groups": None if group is None else _group_confusions(true, predicted, group),
        "confusions": _confusions(true, predicted, images),
        "tail_to_head": None if counts is None else _confusions(true, predicted, images, counts),
        "worst_classes": _worst_classes(probabilities, true, predicted, accuracy, images, counts),
        "priors": None if counts is None else scores_under_priors(neutral, true, predicted, counts),
    }


def _bins(confidence: np.ndarray) -> np.ndarray:
    """The bin of each confidence, of [`BINS`] of equal width, as the calibration error has them."""
    return np.searchsorted((np.arange(1, BINS) / BINS).astype(confidence.dtype), confidence)


class _Scores:
    """The headline numbers as a function of the images (with repetitions) that they are computed on."""

    def __init__(
        self,
        probabilities: np.ndarray,
        true: np.ndarray,
        predicted: np.ndarray,
        counts: np.ndarray | None,
        weight: np.ndarray,
    ) -> None:
        rows = np.arange(len(true))
        self.true, self.classes, self.weight = true, probabilities.shape[1], weight
        self.right = (predicted == true).astype(np.float64)
        of_true = probabilities[rows, true].astype(np.float64)
        self.nll = -np.log(np.maximum(of_true, np.finfo(np.float32).tiny))
        # sum_c (p_c - y_c)^2 without the one-hot matrix.
        self.brier = np.einsum("nc,nc->n", probabilities, probabilities, dtype=np.float64) - 2 * of_true + 1
        confidence = probabilities.max(axis=1)
        self.bins = _bins(confidence)
        self.confidence = confidence.astype(np.float64)
        self.gap = self.right - self.confidence
        self.group = None if counts is None else shot_group(counts)

    def per_class(self, rows: np.ndarray) -> np.ndarray:
        """Accuracy of each class, NaN where it has no row."""
        right = np.bincount(self.true[rows], weights=self.right[rows], minlength=self.classes)
        images = np.bincount(self.true[rows], minlength=self.classes)
        return np.where(images > 0, right / np.maximum(images, 1), np.nan)

    def __call__(self, rows: np.ndarray) -> dict[str, float | None]:
        accuracy = self.per_class(rows)
        present = ~np.isnan(accuracy)
        accuracy = accuracy[present]
        means: dict[str, float | None] = dict.fromkeys(GROUPS)
        if self.group is not None:
            group = self.group[present]
            means = {
                name: float(accuracy[group == i].mean()) if (group == i).any() else None
                for i, name in enumerate(GROUPS)
            }
        weight = self.weight[rows]
        ends = means["many"], means["few"]
        return {
            "accuracy": float(self.right[rows].mean()),
            "balanced_accuracy": float(accuracy.mean()),
            **means,
            "head_tail_gap": None if ends[0] is None or ends[1] is None else ends[0] - ends[1],
            **class_means(accuracy),
            "nll": float(np.average(self.nll[rows], weights=weight)),
            "brier": float(np.average(self.brier[rows], weights=weight)),
            "ece": _calibration_error(self.bins[rows], self.gap[rows], weight),
        }

    def error_if_calibrated(self, resamples: int, level: float, seed: int) -> float:
        """The calibration error that a perfectly calibrated model would hardly exceed on as many images (consistency
        resampling: Bröcker & Smith, 2007). Where the measured one is below, it may be 0."""
        generator = np.random.default_rng(seed)
        drawn = [
            _calibration_error(
                self.bins, (generator.random(len(self.bins)) < self.confidence) - self.confidence, self.weight
            )
            for _ in range(resamples)
        ]
        return float(np.quantile(drawn, (1 + level) / 2))


def _calibration_error(bins: np.ndarray, gap: np.ndarray, weight: np.ndarray) -> float:
    """[`paco_hf.metrics.expected_calibration_error`] of images that count as their weights say."""
    return float(np.abs(np.bincount(bins, weights=weight * gap)).sum() / weight.sum())


def _reliability(
    probabilities: np.ndarray, true: np.ndarray, group: np.ndarray | None, weight: np.ndarray
) -> dict[str, Any]:
    """Confidence against accuracy in 15 bins of equal width, overall and for the images of each group, which count as
    their weights say."""
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    right = predicted == true
    bins = _bins(confidence)

    def mean(values: np.ndarray, rows: np.ndarray) -> float:
        return float(np.average(values[rows].astype(np.float64), weights=weight[rows]))

    def of(rows: np.ndarray) -> dict[str, Any] | None:
        if not rows.any():
            return None
        entries = []
        for b in range(BINS):
            inside = rows & (bins == b)
            n = int(inside.sum())
            entries.append(
                {
                    "low": b / BINS,
                    "high": (b + 1) / BINS,
                    "images": n,
                    "confidence": mean(confidence, inside) if n else None,
                    "accuracy": mean(right, inside) if n else None,
                }
            )
        return {
            "images": int(rows.sum()),
            "ece": _calibration_error(bins[rows], (right - confidence.astype(np.float64))[rows], weight[rows]),
            "confidence": mean(confidence, rows),
            "accuracy": mean(right, rows),
            "bins": entries,
        }

    everywhere = {"overall": of(np.ones(len(true), dtype=bool))}
    return everywhere | {name: None if group is None else of(group[true] == i) for i, name in enumerate(GROUPS)}


def _group_confusions(true: np.ndarray, predicted: np.ndarray, group: np.ndarray) -> dict[str, Any]:
    """Of each true group's images: the share predicted as a class of each group, and the share predicted right."""
    rows = [group[true] == i for i in range(len(GROUPS))]
    return {
        "names": list(GROUPS),
        "share": [
            [float((group[predicted[r]] == j).mean()) for j in range(len(GROUPS))] if r.any() else None for r in rows
        ],
        "right": [float((predicted[r] == true[r]).mean()) if r.any() else None for r in rows],
    }


def _confusions(
    true: np.ndarray, predicted: np.ndarray, images: np.ndarray, counts: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """The most frequent mistakes, as a share of the true class's images; with `counts` those towards a class that has
    at least ten times as many training images."""
    wrong = predicted != true
    if counts is not None:
        wrong &= counts[predicted] >= 10 * np.maximum(counts[true], 1)
    pairs, times = np.unique(np.stack([true[wrong], predicted[wrong]]), axis=1, return_counts=True)
    # The larger share first, among equals the lower classes.
    order = np.lexsort((pairs[1], pairs[0], -times / images[pairs[0]]))[:_LISTED]
    return [
        {
            "true": int(pairs[0, k]),
            "predicted": int(pairs[1, k]),
            "images": int(times[k]),
            "share": float(times[k] / images[pairs[0, k]]),
        }
        for k in order
    ]


def _worst_classes(
    probabilities: np.ndarray,
    true: np.ndarray,
    predicted: np.ndarray,
    accuracy: np.ndarray,
    images: np.ndarray,
    counts: np.ndarray | None,
) -> list[dict[str, Any]]:
    """The classes of lowest accuracy, each with the mistakes that the model is surest of."""
    confidence = probabilities.max(axis=1)
    present = np.flatnonzero(images)
    result = []
    for c in present[np.argsort(accuracy[present], kind="stable")][:_WORST_CLASSES]:
        mistakes = np.flatnonzero((true == c) & (predicted != c))
        shown = mistakes[np.argsort(-confidence[mistakes], kind="stable")][:_EXAMPLES]
        result.append(
            {
                "class": int(c),
                "accuracy": float(accuracy[c]),
                "train_images": None if counts is None else int(counts[c]),
                "test_images": int(images[c]),
                "examples": [
                    {"row": int(row), "predicted": int(predicted[row]), "confidence": float(confidence[row])}
                    for row in shown
                ],
            }
        )
    return result
