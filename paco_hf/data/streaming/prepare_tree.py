"""Preparing from image files: the official folder tree of a benchmark, or class folders under the splits' folders."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from ...utils.files import identity
from ..image_lists import ImageList
from ..image_split import selection_hash
from ..published import Benchmark
from ..sources.folders import read_tree
from .manifest import ROWS_PER_GROUP, Shards
from .writer import ShardWriter, shard_order, shard_schema, write_parquet

_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}


@dataclass
class ImageTree:
    """Image files below a root.

    Args:
        root (path): that they are named from.
        folders (list of `str`): of each class, by id.
        files (`dict`): by split paths, class ids and bytes of the images.
    """

    root: Path
    folders: list[str]
    files: dict[str, tuple[list[str], list[int], list[int]]]

    @classmethod
    def read(cls, root: Path, benchmark: Benchmark | None, lists: Mapping[str, ImageList]) -> "ImageTree":
        """The images of the lists, and of folders of whole splits.

        Args:
            root (path): of the tree.
            benchmark (`Benchmark`, *optional*): that it is of.
            lists (`dict`): by split.

        Raises:
            ValueError: there are no images to train on, or empty files.
        """
        whole = _whole_folders(benchmark, root, lists)
        for split, folder in whole:
            if not (root / folder).is_dir():
                raise ValueError(f"{root} has no folder {folder}/ with the {split} images in class folders")
        files, folders = read_tree(root, lists, whole)
        if not folders or "train" not in files:
            raise ValueError(f"{root} has no train/ folder of class folders, and no parquet files")
        sized = {}
        for split, (paths, labels) in files.items():
            progress = tqdm(paths, f"looking at {split}", unit=" files", disable=None)
            sized[split] = paths, labels, [os.path.getsize(path) for path in progress]
            if empty := [path for path, size in zip(paths, sized[split][2], strict=True) if size == 0]:
                raise ValueError(
                    f"{len(empty)} of the {split} images are empty files, such as {empty[0]}: fetch them again, or "
                    "leave them out"
                )
        return cls(root, folders, sized)

    def keys(self, split: str) -> list[str]:
        return [os.path.relpath(path, self.root) for path in self.files[split][0]]

    def selection(self, split: str, key: Callable[[str], str]) -> str:
        """The hash of a split's images, which `key` names, and their classes."""
        return selection_hash([key(name) for name in self.keys(split)], self.files[split][1])

    def fingerprint(self) -> dict[str, str]:
        """Changes with every image that comes, goes, or has another size or class."""
        prints = {}
        for split, (_, labels, sizes) in self.files.items():
            names = [f"{name} {size}" for name, size in zip(self.keys(split), sizes, strict=True)]
            prints[split] = selection_hash(names, labels)
        return prints

    def state(self) -> str:
        """Changes with every file that is written, even one of its size under its time stamp."""
        return file_state(chain(*(paths for paths, *_ in self.files.values())))

    def write(self, class_names: list[str], writer: ShardWriter) -> Shards:
        """Write the shards of all splits, and describe them."""
        schema = shard_schema(class_names)
        splits: dict[str, tuple[np.ndarray, float]] = {}
        keys = {split: self.keys(split) for split in self.files}
        for split, (_, _, sizes) in self.files.items():
            splits[split] = np.argsort([shard_order(key) for key in keys[split]], kind="stable"), sum(sizes)

        def write(target: Path, split: str, rows: np.ndarray) -> None:
            paths, labels, _ = self.files[split]
            write_files(target, [(paths[i], keys[split][i], labels[i]) for i in rows.tolist()], schema)

        return writer.write_splits(splits, write, "writing shards")


def file_state(files: Iterable[str | Path]) -> str:
    return hashlib.sha256("".join(f"{identity(file)}\n" for file in files).encode()).hexdigest()


def _whole_folders(benchmark: Benchmark | None, root: Path, lists: Mapping[str, ImageList]) -> list[tuple[str, str]]:
    """Splits that are whole folders: those without a list."""
    if benchmark is None:
        folders = [(split, name) for name, split in _SPLITS.items() if (root / name).is_dir()]
        if len(dict(folders)) < len(folders):
            raise ValueError(f"{root} has two folders for one split: {', '.join(name for _, name in folders)}")
        return folders
    if benchmark.test_split != "validation":
        return []
    return [(split, name) for split, name in (("train", "train"), ("test", "val")) if split not in lists]


def write_files(target: Path, images: list[tuple[str, str, int]], schema: pa.Schema) -> None:
    """Write a shard of image files: their paths, what they are called in it, and their classes.

    Args:
        target (path): of the shard.
        images (list of tuples): path of the file, its name in the shard, its class.
        schema (`pa.Schema`): of the shard.
    """

    def groups() -> Iterator[pa.Table]:
        for start in range(0, len(images), ROWS_PER_GROUP):
            group = images[start : start + ROWS_PER_GROUP]
            encoded = [{"bytes": Path(path).read_bytes(), "path": key} for path, key, _ in group]
            yield pa.Table.from_pydict({"image": encoded, "label": [label for *_, label in group]}, schema=schema)

    write_parquet(target, groups(), schema)
