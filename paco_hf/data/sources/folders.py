"""Folders of images and of parquet files."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, load_dataset
from datasets.config import HF_DATASETS_CACHE
from datasets.data_files import DataFilesDict, DataFilesList
from datasets.table import InMemoryTable

from ...utils.files import disk_errors, identity
from ...utils.images import IMAGE_SUFFIXES
from ...utils.text import examples
from ..image_lists import ImageList


def image_tables(files: Mapping[str, tuple[Sequence[str], Sequence[int]]], class_names: list[str]) -> DatasetDict:
    """Image files and class ids of each split as a data set that opens a file when it is asked for."""
    schema = Features({"image": Image(), "label": ClassLabel(names=class_names)}).arrow_schema
    splits = {}
    for split, (paths, labels) in files.items():
        columns = [Image().cast_storage(pa.array(paths, pa.string())), pa.array(labels, pa.int64())]
        splits[split] = Dataset(InMemoryTable(pa.Table.from_arrays(columns, schema=schema)))
    return DatasetDict(splits)


def list_files(root: Path, image_list: ImageList) -> list[str]:
    """The files of a list below `root`.

    Raises:
        ValueError: some do not exist; says how many, and names the first.
    """
    files = [str(root / path) for path in image_list.paths]
    folders = filter(os.path.isdir, {os.path.dirname(file) for file in files})
    present = {entry.path for folder in folders for entry in os.scandir(folder)}
    missing = [path for file, path in zip(files, image_list.paths, strict=True) if file not in present]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(files)} images of {image_list.name} are not in {root}: {examples(missing)}"
        )
    return files


def class_folders(
    root: Path, known: Sequence[str] = (), skip_unknown: bool = False
) -> tuple[list[str], list[int], list[str]]:
    """The images of `root/<class>/<image>`.

    Args:
        root (path): of the class folders.
        known (sequence of `str`, *optional*): the classes by id; those of the folders, sorted, where there are none.
        skip_unknown (`bool`, *optional*, defaults to `False`): leave out the folders of other classes.

    Returns:
        files, class ids and the names of the class folders, sorted.

    Raises:
        ValueError: no class folders, folders in them, or one of another class.
    """
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        raise ValueError(
            f"{root} has no class folders: ILSVRC's validation images, which come in one folder, must be sorted into "
            "folders of their synsets first"
        )
    ids = {name: label for label, name in enumerate(known or folders)}
    unknown = [name for name in folders if name not in ids]
    if unknown and not skip_unknown:
        raise ValueError(f"{root} has a class {unknown[0]!r} that the training images have not")
    files, labels = [], []
    for folder in folders:
        entries = [entry for entry in os.scandir(root / folder) if not entry.name.startswith(".")]
        if deeper := next((entry.path for entry in entries if entry.is_dir()), None):
            raise ValueError(f"{deeper} is a folder in the folder of a class, where images should lie")
        names = sorted(e.path for e in entries if Path(e.name).suffix.lower() in IMAGE_SUFFIXES and e.is_file())
        if folder in ids:
            files += names
            labels += [ids[folder]] * len(names)
    return files, labels, folders


def read_tree(
    root: Path,
    lists: Mapping[str, ImageList],
    whole: Sequence[tuple[str, str]],
    folders: Sequence[str] | None = None,
    skip_unknown: bool = False,
) -> tuple[dict[str, tuple[list[str], list[int]]], list[str]]:
    """The official tree of a benchmark.

    Args:
        root (path): of the tree.
        lists (`dict`): of the splits that have one.
        whole (sequence of pairs): splits that are a folder of class folders, and that folder.
        folders (sequence of `str`, *optional*): of the classes by id; those of the training list.
        skip_unknown (`bool`, *optional*, defaults to `False`): leave out folders of other classes.

    Returns:
        files and class ids by split, and the folders of the classes.

    Raises:
        ValueError: files that do not exist, or classes that the training images lack.
    """
    files = {split: (list_files(root, image_list), image_list.labels) for split, image_list in lists.items()}
    classes = list(folders or (lists["train"].folders if "train" in lists else ()))
    for split, folder in whole:
        paths, labels, names = class_folders(root / folder, classes, skip_unknown)
        files[split], classes = (paths, labels), classes or names
    return files, classes


def load_folder(folder: str) -> DatasetDict:
    path = Path(folder)
    if not path.is_dir():
        raise OSError(f"{folder} is not a folder")
    files = parquet_files(path)
    if not files:
        # `datasets` knows tables by their time stamps; of images it keeps no more than their names.
        mode = "force_redownload" if any(path.glob("**/metadata.*")) else None
        return load_dataset("imagefolder", data_dir=str(path), download_mode=mode)
    # One by one: splits may differ in columns that do not matter here.
    return DatasetDict({split: read_parquet(names) for split, names in files.items()})


def read_parquet(files: Sequence[str | Path]) -> Dataset:
    """The rows of parquet files: of the cache of `datasets`, which knows files by their time stamps alone, only where
    they are the files of then."""
    paths = [os.path.abspath(file) for file in files]
    keys = [tuple(map(str, identity(path))) for path in paths]
    with disk_errors(
        f"make space in {HF_DATASETS_CACHE}, where rows are cached, or set HF_DATASETS_CACHE to elsewhere"
    ):
        return Dataset.from_parquet(DataFilesDict(train=DataFilesList(paths, keys)), split="train")


def parquet_files(folder: Path) -> dict[str, list[str]]:
    """The parquet files below a folder by split, which their names say; empty where there are none."""
    files: dict[str, list[str]] = {}
    for file in sorted(folder.glob("**/*.parquet")):
        split = next((s for s in ("train", "test", "validation") if s in str(file.relative_to(folder)).lower()), None)
        if split is None:
            raise ValueError(
                f"{file.name} names no split: a parquet file's name should contain train, validation or test"
            )
        files.setdefault(split, []).append(str(file))
    return files
