"""`paco-hf data prepare`: the images of a data set into parquet shards with a manifest, in one pass over the source.

A source of files is opened where the list says; a source of parquet (a folder, or a Hub id) is streamed once and
joined on file names, undecoded, each source shard into a part of its own, and the parts are then sorted into the
shards. All files are written under a temporary name and renamed, the manifest last: what a stop leaves is taken up
where it was.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from ...utils.files import replacing, write_text
from ..image_lists import ImageList, class_names, git_blob_id, tree_lists
from ..image_split import selection_hash
from ..long_tail import class_counts
from ..published import BENCHMARKS, Benchmark
from ..sources.folders import class_folders, list_files
from .manifest import MANIFEST_NAME, ROWS_PER_GROUP, Manifest, labels_name
from .prepare_parquet import PARTS, from_parquet
from .writer import describe_shard, order_of, run_tasks, schema_of, write_parquet

PLAN_NAME, LOCK_NAME = "plan.json", ".lock"
SHARD_BYTES = 400 * 2**20


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
        dataset (`str`): a name of [`paco_hf.data.published.BENCHMARKS`], or any name for data of one's own.
        source (`str`): folder of images (the official tree, or class folders under `train/` and `test/`), folder of
            parquet, or Hub id; `None`: the benchmark's own Hub id.
        out (`str`): new folder, or one where the same preparation was stopped.
        lists (`dict`, *optional*): list file or address by split, where they do not lie in `source`.
        image_column, label_column (`str`, *optional*): of parquet; recognised by their types where not given.
        threads (`int`, *optional*): shards to work on at a time; defaults to the cores, 4 at most. Each holds what it
            takes of a source shard in memory.
        shard_bytes (`int`, *optional*, defaults to 400 MiB): of images in a shard, about.

    Raises:
        ValueError: a list or source that does not fit, images that are missing or there twice, or another preparation
            in `out`.
        OSError: something does not exist, or cannot be read or written (a full disk).
    """
    benchmark = BENCHMARKS.get(dataset)
    if benchmark and benchmark.path is None:
        raise ValueError(f"{dataset} is small, and needs no preparing: `paco-hf train --dataset {dataset}` reads it")
    source = source or (benchmark.hub_id if benchmark else None)
    if source is None:
        raise ValueError(f"{dataset} is on no Hub under a name of its own: give --source, a folder or a Hub id")
    folder = Path(out)
    image_lists = _lists(dataset, benchmark, source, lists or {})
    tree = _read_tree(benchmark, Path(source), image_lists) if _is_tree(source) else None
    plan = {
        "dataset": dataset,
        "source": os.path.abspath(source) if os.path.exists(source) else source,
        "lists": {split: git_blob_id(lst.content) for split, lst in sorted(image_lists.items())},
        "columns": [image_column, label_column],
        "shard_bytes": shard_bytes,
        "content": tree.fingerprint() if tree else _parquet_fingerprint(source),
    }
    try:
        with _alone(folder):
            finished = _begin(folder, plan)
            if finished is None:
                finished = _carry_out(
                    dataset,
                    source,
                    folder,
                    image_lists,
                    tree,
                    threads or min(os.cpu_count() or 1, 4),
                    shard_bytes,
                    (image_column, label_column),
                )
            shutil.rmtree(folder / PARTS, ignore_errors=True)
            return finished
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(
            f"{folder}: {error.strerror or error}. What is complete there is kept, and nothing else is taken for it: "
            "the same command goes on from it"
        ) from error


def _carry_out(
    dataset: str,
    source: str,
    folder: Path,
    image_lists: dict[str, ImageList],
    tree: "_Tree | None",
    threads: int,
    shard_bytes: int,
    columns: tuple[str | None, str | None],
) -> Manifest:
    key = join_key(dataset)
    if tree:
        names = class_names(dataset, tree.folders)
        splits = _write_tree(tree, names, folder, threads, shard_bytes)
    else:
        benchmark = BENCHMARKS.get(dataset)
        names, splits = from_parquet(dataset, benchmark, source, image_lists, folder, threads, shard_bytes, columns)
    manifest = Manifest(str(folder), dataset, source, names, {})
    for split, content in splits.items():
        manifest.splits[split] = _describe(folder, split, content, len(names), key)
        if tree and manifest.splits[split]["selection"] != tree.selection(split, key):
            raise ValueError(
                f"the shards of the {split} split in {folder} do not hold the images of {source}: remove {folder}, "
                "and prepare anew"
            )
    for split, image_list in image_lists.items():
        (folder / f"{split}.list").write_bytes(image_list.content)
    manifest.write()
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
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is damaged ({error}): remove {folder}, and prepare anew") from error
        if before != plan and any(folder.glob("**/*.parquet")):
            names = [k for k in plan if k != "content" and before.get(k) != plan[k]]
            changed = [f"{k} {before.get(k)} -> {plan[k]}" for k in names]
            changed = changed or ["the images of the source have changed since"]
            raise ValueError(
                f"{folder} has a preparation with other settings ({', '.join(changed)}): give another --out, or "
                "remove it"
            )
        if before == plan and (folder / MANIFEST_NAME).is_file():
            try:
                manifest = Manifest.read(str(folder))
                manifest.check_files()
            except (OSError, ValueError) as error:
                print(f"{error}; now doing so")
                _remove_damaged(folder)
            else:
                return manifest
    elif any(file.name != LOCK_NAME for file in folder.iterdir()):
        raise ValueError(f"--out {folder} is not empty, and no preparation was begun in it: give another folder")
    write_text(path, json.dumps(plan, indent=1) + "\n")
    for stale in folder.glob("**/*.partial"):
        stale.unlink()
    return None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder; a process that was killed has let go of it."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK_NAME, timeout=0):
            yield
    except Timeout as error:
        raise ValueError(
            f"another process is preparing data in {folder}: wait for it, or give another --out"
        ) from error


def _remove_damaged(folder: Path) -> None:
    """Remove the manifest, and the shards that are not as it says, or cannot be told to be."""
    try:
        shards = {s["file"]: s["bytes"] for c in Manifest.read(str(folder)).splits.values() for s in c["shards"]}
    except ValueError:
        shards = {}
    (folder / MANIFEST_NAME).unlink()
    for file in folder.glob("*.parquet"):
        if shards.get(file.name) != file.stat().st_size:
            file.unlink()


# ---- from files


@dataclass
class _Tree:
    """Image files below a root by split: where, with which class id, and how many bytes."""

    root: Path
    folders: list[str]  # of each class, by id
    files: dict[str, tuple[list[str], list[int], list[int]]]

    def keys(self, split: str) -> list[str]:
        return [os.path.relpath(path, self.root) for path in self.files[split][0]]

    def selection(self, split: str, key: Callable[[str], str]) -> str:
        return selection_hash([key(name) for name in self.keys(split)], self.files[split][1])

    def fingerprint(self) -> dict[str, str]:
        """Changes with every image that comes, goes, or has another size or class."""
        prints = {}
        for split, (_, labels, sizes) in self.files.items():
            names = [f"{name} {size}" for name, size in zip(self.keys(split), sizes, strict=True)]
            prints[split] = selection_hash(names, labels)
        return prints


def _parquet_fingerprint(source: str) -> list[Any] | None:
    """Names and sizes of the files of a folder; a source on the Hub is not looked at."""
    files = sorted(Path(source).glob("**/*.parquet")) if Path(source).is_dir() else []
    return [[str(file.relative_to(source)), file.stat().st_size] for file in files] or None


def _read_tree(benchmark: Benchmark | None, root: Path, image_lists: dict[str, ImageList]) -> _Tree:
    files: dict[str, tuple[list[str], list[int]]] = {
        split: (list_files(root, lst), lst.labels) for split, lst in image_lists.items()
    }
    folders = image_lists["train"].folders if "train" in image_lists else None
    for split, name in _whole_folders(benchmark, root, files):
        paths, labels, names = class_folders(root / name, folders or ())
        files[split], folders = (paths, labels), folders or names
    if not folders or "train" not in files:
        raise ValueError(f"{root} has no train/ folder of class folders, and no parquet files")
    sized = {}
    for split, (paths, labels) in files.items():
        progress = tqdm(paths, f"looking at {split}", unit=" files", disable=None)
        sized[split] = paths, labels, [os.path.getsize(path) for path in progress]
        empty = [path for path, size in zip(paths, sized[split][2], strict=True) if size == 0]
        if empty:
            raise ValueError(
                f"{len(empty)} of the {split} images are empty files, such as {empty[0]}: fetch them again, or "
                "leave them out"
            )
    return _Tree(root, folders, sized)


def _write_tree(
    tree: _Tree, names: list[str], out: Path, threads: int, shard_bytes: int
) -> dict[str, list[dict[str, Any]]]:
    schema = schema_of(names)
    tasks, splits = [], {}
    for split, (paths, labels, sizes) in tree.files.items():
        keys = tree.keys(split)
        order = np.argsort(np.array([order_of(key) for key in keys], dtype=np.int64), kind="stable")
        count = min(max(round(sum(sizes) / shard_bytes), 1), len(paths))
        splits[split] = [out / f"{split}-{i:05d}-of-{count:05d}.parquet" for i in range(count)]
        for target, rows in zip(splits[split], np.array_split(order, count), strict=True):
            content = [(paths[i], keys[i], labels[i]) for i in rows.tolist()]
            tasks.append((len(content), target, partial(_write_files, target, content, schema)))
    run_tasks(tasks, threads, "writing shards")
    return {split: [describe_shard(path) for path in paths] for split, paths in splits.items()}


def _whole_folders(benchmark: Benchmark | None, root: Path, files: Any) -> list[tuple[str, str]]:
    """Splits that are whole folders: those without a list."""
    if benchmark is None:
        known = {
            "train": "train",
            "validation": "validation",
            "valid": "validation",
            "val": "validation",
            "test": "test",
        }
        found = [(split, name) for name, split in known.items() if (root / name).is_dir()]
        if len(dict(found)) < len(found):
            raise ValueError(f"{root} has two folders for one split: {', '.join(name for _, name in found)}")
        return found
    if benchmark.test_split != "validation":
        return []
    return [(split, name) for split, name in (("train", "train"), ("test", "val")) if split not in files]


def _write_files(target: Path, content: list[tuple[str, str, int]], schema: pa.Schema) -> None:
    def groups() -> Iterator[pa.Table]:
        for start in range(0, len(content), ROWS_PER_GROUP):
            chunk = content[start : start + ROWS_PER_GROUP]
            image = [{"bytes": Path(path).read_bytes(), "path": key} for path, key, _ in chunk]
            yield pa.Table.from_pydict({"image": image, "label": [c for _, _, c in chunk]}, schema=schema)

    write_parquet(target, groups(), schema)


def _describe(
    folder: Path, split: str, shards: list[dict[str, Any]], num_classes: int, key: Callable[[str], str]
) -> dict[str, Any]:
    """The manifest's entry of a split, and its file of labels."""
    paths, labels = read_names(folder, shards)
    with replacing(folder / labels_name(split)) as unfinished, unfinished.open("wb") as file:
        np.save(file, np.asarray(labels, dtype=np.int32), allow_pickle=False)
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
    """What the images of a data set are joined on: see [`paco_hf.data.published.Benchmark.join_key`]."""
    benchmark = BENCHMARKS.get(dataset)
    return benchmark.join_key if benchmark and benchmark.path else str
