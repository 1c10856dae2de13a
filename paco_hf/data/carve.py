"""Dividing a data set into what is trained on, validated on and tested on, and the manifest of that division."""

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
    full_counts: list[int]  # images of each class before any carve


def divide(
    data: ImageData,
    seed: int,
    validation_fraction: float,
    test_fraction: float = 0.0,
    twins: Any = None,
    source: dict[str, Any] | None = None,
    split_seed: int = 0,
) -> Division:
    """Carve a test split where there is none, then a validation split where there is none.

    The outcome is a function of the labels, the seeds, the fractions and the twins. The test does not follow `seed`:
    runs of several seeds are scored on the same images.

    Args:
        data (`ImageData`): all splits that the source has.
        seed (`int`): which images are carved for validation.
        validation_fraction (`float`): of each class's images; 0 is none, and leaves out one that the source has.
        test_fraction (`float`, *optional*, defaults to `0.0`): likewise of the test; where the source has one it
            counts for nothing.
        twins (sequence of `bool`, *optional*): images with an exact copy, which stay in train.
        source (`dict`, *optional*): [`source_of`] the training split before images that cannot be decoded were left
            out.
        split_seed (`int`, *optional*, defaults to `0`): which images are carved for the test.

    Raises:
        ValueError: a fraction out of range.
    """
    full = data.train
    carve = 0.0 if data.test else test_fraction
    rest, tested = stratified_split(full.labels, carve, split_seed, twins, "test_fraction")
    alone = twins is None or not np.any(twins)
    lacking = "no class has two images" + ("" if alone else " without an exact copy")
    if carve and not tested:
        data.warnings.append(f"no test split can be carved, so no score will be measured: {lacking}")
    if tested:
        kept = full.select(rest, full.name)
        test = full.select(tested, f"{full.name}, carved for the test")
        data = replace(data, train=kept, test=test)
        twins = None if twins is None else np.asarray(twins)[rest]
    own_validation = data.validation if validation_fraction > 0 else None
    carve = 0.0 if own_validation else validation_fraction
    train_rows, validation_rows = stratified_split(data.train.labels, carve, seed, twins)
    if carve and not validation_rows:
        data.warnings.append(f"no validation split can be carved, so the last epoch's model is kept: {lacking}")
    trained = data.train.select(train_rows, data.train.name)
    carved = data.train.select(validation_rows, f"{data.train.name}, carved") if validation_rows else None
    manifest = None
    if tested or carved:
        manifest = {
            "seed": seed,
            "split_seed": split_seed,
            "validation_fraction": validation_fraction,
            "test_fraction": test_fraction,
            "source": source or source_of(full, data.own),
            "class_names": data.class_names,
            "splits": {
                "train": _described(trained, data.class_names, True),
                "validation": _described(own_validation or carved, data.class_names, carved is not None),
                "test": _described(data.test, data.class_names, bool(tested)),
            },
        }
    counts = class_counts(full.labels, len(data.class_names))
    return Division(data, trained, own_validation or carved, manifest, counts)


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
            names = relative_names(split.files)
            content["files"] = [names[row] for row in content["rows"]]
    return content


def relative_names(files: list[str]) -> list[str]:
    """Names of files below the deepest folder that has all of them, so that moved data keeps them."""
    parts = [os.path.split(file) for file in files]
    folders = {folder: os.path.abspath(folder) for folder in {folder for folder, _ in parts}}
    root = os.path.commonpath(list(folders.values()))
    below = {folder: os.path.relpath(path, root) for folder, path in folders.items()}
    return [name if below[folder] == "." else f"{below[folder]}/{name}" for folder, name in parts]


def _rows(split: Any) -> list[int]:
    return list(range(len(split.labels))) if split.rows is None else [int(row) for row in split.rows]


def check_source(before: dict[str, Any] | None, now: dict[str, Any] | None) -> None:
    """That a run that is resumed would carve the same splits; otherwise it would train on images that it is tested on.

    Raises:
        ValueError: the data has changed, or what test or validation are carved by.
    """
    if not before or not now:
        return
    if changed := _changed(before["source"], now["source"]):
        raise ValueError(
            f"the data has changed since the run was started (it has {changed}), so its splits would not be the same: "
            "restore it, or start anew with --overwrite"
        )
    flags = {"test": "--test_fraction, --split_seed and --inspect", "validation": "--validation_fraction and --seed"}
    for role, given in flags.items():
        parts = [manifest["splits"][role] or {} for manifest in (before, now)]
        if any(part.get("carved") for part in parts) and parts[0].get("selection") != parts[1].get("selection"):
            raise ValueError(
                f"other images would be carved for the {role} than when the run was started, and it has trained on "
                f"some of them: give the {given} of then, or start anew with --overwrite"
            )


def source_of(full: Any, own: bool = True) -> dict[str, Any]:
    """What tells whether a training split is the one that was carved; of a data set of one's `own` with a hash of the
    files' names and sizes, or of the encoded images' sizes."""
    source = {"name": full.name, "images": len(full.labels), "selection": selection_of(full)}
    content = _content(full) if own and isinstance(full, LabelledImages) else None
    return source | ({"content": content} if content else {})


def _content(full: LabelledImages) -> str | None:
    digest = hashlib.sha256()
    if full.files:
        names = relative_names(full.files)
        for row in range(len(names)) if full.rows is None else full.rows:
            digest.update(f"{names[row]} {os.path.getsize(full.files[row])}\n".encode())
        return digest.hexdigest()
    column = full.encoded.data.column(full.image_column)
    if not pa.types.is_struct(column.type):
        return None
    # From the offsets: no image is read.
    sizes = pc.fill_null(pc.cast(pc.binary_length(pc.struct_field(column, "bytes")), "int64"), -1).to_numpy()
    indices = full.encoded._indices
    digest.update((sizes if indices is None else sizes[indices.column(0).to_numpy()]).tobytes())
    return digest.hexdigest()


def same_labels(full: Any, source: dict[str, Any]) -> bool:
    """Whether images have the labels of [`source_of`], in the same order."""
    return len(full.labels) == source["images"] and selection_of(full) == source["selection"]


def _changed(before: dict[str, Any], now: dict[str, Any]) -> str:
    """How two of [`source_of`] differ, in words; empty where they are the same."""
    if before["images"] != now["images"]:
        return f"{now['images']} images instead of {before['images']}"
    if before["selection"] != now["selection"]:
        return "other labels, or another order"
    # Runs of before contents were recorded have labels only.
    contents = before.get("content"), now.get("content")
    return "other, changed or renamed images, or another order" if all(contents) and contents[0] != contents[1] else ""


def selection_of(split: Any) -> str:
    """SHA-256 of the `row label` lines of a split, rows counted in its source."""
    return selection_hash([str(row) for row in _rows(split)], split.labels)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What `splits.json` of a run folder says, `None` where nothing was carved.

    Raises:
        ValueError: it is damaged.
    """
    return read_json(folder / SPLITS_NAME)


def public_manifest(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest without the names of files."""
    splits = {
        name: content and {key: value for key, value in content.items() if key != "files"}
        for name, content in manifest["splits"].items()
    }
    return manifest | {"splits": splits}


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
    if changed := _changed(source, source_of(full, "content" in source)):
        raise ValueError(
            f"{full.name} is not what the run's {split} split was carved from: it has {changed}. Restore the data of "
            "then, or give data with a test split of its own (new images in a folder `test`)"
        )
    place = {row: index for index, row in enumerate(_rows(full))}
    return full.select([place[row] for row in content["rows"]], content["name"])


def report(division: Division, lines: list[str]) -> list[str]:
    """What the user should know of the data before training, in a few lines. `lines`: of a survey."""
    data, counts = division.data, division.full_counts
    splits = ((division.trained, "to train on"), (division.validation, "for validation"), (data.test, "for the test"))
    parts = [f"{len(split.labels)} {what}{_origin(split)}" if split else f"none {what}" for split, what in splits]
    total = sum(len(split.labels) for split, _ in splits if split)
    many, medium, few = shots(data.class_counts)
    untested = "" if data.class_counts == counts else " without the test's"
    left = class_counts(division.trained.labels, len(counts), allow_empty=True)
    rest = "" if left == counts else f", of which {max(left)} to {min(left)} to train on"
    head = [
        f"{total} images of {len(counts)} classes: {', '.join(parts)}",
        f"imbalance factor {max(counts) / min(counts):.4g} ({max(counts)} to {min(counts)} images a class{rest}); "
        f"classes with many (> 100), medium (20 to 100), few (< 20){untested}: {many}, {medium}, {few}",
    ]
    for split, what in ((division.validation, "validate"), (data.test, "test")):
        absent = sorted(set(range(len(counts))) - set(split.labels)) if split else []
        if absent:
            names = [repr(data.class_names[label]) for label in absent[:3]]
            head.append(
                f"{_classes(len(absent))} no image to {what} with: {', '.join(names)}"
                f"{', ...' if len(absent) > 3 else ''}"
            )
    return head + lines


def _classes(count: int) -> str:
    return "1 class has" if count == 1 else f"{count} classes have"


def _origin(split: Any) -> str:
    return " (carved)" if ", carved" in split.name else ""
