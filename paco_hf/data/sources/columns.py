"""Which columns hold images and labels, and which splits are for training, validation and test."""

import os
from collections.abc import Mapping, Sequence

from datasets import ClassLabel, Value

from ...utils.images import IMAGE_SUFFIXES
from ...utils.text import examples
from .source import check_column, choose_column
from .table_files import Rows
from .tables import SPLIT_NAMES, holds_images, is_text

_IMAGE_COLUMNS = ("image", "img", "file_name", "filename", "file", "image_path", "path", "filepath")
_LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target", "species")
_BITS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


def split_roles(dataset: str, names: Sequence[str], chosen: Mapping[str, str], test_only: bool) -> dict[str, str]:
    """Which split of the source is for what; a single one is to train on.

    Args:
        dataset (`str`): for messages.
        names (sequence of `str`): of the splits.
        chosen (`dict`): names by role; the others are detected by their usual names.
        test_only (`bool`): there need be no split to train on.

    Raises:
        ValueError: there is no such split, or one has two roles, or there is none to train on.
    """
    for role, name in chosen.items():
        if name not in names:
            choices = ", ".join(map(repr, names))
            raise ValueError(f"{dataset} has no split {name!r} for --{role}_split: choose one of {choices}")
    free = {name.lower(): name for name in names if name not in chosen.values()}
    roles = {}
    for role, usual in SPLIT_NAMES.items():
        if split := chosen.get(role) or next((free[one] for one in usual if one in free), None):
            roles[role] = split
    if not roles and len(names) == 1:
        roles["train"] = names[0]
    if len(set(roles.values())) < len(roles):
        raise ValueError(f"--train_split, --validation_split and --test_split of {dataset} name the same split twice")
    if "train" not in roles and not test_only:
        raise ValueError(
            f"{dataset} has no train split (found: {', '.join(names)}"
            + "".join(f", {name} being the {role} split" for role, name in chosen.items())
            + "): name the one to train on with --train_split"
        )
    if not roles:
        raise ValueError(f"{dataset} has no test split (found: {', '.join(names)}): name one with --test_split")
    return roles


def _name_images(rows: Rows, column: str) -> bool:
    values = [value for value in rows.data.select_columns([column])[:200][column] if value]
    return bool(values) and all(os.path.splitext(value)[1].lower() in IMAGE_SUFFIXES for value in values)


def find_image_column(rows: Rows, dataset: str, column: str | None) -> str:
    """The column of the images or of their file names.

    Args:
        rows (`Rows`): of a split.
        dataset (`str`): for messages.
        column (`str`, *optional*): that the user chose; detected where `None`.

    Raises:
        ValueError: there is none or more than one, or the column holds no images.
    """
    features = rows.data.features
    if column is not None:
        check_column(features, column, dataset, "image")
        if not holds_images(features[column]) and not is_text(features[column]):
            raise ValueError(
                f"column {column!r} of {dataset} holds no images and no file names, but {features[column]}: set "
                "--image_column"
            )
        return column
    candidates = [name for name, feature in features.items() if holds_images(feature)]
    if not candidates:
        candidates = [name for name, feature in features.items() if is_text(feature) and _name_images(rows, name)]
    return choose_column(candidates, features, dataset, "image", _IMAGE_COLUMNS)


def find_label_column(rows: Rows, dataset: str, image: str, column: str | None) -> str:
    """The column of the classes.

    Args:
        rows (`Rows`): of a split.
        dataset (`str`): for messages.
        image (`str`): the column of the images.
        column (`str`, *optional*): that the user chose; detected where `None`.

    Raises:
        ValueError: there is none, or more than one.
    """
    features = rows.data.features
    if column is not None:
        check_column(features, column, dataset, "label")
        return column
    candidates = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    if not candidates:
        candidates = [name for name in features if name.lower() in _LABEL_COLUMNS and name != image]
    if not candidates:
        values = [name for name, feature in features.items() if name != image and isinstance(feature, Value)]
        candidates = [name for name in values if len(set(rows.data[name][:])) < len(rows.data)]
    _check_indicators(rows, candidates, dataset, image)
    return choose_column(candidates, features, dataset, "label", _LABEL_COLUMNS)


def _check_indicators(rows: Rows, candidates: Sequence[str], dataset: str, image: str) -> None:
    """That the label column is none of several columns of 0 and 1, one a class."""
    values = [name for name, feature in rows.data.features.items() if name != image and isinstance(feature, Value)]
    head = rows.data.select_columns(values)[:50]
    values = [name for name in values if None not in _as_bits(head[name])]
    columns = {name: _as_bits(rows.data[name][:]) for name in values if {*candidates} <= {*values}}
    columns = {name: column for name, column in columns.items() if None not in column}
    if len(columns) < 2 or not candidates or not {*candidates} <= columns.keys():
        return
    one_hot = all(sum(row) == 1 for row in zip(*columns.values(), strict=True))
    usual = any(name.lower() in _LABEL_COLUMNS for name in candidates)
    if (one_hot and len(columns) > 2) or (len(candidates) > 1 and not usual):
        kind = "a single 1 in each row (one-hot)" if one_hot else "not one 1 in each row (multi-label)"
        raise ValueError(
            f"the columns {examples([*map(repr, columns)], 5)} of {dataset} hold 0 and 1, {kind}, where one column of "
            "classes was expected: write the class of each row into a column 'label' (of one-hot columns, pandas: "
            "idxmax(axis=1)), or choose a column with --label_column"
        )


def _as_bits(values: Sequence[object]) -> list[int | None]:
    return [_BITS.get(str(value).strip().lower()) for value in values]
