"""`paco-hf data prepare`: the images of a dataset into parquet shards with a manifest, in one pass over the source.

A benchmark's source of files is opened where the list says; one of parquet (a folder, or a Hub id) is streamed once
and joined on file names, undecoded, each source shard into a part of its own, and the parts are then sorted into the
shards. A user's data is read as for training. All files are written under a temporary name and renamed, the manifest
last: what a stop leaves is taken up where it was.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...utils.files import DiskError, read_mapping, relative_name, replacing, sorted_files, write_text
from ...utils.locks import sole_owner
from ..image_lists import ImageList, git_blob_id, tree_lists
from ..image_split import selection_hash
from ..long_tail import class_counts
from ..published import BENCHMARKS
from ..sources.user_dataset import open_user_dataset
from ..spec import DataSpec
from .manifest import MANIFEST_NAME, PLAN_NAME, Manifest, Shards, check_preparation, labels_name
from .prepare_images import SourceImages, file_state
from .prepare_parquet import PARTS, from_parquet
from .writer import SHARD_BYTES, ShardWriter


def prepare(
    dataset: str,
    source: str | None,
    out: str,
    lists: dict[str, str] | None = None,
    *,
    threads: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    **fields: Any,
) -> Manifest:
    """Write the shards and the manifest of a dataset into the folder `out`.

    Args:
        dataset (`str`): a name of [`paco_hf.data.published.BENCHMARKS`], or any name for data of one's own.
        source (`str`): of a benchmark its official tree, a folder of parquet, or a Hub id, `None` being its own; else
            whatever [`paco_hf.data.loading.load_data`] takes as a user's data.
        out (`str`): new folder, or one where the same preparation was stopped.
        lists (`dict`, *optional*): list file or address by split, where they do not lie in `source`.
        threads (`int`, *optional*): shards to work on at a time; defaults to the cores, 4 at most. Each holds what it
            takes of a source shard in memory.
        shard_bytes (`int`, *optional*, defaults to 400 MiB): of images in a shard, about.
        fields (*optional*): other fields of the [`paco_hf.data.spec.DataSpec`]: columns, splits.

    Raises:
        ValueError: a list or source that does not fit, images that are missing or there twice, or another preparation
            in `out`.
        OSError: something does not exist, or cannot be read or written (a full disk).
    """
    benchmark = BENCHMARKS.get(dataset)
    if benchmark and benchmark.path is None:
        raise ValueError(f"{dataset} is small and needs no preparation: use `paco-hf train --dataset {dataset}`")
    source = source or (benchmark.hub_id if benchmark else None)
    if source is None:
        raise ValueError(f"{dataset} has no default repository on the Hub: set --source to a folder or a Hub id")
    if benchmark is None and lists:
        raise ValueError(
            f"--list is for {', '.join(n for n, b in BENCHMARKS.items() if b.path)}, not for {dataset}: remove "
            "the flag"
        )
    image_lists = tree_lists(dataset, Path(source), lists or {}) if benchmark else {}
    # A benchmark's source on the Hub is not looked at.
    files = sorted_files(Path(source), "**/*.parquet") if benchmark else []
    sizes = [[relative_name(file, source), file.stat().st_size] for file in files]
    columns = fields.get("image_column"), fields.get("label_column")
    tree = None if files else _source_images(dataset, source, image_lists, fields)
    plan = {
        "dataset": dataset,
        "source": os.path.abspath(source) if os.path.exists(source) else source,
        "lists": {split: git_blob_id(lst.content) for split, lst in sorted(image_lists.items())},
        "columns": [*columns],
        "shard_bytes": shard_bytes,
        "content": tree.fingerprint() if tree else sizes or None,
        "state": tree.state() if tree else file_state(files) if files else None,
    }
    writer = ShardWriter(Path(out), threads or min(os.cpu_count() or 1, 4), shard_bytes)
    try:
        check_preparation(writer.folder)
        with sole_owner(writer.folder, "data preparation", "use another --out", traces=(PLAN_NAME,)):
            manifest = _begin(writer.folder, plan)
            if manifest is None:
                manifest = Manifest(str(writer.folder), dataset, source, [], {})
                if tree:
                    manifest.class_names, shards = tree.class_names, tree.write(writer)
                else:
                    manifest.class_names, shards = from_parquet(dataset, source, image_lists, columns, writer)
                _finish(manifest, shards, image_lists, tree)
            shutil.rmtree(writer.folder / PARTS, ignore_errors=True)
            return manifest
    except OSError as error:
        if error.errno is None:
            raise
        raise DiskError(
            f"{writer.folder}: {error.strerror or error}: complete shards are kept, run the same command again to "
            "resume"
        ) from error


def _source_images(
    dataset: str, source: str, image_lists: dict[str, ImageList], fields: dict[str, Any]
) -> SourceImages | None:
    """The images of a user's data, or of a benchmark's tree; `None` for a source on the Hub, which is streamed."""
    if (benchmark := BENCHMARKS.get(dataset)) is None:
        tree = SourceImages.from_source(open_user_dataset(DataSpec(source, **fields)))
    elif Path(source).is_dir():
        tree = SourceImages.from_tree(dataset, Path(source), benchmark, image_lists)
    else:
        return None
    for note in tree.notes:
        print(f"note: {note}", file=sys.stderr)
    return tree


def _finish(manifest: Manifest, shards: Shards, image_lists: dict[str, ImageList], tree: SourceImages | None) -> None:
    """Check what was written, and write what describes it, the manifest last."""
    folder, key = Path(manifest.root), join_key(manifest.dataset)
    for split, written in shards.items():
        paths, labels = read_names(folder, written)
        with replacing(folder / labels_name(split)) as unfinished, unfinished.open("wb") as file:
            np.save(file, np.asarray(labels, dtype=np.int32), allow_pickle=False)
        selection = selection_hash([key(path) for path in paths], labels)
        manifest.splits[split] = {
            "images": len(labels),
            "class_counts": class_counts(labels, len(manifest.class_names), allow_empty=split != "train"),
            "selection": selection,
            "shards": written,
        }
        if tree and selection != tree.selection(split, key):
            raise ValueError(
                f"the shards of the {split} split in {folder} do not contain the images of {manifest.source}: "
                f"remove {folder}, and run `paco-hf data prepare` again"
            )
    for split, image_list in image_lists.items():
        (folder / f"{split}.list").write_bytes(image_list.content)
    manifest.write()


def _begin(folder: Path, plan: dict[str, Any]) -> Manifest | None:
    """Claim the folder for this plan; the manifest where it is carried out already."""
    path = folder / PLAN_NAME
    if path.is_file():
        before = read_mapping(path, advice=f"remove {folder}, and prepare the data again")
        written_since = plan["state"] != (before["state"] if "state" in before else plan["state"])
        before = before | {"state": plan["state"]}
        if before != plan and any(folder.glob("**/*.parquet")):
            settings = {key: value for key, value in plan.items() if key not in ("content", "state")}
            changed = [f"{k} {before.get(k)} -> {value}" for k, value in settings.items() if before.get(k) != value]
            changes = ", ".join(changed) or "the images of the source have changed since"
            raise ValueError(
                f"{folder} was prepared with different settings ({changes}): use another --out, or remove it"
            )
        if before == plan and (folder / MANIFEST_NAME).is_file():
            try:
                manifest = Manifest.read(str(folder))
                manifest.check_files()
                if written_since:
                    print(
                        f"{folder} is complete, but files of {plan['source']} have changed since: if images have "
                        f"changed, remove {folder}, and prepare the data again"
                    )
                return manifest
            except (OSError, ValueError) as error:
                print(f"{error}; now doing so")
                _remove_damaged(folder)
        if written_since:
            print(f"files of {plan['source']} have changed since the interruption: starting over")
            shutil.rmtree(folder / PARTS, ignore_errors=True)
            for shard in folder.glob("*.parquet"):
                shard.unlink()
    write_text(path, json.dumps(plan, indent=1) + "\n")
    for stale in folder.glob("**/*.partial"):
        stale.unlink()
    return None


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


def read_names(folder: Path, shards: list[dict[str, Any]]) -> tuple[list[str], list[int]]:
    """Stored path (or `""`) and label of each image of a split's shards."""
    files = [folder / shard["file"] for shard in shards]
    table = pa.concat_tables(pq.ParquetFile(file).read(columns=["image.path", "label"]) for file in files)
    paths = table["image"].combine_chunks().field("path").to_pylist()
    return [path or "" for path in paths], table["label"].to_pylist()


def join_key(dataset: str) -> Callable[[str], str]:
    """What the images of a dataset are joined on: see [`paco_hf.data.published.Benchmark.join_key`]."""
    benchmark = BENCHMARKS.get(dataset)
    return benchmark.join_key if benchmark and benchmark.path else str
