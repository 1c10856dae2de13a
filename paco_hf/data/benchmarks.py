"""The data sets: where each comes from, which column is what, and its long-tailed selection."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Image, load_dataset
from PIL import Image as PILImage
from PIL import ImageOps
from tqdm.auto import tqdm

from .long_tail import class_counts, long_tailed_counts, long_tailed_indices

BUILTIN = Path(__file__).parent / "builtin"
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_DECODED_LIMIT = 2**30


@dataclass
class Benchmark:
    """One of the papers' data sets: its Hub id, columns and long-tailed selection."""

    hub_id: str
    image_column: str
    label_column: str
    n_max: int
    num_classes: int


BENCHMARKS = {
    "cifar100-lt": Benchmark("uoft-cs/cifar100", "img", "fine_label", 500, 100),
    "cifar10-lt": Benchmark("uoft-cs/cifar10", "img", "label", 5000, 10),
}


@dataclass
class LabelledImages:
    """One split: the images, still encoded, and their class ids."""

    data: Dataset
    image_column: str
    labels: list[int]
    name: str = "images"
    rows: list[int] | None = None  # of the source, where this is a selection from it

    def __post_init__(self) -> None:
        self.encoded = self.data.select_columns([self.image_column]).cast_column(
            self.image_column, Image(decode=False)
        )

    def select(self, indices: list[int], name: str) -> "LabelledImages":
        rows = indices if self.rows is None else [self.rows[i] for i in indices]
        labels = [self.labels[i] for i in indices]
        return LabelledImages(self.data.select(indices), self.image_column, labels, name, rows)

    def open(self, index: int) -> PILImage.Image:
        """Decode one image to RGB; `ValueError` where it cannot be, with its place in the source."""
        index = int(index)
        row = self.encoded[index][self.image_column] or {}
        source = row.get("bytes") or row.get("path")
        place = index if self.rows is None else self.rows[index]
        where = f" ({row['path']})" if row.get("path") else ""
        name = f"image {place} of {self.name}{where}"
        if source is None:
            raise ValueError(f"{name} is empty; replace or remove it")
        return open_image(io.BytesIO(source) if isinstance(source, bytes) else source, name)


@dataclass
class ImageData:
    """A data set ready for training. `class_counts` are of the full training selection."""

    train: LabelledImages
    test: LabelledImages | None
    validation: LabelledImages | None
    class_names: list[str]
    image_size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    class_counts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.class_counts = class_counts(self.train.labels, len(self.class_names))

    def native_size(self) -> int:
        """Shorter side of a typical training image in pixels: the median of a sample."""
        sides = [min(self.train.open(i).size) for i in sample_indices(len(self.train.labels))]
        return int(np.median(sides))


class Images:
    """PIL images in RGB by index; decoded once and kept where all of them fit in a gigabyte.

    Raises:
        ValueError: an image cannot be decoded; the message names it.
    """

    def __init__(self, split: LabelledImages) -> None:
        self.split = split
        self.decoded: list[np.ndarray] | None = None
        sample = [split.open(i) for i in sample_indices(len(self))]
        largest = max(image.width * image.height * 3 for image in sample)
        if largest * len(self) <= _DECODED_LIMIT:
            progress = tqdm(range(len(self)), desc=f"decoding {split.name}", unit=" images", disable=None, leave=False)
            self.decoded = [np.asarray(split.open(i)) for i in progress]

    def __len__(self) -> int:
        return len(self.split.labels)

    def pixels(self) -> np.ndarray | None:
        """All images as `uint8` `(N, H, W, 3)`, `None` where they are not kept or differ in size."""
        if self.decoded is None or len({image.shape for image in self.decoded}) > 1:
            return None
        pixels = np.stack(self.decoded)
        self.decoded = list(pixels)
        return pixels

    def __getitem__(self, index: int) -> PILImage.Image:
        return self.split.open(index) if self.decoded is None else PILImage.fromarray(self.decoded[index])


def sample_indices(length: int) -> list[int]:
    """Eight indices, or all, evenly spread over `0..length-1`."""
    return np.unique(np.linspace(0, length - 1, 8).astype(int)).tolist()


def open_image(source: Any, name: str) -> PILImage.Image:
    """Decode a file to RGB, turned as its EXIF orientation says.

    Raises:
        ValueError: it cannot be decoded; the message has the `name`.
    """
    try:
        with PILImage.open(source) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, TypeError) as error:
        raise ValueError(f"{name} cannot be decoded as an image: {error}; replace or remove it") from error


def load_data(
    dataset: str = "builtin",
    *,
    dataset_path: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    imbalance_factor: float = 100,
    imbalance_kind: str = "exp",
) -> ImageData:
    """Load a data set by name, folder or Hub id.

    Args:
        dataset (`str`, *optional*, defaults to `"builtin"`): `builtin`; `cifar100-lt` or `cifar10-lt`; a folder (of
            parquet files named after their splits, or of class folders); or the id of a data set on the Hub.
        dataset_path (`str`, *optional*): local folder of parquet files for a named benchmark, instead of the Hub.
        image_column, label_column (`str`, *optional*): the columns; recognised by their types where not given.
        imbalance_factor, imbalance_kind: of the long-tailed selection, for the CIFAR benchmarks.

    Raises:
        ValueError: a column is missing, a label out of range, a class without training images.
        OSError: a path does not exist, or a Hub id cannot be reached.
    """
    source = _source(dataset, dataset_path, image_column, label_column)
    benchmark = BENCHMARKS.get(dataset)
    counts = None
    if benchmark:
        counts = long_tailed_counts(benchmark.n_max, benchmark.num_classes, imbalance_factor, imbalance_kind)
    if "train" not in source.splits:
        raise ValueError(f"{dataset} has no train split (found: {', '.join(source.splits)})")
    class_names = source.class_names("train")
    full = source.labelled("train", class_names)
    if counts is not None:
        full = full.select(_select_long_tail(source.splits["train"], full.labels, counts), full.name)
    test_key = source.test_key()
    test, validation = (
        source.labelled(key, class_names) if key is not None and key in source.splits else None
        for key in (test_key, "validation" if test_key == "test" else None)
    )
    data = ImageData(full, test, validation, class_names)
    if benchmark or dataset == "builtin":
        data.image_size, data.mean, data.std = 32, CIFAR_MEAN, CIFAR_STD
    return data


def load_test(
    dataset: str = "builtin",
    *,
    dataset_path: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> tuple[LabelledImages, list[str]]:
    """The test split alone (the validation split where there is none), and its class names. As [`load_data`]."""
    source = _source(dataset, dataset_path, image_column, label_column)
    key = source.test_key()
    if key is None:
        raise ValueError(f"{dataset} has no test split (found: {', '.join(source.splits)})")
    class_names = source.class_names("train" if "train" in source.splits else key)
    return source.labelled(key, class_names), class_names


@dataclass
class _Source:
    """The splits of a data set, and which columns hold what."""

    name: str
    splits: DatasetDict
    image_column: str
    label_column: str

    def test_key(self) -> str | None:
        return next((key for key in ("test", "validation") if key in self.splits), None)

    def class_names(self, key: str) -> list[str]:
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
        if isinstance(feature, ClassLabel) and feature.names != class_names:
            # Another order is read by name; another class is none of the model's.
            strange = [name for name in feature.names if name not in class_names]
            if strange:
                raise ValueError(
                    f"the split {key!r} of {self.name} has a class {strange[0]!r} that its train split has not"
                )
            labels = [class_names.index(feature.names[label]) if label >= 0 else label for label in labels]
        class_counts(labels, len(class_names), allow_empty=True)
        return LabelledImages(rows, self.image_column, labels, f"{self.name} {key}")


def _source(dataset: str, dataset_path: str | None, image_column: str | None, label_column: str | None) -> _Source:
    benchmark = BENCHMARKS.get(dataset)
    if benchmark:
        splits = _load_folder(dataset_path) if dataset_path else _load_hub(benchmark.hub_id)
        image_column, label_column = image_column or benchmark.image_column, label_column or benchmark.label_column
    elif dataset_path:
        raise ValueError(
            f"--dataset_path goes with {', '.join(BENCHMARKS)}; for a folder of your own give --dataset {dataset_path}"
        )
    elif dataset == "builtin":
        files = {split: str(BUILTIN / f"{split}.parquet") for split in ("train", "test")}
        splits = DatasetDict({split: Dataset.from_parquet(file) for split, file in files.items()})
    else:
        splits = _load_folder(dataset) if Path(dataset).exists() else _load_hub(dataset)
    first = next(iter(splits.values()))
    image_column = _column(first, dataset, "image", image_column, Image)
    if not isinstance(first.features[image_column], Image):
        raise ValueError(
            f"column {image_column!r} of {dataset} holds no images, but {first.features[image_column]}: set "
            "--image_column"
        )
    return _Source(dataset, splits, image_column, _column(first, dataset, "label", label_column, ClassLabel))


def _load_folder(folder: str) -> DatasetDict:
    path = Path(folder)
    if not path.is_dir():
        raise OSError(f"{folder} is not a folder")
    parquet = sorted(path.glob("**/*.parquet"))
    if not parquet:
        return load_dataset("imagefolder", data_dir=str(path))
    files: dict[str, list[str]] = {}
    for file in parquet:
        split = next((s for s in ("train", "test", "validation") if s in str(file.relative_to(path)).lower()), None)
        if split is None:
            raise ValueError(
                f"{file.name} names no split: a parquet file's name should contain train, validation or test"
            )
        files.setdefault(split, []).append(str(file))
    # One by one: splits may differ in columns that do not matter here.
    return DatasetDict({split: Dataset.from_parquet(names) for split, names in files.items()})


def _load_hub(hub_id: str) -> DatasetDict:
    try:
        with _offline_where_unreachable(hub_id):
            return load_dataset(hub_id)
    except Exception as error:  # datasets raises a dozen types here, and all of them mean the same to the user
        raise OSError(
            f"{hub_id!r} is no local folder, and cannot be loaded from the Hub ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}). Without network give a local folder: --dataset FOLDER, or for a "
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


def _column(data: Dataset, name: str, role: str, given: str | None, kind: type) -> str:
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
