"""Bootstrap intervals of the scores."""

from collections.abc import Callable, Collection
from statistics import NormalDist

import numpy as np

from ..metrics import GROUPS, classwise_means

WORST_SHARE = 0.1


def class_means(accuracy: np.ndarray) -> dict[str, float]:
    """Scores that hang on the classes that do worst."""
    lowest = np.sort(accuracy)[: max(1, round(WORST_SHARE * len(accuracy)))]
    return {"worst_10_percent": float(lowest.mean()), **classwise_means(accuracy)}


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


def class_intervals(
    metrics: dict[str, dict[str, float] | None],
    images: np.ndarray,
    accuracy: np.ndarray,
    resamples: int,
    level: float,
    seed: int,
) -> dict[str, dict[str, float] | None]:
    """Intervals of [`class_means`], which no resample of the images tells: of 20 images a class, the classes that do
    worst were mostly unlucky, and one that was never right stays so in every resample.

    Each class's accuracy is drawn from its Beta posterior. The prior of them all is fitted to the classes by moments
    (empirical Bayes), anew for each draw to a resample of the classes; of fewer than four classes it is Jeffreys'.

    Args:
        metrics (`dict`): the scores of [`class_means`], each with its `value`.
        images (`(C,)`): test images of each class.
        accuracy (`(C,)`): fractions; those of classes without images are not looked at.
        resamples (`int`): draws from the posterior.
        level (`float`): of the intervals, in 0..1.
        seed (`int`): of the draws.
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
        drawn.append(class_means(np.maximum(probable, 1e-9)))
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


def widen_ends(
    metrics: dict[str, dict[str, float] | None], images: np.ndarray, group: np.ndarray | None, level: float
) -> None:
    """Where all images were right, or none, no draw differs: the interval is then the exact one of so many images
    (Clopper and Pearson).

    Args:
        metrics (`dict`): scores with `value`, `low` and `high`, changed in place.
        images (`(C,)`): test images of each class.
        group (`(C,)`, *optional*): the [`paco_hf.metrics.shot_group`] of each class.
        level (`float`): of the intervals, in 0..1.
    """
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
