"""Preparing from images that can be read in any order: the official folder tree of a benchmark, or a user's data."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from ...utils.files import identity, relative_name
from ...utils.folder_contents import PassedOver
from ...utils.text import examples, repeated
from ..image_lists import ImageList, class_names
from ..image_split import selection_hash
from ..images import LabeledImages
from ..published import Benchmark
from ..sources.folders import read_tree
from ..sources.source import Source
from ..sources.split_names import folder_split
from .manifest import ROWS_PER_GROUP, Shards
from .writer import ShardWriter, shard_order, shard_schema, write_parquet


@dataclass
class SplitContents:
    """The images of a split, still encoded.

    Args:
        names (list of `str`): what each image is called in its shard.
        labels (list of `int`): class ids.
        sizes (list of `int`): bytes.
        read (callable): gives an image, by its index.
        state (`str`): changes with every file that is written, even one of its size under its time stamp.
    """

    names: list[str]
    labels: list[int]
    sizes: list[int]
    read: Callable[[int], bytes]
    state: str


@dataclass
class SourceImages:
    """The images of a source by split.

    Args:
        class_names (list of `str`): by id.
        splits (`dict`): their images.
        notes (sequence of `str`, *optional*): what the user should know.
    """

    class_names: list[str]
    splits: dict[str, SplitContents]
    notes: Sequence[str] = ()

    @classmethod
    def from_tree(
        cls, dataset: str, root: Path, benchmark: Benchmark, lists: Mapping[str, ImageList]
    ) -> "SourceImages":
        """The images of a benchmark's lists, and of folders of whole splits.

        Args:
            dataset (`str`): name of the benchmark.
            root (path): of the tree.
            benchmark (`Benchmark`): that it is of.
            lists (`dict`): by split.

        Raises:
            ValueError: there are no images to train on, or empty files.
        """
        whole = []
        if benchmark.test_split == "validation":
            whole = [(split, name) for split, name in (("train", "train"), ("test", "val")) if split not in lists]
        for split, folder in whole:
            if not (root / folder).is_dir():
                raise ValueError(
                    f"{root} has no folder {folder}/ with the {split} images in class folders: pass the folder "
                    "that contains it as --source"
                )
        passed = PassedOver(root)
        files, folders = read_tree(root, lists, whole, passed)
        if not folders or "train" not in files:
            raise ValueError(f"{root} has neither class folders in train/ nor parquet files: use another --source")
        splits = {split: _file_contents(split, paths, labels, root) for split, (paths, labels) in files.items()}
        return cls(class_names(dataset, folders), splits, [passed.note] if passed.note else [])

    @classmethod
    def from_source(cls, source: Source) -> "SourceImages":
        """The images of a user's data, as it is read for training.

        Args:
            source ([`Source`]): with splits that are read in any order.

        Raises:
            ValueError: empty images, or none to train on.
        """
        splits = {}
        for role, split in source.splits.items():
            assert isinstance(split, LabeledImages)
            # A validation split that is scored on, as there is no other, keeps its name.
            name = folder_split(str(split.source_split)) if role == "test" else role
            contents = _file_contents(role, split.files, split.labels, Path(split.root or "")) if split.files else None
            splits[name or role] = contents or _row_contents(role, split)
        return cls(next(iter(source.splits.values())).class_names, splits, source.notes)

    def selection(self, split: str, key: Callable[[str], str]) -> str:
        """The hash of a split's images, which `key` names, and their classes."""
        contents = self.splits[split]
        return selection_hash([key(name) for name in contents.names], contents.labels)

    def fingerprint(self) -> dict[str, str]:
        """Changes with every image that comes, goes, or has another size or class."""
        prints = {}
        for split, contents in self.splits.items():
            names = [f"{name} {size}" for name, size in zip(contents.names, contents.sizes, strict=True)]
            prints[split] = selection_hash(names, contents.labels)
        return prints

    def state(self) -> str:
        """Changes with every file that is written, even one of its size under its time stamp."""
        return hashlib.sha256("".join(contents.state for contents in self.splits.values()).encode()).hexdigest()

    def write(self, writer: ShardWriter) -> Shards:
        """Write the shards of all splits, and describe them."""
        schema = shard_schema(self.class_names)
        splits: dict[str, tuple[np.ndarray, float]] = {}
        for split, contents in self.splits.items():
            order = np.argsort([shard_order(name) for name in contents.names], kind="stable")
            splits[split] = order, sum(contents.sizes)

        def write(target: Path, split: str, rows: np.ndarray) -> None:
            write_images(target, self.splits[split], rows.tolist(), schema)

        return writer.write_splits(splits, write, "writing shards")


def file_state(files: Iterable[str | Path]) -> str:
    return hashlib.sha256("".join(f"{identity(file)}\n" for file in files).encode()).hexdigest()


def _file_contents(split: str, paths: Sequence[str], labels: Sequence[int], root: Path) -> SplitContents:
    progress = tqdm(paths, f"checking {split}", unit=" files", disable=None)
    sizes = [os.path.getsize(path) for path in progress]
    if empty := [path for path, size in zip(paths, sizes, strict=True) if size == 0]:
        raise ValueError(
            f"{len(empty)} of the {split} images are empty files, such as {empty[0]}: download them again, or "
            "remove them"
        )
    names = [relative_name(path, root) for path in paths]
    if (twice := repeated(names)) is not None:
        raise ValueError(f"the {split} split has the file {twice} twice: remove one of the rows")
    return SplitContents(names, [*labels], sizes, lambda i: Path(paths[i]).read_bytes(), file_state(paths))


def _row_contents(split: str, images: LabeledImages) -> SplitContents:
    sizes = images.encoded_sizes().tolist()
    if empty := [images.describe(i) for i, size in enumerate(sizes) if size < 1]:
        raise ValueError(f"{len(empty)} of the {split} images are empty: {examples(empty)}: remove their rows")
    names = [f"{split}/{row:08d}" for row in images.source_rows]
    return SplitContents(names, images.labels, sizes, images.read, images.data._fingerprint)


def write_images(target: Path, contents: SplitContents, rows: Sequence[int], schema: pa.Schema) -> None:
    """Write a shard.

    Args:
        target (path): of the shard.
        contents ([`SplitContents`]): of the split.
        rows (sequence of `int`): the images.
        schema (`pa.Schema`): of the shard.
    """

    def groups() -> Iterator[pa.Table]:
        for start in range(0, len(rows), ROWS_PER_GROUP):
            group = rows[start : start + ROWS_PER_GROUP]
            encoded = [{"bytes": contents.read(row), "path": contents.names[row]} for row in group]
            labels = [contents.labels[row] for row in group]
            yield pa.Table.from_pydict({"image": encoded, "label": labels}, schema=schema)

    write_parquet(target, groups(), schema)
