"""Labeled images: a split, still encoded, decoded image by image or once and for all."""

import io
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Image
from PIL import Image as PILImage
from tqdm.auto import tqdm

from ..utils.files import relative_name
from ..utils.images import open_image
from .image_split import ImageSplit, relative_names
from .long_tail import class_counts

_DECODED_LIMIT = 2**30


@dataclass
class LabeledImages(ImageSplit):
    """A split whose images are read in any order.

    Args:
        data (`datasets.Dataset`): the images, still encoded.
        image_column (`str`): that they are in.
        files (list of `str`, *optional*): of the images, by row of the source, where they are files.
        root (`str`, *optional*): the data set's folder: messages name what is below it from there.
    """

    data: Dataset
    image_column: str
    files: list[str] | None = None
    root: str | None = None

    def __post_init__(self) -> None:
        images = self.data.select_columns([self.image_column])
        self.encoded = images.cast_column(self.image_column, Image(decode=False))

    def select(self, indices: Any, **changes: Any) -> "LabeledImages":
        source_rows = self.source_rows
        rows, labels = ([values[i] for i in indices] for values in (source_rows, self.labels))
        return replace(self, data=self.data.select(indices), labels=labels, rows=rows, **changes)

    def relative(self, path: str) -> str:
        """A file's name from the data set's folder on, or its base name where it is elsewhere."""
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
        sizes = pc.fill_null(pc.cast(pc.binary_length(pc.struct_field(column, "bytes")), "int64"), -1).to_numpy()
        # Private, as `datasets` shows which rows of `data` it selects nowhere else, save by reading all of them.
        indices = self.encoded._indices
        selected: np.ndarray = sizes if indices is None else sizes[indices.column(0).to_numpy()]
        return selected

    def read(self, index: int) -> bytes:
        """One image, still encoded."""
        image = self.encoded[int(index)][self.image_column]
        content: bytes = image["bytes"] or Path(image["path"]).read_bytes()
        return content

    def open(self, index: int) -> PILImage.Image:
        index = int(index)
        image = self.encoded[index][self.image_column] or {}
        content = image.get("bytes") or image.get("path")
        where = f" ({self.relative(image['path'])})" if image.get("path") else ""
        name = f"image {self.source_row(index)} of {self.name}{where}"
        if content is None:
            raise ValueError(f"{name} is empty; replace or remove it")
        return open_image(io.BytesIO(content) if isinstance(content, bytes) else content, name)


LabelledImages = LabeledImages  # its former name


@dataclass
class ImageData:
    """A data set ready for training.

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
        sides = [min(self.train.open(i).size) for i in sample_indices(len(self.train.labels))]
        return int(np.median(sides))


class Images:
    """PIL images in RGB by index; decoded once and kept where all of them fit in a gigabyte and are not streamed.

    Raises:
        ValueError: an image cannot be decoded; the message names it.
    """

    def __init__(self, split: ImageSplit) -> None:
        self.split = split
        self.decoded: list[np.ndarray] | None = None
        self._pixels: np.ndarray | None = None
        sample = [split.open(i) for i in sample_indices(len(self))]
        largest = max(image.width * image.height * 3 for image in sample)
        if split.groups is None and largest * len(self) <= _DECODED_LIMIT:
            progress = tqdm(range(len(self)), desc=f"decoding {split.name}", unit=" images", disable=None, leave=False)
            self.decoded = [np.asarray(split.open(i)) for i in progress]

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
        return self.split.open(index) if self.decoded is None else PILImage.fromarray(self.decoded[index])


def sample_indices(length: int) -> list[int]:
    """Eight indices, or all, evenly spread over `0..length-1`."""
    return np.unique(np.linspace(0, length - 1, 8).astype(int)).tolist()
