"""From the logits of a labelled split to everything that a report shows: scores with intervals, calibration,
confusions, accuracy under other class priors. Numpy only; [`paco_hf.report`] draws it."""

from collections.abc import Callable, Collection, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from .metrics import long_tailed_accuracy

GROUPS = ("many", "medium", "few")
RATIOS = (50, 25, 10, 5, 2)
BINS = 15
WORST_SHARE = 0.1
_LISTED = 20
_WORST_CLASSES = 10
_EXAMPLES = 4


def softmax(logits: np.ndarray) -> np.ndarray:
    """Rows of probabilities, in float64 where the logits are."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


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
    metrics |= _class_intervals(metrics, images, accuracy, resamples, level, seed)
    _widen_ends(metrics, images, group, level)
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
        "priors": None if counts is None else _under_priors(neutral, true, predicted, counts),
    }


def group_of(counts: np.ndarray, many: int = 100, few: int = 20) -> np.ndarray:
    """The group of each class as an index into [`GROUPS`]."""
    return np.where(counts > many, 0, np.where(counts >= few, 1, 2))


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
        self.group = None if counts is None else group_of(counts)

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
            **_of_classes(accuracy),
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


def _of_classes(accuracy: np.ndarray) -> dict[str, float]:
    """Scores that hang on the classes that do worst."""
    never = bool((accuracy == 0).any())
    lowest = np.sort(accuracy)[: max(1, round(WORST_SHARE * len(accuracy)))]
    return {
        "worst_10_percent": float(lowest.mean()),
        "harmonic_mean": 0.0 if never else float(1 / np.mean(1 / accuracy)),
        "geometric_mean": 0.0 if never else float(np.exp(np.log(accuracy).mean())),
    }


def _calibration_error(bins: np.ndarray, gap: np.ndarray, weight: np.ndarray) -> float:
    """[`paco_hf.metrics.expected_calibration_error`] of images that count as their weights say."""
    return float(np.abs(np.bincount(bins, weights=weight * gap)).sum() / weight.sum())


def log_frequencies(counts: Sequence[int]) -> np.ndarray:
    """Logarithms of the classes' shares, `(C,)`; a class that was never seen counts as seen once."""
    seen = np.maximum(np.asarray(counts), 1)
    return np.log(seen / seen.sum()).astype(np.float32)


def bootstrap(
    statistics: Callable[[np.ndarray], dict[str, float | None]],
    rows: int,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    basic: Collection[str] = (),
) -> dict[str, dict[str, float] | None]:
    """Confidence intervals of statistics of images.

    Images are drawn with replacement; a class that a draw lacks is in none of its means. What varies is which images
    were tested. The interval is the bias-corrected percentile one (Efron & Tibshirani, An Introduction to the
    Bootstrap, 14.3 with zero acceleration), widened to the value itself where it misses it.

    Args:
        statistics (callable): maps row indices `(N,)` to `{name: value}`, `None` for what is not defined.
        rows (`int`): `N`.
        basic (collection of `str`, *optional*): statistics of 0 or more that every resample makes larger, such as the
            calibration error. Theirs is the basic interval, which takes the measured value to be as much too large.

    Returns:
        `{name: {"value", "low", "high"}}`, `None` where the statistic is.
    """
    generator = np.random.default_rng(seed)
    value = statistics(np.arange(rows))
    drawn: dict[str, list[float]] = {name: [] for name, x in value.items() if x is not None}
    for _ in range(resamples):
        result = statistics(generator.integers(rows, size=rows))
        for name, values in drawn.items():
            if (x := result[name]) is not None:
                values.append(x)
    return {
        name: None
        if x is None
        else _around(x, *(_basic if name in basic else _bias_corrected)(x, np.asarray(drawn[name]), level))
        for name, x in value.items()
    }


def _around(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": min(low, value), "high": max(high, value)}


def _class_intervals(
    metrics: dict[str, dict[str, float] | None],
    images: np.ndarray,
    accuracy: np.ndarray,
    resamples: int,
    level: float,
    seed: int,
) -> dict[str, dict[str, float] | None]:
    """Intervals of [`_of_classes`], which no resample of the images tells: of 20 images a class, the classes that do
    worst were mostly unlucky, and one that was never right stays so in every resample.

    Each class's accuracy is drawn from its Beta posterior. The prior of them all is fitted to the classes by moments
    (empirical Bayes), anew for each draw to a resample of the classes; of fewer than four classes it is Jeffreys'.
    """
    generator = np.random.default_rng(seed)
    n = images[images > 0]
    right = np.rint(accuracy[images > 0] * n)
    drawn = []
    for _ in range(resamples):
        a, b = 0.5, 0.5
        if len(n) >= 4:
            chosen = generator.integers(len(n), size=len(n))
            a, b = _beta_prior(right[chosen], n[chosen])
        probable = generator.beta(a + right, b + n - right)
        drawn.append(_of_classes(np.maximum(probable, 1e-9)))
    ends = ((1 - level) / 2, (1 + level) / 2)
    return {
        name: _around(metrics[name]["value"], *np.quantile([one[name] for one in drawn], ends).tolist())  # type: ignore[index]
        for name in drawn[0]
    }


def _beta_prior(right: np.ndarray, n: np.ndarray) -> tuple[float, float]:
    """The Beta distribution whose mean and variance over classes explain `right` of `n` images of each."""
    mean = (right.sum() + 0.5) / (n.sum() + 1)
    single = float((1 / n).mean())
    spread = mean * (1 - mean)
    # Of what the classes' accuracies vary, chance explains a part; of single images a class it may be all.
    varies = (np.var(right / n) - spread * single) / (1 - single) if single < 1 else spread / 3
    weight = float(np.clip(spread / max(varies, 1e-12) - 1, 0.1, 1e7))
    # Never surer of 0 and 1 than Jeffreys' prior is.
    return max(mean * weight, 0.5), max((1 - mean) * weight, 0.5)


def _widen_ends(
    metrics: dict[str, dict[str, float] | None], images: np.ndarray, group: np.ndarray | None, level: float
) -> None:
    """Where all images were right, or none, no draw differs: the interval is then the exact one of so many images
    (Clopper and Pearson)."""
    sizes = {"accuracy": images.sum(), "balanced_accuracy": images.sum()}
    if group is not None:
        sizes |= {name: images[group == i].sum() for i, name in enumerate(GROUPS)}
    for name, size in sizes.items():
        metric = metrics[name]
        if metric is None:
            continue
        bound = 1 - ((1 - level) / 2) ** (1 / int(size))
        if metric["value"] == 0:
            metric["high"] = max(metric["high"], bound)
        elif metric["value"] == 1:
            metric["low"] = min(metric["low"], 1 - bound)
    gap, many, few = (metrics[name] for name in ("head_tail_gap", "many", "few"))
    if gap and many and few and gap["low"] == gap["high"]:
        metrics["head_tail_gap"] = _around(gap["value"], many["low"] - few["high"], many["high"] - few["low"])


def _basic(value: float, drawn: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(drawn, ((1 - level) / 2, (1 + level) / 2)).tolist()
    return max(2 * value - high, 0.0), max(2 * value - low, 0.0)


def _bias_corrected(value: float, drawn: np.ndarray, level: float) -> tuple[float, float]:
    normal = NormalDist()
    # Ties count half; the ends are kept off 0 and 1, where the correction is infinite.
    below = ((drawn < value).mean() + (drawn <= value).mean()) / 2
    shift = 2 * normal.inv_cdf(float(np.clip(below, 1 / len(drawn), 1 - 1 / len(drawn))))
    ends = (normal.cdf(shift + normal.inv_cdf(p)) for p in ((1 - level) / 2, (1 + level) / 2))
    low, high = (float(np.quantile(drawn, end)) for end in ends)
    return low, high


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


def shifted_prior(counts: np.ndarray, ratio: float, direction: str) -> np.ndarray:
    """Class frequencies that fall geometrically by `ratio` from first to last class: `forward` in the order of the
    training counts, `backward` in the reverse order, `uniform` not at all (Hong et al., CVPR 2021). `(C,)`, sum 1."""
    rank = np.empty(len(counts))
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(counts)) / max(len(counts) - 1, 1)
    exponent = {"forward": rank, "uniform": np.zeros(len(counts)), "backward": 1 - rank}[direction]
    weight = float(ratio) ** -exponent
    return weight / weight.sum()


def _under_priors(logits: np.ndarray, true: np.ndarray, predicted: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    """Accuracy where classes are as frequent as a prior says, from the accuracy of each class: of the predictions as
    they are, and with the log of the prior added to the (balanced) logits."""
    images = np.bincount(true, minlength=len(counts))
    shifts = [("forward", r) for r in RATIOS] + [("uniform", 1)] + [("backward", r) for r in reversed(RATIOS)]
    rows = []
    for direction, ratio in shifts:
        prior = shifted_prior(counts, ratio, direction)
        weight = np.where(images > 0, prior, 0)
        weight = weight / weight.sum()
        adapted = (logits + np.log(prior).astype(logits.dtype)).argmax(axis=1)
        as_is, better = (
            float(weight @ (np.bincount(true[p == true], minlength=len(counts)) / np.maximum(images, 1)))
            for p in (predicted, adapted)
        )
        rows.append({"direction": direction, "ratio": ratio, "accuracy": as_is, "adapted": better})
    return {"ratios": list(RATIOS), "rows": rows}


def headline(logits: np.ndarray, labels: Any, class_counts: Sequence[int] | None) -> dict[str, Any]:
    """[`paco_hf.metrics.long_tailed_accuracy`] of logits `(N, C)`; without counts the groups are `None`."""
    counts = class_counts or [0] * logits.shape[1]
    result = long_tailed_accuracy(logits.argmax(axis=1), np.asarray(labels), counts)
    return result if class_counts else {**result, "many": None, "medium": None, "few": None}
