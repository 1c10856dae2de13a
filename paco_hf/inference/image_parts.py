"""Where images without labels lie: files, rows of a table, prepared shards. None of it keeps an image in memory."""

import io
import json
import os
import pickle
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, overload

from PIL import Image

from ..utils.images import open_image

if TYPE_CHECKING:
    from datasets import Dataset

    from ..data.streaming.sharded_images import ShardedImages

_MAPPED = 16 * 2**20  # bytes read of a mapped file, after which it is mapped anew


class ImagePart(Protocol):
    """Images by index, each with a name."""

    def __len__(self) -> int:
        """How many there are."""

    def name(self, index: int) -> str:
        """What the image is called."""

    def open(self, index: int) -> Image.Image:
        """Decode the image to RGB; `ValueError` that names it where it cannot be decoded."""

    def state(self) -> str:
        """What changes with the images, as far as their names do not say it."""


class FileImages:
    """Image files.

    Their names are bytes in a row: as objects, 100,000 of them would take tens of megabytes, in each process that
    decodes, too.

    Args:
        files (iterable of paths): that there are.
    """

    def __init__(self, files: Iterable[str | Path] = ()) -> None:
        self.encoded, self.ends = bytearray(), array("q", [0])
        self.add(files)

    def add(self, files: Iterable[str | Path]) -> None:
        """More of them."""
        for file in files:
            self.encoded += os.fsencode(file)
            self.ends.append(len(self.encoded))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def name(self, index: int) -> str:
        return os.fsdecode(bytes(self.encoded[self.ends[index] : self.ends[index + 1]]))

    def open(self, index: int) -> Image.Image:
        return open_image(name := self.name(index), name)

    def state(self) -> str:
        return ""


class EncodedRows:
    """Rows of a dataset of `datasets`, still encoded.

    Args:
        encoded (`datasets.Dataset`): whose images are not decoded.
        column (`str`): that they are in.
        prefix (`str`): of their names, which end in the row.
    """

    def __init__(self, encoded: "Dataset", column: str, prefix: str) -> None:
        self.encoded, self.column, self.prefix = encoded, column, prefix
        self.read = 0

    def __len__(self) -> int:
        return len(self.encoded)

    def name(self, index: int) -> str:
        return f"{self.prefix}{index}"

    def open(self, index: int) -> Image.Image:
        content = self.encoded[index][self.column] or {}
        source, name = content.get("bytes") or content.get("path"), self.name(index)
        if not source:
            raise ValueError(f"{name} is empty: replace or remove it")
        if not isinstance(source, bytes):
            return open_image(source, name)
        self.read += len(source)
        if self.read > _MAPPED and self.encoded.cache_files:
            # The pages of a mapped file count as memory of the process until it is unmapped.
            self.encoded, self.read = pickle.loads(pickle.dumps(self.encoded)), 0
        return open_image(io.BytesIO(source), name)

    def state(self) -> str:
        return str(self.encoded._fingerprint)


class ShardRows:
    """The images of a split of prepared shards.

    Args:
        split ([`paco_hf.data.streaming.sharded_images.ShardedImages`]): read a row group at a time.
        prefix (`str`): of their names, which end in the row.
    """

    def __init__(self, split: "ShardedImages", prefix: str) -> None:
        self.split, self.prefix = split, prefix

    def __len__(self) -> int:
        return len(self.split.labels)

    def name(self, index: int) -> str:
        return f"{self.prefix}{index}"

    def open(self, index: int) -> Image.Image:
        return self.split.open(index)

    def state(self) -> str:
        return json.dumps(self.split.manifest.splits[str(self.split.source_split)]["shards"])


class ImageNames(Sequence[str]):
    """The names of the images of several parts, made when they are asked for.

    Args:
        parts (sequence of [`ImagePart`]): one after the other.
    """

    def __init__(self, parts: Sequence[ImagePart]) -> None:
        self.parts = parts
        self.starts = [0]
        for part in parts:
            self.starts.append(self.starts[-1] + len(part))

    def __len__(self) -> int:
        return self.starts[-1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and [*self] == [*other]

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __iter__(self) -> Iterator[str]:
        return (part.name(index) for part in self.parts for index in range(len(part)))

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        part, place = self.place(index)
        return part.name(place)

    def place(self, index: int) -> tuple[ImagePart, int]:
        """The part that has an image, and its index there.

        Args:
            index (`int`): among all; negative ones count from the end.
        """
        index = index + len(self) if index < 0 else index
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self)} images, and none has the index {index}")
        number = bisect_right(self.starts, index) - 1
        return self.parts[number], index - self.starts[number]
