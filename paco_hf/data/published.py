"""The data sets of the papers, one entry each: source, lists, published statistics, normalization."""

import re
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INAT_MEAN, INAT_STD = (0.466, 0.471, 0.380), (0.195, 0.194, 0.192)
Triple = tuple[float, float, float]
_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Canonical:
    """What is known of a published split: its size, the extremes of its class counts, its list file if any."""

    images: int
    most: int
    fewest: int
    shots: tuple[int, int, int] | None = None  # classes with many, medium, few images
    blob: str | None = None  # git's id of the list file
    size: int | None = None  # of the list file, in bytes


@dataclass(frozen=True)
class Benchmark:
    """One data set. A list's paths match `path`, whose group `cls` is the folder of the class."""

    hub_id: str | None
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
        """Whether the data set is a selection that only its lists define."""
        return "train" in self.lists

    def join_key(self, path: str) -> str:
        """What a file is joined on: its lower-case name without suffix and without a synset appended by a converter,
        or, where names repeat from class to class, its path below the root folder."""
        place = PurePosixPath(path.replace("\\", "/").lower())
        if self.by_stem:
            return re.sub(r"(?<=.)_n\d{8}$", "", place.stem)
        parts = place.with_suffix("").parts
        return "/".join(parts[1:] if parts[0] == PurePosixPath(self.example).parts[0] else parts)


_ILSVRC_VAL = Canonical(50_000, 50, 50, size=2_344_500)
_IMAGENET = Benchmark(
    "ILSVRC/imagenet-1k",
    image_size=224,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    test_split="validation",
    path=r"(?:train|val)/(?P<cls>n\d{8})/[^/]+\.jpe?g",
    example="train/n01440764/n01440764_762.JPEG",
    canonical={"train": Canonical(1_281_167, 1300, 732), "test": _ILSVRC_VAL},
)


def _lists(name: str) -> dict[str, tuple[str, ...]]:
    return {split: (f"{name}_{part}.txt",) for split, part in zip(_SPLITS, ("train", "val", "test"), strict=True)}


BENCHMARKS = {
    "imagenet": _IMAGENET,
    "imagenet-lt": replace(
        _IMAGENET,
        lists=_lists("ImageNet_LT"),
        canonical={
            "train": Canonical(115_846, 1280, 5, (385, 479, 136), "a063f095fcd475db4cf8b0658c4b73955535bbf9"),
            "validation": Canonical(20_000, 20, 20, size=804_172),
            "test": _ILSVRC_VAL,
        },
    ),
    "inat2018": Benchmark(
        None,
        num_classes=8142,
        image_size=224,
        mean=INAT_MEAN,
        std=INAT_STD,
        path=r"train_val2018/[^/]+/(?P<cls>\d+)/[^/]+\.jpe?g",
        example="train_val2018/Plantae/7291/9f8e.jpg",
        lists={
            "train": ("train2018.json", "iNaturalist18_train.txt"),
            "test": ("val2018.json", "iNaturalist18_val.txt"),
        },
        canonical={
            "train": Canonical(437_513, 1000, 2, blob="4accdb7584d2f0a5106c40a33ed6afa392189bcc"),
            "test": Canonical(24_426, 3, 3, size=1_677_390),
        },
    ),
    "places-lt": Benchmark(
        None,
        num_classes=365,
        image_size=224,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        path=r"data_256/[a-z]/(?P<cls>.+)/[^/]+\.jpe?g",
        example="data_256/a/airfield/00004851.jpg",
        lists=_lists("Places_LT"),
        by_stem=False,
        canonical={
            "train": Canonical(62_500, 4980, 5, (131, 163, 71), "1d608b558c25c271da75c06f1e5e3625a4ebcb79", 2_405_174),
            "validation": Canonical(7_300, 20, 20, None, "89c29c0973328f77d7a77a8b580634ce20acdc11", 289_980),
            "test": Canonical(36_500, 100, 100),
        },
    ),
    "cifar100-lt": Benchmark("uoft-cs/cifar100", "img", "fine_label", num_classes=100, n_max=500),
    "cifar10-lt": Benchmark("uoft-cs/cifar10", "img", "label", num_classes=10, n_max=5000),
    "cifar100": Benchmark(
        "uoft-cs/cifar100",
        "img",
        "fine_label",
        num_classes=100,
        canonical={"train": Canonical(50_000, 500, 500), "test": Canonical(10_000, 100, 100)},
    ),
}
