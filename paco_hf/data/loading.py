"""From a [`DataSpec`] to its splits, with the long-tailed selection made."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict

from ..utils.folder_contents import PassedOver
from ..utils.images import allow_image_pixels
from .image_lists import class_names, differences, imagenet_class_names, tree_lists
from .image_split import ImageSplit
from .images import ImageData, LabeledImages
from .long_tail import class_counts, long_tailed_counts, long_tailed_indices
from .published import CIFAR_MEAN, CIFAR_STD
from .sources.folders import read_tree
from .sources.hf_tables import image_tables, load_folder, read_parquet
from .sources.hub_dataset import load_hub
from .sources.source import Source, assign_roles, label_tables
from .sources.user_dataset import open_user_dataset
from .spec import DataSpec, check_dataset_path
from .streaming.manifest import Manifest, is_prepared
from .streaming.sharded_images import ShardedImages

BUILTIN = Path(__file__).parent / "builtin"


def load_data(spec: DataSpec | str | Path = "builtin", **fields: Any) -> ImageData:
    """Load a dataset.

    Args:
        spec (`DataSpec`, `str` or path, *optional*, defaults to `"builtin"`): where the images come from, or its
            `dataset`.
        fields (*optional*): other fields of the [`DataSpec`], where `spec` is a name.

    Raises:
        ValueError: a column is missing, a label out of range, a class without training images, a list that does not
            fit.
        TypeError: `spec` is neither a `DataSpec` nor a name or path.
        OSError: a path does not exist, or a Hub id cannot be reached.
    """
    spec = _spec(spec, fields)
    return _image_data(spec, open_source(spec))


def load_test(spec: DataSpec | str | Path = "builtin", **fields: Any) -> tuple[ImageSplit, list[str]]:
    """The test split alone (the validation split where there is none; the only split of user data, whose `role` is
    then `train`), and its class names.

    Args:
        spec (`DataSpec`, `str` or path, *optional*, defaults to `"builtin"`): as for [`load_data`].
        fields (*optional*): likewise.

    Raises:
        ValueError, OSError: as [`load_data`], or there is no such split.
    """
    spec = replace(_spec(spec, fields), window=256)
    source = open_source(spec, test_only=True)
    only = spec.is_user_data and not (spec.streaming or is_prepared(spec.dataset)) and len(source.splits) == 1
    split = source.require(next(iter(source.splits)) if only else "test", spec.dataset)
    return split, split.class_names


def load_scored(spec: DataSpec) -> tuple[ImageSplit, list[int] | None]:
    """Images to score a foreign checkpoint on, and the classes' training images.

    It is the split that [`load_test`] gives, or the only split there is. The class counts are those of the training
    split beside it; `None` where there is none.
    """
    benchmark, root = spec.benchmark, spec.dataset_path
    lists = benchmark.lists.get("train", ()) if benchmark and root and not is_prepared(root) else ()
    if lists and "train" not in spec.lists and not any((Path(str(root)) / name).is_file() for name in lists):
        return load_test(spec)[0], None
    source = open_source(spec)
    if "train" not in source.splits:
        return source.require("test", spec.dataset), None
    data = _image_data(spec, source)
    scored = data.test or data.validation
    return (scored, data.class_counts) if scored else (data.train, None)


def open_source(spec: DataSpec, test_only: bool = False) -> Source:
    """Open a dataset with the first of [`OPENERS`] that takes it.

    Args:
        spec (`DataSpec`): the dataset.
        test_only (`bool`, *optional*, defaults to `False`): only the test split is needed, and there need be no other.
    """
    allow_image_pixels(spec.max_image_pixels)
    return next(opener for takes, opener in OPENERS if takes(spec))(spec, test_only)


def _spec(spec: DataSpec | str | Path, fields: dict[str, Any]) -> DataSpec:
    if isinstance(spec, DataSpec):
        return replace(spec, **fields)
    if not isinstance(spec, str | Path):
        raise TypeError(f"spec must be a DataSpec, or the name or path of a dataset, got {spec!r}")
    return DataSpec(str(spec), **fields)


def _image_data(spec: DataSpec, source: Source) -> ImageData:
    train, benchmark = source.require("train", spec.dataset), spec.benchmark
    if benchmark and benchmark.n_max and isinstance(train, LabeledImages):
        imbalance = spec.imbalance_factor, spec.imbalance_kind
        train = _long_tailed(train, long_tailed_counts(benchmark.n_max, benchmark.num_classes, *imbalance))
    splits: dict[str, Any] = {**source.splits, "train": train}
    data = ImageData(**splits, user_data=spec.is_user_data, description=source.description, notes=[*source.notes])
    if spec.dataset == "builtin":
        data.image_size, data.mean, data.std = 32, CIFAR_MEAN, CIFAR_STD
    elif benchmark:
        data.image_size, data.mean, data.std = benchmark.image_size, benchmark.mean, benchmark.std
        for role, published in benchmark.canonical.items():
            if role in splits and (differ := differences(published, splits[role].labels, len(data.class_names))):
                data.notes.append(f"the {role} split is not the published one ({'; '.join(differ)})")
    return data


def _long_tailed(train: LabeledImages, counts: list[int]) -> LabeledImages:
    if "rank" not in train.data.column_names:
        return train.select(long_tailed_indices(train.labels, counts))
    # A stored selection: `rank` is the place of an image in the reference's shuffle of its class.
    labels, rank = np.asarray(train.labels), np.asarray(train.data["rank"])
    available = class_counts(train.labels, len(counts), allow_empty=True)
    for label, (stored, wanted) in enumerate(zip(available, counts, strict=True)):
        if stored < wanted:
            raise ValueError(
                f"class {label} has {stored} stored images, but the selection needs {wanted}: use a larger "
                "--imbalance_factor, or another folder"
            )
    return train.select([int(i) for i in np.lexsort((rank, labels)) if rank[i] < counts[labels[i]]])


# ---- openers


def _open_prepared(spec: DataSpec, test_only: bool) -> Source:
    root = str(spec.root)
    if spec.lists or spec.splits or spec.image_column or spec.label_column:
        raise ValueError(
            f"{root} is a prepared folder, whose lists, columns and splits are fixed: remove --train_list, "
            "--validation_list, --test_list, --image_column, --label_column and --*_split, or pass the original "
            "data as --dataset_path"
        )
    manifest = Manifest.read(root)
    if spec.benchmark and manifest.dataset != spec.dataset:
        raise ValueError(
            f"{root} was prepared as {manifest.dataset}, not as {spec.dataset}: use --dataset {manifest.dataset}"
        )
    manifest.check_files()
    if not spec.streaming:
        files = {split: [f"{root}/{s['file']}" for s in c["shards"]] for split, c in manifest.splits.items()}
        tables = {split: read_parquet(shards) for split, shards in files.items()}
        return label_tables(spec, DatasetDict(tables), test_only=test_only)
    splits: dict[str, ImageSplit] = {}
    for role, split in assign_roles(manifest.splits, test_only).items():
        splits[role] = ShardedImages(manifest, split, spec.window, role=role)
        class_counts(splits[role].labels, len(manifest.class_names), allow_empty=True)
    return Source(splits)


def _open_builtin(spec: DataSpec, test_only: bool) -> Source:
    tables = {split: read_parquet([BUILTIN / f"{split}.parquet"]) for split in ("train", "test")}
    return label_tables(spec, DatasetDict(tables), test_only=test_only)


def _open_user_data(spec: DataSpec, test_only: bool) -> Source:
    spec.check_lists()
    return open_user_dataset(spec, test_only)


def _open_tree(spec: DataSpec, test_only: bool) -> Source:
    """The official folders: the images of the lists, for ImageNet's own splits those of the class folders."""
    benchmark, root = spec.benchmark, Path(str(spec.root))
    assert benchmark is not None
    check_dataset_path(str(root))
    lists = tree_lists(spec.dataset, root, spec.lists, needs_train=not test_only)
    folders = next((lst.folders for split, lst in lists.items() if split == "train" or test_only), [])
    scored = assign_roles(lists, True).get("test")
    whole = [("train", "train")] if "train" not in lists and not test_only else []
    if benchmark.test_split == "validation" and "test" not in lists:
        whole.append(("test", "val"))
    for split, folder in whole:
        if not (root / folder).is_dir():
            raise ValueError(
                f"{root} has no folder {folder}/ with the {spec.dataset} {split} images in class folders: pass "
                "the folder that contains it as --dataset_path"
            )
    needed = {split: image_list for split, image_list in lists.items() if not test_only or split == scored}
    passed = PassedOver(root)
    files, folders = read_tree(root, needed, whole, passed, folders, skip_unknown=bool(lists))
    if not files:
        raise ValueError(
            f"{root} has no list of the {spec.dataset} test images: put it there, or pass it with --test_list"
        )
    tables = image_tables(files, class_names(spec.dataset, folders))
    spec = replace(spec, image_column=None, label_column=None)
    source = label_tables(spec, tables, test_only=test_only, root=str(root))
    source.notes += [passed.note] if passed.note else []
    return source


def _open_published(spec: DataSpec, test_only: bool) -> Source:
    benchmark = spec.benchmark
    assert benchmark is not None
    if benchmark.needs_list:
        raise ValueError(
            f"{spec.dataset} is defined by its image lists: set --dataset_path to the official folder tree (with "
            "the lists in it), or to a folder from `paco-hf data prepare`"
        )
    tables = load_folder(spec.root) if spec.root else load_hub(str(benchmark.hub_id), revision=spec.dataset_revision)
    if benchmark.test_split in tables:
        splits = {"train": "train", "test": benchmark.test_split}
        tables = DatasetDict({role: tables[split] for role, split in splits.items() if split in tables})
    columns = benchmark.image_column, benchmark.label_column
    names = imagenet_class_names() if spec.dataset == "imagenet" else None
    return label_tables(spec, tables, columns, test_only=test_only, class_names=names)


def _is_prepared(spec: DataSpec) -> bool:
    return spec.root is not None and (spec.streaming or is_prepared(spec.root))


def _is_tree(spec: DataSpec) -> bool:
    benchmark, root = spec.benchmark, spec.root
    if not (benchmark and benchmark.path and root):
        return False
    return benchmark.needs_list or not any(Path(root).glob("**/*.parquet"))


# How each kind of dataset is recognized and opened; the first that takes a `DataSpec` opens it. A new kind of data is
# one more pair: its opener gives a `Source`.
OPENERS: list[tuple[Callable[[DataSpec], bool], Callable[[DataSpec, bool], Source]]] = [
    (_is_prepared, _open_prepared),
    (lambda spec: spec.dataset == "builtin", _open_builtin),
    (_is_tree, _open_tree),
    (lambda spec: spec.benchmark is not None, _open_published),
    (lambda spec: True, _open_user_data),
]
