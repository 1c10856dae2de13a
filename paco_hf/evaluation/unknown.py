"""Images of classes that a model was not trained on: scores that they have less of, and how well these tell them."""

from collections.abc import Sequence

import numpy as np

from ..metrics import shot_group
from .abstention import parse_share, share_threshold
from .image_scores import row_blocks

ACCEPTED = 0.95  # of the images of known classes, unless the user says otherwise
SCORES = ("max_logit", "energy")


def parse_unknown(text: str) -> tuple[str, float]:
    """`max_logit=0.95`, or `max_logit` alone, as the score and the share of known images to accept.

    Raises:
        ValueError: there is no such score, or the share is not between 0 and 1.
    """
    score, equals, share = text.partition("=")
    if score not in SCORES:
        raise ValueError(f"must be {', '.join(SCORES)} (or one with =SHARE to accept) or none, got {text!r}")
    return score, parse_share(share, text) if equals else ACCEPTED


def unknown_scores(logits: np.ndarray, score: str) -> np.ndarray:
    """How much images are like the classes that were trained on; the less, the likelier they are of another.

    Args:
        logits (`(N, C)`): of the classifier, without temperature and prior.
        score (`str`): `max_logit`: the largest (of a cosine classifier the cosine to the nearest class center, times
            its scale); `energy`: the logarithm of the sum of exponentials (Liu et al., NeurIPS 2020).

    Returns:
        `(N,)`.
    """
    highest = logits.max(axis=1)
    if score == "max_logit":
        return np.asarray(highest)
    sums = [np.exp(logits[rows] - highest[rows, None]).sum(axis=1) for rows in row_blocks(logits)]
    return np.asarray(highest + np.log(np.concatenate(sums)))


def unknown_thresholds(
    scores: np.ndarray, predicted: np.ndarray, weight: np.ndarray, class_counts: Sequence[int], share: float
) -> np.ndarray:
    """The least score that images must have to be taken for one of the known classes, by predicted class.

    Of each shot group's predictions the same share is accepted: a single threshold would refuse those of rare classes,
    whose scores are lower.

    Args:
        scores (`(N,)`): of [`unknown_scores`], of images of known classes that were not trained on.
        predicted (`(N,)`): class ids of the largest logit.
        weight (`(N,)`): what each image counts for.
        class_counts (`(C,)`): training images of each class.
        share (`float`): to accept.

    Returns:
        `(C,)`.
    """
    group = shot_group(np.asarray(class_counts))
    thresholds = np.full(len(group), share_threshold(scores, weight, share))
    for i in np.unique(group[predicted]):
        rows = group[predicted] == i
        thresholds[group == i] = share_threshold(scores[rows], weight[rows], share)
    return thresholds


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """The chance that an image of a known class scores higher than one of an unknown class; ties count half.

    Args:
        known (`(N,)`): scores of images of known classes.
        unknown (`(M,)`): of the others.
    """
    ordered = np.sort(unknown)
    below, up_to = (np.searchsorted(ordered, known, side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(unknown))


def false_acceptance(known: np.ndarray, unknown: np.ndarray, accepted: float = ACCEPTED) -> float:
    """The share of images of unknown classes that score at least as high as a share of those of known classes.

    Args:
        known (`(N,)`), unknown (`(M,)`): as those of [`auroc`].
        accepted (`float`, *optional*, defaults to `0.95`): that share.
    """
    return float((unknown >= share_threshold(known, np.ones(len(known)), accepted)).mean())
