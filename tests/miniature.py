"""Miniatures of the papers' data sets: their own folders, file names, lists and columns, with a handful of images."""

import io
import json
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from paco_hf.data.long_tail import long_tailed_counts

SYNSETS = ["n01440764", "n01443537", "n01484850", "n02012849"]
TRAIN = [20, 10, 6, 4]  # images of each class
TEST = 2
PLACES = ["a/airfield", "a/apartment_building/outdoor", "b/bakery/shop", "z/zen_garden"]
INAT = ["Plantae/0", "Plantae/1", "Aves/2", "Mammalia/3"]


def picture(seed: int, size: tuple[int, int] = (96, 80)) -> Image.Image:
    """Smooth noise in a color, of about the compressibility of a photograph."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def jpeg(seed: int, size: tuple[int, int] = (96, 80)) -> bytes:
    buffer = io.BytesIO()
    picture(seed, size).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _write(root: Path, lines: list[tuple[str, int]], size: tuple[int, int] = (96, 80)) -> None:
    for seed, (path, label) in enumerate(lines):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(1000 * label + seed, size))


def _list(path: Path, lines: list[tuple[str, int]]) -> None:
    path.write_text("".join(f"{name} {label}\n" for name, label in lines))


def imagenet_lines(counts: list[int]) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    train = [(f"train/{s}/{s}_{i}.JPEG", c) for c, s in enumerate(SYNSETS) for i in range(counts[c])]
    test = [
        (f"val/{s}/ILSVRC2012_val_{TEST * c + i + 1:08d}.JPEG", c) for c, s in enumerate(SYNSETS) for i in range(TEST)
    ]
    return train, test


def imagenet(root: Path, surplus: int = 0) -> Path:
    """`train/<synset>/` and `val/<synset>/`; each class has `surplus` images more than ImageNet-LT takes."""
    train, test = imagenet_lines([n + surplus for n in TRAIN])
    _write(root, train + test)
    return root


def imagenet_lt(root: Path) -> Path:
    """ImageNet with more images than the lists beside it select."""
    imagenet(root, surplus=3)
    train, test = imagenet_lines(TRAIN)
    _list(root / "ImageNet_LT_train.txt", train)
    _list(root / "ImageNet_LT_test.txt", test)
    return root


def places_lt(root: Path) -> Path:
    """File names repeat from class to class, and classes have nested folders."""
    train = [(f"data_256/{p}/{i:08d}.jpg", c) for c, p in enumerate(PLACES) for i in range(TRAIN[c])]
    val = [(f"data_256/{p}/{90 + i:08d}.jpg", c) for c, p in enumerate(PLACES) for i in range(TEST)]
    _write(root, train + val)
    _list(root / "Places_LT_train.txt", train)
    _list(root / "Places_LT_val.txt", val)
    return root


def inat2018(root: Path, text: bool = False) -> Path:
    """iNaturalist's JSON, or the text lists made from it."""
    lines = {
        split: [(f"train_val2018/{f}/{split}{c}{i:030x}.jpg", c) for c, f in enumerate(INAT) for i in range(n[c])]
        for split, n in (("train", TRAIN), ("val", [TEST] * 4))
    }
    for split, entries in lines.items():
        _write(root, entries)
        if text:
            _list(root / f"iNaturalist18_{split}.txt", entries)
            continue
        content = {
            "images": [{"id": 10 + i, "file_name": path} for i, (path, _) in enumerate(entries)],
            "annotations": [{"id": i, "image_id": 10 + i, "category_id": c} for i, (_, c) in enumerate(entries)],
            "categories": [{"id": c, "name": f.split("/")[1]} for c, f in enumerate(INAT)],
        }
        (root / f"{split}2018.json").write_text(json.dumps(content))
    return root


def imagenet_hub(root: Path, shards: int = 3, surplus: int = 3, suffixed: bool = True) -> Path:
    """ImageNet as the Hub has it: parquet, with the file name (and a synset appended to it) in `image.path`."""
    train, test = imagenet_lines([n + surplus for n in TRAIN])
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["tench", "goldfish", "shark", "crane"])})
    root.mkdir(parents=True, exist_ok=True)
    for split, lines, count in (("train", train, shards), ("validation", test, 1)):
        order = np.random.RandomState(0).permutation(len(lines))
        for number, part in enumerate(np.array_split(order, count)):
            rows: dict = {"image": [], "label": []}
            for i in part.tolist():
                path, label = lines[i]
                name = Path(path).stem + (f"_{SYNSETS[label]}" if suffixed else "") + ".JPEG"
                rows["image"].append({"bytes": jpeg(1000 * label + i), "path": name})
                rows["label"].append(label)
            table = Dataset.from_dict(rows, features=features)
            table.to_parquet(root / f"{split}-{number:05d}-of-{count:05d}.parquet")
    return root


def cifar(root: Path, classes: int = 100, per_class: int = 6, column: str = "fine_label") -> Path:
    """CIFAR as the Hub has it."""
    names = [f"class{c}" for c in range(classes)]
    features = Features({"img": ImageFeature(), column: ClassLabel(names=names)})
    root.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", per_class), ("test", 1)):
        labels = [c for c in range(classes) for _ in range(count)]
        images = [{"bytes": jpeg(i, (32, 32)), "path": None} for i in range(len(labels))]
        Dataset.from_dict({"img": images, column: labels}, features=features).to_parquet(root / f"{split}.parquet")
    return root


def cifar100_lt(root: Path) -> Path:
    """CIFAR-100 with the `rank` of each image in the reference's selection, as far as an imbalance factor of 10."""
    names = [f"class{c}" for c in range(100)]
    features = Features({"img": ImageFeature(), "fine_label": ClassLabel(names=names), "rank": Value("int64")})
    root.mkdir(parents=True, exist_ok=True)
    patches = [_png(c) for c in range(100)]
    for split, counts in (("train", long_tailed_counts(500, 100, 10)), ("test", [1] * 100)):
        labels = [c for c, n in enumerate(counts) for _ in range(n)]
        ranks = [i for n in counts for i in range(n)]
        rows = {"img": [{"bytes": patches[c], "path": None} for c in labels], "fine_label": labels, "rank": ranks}
        Dataset.from_dict(rows, features=features).to_parquet(root / f"{split}.parquet")
    return root


def _png(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed, (32, 32)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


MAKERS = {"imagenet": imagenet, "imagenet-lt": imagenet_lt, "places-lt": places_lt, "inat2018": inat2018}
