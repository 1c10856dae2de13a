"""Dividing a dataset into what is trained on, validated on and tested on, and the manifest of that division."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..metrics import GROUPS_TEXT, shots
from ..utils.text import examples
from .image_split import ImageSplit
from .images import ImageData
from .long_tail import class_counts, stratified_split
from .split_manifest import describe_source, describe_split

# Of user data that has no test split, where the user asks for no fraction.
TEST_FRACTION = 0.2
TEST_MIN_IMAGES = 5
COARSE = 10  # test images of a class up to which the user is told that its score is coarse


@dataclass
class Division:
    """What is trained on, validated on and tested on.

    Args:
        data (`ImageData`): `data.train` is the training selection with the validation images that were split off from
            it, and without those of the test.
        trained, validation (`ImageSplit`): what is trained and validated on; `data.test` is tested on.
        manifest (`dict`, *optional*): what `splits.json` holds; `None` where nothing was split off or left out.
        full_counts (list of `int`): images of each class before anything was split off.
        test_min_images (`int`, *optional*, defaults to `0`): classes of fewer images gave none to the test.
    """

    data: ImageData
    trained: ImageSplit
    validation: ImageSplit | None
    manifest: dict[str, Any] | None
    full_counts: list[int]
    test_min_images: int = 0


def default_test(data: ImageData, duplicates: Any = None) -> tuple[float, int]:
    """The share of each class that is split off for the test, and the images that a class needs for that, where the
    user asks for no share: no test where it would have fewer than half of the classes, and a warning says so.

    Args:
        data (`ImageData`): without a test split.
        duplicates (sequence of `bool`, *optional*): training images with an exact copy, which stay in train.
    """
    labels, classes = np.asarray(data.train.labels), len(data.class_names)
    free = labels if duplicates is None else labels[~np.asarray(duplicates, dtype=bool)]
    large, movable = (np.bincount(part, minlength=classes) for part in (labels, free))
    tested = int(((large >= TEST_MIN_IMAGES) & (movable > 0)).sum())
    if 2 * tested >= classes:
        return TEST_FRACTION, TEST_MIN_IMAGES
    copies = " with one without an exact copy" if len(free) < len(labels) else ""
    data.warnings.append(
        f"no test split, so there will be no test scores: only {tested} of {classes} classes have {TEST_MIN_IMAGES} "
        f"or more images{copies}, fewer than half; --test_fraction {TEST_FRACTION} also splits classes of two images"
    )
    return 0.0, 0


def divide(
    data: ImageData,
    seed: int,
    validation_fraction: float,
    test_fraction: float = 0.0,
    duplicates: Any = None,
    *,
    source: dict[str, Any] | None = None,
    split_seed: int = 0,
    test_min_images: int = 0,
    excluded: Mapping[str, Collection[int]] | None = None,
) -> Division:
    """Split off a test split where there is none, then a validation split where there is none.

    The outcome is a function of the labels, the seeds, the fractions and the duplicates. The test does not follow
    `seed`: runs of several seeds are scored on the same images.

    Args:
        data (`ImageData`): all splits that the source has.
        seed (`int`): which images are validated on.
        validation_fraction (`float`): of each class's images; 0 is none, and leaves out one that the source has.
        test_fraction (`float`, *optional*, defaults to `0.0`): likewise of the test; where the source has one it
            counts for nothing.
        duplicates (sequence of `bool`, *optional*): training images with an exact copy, which stay in train.
        source (`dict`, *optional*): [`describe_source`] of the training split before images that cannot be
            decoded were left out.
        split_seed (`int`, *optional*, defaults to `0`): which images are tested on.
        test_min_images (`int`, *optional*, defaults to `0`): classes of fewer images give none to the test.
        excluded (mapping, *optional*): rows of `train` and `validation` to leave out of these, by role; what is split
            off does not follow them.

    Raises:
        ValueError: a fraction out of range; an image of the test is excluded, or all of a class.
    """
    full = data.train
    fraction = 0.0 if data.test else test_fraction
    rest, tested = stratified_split(
        full.labels, fraction, split_seed, duplicates, "test_fraction", max(test_min_images, 2)
    )
    if fraction and not tested:
        reason = _why_none(data, test_min_images)
        data.warnings.append(f"no test split can be split off, so there will be no test scores: {reason}")
    if tested:
        data = replace(data, train=full.select(rest), test=full.select(tested, role="test", split_off=True))
        duplicates = None if duplicates is None else np.asarray(duplicates)[rest]
    validation = data.validation if validation_fraction > 0 else None
    fraction = 0.0 if validation else validation_fraction
    train_rows, validation_rows = stratified_split(data.train.labels, fraction, seed, duplicates)
    if fraction and not validation_rows:
        reason = _why_none(data)
        data.warnings.append(f"no validation split can be split off, so the model of the last epoch is kept: {reason}")
    trained = data.train.select(train_rows)
    if validation_rows:
        validation = data.train.select(validation_rows, role="validation", split_off=True)
    if excluded:
        data, trained, validation = _without(excluded, full, data, trained, validation)
    manifest = None
    if tested or validation_rows or excluded:
        manifest = {
            "seed": seed,
            "split_seed": split_seed,
            "validation_fraction": validation_fraction,
            "test_fraction": test_fraction,
            **({"test_min_images": test_min_images} if test_min_images else {}),
            "source": source or describe_source(full, data.user_data),
            "class_names": data.class_names,
            "splits": {
                "train": describe_split(trained, with_rows=True),
                "validation": describe_split(validation),
                "test": describe_split(data.test),
            },
        }
    full_counts = class_counts(full.labels, len(data.class_names))
    return Division(data, trained, validation, manifest, full_counts, test_min_images)


def _without(
    excluded: Mapping[str, Collection[int]],
    full: ImageSplit,
    data: ImageData,
    trained: ImageSplit,
    validation: ImageSplit | None,
) -> tuple[ImageData, ImageSplit, ImageSplit | None]:
    """The data, what is trained on and what is validated on, without images that the user wants out."""
    out = {full.source_row(row) for row in excluded.get("train", ())}
    if data.test and data.test.split_off and (tested := sorted(out & set(data.test.source_rows))):
        name = data.test.image_names()[data.test.source_rows.index(tested[0])]
        raise ValueError(
            f"--exclude_list contains {len(tested)} images of the test split, such as {name}, and the test split "
            "does not change: remove these lines"
        )

    def rest(split: ImageSplit) -> ImageSplit:
        return split.select([i for i, row in enumerate(split.source_rows) if row not in out])

    trained = rest(trained)
    if lost := sorted(set(full.labels) - set(trained.labels)):
        raise ValueError(
            f"--exclude_list leaves the class {data.class_names[lost[0]]!r} without training images: keep at "
            "least one, or remove the class"
        )
    if validation and validation.split_off:
        validation = rest(validation)
    elif validation:
        rows = excluded.get("validation", ())
        validation = validation.select([i for i in range(len(validation.labels)) if i not in rows])
    if validation and not validation.labels:
        validation = None
    return replace(data, train=rest(data.train)), trained, validation


def _why_none(data: ImageData, minimum: int = 0) -> str:
    """Why no class gives an image to a split, and what to do."""
    counts, least = data.class_counts, max(minimum, 2)
    if max(counts) >= least:
        return (
            f"every image of a class with {least} or more images has an exact copy, and copies stay in the "
            "training split: remove the copies"
        )
    largest = counts.index(max(counts))
    left, advice = "", f"lower --test_min_images {minimum}" if minimum > 2 else "add images"
    if data.test and data.test.split_off:
        taken = list(data.test.labels).count(largest)
        left, advice = f" left after {taken} for the test split", "lower --test_fraction, or set it to 0"
    images = "1 image" if counts[largest] == 1 else f"{counts[largest]} images"
    return (
        f"the largest class, {data.class_names[largest]!r}, has {images}{left}, but needs at least {least}: {advice}"
    )


def report(division: Division, lines: list[str]) -> list[str]:
    """What the user should know of the data before training, in a few lines. `lines`: of [`check_images`]."""
    data, counts = division.data, division.full_counts
    splits = {"for training": division.trained, "for validation": division.validation, "for testing": data.test}
    parts = [
        f"{len(split.labels)} {what}{' (split off)' if split.split_off else ''}" if split else f"none {what}"
        for what, split in splits.items()
    ]
    total = sum(len(split.labels) for split in splits.values() if split)
    many, medium, few = shots(data.class_counts)
    untested = "" if data.class_counts == counts else " (without the test split)"
    left = class_counts(division.trained.labels, len(counts), allow_empty=True)
    rest = "" if left == counts else f", {max(left)} to {min(left)} for training"
    head = [
        f"{total} images of {len(counts)} classes: {', '.join(parts)}",
        f"imbalance factor {max(counts) / min(counts):.4g} ({max(counts)} to {min(counts)} images per "
        f"class{rest}); classes with {GROUPS_TEXT}{untested}: {many}, {medium}, {few}",
    ]
    for split, what in ((division.validation, "validate"), (data.test, "test")):
        absent = sorted(set(range(len(counts))) - set(split.labels)) if split else []
        if absent:
            names = examples([repr(data.class_names[label]) for label in absent])
            have = "1 class has" if len(absent) == 1 else f"{len(absent)} classes have"
            head.append(f"{have} no images to {what} with: {names}")
    if data.test and data.test.split_off:
        head += _test_cost(division, data.test)
    return head + lines


def _test_cost(division: Division, test: ImageSplit) -> list[str]:
    """What a test that was split off says about the rarest classes, for the user to read."""
    counts, minimum = division.full_counts, division.test_min_images
    taken = class_counts(test.labels, len(counts), allow_empty=True)
    most = -min((count, -take) for count, take in zip(counts, taken, strict=True) if take)[1]
    spared = sum(count < minimum for count in counts)
    classes = "1 class" if spared == 1 else f"{spared} classes"
    exempt = f"note: {classes} with fewer than {minimum} images have no test images" if spared else ""
    smallest = f"the smallest classes{' of the others' if spared else ''}"
    coarse = (
        f"note: {smallest} have {most} test image{'s' * (most > 1)} each, so their scores are coarse: use a test "
        "folder of your own, or --test_fraction 0 for no test split"
    )
    return [*filter(None, [exempt]), *([coarse] if most <= COARSE else [])]
