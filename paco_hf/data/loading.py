"""From the name of a data set, a folder or a Hub id to its splits, with the long-tailed selection made."""

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from .image_lists import ILSVRC, class_names, differences, tree_lists
from .images import ImageData, LabelledImages
from .long_tail import long_tailed_counts, long_tailed_indices
from .published import BENCHMARKS, CIFAR_MEAN, CIFAR_STD, Benchmark
from .sources.folders import class_folders, image_tables, list_files, load_folder
from .sources.hub_dataset import load_hub
from .sources.source import Source, test_key
from .sources.user_dataset import OwnSource, open_own
from .streaming.manifest import Manifest, is_prepared
from .streaming.shard_source import ShardSource

BUILTIN = Path(__file__).parent / "builtin"


def load_data(
    dataset: str = "builtin",
    *,
    dataset_path: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    imbalance_factor: float = 100,
    imbalance_kind: str = "exp",
    lists: dict[str, str] | None = None,
    splits: dict[str, str] | None = None,
    streaming: bool = False,
    window: int = 4096,
) -> ImageData:
    """Load a data set by name, folder, table file or Hub id.

    Args:
        dataset (`str`, *optional*, defaults to `"builtin"`): `builtin`; a name of
            [`paco_hf.data.published.BENCHMARKS`]; a folder (prepared, of class folders, or of files of rows named
            after their splits); a CSV, TSV, JSON or parquet file; or the id of a data set on the Hub.
        dataset_path (`str`, *optional*): where a named benchmark lies, instead of the Hub: a prepared folder, the
            official folder tree, or (ImageNet, CIFAR) parquet files.
        image_column, label_column (`str`, *optional*): the columns; recognised by their types where not given.
        imbalance_factor, imbalance_kind: of the long-tailed selection, for the CIFAR benchmarks.
        lists (`dict`, *optional*): list files by split, where they do not lie in `dataset_path` under their official
            names.
        splits (`dict`, *optional*): of a data set of one's own, the names of the splits that are `train`,
            `validation` and `test`; their usual names are recognised.
        streaming (`bool`, *optional*, defaults to `False`): read a prepared folder shard by shard; `dataset_path` may
            then also be an address of fsspec, such as `hf://datasets/user/name`.
        window (`int`, *optional*, defaults to `4096`): encoded images that a stream keeps in memory.

    Raises:
        ValueError: a column is missing, a label out of range, a class without training images, a list that does not
            fit.
        OSError: a path does not exist, or a Hub id cannot be reached.
    """
    source = _open(dataset, dataset_path, image_column, label_column, lists or {}, streaming, window, splits=splits)
    benchmark = BENCHMARKS.get(dataset)
    if "train" not in source.splits:
        raise ValueError(f"{dataset} has no train split (found: {', '.join(source.splits)})")
    names = source.class_names("train")
    full = source.labelled("train", names)
    if benchmark and benchmark.n_max and isinstance(source, Source) and isinstance(full, LabelledImages):
        counts = long_tailed_counts(benchmark.n_max, benchmark.num_classes, imbalance_factor, imbalance_kind)
        full = full.select(_select_long_tail(source.splits["train"], full.labels, counts), full.name)
    scored = source.scored if isinstance(source, OwnSource) else test_key(source.splits)
    test, validation = (
        source.labelled(key, names) if key is not None and key in source.splits else None
        for key in (scored, None if scored == "validation" else "validation")
    )
    data = ImageData(full, test, validation, names, own=benchmark is None and dataset != "builtin")
    if isinstance(source, OwnSource):
        data.described, data.notes = source.described, list(source.notes)
    if dataset == "builtin":
        data.image_size, data.mean, data.std = 32, CIFAR_MEAN, CIFAR_STD
    elif benchmark:
        data.image_size, data.mean, data.std = benchmark.image_size, benchmark.mean, benchmark.std
        data.notes = _differences(benchmark, data)
    return data


def load_test(
    dataset: str = "builtin",
    *,
    dataset_path: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    lists: dict[str, str] | None = None,
    splits: dict[str, str] | None = None,
    streaming: bool = False,
) -> tuple[Any, list[str]]:
    """The test split alone (the validation split where there is none; the only split of one's own data), and its class
    names. As [`load_data`]."""
    where = (dataset_path, image_column, label_column, lists, splits, streaming)
    return load_only_test(dataset, *where)[:2]


def load_only_test(
    dataset: str,
    dataset_path: str | None,
    image_column: str | None,
    label_column: str | None,
    lists: dict[str, str] | None,
    splits: dict[str, str] | None,
    streaming: bool,
) -> tuple[Any, list[str], bool]:
    """Also whether it is the only split, and one that is not called a test."""
    source = _open(dataset, dataset_path, image_column, label_column, lists or {}, streaming, 256, True, splits)
    key = source.scored if isinstance(source, OwnSource) else test_key(source.splits)
    if isinstance(source, OwnSource) and len(source.splits) == 1:
        key = next(iter(source.splits))
    if key is None:
        raise ValueError(f"{dataset} has no test split (found: {', '.join(source.splits)})")
    names = source.class_names("train" if "train" in source.splits else key)
    return source.labelled(key, names), names, key == "train"


def load_scored(
    dataset: str,
    *,
    dataset_path: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    lists: dict[str, str] | None = None,
    splits: dict[str, str] | None = None,
    **selection: Any,
) -> tuple[Any, list[str], list[int] | None]:
    """Images to score a foreign checkpoint on, the names of their classes, and the classes' training images.

    It is the split that [`load_test`] gives, or the only split there is. The class counts are those of the training
    split that lies beside it, with the `selection` (`imbalance_factor`, `imbalance_kind`) of [`load_data`]; `None`
    where there is none.
    """
    where: dict[str, Any] = {
        "dataset_path": dataset_path,
        "image_column": image_column,
        "label_column": label_column,
        "lists": lists,
        "splits": splits,
    }
    benchmark = BENCHMARKS.get(dataset)
    only_test = bool(
        benchmark
        and benchmark.needs_list
        and dataset_path
        and not is_prepared(dataset_path)
        and "train" not in (lists or {})
        and not any((Path(dataset_path) / name).is_file() for name in benchmark.lists["train"])
    )
    source = _open(dataset, dataset_path, image_column, label_column, lists or {}, False, 256, only_test, splits)
    if "train" not in source.splits:
        return (*load_test(dataset, **where), None)
    data = load_data(dataset, **where, **selection)
    scored = data.test or data.validation
    return (scored, data.class_names, data.class_counts) if scored else (data.train, data.class_names, None)


def _open(
    dataset: str,
    dataset_path: str | None,
    image_column: str | None,
    label_column: str | None,
    lists: dict[str, str],
    streaming: bool,
    window: int,
    test_only: bool = False,
    splits: dict[str, str] | None = None,
) -> Source | ShardSource | OwnSource:
    benchmark = BENCHMARKS.get(dataset)
    given = [f"--{role}_split" for role, name in (splits or {}).items() if name]
    if given and (benchmark or dataset == "builtin"):
        raise ValueError(f"{given[0]} names a split of your own data; those of {dataset} are known: leave it out")
    if dataset_path and not benchmark:
        raise ValueError(
            f"--dataset_path goes with {', '.join(BENCHMARKS)}; for a folder of your own give --dataset {dataset_path}"
        )
    root = dataset_path or (dataset if benchmark is None and dataset != "builtin" else None)
    if root and "://" in root and not streaming:
        raise ValueError(f"{root} is an address: read it with --streaming true, or give a local folder")
    if root and (streaming or is_prepared(root)):
        if streaming and benchmark and benchmark.n_max:
            raise ValueError(f"{dataset} is selected image by image and small: leave out --streaming")
        if lists or image_column or label_column or given:
            raise ValueError(
                f"{root} is prepared, with the lists and columns of then: leave out --train_list, --validation_list, "
                "--test_list, --image_column, --label_column and --*_split, or give the source as --dataset_path"
            )
        return _open_prepared(dataset, benchmark, root, streaming, window)
    if streaming:
        raise ValueError(
            "--streaming reads a prepared folder, with its manifest of class counts: `paco-hf data prepare "
            f"{dataset} --source ... --out DIR`, then --dataset_path DIR"
        )
    if benchmark is None:
        if lists:
            raise ValueError(f"lists go with {', '.join(n for n, b in BENCHMARKS.items() if b.lists)}, not {dataset}")
        if dataset != "builtin":
            return open_own(dataset, image_column, label_column, splits, test_only)
        files = {split: str(BUILTIN / f"{split}.parquet") for split in ("train", "test")}
        tables = DatasetDict({split: Dataset.from_parquet(file) for split, file in files.items()})
        return Source(dataset, tables, image_column, label_column)
    if benchmark.path and root and (benchmark.needs_list or not any(Path(root).glob("**/*.parquet"))):
        return Source(dataset, _open_tree(dataset, benchmark, Path(root), lists, test_only), root=root)
    if benchmark.needs_list:
        raise ValueError(
            f"{dataset} is a selection that its lists define: give --dataset_path with the official folder tree (and "
            "the lists in it), or a folder that `paco-hf data prepare` made"
        )
    tables = load_folder(root) if root else load_hub(str(benchmark.hub_id))
    image_column, label_column = image_column or benchmark.image_column, label_column or benchmark.label_column
    scored = benchmark.test_split
    kept = {"train": "train", scored: "test"} if scored in tables else {key: key for key in tables}
    tables = DatasetDict({new: tables[old] for old, new in kept.items() if old in tables})
    names = class_names(dataset, ILSVRC) if dataset == "imagenet" else None
    return Source(dataset, tables, image_column, label_column, names)


def _open_prepared(
    dataset: str, benchmark: Benchmark | None, root: str, streaming: bool, window: int
) -> Source | ShardSource:
    manifest = Manifest.read(root)
    if benchmark and manifest.dataset != dataset:
        raise ValueError(f"{root} was prepared as {manifest.dataset}, not as {dataset}")
    manifest.check_files()
    if streaming:
        return ShardSource(manifest, window)
    splits = {
        split: Dataset.from_parquet([f"{root}/{shard['file']}" for shard in content["shards"]])
        for split, content in manifest.splits.items()
    }
    return Source(dataset, DatasetDict(splits), "image", "label")


def _open_tree(dataset: str, benchmark: Benchmark, root: Path, given: dict[str, str], test_only: bool) -> DatasetDict:
    """The official folders: the images of the lists, for ImageNet's own splits those of the class folders."""
    if not root.is_dir():
        raise OSError(f"{root} is not a folder")
    lists = tree_lists(dataset, benchmark, root, given, needs_train=not test_only)
    folders = next((lst.folders for split, lst in lists.items() if split == "train" or test_only), [])
    scored = test_key(lists)
    kept = [split for split in lists if not test_only or split == scored]
    files = {split: (list_files(root, lists[split]), lists[split].labels) for split in kept}
    whole = [("train", "train")] if "train" not in lists and not test_only else []
    if benchmark.test_split == "validation" and "test" not in lists:
        whole.append(("test", "val"))
    for split, folder in whole:
        if not (root / folder).is_dir():
            raise ValueError(f"{root} has no folder {folder}/ with {dataset}'s {split} images in class folders")
        paths, labels, found = class_folders(root / folder)
        folders = folders or found
        strange = set(found) - set(folders)
        if strange and not lists:
            raise ValueError(f"{root / folder} has a class {min(strange)!r} that the training images have not")
        known = {name: label for label, name in enumerate(folders)}
        pairs = [(path, known[found[c]]) for path, c in zip(paths, labels, strict=True) if found[c] in known]
        files[split] = [path for path, _ in pairs], [label for _, label in pairs]
    if not files:
        raise ValueError(f"{root} has no list of {dataset}'s test images: put it there, or give --test_list")
    return image_tables(files, class_names(dataset, folders))


def _differences(benchmark: Benchmark, data: ImageData) -> list[str]:
    """How the splits differ from the published ones, where that is known."""
    notes = []
    for split, canonical in benchmark.canonical.items():
        images = {"train": data.train, "validation": data.validation, "test": data.test}[split]
        if images is not None:
            found = differences(canonical, images.labels, len(data.class_names))
            if found:
                notes.append(f"the {split} split is not the published one ({'; '.join(found)})")
    return notes


def _select_long_tail(train: Dataset, labels: list[int], counts: list[int]) -> list[int]:
    if "rank" not in train.column_names:
        return long_tailed_indices(labels, counts)
    # A stored selection: `rank` is the place of an image in the reference's shuffle of its class.
    array, rank = np.asarray(labels), np.asarray(train["rank"])
    available = np.bincount(array, minlength=len(counts))
    short = np.flatnonzero(available < np.asarray(counts))
    if len(short):
        raise ValueError(
            f"class {short[0]} has {available[short[0]]} stored images, but the selection wants {counts[short[0]]}: "
            "this folder allows larger imbalance factors only"
        )
    order = np.lexsort((rank, array))
    return [int(i) for i in order if rank[i] < counts[array[i]]]
