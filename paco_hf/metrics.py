"""Evaluation for long-tailed data: plain numpy functions of class ids and probabilities."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

MANY_SHOT, FEW_SHOT = 100, 20  # many-shot classes have more training images than this, few-shot classes fewer
GROUPS = ("many", "medium", "few")
_SIZES = (f"more than {MANY_SHOT} images", f"{FEW_SHOT} to {MANY_SHOT}", f"fewer than {FEW_SHOT}")
GROUP_SIZES = dict(zip(GROUPS, _SIZES, strict=True))
GROUPS_TEXT = f"many (> {MANY_SHOT}), medium ({FEW_SHOT} to {MANY_SHOT}), few (< {FEW_SHOT})"


class Title(NamedTuple):
    """What a score is called: in the head of a table, and in a sentence."""

    short: str
    long: str


TITLES = {
    "accuracy": Title("top-1", "top-1 accuracy"),
    "many": Title("many", "many-shot accuracy"),
    "medium": Title("medium", "medium-shot accuracy"),
    "few": Title("few", "few-shot accuracy"),
    "balanced_accuracy": Title("balanced", "balanced accuracy"),
    "worst_10_percent": Title("worst tenth", "worst tenth of the classes"),
    "head_tail_gap": Title("frequent minus rare", "accuracy of frequent minus rare classes"),
    "harmonic_mean": Title("harmonic mean", "harmonic mean"),
    "geometric_mean": Title("geometric mean", "geometric mean"),
    "ece": Title("calibration error", "expected calibration error"),
    "nll": Title("log loss", "log loss"),
    "brier": Title("Brier score", "Brier score"),
}
HEADLINE = ("accuracy", "many", "medium", "few", "balanced_accuracy")  # what each table of scores shows


def shot_group(counts: np.ndarray, many: int = MANY_SHOT, few: int = FEW_SHOT) -> np.ndarray:
    """The group of each class by its training images, as an index into [`GROUPS`].

    Args:
        counts (`(C,)`): training images of each class.
        many (`int`, *optional*, defaults to `100`): many-shot classes have more training images than this.
        few (`int`, *optional*, defaults to `20`): few-shot classes have fewer.
    """
    return np.where(counts > many, 0, np.where(counts >= few, 1, 2))


def shots(counts: Sequence[int]) -> tuple[int, int, int]:
    """How many classes are many-shot, medium-shot and few-shot."""
    many, medium, few = np.bincount(shot_group(np.asarray(counts)), minlength=3).tolist()
    return many, medium, few


def by_group(group: np.ndarray, score: Callable[[np.ndarray], float]) -> dict[str, float | None]:
    """A score of the entries of each [`shot_group`], `None` where the group is empty."""
    return {name: score(group == i) if (group == i).any() else None for i, name in enumerate(GROUPS)}


def _by_class(ids: np.ndarray, values: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """The mean of the images' values for each class, NaN where it has no image; and by group and by class, for a
    result."""
    total = np.bincount(ids, minlength=group.size)
    mean = np.bincount(ids, values, minlength=group.size) / np.where(total > 0, total, np.nan)
    present = total > 0
    groups = by_group(group[present], lambda entries: float(mean[present][entries].mean()))
    return mean, {**groups, "per_class": [None if np.isnan(value) else value for value in mean.tolist()]}


def long_tailed_accuracy(
    predictions: Any, references: Any, class_counts: Any, *, many: int = MANY_SHOT, few: int = FEW_SHOT
) -> dict[str, Any]:
    """Top-1 accuracy overall, per class, and over many-, medium- and few-shot classes (Liu et al., CVPR 2019).

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
        over the classes (0 if a class is never correct). Classes without references are ignored.

    Raises:
        ValueError: the lengths differ, there are no references, or an id is not in `0..C-1`.

    Example:

    ```python
    from paco_hf.metrics import long_tailed_accuracy

    scores = long_tailed_accuracy([0, 0, 1, 1], [0, 1, 1, 2], class_counts=[500, 50, 5])
    print(scores["balanced_accuracy"])  # 0.5
    ```
    """
    predicted, true, counts = (np.asarray(values) for values in (predictions, references, class_counts))
    if predicted.ndim != 1 or predicted.shape != true.shape:
        raise ValueError(
            f"predictions and references must be class ids of the same length, got {predicted.shape} and {true.shape}"
        )
    if true.size == 0:
        raise ValueError("there is nothing to score: references is empty")
    for name, ids in (("predictions", predicted), ("references", true)):
        if ids.min() < 0 or ids.max() >= counts.size:
            raise ValueError(
                f"{name} must be in 0..{counts.size - 1} (class_counts has {counts.size} entries), got {ids.min()} "
                f"to {ids.max()}"
            )

    accuracy, details = _by_class(true, predicted == true, shot_group(counts, many, few))
    present, worst = accuracy[~np.isnan(accuracy)], int(np.nanargmin(accuracy))
    return {
        "accuracy": float((predicted == true).mean()),
        "balanced_accuracy": float(present.mean()),
        **details,
        "worst_class": {"class": worst, "accuracy": float(accuracy[worst])},
        **classwise_means(present),
    }


def expected_calibration_error(
    probabilities: Any,
    references: Any,
    class_counts: Any = None,
    *,
    n_bins: int = 15,
    many: int = MANY_SHOT,
    few: int = FEW_SHOT,
) -> dict[str, float | None]:
    """Expected difference between top-1 confidence and top-1 accuracy (Guo et al., ICML 2017, equation 3).

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
        ValueError: shapes or lengths do not match, there are no references, rows are not probabilities, ids are not
            integers in `0..C-1`, or there are no bins.

    Example:

    ```python
    from paco_hf.metrics import expected_calibration_error

    error = expected_calibration_error([[0.75, 0.25], [0.25, 0.75]], [0, 0])
    print(error["expected_calibration_error"])  # 0.25
    ```
    """
    try:
        rows, true = np.asarray(probabilities), np.asarray(references)
    except ValueError as error:
        raise ValueError(f"probabilities must have one column for each class in every row ({error})") from error
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, such as 15, got {n_bins}")
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
    bins = confidence_bins(confidence, n_bins)
    gap = (rows.argmax(axis=1) == true) - confidence.astype(np.float64)

    def calibration_error(group: np.ndarray) -> float:
        return float(np.abs(np.bincount(bins[group], weights=gap[group])).sum() / group.sum())

    result: dict[str, float | None] = {"expected_calibration_error": calibration_error(np.ones(true.size, dtype=bool))}
    if class_counts is not None:
        counts = np.asarray(class_counts)
        if counts.shape != (classes,):
            raise ValueError(
                f"class_counts must have one entry for each of the {classes} columns of probabilities, got shape "
                f"{counts.shape}: pass the training images of every class, 0 where it has none"
            )
        result |= by_group(shot_group(counts[true], many, few), calibration_error)
    return result


def confidence_bins(confidence: np.ndarray, n_bins: int) -> np.ndarray:
    """The bin of each confidence, of `n_bins` of equal width, compared in the precision of the confidences."""
    return np.searchsorted((np.arange(1, n_bins) / n_bins).astype(confidence.dtype), confidence)


def classwise_means(accuracy: np.ndarray) -> dict[str, float]:
    """Harmonic and geometric mean of the classes' accuracies: 0 where a class is never right."""
    never = bool((accuracy == 0).any())
    return {
        "harmonic_mean": 0.0 if never else float(1 / np.mean(1 / accuracy)),
        "geometric_mean": 0.0 if never else float(np.exp(np.log(accuracy).mean())),
    }


def _check_probabilities(rows: np.ndarray) -> None:
    """Raises `ValueError` with the first row that has NaN, a negative value or another sum than 1."""
    total = rows.sum(axis=1, dtype=np.float64)
    lowest = rows.min(axis=1)
    valid = (lowest >= 0) & (np.abs(total - 1) <= 0.01)
    if valid.all():
        return
    row = int(valid.argmin())
    if np.isnan(rows[row]).any():
        raise ValueError(
            f"probabilities must be numbers, got NaN in row {row}: remove such rows, or check the model's logits"
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
    many: int = MANY_SHOT,
    few: int = FEW_SHOT,
) -> dict[str, Any]:
    """How many of an image's nearest neighbors, by the cosine of their embeddings, are of its class.

    An image's precision is the share of its class among its `min(k, R)` nearest, `R` being how many others there are
    of its class: 1 can be reached by a class of few images too, which plain precision at `k` makes impossible. Images
    without another of their class count nowhere.

    Args:
        embeddings (`(N, F)`): of the images that are asked about.
        labels (`(N,)`): their classes.
        class_counts (`(C,)`): images of each class in the full training selection, for the groups.
        k (`int`, *optional*, defaults to `10`): how many neighbors are looked at.
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
        raise ValueError("gallery and gallery_labels belong together: pass both or neither")
    searched, classes = (queries, true) if gallery is None else (np.asarray(gallery), np.asarray(gallery_labels))
    for name, rows, ids in (("embeddings", queries, true), ("gallery", searched, classes)):
        if rows.ndim != 2 or ids.shape != rows.shape[:1] or rows.shape[1] != queries.shape[1] or not ids.size:
            raise ValueError(f"{name} must be (N, F) with as many labels, got {rows.shape} and {ids.shape}")
        if ids.min() < 0 or ids.max() >= counts.size:
            raise ValueError(f"labels of {name} must be in 0..{counts.size - 1}, got {ids.min()} to {ids.max()}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    available = np.bincount(classes, minlength=counts.size)[true] - (gallery is None)
    wanted = np.minimum(k, available)
    if not (wanted > 0).any():
        raise ValueError("no image has another image of its class to retrieve: pass more images of each class")

    targets, chunk = unit_rows(searched).T, 1024
    precision = np.zeros(len(true))
    for start in range(0, len(true), chunk):
        part = slice(start, start + chunk)
        similarity = unit_rows(queries[part]) @ targets
        if gallery is None:
            np.fill_diagonal(similarity[:, start:], -np.inf)
        # Stable, so that ties do not depend on the machine.
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        right = np.cumsum(classes[nearest] == true[part, None], axis=1)
        n = np.maximum(wanted[part], 1)
        precision[part] = right[np.arange(len(n)), n - 1] / n

    counted = wanted > 0
    mean, details = _by_class(true[counted], precision[counted], shot_group(counts, many, few))
    return {
        "precision": float(precision[counted].mean()),
        "balanced_precision": float(mean[~np.isnan(mean)].mean()),
        **details,
        "images": int(counted.sum()),
    }


def headline(predictions: Any, references: Any, config: Any) -> dict[str, Any]:
    """[`long_tailed_accuracy`] of a model whose class counts may be unknown: the groups are then `None`.

    Args:
        predictions (`(N,)`): predicted class ids.
        references (`(N,)`): true class ids.
        config ([`PaCoConfig`]): of the model.

    Raises:
        ValueError: as [`long_tailed_accuracy`].
    """
    scores = long_tailed_accuracy(predictions, references, config.group_counts or [0] * config.num_labels)
    return scores if config.group_counts else {**scores, **dict.fromkeys(GROUPS)}
