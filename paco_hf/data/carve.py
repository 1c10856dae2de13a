"""Dividing a data set into what is trained on, validated on and tested on, and the manifest of that division."""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .lists import selection_hash, shots
from .long_tail import class_counts, stratified_split
from .splits import ImageData, LabelledImages

SPLITS_NAME = "splits.json"
TEST_FRACTION = 0.2  # of a data set of one's own that has no test split


@dataclass
class Division:
    """What is trained on, validated on and tested on. `data.train` is the training selection with the validation carve
    in it, and without that of the test."""

    data: ImageData
    trained: Any
    validation: Any
    manifest: dict[str, Any] | None  # `None` where nothing was carved


def divide(
    data: ImageData,
    seed: int,
    validation_fraction: float,
    test_fraction: float = 0.0,
    twins: Any = None,
    source: dict[str, Any] | None = None,
) -> Division:
    """Carve a test split where there is none, then a validation split where there is none.

    The outcome is a function of the labels, the seed, the fractions and the twins.

    Args:
        data (`ImageData`): all splits that the source has.
        seed (`int`): which images are carved.
        validation_fraction (`float`): of each class's images; 0 is none, and leaves out one that the source has.
        test_fraction (`float`, *optional*, defaults to `0.0`): likewise of the test; where the source has one it
            counts for nothing.
        twins (sequence of `bool`, *optional*): images with an exact copy, which stay in train.
        source (`dict`, *optional*): [`source_of`] the training split before images that cannot be decoded were left
            out.

    Raises:
        ValueError: a fraction out of range.
    """
    full = data.train
    carve = 0.0 if data.test else test_fraction
    rest, tested = stratified_split(full.labels, carve, seed, twins, "test_fraction")
    if carve and not tested:
        data.notes.append(
            "no test split can be carved, so no score will be measured: no class has two images"
            + ("" if twins is None else " without an exact copy")
        )
    if tested:
        kept = full.select(rest, full.name)
        test = full.select(tested, f"{full.name}, carved for the test")
        data = replace(data, train=kept, test=test)
        twins = None if twins is None else np.asarray(twins)[rest]
    own_validation = data.validation if validation_fraction > 0 else None
    carve = 0.0 if own_validation else validation_fraction
    train_rows, validation_rows = stratified_split(data.train.labels, carve, seed, twins)
    trained = data.train.select(train_rows, data.train.name)
    carved = data.train.select(validation_rows, f"{data.train.name}, carved") if validation_rows else None
    manifest = None
    if tested or carved:
        manifest = {
            "seed": seed,
            "validation_fraction": validation_fraction,
            "test_fraction": test_fraction,
            "source": source or source_of(full),
            "class_names": data.class_names,
            "splits": {
                "train": _described(trained, data.class_names, True),
                "validation": _described(own_validation or carved, data.class_names, carved is not None),
                "test": _described(data.test, data.class_names, bool(tested)),
            },
        }
    return Division(data, trained, own_validation or carved, manifest)


def _described(split: Any, class_names: list[str], carved: bool) -> dict[str, Any] | None:
    if split is None:
        return None
    content: dict[str, Any] = {
        "name": split.name,
        "images": len(split.labels),
        "selection": selection_of(split),
        "class_counts": class_counts(split.labels, len(class_names), allow_empty=True),
        "carved": carved,
    }
    if carved:
        content["rows"] = _rows(split)
        if isinstance(split, LabelledImages) and split.files:
            root = os.path.commonpath({os.path.abspath(os.path.dirname(file)) for file in split.files})
            content["files"] = [os.path.relpath(split.files[row], root) for row in content["rows"]]
    return content


def _rows(split: Any) -> list[int]:
    return list(range(len(split.labels))) if split.rows is None else [int(row) for row in split.rows]


def check_source(before: dict[str, Any] | None, now: dict[str, Any] | None) -> None:
    """That a run that is resumed would carve the same splits; otherwise it would train on images that it is tested on.

    Raises:
        ValueError: the data has changed.
    """
    if before and now and any(before["source"][key] != now["source"][key] for key in ("images", "selection")):
        raise ValueError(
            f"the data has changed since the run was started ({now['source']['images']} images, then "
            f"{before['source']['images']}), so its splits would not be the same: restore it, or start anew with "
            "--overwrite"
        )


def source_of(full: Any) -> dict[str, Any]:
    """What tells whether a training split is the one that was carved."""
    return {"name": full.name, "images": len(full.labels), "selection": selection_of(full)}


def selection_of(split: Any) -> str:
    """SHA-256 of the `row label` lines of a split, rows counted in its source."""
    return selection_hash([str(row) for row in _rows(split)], split.labels)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What `splits.json` of a run folder says, `None` where nothing was carved.

    Raises:
        ValueError: it is damaged.
    """
    return read_json(folder / SPLITS_NAME)


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}): restore it, or train the run anew") from error


def carved_again(full: Any, manifest: dict[str, Any], split: str) -> Any:
    """The images of a carved split, from the training split that it was carved from.

    Raises:
        ValueError: it is not the training split of then.
    """
    content, source = manifest["splits"][split], manifest["source"]
    if len(full.labels) != source["images"] or selection_of(full) != source["selection"]:
        changed = (
            f"{len(full.labels)} images instead of {source['images']}"
            if len(full.labels) != source["images"]
            else "other labels, or another order"
        )
        raise ValueError(
            f"{full.name} is not what the run's {split} split was carved from: it has {changed}. Restore the data of "
            "then, or give data with a test split of its own"
        )
    place = {row: index for index, row in enumerate(_rows(full))}
    return full.select([place[row] for row in content["rows"]], content["name"])


def report(division: Division, lines: list[str]) -> list[str]:
    """What the user should know of the data before training, in a few lines. `lines`: of a survey."""
    data, counts = division.data, division.data.class_counts
    splits = ((division.trained, "to train on"), (division.validation, "for validation"), (data.test, "for the test"))
    parts = [f"{len(split.labels)} {what}{_origin(split)}" if split else f"none {what}" for split, what in splits]
    total = sum(len(split.labels) for split, _ in splits if split)
    many, medium, few = shots(counts)
    head = [
        f"{total} images of {len(counts)} classes: {', '.join(parts)}",
        f"imbalance factor {max(counts) / min(counts):.4g} ({max(counts)} to {min(counts)} images a class); classes "
        f"with many (> 100), medium (20 to 100), few (< 20): {many}, {medium}, {few}",
    ]
    scored = [split for split in (division.validation, data.test) if split]
    if scored:
        absent = set(range(len(counts))) - set(scored[0].labels)
        names = [repr(data.class_names[label]) for label in sorted(absent)]
        where = "validate" if division.validation else "test"
        if names:
            head.append(
                f"{_classes(len(names))} no image to {where} with: {', '.join(names[:3])}"
                f"{', ...' if len(names) > 3 else ''}"
            )
    return head + lines


def _classes(count: int) -> str:
    return "1 class has" if count == 1 else f"{count} classes have"


def _origin(split: Any) -> str:
    return " (carved)" if ", carved" in split.name else ""
