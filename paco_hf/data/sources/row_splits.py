"""Which rows of a table are for training, validation and test: by a column, or by the folders of their images."""

import os
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from datasets import ClassLabel, Value

from ...utils.text import examples
from .columns import BITS, find_image_column
from .split_names import folder_split, usual_split
from .table_files import Rows, file_names_in

_NAMES = ("split", "subset", "partition")
_FLAGS = {"is_valid": "validation", "is_validation": "validation", "is_val": "validation", "is_test": "test"}


def split_column(
    tables: dict[str, Rows], taken: Sequence[str | None], names: Collection[str] = (), notes: list[str] | None = None
) -> tuple[dict[str, Rows], str | None]:
    """The splits that a column names: one called `split`, `subset` or `partition`, one that holds nothing but the
    usual names of splits, or one such as fastai's `is_valid`.

    Args:
        tables (`dict`): by split.
        taken (sequence of `str`): columns that are for something else.
        names (collection of `str`, *optional*): of splits that may be in the column beside the usual ones.
        notes (list of `str`, *optional*): to which what the user should know is added.

    Returns:
        the tables by split, and the column; `None` where there is none.

    Raises:
        ValueError: a row without a split, or a split that two tables have.
    """
    result: dict[str, Rows] = {}
    column = None
    for table, rows in tables.items():
        pieces = {table: rows}
        for name in rows.data.column_names if not rows.files else ():
            feature = rows.data.features[name]
            if not isinstance(feature, ClassLabel | Value) or name in taken:
                continue
            if values := _row_splits(rows, name, names, notes):
                pieces, column = _pieces(rows, name, values), name
                break
        if twice := pieces.keys() & result.keys():
            raise ValueError(
                f"the split {min(twice)!r} is defined both in the column {column!r} of a table and in a separate "
                "table: keep one of them"
            )
        result |= pieces
    return result, column


def _row_splits(rows: Rows, column: str, names: Collection[str], notes: list[str] | None) -> list[str] | None:
    """The split of each row as a column has it; `None` where the column is of something else."""
    feature, lower = rows.data.features[column], column.lower()
    is_named = lower in _NAMES
    head = [str(value) for value in rows.data.select_columns([column])[:100][column] if value is not None]
    if lower in _FLAGS:
        bits = [BITS.get(str(value).strip().lower()) for value in rows.data[column][:]]
        return None if {*bits} != {0, 1} else [_FLAGS[lower] if bit else "train" for bit in bits]
    if not (is_named or isinstance(feature, ClassLabel) or all(usual_split(value.strip()) for value in head if value)):
        return None
    values = rows.data[column][:]
    if isinstance(feature, ClassLabel):
        if not is_named:
            return None
        values = [None if value is None or value < 0 else feature.names[value] for value in values]
    values = [str(value).strip() if value is not None else "" for value in values]
    usual = {usual_split(value) for value in values} - {None}
    if is_named and not usual and not {*values} & {*names}:
        if notes is not None:
            notes.append(
                f"WARNING: the column {column!r} contains {examples(sorted({*values}))}, which are not names of "
                "splits, and is not used: map them with --train_split and --test_split"
            )
        return None
    if not is_named and (len(usual) < 2 or not all(usual_split(value) or value in names for value in values)):
        return None
    if "" in values:
        raise ValueError(
            f"{values.count('')} of the {len(values)} rows have no split in the column {column!r}, the first is "
            f"row {values.index('')}: fill in the split, or remove these rows"
        )
    return values


def _pieces(rows: Rows, column: str, values: Sequence[str]) -> dict[str, Rows]:
    usual = [split for value in {*values} if (split := usual_split(value))]
    merge = len({*usual}) < len(usual)
    places = defaultdict(list)
    for row, value in enumerate(values):
        places[(merge and usual_split(value)) or value].append(row)
    data = rows.data.remove_columns(column)
    return {name: replace(rows, data=data.select(where)) for name, where in places.items()}


def split_by_folder(tables: dict[str, Rows], dataset: str, column: str | None, notes: list[str]) -> dict[str, Rows]:
    """The splits in whose folders the images of the only table lie, where it names no splits itself.

    Args:
        tables (`dict`): by split; with more than one they are the splits.
        dataset (`str`): for messages.
        column (`str`, *optional*): of the images; detected where `None`.
        notes (list of `str`): to which what the user should know is added.

    Raises:
        ValueError: some images lie in the folders of splits, others do not.
    """
    rows = next(iter(tables.values()))
    if len(tables) != 1 or rows.finder is None or rows.files:
        return tables
    names = file_names_in(rows, find_image_column(rows, dataset, column, rows.finder))
    if names is None:
        return tables
    places: dict[str, list[int]] = defaultdict(list)
    for row, file in enumerate(rows.finder.find(names, rows.root)):
        inside = Path(os.path.relpath(file, rows.finder.folder)).parts[:-1] if file else ()
        places[next(filter(folder_split, inside), "")].append(row)
    roles = {folder_split(name) for name in places if name}
    if len(roles) < 2:
        return tables
    if elsewhere := places.get(""):
        raise ValueError(
            f"{dataset} has images in the folders {examples([name for name in places if name])}, and {len(elsewhere)} "
            f"images outside of them, such as {names[elsewhere[0]]!r}: add a column 'split' to the table"
        )
    notes.append(f"splits, from the folders of the images: {examples([*places])}")
    return {name: replace(rows, data=rows.data.select(where)) for name, where in places.items()}
