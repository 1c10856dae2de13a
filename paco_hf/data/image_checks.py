"""Checking every image of user data once: does it decode, and is it there twice? The outcome is stored."""

import math
import shlex
import time
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..utils.worker_pool import pool_size
from .image_split import ImageSplit
from .image_survey import (
    FULL,
    HEADERS,
    Contents,
    content_digest,
    files_digests,
    look_at,
    scored_errors,
    split_fingerprint,
    total_bytes,
)
from .images import ImageData, LabeledImages
from .split_manifest import describe_source
from .streaming.writer import SHARD_BYTES

_Place = tuple[str, int]  # role and row of an image
# Above either, an automatic choice reads headers alone. It goes by numbers that are the same on every computer and at
# every time, as what is split off depends on which images are found to be copies.
MANY_IMAGES, MANY_BYTES = 50_000, 2 * 10**9
_DECODED_BYTES = 1.7e7  # of JPEG photos that a core decodes and hashes a second
_SOME = 64  # files that tell how long reading takes
_LONG = 1.5  # minutes, which the user is told of


@dataclass
class Survey:
    """What was seen of the images of a dataset, before anything is left out.

    Args:
        inspect (`str`): `full`: they were decoded; `headers`: their headers were read, and those to score on decoded.
        contents (`dict`): [`Contents`] by role.
        digests (`dict`, *optional*): of each role, hashes of the files whose headers are alike, by row.
    """

    inspect: str
    contents: dict[str, Contents]
    digests: dict[str, dict[int, str]] = field(default_factory=dict)

    @property
    def keys(self) -> dict[str, list[str]]:
        """What is equal for equal images, by role and row; empty where one is damaged."""
        keys = {role: [*one.pixels] for role, one in self.contents.items()}
        for role, digests in self.digests.items():
            for row, digest in digests.items():
                keys[role][row] = keys[role][row] and digest
        return keys


@dataclass
class ImageChecks:
    """What the user should know of the images.

    Args:
        data (`ImageData`): without the images that cannot be decoded, and with notes and warnings.
        lines (list of `str`): in words.
        duplicates (`np.ndarray` of `bool`, `(N,)`, *optional*): training images with an exact copy in any split.
        pixels (`dict`): by role, a hash of the decoded images as `pixels`, or of their headers as `headers`.
        source (`dict`, *optional*): [`describe_source`] of the training images, those that are left out among them.
        inspect (`str`, *optional*, defaults to `"none"`): how the images were looked at.
    """

    data: ImageData
    lines: list[str] = field(default_factory=list)
    duplicates: np.ndarray | None = None
    pixels: dict[str, dict[str, str]] = field(default_factory=dict)
    source: dict[str, Any] | None = None
    inspect: str = "none"


def automatic_inspection(data: ImageData) -> str:
    """`full` for up to [`MANY_IMAGES`] of [`MANY_BYTES`] in all, which is about a minute on two cores; else
    `headers`."""
    splits = [split for split in data.splits.values() if isinstance(split, LabeledImages)]
    many = sum(len(split.labels) for split in splits) > MANY_IMAGES
    return HEADERS if many or sum(map(total_bytes, splits)) > MANY_BYTES else FULL


def describe_effort(data: ImageData, inspect: str, automatic: bool = False) -> list[str]:
    """What checking many images costs, and what thousands of files cost in each epoch, for the user to read.

    Args:
        data (`ImageData`): the dataset.
        inspect (`str`): how its images are looked at.
        automatic (`bool`, *optional*, defaults to `False`): whether that is [`automatic_inspection`].
    """
    splits = [split for split in data.splits.values() if isinstance(split, LabeledImages)]
    if not splits or (inspect == "none" and not data.user_data):
        return []
    images, sizes = sum(len(split.labels) for split in splits), [*map(total_bytes, splits)]
    lines, cores = [], pool_size()
    minutes = sum(sizes) / _DECODED_BYTES / cores / 60
    duration = f"about {max(minutes, 1):.0f} min on {cores} core{'s' * (cores > 1)}, only once"
    amount = f"{images:,} images of {sum(sizes) / 1e9:.1f} GB"
    if inspect == HEADERS and automatic:
        lines.append(
            f"image check of {amount}: training images are checked by their headers only (--inspect full decodes "
            f"them in {duration})"
        )
    elif inspect == FULL and minutes > _LONG:
        lines.append(
            f"image check of {amount} by decoding: {duration}, less for images checked before (--inspect "
            "headers is faster)"
        )
    files = splits[0].files
    if data.user_data and files and len(files) > MANY_IMAGES:
        shards = -(-sizes[0] // SHARD_BYTES)
        lines.append(
            f"hint: each epoch opens {len(files):,} files, {_reading_time(files)}; `paco-hf data prepare "
            f"{shlex.quote(splits[0].dataset)} --out FOLDER` copies them into {shards} large "
            f"file{'s' * (shards > 1)}, which `--dataset FOLDER --streaming true` reads sequentially, without an "
            "image check"
        )
    return lines


def _reading_time(files: list[str]) -> str:
    """What reading all files takes, by some of them."""
    started = time.monotonic()
    for row in (rows := np.linspace(0, len(files) - 1, _SOME).astype(int)):
        Path(files[row]).read_bytes()
    minutes = (time.monotonic() - started) / len(rows) * len(files) / 60
    return f"about {minutes:.1f} min of reading, estimated from {len(rows)} files"


def survey(data: ImageData, inspect: str = FULL) -> Survey:
    """Scan all images of a dataset, or read the stored result of an earlier scan.

    Args:
        data (`ImageData`): splits that are streamed are left alone.
        inspect (`str`, *optional*, defaults to `"full"`): `full` decodes all images; `headers` reads the headers of
            all and decodes only evaluation images, so that a damaged one does not end a run after days of training.

    Raises:
        OSError: a process that decodes has ended.
    """
    splits = {role: split for role, split in data.splits.items() if isinstance(split, LabeledImages)}
    if inspect == FULL:
        return Survey(inspect, {role: look_at(split, keep=True) for role, split in splits.items()})
    contents = {}
    for role, split in splits.items():
        fingerprint = split_fingerprint(split)
        contents[role] = look_at(split, inspect, fingerprint=fingerprint)
        scored = scored_errors(split, fingerprint) if role != "train" else {}
        for row, error in scored.items():
            contents[role].errors[row], contents[role].pixels[row] = error, ""
    counts = Counter(key for one in contents.values() for key in one.pixels if key.endswith("~"))
    digests = {}
    for role, one in contents.items():
        if alike := [row for row, key in enumerate(one.pixels) if counts[key] > 1]:
            digests[role] = files_digests(splits[role], alike)
    return Survey(inspect, contents, digests)


def check_images(data: ImageData, skip_undecodable: bool = False, outcome: Survey | None = None) -> ImageChecks:
    """What the images of a dataset are, as they were looked at.

    There is a note of the images that cannot be decoded, where these may be left out, and a warning of exact
    duplicates across splits, and of one image with several labels.

    Args:
        data (`ImageData`): splits that are streamed are left alone.
        skip_undecodable (`bool`, *optional*, defaults to `False`): leave out images that cannot be decoded.
        outcome ([`Survey`], *optional*): what [`survey`] gave (default: that of all images, decoded).

    Raises:
        ValueError: images that cannot be decoded; says how many, and names the first.
    """
    splits = {role: split for role, split in data.splits.items() if isinstance(split, LabeledImages)}
    source = describe_source(data.train, data.user_data)
    outcome = outcome or survey(data)
    contents = outcome.contents
    advice = "; replace or remove it"  # of one image
    errors = [message.removesuffix(advice) for one in contents.values() for message in one.errors.values()]
    total = sum(len(split.labels) for split in splits.values())
    if errors and not skip_undecodable:
        raise ValueError(
            f"{len(errors)} of the {total} images cannot be decoded: "
            f"{'; '.join(errors[:3])}{'; ...' if len(errors) > 3 else ''}: replace or remove them, or pass "
            "--skip_undecodable true"
        )
    notes = (
        [f"excluded because they cannot be decoded: {_images(len(errors))}, such as: {errors[0]}"] if errors else []
    )
    for role, split in splits.items():
        splits[role] = rest = _without(split, contents[role].errors)
        if role == "train" and (lost := set(split.labels) - set(rest.labels)):
            raise ValueError(
                f"no training image of the class {split.class_names[min(lost)]!r} can be decoded: replace its images, "
                "or remove the class"
            )
        if not rest.labels:
            raise ValueError(f"no image of {split.name} can be decoded: replace them, or remove the split")
    keys = {role: [*filter(None, ordered)] for role, ordered in outcome.keys.items()}
    places: dict[str, list[_Place]] = defaultdict(list)
    for role, ordered in keys.items():
        for index, key in enumerate(ordered):
            places[key].append((role, index))
    groups = [group for group in places.values() if len(group) > 1]
    line, warnings = _describe_duplicates(splits, groups)
    # Also those with a copy in another split of the source: images that are split off would have it.
    duplicates = np.zeros(len(splits["train"].labels), dtype=bool)
    duplicates[[index for group in groups for role, index in group if role == "train"]] = True
    changes: dict[str, Any] = {**splits, "notes": data.notes + notes, "warnings": data.warnings + warnings}
    what = "pixels" if outcome.inspect == FULL else outcome.inspect
    hashes = {
        role: {what: content_digest("\n".join(filter(None, one.pixels)).encode())} for role, one in contents.items()
    }
    lines = [_describe_survey(outcome, total, len(errors)), line]
    return ImageChecks(replace(data, **changes), lines, duplicates, hashes, source, outcome.inspect)


def check_scored(checks: ImageChecks, parts: Collection[ImageSplit | None]) -> None:
    """Decode what was split off to be scored on, where only headers were read: none should end a run in its end.

    Args:
        checks ([`ImageChecks`]): of the data.
        parts (collection of `ImageSplit`): what is scored; `None` is nothing.

    Raises:
        ValueError: some cannot be decoded; names the first.
    """
    scored = [part for part in parts if isinstance(part, LabeledImages) and part.split_off]
    if checks.inspect == HEADERS and (errors := [error for part in scored for error in scored_errors(part).values()]):
        raise ValueError(
            f"{len(errors)} of the {sum(len(part.labels) for part in scored)} images split off for evaluation "
            f"cannot be decoded: {'; '.join(errors[:3])}{'; ...' if len(errors) > 3 else ''}: use --inspect full "
            "--skip_undecodable true to exclude such images before the data is split"
        )


def _describe_survey(outcome: Survey, total: int, damaged: int) -> str:
    contents = outcome.contents.values()
    known = " (cached result)" if all(one.stored for one in contents) else ""
    sizes = [size for one in contents for size in one.sizes if size]
    small, large = min(sizes, key=math.prod), max(sizes, key=math.prod)
    extent = f"{small[0]} x {small[1]}" + ("" if small == large else f" to {large[0]} x {large[1]}") + " pixels"
    count = f"{total - damaged} of {total} images" if damaged else f"all {total} images"
    if outcome.inspect == FULL:
        return f"{count} can be decoded{known}: {extent}"
    return (
        f"{count} have readable headers{known}: {extent}; training images are decoded during training, and damaged "
        "ones are replaced (--inspect full decodes all images first, --strict true stops at a damaged one)"
    )


def decodable(split: LabeledImages) -> LabeledImages:
    """A whole split without the images that cannot be decoded; a selection has none of them already."""
    return split if split.rows is not None else _without(split, look_at(split).errors)


def undecodable(split: LabeledImages) -> list[str]:
    """What is wrong with the images that cannot be decoded."""
    return list(look_at(split).errors.values())


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
                f"the {other} split shares {_images(len(pairs))} with the {one} split, so its scores are too "
                f"high; such as {describe(pairs[0][1])}, a copy of {describe(pairs[0][0])}"
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
