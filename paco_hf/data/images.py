"""Labeled images: a split, still encoded, decoded image by image or once and for all."""

import io
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Image
from PIL import Image as PILImage
from tqdm.auto import tqdm

from ..utils.files import relative_name
from ..utils.images import ImageReadError, open_image
from ..utils.worker_pool import rows_in_blocks
from .image_split import ImageSplit, relative_names
from .long_tail import class_counts

_DECODED_LIMIT = 2**30
_BLOCK = 32  # images that a process decodes at a time


@dataclass
class LabeledImages(ImageSplit):
    """A split whose images are read in any order.

    Args:
        data (`datasets.Dataset`): the images, still encoded.
        image_column (`str`): that they are in.
        files (list of `str`, *optional*): of the images, by row of the source, where they are files.
        root (`str`, *optional*): the dataset's folder: messages name what is below it from there.
        decoded (`dict`, *optional*): by row of the source, images that were decoded as they were looked at, and are to
            be kept in memory; [`Images`] take them.
    """

    data: Dataset
    image_column: str
    files: list[str] | None = None
    root: str | None = None
    # Selections share it.
    decoded: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        images = self.data.select_columns([self.image_column])
        self.encoded = images.cast_column(self.image_column, Image(decode=False))

    def select(self, indices: Any, **changes: Any) -> "LabeledImages":
        source_rows = self.source_rows
        rows, labels = ([values[i] for i in indices] for values in (source_rows, self.labels))
        return replace(self, data=self.data.select(indices), labels=labels, rows=rows, **changes)

    def relative(self, path: str) -> str:
        """A file's name from the dataset's folder on, or its base name where it is elsewhere."""
        below = os.path.relpath(path, self.root) if self.root else ".."
        return os.path.basename(path) if below.startswith("..") else below

    def image_names(self) -> list[str]:
        if not self.files:
            return super().image_names()
        # Of files elsewhere no folder above those that have them all is named.
        below = self.root and all(map(self._is_below, {os.path.dirname(file) for file in self.files}))
        names = [relative_name(file, str(self.root)) for file in self.files] if below else relative_names(self.files)
        return [names[row] for row in self.source_rows]

    def _is_below(self, folder: str) -> bool:
        return not os.path.relpath(folder, self.root).startswith("..")

    def describe(self, index: int) -> str:
        """What messages call an image: its file, or its row in the source."""
        row = self.source_row(index)
        return self.relative(self.files[row]) if self.files else f"image {row} of {self.name}"

    def encoded_sizes(self) -> np.ndarray:
        """The bytes `(N,)` of each encoded image, -1 where there are none; no image is read."""
        column = self.encoded.data.column(self.image_column)
        if not pa.types.is_struct(column.type):
            return np.full(len(self.labels), -1)
        sizes = pc.fill_null(pc.cast(pc.binary_length(pc.struct_field(column, "bytes")), "int64"), -1).to_numpy()
        # Private, as `datasets` shows which rows of `data` it selects nowhere else, save by reading all of them.
        indices = self.encoded._indices
        selected: np.ndarray = sizes if indices is None else sizes[indices.column(0).to_numpy()]
        return selected

    def read(self, index: int) -> bytes:
        """One image, still encoded."""
        content = self.content(index)
        return content if isinstance(content, bytes) else Path(str(content)).read_bytes()

    def content(self, index: int) -> str | bytes | None:
        """One image, still encoded, or the path of its file; `None` where there is neither."""
        if self.files:  # known without a look into the table
            return self.files[self.source_row(int(index))]
        image = self.encoded[int(index)][self.image_column] or {}
        return image.get("bytes") or image.get("path")

    def called(self, index: int) -> str:
        """What the message of an image that cannot be decoded calls it."""
        path = (self.encoded[int(index)][self.image_column] or {}).get("path")
        where = f" ({self.relative(path)})" if path else ""
        return f"image {self.source_row(int(index))} of {self.name}{where}"

    def open(self, index: int, small: bool = False) -> PILImage.Image:
        content = self.content(index)
        if content is None:
            raise ValueError(f"{self.called(index)} is empty; replace or remove it")
        source = io.BytesIO(content) if isinstance(content, bytes) else content
        return open_image(source, partial(self.called, index), small)


LabelledImages = LabeledImages  # its former name


@dataclass
class ImageData:
    """A dataset ready for training.

    Args:
        train, validation, test (`ImageSplit`): `None` where there is none; there is always one to train on.
        image_size, mean, std (*optional*): published statistics, where there are any.
        notes (list of `str`): what the user should know before a result is called by its name.
        warnings (list of `str`): what makes scores too high, or labels that contradict each other.
        user_data (`bool`): a user's data, not a benchmark with published splits.
        description (`str`, *optional*): what was detected of columns and splits.

    `class_counts` are those of the full training selection.
    """

    train: ImageSplit
    validation: ImageSplit | None = None
    test: ImageSplit | None = None
    image_size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    user_data: bool = False
    description: str | None = None
    class_counts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.class_counts = class_counts(self.train.labels, len(self.class_names))

    @property
    def class_names(self) -> list[str]:
        return self.train.class_names

    @property
    def splits(self) -> dict[str, ImageSplit]:
        """Those that there are, by role."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {role: split for role, split in splits.items() if split is not None}

    def native_size(self) -> int:
        """Shorter side of a typical training image in pixels: the median of a sample."""
        sides = [min(image.size) for image in _sample(self.train)]
        return int(np.median(sides))


class Images:
    """PIL images in RGB by index; decoded once and kept where all of them fit in a gigabyte and are not streamed.

    Args:
        split (`ImageSplit`): the images.
        tolerant (`bool`, *optional*, defaults to `False`): in place of an image that cannot be decoded there is the
            next of its class, in the order of the split, that can be: always the same one, so that batches, and runs
            that are resumed, are what they would be. [`damaged`] has what was met. A stream has no such order. One
            that cannot be read is an error all the same: it may be whole.

    Raises:
        ValueError: an image cannot be decoded; the message names it. If `tolerant`, no image of its class can be.
    """

    def __init__(self, split: ImageSplit, tolerant: bool = False) -> None:
        self.split = split
        self.decoded: list[np.ndarray] | None = None
        self._pixels: np.ndarray | None = None
        self._substitutes: dict[int, int] = {}
        # The workers of a data loader meet them, too: they share it with this process.
        self._met = RawArray("B", len(self)) if tolerant and isinstance(split, LabeledImages) else None
        if kept_in_memory(split):
            self.decoded = self._decode()

    def __len__(self) -> int:
        return len(self.split.labels)

    def pixels(self) -> np.ndarray | None:
        """All images as `uint8` `(N, H, W, 3)`, `None` where they are not kept or differ in size."""
        if self.decoded is None or len({image.shape for image in self.decoded}) > 1:
            return None
        if self._pixels is None:
            self._pixels = np.stack(self.decoded)
            self.decoded = list(self._pixels)
        return self._pixels

    def __getitem__(self, index: int) -> PILImage.Image:
        if self.decoded is not None:
            return PILImage.fromarray(self.decoded[index])
        if self._met is None:
            return self.split.open(index)
        index = int(index)
        try:
            return self.split.open(self._substitutes.get(index, index))
        except ImageReadError:
            raise
        except ValueError:
            return self.split.open(self._substitute(index))

    def damaged(self) -> list[int]:
        """The indices of images that could not be decoded where they were met, in any process of this computer."""
        return [] if self._met is None else np.flatnonzero(np.frombuffer(self._met, np.uint8)).tolist()

    def _substitute(self, index: int) -> int:
        """The image that stands for one that cannot be decoded."""
        assert self._met is not None
        self._met[index] = True
        alike = np.flatnonzero(np.asarray(self.split.labels) == self.split.labels[index])
        place = int(np.searchsorted(alike, index))
        for other in (*alike[place + 1 :].tolist(), *alike[:place].tolist()):
            try:
                self.split.open(other)
            except ImageReadError:
                raise
            except ValueError:
                self._met[other] = True
            else:
                self._substitutes[index] = other
                return other
        raise ValueError(
            f"no image of the class {self.split.class_names[self.split.labels[index]]!r} of {self.split.name} can be "
            "decoded: replace its images, or remove the class"
        )

    def _decode(self) -> list[np.ndarray]:
        kept = self.split.decoded if isinstance(self.split, LabeledImages) else {}
        images: list[Any] = [kept.pop(self.split.source_row(index), None) for index in range(len(self))]
        missing = [index for index, image in enumerate(images) if image is None]
        what = f"decoding {self.split.name}"
        results = rows_in_blocks(_decoded, self.split, missing, _BLOCK, shared=True)
        with closing(results), tqdm(desc=what, total=len(missing), unit=" images", disable=None, leave=False) as bar:
            for block, decoded in results:
                for index, image in zip(block, decoded, strict=True):
                    if isinstance(image, str) and self._met is None:
                        raise ValueError(image)
                    images[index] = image
                bar.update(len(block))
        for index in missing:
            if isinstance(images[index], str):
                images[index] = np.asarray(self.split.open(self._substitute(index)))
        return images


def _decoded(split: ImageSplit, indices: Sequence[int]) -> list[np.ndarray | str]:
    """Each image, or what is wrong with it."""
    images: list[np.ndarray | str] = []
    for index in indices:
        try:
            images.append(np.asarray(split.open(index)))
        except ImageReadError:
            raise
        except ValueError as error:
            images.append(str(error))
    return images


def kept_in_memory(split: ImageSplit) -> bool:
    """Whether the decoded images of a split are kept, by the sizes of a few."""
    if split.groups is not None:
        return False
    largest = max(image.width * image.height * 3 for image in _sample(split))
    return largest * len(split.labels) <= _DECODED_LIMIT


def _sample(split: ImageSplit) -> list[PILImage.Image]:
    """A few images that can be decoded.

    Raises:
        ValueError: none of those can be.
    """
    images, errors = [], []
    for index in sample_indices(len(split.labels)):
        try:
            images.append(split.open(index))
        except ValueError as error:
            errors.append(error)
    if not images:
        raise errors[0]
    return images


def sample_indices(length: int) -> list[int]:
    """Eight indices, or all, evenly spread over `0..length-1`."""
    return np.unique(np.linspace(0, length - 1, 8).astype(int)).tolist()
