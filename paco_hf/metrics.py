"""Evaluation for long-tailed data: plain numpy functions of class ids."""

from typing import Any

import numpy as np


def long_tailed_accuracy(
    predictions: Any, references: Any, class_counts: Any, *, many: int = 100, few: int = 20
) -> dict[str, Any]:
    """Top-1 accuracy overall, by class and by how frequent the class was in training (Liu et al., CVPR 2019).

    Args:
        predictions (`(N,)`): predicted class ids.
        references (`(N,)`): true class ids.
        class_counts (`(C,)`): images of each class in the full training selection.
        many (`int`, *optional*, defaults to `100`): many-shot classes have more training images than this.
        few (`int`, *optional*, defaults to `20`): few-shot classes have fewer; the classes between, both ends
            included, are medium-shot.

    Returns:
        `dict` of fractions in 0..1: `accuracy`; `balanced_accuracy` (mean of the per-class accuracies); `many`,
        `medium`, `few` (the same mean over each group, `None` where it is empty); `per_class` (length `C`, `None`
        where a class has no reference); `worst_class` (`{"class", "accuracy"}`); `harmonic_mean` and `geometric_mean`
        over the classes (0 where a class is never right). Classes without a reference count nowhere.

    Raises:
        ValueError: lengths differ, nothing to score, or an id is not in `0..C-1`.
    """
    predicted, true, counts = (np.asarray(values) for values in (predictions, references, class_counts))
    if predicted.ndim != 1 or predicted.shape != true.shape:
        raise ValueError(
            f"predictions and references must be class ids of one length, got {predicted.shape} and {true.shape}"
        )
    if true.size == 0:
        raise ValueError("there is nothing to score: references is empty")
    for name, ids in (("predictions", predicted), ("references", true)):
        if ids.min() < 0 or ids.max() >= counts.size:
            raise ValueError(
                f"{name} must be in 0..{counts.size - 1} (class_counts has {counts.size} entries), got {ids.min()} "
                f"to {ids.max()}"
            )

    total = np.bincount(true, minlength=counts.size)
    right = np.bincount(true[predicted == true], minlength=counts.size)
    present = total > 0
    accuracy = right[present] / total[present]
    seen = counts[present]

    def mean_of(group: np.ndarray) -> float | None:
        return float(accuracy[group].mean()) if group.any() else None

    per_class = [float(r / t) if t else None for r, t in zip(right, total, strict=True)]
    worst = int(accuracy.argmin())
    never = bool((accuracy == 0).any())
    return {
        "accuracy": float((predicted == true).mean()),
        "balanced_accuracy": float(accuracy.mean()),
        "many": mean_of(seen > many),
        "medium": mean_of((seen <= many) & (seen >= few)),
        "few": mean_of(seen < few),
        "per_class": per_class,
        "worst_class": {"class": int(np.flatnonzero(present)[worst]), "accuracy": float(accuracy[worst])},
        "harmonic_mean": 0.0 if never else float(1 / np.mean(1 / accuracy)),
        "geometric_mean": 0.0 if never else float(np.exp(np.log(accuracy).mean())),
    }
