"""Evaluation for long-tailed data: plain numpy functions of class ids and probabilities."""

from collections.abc import Sequence
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


def expected_calibration_error(
    probabilities: Any,
    references: Any,
    class_counts: Any = None,
    *,
    n_bins: int = 15,
    many: int = 100,
    few: int = 20,
) -> dict[str, float | None]:
    """How far the top-1 confidence is from the top-1 accuracy (Guo et al., ICML 2017, equation 3).

    The confidences are put into bins of equal width, `((m-1)/M, m/M]`, confidence 0 into the first; the error is the
    mean over the references of `|accuracy - confidence|` of their bin. The bounds are compared in the precision of
    the probabilities, so that 0.2 is in the same bin in float32 as in float64.

    Args:
        probabilities (`(N, C)`): of each class, rows summing to 1 (to 0.01, which half precision needs).
        references (`(N,)`): true class ids.
        class_counts (`(C,)`, *optional*): images of each class in the full training selection, for the groups.
        n_bins (`int`, *optional*, defaults to `15`): the number of bins, M.
        many (`int`, *optional*, defaults to `100`): many-shot classes have more training images than this.
        few (`int`, *optional*, defaults to `20`): few-shot classes have fewer; the classes between, both ends
            included, are medium-shot.

    Returns:
        `dict` of fractions in 0..1: `expected_calibration_error` and, with `class_counts`, `many`, `medium`, `few`:
        the error of the references whose class is of the group, binned among themselves, `None` where there are none.
        The groups are means over images, not over classes, and the overall error is not their mean.

    Raises:
        ValueError: shapes or lengths that do not fit, nothing to score, NaN, rows that are no probabilities, ids that
            are no integers in `0..C-1`, or no bins.
    """
    try:
        rows, true = np.asarray(probabilities), np.asarray(references)
    except ValueError as error:
        raise ValueError(
            f"probabilities must have as many columns in every row, one for each class: pad or mend them ({error})"
        ) from error
    if n_bins < 1:
        raise ValueError(f"n_bins must be 1 or more, got {n_bins}; the usual number is 15")
    if true.size == 0:
        raise ValueError("there is nothing to score: references is empty")
    if rows.ndim != 2 or rows.size == 0 or true.shape != rows.shape[:1]:
        raise ValueError(
            f"probabilities must be (N, C) and references (N,), got {rows.shape} and {true.shape}: pass one row of "
            "class probabilities, not a predicted id, for each reference"
        )
    if not np.issubdtype(rows.dtype, np.floating):
        rows = rows.astype(np.float64)
    classes = rows.shape[1]
    _check_probabilities(rows)
    if not np.issubdtype(true.dtype, np.integer):
        raise ValueError(f"references must be class ids, which are integers, got {true.dtype}: convert them to int")
    if true.min() < 0 or true.max() >= classes:
        raise ValueError(
            f"references must be in 0..{classes - 1} (probabilities has {classes} columns), got {true.min()} to "
            f"{true.max()}: use the ids that the model was trained with"
        )

    confidence = rows.max(axis=1)
    bounds = (np.arange(1, n_bins) / n_bins).astype(rows.dtype)
    bins = np.searchsorted(bounds, confidence)
    gap = (rows.argmax(axis=1) == true) - confidence.astype(np.float64)

    def error_of(group: np.ndarray) -> float | None:
        if not group.any():
            return None
        return float(np.abs(np.bincount(bins[group], weights=gap[group])).sum() / group.sum())

    result = {"expected_calibration_error": error_of(np.ones(true.size, dtype=bool))}
    if class_counts is not None:
        counts = np.asarray(class_counts)
        if counts.shape != (classes,):
            raise ValueError(
                f"class_counts must have one entry for each of the {classes} columns of probabilities, got shape "
                f"{counts.shape}: pass the training images of every class, 0 where it has none"
            )
        seen = counts[true]
        result["many"] = error_of(seen > many)
        result["medium"] = error_of((seen <= many) & (seen >= few))
        result["few"] = error_of(seen < few)
    return result


def _check_probabilities(rows: np.ndarray) -> None:
    """Raises `ValueError` with the first row that has NaN, a negative value or another sum than 1."""
    total = rows.sum(axis=1, dtype=np.float64)
    lowest = rows.min(axis=1)
    wrong = ~((lowest >= 0) & (np.abs(total - 1) <= 0.01))
    if not wrong.any():
        return
    row = int(wrong.argmax())
    if np.isnan(rows[row]).any():
        raise ValueError(
            f"probabilities must be numbers, got NaN in row {row}: leave such rows out, or look for the cause in the "
            "model's logits"
        )
    raise ValueError(
        f"probabilities must be in 0..1 and sum to 1 in each row, got values from {lowest[row]:.4g} to "
        f"{rows[row].max():.4g} that sum to {total[row]:.4g} in row {row}: logits need a softmax first"
    )


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """`(N, F)` rows at unit length, in float32; a row of zeros stays one."""
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def retrieval_precision(
    embeddings: Any,
    labels: Any,
    class_counts: Any,
    *,
    k: int = 10,
    gallery: Any = None,
    gallery_labels: Any = None,
    many: int = 100,
    few: int = 20,
) -> dict[str, Any]:
    """How many of an image's nearest neighbours, by the cosine of their embeddings, are of its class.

    An image's precision is the share of its class among its `min(k, R)` nearest, `R` being how many others there are
    of its class: 1 can be reached by a class of few images too, which plain precision at `k` makes impossible. Images
    without another of their class count nowhere.

    Args:
        embeddings (`(N, F)`): of the images that are asked about.
        labels (`(N,)`): their classes.
        class_counts (`(C,)`): images of each class in the full training selection, for the groups.
        k (`int`, *optional*, defaults to `10`): how many neighbours are looked at.
        gallery (`(M, F)`, *optional*), gallery_labels (`(M,)`): the images that are found (default: the other ones of
            those that are asked about).
        many, few: as in [`long_tailed_accuracy`].

    Returns:
        `dict` of fractions in 0..1: `precision` (mean over the images); `balanced_precision` (mean over the classes of
        the mean over their images); `many`, `medium`, `few` (the same over each group, `None` where it is empty);
        `per_class` (length `C`, `None` where a class has no image that counts); and `images` (`int`), how many count.

    Raises:
        ValueError: shapes that do not fit, a `k` below 1, an id that is not in `0..C-1`, or no image that counts.
    """
    queries, true, counts = np.asarray(embeddings), np.asarray(labels), np.asarray(class_counts)
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("gallery and gallery_labels go together: give both, or neither")
    found, found_true = (queries, true) if gallery is None else (np.asarray(gallery), np.asarray(gallery_labels))
    for name, rows, ids in (("embeddings", queries, true), ("gallery", found, found_true)):
        if rows.ndim != 2 or ids.shape != rows.shape[:1] or rows.shape[1] != queries.shape[1] or not ids.size:
            raise ValueError(f"{name} must be (N, F) with as many labels, got {rows.shape} and {ids.shape}")
        if ids.min() < 0 or ids.max() >= counts.size:
            raise ValueError(f"labels of {name} must be in 0..{counts.size - 1}, got {ids.min()} to {ids.max()}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    own = int(gallery is None)
    available = np.bincount(found_true, minlength=counts.size)[true] - own
    wanted = np.minimum(k, available)
    if not (wanted > 0).any():
        raise ValueError("no image has another one of its class to be found")

    targets, chunk = unit_rows(found).T, 1024
    precision = np.zeros(len(true))
    for start in range(0, len(true), chunk):
        part = slice(start, start + chunk)
        similarity = unit_rows(queries[part]) @ targets
        if own:
            similarity[np.arange(len(similarity)), np.arange(start, start + len(similarity))] = -np.inf
        # Stable, so that ties do not depend on the machine.
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        right = np.cumsum(found_true[nearest] == true[part, None], axis=1)
        n = wanted[part]
        precision[part] = np.where(n > 0, right[np.arange(len(n)), np.maximum(n, 1) - 1] / np.maximum(n, 1), 0)

    counted = wanted > 0
    total = np.bincount(true[counted], minlength=counts.size)
    summed = np.bincount(true[counted], precision[counted], minlength=counts.size)
    present = total > 0
    of_class, seen = summed[present] / total[present], counts[present]
    groups = {"many": seen > many, "medium": (seen <= many) & (seen >= few), "few": seen < few}
    return {
        "precision": float(precision[counted].mean()),
        "balanced_precision": float(of_class.mean()),
        **{name: float(of_class[group].mean()) if group.any() else None for name, group in groups.items()},
        "per_class": [float(s / t) if t else None for s, t in zip(summed, total, strict=True)],
        "images": int(counted.sum()),
    }


def shots(counts: Sequence[int]) -> tuple[int, int, int]:
    """Classes with many (more than 100), medium (20 to 100) and few images."""
    many, few = sum(n > 100 for n in counts), sum(n < 20 for n in counts)
    return many, len(counts) - many - few, few


GROUPS = ("many", "medium", "few")


def group_of(counts: np.ndarray, many: int = 100, few: int = 20) -> np.ndarray:
    """The group of each class as an index into [`GROUPS`]."""
    return np.where(counts > many, 0, np.where(counts >= few, 1, 2))


def headline(logits: np.ndarray, labels: Any, class_counts: Sequence[int] | None) -> dict[str, Any]:
    """[`paco_hf.metrics.long_tailed_accuracy`] of logits `(N, C)`; without counts the groups are `None`."""
    counts = class_counts or [0] * logits.shape[1]
    result = long_tailed_accuracy(logits.argmax(axis=1), np.asarray(labels), counts)
    return result if class_counts else {**result, "many": None, "medium": None, "few": None}


def score_fields(predictions: Any, references: Any, config: Any) -> dict[str, float]:
    """The numbers of [`long_tailed_accuracy`]; without class counts those that need no groups."""
    counts = config.selection_counts or config.class_counts
    result = long_tailed_accuracy(predictions, references, counts or [0] * config.num_labels)
    groups = () if counts else ("many", "medium", "few")
    return {name: value for name, value in result.items() if isinstance(value, float) and name not in groups}
