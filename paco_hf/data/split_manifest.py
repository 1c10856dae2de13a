"""`splits.json`: which images each split of a run has, and whether data is still what it was made from."""

import hashlib
import json
import os
from typing import Any

import pyarrow as pa

from .image_split import ImageSplit, relative_names
from .images import ImageData, LabeledImages
from .long_tail import class_counts
from .spec import ROLES
from .streaming.sharded_images import ShardedImages


def describe_split(split: ImageSplit | None, with_rows: bool = False) -> dict[str, Any] | None:
    """What the manifest says of a split; of one that was split off, or `with_rows`, which images it has."""
    if split is None:
        return None
    with_rows = with_rows or split.split_off
    counts = class_counts(split.labels, len(split.class_names), allow_empty=True)
    content = describe_source(split, with_content=False) | {"class_counts": counts, "carved": with_rows}
    if with_rows:
        content["rows"] = split.source_rows
        if isinstance(split, LabeledImages) and split.files:
            names = relative_names(split.files)
            content["files"] = [names[row] for row in content["rows"]]
    return content


def check_source(before: dict[str, Any] | None, now: dict[str, Any] | None) -> None:
    """That a run that is resumed would carve the same splits; otherwise it would train on images that it is tested on.

    Raises:
        ValueError: the data has changed, or what test or validation are carved by.
    """
    if not before or not now:
        return
    if changed := _changed(before["source"], now["source"]):
        raise ValueError(
            f"the data has changed since the run was started (it has {changed}), so its splits would differ: "
            "restore the data, or start over with --overwrite"
        )
    flags = {
        "test": "--test_fraction, --split_seed and --inspect",
        "validation": "--validation_fraction, --seed and --validation_seed",
    }
    for role, settings in flags.items():
        parts = [manifest["splits"][role] or {} for manifest in (before, now)]
        if any(part.get("carved") for part in parts) and parts[0].get("selection") != parts[1].get("selection"):
            raise ValueError(
                f"the {role} split would contain different images than when the run was started, including some "
                f"it was trained on: use the original {settings}, or start over with --overwrite"
            )


def describe_source(full: ImageSplit, with_content: bool = True) -> dict[str, Any]:
    """What identifies a training split; `with_content` also a hash of the files' names and sizes, or of the encoded
    images' sizes."""
    source = {"name": full.public_name, "images": len(full.labels), "selection": full.selection}
    content = _content(full) if with_content else None
    return source | ({"content": content} if content else {})


def _content(full: ImageSplit) -> str | None:
    if isinstance(full, ShardedImages):
        # The names of its images, and digests of them.
        prepared = full.manifest.splits[str(full.source_split)]
        return hashlib.sha256(json.dumps(prepared, sort_keys=True).encode()).hexdigest()
    if not isinstance(full, LabeledImages):
        return None
    if full.files:
        names = relative_names(full.files)
        lines = [f"{names[row]} {os.path.getsize(full.files[row])}\n" for row in full.source_rows]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    column = full.encoded.data.column(full.image_column)
    if not pa.types.is_struct(column.type):
        return None
    return hashlib.sha256(full.encoded_sizes().tobytes()).hexdigest()


def describe_data(data: ImageData, pixels: dict[str, dict[str, str]]) -> dict[str, Any]:
    """What identifies all the images that a run is trained and scored on, wherever they come from, and their classes.

    Args:
        data (`ImageData`): the splits of the source.
        pixels (`dict`): by role, a hash of the decoded images as `pixels` or of their headers as `headers`, where
            these are known.

    Returns:
        `classes`, the SHA-256 of their names, and for each role what [`describe_source`] says, with these hashes.
    """
    described: dict[str, Any] = {"classes": hashlib.sha256("\n".join(data.class_names).encode()).hexdigest()}
    for role, split in data.splits.items():
        described[role] = describe_source(split) | pixels.get(role, {})
    return described


def check_data(before: dict[str, Any], now: dict[str, Any]) -> None:
    """That a run that is resumed has the data that it was started with; otherwise it could be scored on images that it
    has trained on.

    Args:
        before (`dict`): what [`describe_data`] said at its start; empty where that is not known.
        now (`dict`): what it says now.

    Raises:
        ValueError: images were moved, added, removed or replaced, or classes are others.
    """
    if not before:
        return
    changes = []
    for role in ROLES:
        if (role in before) != (role in now):
            changes.append(f"there is {'now a' if role in now else 'no longer a'} {role} split")
        elif role in now and (changed := _changed(before[role], now[role])):
            changes.append(f"{role}: {changed}")
    if not changes and before["classes"] != now["classes"]:
        changes = ["different class names"]
    if changes:
        raise ValueError(
            f"the data has changed since the run was started ({'; '.join(changes)}), so the run may have been trained "
            "on images of the new test or validation split: restore the data, or start over with --overwrite"
        )


def same_labels(full: ImageSplit, source: dict[str, Any]) -> bool:
    """Whether images have the labels of [`describe_source`], in the same order."""
    return len(full.labels) == source["images"] and full.selection == source["selection"]


def _changed(before: dict[str, Any], now: dict[str, Any]) -> str:
    """How two of [`describe_source`] differ, in words; empty where they are the same."""
    if before["images"] != now["images"]:
        return f"{now['images']} images instead of {before['images']}"
    if before["selection"] != now["selection"]:
        return "different labels, or a different order"
    # Runs of before contents were recorded have labels only.
    for what in ("content", "pixels", "headers"):
        if before.get(what) and now.get(what) and before[what] != now[what]:
            return "different, changed or renamed images, or a different order"
    return ""


def public_manifest(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest without the names of files."""
    splits = manifest["splits"].items()
    nameless = {
        role: split and {key: split[key] for key in split if key not in ("files", "file_digests")}
        for role, split in splits
    }
    return manifest | {"splits": nameless}


def select_again(full: ImageSplit, manifest: dict[str, Any], role: str) -> ImageSplit:
    """The images that a run split off, from the training split that they were split off from.

    Args:
        full (`ImageSplit`): that training split.
        manifest (`dict`): of the run.
        role (`str`): `validation` or `test`.

    Raises:
        ValueError: it is not the training split of then.
    """
    content, source = manifest["splits"][role], manifest["source"]
    if changed := _changed(source, describe_source(full, "content" in source)):
        raise ValueError(
            f"{full.name} is not the data that the run's {role} split was split off from: it has {changed}: "
            "restore the data, or pass data with its own test split (new images in a folder `test`)"
        )
    place = {row: index for index, row in enumerate(full.source_rows)}
    return full.select([place[row] for row in content["rows"]], role=role, split_off=role != "train")
