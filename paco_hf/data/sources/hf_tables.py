"""Image files and parquet files as datasets of `datasets`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, load_dataset
from datasets.config import HF_DATASETS_CACHE
from datasets.data_files import DataFilesDict, DataFilesList
from datasets.table import InMemoryTable

from ...utils.files import disk_errors, identity, sorted_files


def image_tables(files: Mapping[str, tuple[Sequence[str], Sequence[int]]], class_names: list[str]) -> DatasetDict:
    """Image files and class ids of each split as a dataset that opens a file when it is asked for."""
    schema = Features({"image": Image(), "label": ClassLabel(names=class_names)}).arrow_schema
    splits = {}
    for split, (paths, labels) in files.items():
        for path in paths:
            try:
                path.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"the name of the file {path!a} is not UTF-8: rename it") from error
        columns = [Image().cast_storage(pa.array(paths, pa.string())), pa.array(labels, pa.int64())]
        splits[split] = Dataset(InMemoryTable(pa.Table.from_arrays(columns, schema=schema)))
    return DatasetDict(splits)


def load_folder(folder: str) -> DatasetDict:
    path = Path(folder)
    if not path.is_dir():
        raise OSError(f"{folder} is not a folder: pass an existing folder")
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
        f"free space in {HF_DATASETS_CACHE}, where rows are cached, or set HF_DATASETS_CACHE to another folder"
    ):
        return Dataset.from_parquet(DataFilesDict(train=DataFilesList(paths, keys)), split="train")


def parquet_files(folder: Path) -> dict[str, list[str]]:
    """The parquet files below a folder by split, which their names say; empty where there are none."""
    files: dict[str, list[str]] = {}
    for file in sorted_files(folder, "**/*.parquet"):
        split = next((s for s in ("train", "test", "validation") if s in str(file.relative_to(folder)).lower()), None)
        if split is None:
            raise ValueError(
                f"{file.name} has no split in its name: the name of a parquet file must contain train, validation "
                "or test"
            )
        files.setdefault(split, []).append(str(file))
    return files
