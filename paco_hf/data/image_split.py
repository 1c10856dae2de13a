"""One split of a dataset: what it is of, its labels, and which rows of the source it has."""

import copy
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
from PIL import Image as PILImage

from ..utils.files import relative_name
from .spec import public_name

_SPLIT_OFF = {"validation": ", split off", "test": ", split off for the test"}


def describe_split(name: str) -> str:
    """The name of a split in words, for reports: `the test split of photos (split off)`."""
    match = re.fullmatch(r"(.+) \S+, split off( for the test)?", name)
    return f"the {'test' if match[2] else 'validation'} split of {match[1]} (split off)" if match else name


def selection_hash(keys: Sequence[str], labels: Sequence[int]) -> str:
    """SHA-256 of the sorted `key label` lines: what is selected, whatever the order and wherever it comes from."""
    lines = sorted(f"{key} {label}\n" for key, label in zip(keys, labels, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def relative_names(files: list[str]) -> list[str]:
    """Names of files below the deepest folder that has all of them, so that moved data keeps them."""
    parts = [os.path.split(file) for file in files]
    folders = {folder: os.path.abspath(folder) for folder in {folder for folder, _ in parts}}
    root = os.path.commonpath(list(folders.values()))
    below = {folder: relative_name(path, root) for folder, path in folders.items()}
    return [name if below[folder] == "." else f"{below[folder]}/{name}" for folder, name in parts]


@dataclass(kw_only=True)
class ImageSplit:
    """The base of [`paco_hf.data.images.LabeledImages`] and of
    [`paco_hf.data.streaming.sharded_images.ShardedImages`].

    Args:
        labels (list of `int`): the class of each image, `0..C-1`.
        class_names (list of `str`, *optional*): by class.
        dataset (`str`, *optional*): its dataset, as the user names it.
        source_split (`str`, *optional*): the split of the dataset that the images are in; `None`: all its images.
        role (`str`, *optional*, defaults to `"train"`): what it is for: `train`, `validation` or `test`.
        split_off (`bool`, *optional*, defaults to `False`): whether it was split off from the training images.
        rows (sequence of `int`, *optional*): of `source_split`, where this is a selection from it.
        note (`str`, *optional*): what the user should know before scores on it are believed.
    """

    labels: list[int]
    class_names: list[str] = field(default_factory=list)
    dataset: str = "images"
    source_split: str | None = None
    role: str = "train"
    split_off: bool = False
    rows: Sequence[int] | np.ndarray | None = None
    note: str = ""

    @property
    def groups(self) -> np.ndarray | None:
        """The row group `(N,)` of each image, ascending, where few groups are best read at a time; else `None`."""
        return None

    @property
    def name(self) -> str:
        """What messages call it."""
        return self._titled(self.dataset)

    @property
    def public_name(self) -> str:
        """Its name without the folders that the dataset is in, for what others may read."""
        return self._titled(public_name(self.dataset))

    def _titled(self, dataset: str) -> str:
        if self.source_split is None:
            return f"{dataset}, all images"
        return f"{dataset} {self.source_split}{_SPLIT_OFF.get(self.role, '') if self.split_off else ''}"

    @property
    def source_rows(self) -> list[int]:
        """The row of each image in `source_split`."""
        return list(range(len(self.labels))) if self.rows is None else [int(row) for row in self.rows]

    def source_row(self, index: int) -> int:
        """The row of an image in `source_split`."""
        return index if self.rows is None else int(self.rows[index])

    def image_names(self) -> list[str]:
        """What files call each image: its own name from the dataset's folder on, where it is a file, else `split#row`
        in the source."""
        return [f"{self.source_split or ''}#{row}" for row in self.source_rows]

    @cached_property
    def selection(self) -> str:
        """SHA-256 of the `row label` lines, rows counted in the source."""
        return selection_hash([str(row) for row in self.source_rows], self.labels)

    def select(self, indices: Any, **changes: Any) -> Self:
        """The images of these indices, as a split of their own; `changes`: of its `role`, `split_off`, ..."""
        raise NotImplementedError

    def with_classes(self, labels: list[int], class_names: list[str], note: str) -> Self:
        """The same images with the classes of a model.

        Args:
            labels (list of `int`): the class of each image.
            class_names (list of `str`): by class.
            note (`str`): what the user should know of that.
        """
        changed = copy.copy(self)
        changed.labels, changed.class_names, changed.note = labels, class_names, note
        changed.__dict__.pop("selection", None)  # that of other labels
        return changed

    def open(self, index: int) -> PILImage.Image:
        """Decode one image to RGB.

        Raises:
            ValueError: it cannot be decoded; names it and its place in the source.
        """
        raise NotImplementedError
