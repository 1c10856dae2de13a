"""When a model should abstain: thresholds on its confidence, chosen on images that it was not trained on, and
what they cost. Numpy only; [`paco_hf.models.abstention`] applies them."""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from ..metrics import GROUPS, shot_group
from .image_scores import Answers

LEVEL = 0.9  # how sure it is that a precision is kept
COVERAGES = (1.0, 0.98, 0.95, 0.9, 0.8, 0.7, 0.5)  # of the table in the report
_POINTS = 100  # of a curve


def parse_target(text: str) -> tuple[str, float]:
    """`precision=0.95` or `coverage=0.9` in two parts.

    Raises:
        ValueError: it is neither, or the share is not between 0 and 1.
    """
    kind, _, share = text.partition("=")
    if kind not in ("precision", "coverage"):
        raise ValueError(f"must be precision=SHARE, coverage=SHARE or none, such as precision=0.95, got {text!r}")
    return kind, parse_share(share, text)


def parse_share(share: str, text: str) -> float:
    """Parse a number between 0 and 1; a `ValueError` quotes `text`, the value of the flag that it is part of."""
    try:
        value = float(share)
    except ValueError as error:
        raise ValueError(f"must end in a share between 0 and 1, such as 0.95, got {text!r}") from error
    if not 0 < value < 1:
        raise ValueError(f"the share must be above 0 and below 1, got {text!r}")
    return value


def image_weights(labels: np.ndarray, frequencies: Sequence[float] | None) -> np.ndarray:
    """What images count for where classes are as frequent as a model takes them to be.

    Args:
        labels (`(N,)`): true class ids.
        frequencies (`(C,)`, *optional*): how frequent the classes are, in any unit; `None`: as among the images.

    Returns:
        `(N,)`, with mean 1.
    """
    if frequencies is None:
        return np.ones(len(labels))
    wanted = np.asarray(frequencies, dtype=np.float64)
    weight = wanted[labels] / np.bincount(labels, minlength=len(wanted))[labels]
    return np.asarray(weight / weight.mean())


def precision_bound(precision: Any, images: Any, level: float = LEVEL) -> np.ndarray:
    """What a precision is at least, at a one-sided level: Wilson's bound with continuity correction (Newcombe, 1998).

    It is close to the exact one of Clopper and Pearson, and takes fractions, which weights make of images.

    Args:
        precision (array): measured.
        images (array): on how many.
        level (`float`, *optional*, defaults to `0.9`): how often it is to hold.
    """
    p, n = np.asarray(precision, dtype=np.float64), np.asarray(images, dtype=np.float64)
    z = NormalDist().inv_cdf(level)
    spread = np.maximum(z * z - 2 - 1 / n + 4 * p * (n * (1 - p) + 1), 0)
    bound = (2 * n * p + z * z - 1 - z * np.sqrt(spread)) / (2 * (n + z * z))
    return np.asarray(np.where(p > 0, np.clip(bound, 0, p), 0))


def share_threshold(scores: np.ndarray, weight: np.ndarray, share: float) -> float:
    """The largest threshold that at least a share of the images reaches.

    Args:
        scores (`(N,)`): of the images.
        weight (`(N,)`): what each counts for.
        share (`float`): to accept.
    """
    order = np.argsort(-scores, kind="stable")
    reached = np.cumsum(weight[order])
    return float(scores[order][np.searchsorted(reached, share * reached[-1] * (1 - 1e-12))])


def precision_threshold(
    confidence: np.ndarray, right: np.ndarray, weight: np.ndarray, precision: float
) -> tuple[float | None, float]:
    """The smallest threshold above which answers are right often enough, and that not by luck.

    The measured precision of whatever threshold it allows falls short on other images about every second time. So the
    lower bound of [`precision_bound`] must reach it, on as many images as the weights leave (Kish's effective size).

    Args:
        confidence (`(N,)`): probability of each prediction.
        right (`(N,)`): whether it is right.
        weight (`(N,)`): what each image counts for.
        precision (`float`): to be reached.

    Returns:
        the threshold, `None` where none does; and the highest precision that one could promise.
    """
    if not len(confidence):
        return None, 0.0
    order = np.argsort(-confidence, kind="stable")
    ranked, counted = confidence[order], weight[order]
    total = np.cumsum(counted)
    measured = np.cumsum(counted * right[order]) / total
    bound = precision_bound(measured, total**2 / np.cumsum(counted**2))
    # Of images that are equally sure all are accepted or none.
    last = np.append(ranked[1:] < ranked[:-1], True)
    kept = np.flatnonzero(last & (bound >= precision))
    return (float(ranked[kept[-1]]) if len(kept) else None), float(bound[last].max())


def choose_thresholds(
    answers: Answers,
    labels: np.ndarray,
    weight: np.ndarray,
    class_counts: Sequence[int] | None,
    target: str,
) -> tuple[np.ndarray, dict[str, dict[str, float]]]:
    """A threshold on the confidence for the predictions of each shot group, each held to the same target.

    The group of a prediction is known where the model is used; that of the true class is not.

    Args:
        answers ([`Answers`]): to images that were not trained on.
        labels (`(N,)`): true class ids.
        weight (`(N,)`): what each image counts for, see [`image_weights`].
        class_counts (`(C,)`, *optional*): training images of each class; without it there is one threshold for all.
        target (`str`): `precision=SHARE` of the answers of each group right, or `coverage=SHARE` of them given.

    Returns:
        thresholds `(C,)` by predicted class; and of each group `threshold`, `images` (that were predicted as one of
        its classes), `coverage` and `precision` on these images.

    Raises:
        ValueError: a precision that no threshold can promise.
    """
    kind, share = parse_target(target)
    predicted, confidence = answers.predicted, answers.confidence.astype(np.float64)
    right = predicted == labels
    group = np.zeros(answers.classes, dtype=int) if class_counts is None else shot_group(np.asarray(class_counts))
    names = ("all",) if class_counts is None else GROUPS
    thresholds, chosen, refusals = np.zeros(len(group)), {}, list[tuple[float, str]]()
    for i in np.unique(group).tolist():
        rows = group[predicted] == i
        threshold: float | None
        if kind == "precision":
            threshold, best = precision_threshold(confidence[rows], right[rows], weight[rows], share)
            if threshold is None:
                refusals.append((best if rows.any() else -1.0, _refusal(share, names[i], right[rows], best)))
                continue
        else:  # where none was predicted, that of all is the best guess
            some = rows if rows.any() else np.ones(len(rows), dtype=bool)
            threshold = share_threshold(confidence[some], weight[some], share)
        thresholds[group == i] = threshold
        chosen[names[i]] = {"threshold": threshold, **_answers(rows & (confidence >= threshold), rows, right, weight)}
    if refusals:  # the group that promises least says what all can
        raise ValueError(min(refusals)[1])
    return thresholds, chosen


def _refusal(share: float, name: str, right: np.ndarray, best: float) -> str:
    images = len(right)
    whose = "predictions" if name == "all" else f"predictions of {name}-shot classes"
    if not images:
        return (
            f"precision={share:g} cannot be guaranteed for {whose}: no validation image was predicted as one; use "
            "coverage=SHARE"
        )
    below = math.floor(100 * best) / 100
    return (
        f"precision={share:g} cannot be guaranteed for {whose}: {images} images, {int(right.sum())} of them "
        f"correct, support at most {best:.3f}; use "
        + (f"precision={below:g}, " if below > 0 else "")
        + "coverage=SHARE, or more images"
    )


def _answers(accepted: np.ndarray, rows: np.ndarray, right: np.ndarray, weight: np.ndarray) -> dict[str, Any]:
    """How many of some images are answered, and how many of these answers are right; with a 95% interval."""
    answered, total = weight[accepted], float(weight[rows].sum())
    if not answered.sum():
        return {
            "images": int(rows.sum()),
            "coverage": 0.0 if total else None,
            "precision": None,
            "low": None,
            "high": None,
        }
    precision = float(answered @ right[accepted] / answered.sum())
    size = answered.sum() ** 2 / (answered**2).sum()
    low = float(precision_bound(precision, size, 0.975))
    high = 1 - float(precision_bound(1 - precision, size, 0.975))
    coverage = float(answered.sum() / total)
    return {"images": int(rows.sum()), "coverage": coverage, "precision": precision, "low": low, "high": high}


def examine_abstention(
    answers: Answers,
    labels: np.ndarray,
    weight: np.ndarray,
    class_counts: Sequence[int] | None,
    abstained: np.ndarray | None = None,
) -> dict[str, Any]:
    """What not answering would cost and gain, and what a rule does.

    Args:
        answers ([`Answers`]): to labeled images.
        labels (`(N,)`): true class ids.
        weight (`(N,)`): what each image counts for.
        class_counts (`(C,)`, *optional*): training images of each class, for the groups.
        abstained (`(N,)`, *optional*): where a rule would not have the model answer.

    Returns:
        `curves`: of `overall` and of the images whose class is of each group (`None`: there are none) `images`, `area`
        (mean risk over all coverages), `points` (`[coverage, risk]`) and `table` (risk at [`COVERAGES`]). With a rule
        also `by_prediction` and `by_class`: of the images *predicted* as a class of each group, and that *are* of it,
        `images`, `coverage`, `precision`, `low` and `high` (95%).
    """
    predicted, confidence = answers.predicted, answers.confidence
    right, everything = predicted == labels, np.ones(len(labels), dtype=bool)
    parts = {side: {"overall": everything} for side in ("by_class", "by_prediction")}
    if class_counts is not None:
        group = shot_group(np.asarray(class_counts))
        for side, ids in (("by_class", labels), ("by_prediction", predicted)):
            parts[side] |= {name: group[ids] == i for i, name in enumerate(GROUPS)}
    curves = {
        name: _curve(confidence[rows], right[rows], weight[rows]) if rows.any() else None
        for name, rows in parts["by_class"].items()
    }
    result: dict[str, Any] = {"curves": dict.fromkeys(("overall", *GROUPS)) | curves}
    if abstained is not None:
        for side, groups in parts.items():
            result[side] = {name: _answers(rows & ~abstained, rows, right, weight) for name, rows in groups.items()}
    return result


def _curve(confidence: np.ndarray, right: np.ndarray, weight: np.ndarray) -> dict[str, Any]:
    """Risk (the share of wrong answers) against coverage (the share answered), the surest answers first."""
    order = np.argsort(-confidence, kind="stable")
    ranked, counted, wrong = confidence[order], weight[order], ~right[order]
    total = np.cumsum(counted)
    coverage, risk = total / total[-1], np.cumsum(counted * wrong) / total
    last = np.append(ranked[1:] < ranked[:-1], True)
    area = float((risk * counted).sum() / total[-1])
    coverage, risk = coverage[last], risk[last]
    at = [int(np.searchsorted(coverage, share * (1 - 1e-12))) for share in COVERAGES]
    shown = np.unique(np.searchsorted(coverage, np.arange(1, _POINTS + 1) / _POINTS * (1 - 1e-12)))
    return {
        "images": len(right),
        "area": area,
        "points": [[float(coverage[i]), float(risk[i])] for i in shown],
        "table": [{"coverage": share, "risk": float(risk[i])} for share, i in zip(COVERAGES, at, strict=True)],
    }


def rule_lines(target: str, chosen: Mapping[str, Mapping[str, Any]]) -> str:
    """What [`choose_thresholds`] chose, for the user to read.

    Args:
        target (`str`): as it was asked for.
        chosen (mapping): by group.
    """
    shown = [
        f"{name} {one['threshold']:.3f} ({one['images']} predictions"
        + (
            f", {one['coverage']:.1%} answered, {one['precision']:.1%} correct)"
            if one["images"]
            else (": overall threshold)")
        )
        for name, one in chosen.items()
    ]
    return f"{target}: minimum confidence to answer: {', '.join(shown)}"
