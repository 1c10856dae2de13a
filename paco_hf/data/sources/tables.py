"""A user's folder, table file or Hub id as splits of rows, with whatever columns they have."""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Image, Value

from ...utils.images import IMAGE_SUFFIXES, UNREAD_SUFFIXES
from ...utils.text import repeated
from .folders import class_folders, image_tables
from .hub_dataset import load_hub
from .table_files import TABLE_SUFFIXES, Rows, is_table, read_files

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}

_USUAL = {name: role for role, names in SPLIT_NAMES.items() for name in names}


def usual_split(name: str) -> str | None:
    """`train`, `validation` or `test` where a split's name is one of its usual ones."""
    return _USUAL.get(name.lower())


def clean(name: str) -> str:
    """A class name without white space around it, and with accents composed: what looks alike is one class."""
    return unicodedata.normalize("NFC", name).strip()


def read_rows(dataset: str) -> tuple[dict[str, Rows], list[str]]:
    """The splits of a table file, a folder or a Hub id (`user/name`, or `user/name:configuration`) by their names in
    it, and what the user should know of it.

    A folder holds files of rows (`train.csv`, `metadata.jsonl`, parquet, ...), or class folders with or without the
    splits' folders above them; beside folders of images, a table is read where it names those. What names no split is
    `train`; in a single table a column may name the splits.

    Raises:
        ValueError: there are no images, or no classes; a file that cannot be read as what its name says.
        OSError: no such file or folder, and no such data set on the Hub.
    """
    path = Path(dataset)
    if not dataset.strip():
        raise ValueError("--dataset is empty: give a folder, a table file, or the id of a data set on the Hub")
    if path.is_dir():
        return _read_folder(path)
    if path.exists():
        if not is_table(path):
            raise ValueError(
                f"{dataset} is neither a folder nor a table: --dataset takes a folder of class folders, a file "
                f"({', '.join(TABLE_SUFFIXES)}), or the id of a data set on the Hub"
            )
        return {_split_in(path.name) or "train": read_files([path])}, []
    is_path = path.is_absolute() or dataset.startswith((".", "~")) or dataset.count("/") > 1
    if is_path or path.suffix.lower() in TABLE_SUFFIXES:
        raise OSError(f"{dataset} does not exist: --dataset takes a folder, a table file, or the id of a Hub data set")
    hub_id, _, config = dataset.partition(":")
    return {name: Rows(data) for name, data in load_hub(hub_id, config or None).items()}, []


def _read_folder(folder: Path) -> tuple[dict[str, Rows], list[str]]:
    files = sorted(folder.glob("**/*.parquet"))
    parquet = [file for file in files if not any(part[0] == "." for part in file.relative_to(folder).parts)]
    tables, notes = _table_files(folder, parquet)
    if tables:
        by_split: dict[str, list[Path]] = {}
        for file in tables:
            split = _split_in(str(file.relative_to(folder))) or re.sub(r"-\d+(-of-\d+)?$", "", file.stem)
            by_split.setdefault(split, []).append(file)
        if not any(map(usual_split, by_split)) and len(by_split) == 1:
            by_split = {"train": tables}
        rows = {split: read_files(paths) for split, paths in by_split.items()}
        for split, content in rows.items():
            content.root = _image_root(content, folder, split) or content.root
        return rows, notes
    folders = sorted(_subfolders(folder))
    if not folders:
        inside = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
        if not inside:
            raise ValueError(f"{folder} is empty: put the images of each class in a folder of its own in it")
        raise ValueError(
            f"{folder} has {sum(map(_is_image, inside))} images but no folders of classes: put the images of each "
            "class in a folder of its own, or their names and classes in a metadata.csv beside them"
        )
    splits = {entry.name: entry for entry in folders if usual_split(entry.name) and _subfolders(entry)}
    splits = splits or {"train": folder}
    result = {split: _read_class_folders(root, notes) for split, root in splits.items()}
    if not any(len(rows.data) for rows in result.values()):
        raise ValueError(
            f"{folder} has no images in its class folders (of the kinds {', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    beside = [entry.name for entry in folders if entry.name not in splits]
    if beside and folder not in splits.values():
        notes.append(f"beside the folders of the splits, {', '.join(beside[:3])} is left out")
    return result, notes


def _table_files(folder: Path, parquet: list[Path]) -> tuple[list[Path], list[str]]:
    """Parquet files anywhere in a folder, else files of rows right in it or as `metadata` in the folders of its
    splits, and what the user should know.

    Beside folders of images a table counts where it names a split or is the only one, and names images."""
    if parquet and not (_images_below(folder) and all(_unreadable(file, folder, False) for file in parquet)):
        return parquet, []
    notes = [f"{parquet[0].name} has no images, so it is left out"] if parquet else []
    direct = [file for file in sorted({*folder.iterdir()} - {*parquet}) if is_table(file) and file.name[0] != "."]
    named = [file for file in direct if file.stem.lower() == "metadata" or _split_in(file.name)]
    splits = [entry for entry in sorted(_subfolders(folder)) if usual_split(entry.name)]
    below = [file for entry in splits for file in sorted(entry.glob("metadata.*")) if is_table(file)]
    tables = named or below or direct
    if beside := [file.name for file in direct if tables is not direct and file not in tables]:
        notes.append(f"left out, as its name says no split: {', '.join(beside[:3])}")
    if not tables or not _images_below(folder):
        return tables, notes
    reasons = ["there is more than one, and none names a split"]
    if tables is not direct or len(tables) == 1:
        reasons = [_unreadable(file, folder, len(tables) == 1) for file in tables]
    if not all(reasons):
        return tables, notes
    passed = ", ".join(file.name for file in tables[:3])
    return [], [*notes, f"the classes are those of the folders, not those of {passed} beside them: {reasons[0]}"]


def _unreadable(file: Path, folder: Path, alone: bool) -> str:
    """Why a table cannot be the one of the images below a folder; empty where it can."""
    try:
        rows = read_files([file])
    except (ValueError, OSError) as error:
        return str(error).replace(f"{folder}{os.sep}", "")
    if alone and len(rows.data.features) < 2:
        return f"{file.name} has one column only"
    holds = any(map(holds_images, rows.data.features.values()))
    if not holds and _image_root(rows, folder, _split_in(file.name)) is None:
        return f"no column of {file.name} names images in the folder"
    return ""


def _image_root(rows: Rows, folder: Path, split: str | None) -> Path | None:
    """The folder that most file names in some column of a table are below: its own, that of the data set, or one of
    images in it."""
    inside = _subfolders(folder)
    likely = [entry for entry in inside if len(inside) == 1 or entry.name.lower() in ("images", split)]
    texts = [name for name, feature in rows.data.features.items() if is_text(feature)]
    first = rows.data.select_columns(texts)[:100]
    for root in dict.fromkeys((rows.root or folder, folder, *likely)):
        for values in first.values():
            # Text that is no file name may be longer than a path can be.
            if 2 * sum(_is_image(root / value) for value in values if value) > len(values):
                return root
    return None


def split_column(
    tables: dict[str, Rows], taken: Sequence[str | None], names: Collection[str] = ()
) -> tuple[dict[str, Rows], str | None]:
    """The splits that a column of the only table names, and the column.

    Args:
        tables (`dict`): by split; with more than one they are the splits.
        taken (sequence of `str`): columns that are for something else.
        names (collection of `str`, *optional*): of splits that may be in the column beside the usual ones.

    Raises:
        ValueError: a row without a split.
    """
    if len(tables) != 1:
        return tables, None
    ((_, rows),) = tables.items()
    for column in rows.data.column_names:
        if column.lower() not in ("split", "subset", "partition") or column in taken:
            continue
        feature, values = rows.data.features[column], rows.data[column][:]
        if isinstance(feature, ClassLabel):
            values = [None if value is None or value < 0 else feature.names[value] for value in values]
        values = [str(value).strip() if value is not None else "" for value in values]
        if not any(usual_split(value) or value in names for value in values):
            continue
        if "" in values:
            raise ValueError(
                f"{values.count('')} of the {len(values)} rows have no split in the column {column!r}, the first "
                f"being row {values.index('')}: fill it in, or remove them"
            )
        usual = [split for value in set(values) if (split := usual_split(value))]
        merge = len(set(usual)) < len(usual)
        places = defaultdict(list)
        for row, value in enumerate(values):
            places[(merge and usual_split(value)) or value].append(row)
        data = rows.data.remove_columns(column)
        return {name: replace(rows, data=data.select(where)) for name, where in places.items()}, column
    return tables, None


def holds_images(feature: Any) -> bool:
    """Whether a column's values are encoded images."""
    encoded = isinstance(feature, dict) and {"bytes", "path"} <= feature.keys()
    return encoded or isinstance(feature, Image) or (isinstance(feature, Value) and feature.dtype.endswith("binary"))


def is_text(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype.endswith("string")


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and os.path.isfile(path)


def _images_below(folder: Path) -> bool:
    return any(_subfolders(inside) or any(map(_is_image, inside.iterdir())) for inside in _subfolders(folder))


def _subfolders(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]


def _split_in(path: str) -> str | None:
    """The split that a file's path names, the file itself before its folders."""
    for part in reversed(Path(path).parts):
        words = re.split(r"[^a-z]+", part.lower().removesuffix(Path(path).suffix.lower()))
        words += [re.sub("(set|data|split)$", "", word) for word in words]
        if split := next((word for word in words if word in _USUAL), None):
            return split
    return None


def _read_class_folders(root: Path, notes: list[str]) -> Rows:
    files, labels, folders = class_folders(root)
    names = [clean(folder) for folder in folders]
    classes, name = sorted(set(names)), root.resolve().name
    if twice := repeated(names):
        notes.append(f"{name} has more than one folder for the class {twice!r}: they are read as one class")
    inside = {folder: [entry for entry in (root / folder).iterdir() if entry.name[0] != "."] for folder in folders}
    filled = {names[label] for label in labels}
    for folder, class_name in zip(folders, names, strict=True):
        unread = sorted({entry.suffix.lower() for entry in inside[folder]} & UNREAD_SUFFIXES)
        if class_name not in filled and unread:
            raise ValueError(
                f"the images of the class {class_name!r} of {name} are of a kind that is not read "
                f"({', '.join(unread)}): save them as JPEG or PNG"
            )
    ids = {class_name: label for label, class_name in enumerate(classes)}
    data = image_tables({"train": (files, [ids[names[label]] for label in labels])}, classes)["train"]
    others = [e.suffix.lower() or e.name for e in chain(*inside.values()) if e.suffix.lower() not in IMAGE_SUFFIXES]
    if count := len(others):
        kinds = ", ".join(sorted({*others})[:4])
        notes.append(f"{count} file{'s' * (count > 1)} in the class folders of {name} not read as images ({kinds})")
    if loose := [entry.name for entry in root.iterdir() if _is_image(entry)]:
        notes.append(
            f"{len(loose)} images of {name} lie outside of class folders and are left out, such as {loose[0]}"
        )
    return Rows(data, root, files=files)
