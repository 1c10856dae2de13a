"""Writing shards: several at a time, each under a temporary name until it is complete."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Image
from tqdm.auto import tqdm

from ...utils.files import replacing
from .manifest import ROWS_PER_GROUP, Shards

SHARD_BYTES = 400 * 2**20  # of images, about
_DIGEST = b"paco_hf digest"  # of the images of a shard, in its metadata


def shard_schema(names: list[str]) -> pa.Schema:
    return Features({"image": Image(), "label": ClassLabel(names=names)}).arrow_schema


def shard_order(key: str) -> int:
    """The place of an image among all: a hash of its name, so that neighbors are a fair sample of the classes."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) >> 1


def write_parquet(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write a parquet file, whole or not at all.

    Args:
        path (path): of the file.
        tables (iterable of `pa.Table`): its rows.
        schema (`pa.Schema`): of the tables.
    """
    # Images do not compress.
    options: dict[str, Any] = {"compression": "none", "use_dictionary": ["label"]}
    digest = hashlib.sha256()
    with replacing(path) as unfinished, pq.ParquetWriter(unfinished, schema, **options) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=ROWS_PER_GROUP)
            for image in chain(*(images.field("bytes") for images in table["image"].chunks)):
                digest.update(image.as_buffer() or b"")
        writer.add_key_value_metadata({_DIGEST: digest.hexdigest()})


@dataclass(frozen=True)
class ShardWriter:
    """Writes what is not written yet, several shards at a time.

    Args:
        folder (path): where to.
        threads (`int`): shards to work on at a time.
        shard_bytes (`int`): of images in a shard, about.
    """

    folder: Path
    threads: int
    shard_bytes: int

    def write_splits(
        self, splits: dict[str, tuple[np.ndarray, float]], write: Callable[[Path, str, np.ndarray], None], title: str
    ) -> Shards:
        """Write the shards of all splits, and describe them for the manifest.

        Args:
            splits (`dict`): by split what stands for each image, in the order of the shards, and the bytes of all.
            write (callable): writes one shard from its path, its split and what stands for its images.
            title (`str`): of the progress bar.
        """
        tasks, targets = [], {}
        for split, (images, size) in splits.items():
            count = min(max(round(size / self.shard_bytes), 1), len(images))
            targets[split] = [self.folder / f"{split}-{i:05d}-of-{count:05d}.parquet" for i in range(count)]
            for target, part in zip(targets[split], np.array_split(images, count), strict=True):
                tasks.append((len(part), target, partial(write, target, split, part)))
        self.run(tasks, title)
        return {split: [_describe_shard(path) for path in paths] for split, paths in targets.items()}

    def run(self, tasks: Sequence[tuple[int, Path, Callable[[], None]]], title: str, unit: str = " images") -> None:
        """Run what has no result yet.

        Args:
            tasks (sequence of tuples): how much work it is, the file that it writes, and what writes it.
            title, unit (`str`): of the progress bar.
        """
        todo = [task for task in tasks if not task[1].is_file()]
        total = sum(size for size, *_ in tasks)
        done = total - sum(size for size, *_ in todo)
        with (
            tqdm(total=total, initial=done, desc=title, unit=unit, disable=None) as progress,
            ThreadPoolExecutor(self.threads) as pool,
        ):
            futures = {pool.submit(write): size for size, _, write in todo}
            try:
                for future in as_completed(futures):
                    future.result()
                    progress.update(futures[future])
            finally:
                pool.shutdown(cancel_futures=True)


def _describe_shard(path: Path) -> dict[str, Any]:
    about = pq.read_metadata(path)
    digest = (about.metadata or {}).get(_DIGEST)  # shards of former versions have none
    described = {"file": path.name, "images": about.num_rows, "bytes": path.stat().st_size}
    return described | ({"digest": digest.decode()} if digest else {})
