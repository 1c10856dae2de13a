"""From the logits of a labeled split to everything that a report shows: scores with intervals, calibration,
confusions, accuracy under other class priors. Numpy only; [`paco_hf.reports.evaluation_report`] draws it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..metrics import GROUPS, by_group, confidence_bins, shot_group
from .abstention import precision_bound
from .image_scores import Answers, ImageScores, row_blocks
from .intervals import bootstrap, class_intervals, class_means, widen_ends
from .priors import PRIORS, scores_under_priors, shifted_prior
from .summary import summarize

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
        `dict` of plain numbers and lists, fractions in 0..1, `None` where something is not defined: `summary` (what
        the model is good and bad at, a sentence), `metrics` (each `{"value", "low", "high"}`), `per_class` (with
        `low` and `high` of the accuracy), `calibration`, `confusion_groups`, `confusions`, `tail_to_head`,
        `worst_classes` and `priors`.

    Raises:
        ValueError: shapes that do not fit, logits that are not finite, or no images.
    """
    logits, true = np.asarray(logits, dtype=np.float32), np.asarray(labels)
    _check_logits(logits, true, len(class_names))
    split = _ScoredSplit(logits, true, class_counts, temperature, logit_counts)
    counts = split.counts
    results = {
        "images": len(true),
        "class_names": list(class_names),
        "class_counts": None if counts is None else counts.tolist(),
        "confidence": {
            "level": level,
            "method": f"bootstrap with {resamples} resamples of the test images (exact binomial where all or "
            "none of them are right); for worst tenth, harmonic and geometric mean: posterior of the class accuracies",
        },
        "metrics": split.metrics(resamples, level, seed),
        "per_class": split.per_class(level),
        "calibration": {
            "temperature": temperature,
            "balanced": logit_counts is None,
            "weighted": bool(np.ptp(split.weight) > 1e-9),
            "groups": split.reliability(split.image_scores.answers),
            "uncalibrated": split.image_scores.uncalibrated and split.reliability(split.image_scores.uncalibrated),
        },
        "confusion_groups": split.group_confusions(),
        "confusions": split.confusions(split.predicted != true),
        "tail_to_head": split.tail_to_head(),
        "worst_classes": split.worst_classes(),
        "priors": None
        if counts is None
        else scores_under_priors(split.image_scores.adapted, true, split.predicted, counts),
    }
    return {"summary": summarize(results), **results}


def _check_logits(logits: np.ndarray, true: np.ndarray, classes: int) -> None:
    """Raise `ValueError` where logits do not fit the labels, or are not finite."""
    if logits.shape != (len(true), classes) or len(true) == 0:
        raise ValueError(f"logits must be (N, C) = ({len(true)}, {classes}) with N of 1 or more, got {logits.shape}")
    for rows in row_blocks(logits):
        finite = np.isfinite(logits[rows]).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"the logits of image {rows.start + int(finite.argmin())} are not finite: the weights are "
                "damaged, or overflow in this precision: try --precision fp32"
            )


class _ScoredSplit:
    """Predictions against labels, with what each part of `results.json` is computed from."""

    def __init__(
        self,
        logits: np.ndarray,
        true: np.ndarray,
        class_counts: Sequence[int] | None,
        temperature: float | None,
        logit_counts: Sequence[int] | None,
    ) -> None:
        self.true, self.classes = true, logits.shape[1]
        self.counts = None if class_counts is None else np.asarray(class_counts)
        self.train_images = [None] * self.classes if self.counts is None else self.counts.tolist()
        self.group = None if self.counts is None else shot_group(self.counts)
        self.rows: dict[str, np.ndarray] = {}
        if self.group is not None:
            self.rows = {name: self.group[true] == i for i, name in enumerate(GROUPS)}
        priors = [] if self.counts is None else [shifted_prior(self.counts, r, direction) for direction, r in PRIORS]
        self.image_scores = ImageScores.from_logits(logits, true, temperature, logit_counts, priors)
        self.predicted = self.image_scores.predicted
        self.images = np.bincount(true, minlength=self.classes)
        self.right = (self.predicted == true).astype(np.float64)
        self.accuracy = self.class_accuracy(np.arange(len(true)))
        self.weight = np.ones(len(true))
        if logit_counts is None:
            self.weight = len(true) / (self.images > 0).sum() / self.images[true]
        true_probability = self.image_scores.true_probability
        self.nll = -np.log(np.maximum(true_probability, np.finfo(np.float32).tiny))
        self.brier = self.image_scores.squares - 2 * true_probability + 1
        confidence = self.image_scores.answers.confidence
        self.bins = confidence_bins(confidence, BINS)
        self.confidence = confidence.astype(np.float64)
        self.gap = self.right - self.confidence

    def class_accuracy(self, rows: np.ndarray) -> np.ndarray:
        """Accuracy of each class on some of the images, NaN where it has none among them."""
        right = np.bincount(self.true[rows], weights=self.right[rows], minlength=self.classes)
        images = np.bincount(self.true[rows], minlength=self.classes)
        return np.where(images > 0, right / np.maximum(images, 1), np.nan)

    def scores(self, rows: np.ndarray) -> dict[str, float | None]:
        """The headline numbers of some of the images, which may repeat."""
        accuracy = self.class_accuracy(rows)
        present = ~np.isnan(accuracy)
        accuracy = accuracy[present]
        means: dict[str, float | None] = dict.fromkeys(GROUPS)
        if self.group is not None:
            means = by_group(self.group[present], lambda entries: float(accuracy[entries].mean()))
        weight = self.weight[rows]
        many, few = means["many"], means["few"]
        return {
            "accuracy": float(self.right[rows].mean()),
            "balanced_accuracy": float(accuracy.mean()),
            **means,
            "head_tail_gap": None if many is None or few is None else many - few,
            **class_means(accuracy),
            "nll": float(np.average(self.nll[rows], weights=weight)),
            "brier": float(np.average(self.brier[rows], weights=weight)),
            "ece": _calibration_error(self.bins[rows], self.gap[rows], weight),
        }

    def metrics(self, resamples: int, level: float, seed: int) -> dict[str, dict[str, float] | None]:
        """Each of [`scores`] with its interval."""
        metrics = bootstrap(self.scores, len(self.true), resamples=resamples, level=level, seed=seed, basic={"ece"})
        error = metrics["ece"]
        if error and error["value"] <= self.error_if_calibrated(resamples, level, seed):
            error["low"] = 0.0
        metrics |= class_intervals(metrics, self.images, self.accuracy, resamples, level, seed)
        widen_ends(metrics, self.images, self.group, level)
        return metrics

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

    def per_class(self, level: float) -> list[dict[str, Any]]:
        """What each class is scored, with the interval of its accuracy by [`precision_bound`]."""
        n = np.maximum(self.images, 1)
        low, wrong = (precision_bound(share, n, (1 + level) / 2) for share in (self.accuracy, 1 - self.accuracy))
        scores = {"accuracy": self.accuracy, "low": low, "high": 1 - wrong}
        absent = np.full(self.classes, None)
        return _rows(
            {
                "class": range(self.classes),
                "train_images": self.train_images,
                "test_images": self.images,
                **{name: np.where(self.images > 0, values, absent) for name, values in scores.items()},
                "predicted": np.bincount(self.predicted, minlength=self.classes),
            }
        )

    def reliability(self, answers: Answers) -> dict[str, Any]:
        """Confidence against accuracy in 15 bins of equal width, overall and for the images of each group, which
        count as their weights say."""
        right, confidence = answers.predicted == self.true, answers.confidence
        parts = {"overall": np.ones(len(self.true), dtype=bool), **self.rows}
        return dict.fromkeys(("overall", *GROUPS)) | {
            name: _reliability(right[rows], confidence[rows], self.weight[rows])
            for name, rows in parts.items()
            if rows.any()
        }

    def group_confusions(self) -> dict[str, Any] | None:
        """Of each true group's images: the share predicted as a class of each group, and the share predicted right."""
        if self.group is None:
            return None
        predicted, rows = self.group[self.predicted], self.rows.values()
        return {
            "names": list(GROUPS),
            "share": [[float((predicted[r] == j).mean()) for j in range(3)] if r.any() else None for r in rows],
            "right": [float(self.right[r].mean()) if r.any() else None for r in rows],
        }

    def confusions(self, wrong: np.ndarray) -> list[dict[str, Any]]:
        """The most frequent mistakes among `wrong` images, as a share of the true class's images."""
        pairs, times = np.unique(np.stack([self.true[wrong], self.predicted[wrong]]), axis=1, return_counts=True)
        (true, predicted), share = pairs, times / self.images[pairs[0]]
        # The larger share first, among equals the lower classes.
        order = np.lexsort((predicted, true, -share))[:_LISTED]
        columns = {"true": true, "predicted": predicted, "images": times, "share": share}
        rows = _rows({name: values[order] for name, values in columns.items()})
        for row in rows:
            row["examples"] = self.surest((self.true == row["true"]) & (self.predicted == row["predicted"]))
        return rows

    def surest(self, wrong: np.ndarray) -> list[dict[str, Any]]:
        """The few mistakes among the images `wrong` that the model is surest of."""
        rows = np.flatnonzero(wrong)
        rows = rows[np.argsort(-self.confidence[rows], kind="stable")][:_EXAMPLES]
        return _rows({"row": rows, "predicted": self.predicted[rows], "confidence": self.confidence[rows]})

    def tail_to_head(self) -> list[dict[str, Any]] | None:
        """[`confusions`] towards a class that has at least ten times as many training images."""
        if self.counts is None:
            return None
        more_frequent = self.counts[self.predicted] >= 10 * np.maximum(self.counts[self.true], 1)
        return self.confusions((self.predicted != self.true) & more_frequent)

    def worst_classes(self) -> list[dict[str, Any]]:
        """The classes of lowest accuracy, each with the mistakes that the model is surest of."""
        present = np.flatnonzero(self.images)
        result = []
        for c in present[np.argsort(self.accuracy[present], kind="stable")][:_WORST_CLASSES]:
            result.append(
                {
                    "class": int(c),
                    "accuracy": float(self.accuracy[c]),
                    "train_images": self.train_images[c],
                    "test_images": int(self.images[c]),
                    "examples": self.surest((self.true == c) & (self.predicted != c)),
                }
            )
        return result


def _rows(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """A table of plain numbers, row by row."""
    values = zip(*(np.asarray(column).tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in values]


def _calibration_error(bins: np.ndarray, gap: np.ndarray, weight: np.ndarray) -> float:
    """[`paco_hf.metrics.expected_calibration_error`] of images that count as their weights say."""
    return float(np.abs(np.bincount(bins, weights=weight * gap)).sum() / weight.sum())


def _reliability(right: np.ndarray, confidence: np.ndarray, weight: np.ndarray) -> dict[str, Any]:
    """Confidence against accuracy of some images, in all and in each bin."""
    bins = confidence_bins(confidence, BINS)

    def means(rows: np.ndarray) -> dict[str, Any]:
        values, images = {"confidence": confidence, "accuracy": right}, int(rows.sum())
        if not images:
            return {"images": 0, **dict.fromkeys(values)}
        means = {k: float(np.average(v[rows].astype(np.float64), weights=weight[rows])) for k, v in values.items()}
        return {"images": images, **means}

    overall = means(np.ones(len(right), dtype=bool))
    return {
        "images": overall.pop("images"),
        "ece": _calibration_error(bins, right - confidence.astype(np.float64), weight),
        **overall,
        "bins": [{"low": b / BINS, "high": (b + 1) / BINS, **means(bins == b)} for b in range(BINS)],
    }
