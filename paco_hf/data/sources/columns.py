"""Which columns hold images and labels, and which splits are for training, validation and test."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import ClassLabel, Value

from ...utils.images import IMAGE_SUFFIXES
from .tables import SPLIT_NAMES, Rows, holds_images

_IMAGE_COLUMNS = ("image", "img", "file_name", "filename", "file", "image_path", "path", "filepath")
_LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target", "species")


def split_roles(dataset: str, found: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """Which split of the source is for what: as given, else by their usual names; a single one is to train on."""
    for role, name in given.items():
        if name not in found:
            raise ValueError(
                f"{dataset} has no split {name!r} for --{role}_split: choose one of {', '.join(map(repr, found))}"
            )
    roles = {}
    for role, usual in SPLIT_NAMES.items():
        free = {name.lower(): name for name in found if name not in given.values()}
        chosen = given.get(role) or next((free[one] for one in usual if one in free), None)
        if chosen:
            roles[role] = chosen
    if not roles and len(found) == 1:
        roles["train"] = found[0]
    if len(set(roles.values())) < len(roles):
        raise ValueError(f"--train_split, --validation_split and --test_split of {dataset} name the same split twice")
    return roles


def _sample(rows: Rows, column: str, count: int = 200) -> list[Any]:
    return [value for value in rows.data.select_columns([column])[:count][column] if value]


def find_image_column(rows: Rows, dataset: str, given: str | None) -> str:
    features = rows.data.features
    if given is not None:
        if given not in features:
            raise ValueError(f"{dataset} has no column {given!r} (columns: {', '.join(features)}): set --image_column")
        if not holds_images(features[given]) and not is_text(features[given]):
            raise ValueError(
                f"column {given!r} of {dataset} holds no images and no file names, but {features[given]}: set "
                "--image_column"
            )
        return given
    found = [name for name, feature in features.items() if holds_images(feature)]
    if not found:
        found = [
            name
            for name, feature in features.items()
            if is_text(feature)
            and (sample := _sample(rows, name))
            and all(os.path.splitext(value)[1].lower() in IMAGE_SUFFIXES for value in sample)
        ]
    return _one_of(found, _IMAGE_COLUMNS, rows, dataset, "image")


def find_label_column(rows: Rows, dataset: str, image: str, given: str | None) -> str:
    features = rows.data.features
    if given is not None:
        if given not in features:
            raise ValueError(f"{dataset} has no column {given!r} (columns: {', '.join(features)}): set --label_column")
        return given
    found = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    if not found:
        found = [name for name in features if name.lower() in _LABEL_COLUMNS and name != image]
    if not found:
        others = [name for name, feature in features.items() if name != image and isinstance(feature, Value)]
        found = [name for name in others if len(set(rows.data[name][:])) < len(rows.data)]
    return _one_of(found, _LABEL_COLUMNS, rows, dataset, "label")


def _one_of(found: list[str], usual: Sequence[str], rows: Rows, dataset: str, role: str) -> str:
    best = min(
        found, key=lambda name: usual.index(name.lower()) if name.lower() in usual else len(usual), default=None
    )
    if best is None or (len(found) > 1 and best.lower() not in usual):
        raise ValueError(
            f"cannot tell the {role} column of {dataset} (columns: {', '.join(rows.data.features)}): set "
            f"--{role}_column"
        )
    return best


def is_text(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype.endswith("string")
