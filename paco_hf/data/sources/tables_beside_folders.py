"""Which tables of a folder are read, where there are class folders, too: what is laid out wins over a guess."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ...utils.folder_contents import PassedOver, is_image_name, scan, walk
from ...utils.text import examples
from .columns import (
    ONE_HOT,
    find_image_column,
    find_label_column,
    named_label_columns,
    one_hot_columns,
    read_one_hot,
)
from .file_names import FileFinder
from .folders import near_layout, split_folders
from .labels import clean, read_labels
from .row_splits import split_column
from .split_names import are_classes, are_numbered, folder_split, name_split, split_in, usual_split
from .table_files import Rows, file_names_in, holds_images, is_table, is_text, read_files


def choose_tables(
    folder: Path,
    label_source: str | None,
    columns: Sequence[str | None],
    passed: PassedOver,
    chosen: Mapping[str, str] | None = None,
) -> tuple[list[Path], list[str]]:
    """The tables of a folder to read, none where the class folders are to be, and what the user should know.

    Args:
        folder (path): of the dataset.
        label_source (`str`, *optional*): `folders` or `table`; `None`: as the layout says.
        columns (sequence of `str`, *optional*): that the user named, which only a table has.
        passed ([`PassedOver`]): takes note of what is no data.
        chosen (`dict`, *optional*): the names of splits by role that the user said.

    Raises:
        ValueError: class folders and a table give different classes; or class folders lie deeper, and no table says
            by a name which of its columns is the label.
    """
    finder = FileFinder(folder)
    tables, notes = _candidates(folder, passed, finder)
    if not tables:
        if label_source == "table":
            raise ValueError(f"{folder} has no table with images or image names: remove --label_source table")
        return [], notes
    names = examples([str(file.relative_to(folder)) for file in tables])
    beside = f"labels: from the class folders, not from {names}"
    if label_source == "folders":
        return [], [*notes, beside]
    roots = _class_roots(folder, passed, chosen)
    near = None if roots else near_layout(folder, passed)
    if label_source == "table" or any(columns):
        notes += [f"labels: from {names}, not from the class folders"] if roots or near else []
        return _one_a_split(folder, tables), notes
    if not (roots or near):
        filled = [one for one in scan(folder, passed).folders if scan(one, passed).images or scan(one, passed).folders]
        if filled and all(reasons := [_unreadable(file, finder, len(tables) == 1) for file in tables]):
            return [], [*notes, f"{beside}: {reasons[0]}"]
        return _one_a_split(folder, tables), [*notes, f"labels: from {names}"] if filled else notes
    in_folders = roots or _class_roots(near or folder, passed)
    claims = [_labels_by_file(file, finder, in_folders) for file in tables]
    reasons = [claim for claim in claims if isinstance(claim, str)]
    if len(reasons) == len(claims):
        numbered = are_numbered([one.name for one in scan(folder, passed).folders])
        if (near or numbered) and not all(_unreadable(file, finder, len(tables) == 1) for file in tables):
            near = near or folder
            raise ValueError(
                f"{folder} has class folders in {near} and {names}, which has no label column ({reasons[0]}): use "
                f"--dataset {near} --label_source folders to use the class folders, or --label_column to use the table"
            )
        return [], [*notes, f"{beside}: {reasons[0]}"]
    for file, claim in zip(tables, claims, strict=True):
        if not isinstance(claim, str) and (dispute := _dispute(claim, in_folders)):
            raise ValueError(
                f"the class folders of {folder} and {file.relative_to(folder)} disagree: "
                f"{os.path.relpath(dispute[0], folder)} is in the folder {dispute[1]!r}, but has the label "
                f"{dispute[2]!r} in the table: use --label_source folders or --label_source table"
            )
    roles = {split_in(file.name) or "train" for file in tables} | {role for t in tables for role in _column_splits(t)}
    if near or roles > {name_split(name) for name in in_folders}:
        notes.append(f"labels: from {names}, which agrees with the class folders")
        return _one_a_split(folder, tables), notes
    if extra := roles - {name_split(name) for name in in_folders} - {"train"}:
        notes.append(
            f"WARNING: {names} has images of the {min(extra)} split that are not in class folders; they are not read"
        )
    return [], [*notes, f"labels: from the class folders, which agree with {names}"]


def _class_roots(folder: Path, passed: PassedOver, chosen: Mapping[str, str] | None = None) -> dict[str, Path]:
    """The folders of class folders by split; empty where there are fewer than two classes, or no classes in splits."""
    splits = split_folders(folder, passed, chosen)
    if len({one.name for root in splits.values() for one in scan(root, passed).folders}) > 1:
        return splits
    classes = [one for one in scan(folder, passed).folders if scan(one, passed).images]
    return {"train": folder} if len(classes) > 1 and are_classes([one.name for one in classes]) else {}


def _candidates(folder: Path, passed: PassedOver, finder: FileFinder) -> tuple[list[Path], list[str]]:
    """The tables of a folder that may be those of its images, and what the user should know.

    Those whose names say a split, or are `metadata`, come before those in the folders of splits, or in the only
    folder, these before the others right in the folder or parquet anywhere, and these before tables deeper down. Of
    each kind there are those that name images, or have them.
    """
    top = scan(folder, passed)
    tables = [file for inside in walk(folder, passed) for file in inside.others if is_table(file)]
    direct = [file for file in tables if file.parent == folder or file.suffix.lower() == ".parquet"]
    named = [file for file in direct if file.stem.lower() == "metadata" or split_in(str(file.relative_to(folder)))]
    inside = [one for one in top.folders if folder_split(one.name) or len(top.folders) == 1]
    below = [file for file in tables if file.parent in inside]
    chosen: list[Path] = []
    for group in (named, below, direct, [file for file in tables if split_in(file.name)]):
        group = [file for file in group if not _is_submission(file)]
        chosen = chosen or [file for file in group if not _unreadable(file, finder, len(tables) == 1)]
    if not chosen:
        return [file for file in named or direct if not _is_submission(file)], []
    beside = [file for file in tables if file.parent == folder and file not in chosen]
    reasons = [f"{file.name} ({_unreadable(file, finder, False) or 'no split in its name'})" for file in beside[:3]]
    return chosen, [f"not read: {'; '.join(reasons)}{'; ...' if len(beside) > 3 else ''}"] if beside else []


def _is_submission(file: Path) -> bool:
    """Whether a table is the form of what competitions ask for, which names test images with labels that are none."""
    return "submission" in file.stem.lower()


def _one_a_split(folder: Path, files: list[Path]) -> list[Path]:
    """The tables, where there is one a split, or shards of it in one folder.

    Raises:
        ValueError: several tables, of which none says a split; or several folders have parquet of a split, as
            configurations of a dataset have.
    """
    places: dict[str, Path] = {}
    for file in files:
        split = split_in(str(file.relative_to(folder)))
        first = places.setdefault(split or "train", file)
        are_shards = file.suffix.lower() == first.suffix.lower() == ".parquet"
        if are_shards and first.parent != file.parent:
            raise ValueError(
                f"{folder} has parquet files of the {split or 'train'} split in {first.parent} and in "
                f"{file.parent}: pass one of these as --dataset, or move the files of a split into one folder"
            )
        if first != file and split is None and not are_shards:
            names = examples([str(one.relative_to(folder)) for one in files])
            raise ValueError(f"{folder} has several tables of images, {names}: pass one of them as --dataset")
    return files


def _unreadable(file: Path, finder: FileFinder, alone: bool) -> str:
    """Why a table cannot be the one of the images in a finder's folder; empty where it can."""
    folder = finder.folder
    try:
        rows = read_files([file])
    except (ValueError, OSError) as error:
        return str(error).replace(f"{folder}{os.sep}", "")
    if alone and len(rows.data.features) < 2:
        return f"{file.name} has only one column"
    if any(map(holds_images, rows.data.features.values())):
        return ""
    rows.root = image_root(rows, folder, split_in(str(file.relative_to(folder)))) or rows.root
    try:
        find_image_column(rows, file.name, None, finder)
    except ValueError:
        return f"no column of {file.name} contains names of images in the folder"
    return ""


def image_root(rows: Rows, folder: Path, split: str | None) -> Path | None:
    """The folder that most file names in some column of a table are below: its own, that of the dataset, or one of
    images in it.

    Args:
        rows (`Rows`): of the table.
        folder (path): of the dataset.
        split (`str`, *optional*): that the table is of.
    """
    inside = scan(folder, PassedOver(folder)).folders
    likely = [entry for entry in inside if len(inside) == 1 or entry.name.lower() == "images"]
    likely += [entry for entry in inside if split and folder_split(entry.name) == usual_split(split)]
    texts = [name for name, feature in rows.data.features.items() if is_text(feature)]
    first = rows.data.select_columns(texts)[:100]
    for root in dict.fromkeys((rows.root or folder, folder, *likely)):
        stems = {image.stem for image in scan(root, PassedOver(root)).images}
        for values in first.values():
            # Text that is no file name may be longer than a path can be.
            there = [v for v in values if v and (v in stems or (is_image_name(v) and (root / v).is_file()))]
            if 2 * len(there) > len(values):
                return root
    return None


def _labels_by_file(file: Path, finder: FileFinder, roots: Mapping[str, Path]) -> list[tuple[str, str]] | str:
    """Images of the folder with the labels that a table has for them, or why it has none. A column that is not called
    label counts where the folders say the same."""
    if reason := _unreadable(file, finder, False):
        return reason
    rows, folder = read_files([file]), finder.folder
    image = find_image_column(rows, file.name, None, finder)
    values = file_names_in(rows, image)
    if values is None:
        return f"{file.name} contains images itself"
    split = split_in(str(file.relative_to(folder)))
    files = finder.find(values, image_root(rows, folder, split) or rows.root)

    def pairs(rows: Rows, column: str) -> list[tuple[str, str]]:
        labels = read_labels(rows, column, file.name, [])
        return [(one, str(label)) for one, label in zip(files, labels, strict=True) if one and label is not None]

    if columns := named_label_columns(rows, image):
        return pairs(rows, columns[0]) or f"no column of {file.name} contains names of images in the folder"
    with suppress(ValueError):  # it is none of labels
        one_hot = one_hot_columns(rows, file.name, image)
        rows = read_one_hot(rows, one_hot, file.name) if one_hot else rows
        guess = pairs(rows, ONE_HOT if one_hot else find_label_column(rows, file.name, image, None))
        if guess and not _dispute(guess, roots):
            return guess
    return f"no column of {file.name} is called label or class (select one with --label_column NAME)"


def _dispute(pairs: Sequence[tuple[str, str]], roots: Mapping[str, Path]) -> tuple[str, str, str] | None:
    """An image whose class folder and label are of different classes, and these two; `None` where all agree."""
    by_label: dict[str, str] = {}
    by_class: dict[str, str] = {}
    tops = [os.path.join(root, "") for root in roots.values()]
    names = {clean(one.name) for root in roots.values() for one in scan(root, PassedOver(root)).folders}
    for file, label in pairs:
        top = next((top for top in tops if file.startswith(top)), None)
        if top is None or os.sep not in (below := file[len(top) :]):
            continue
        class_name = clean(below.split(os.sep)[0])
        first = by_label.setdefault(label, class_name), by_class.setdefault(class_name, label)
        if first != (class_name, label) or (label in names and label != class_name):
            return file, class_name, label
    return None


def _column_splits(table: Path) -> set[str]:
    """The splits that a column of a table names."""
    pieces, _ = split_column({"": read_files([table])}, ())
    return {role for name in pieces if (role := usual_split(name))}


def splits_beside(folder: Path, passed: PassedOver) -> dict[str, str]:
    """The splits of images in class folders, by file, where tables beside them name several; else empty.

    Args:
        folder (path): of the class folders.
        passed ([`PassedOver`]): takes note of what is no data.

    Raises:
        ValueError: an image is in two splits.
    """
    places: dict[str, str] = {}
    finder, twice = FileFinder(folder), ""
    for table in _candidates(folder, passed, finder)[0]:
        pieces, _ = split_column({split_in(table.name) or "": read_files([table])}, ())
        for split, rows in pieces.items():
            if not usual_split(split):
                continue
            with suppress(ValueError):  # it names no images
                names = file_names_in(rows, find_image_column(rows, table.name, None, finder)) or []
                files = [*filter(None, finder.find(names, rows.root))]
                twice = next((file for file in files if places.setdefault(file, split) != split), twice)
    if twice:
        raise ValueError(
            f"{os.path.relpath(twice, folder)} is in two splits of the tables in {folder}: keep it in one of them"
        )
    return places if len({usual_split(split) for split in places.values()}) > 1 else {}
