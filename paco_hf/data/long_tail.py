"""Long-tailed class counts, the reference's selection of images, and stratified splits. Needs only numpy."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def long_tailed_counts(n_max: int, num_classes: int, imbalance_factor: float, kind: str = "exp") -> list[int]:
    """Images of each class, most frequent first.

    Args:
        n_max (`int`): images of the first class.
        num_classes (`int`): `C`.
        imbalance_factor (`float`): images of the first class to images of the last; 100 means 100:1.
        kind (`str`, *optional*, defaults to `"exp"`): `exp`: `n_max * IF^(-i / (C - 1))` (Cao et al., NeurIPS 2019);
            `step`: the first half has `n_max`, the second `n_max / IF`; `pareto`: `n_max * (i + 1)^(-p)`, with `p`
            such that the last class has `n_max / IF`. All rounded down.

    Raises:
        ValueError: an argument is out of range, or a class would be left without images.
    """
    if n_max < 1 or num_classes < 1:
        raise ValueError(f"n_max and num_classes must be at least 1, got {n_max} and {num_classes}")
    if imbalance_factor < 1:
        raise ValueError(
            "imbalance_factor, the largest class divided by the smallest, must be at least 1, got "
            f"{imbalance_factor}: for 0.01 in the reference implementation, use 100"
        )
    steps = max(num_classes - 1, 1)
    if kind == "exp":
        counts = [int(n_max * (1 / imbalance_factor) ** (i / steps)) for i in range(num_classes)]
        if num_classes > 1:
            # n * (1 / 49) falls just below n / 49.
            counts[-1] = int(n_max / imbalance_factor)
    elif kind == "step":
        head = num_classes - num_classes // 2
        counts = [n_max] * head + [int(n_max / imbalance_factor)] * (num_classes - head)
    elif kind == "pareto":
        power = math.log(imbalance_factor) / math.log(num_classes) if num_classes > 1 else 0.0
        # The tolerance keeps the last class at n_max / IF where rounding of the power falls just below it.
        counts = [int(n_max * (i + 1) ** -power + 1e-9) for i in range(num_classes)]
    else:
        raise ValueError(f"kind must be exp, step or pareto, got {kind!r}")
    if min(counts) == 0:
        raise ValueError(
            f"with n_max {n_max} and imbalance_factor {imbalance_factor}, {counts.count(0)} classes would have no "
            f"image: use a factor of at most {n_max}"
        )
    return counts


def long_tailed_indices(targets: Any, counts: Sequence[int], seed: int = 0) -> list[int]:
    """The reference's selection: numpy's legacy generator shuffles each class's indices in turn, the first `n_c` stay.

    Args:
        targets (sequence of `int`): class of each image.
        counts (sequence of `int`): images to keep of each class `0..C-1`.
        seed (`int`, *optional*, defaults to `0`): seed of the shuffles.

    Returns:
        indices into `targets`, class 0 first, in the order of the selection.

    Raises:
        ValueError: a class has fewer images than requested.
    """
    labels = np.asarray(targets)
    generator = np.random.RandomState(seed)
    selected: list[int] = []
    order = np.argsort(labels, kind="stable")
    ends = np.searchsorted(labels[order], np.arange(len(counts) + 1))
    for label, count in enumerate(counts):
        members = order[ends[label] : ends[label + 1]]
        if len(members) < count:
            raise ValueError(
                f"class {label} has {len(members)} images, but the selection needs {count}: use a larger "
                "imbalance_factor, or more images"
            )
        generator.shuffle(members)
        selected.extend(members[:count].tolist())
    return selected


def class_counts(labels: Any, num_classes: int, allow_empty: bool = False) -> list[int]:
    """Images of each class `0..C-1`.

    Args:
        labels (sequence of `int`): class of each image.
        num_classes (`int`): `C`.
        allow_empty (`bool`, *optional*, defaults to `False`): whether a class may have none.

    Raises:
        ValueError: a label is not in `0..C-1`, or a class has no image.
    """
    array = np.asarray(labels)
    if array.size == 0:
        raise ValueError("there are no labels to count: the split is empty")
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"labels must be integers, got {array.dtype}")
    wrong = np.flatnonzero((array < 0) | (array >= num_classes))
    if wrong.size:
        raise ValueError(
            f"label {array[wrong[0]]} of row {wrong[0]} is out of range: there are {num_classes} classes, 0 to "
            f"{num_classes - 1}"
        )
    counts: list[int] = np.bincount(array, minlength=num_classes).tolist()
    if 0 in counts and not allow_empty:
        raise ValueError(
            f"{counts.count(0)} of {num_classes} classes have no training images, the first is class "
            f"{counts.index(0)}: add images, or remove the class from the dataset"
        )
    return counts


def stratified_split(
    labels: Any,
    fraction: float,
    seed: int = 0,
    pinned: Any = None,
    name: str = "validation_fraction",
    min_images: int = 2,
) -> tuple[list[int], list[int]]:
    """Split off about `fraction` of each class, at least one image of each class with two or more.

    Args:
        labels (sequence of `int`): class of each image.
        fraction (`float`): share to split off, `0 <= fraction < 1`.
        seed (`int`, *optional*, defaults to `0`): which images are split off.
        pinned (sequence of `bool`, *optional*): images that always stay in the training split.
        name (`str`, *optional*): name of the fraction in messages.
        min_images (`int`, *optional*, defaults to `2`): smaller classes stay in the training split.

    Returns:
        `(train, validation)` indices, each in ascending order. A class of one image stays in the training split.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {fraction}")
    array = np.asarray(labels)
    generator = np.random.default_rng(seed)
    validated = np.zeros(len(array), dtype=bool)
    fixed = np.zeros(len(array), dtype=bool) if pinned is None else np.asarray(pinned, dtype=bool)
    if fraction > 0:
        order = np.argsort(array, kind="stable")
        for same_class in np.split(order, np.flatnonzero(np.diff(array[order])) + 1):
            members = generator.permutation(same_class)
            # Drawn for each class, so that the others' images are the same whatever the minimum.
            size = min(max(round(fraction * len(members)), 1), len(members) - 1) if len(members) >= min_images else 0
            validated[members[~fixed[members]][:size]] = True
    return np.flatnonzero(~validated).tolist(), np.flatnonzero(validated).tolist()


def stratified_folds(labels: Any, folds: int, seed: int = 0, copies: np.ndarray | None = None) -> np.ndarray:
    """Divide images for cross-validation: each is held out once, in as many folds as its class has images, at most.

    Args:
        labels (sequence of `int`): class of each image.
        folds (`int`): number of folds, 2 at least.
        seed (`int`, *optional*, defaults to `0`): which images are held out together.
        copies (`(N,)`, *optional*): of each image the row of one that stands for it and for its exact copies of the
            same class, which are held out together.

    Returns:
        `(N,)`: the fold that holds an image out; -1 for the image of a class that has no other.

    Raises:
        ValueError: fewer than 2 folds, or no class with two images.
    """
    if folds < 2:
        raise ValueError(f"cross-validation needs at least 2 folds, got {folds}")
    array, generator = np.asarray(labels), np.random.default_rng(seed)
    copies = np.arange(len(array)) if copies is None else copies
    result = np.full(len(array), -1)
    rows, start = np.unique(copies), 0
    order = rows[np.argsort(array[rows], kind="stable")]
    for same_class in np.split(order, np.flatnonzero(np.diff(array[order])) + 1):
        if len(same_class) < 2:
            continue
        # Where a class leaves off the next goes on, so that folds are of equal size.
        result[generator.permutation(same_class)] = (start + np.arange(len(same_class))) % folds
        start += len(same_class)
    result = result[copies]
    if result.max() < 0:
        raise ValueError("cross-validation needs a class with two or more images, and each has one: add images")
    return result
