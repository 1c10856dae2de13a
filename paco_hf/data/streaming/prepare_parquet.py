"""Preparing a benchmark from parquet: one pass over a folder or a Hub id, joined on file names, then sorted."""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pd
import pyarrow.parquet as pq
from datasets import ClassLabel, Image, IterableDataset, load_dataset
from datasets.distributed import split_dataset_by_node

from ...utils.text import examples, repeated
from ..image_lists import ImageList, class_names, imagenet_class_names
from ..published import BENCHMARKS, Benchmark
from ..sources.hf_tables import parquet_files
from ..sources.hub_dataset import connected
from ..sources.source import check_column, choose_column
from .manifest import Shards
from .writer import ShardWriter, shard_order, shard_schema, write_parquet

PARTS = "parts"
_BATCH = 256  # rows of the source to join at a time

_PART = pa.schema({"image": Image().pa_type, "label": pa.int64(), "split": pa.string(), "order": pa.int64()})


def from_parquet(
    dataset: str,
    source: str,
    image_lists: dict[str, ImageList],
    columns: tuple[str | None, str | None],
    writer: ShardWriter,
) -> tuple[list[str], Shards]:
    """Write the shards of a source of parquet.

    Args:
        dataset (`str`): name of the benchmark.
        source (`str`): folder or Hub id.
        image_lists (`dict`): by split.
        columns (pair of `str`, *optional*): of images and labels; detected where `None`.
        writer (`ShardWriter`): of the shards.

    Returns:
        the names of the classes, and the description of the shards by split.

    Raises:
        ValueError: columns or splits that are missing; images that are missing or there twice, or have other labels
            than in their list.
        OSError: the source cannot be read.
    """
    benchmark, out = BENCHMARKS[dataset], writer.folder
    key = benchmark.join_key
    listed = {split: _by_key(image_list, key) for split, image_list in image_lists.items()}
    streams = _streams(source)
    # Splits that are all images of a split of the source.
    whole = {} if listed else {"train": "train"}
    scored = benchmark.test_split
    if "test" not in listed and scored in streams and (not image_lists or scored == "validation"):
        whole["test"] = scored
    if "train" not in streams:
        raise ValueError(f"{source} has no train split (found: {', '.join(streams)}): use a --source that has one")
    features = streams["train"].features
    if features is None:
        raise ValueError(f"the columns of {source} cannot be read: use parquet files with the same schema")
    image = columns[0] or _detect_column(features, source, benchmark, "image", Image)
    label = columns[1] or _detect_column(features, source, benchmark, "label", ClassLabel)
    check_column(features, image, source, "image")
    check_column(features, label, source, "label")
    if image_lists:
        names = class_names(dataset, image_lists["train"].folders)
    elif isinstance(features[label], ClassLabel):
        names = imagenet_class_names() if dataset == "imagenet" else list(features[label].names)
    else:
        raise ValueError(f"column {label!r} of {source} has no class names: make it a ClassLabel (datasets)")
    tasks = []
    (out / PARTS).mkdir(exist_ok=True)
    for name, stream in streams.items():
        wanted = {**listed, **{split: None for split, origin in whole.items() if origin == name}}
        if not wanted or (name == "test" and scored != "test"):
            continue
        stream = stream.cast_column(image, Image(decode=False)).select_columns([image, label])
        for i in range(stream.n_shards):
            target = out / PARTS / f"{name}-{i:05d}-of-{stream.n_shards:05d}.parquet"
            part = split_dataset_by_node(stream, rank=i, world_size=stream.n_shards)
            tasks.append((1, target, partial(_write_part, part, target, (image, label), wanted, key)))
    writer.run(tasks, f"reading {source}", unit=" source shards")
    return names, _sort_parts(listed, whole, [target for _, target, _ in tasks], names, writer)


def _by_key(image_list: ImageList, key: Callable[[str], str]) -> dict[str, int]:
    keys = [key(path) for path in image_list.paths]
    if (twice := repeated(keys)) is not None:
        raise ValueError(
            f"{image_list.name} has the file name {twice!r} twice, so its images cannot be found by name: remove "
            "one of them"
        )
    return dict(zip(keys, image_list.labels, strict=True))


def _detect_column(features: Any, source: str, benchmark: Benchmark, role: str, kind: type) -> str:
    """The column that the benchmark has for this role, or one of that name, or the only one of that type."""
    usual = [name for name in (getattr(benchmark, f"{role}_column"), role) if name in features]
    candidates = usual[:1] or [name for name in features if isinstance(features[name], kind)]
    return choose_column(candidates, features, source, role)


def _streams(source: str) -> dict[str, IterableDataset]:
    if not Path(source).exists():
        with connected(source):
            return dict(load_dataset(source, streaming=True))
    files = parquet_files(Path(source))
    for file in chain(*files.values()):
        try:
            pq.read_metadata(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise OSError(f"{file} is truncated or not a parquet file ({error}): download it again") from error
    return dict(load_dataset("parquet", data_files=files, streaming=True))


def _write_part(
    part: IterableDataset,
    target: Path,
    columns: tuple[str, str],
    wanted: Mapping[str, dict[str, int] | None],
    key: Callable[[str], str],
) -> None:
    """Write the images of a source shard that belong to a split, sorted by their place in the shards to come.

    `wanted` has the labels of each split's images by their keys; `None`: all images of the shard are of that split.
    """
    tables, row, shard = [_PART.empty_table()], 0, target.name.rpartition("-of-")[0]
    for batch in part.with_format("arrow").iter(_BATCH):
        images = batch[columns[0]].combine_chunks()
        paths, labels = images.field("path").to_pylist(), batch[columns[1]].to_pylist()
        for split, listed in wanted.items():
            rows, keys = list(range(len(paths))), [f"{shard}-{row + i:06d}" for i in range(len(paths))]
            if listed is not None:
                keys = [key(path or "") for path in paths]
                rows = [i for i, name in enumerate(keys) if name in listed]
                for i in rows:
                    if (label := listed[keys[i]]) != labels[i]:
                        raise ValueError(
                            f"{paths[i]} has label {labels[i]} in the source, but {label} in the {split} list: "
                            "use the list of this source"
                        )
            table = {
                "image": images.take(pa.array(rows, pa.int64())),
                "label": [labels[i] for i in rows],
                "split": [split] * len(rows),
                "order": [shard_order(keys[i]) for i in rows],
            }
            tables.append(pa.Table.from_pydict(table, schema=_PART))
        row += len(paths)
    write_parquet(target, [pa.concat_tables(tables).sort_by("order")], _PART)


def _sort_parts(
    listed: dict[str, dict[str, int]], whole: dict[str, str], parts: list[Path], names: list[str], writer: ShardWriter
) -> Shards:
    """From parts, each sorted, to shards: each has one range of the order."""
    dataset = pd.dataset([str(part) for part in parts], schema=_PART)
    index = dataset.to_table(columns=["split", "order"])
    mean_size = sum(part.stat().st_size for part in parts) / max(len(index), 1)
    schema, orders = shard_schema(names), {}
    for split in [*listed, *whole]:
        order = np.sort(index.filter(pc.field("split") == split)["order"].to_numpy())
        if count := len(order) - len(np.unique(order)):
            raise ValueError(f"{count} images of the {split} split are in the source twice: remove the copies")
        if split in whole and not len(order):
            raise ValueError(f"the source has no images in its split {whole[split]}: use another --source")
        present, images = set(order.tolist()), listed.get(split, {})
        if missing := [name for name in images if shard_order(name) not in present]:
            raise ValueError(
                f"{len(missing)} of the {len(images)} images of the {split} list are not in the source: "
                f"{examples(missing)}: use another --source, or the list of this one"
            )
        orders[split] = order, mean_size * len(order)

    def write(target: Path, split: str, order: np.ndarray) -> None:
        place = pc.field("order")
        range_ = (pc.field("split") == split) & (place >= int(order[0])) & (place <= int(order[-1]))
        table = dataset.to_table(filter=range_, use_threads=False).sort_by("order").select(["image", "label"])
        write_parquet(target, [table.cast(schema)], schema)

    return writer.write_splits(orders, write, "sorting into shards")
