"""Folders, lists of files, parquet files and Hub ids as splits with an image column and a label column."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, get_dataset_config_names, load_dataset
from datasets.table import InMemoryTable

from .lists import ImageList
from .long_tail import class_counts
from .shards import Manifest, ShardedImages
from .splits import IMAGE_SUFFIXES, LabelledImages


@dataclass
class Source:
    """The splits of a data set, and which columns hold what (recognised by their types where not given)."""

    name: str
    splits: DatasetDict
    image_column: str | None = None
    label_column: str | None = None
    names: list[str] | None = None  # of the classes, by id, where they are to be other ones than the column's
    root: str | None = None  # that files are named from

    def __post_init__(self) -> None:
        first = next(iter(self.splits.values()))
        self.image_column = column(first, self.name, "image", self.image_column, Image)
        self.label_column = column(first, self.name, "label", self.label_column, ClassLabel)
        if not isinstance(first.features[self.image_column], Image):
            raise ValueError(
                f"column {self.image_column!r} of {self.name} holds no images, but "
                f"{first.features[self.image_column]}: set --image_column"
            )

    def class_names(self, key: str) -> list[str]:
        if self.names is not None:
            return self.names
        rows = self.splits[key]
        feature = rows.features[self.label_column]
        if isinstance(feature, ClassLabel):
            return list(feature.names)
        values = list(rows[self.label_column])
        if not values or not all(isinstance(value, int) for value in values):
            raise ValueError(
                f"label column {self.label_column!r} of {self.name} must hold integers or a ClassLabel, got {feature}"
            )
        return [str(c) for c in range(max(values) + 1)]

    def labelled(self, key: str, class_names: list[str]) -> LabelledImages:
        rows = self.splits[key]
        labels = [-1 if label is None else int(label) for label in rows[self.label_column]]
        feature = rows.features[self.label_column]
        if self.names is None and isinstance(feature, ClassLabel) and feature.names != class_names:
            # Another order is read by name; another class is none of the model's.
            strange = [name for name in feature.names if name not in class_names]
            if strange:
                raise ValueError(
                    f"the split {key!r} of {self.name} has a class {strange[0]!r} that its train split has not"
                )
            labels = [class_names.index(feature.names[label]) if label >= 0 else label for label in labels]
        class_counts(labels, len(class_names), allow_empty=True)
        return LabelledImages(rows, str(self.image_column), labels, f"{self.name} {key}", root=self.root)


@dataclass
class ShardSource:
    """The splits of a prepared folder, to be streamed; the same interface as [`Source`]."""

    manifest: Manifest
    window: int

    @property
    def splits(self) -> dict[str, Any]:
        return self.manifest.splits

    def class_names(self, key: str) -> list[str]:
        return self.manifest.class_names

    def labelled(self, key: str, class_names: list[str]) -> ShardedImages:
        images = ShardedImages(self.manifest, key, self.window)
        class_counts(images.labels, len(class_names), allow_empty=True)
        return images


def test_key(splits: Iterable[str]) -> str | None:
    """The split that is scored."""
    return next((key for key in ("test", "validation") if key in splits), None)


def image_tables(files: Mapping[str, tuple[Sequence[str], Sequence[int]]], class_names: list[str]) -> DatasetDict:
    """Image files and class ids of each split as a data set that opens a file when it is asked for."""
    features = Features({"image": Image(), "label": ClassLabel(names=class_names)})
    splits = {}
    for split, (paths, labels) in files.items():
        path = pa.array(paths, pa.string())
        image = pa.StructArray.from_arrays([pa.nulls(len(paths), pa.binary()), path], names=["bytes", "path"])
        table = pa.Table.from_arrays([image, pa.array(labels, pa.int64())], schema=features.arrow_schema)
        splits[split] = Dataset(InMemoryTable(table))
    return DatasetDict(splits)


def list_files(root: Path, image_list: ImageList) -> list[str]:
    """The files of a list below `root`.

    Raises:
        ValueError: some do not exist; says how many, and names the first.
    """
    files = [str(root / path) for path in image_list.paths]
    present: set[str] = set()
    for folder in {os.path.dirname(file) for file in files}:
        if os.path.isdir(folder):
            present.update(entry.path for entry in os.scandir(folder))
    missing = [path for file, path in zip(files, image_list.paths, strict=True) if file not in present]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(files)} images of {image_list.name} are not in {root}: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}"
        )
    return files


def class_folders(root: Path) -> tuple[list[str], list[int], list[str]]:
    """Files and class ids of `root/<class>/<image>`, and the class folders, sorted as their ids are."""
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        raise ValueError(
            f"{root} has no class folders: ILSVRC's validation images, which come in one folder, must be sorted into "
            "folders of their synsets first"
        )
    files, labels = [], []
    for label, folder in enumerate(folders):
        found = list(os.scandir(root / folder))
        deeper = [entry.path for entry in found if entry.is_dir() and not entry.name.startswith(".")]
        if deeper:
            raise ValueError(f"{deeper[0]} is a folder in the folder of a class, where images should lie")
        entries = [entry for entry in found if entry.is_file()]
        names = sorted(e.path for e in entries if Path(e.name).suffix.lower() in IMAGE_SUFFIXES and e.name[0] != ".")
        files += names
        labels += [label] * len(names)
    return files, labels, folders


def load_folder(folder: str) -> DatasetDict:
    path = Path(folder)
    if not path.is_dir():
        raise OSError(f"{folder} is not a folder")
    files = parquet_files(path)
    if not files:
        return load_dataset("imagefolder", data_dir=str(path))
    # One by one: splits may differ in columns that do not matter here.
    return DatasetDict({split: Dataset.from_parquet(names) for split, names in files.items()})


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


def load_hub(hub_id: str, config: str | None = None) -> DatasetDict:
    """Raises `ValueError` where the data set has several configurations and none, or another one, is named; `OSError`
    where it cannot be had."""
    configs: list[str] = []
    with connected(hub_id):
        try:
            return load_dataset(hub_id, config)
        except ValueError:
            configs = get_dataset_config_names(hub_id)
            if config in configs or (config is None and len(configs) < 2):
                raise
    raise ValueError(
        f"{hub_id} has {f'no configuration {config!r}' if config else 'several configurations'}: choose one, as in "
        f"--dataset {hub_id}:{configs[0]} (there are {', '.join(configs[:10])}{', ...' if len(configs) > 10 else ''})"
    )


@contextmanager
def connected(hub_id: str) -> Iterator[None]:
    """For loading from the Hub: whatever fails is an `OSError` that says what to do instead."""
    try:
        with _offline_where_unreachable(hub_id):
            yield
    except Exception as error:  # datasets raises a dozen types here, and all of them mean the same to the user
        raise OSError(
            f"{hub_id!r} is no local folder, and cannot be loaded from the Hub ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}). Without network give a local folder: --dataset FOLDER, or for a "
            "benchmark --dataset_path FOLDER"
        ) from error


@contextmanager
def _offline_where_unreachable(hub_id: str) -> Iterator[None]:
    """Ask the Hub once; where there is no answer, try the local cache only, without half a minute of retries."""
    was_offline = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    offline = any(was_offline)
    if not offline:
        try:
            huggingface_hub.HfApi().dataset_info(hub_id, timeout=10)
        except huggingface_hub.errors.HfHubHTTPError:
            raise
        except Exception:  # the types of the HTTP client, which has changed before
            offline = True
    try:
        datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = offline
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE = was_offline


def column(data: Dataset, name: str, role: str, given: str | None, kind: type) -> str:
    found = [column for column, feature in data.features.items() if isinstance(feature, kind)]
    if given is not None:
        if given not in data.features:
            raise ValueError(
                f"{name} has no column {given!r} (columns: {', '.join(data.features)}): set --{role}_column"
            )
        return given
    if role in data.features:
        return role
    if len(found) != 1:
        raise ValueError(
            f"cannot tell the {role} column of {name} (columns: {', '.join(data.features)}): set --{role}_column"
        )
    return found[0]
