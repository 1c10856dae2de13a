"""Which columns hold images and labels, and which splits are for training, validation and test."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from datasets import ClassLabel, Value

from ...utils.folder_contents import is_image_name
from ...utils.text import examples
from .file_names import FileFinder
from .source import check_column, choose_column
from .split_names import SPLIT_NAMES, folder_split, name_split, sibling_splits
from .table_files import Rows, holds_images, is_text

ONE_HOT = "class"  # the column that one-hot ones become
_ONE_COLUMN = (
    "add a column 'label' with the class of each row (pandas: idxmax(axis=1) for one-hot columns), or select a "
    "column with --label_column"
)
LEFT_OUT = "none"  # as the name of a split: there is to be none of this role

_IMAGE_COLUMNS = (
    *("image", "img", "file_name", "filename", "file", "image_path", "path", "filepath", "image_name", "imagename"),
    *("image_id", "imageid", "img_id", "fname", "photo", "picture", "id", "name"),
)
_LABEL_COLUMNS = (
    *("label", "labels", "class", "class_name", "category", "target", "species"),
    *("classid", "class_id", "label_id", "category_id"),
)
BITS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


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
        if name not in names and name != LEFT_OUT:
            choices = ", ".join(map(repr, names))
            raise ValueError(
                f"{dataset} has no split {name!r} for --{role}_split: choose one of {choices}"
                + ("" if role == "train" else f", or {LEFT_OUT} for no such split")
            )
    free = {name.lower(): name for name in names if name not in chosen.values()}
    roles, siblings = {}, sibling_splits([*free.values()])
    for role, usual in SPLIT_NAMES.items():
        exact = [free[one] for one in usual if one in free]
        near = [n for n in free.values() if folder_split(n) == role or (n in siblings and name_split(n) == role)]
        if split := chosen.get(role) or next(iter(exact or (near if len(near) == 1 else [])), None):
            roles[role] = split
    roles = {role: split for role, split in roles.items() if split != LEFT_OUT or split in names}
    if not roles and len(names) == 1:
        roles["train"] = names[0]
    if len(set(roles.values())) < len(roles):
        raise ValueError(f"--train_split, --validation_split and --test_split of {dataset} name the same split twice")
    if "train" not in roles and not test_only:
        raise ValueError(
            f"{dataset} has no train split (found: {', '.join(names)}"
            + "".join(f"; {name} is the {role} split" for role, name in chosen.items())
            + "): select the split to train on with --train_split"
        )
    if not roles:
        raise ValueError(f"{dataset} has no test split (found: {', '.join(names)}): select one with --test_split")
    return roles


def _name_images(rows: Rows, column: str) -> bool:
    values = [value for value in rows.data.select_columns([column])[:200][column] if value]
    return bool(values) and all(is_image_name(value.strip()) for value in values)


def _name_files(rows: Rows, column: str, finder: FileFinder | None) -> bool:
    """Whether most values of a column mean images in the folder, though they do not look so."""
    values = [value for value in rows.data.select_columns([column])[:200][column] if value]
    if not values or finder is None or 2 * sum(map(bool, finder.find(values, rows.root))) <= len(values):
        return False
    if finder.find([column], rows.root)[0]:
        raise ValueError(
            f"the first line of the table must contain the column names, but contains the image {column!r}: add a "
            "header such as file,label"
        )
    return True


def find_image_column(rows: Rows, dataset: str, column: str | None, finder: FileFinder | None = None) -> str:
    """The column of the images or of their file names.

    Args:
        rows (`Rows`): of a split.
        dataset (`str`): for messages.
        column (`str`, *optional*): that the user chose; detected where `None`.
        finder ([`FileFinder`], *optional*): of the files that a column may name.

    Raises:
        ValueError: there is none or more than one, or the column holds no images.
    """
    features = rows.data.features
    if column is not None:
        check_column(features, column, dataset, "image")
        if not holds_images(features[column]) and not is_text(features[column]):
            raise ValueError(
                f"column {column!r} of {dataset} must contain images or file names, got {features[column]}: set "
                "--image_column"
            )
        return column
    candidates = [name for name, feature in features.items() if holds_images(feature)]
    if not candidates:
        texts = [name for name, feature in features.items() if is_text(feature)]
        candidates = [name for name in texts if _name_images(rows, name)]
        unnamed = [name for name in texts if name.lower() not in _LABEL_COLUMNS]
        candidates = candidates or [name for name in unnamed if _name_files(rows, name, finder)]
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
    return choose_column(_label_candidates(rows, image), features, dataset, "label", _LABEL_COLUMNS)


def named_label_columns(rows: Rows, image: str) -> list[str]:
    """The columns that are labels by their type or name.

    Args:
        rows (`Rows`): of a split.
        image (`str`): the column of the images.
    """
    features = rows.data.features
    typed = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    return typed or [name for name in features if name.lower() in _LABEL_COLUMNS and name != image]


def _label_candidates(rows: Rows, image: str) -> list[str]:
    if candidates := named_label_columns(rows, image):
        return candidates
    values = [name for name, feature in rows.data.features.items() if name != image and isinstance(feature, Value)]
    return [name for name in values if len(set(rows.data[name][:])) < len(rows.data)]


def one_hot_columns(rows: Rows, dataset: str, image: str) -> list[str]:
    """The columns of 0 and 1 that name the class of each row by a single 1; empty where there is another label.

    Args:
        rows (`Rows`): of a split.
        dataset (`str`): for messages.
        image (`str`): the column of the images.

    Raises:
        ValueError: there are such columns, but not one 1 in each row.
    """
    candidates = _label_candidates(rows, image)
    values = [name for name, feature in rows.data.features.items() if name != image and isinstance(feature, Value)]
    if not values or rows.files:
        return []
    head = rows.data.select_columns(values)[:50]
    values = [name for name in values if None not in _as_bits(head[name])]
    columns = {name: _as_bits(rows.data[name][:]) for name in values if {*candidates} <= {*values}}
    columns = {name: column for name, column in columns.items() if None not in column}
    if len(columns) < 2 or not candidates or not {*candidates} <= columns.keys():
        return []
    one_hot = all(sum(row) == 1 for row in zip(*columns.values(), strict=True))
    usual = any(name.lower() in _LABEL_COLUMNS for name in candidates)
    if one_hot and not usual:
        return [*columns]
    if (one_hot and len(columns) > 2) or (len(candidates) > 1 and not usual):
        kind = "a single 1 in each row (one-hot)" if one_hot else "not exactly one 1 in each row (multi-label)"
        raise ValueError(
            f"the columns {examples([*map(repr, columns)], 5)} of {dataset} contain 0 and 1, {kind}, but one "
            f"column of classes was expected: {_ONE_COLUMN}"
        )
    return []


def read_one_hot(rows: Rows, columns: Sequence[str], split: str) -> Rows:
    """The same rows with their class, which one-hot columns tell, in the only column of labels.

    Args:
        rows (`Rows`): of a split.
        columns (sequence of `str`): one a class, called as it.
        split (`str`): for messages.

    Raises:
        ValueError: a row has not one 1.
    """
    bits = [_as_bits(rows.data[name][:]) for name in columns]
    names = []
    for number, row in enumerate(zip(*bits, strict=True)):
        if row.count(1) != 1 or None in row:
            raise ValueError(
                f"row {number} of {split} does not have exactly one 1 in the columns "
                f"{examples([*map(repr, columns)], 5)}: {_ONE_COLUMN}"
            )
        names.append(columns[row.index(1)])
    return replace(rows, data=rows.data.remove_columns([*columns]).add_column(ONE_HOT, names))


def _as_bits(values: Sequence[object]) -> list[int | None]:
    return [BITS.get(str(value).strip().lower()) for value in values]
