"""Dividing a data set into what is trained on, validated on and tested on, and the manifest of that division."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..metrics import GROUPS_TEXT, shots
from ..utils.text import examples
from .image_split import ImageSplit
from .images import ImageData
from .long_tail import class_counts, stratified_split
from .split_manifest import describe_source, describe_split

TEST_FRACTION = 0.2  # of user data that has no test split


@dataclass
class Division:
    """What is trained on, validated on and tested on.

    Args:
        data (`ImageData`): `data.train` is the training selection with the validation images that were split off from
            it, and without those of the test.
        trained, validation (`ImageSplit`): what is trained and validated on; `data.test` is tested on.
        manifest (`dict`, *optional*): what `splits.json` holds; `None` where nothing was split off.
        full_counts (list of `int`): images of each class before anything was split off.
    """

    data: ImageData
    trained: ImageSplit
    validation: ImageSplit | None
    manifest: dict[str, Any] | None
    full_counts: list[int]


def divide(
    data: ImageData,
    seed: int,
    validation_fraction: float,
    test_fraction: float = 0.0,
    duplicates: Any = None,
    *,
    source: dict[str, Any] | None = None,
    split_seed: int = 0,
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

    Raises:
        ValueError: a fraction out of range.
    """
    full = data.train
    fraction = 0.0 if data.test else test_fraction
    rest, tested = stratified_split(full.labels, fraction, split_seed, duplicates, "test_fraction")
    lacking = "no class has two images" + (" without an exact copy" if np.any(duplicates) else "")
    if fraction and not tested:
        data.warnings.append(f"no test split can be carved, so no score will be measured: {lacking}")
    if tested:
        data = replace(data, train=full.select(rest), test=full.select(tested, role="test", split_off=True))
        duplicates = None if duplicates is None else np.asarray(duplicates)[rest]
    validation = data.validation if validation_fraction > 0 else None
    fraction = 0.0 if validation else validation_fraction
    train_rows, validation_rows = stratified_split(data.train.labels, fraction, seed, duplicates)
    if fraction and not validation_rows:
        data.warnings.append(f"no validation split can be carved, so the last epoch's model is kept: {lacking}")
    trained = data.train.select(train_rows)
    if validation_rows:
        validation = data.train.select(validation_rows, role="validation", split_off=True)
    manifest = None
    if tested or validation_rows:
        manifest = {
            "seed": seed,
            "split_seed": split_seed,
            "validation_fraction": validation_fraction,
            "test_fraction": test_fraction,
            "source": source or describe_source(full, data.user_data),
            "class_names": data.class_names,
            "splits": {
                "train": describe_split(trained, with_rows=True),
                "validation": describe_split(validation),
                "test": describe_split(data.test),
            },
        }
    return Division(data, trained, validation, manifest, class_counts(full.labels, len(data.class_names)))


def report(division: Division, lines: list[str]) -> list[str]:
    """What the user should know of the data before training, in a few lines. `lines`: of [`check_images`]."""
    data, counts = division.data, division.full_counts
    splits = {"to train on": division.trained, "for validation": division.validation, "for the test": data.test}
    parts = [
        f"{len(split.labels)} {what}{' (carved)' if split.split_off else ''}" if split else f"none {what}"
        for what, split in splits.items()
    ]
    total = sum(len(split.labels) for split in splits.values() if split)
    many, medium, few = shots(data.class_counts)
    untested = "" if data.class_counts == counts else " without the test's"
    left = class_counts(division.trained.labels, len(counts), allow_empty=True)
    rest = "" if left == counts else f", of which {max(left)} to {min(left)} to train on"
    head = [
        f"{total} images of {len(counts)} classes: {', '.join(parts)}",
        f"imbalance factor {max(counts) / min(counts):.4g} ({max(counts)} to {min(counts)} images a class{rest}); "
        f"classes with {GROUPS_TEXT}{untested}: {many}, {medium}, {few}",
    ]
    for split, what in ((division.validation, "validate"), (data.test, "test")):
        absent = sorted(set(range(len(counts))) - set(split.labels)) if split else []
        if absent:
            names = examples([repr(data.class_names[label]) for label in absent])
            have = "1 class has" if len(absent) == 1 else f"{len(absent)} classes have"
            head.append(f"{have} no image to {what} with: {names}")
    return head + lines
