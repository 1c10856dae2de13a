"""Preparing from parquet: one pass over a folder or a Hub id, joined on file names, then sorted into shards."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pd
import pyarrow.parquet as pq
from datasets import ClassLabel, Image, IterableDataset, load_dataset

from ..image_lists import ILSVRC, ImageList, class_names
from ..published import Benchmark
from ..sources.folders import parquet_files
from ..sources.hub_dataset import connected
from ..sources.source import check_column, detect_column
from .writer import describe_shard, order_of, run_tasks, schema_of, write_parquet

PARTS = "parts"
_BATCH = 256  # rows of the source to join at a time

_PART = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("label", pa.int64()),
        ("split", pa.string()),
        ("order", pa.int64()),
    ]
)


@dataclass
class _Split:
    """A split to write: its images by name, or all of a split of the source."""

    labels: dict[str, int] | None = None  # by name; None: take all
    source: str | None = None  # of which all are taken


def from_parquet(
    dataset: str,
    benchmark: Benchmark | None,
    source: str,
    image_lists: dict[str, ImageList],
    out: Path,
    threads: int,
    shard_bytes: int,
    columns: tuple[str | None, str | None],
) -> tuple[list[str], dict[str, list[dict[str, Any]]]]:
    key = benchmark.join_key if benchmark and image_lists else None
    splits: dict[str, _Split] = {}
    for split, image_list in image_lists.items():
        splits[split] = _Split(_by_key(image_list, benchmark))
    streams = _streams(source)
    if not image_lists:
        splits["train"] = _Split(source="train")
    scored = benchmark.test_split if benchmark else "test" if "test" in streams else "validation"
    whole_test = not image_lists or (benchmark is not None and benchmark.test_split == "validation")
    if "test" not in splits and scored in streams and whole_test:
        splits["test"] = _Split(source=scored)
    if "train" not in streams:
        raise ValueError(f"{source} has no train split (found: {', '.join(streams)})")
    features = streams["train"].features
    if features is None:
        raise ValueError(f"the columns of {source} cannot be told: its parquet files have no schema in common")
    image = columns[0] or _default(benchmark, "image", features) or detect_column(features, source, "image", Image)
    label = (
        columns[1] or _default(benchmark, "label", features) or detect_column(features, source, "label", ClassLabel)
    )
    check_column(features, image, source, "image")
    check_column(features, label, source, "label")
    if image_lists:
        names = class_names(dataset, image_lists["train"].folders)
    elif isinstance(features[label], ClassLabel):
        names = class_names(dataset, ILSVRC) if dataset == "imagenet" else list(features[label].names)
    else:
        raise ValueError(f"column {label!r} of {source} is no ClassLabel, so its classes have no names")
    tasks = []
    (out / PARTS).mkdir(exist_ok=True)
    for name, stream in streams.items():
        wanted = {s: c for s, c in splits.items() if c.labels is not None or c.source == name}
        if not wanted or (name == "test" and benchmark and benchmark.test_split != "test"):
            continue
        stream = stream.cast_column(image, Image(decode=False)).select_columns([image, label])
        for i in range(stream.num_shards):
            target = out / PARTS / f"{name}-{i:05d}-of-{stream.num_shards:05d}.parquet"
            part = stream.shard(num_shards=stream.num_shards, index=i)
            tasks.append((1, target, partial(_write_part, target, part, (image, label), wanted, key, name, i)))
    run_tasks(tasks, threads, f"reading {source}", unit=" source shards")
    return names, _sort_parts(out, splits, [target for _, target, _ in tasks], names, threads, shard_bytes)


def _by_key(image_list: ImageList, benchmark: Benchmark | None) -> dict[str, int]:
    assert benchmark is not None
    keys = [benchmark.join_key(path) for path in image_list.paths]
    labels = dict(zip(keys, image_list.labels, strict=True))
    if len(labels) < len(keys):
        twice = next(name for name, n in Counter(keys).items() if n > 1)
        raise ValueError(f"{image_list.name} has the file name {twice!r} twice, so images cannot be joined on it")
    return labels


def _default(benchmark: Benchmark | None, role: str, features: Any) -> str | None:
    name = getattr(benchmark, f"{role}_column") if benchmark else None
    return name if name in features else None


def _streams(source: str) -> dict[str, IterableDataset]:
    if not Path(source).exists():
        with connected(source):
            return dict(load_dataset(source, streaming=True))
    files = parquet_files(Path(source))
    for file in (file for paths in files.values() for file in paths):
        try:
            pq.read_metadata(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise OSError(f"{file} is truncated or no parquet file ({error}): download it again") from error
    return dict(load_dataset("parquet", data_files=files, streaming=True))


def _write_part(
    target: Path,
    part: IterableDataset,
    columns: tuple[str, str],
    wanted: dict[str, _Split],
    key: Callable[[str], str] | None,
    source_split: str,
    number: int,
) -> None:
    """The images of one source shard that belong to a split, sorted by their place in the shards to come."""
    image, label = columns
    kept = []
    row = 0
    for table in part.with_format("arrow").iter(_BATCH):
        images = table[image].combine_chunks()
        paths = images.field("path").to_pylist()
        labels = table[label].to_pylist()
        names = [f"{source_split}-{number:05d}-{row + i:06d}" for i in range(len(paths))]
        row += len(paths)
        for split, content in wanted.items():
            if content.labels is None:
                rows, found, keys = list(range(len(paths))), labels, names
            else:
                assert key is not None
                keys = [key(path or "") for path in paths]
                rows = [i for i, name in enumerate(keys) if name in content.labels]
                found = [content.labels[keys[i]] for i in rows]
                wrong = [i for i, c in zip(rows, found, strict=True) if labels[i] != c]
                if wrong:
                    raise ValueError(
                        f"{paths[wrong[0]]} has label {labels[wrong[0]]} in the source, but "
                        f"{content.labels[keys[wrong[0]]]} in the {split} list"
                    )
            if rows:
                kept.append(
                    pa.Table.from_arrays(
                        [
                            images.take(pa.array(rows)),
                            pa.array(found, pa.int64()),
                            pa.array([split] * len(rows)),
                            pa.array([order_of(keys[i]) for i in rows], pa.int64()),
                        ],
                        schema=_PART,
                    )
                )
    table = pa.concat_tables(kept) if kept else _PART.empty_table()
    table = table.take(pc.sort_indices(table, sort_keys=[("order", "ascending")]))
    write_parquet(target, [table], _PART)


def _sort_parts(
    out: Path, splits: dict[str, _Split], parts: list[Path], names: list[str], threads: int, shard_bytes: int
) -> dict[str, list[dict[str, Any]]]:
    """From parts, each sorted, to shards: each has one range of the order."""
    dataset = pd.dataset([str(part) for part in parts], schema=_PART)
    index = dataset.to_table(columns=["split", "order"])
    size = sum(part.stat().st_size for part in parts)
    schema = schema_of(names)
    tasks, targets = [], {}
    for split, content in splits.items():
        order = np.sort(index.filter(pc.field("split") == split)["order"].to_numpy())
        _check_complete(split, content, order)
        count = min(max(round(size * len(order) / max(len(index), 1) / shard_bytes), 1), len(order))
        targets[split] = [out / f"{split}-{i:05d}-of-{count:05d}.parquet" for i in range(count)]
        for target, own in zip(targets[split], np.array_split(order, count), strict=True):
            tasks.append((len(own), target, partial(_write_range, target, dataset, split, own, schema)))
    run_tasks(tasks, threads, "sorting into shards")
    return {split: [describe_shard(path) for path in paths] for split, paths in targets.items()}


def _check_complete(split: str, content: _Split, order: np.ndarray) -> None:
    if len(np.unique(order)) < len(order):
        raise ValueError(f"{len(order) - len(np.unique(order))} images of the {split} split are in the source twice")
    if content.labels is None:
        if not len(order):
            raise ValueError(f"the source has no image of its split {content.source}")
        return
    found = set(order.tolist())
    missing = [name for name in content.labels if order_of(name) not in found]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(content.labels)} images of the {split} list are not in the source: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}"
        )


def _write_range(target: Path, parts: Any, split: str, order: np.ndarray, schema: pa.Schema) -> None:
    place = pc.field("order")
    table = parts.to_table(
        filter=(pc.field("split") == split) & (place >= int(order[0])) & (place <= int(order[-1])), use_threads=False
    )
    table = table.take(pc.sort_indices(table, sort_keys=[("order", "ascending")])).select(["image", "label"])
    write_parquet(target, [table.cast(schema)], schema)
