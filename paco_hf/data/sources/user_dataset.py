"""A user's own dataset: which columns hold images and classes, which splits there are, and the classes' names."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Image

from ...utils.folder_contents import PassedOver, walk_images
from ...utils.text import examples
from ..image_split import ImageSplit
from ..images import LabeledImages
from ..spec import DataSpec
from .columns import (
    LEFT_OUT,
    ONE_HOT,
    find_image_column,
    find_label_column,
    one_hot_columns,
    read_one_hot,
    split_roles,
)
from .file_names import FileFinder, resolve_files
from .hf_tables import image_tables
from .labels import label_classes, look_alike, read_labels
from .remote import local_copy
from .row_splits import split_by_folder, split_column
from .rows import read_rows
from .source import Source, check_column
from .table_files import Rows, file_names_in


def open_user_dataset(spec: DataSpec, test_only: bool = False) -> Source:
    """Open a folder, a table file or a Hub id, and detect what the spec does not say.

    Args:
        spec (`DataSpec`): whose dataset is as [`paco_hf.data.sources.rows.read_rows`] takes it.
        test_only (`bool`, *optional*, defaults to `False`): there need be no split to train on.

    Raises:
        ValueError: columns or splits that cannot be told or do not exist, labels that name no class, fewer than two
            classes, files that do not exist.
        OSError: what [`paco_hf.data.sources.rows.read_rows`] raises.
    """
    dataset = spec.dataset
    named = spec.image_column, spec.label_column
    with local_copy(spec.source) as (place, remote):
        rows, notes = read_rows(place, spec.label_source, named, remote, spec.splits)
        notes = [note.replace(place, dataset) for note in notes]
    rows, split_by = split_column(rows, named, spec.splits.values(), notes)
    rows = rows if split_by else split_by_folder(rows, dataset, spec.image_column, notes)
    roles = split_roles(dataset, list(rows), spec.splits, test_only)
    notes += dict.fromkeys(note for split in roles.values() for note in rows[split].notes)
    first = rows[next(iter(roles.values()))]
    image = find_image_column(first, dataset, spec.image_column, first.finder)
    if spec.label_column is None and (one_hot := one_hot_columns(first, dataset, image)):
        labeled = [split for split in roles.values() if {*one_hot} <= {*rows[split].data.features}]
        rows = rows | {split: read_one_hot(rows[split], one_hot, f"{dataset} {split}") for split in labeled}
        first, label = rows[next(iter(roles.values()))], ONE_HOT
        notes.append(f"labels: from the one-hot columns {examples(one_hot)}")
    else:
        label = find_label_column(first, dataset, image, spec.label_column)
    values = _labels_by_role(spec, rows, roles, (image, label), notes)
    roles = {role: split for role, split in roles.items() if role in values}
    if not values:
        raise ValueError(f"{dataset} has no labels to evaluate with: {'; '.join(notes)}")
    names, ids = label_classes(first, label, next(iter(values.values())), dataset, notes)
    if len(names) < 2 and not test_only:
        raise ValueError(
            f"{dataset} has only one class ({', '.join(map(repr, names))}): a classifier needs at least two"
            + "".join(f"; {note}" for note in notes)
        )
    splits: dict[str, ImageSplit] = {}
    for role, split in roles.items():
        if unknown := Counter(value for value in values[role] if value not in ids):
            value, count = next(iter(unknown.items()))
            raise ValueError(
                f"the split {split!r} of {dataset} has a class {value!r} that is not in its train split ({count} "
                "images)" + (look_alike(str(value), names) or _without(role))
            )
        present = {*values[role]}
        if missing := [name for value, name in zip(ids, names, strict=True) if value not in present]:
            notes.append(
                f"{len(missing)} of the {len(names)} classes have no images in the split {split!r}, such as "
                f"{missing[0]!r}: its scores do not cover them"
            )
        about: dict[str, Any] = {"dataset": dataset, "source_split": split, "role": role, "class_names": names}
        if os.path.exists(place):
            about["root"] = place if os.path.isdir(place) else os.path.dirname(place) or "."
        splits[role] = _images(rows[split], image, notes, labels=[ids[value] for value in values[role]], **about)
    left_out = spec.splits.get("test") == LEFT_OUT
    if "test" not in splits and "validation" in splits and "validation" not in spec.splits and not left_out:
        splits["test"] = splits.pop("validation")
        splits["test"].role = "test"
    columns = "labels: from the class folders" if first.files else _describe_columns(first, image, label, split_by)
    uses = ", ".join(f"{role} {split.source_split!r}" for role, split in splits.items())
    unused = [split for split in rows if split not in roles.values()]
    rest = f"; not used: {', '.join(map(repr, unused))}" if unused else ""
    if os.path.isdir(place) and first.files is None and not unused and (alone := _unlisted(Path(place), splits)):
        notes.append(f"skipped {len(alone)} images of the folder that are in no table, such as {alone[0]}")
    if test_only and "test" in splits:
        splits = {"test": splits["test"]}
    return Source(splits, f"{columns}; splits: {uses}{rest}", notes)


def _labels_by_role(
    spec: DataSpec, rows: Mapping[str, Rows], roles: Mapping[str, str], columns: tuple[str, str], notes: list[str]
) -> dict[str, list[Any]]:
    """What the label column holds; a split without labels is left out, with a note, save that to train on."""
    values: dict[str, list[Any]] = {}
    for role, split in roles.items():
        features, name = rows[split].data.features, f"{spec.dataset} {split}"
        if columns[1] not in features and role != "train" and role not in spec.splits:
            notes.append(f"the split {split!r} has no column {columns[1]!r} and is skipped")
            continue
        for column, kind in zip(columns, ("image", "label"), strict=True):
            check_column(features, column, f"the split {split!r} of {spec.dataset}", kind)
        # Whether the labels of a text file are numbers is seen in those to train on.
        numbers = isinstance(values["train"][0], int) if "train" in values else None
        labels = read_labels(rows[split], columns[1], name, notes, numbers)
        if not (missing := labels.count(None)):
            values[role] = labels
        elif missing == len(labels) and role != "train":
            notes.append(f"the split {split!r} has no labels and is skipped")
        else:
            raise ValueError(
                f"{missing} of the {len(labels)} rows of {name} have no label in {columns[1]!r}, the first is row "
                f"{labels.index(None)}: label or remove them"
            )
    return values


def _describe_columns(rows: Rows, image: str, label: str, split: str | None) -> str:
    unused = [repr(name) for name in rows.data.features if name not in (image, label)]
    text = f"columns: image {image!r}, label {label!r}" + (f", split {split!r}" if split else "")
    return f"{text} (not used: {examples(unused, 5)})" if unused else text


def _unlisted(folder: Path, splits: Mapping[str, ImageSplit]) -> list[str]:
    """The images of a folder that no split has, where the splits are of files."""
    used: set[str] = set()
    for split in splits.values():
        if not (isinstance(split, LabeledImages) and split.files):
            return []
        used |= {os.path.abspath(file) for file in split.files}
    images = walk_images(folder, PassedOver(folder))
    return [str(file.relative_to(folder)) for file in images if os.path.abspath(file) not in used]


def _without(role: str) -> str:
    return "" if role == "train" else f": if it has no labels, exclude it with --{role}_split {LEFT_OUT}"


def _images(
    rows: Rows, column: str, notes: list[str], *, dataset: str, source_split: str, **about: Any
) -> LabeledImages:
    about |= {"dataset": dataset, "source_split": source_split}
    paths = None if rows.files else file_names_in(rows, column)
    if paths is None:
        is_image = isinstance(rows.data.features[column], Image)
        data = rows.data if is_image else rows.data.cast_column(column, Image())
        return LabeledImages(data, column, files=rows.files, **about)
    finder = rows.finder or FileFinder(Path())
    files = resolve_files(finder, paths, rows.root, f"{dataset} {source_split} (column {column!r})")
    if finder.note and finder.note not in notes:
        notes.append(finder.note)
    data = image_tables({source_split: (files, about["labels"])}, about["class_names"])[source_split]
    return LabeledImages(data, "image", files=files, **about)
