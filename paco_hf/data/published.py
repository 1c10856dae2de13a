"""The datasets of the papers, read from `published.yaml`: source, lists, published statistics, normalization."""

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INAT_MEAN, INAT_STD = (0.466, 0.471, 0.380), (0.195, 0.194, 0.192)
_STATISTICS = {
    "cifar": (CIFAR_MEAN, CIFAR_STD),
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "inat": (INAT_MEAN, INAT_STD),
}
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Canonical:
    """What is known of a published split: its size, the extremes of its class counts, its list file if any."""

    images: int
    most: int
    fewest: int
    shots: tuple[int, ...] = ()  # classes with many, medium, few images, where known
    blob: str | None = None  # git's id of the list file
    size: int | None = None  # of the list file, in bytes


@dataclass(frozen=True)
class Benchmark:
    """One dataset. A list's paths match `path`, whose group `cls` is the folder of the class."""

    hub_id: str | None = None
    image_column: str = "image"
    label_column: str = "label"
    num_classes: int = 1000
    n_max: int | None = None  # images of the first class, where the long tail is selected by us
    image_size: int = 32
    mean: Triple = CIFAR_MEAN
    std: Triple = CIFAR_STD
    test_split: str = "test"  # what is scored, in the Hub's words
    path: str | None = None
    example: str = ""  # of a path
    lists: dict[str, tuple[str, ...]] = field(default_factory=dict)  # official names of the list of a split
    by_stem: bool = True  # whether a file's name alone tells it from all others
    canonical: dict[str, Canonical] = field(default_factory=dict)

    @property
    def needs_list(self) -> bool:
        """Whether the dataset is a selection that only its lists define."""
        return "train" in self.lists

    def join_key(self, path: str) -> str:
        """What a file is joined on: its lower-case name without suffix and without a synset appended by a converter,
        or, where names repeat from class to class, its path below the root folder."""
        place = PurePosixPath(path.replace("\\", "/").lower())
        if self.by_stem:
            return re.sub(r"(?<=.)_n\d{8}$", "", place.stem)
        parts = place.with_suffix("").parts
        return "/".join(parts[1:] if parts[0] == PurePosixPath(self.example).parts[0] else parts)


def _benchmark(entry: dict[str, Any]) -> Benchmark:
    mean, std = _STATISTICS[entry.pop("statistics", "cifar")]
    lists = {split: tuple(names) for split, names in entry.pop("lists", {}).items()}
    known = entry.pop("canonical", {}).items()
    canonical = {split: Canonical(**{**facts, "shots": tuple(facts.get("shots", ()))}) for split, facts in known}
    return Benchmark(mean=mean, std=std, lists=lists, canonical=canonical, **entry)


_ENTRIES = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
BENCHMARKS = {name: _benchmark(entry) for name, entry in _ENTRIES.items()}
