"""Looking at every image of a user's data once: does it decode, and is it there twice? What was seen is kept."""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from tqdm.auto import tqdm

from ..utils.files import write_text
from ..utils.hardware import available_cores
from .images import ImageData, LabelledImages

_VERSION = 2  # of what is kept; another one is not read


@dataclass
class Seen:
    """One split's images, by row."""

    pixels: list[str]  # a hash of the decoded image, empty where it cannot be decoded
    errors: dict[int, str]
    smallest: tuple[int, int] | None  # width and height, by area
    largest: tuple[int, int] | None
    before: bool = False  # read from what an earlier survey kept


@dataclass
class Survey:
    """What was seen, in words, and which training images have an exact twin in any split."""

    lines: list[str] = field(default_factory=list)
    twins: np.ndarray | None = None  # bool `(N,)`


def survey(data: ImageData, skip_undecodable: bool = False) -> Survey:
    """Decode all images of a data set, or read what was seen before.

    `data` loses the images that cannot be decoded, where these may be left out, and gains notes and warnings: of
    these, of exact duplicates across splits, and of one image with several labels.

    Raises:
        ValueError: images that cannot be decoded; says how many, and names the first.
    """
    present = {name: split for name in ("train", "validation", "test") if (split := getattr(data, name)) is not None}
    splits = {name: split for name, split in present.items() if isinstance(split, LabelledImages)}
    seen = {name: _look(split) for name, split in splits.items()}
    result = Survey()
    errors = [message for one in seen.values() for message in one.errors.values()]
    total = sum(len(split.labels) for split in splits.values())
    if errors and not skip_undecodable:
        raise ValueError(
            f"{len(errors)} of the {total} images cannot be decoded: {'; '.join(errors[:3])}"
            f"{'; ...' if len(errors) > 3 else ''}. --skip_undecodable true leaves them out"
        )
    if errors:
        data.notes.append(f"left out as not decodable: {_images(len(errors))}, such as: {errors[0]}")
    hashes = {}
    for name, split in splits.items():
        kept = [row for row, value in enumerate(seen[name].pixels) if value]
        hashes[name] = [seen[name].pixels[row] for row in kept]
        if len(kept) < len(split.labels):
            _check_classes(split, kept, data.class_names, name)
            splits[name] = split.select(kept, split.name)
            setattr(data, name, splits[name])
    data.__post_init__()
    known = " (as surveyed before)" if all(one.before for one in seen.values()) else ""
    sizes = [size for one in seen.values() for size in (one.smallest, one.largest) if size]
    small, large = min(sizes, key=np.prod), max(sizes, key=np.prod)
    extent = f"{small[0]} x {small[1]}" + ("" if small == large else f" to {large[0]} x {large[1]}") + " pixels"
    decodable = f"{total - len(errors)} of {total} images decode" if errors else f"all {total} images decode"
    result.lines.append(f"{decodable}{known}: {extent}")
    result.twins = _duplicates(data, splits, hashes, result)
    return result


def decodable(split: LabelledImages) -> LabelledImages:
    """A whole split without the images that cannot be decoded; a selection has none of them already."""
    if split.rows is not None:
        return split
    kept = [row for row, value in enumerate(_look(split).pixels) if value]
    return split if len(kept) == len(split.labels) else split.select(kept, split.name)


def _check_classes(split: LabelledImages, kept: list[int], names: Sequence[str], role: str) -> None:
    lost = sorted(set(split.labels) - {split.labels[row] for row in kept})
    if lost and role == "train":
        raise ValueError(
            f"no training image of the class {names[lost[0]]!r} can be decoded: mend its images, or remove the class"
        )
    if not kept:
        raise ValueError(f"no image of {split.name} can be decoded: mend them, or remove the split")


def _duplicates(
    data: ImageData, splits: dict[str, LabelledImages], hashes: dict[str, list[str]], result: Survey
) -> np.ndarray:
    places: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for name, values in hashes.items():
        for index, value in enumerate(values):
            places[value].append((name, index))
    groups = [group for group in places.values() if len(group) > 1]
    twins = np.zeros(len(splits["train"].labels), dtype=bool)
    leaks: dict[tuple[str, str], list[tuple[tuple[str, int], tuple[str, int]]]] = defaultdict(list)
    mislabelled = []
    for group in groups:
        # Those with a twin in a given split too: what is carved would have it.
        twins[[index for name, index in group if name == "train"]] = True
        labels = {splits[name].labels[index]: (name, index) for name, index in group}
        if len(labels) > 1:
            mislabelled.append(labels)
        for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
            known = [place for place in group if place[0] == one]
            if known:
                leaks[one, other] += [(known[0], place) for place in group if place[0] == other]

    def named(place: tuple[str, int]) -> str:
        return _name(splits[place[0]], place[1])

    for pair, found in leaks.items():
        if found:
            data.warnings.append(
                f"the {pair[1]} split has {_images(len(found))} exactly as in {pair[0]}, so scores on it say too "
                f"much; such as {named(found[0][1])}, which is {named(found[0][0])}"
            )
    if mislabelled:
        (first, a), (second, b) = list(mislabelled[0].items())[:2]
        data.warnings.append(
            f"there {'is' if len(mislabelled) == 1 else 'are'} {_images(len(mislabelled))} with more than one label, "
            f"such as {named(a)} as {data.class_names[first]!r} and {named(b)} as {data.class_names[second]!r}"
        )
    copies = sum(len(group) - 1 for group in groups)
    across = sum(map(len, leaks.values()))
    result.lines.append(
        f"{copies} exact duplicate{'s' * (copies > 1)}, {across or 'none'} across splits"
        if copies
        else "no exact duplicates"
    )
    return twins


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _name(split: LabelledImages, index: int) -> str:
    row = index if split.rows is None else split.rows[index]
    return split.shown(split.files[row]) if split.files else f"image {row} of {split.name}"


def _look(split: LabelledImages) -> Seen:
    path = _folder() / f"{_fingerprint(split)}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(path.read_text(encoding="utf-8"))
        if len(content["pixels"]) == len(split.labels):
            errors = {int(row): message for row, message in content["errors"].items()}
            smallest, largest = (tuple(size) if size else None for size in content["sizes"])
            return Seen(content["pixels"], errors, smallest, largest, before=True)
    seen = _decode(split)
    content = {"pixels": seen.pixels, "errors": seen.errors, "sizes": [seen.smallest, seen.largest]}
    # Without a place to keep it the next run looks again.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(content))
    return seen


def _decode(split: LabelledImages) -> Seen:
    def look(row: int) -> tuple[str, tuple[int, int] | None, str]:
        try:
            image = split.open(row)
        except ValueError as error:
            return "", None, str(error)
        digest = hashlib.blake2b(f"{image.width} {image.height} ".encode(), digest_size=16)
        digest.update(image.tobytes())
        return digest.hexdigest(), image.size, ""

    # A file that many rows name is decoded once.
    files: Any = _files(split) or range(len(split.labels))
    first: dict[Any, int] = {}
    for row, file in enumerate(files):
        first.setdefault(file, row)
    progress: Any = tqdm(total=len(first), desc=f"surveying {split.name}", unit=" images", disable=None, leave=False)
    with ThreadPoolExecutor(available_cores()) as pool, progress:
        found = {}
        for file, outcome in zip(first, pool.map(look, first.values()), strict=True):
            found[file] = outcome
            progress.update()
    pixels = [found[file][0] for file in files]
    errors = {row: found[file][2] for row, file in enumerate(files) if found[file][2]}
    sizes = [size for _, size, _ in found.values() if size]
    smallest, largest = (pick(sizes, key=np.prod, default=None) for pick in (min, max))
    return Seen(pixels, errors, smallest, largest)


def _folder() -> Path:
    return Path(datasets.config.HF_DATASETS_CACHE) / "paco_hf" / "surveys"


def _files(split: LabelledImages) -> list[str] | None:
    """The file of each image, where the images are files."""
    if split.files is not None:
        return split.files if split.rows is None else [split.files[row] for row in split.rows]
    first = split.encoded[0][split.image_column] if split.labels else None
    if not first or first.get("bytes") or not os.path.isfile(first.get("path") or ""):
        return None
    return [image["path"] for image in split.encoded[split.image_column]]


def _fingerprint(split: LabelledImages) -> str:
    """Of what would be decoded: paths, sizes and times of files, else the fingerprint that `datasets` keeps."""
    digest = hashlib.blake2b(f"{_VERSION} {split.name} ".encode(), digest_size=16)
    files = _files(split)
    if files is None:
        digest.update(f"{split.data._fingerprint} {split.image_column}".encode())
        return digest.hexdigest()
    known = {}
    for file in files:
        if file not in known:
            status = os.stat(file)
            known[file] = f"{os.path.abspath(file)} {status.st_size} {status.st_mtime_ns}\n".encode()
        digest.update(known[file])
    return digest.hexdigest()
