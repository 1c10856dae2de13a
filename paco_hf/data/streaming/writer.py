"""Writing shards: several at a time, each under a temporary name until it is complete."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Image
from tqdm.auto import tqdm

from ...utils.files import replacing
from .manifest import ROWS_PER_GROUP


def schema_of(names: list[str]) -> pa.Schema:
    return Features({"image": Image(), "label": ClassLabel(names=names)}).arrow_schema


def order_of(key: str) -> int:
    """The place of an image among all: a hash of its name, so that neighbours are a fair sample of the classes."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) >> 1


def write_parquet(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    # Images do not compress.
    with (
        replacing(path) as partial,
        pq.ParquetWriter(partial, schema, compression="none", use_dictionary=["label"]) as writer,
    ):
        for table in tables:
            writer.write_table(table, row_group_size=ROWS_PER_GROUP)


def run_tasks(
    tasks: Sequence[tuple[int, Path, Callable[[], None]]], threads: int, title: str, unit: str = " images"
) -> None:
    """Write what is not written yet: pairs of images and target, several at a time."""
    todo = [task for task in tasks if not task[1].is_file()]
    total = sum(size for size, *_ in tasks)
    with (
        tqdm(total=total, initial=total - sum(t[0] for t in todo), desc=title, unit=unit, disable=None) as progress,
        ThreadPoolExecutor(threads) as pool,
    ):
        futures = {pool.submit(write): size for size, _, write in todo}
        try:
            for future in as_completed(futures):
                future.result()
                progress.update(futures[future])
        finally:
            pool.shutdown(cancel_futures=True)


def describe_shard(path: Path) -> dict[str, Any]:
    return {"file": path.name, "images": pq.read_metadata(path).num_rows, "bytes": path.stat().st_size}
