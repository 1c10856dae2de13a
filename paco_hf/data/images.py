"""Labelled images: a split, still encoded, decoded image by image or once and for all."""

import io
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from datasets import Dataset, Image
from PIL import Image as PILImage
from tqdm.auto import tqdm

from ..utils.images import open_image
from .long_tail import class_counts

if TYPE_CHECKING:
    from .streaming.sharded_images import ShardedImages

_DECODED_LIMIT = 2**30


@dataclass
class LabelledImages:
    """One split: the images, still encoded, and their class ids."""

    data: Dataset
    image_column: str
    labels: list[int]
    name: str = "images"
    rows: list[int] | None = None  # of the source, where this is a selection from it
    files: list[str] | None = None  # of the images, by row of the source, where they are files
    root: str | None = None  # the data set's folder: what lies below it is named from there
    note: str = ""  # what the user should know before scores on it are believed
    groups: ClassVar[None] = None  # read in any order; see `ShardedImages`

    def __post_init__(self) -> None:
        self.encoded = self.data.select_columns([self.image_column]).cast_column(
            self.image_column, Image(decode=False)
        )

    def select(self, indices: list[int], name: str) -> "LabelledImages":
        rows = indices if self.rows is None else [self.rows[i] for i in indices]
        labels = [self.labels[i] for i in indices]
        return LabelledImages(self.data.select(indices), self.image_column, labels, name, rows, self.files, self.root)

    def shown(self, path: str) -> str:
        """A file's name from the data set's folder on, or its base name where it lies elsewhere."""
        below = os.path.relpath(path, self.root) if self.root else ".."
        return os.path.basename(path) if below.startswith("..") else below

    def open(self, index: int) -> PILImage.Image:
        """Decode one image to RGB; `ValueError` where it cannot be, with its place in the source."""
        index = int(index)
        row = self.encoded[index][self.image_column] or {}
        source = row.get("bytes") or row.get("path")
        place = index if self.rows is None else self.rows[index]
        where = f" ({self.shown(row['path'])})" if row.get("path") else ""
        name = f"image {place} of {self.name}{where}"
        if source is None:
            raise ValueError(f"{name} is empty; replace or remove it")
        return open_image(io.BytesIO(source) if isinstance(source, bytes) else source, name)


@dataclass
class ImageData:
    """A data set ready for training. `class_counts` are of the full training selection."""

    train: "LabelledImages | ShardedImages"
    test: "LabelledImages | ShardedImages | None"
    validation: "LabelledImages | ShardedImages | None"
    class_names: list[str]
    image_size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    notes: list[str] = field(default_factory=list)  # what the user should know before a result is called by its name
    own: bool = False  # a user's own data, not a benchmark with published splits
    described: str | None = None  # what was inferred of columns and splits
    warnings: list[str] = field(default_factory=list)  # of what makes scores say too much, or labels contradict
    class_counts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.class_counts = class_counts(self.train.labels, len(self.class_names))

    def native_size(self) -> int:
        """Shorter side of a typical training image in pixels: the median of a sample."""
        sides = [min(self.train.open(i).size) for i in sample_indices(len(self.train.labels))]
        return int(np.median(sides))


class Images:
    """PIL images in RGB by index; decoded once and kept where all of them fit in a gigabyte and are not streamed.

    Raises:
        ValueError: an image cannot be decoded; the message names it.
    """

    def __init__(self, split: "LabelledImages | ShardedImages") -> None:
        self.split = split
        self.decoded: list[np.ndarray] | None = None
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
        pixels = np.stack(self.decoded)
        self.decoded = list(pixels)
        return pixels

    def __getitem__(self, index: int) -> PILImage.Image:
        return self.split.open(index) if self.decoded is None else PILImage.fromarray(self.decoded[index])


def sample_indices(length: int) -> list[int]:
    """Eight indices, or all, evenly spread over `0..length-1`."""
    return np.unique(np.linspace(0, length - 1, 8).astype(int)).tolist()
