"""`paco-hf data prepare`: the images of a data set into parquet shards with a manifest, in one pass over the source.

A source of files is opened where the list says; a source of parquet (a folder, or a Hub id) is streamed once and
joined on file names, undecoded, each source shard into a part of its own, and the parts are then sorted into the
shards. All files are written under a temporary name and renamed, the manifest last: what a stop leaves is taken up
where it was.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pd
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Image, IterableDataset, load_dataset
from tqdm.auto import tqdm

from .benchmarks import BENCHMARKS, Benchmark
from .lists import ILSVRC, ImageList, class_names, git_blob_id, selection_hash
from .loading import tree_lists
from .long_tail import class_counts
from .shards import MANIFEST_NAME, ROWS_PER_GROUP, Manifest, labels_name
from .sources import class_folders, column, connected, list_files, parquet_files

PLAN_NAME, PARTS = "plan.json", "parts"
SHARD_BYTES = 400 * 2**20
_BATCH = 256  # rows of the source to join at a time


@dataclass
class _Split:
    """A split to write: its images by name, or all of a split of the source."""

    labels: dict[str, int] | None = None  # by name; None: take all
    source: str | None = None  # of which all are taken


def prepare(
    dataset: str,
    source: str | None,
    out: str,
    lists: dict[str, str] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    threads: int | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Manifest:
    """Write the shards and the manifest of a data set into the folder `out`.

    Args:
        dataset (`str`): a name of [`paco_hf.data.benchmarks.BENCHMARKS`], or any name for data of one's own.
        source (`str`): folder of images (the official tree, or class folders under `train/` and `test/`), folder of
            parquet, or Hub id; `None`: the benchmark's own Hub id.
        out (`str`): new folder, or one where the same preparation was stopped.
        lists (`dict`, *optional*): list file or address by split, where they do not lie in `source`.
        image_column, label_column (`str`, *optional*): of parquet; recognised by their types where not given.
        threads (`int`, *optional*): shards to work on at a time; defaults to the cores, 8 at most.
        shard_bytes (`int`, *optional*, defaults to 400 MiB): of images in a shard, about.

    Raises:
        ValueError: a list or source that does not fit, images that are missing or there twice, or another preparation
            in `out`.
        OSError: something does not exist, or cannot be read or written (a full disk).
    """
    benchmark = BENCHMARKS.get(dataset)
    source = source or (benchmark.hub_id if benchmark else None)
    if source is None:
        raise ValueError(f"{dataset} is on no Hub under a name of its own: give --source, a folder or a Hub id")
    folder = Path(out)
    image_lists = _lists(dataset, benchmark, source, lists or {})
    plan = {
        "dataset": dataset,
        "source": source,
        "lists": {split: git_blob_id(lst.content) for split, lst in sorted(image_lists.items())},
        "shard_bytes": shard_bytes,
    }
    finished = _begin(folder, plan)
    if finished is not None:
        return finished
    threads = threads or min(os.cpu_count() or 1, 8)
    try:
        if _is_tree(source):
            names, splits = _from_files(dataset, benchmark, Path(source), image_lists, folder, threads, shard_bytes)
        else:
            columns = image_column, label_column
            names, splits = _from_parquet(
                dataset, benchmark, source, image_lists, folder, threads, shard_bytes, columns
            )
        manifest = Manifest(str(folder), dataset, source, names, {})
        for split, content in splits.items():
            manifest.splits[split] = _describe(folder, split, content, len(names), join_key(dataset))
        for split, image_list in image_lists.items():
            (folder / f"{split}.list").write_bytes(image_list.content)
        manifest.write()
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(
            f"{folder}: {error.strerror or error}. What is complete there is kept, and nothing else is taken for it: "
            "the same command goes on from it"
        ) from error
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    return manifest


def _lists(dataset: str, benchmark: Benchmark | None, source: str, given: dict[str, str]) -> dict[str, ImageList]:
    if benchmark is None or benchmark.path is None:
        if given:
            raise ValueError(f"lists go with {', '.join(n for n, b in BENCHMARKS.items() if b.path)}, not {dataset}")
        return {}
    return tree_lists(dataset, benchmark, Path(source), given)


def _is_tree(source: str) -> bool:
    return Path(source).is_dir() and not any(Path(source).glob("**/*.parquet"))


def _begin(folder: Path, plan: dict[str, Any]) -> Manifest | None:
    """Claim the folder for this plan; the manifest where it is carried out already."""
    path = folder / PLAN_NAME
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before != plan:
            changed = [f"{k} {before.get(k)} -> {plan[k]}" for k in plan if before.get(k) != plan[k]]
            raise ValueError(
                f"{folder} has a preparation with other settings ({', '.join(changed)}): give another --out, or "
                "remove it"
            )
        if (folder / MANIFEST_NAME).is_file():
            manifest = Manifest.read(str(folder))
            try:
                manifest.check_files()
            except OSError as error:
                print(f"{error}; now doing so")
                _remove_damaged(folder, manifest)
            else:
                return manifest
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(f"--out {folder} is not empty, and no preparation was begun in it: give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    _write(path, lambda file: file.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8"))
    for stale in folder.glob("**/*.partial"):
        stale.unlink()
    return None


def _remove_damaged(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST_NAME).unlink()
    for content in manifest.splits.values():
        for shard in content["shards"]:
            file = folder / shard["file"]
            if file.exists() and file.stat().st_size != shard["bytes"]:
                file.unlink()


# ---- from files


def _from_files(
    dataset: str,
    benchmark: Benchmark | None,
    root: Path,
    image_lists: dict[str, ImageList],
    out: Path,
    threads: int,
    shard_bytes: int,
) -> tuple[list[str], dict[str, list[dict[str, Any]]]]:
    files: dict[str, tuple[list[str], list[int]]] = {
        split: (list_files(root, lst), lst.labels) for split, lst in image_lists.items()
    }
    folders = image_lists["train"].folders if "train" in image_lists else None
    for split, name in _whole_folders(benchmark, root, files):
        paths, labels, found = class_folders(root / name)
        folders = folders or found
        unknown = sorted(set(found) - set(folders))
        if unknown:
            raise ValueError(f"{root / name} has a class {unknown[0]!r} that the training images have not")
        files[split] = paths, [folders.index(found[label]) for label in labels]
    if not folders or "train" not in files:
        raise ValueError(f"{root} has no train/ folder of class folders, and no parquet files")
    names = class_names(dataset, folders)
    schema = _schema(names)
    tasks, splits = [], {}
    for split, (paths, labels) in files.items():
        keys = [os.path.relpath(path, root) for path in paths]
        order = np.argsort(np.array([_order(key) for key in keys], dtype=np.int64), kind="stable")
        size = sum(os.path.getsize(path) for path in tqdm(paths, f"looking at {split}", unit=" files", disable=None))
        count = min(max(round(size / shard_bytes), 1), len(paths))
        splits[split] = [out / f"{split}-{i:05d}-of-{count:05d}.parquet" for i in range(count)]
        for target, rows in zip(splits[split], np.array_split(order, count), strict=True):
            content = [(paths[i], keys[i], labels[i]) for i in rows.tolist()]
            tasks.append((len(content), target, partial(_write_files, target, content, schema)))
    _run(tasks, threads, "writing shards")
    return names, {split: [_shard(path) for path in paths] for split, paths in splits.items()}


def _whole_folders(benchmark: Benchmark | None, root: Path, files: Any) -> list[tuple[str, str]]:
    """Splits that are whole folders: those without a list."""
    if benchmark is None:
        return [(s, s) for s in ("train", "validation", "test") if (root / s).is_dir()]
    if benchmark.test_split != "validation":
        return []
    return [(split, name) for split, name in (("train", "train"), ("test", "val")) if split not in files]


def _write_files(target: Path, content: list[tuple[str, str, int]], schema: pa.Schema) -> None:
    def groups() -> Iterator[pa.Table]:
        for start in range(0, len(content), ROWS_PER_GROUP):
            chunk = content[start : start + ROWS_PER_GROUP]
            image = [{"bytes": Path(path).read_bytes(), "path": key} for path, key, _ in chunk]
            yield pa.Table.from_pydict({"image": image, "label": [c for _, _, c in chunk]}, schema=schema)

    _write_parquet(target, groups(), schema)


# ---- from parquet


def _from_parquet(
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
    image = column(streams["train"], source, "image", columns[0] or _default(benchmark, "image", features), Image)
    label = column(streams["train"], source, "label", columns[1] or _default(benchmark, "label", features), ClassLabel)
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
    _run(tasks, threads, f"reading {source}", unit=" source shards")
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


_PART = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("label", pa.int64()),
        ("split", pa.string()),
        ("order", pa.int64()),
    ]
)


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
                            pa.array([_order(keys[i]) for i in rows], pa.int64()),
                        ],
                        schema=_PART,
                    )
                )
    table = pa.concat_tables(kept) if kept else _PART.empty_table()
    table = table.take(pc.sort_indices(table, sort_keys=[("order", "ascending")]))
    _write_parquet(target, [table], _PART)


def _sort_parts(
    out: Path, splits: dict[str, _Split], parts: list[Path], names: list[str], threads: int, shard_bytes: int
) -> dict[str, list[dict[str, Any]]]:
    """From parts, each sorted, to shards: each has one range of the order."""
    dataset = pd.dataset([str(part) for part in parts], schema=_PART)
    index = dataset.to_table(columns=["split", "order"])
    size = sum(part.stat().st_size for part in parts)
    schema = _schema(names)
    tasks, targets = [], {}
    for split, content in splits.items():
        order = np.sort(index.filter(pc.field("split") == split)["order"].to_numpy())
        _check_complete(split, content, order)
        count = min(max(round(size * len(order) / max(len(index), 1) / shard_bytes), 1), len(order))
        targets[split] = [out / f"{split}-{i:05d}-of-{count:05d}.parquet" for i in range(count)]
        for target, own in zip(targets[split], np.array_split(order, count), strict=True):
            tasks.append((len(own), target, partial(_write_range, target, dataset, split, own, schema)))
    _run(tasks, threads, "sorting into shards")
    return {split: [_shard(path) for path in paths] for split, paths in targets.items()}


def _check_complete(split: str, content: _Split, order: np.ndarray) -> None:
    if len(np.unique(order)) < len(order):
        raise ValueError(f"{len(order) - len(np.unique(order))} images of the {split} split are in the source twice")
    if content.labels is None:
        if not len(order):
            raise ValueError(f"the source has no image of its split {content.source}")
        return
    found = set(order.tolist())
    missing = [name for name in content.labels if _order(name) not in found]
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
    _write_parquet(target, [table.cast(schema)], schema)


# ---- writing


def _schema(names: list[str]) -> pa.Schema:
    return Features({"image": Image(), "label": ClassLabel(names=names)}).arrow_schema


def _order(key: str) -> int:
    """The place of an image among all: a hash of its name, so that neighbours are a fair sample of the classes."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) >> 1


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    temporary = path.with_name(path.name + ".partial")
    try:
        write(temporary)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)


def _write_parquet(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    def write(temporary: Path) -> None:
        # Images do not compress.
        with pq.ParquetWriter(temporary, schema, compression="none", use_dictionary=["label"]) as writer:
            for table in tables:
                writer.write_table(table, row_group_size=ROWS_PER_GROUP)

    _write(path, write)


def _run(
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


def _shard(path: Path) -> dict[str, Any]:
    return {"file": path.name, "images": pq.read_metadata(path).num_rows, "bytes": path.stat().st_size}


def _describe(
    folder: Path, split: str, shards: list[dict[str, Any]], num_classes: int, key: Callable[[str], str]
) -> dict[str, Any]:
    """The manifest's entry of a split, and its file of labels."""
    paths, labels = read_names(folder, shards)
    array = np.asarray(labels, dtype=np.int32)

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.save(file, array, allow_pickle=False)

    _write(folder / labels_name(split), write)
    return {
        "images": len(labels),
        "class_counts": class_counts(labels, num_classes, allow_empty=split != "train"),
        "selection": selection_hash([key(path) for path in paths], labels),
        "shards": shards,
    }


def read_names(folder: Path, shards: list[dict[str, Any]]) -> tuple[list[str], list[int]]:
    """Stored path (or `""`) and label of each image of a split's shards."""
    paths: list[str] = []
    labels: list[int] = []
    for shard in shards:
        table = pq.ParquetFile(folder / shard["file"]).read(columns=["image.path", "label"])
        paths += [path or "" for path in table["image"].combine_chunks().field("path").to_pylist()]
        labels += table["label"].to_pylist()
    return paths, labels


def join_key(dataset: str) -> Callable[[str], str]:
    """What the images of a data set are joined on: see [`paco_hf.data.benchmarks.Benchmark.join_key`]."""
    benchmark = BENCHMARKS.get(dataset)
    return benchmark.join_key if benchmark and benchmark.path else str
