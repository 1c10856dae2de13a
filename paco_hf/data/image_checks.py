"""Checking every image of user data once: does it decode, and is it there twice? The outcome is stored."""

import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from tqdm.auto import tqdm

from ..utils.files import identity, write_text
from ..utils.hardware import available_cores
from ..utils.images import PIXEL_LIMIT
from .images import ImageData, LabeledImages
from .split_manifest import describe_source

_Place = tuple[str, int]  # role and row of an image
_VERSION = 2  # of what is stored; another one is not read


@dataclass
class _Contents:
    """One split's images, by row."""

    pixels: list[str]  # a hash of the decoded image, empty where it cannot be decoded
    errors: dict[int, str]
    sizes: list[list[int] | None]  # width and height of the smallest and of the largest by area; `None`: none decodes
    stored: bool = False  # read from what an earlier check stored


@dataclass
class ImageChecks:
    """What the user should know of the images.

    Args:
        data (`ImageData`): without the images that cannot be decoded, and with notes and warnings.
        lines (list of `str`): in words.
        duplicates (`np.ndarray` of `bool`, `(N,)`, *optional*): training images with an exact copy in any split.
        pixels (`dict`): a hash of the decoded images of each split, by role.
        source (`dict`, *optional*): [`describe_source`] of the training images, those that are left out among them.
    """

    data: ImageData
    lines: list[str] = field(default_factory=list)
    duplicates: np.ndarray | None = None
    pixels: dict[str, str] = field(default_factory=dict)
    source: dict[str, Any] | None = None


def check_images(data: ImageData, skip_undecodable: bool = False) -> ImageChecks:
    """Decode all images of a data set, or read what an earlier check stored.

    There is a note of the images that cannot be decoded, where these may be left out, and a warning of exact
    duplicates across splits, and of one image with several labels.

    Args:
        data (`ImageData`): splits that are streamed are left alone.
        skip_undecodable (`bool`, *optional*, defaults to `False`): leave out images that cannot be decoded.

    Raises:
        ValueError: images that cannot be decoded; says how many, and names the first.
    """
    splits = {role: split for role, split in data.splits.items() if isinstance(split, LabeledImages)}
    source = describe_source(data.train, data.user_data)
    contents = {role: _contents(split) for role, split in splits.items()}
    errors = [message for one in contents.values() for message in one.errors.values()]
    total = sum(len(split.labels) for split in splits.values())
    if errors and not skip_undecodable:
        raise ValueError(
            f"{len(errors)} of the {total} images cannot be decoded: {'; '.join(errors[:3])}"
            f"{'; ...' if len(errors) > 3 else ''}. --skip_undecodable true leaves them out"
        )
    notes = [f"left out as not decodable: {_images(len(errors))}, such as: {errors[0]}"] if errors else []
    for role, split in splits.items():
        splits[role] = rest = _without(split, contents[role].errors)
        if role == "train" and (lost := set(split.labels) - set(rest.labels)):
            raise ValueError(
                f"no training image of the class {split.class_names[min(lost)]!r} can be decoded: replace its images, "
                "or remove the class"
            )
        if not rest.labels:
            raise ValueError(f"no image of {split.name} can be decoded: replace them, or remove the split")
    known = " (as surveyed before)" if all(one.stored for one in contents.values()) else ""
    sizes = [size for one in contents.values() for size in one.sizes if size]
    small, large = min(sizes, key=math.prod), max(sizes, key=math.prod)
    extent = f"{small[0]} x {small[1]}" + ("" if small == large else f" to {large[0]} x {large[1]}") + " pixels"
    decodable = f"{total - len(errors)} of {total} images decode" if errors else f"all {total} images decode"
    places: dict[str, list[_Place]] = defaultdict(list)
    for role, one in contents.items():
        for index, pixels in enumerate(filter(None, one.pixels)):
            places[pixels].append((role, index))
    groups = [group for group in places.values() if len(group) > 1]
    line, warnings = _describe_duplicates(splits, groups)
    # Also those with a copy in another split of the source: images that are split off would have it.
    duplicates = np.zeros(len(splits["train"].labels), dtype=bool)
    duplicates[[index for group in groups for role, index in group if role == "train"]] = True
    changes: dict[str, Any] = {**splits, "notes": data.notes + notes, "warnings": data.warnings + warnings}
    hashes = {role: _digest("\n".join(filter(None, one.pixels)).encode()) for role, one in contents.items()}
    return ImageChecks(replace(data, **changes), [f"{decodable}{known}: {extent}", line], duplicates, hashes, source)


def decodable(split: LabeledImages) -> LabeledImages:
    """A whole split without the images that cannot be decoded; a selection has none of them already."""
    return split if split.rows is not None else _without(split, _contents(split).errors)


def undecodable(split: LabeledImages) -> list[str]:
    """What is wrong with the images that cannot be decoded."""
    return list(_contents(split).errors.values())


def _without(split: LabeledImages, rows: Collection[int]) -> LabeledImages:
    return split.select([row for row in range(len(split.labels)) if row not in rows]) if rows else split


def _describe_duplicates(splits: dict[str, LabeledImages], groups: list[list[_Place]]) -> tuple[str, list[str]]:
    """A line on the groups of images that are the same, and warnings."""

    def describe(place: _Place) -> str:
        return splits[place[0]].describe(place[1])

    warnings, across = [], 0
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        pairs: list[tuple[_Place, _Place]] = []
        for group in groups:
            originals, copies = ([place for place in group if place[0] == role] for role in (one, other))
            pairs += [(originals[0], copy) for copy in copies if originals]
        across += len(pairs)
        if pairs:
            warnings.append(
                f"the {other} split has {_images(len(pairs))} exactly as in {one}, so scores on it say too much; such "
                f"as {describe(pairs[0][1])}, which is {describe(pairs[0][0])}"
            )
    labeled = [{splits[role].labels[index]: (role, index) for role, index in group} for group in groups]
    if ambiguous := [places for places in labeled if len(places) > 1]:
        names = splits["train"].class_names
        first, second = (f"{describe(place)} as {names[label]!r}" for label, place in [*ambiguous[0].items()][:2])
        warnings.append(
            f"there {'is' if len(ambiguous) == 1 else 'are'} {_images(len(ambiguous))} with more than one label, "
            f"such as {first} and {second}"
        )
    count = sum(map(len, groups)) - len(groups)
    if not count:
        return "no exact duplicates", warnings
    return f"{count} exact duplicate{'s' * (count > 1)}, {across or 'none'} across splits", warnings


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _contents(split: LabeledImages) -> _Contents:
    # What is too large with one limit is not with another.
    path = _folder() / f"{split_fingerprint(split)}{os.environ.get(PIXEL_LIMIT, '')}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        stored = json.loads(path.read_text(encoding="utf-8"))
        if len(stored["pixels"]) == len(split.labels):
            errors = {int(row): message for row, message in stored["errors"].items()}
            return _Contents(stored["pixels"], errors, stored["sizes"], stored=True)
    contents = _decode(split)
    # Without a place to store it the next run decodes again.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({name: getattr(contents, name) for name in ("pixels", "errors", "sizes")}))
    return contents


def _decode(split: LabeledImages) -> _Contents:
    def decode(row: int) -> tuple[str, list[int], str]:
        try:
            image = split.open(row)
        except ValueError as error:
            return "", [], str(error)
        content = f"{image.width} {image.height} ".encode() + image.tobytes()
        return _digest(content), [*image.size], ""

    # A file that many rows name is decoded once.
    files: Any = _files(split) or range(len(split.labels))
    first: dict[Any, int] = {}
    for row, file in enumerate(files):
        first.setdefault(file, row)
    with ThreadPoolExecutor(available_cores()) as pool:
        results = pool.map(decode, first.values())
        progress = tqdm(results, f"surveying {split.name}", len(first), leave=False, unit=" images", disable=None)
        outcomes = dict(zip(first, progress, strict=True))
    errors = {row: outcomes[file][2] for row, file in enumerate(files) if outcomes[file][2]}
    sizes = [size for _, size, _ in outcomes.values() if size]
    extremes = [pick(sizes, key=math.prod, default=None) for pick in (min, max)]
    return _Contents([outcomes[file][0] for file in files], errors, extremes)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _folder() -> Path:
    return Path(datasets.config.HF_DATASETS_CACHE) / "paco_hf" / "surveys"


def _files(split: LabeledImages) -> list[str] | None:
    """The file of each image, where the images are files."""
    if split.files is not None:
        return [split.files[row] for row in split.source_rows]
    first = split.encoded[0][split.image_column] or {}
    if first.get("bytes") or not os.path.isfile(first.get("path") or ""):
        return None
    return [image["path"] for image in split.encoded[split.image_column]]


def split_fingerprint(split: LabeledImages) -> str:
    """Identifies the images of a split and their order, without decoding one: by paths, sizes, times and inodes of
    files, else by the fingerprint that `datasets` keeps."""
    digest = hashlib.blake2b(f"{_VERSION} {split.name} ".encode(), digest_size=16)
    files = _files(split)
    if files is None:
        # Private, as `datasets` names the state of a data set nowhere else; it changes with every transformation.
        digest.update(f"{split.data._fingerprint} {split.image_column}".encode())
        return digest.hexdigest()
    identities = {file: identity(file) for file in set(files)}
    for file in files:
        digest.update(f"{os.path.abspath(file)} {identities[file]}\n".encode())
    return digest.hexdigest()
