"""Checking every image of user data once: does it decode, and is it there twice? The outcome is stored."""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Collection
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
from .images import ImageData, LabeledImages

_VERSION = 2  # of what is stored; another one is not read


@dataclass
class _Contents:
    """One split's images, by row."""

    pixels: list[str]  # a hash of the decoded image, empty where it cannot be decoded
    errors: dict[int, str]
    smallest: tuple[int, int] | None  # width and height, by area
    largest: tuple[int, int] | None
    stored: bool = False  # read from what an earlier check stored


@dataclass
class ImageChecks:
    """What the user should know of the images.

    Args:
        lines (list of `str`): in words.
        duplicates (`np.ndarray` of `bool`, `(N,)`, *optional*): training images with an exact copy in any split.
    """

    lines: list[str] = field(default_factory=list)
    duplicates: np.ndarray | None = None


def check_images(data: ImageData, skip_undecodable: bool = False) -> ImageChecks:
    """Decode all images of a data set, or read what an earlier check stored.

    `data` loses the images that cannot be decoded, where these may be left out, and gains notes and warnings: of
    these, of exact duplicates across splits, and of one image with several labels.

    Args:
        data (`ImageData`): splits that are streamed are left alone.
        skip_undecodable (`bool`, *optional*, defaults to `False`): leave out images that cannot be decoded.

    Raises:
        ValueError: images that cannot be decoded; says how many, and names the first.
    """
    splits = {role: split for role, split in data.splits.items() if isinstance(split, LabeledImages)}
    contents = {role: _contents(split) for role, split in splits.items()}
    errors = [message for one in contents.values() for message in one.errors.values()]
    total = sum(len(split.labels) for split in splits.values())
    if errors and not skip_undecodable:
        raise ValueError(
            f"{len(errors)} of the {total} images cannot be decoded: {'; '.join(errors[:3])}"
            f"{'; ...' if len(errors) > 3 else ''}. --skip_undecodable true leaves them out"
        )
    if errors:
        data.notes.append(f"left out as not decodable: {_images(len(errors))}, such as: {errors[0]}")
    hashes = {role: [value for value in one.pixels if value] for role, one in contents.items()}
    for role, split in splits.items():
        splits[role] = _without(split, contents[role].errors)
        setattr(data, role, splits[role])
    data.__post_init__()
    known = " (as surveyed before)" if all(one.stored for one in contents.values()) else ""
    sizes = [size for one in contents.values() for size in (one.smallest, one.largest) if size]
    small, large = min(sizes, key=np.prod), max(sizes, key=np.prod)
    extent = f"{small[0]} x {small[1]}" + ("" if small == large else f" to {large[0]} x {large[1]}") + " pixels"
    decodable = f"{total - len(errors)} of {total} images decode" if errors else f"all {total} images decode"
    line, duplicates = _duplicates(data, splits, hashes)
    return ImageChecks([f"{decodable}{known}: {extent}", line], duplicates)


def decodable(split: LabeledImages) -> LabeledImages:
    """A whole split without the images that cannot be decoded; a selection has none of them already."""
    return split if split.rows is not None else _without(split, _contents(split).errors, check=False)


def _without(split: LabeledImages, rows: Collection[int], check: bool = True) -> LabeledImages:
    if not rows:
        return split
    rest = [row for row in range(len(split.labels)) if row not in rows]
    lost = sorted(set(split.labels) - {split.labels[row] for row in rest})
    if check and lost and split.role == "train":
        raise ValueError(
            f"no training image of the class {split.class_names[lost[0]]!r} can be decoded: mend its images, or "
            "remove the class"
        )
    if check and not rest:
        raise ValueError(f"no image of {split.name} can be decoded: mend them, or remove the split")
    return split.select(rest)


def _duplicates(
    data: ImageData, splits: dict[str, LabeledImages], hashes: dict[str, list[str]]
) -> tuple[str, np.ndarray]:
    """What to say of exact duplicates, and which training images have one; warnings go to `data`."""
    places: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for role, values in hashes.items():
        for index, value in enumerate(values):
            places[value].append((role, index))
    groups = [group for group in places.values() if len(group) > 1]
    duplicates = np.zeros(len(splits["train"].labels), dtype=bool)
    leaks: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    ambiguous = []
    for group in groups:
        names = {place: splits[place[0]].describe(place[1]) for place in group}
        # Also those with a copy in another split of the source: images that are split off would have it.
        duplicates[[index for role, index in group if role == "train"]] = True
        labels = {splits[role].labels[index]: names[role, index] for role, index in group}
        if len(labels) > 1:
            ambiguous.append(labels)
        for pair in (("train", "test"), ("train", "validation"), ("validation", "test")):
            originals, copied = ([names[place] for place in group if place[0] == role] for role in pair)
            leaks[pair] += [(originals[0], copy) for copy in copied if originals]
    for (one, other), pairs in leaks.items():
        if pairs:
            data.warnings.append(
                f"the {other} split has {_images(len(pairs))} exactly as in {one}, so scores on it say too much; such "
                f"as {pairs[0][1]}, which is {pairs[0][0]}"
            )
    if ambiguous:
        (first, a), (second, b) = list(ambiguous[0].items())[:2]
        data.warnings.append(
            f"there {'is' if len(ambiguous) == 1 else 'are'} {_images(len(ambiguous))} with more than one label, "
            f"such as {a} as {data.class_names[first]!r} and {b} as {data.class_names[second]!r}"
        )
    copies = sum(len(group) - 1 for group in groups)
    across = sum(map(len, leaks.values())) or "none"
    line = f"{copies} exact duplicate{'s' * (copies > 1)}, {across} across splits" if copies else "no exact duplicates"
    return line, duplicates


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _contents(split: LabeledImages) -> _Contents:
    path = _folder() / f"{_fingerprint(split)}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        stored = json.loads(path.read_text(encoding="utf-8"))
        if len(stored["pixels"]) == len(split.labels):
            errors = {int(row): message for row, message in stored["errors"].items()}
            smallest, largest = (tuple(size) if size else None for size in stored["sizes"])
            return _Contents(stored["pixels"], errors, smallest, largest, stored=True)
    contents = _decode(split)
    sizes = [contents.smallest, contents.largest]
    # Without a place to store it the next run decodes again.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"pixels": contents.pixels, "errors": contents.errors, "sizes": sizes}))
    return contents


def _decode(split: LabeledImages) -> _Contents:
    def decode(row: int) -> tuple[str, tuple[int, int] | None, str]:
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
    outcomes = {}
    with ThreadPoolExecutor(available_cores()) as pool, progress:
        for file, outcome in zip(first, pool.map(decode, first.values()), strict=True):
            outcomes[file] = outcome
            progress.update()
    errors = {row: outcomes[file][2] for row, file in enumerate(files) if outcomes[file][2]}
    sizes = [size for _, size, _ in outcomes.values() if size]
    smallest, largest = (pick(sizes, key=np.prod, default=None) for pick in (min, max))
    return _Contents([outcomes[file][0] for file in files], errors, smallest, largest)


def _folder() -> Path:
    return Path(datasets.config.HF_DATASETS_CACHE) / "paco_hf" / "surveys"


def _files(split: LabeledImages) -> list[str] | None:
    """The file of each image, where the images are files."""
    if split.files is not None:
        return [split.files[row] for row in split.source_rows]
    first = split.encoded[0][split.image_column] if split.labels else None
    if not first or first.get("bytes") or not os.path.isfile(first.get("path") or ""):
        return None
    return [image["path"] for image in split.encoded[split.image_column]]


def _fingerprint(split: LabeledImages) -> str:
    """Of what would be decoded: paths, sizes and times of files, else the fingerprint that `datasets` keeps."""
    digest = hashlib.blake2b(f"{_VERSION} {split.name} ".encode(), digest_size=16)
    files = _files(split)
    if files is None:
        # Private, as `datasets` names the state of a data set nowhere else; it changes with every transformation.
        digest.update(f"{split.data._fingerprint} {split.image_column}".encode())
        return digest.hexdigest()
    entries = {}
    for file in files:
        if file not in entries:
            status = os.stat(file)
            entries[file] = f"{os.path.abspath(file)} {status.st_size} {status.st_mtime_ns}\n".encode()
        digest.update(entries[file])
    return digest.hexdigest()
