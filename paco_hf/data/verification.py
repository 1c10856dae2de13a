"""`paco-hf data verify` and `data stats`: is this the published selection, and what does its tail look like?"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..metrics import GROUPS_TEXT, shots
from ..utils.text import examples
from .image_lists import ImageList, differences, git_blob_id, read_list, recognize
from .image_split import selection_hash
from .images import LabeledImages
from .long_tail import class_counts
from .published import BENCHMARKS
from .sources.archives import is_archive
from .sources.table_files import is_table
from .spec import is_published
from .streaming.manifest import Manifest, is_prepared
from .streaming.prepare import join_key, read_names


def verify(target: str, dataset: str | None = None, **fields: Any) -> tuple[list[str], list[str]]:
    """Check a prepared folder or a list file against itself and against what was published.

    Args:
        target (`str`): prepared folder; list file, or address of a list; or a user's data, whose images are all
            decoded.
        dataset (`str`, *optional*): whose list it is; recognized by its paths where not given.
        fields (*optional*): of a user's data, other fields of the [`paco_hf.data.spec.DataSpec`].

    Returns:
        what was found to be right, and what differs (empty where nothing does), each a list of lines.

    Raises:
        ValueError, OSError: it cannot be read as what it should be.
    """
    if is_prepared(target):
        return _verify_folder(target)
    if not _is_user_data(target):
        return _verify_list(read_list(target, dataset))
    if dataset:
        raise ValueError(f"--dataset is for lists, and {target} is not a list: remove the flag")
    return _verify_user_data(target, **fields)


def _verify_user_data(target: str, **fields: Any) -> tuple[list[str], list[str]]:
    from .image_checks import undecodable
    from .loading import load_data

    data = load_data(target, **fields)
    right, wrong = [str(data.description), *data.notes], []
    for role, split in data.splits.items():
        assert isinstance(split, LabeledImages)
        errors = undecodable(split)
        wrong += [f"{role}: {len(errors)} images cannot be decoded: {examples(errors)}"] if errors else []
        right.append(f"{role}: {len(split.labels) - len(errors)} of {len(split.labels)} images can be decoded")
    return right, wrong


def _is_user_data(target: str) -> bool:
    """Whether it is a dataset, and not a published list."""
    if target.startswith(("http://", "https://")):
        return not target.endswith((".txt", ".json"))
    path = Path(target)
    return path.is_dir() or "://" in target or not path.exists() or is_archive(path) or _has_rows(target)


def _verify_list(image_list: ImageList, split: str | None = None) -> tuple[list[str], list[str]]:
    name, dataset, content, labels = image_list.name, image_list.dataset, image_list.content, image_list.labels
    blob, published = git_blob_id(content), BENCHMARKS[dataset].canonical
    known = recognize(content)
    if known and known[0] == dataset:
        exact = published[known[1]].blob is not None
        how = f"git blob id {blob}" if exact else "by number of lines and bytes; no hash is published"
        return [f"{name} is the published {known[1]} list of {dataset} ({how})"], []
    # The same selection in another form: other line ends, or iNaturalist's JSON.
    known = recognize("".join(f"{p} {c}\n" for p, c in zip(image_list.paths, labels, strict=True)).encode())
    if known and known[0] == dataset and published[known[1]].blob is not None:
        return [f"{name} has the lines of the published {known[1]} list of {dataset}, in a different file format"], []
    split = split or min(published, key=lambda s: abs(published[s].images - len(labels)))
    differ = differences(published[split], labels, len(image_list.folders))
    blobs = f"git blob id {blob}, published {published[split].blob or 'unknown'}"
    if differ:
        return [], [f"{name} is not {dataset}'s published {split} list ({blobs})", *differ]
    return [f"{name}: {len(labels)} images with the class counts of {dataset}'s {split} split"], [
        f"but its lines differ from the published list in content or order ({blobs})"
    ]


def _verify_folder(folder: str) -> tuple[list[str], list[str]]:
    manifest = Manifest.read(folder)
    manifest.check_files()
    right, wrong = [], []
    for split, content in manifest.splits.items():
        paths, labels = read_names(Path(folder), content["shards"])
        keys = list(map(join_key(manifest.dataset), paths))
        problems = _differences_to_manifest(content, keys, labels)
        published: list[str] = []
        different: list[str] = []
        list_file = Path(folder) / f"{split}.list"
        if list_file.is_file():
            image_list = read_list(str(list_file), manifest.dataset)
            problems += _differences_to_list(image_list, dict(zip(keys, labels, strict=True)))
            published, different = _verify_list(image_list, split)
        elif (benchmark := BENCHMARKS.get(manifest.dataset)) and split in benchmark.canonical:
            different = differences(benchmark.canonical[split], labels, len(manifest.class_names))
        if not problems:
            published = [*published, f"{len(labels)} images in {len(content['shards'])} shards, as prepared"]
        right += [f"{split}: {line}" for line in published]
        wrong += [f"{split}: {line}" for line in (*different, *problems)]
    return right, wrong


def _differences_to_manifest(content: dict[str, Any], keys: list[str], labels: list[int]) -> list[str]:
    """How the images that are in the shards of a split differ from what the manifest says of it."""
    problems = []
    if len(labels) != content["images"]:
        problems.append(f"{len(labels)} images, but {content['images']} in the manifest")
    counts = class_counts(labels, len(content["class_counts"]), allow_empty=True)
    for label, (count, stored) in enumerate(zip(counts, content["class_counts"], strict=True)):
        if count != stored:
            problems.append(f"class {label} has {count} images, but {stored} in the manifest")
            break
    if selection_hash(keys, labels) != content["selection"]:
        problems.append("the images are not those that were prepared (the hash of the selection differs)")
    if twice := [name for name, count in Counter(keys).items() if count > 1 and name]:
        problems.append(f"{len(twice)} images occur more than once, such as {twice[0]}")
    return problems


def _differences_to_list(image_list: ImageList, stored: dict[str, int]) -> list[str]:
    key = join_key(image_list.dataset)
    listed = dict(zip(map(key, image_list.paths), image_list.labels, strict=True))
    kinds = {
        "of the list are missing": [name for name in listed if name not in stored],
        "are not in the list": [name for name in stored if name not in listed],
        "have a different label": [name for name in listed if stored.get(name, listed[name]) != listed[name]],
    }
    return [f"{len(names)} images {what}, such as {names[0]}" for what, names in kinds.items() if names]


def split_counts(target: str, **fields: Any) -> dict[str, list[int]]:
    """Class counts by split of a prepared folder, a list file, or whatever [`load_data`] takes (training alone)."""
    if is_prepared(target):
        return {split: content["class_counts"] for split, content in Manifest.read(target).splits.items()}
    if not _is_user_data(target) and not is_published(target):
        image_list = read_list(target)
        return {image_list.name: class_counts(image_list.labels, len(image_list.folders), allow_empty=True)}
    from .loading import load_data

    return {"train": load_data(target, **fields).class_counts}


def _has_rows(target: str) -> bool:
    """Whether a file is a table of images, and not a published list: iNaturalist's lists are JSON too."""
    if not is_table(target) or Path(target).suffix.lower() != ".json":
        return is_table(target)
    with open(target, encoding="utf-8", errors="replace") as file:
        first = re.search(r'"file_name"\s*:\s*"([^"]*)"', file.read(2**20))
    published = BENCHMARKS["inat2018"].path
    return first is None or published is None or re.fullmatch(published, first[1], re.IGNORECASE) is None


def describe_counts(name: str, counts: Sequence[int], width: int = 48) -> str:
    """Numbers and a chart of the class counts, most frequent class first, ten classes or tenths of them.

    Args:
        name (`str`): of the split.
        counts (sequence of `int`): images of each class.
        width (`int`, *optional*, defaults to `48`): of the longest bar.
    """
    many, medium, few = shots(counts)
    fewest = min(counts)
    factor = f"{max(counts) / fewest:.4g}" if fewest else "infinite (a class is empty)"
    ranked = sorted(counts, reverse=True)
    lines = [
        f"{name}: {sum(counts)} images, {len(counts)} classes, {max(counts)} to {fewest} images per class, "
        f"imbalance factor {factor}",
        f"classes with {GROUPS_TEXT} images: {many}, {medium}, {few}",
    ]
    step = max(-(-len(ranked) // 10), 1)
    for start in range(0, len(ranked), step):
        part = ranked[start : start + step]
        mean = sum(part) / len(part)
        bar = "#" * max(round(width * mean / max(ranked[0], 1)), 1 if mean else 0)
        lines.append(f"{start + 1:>6} to {start + len(part):<6}{mean:>9.1f} {bar}")
    return "\n".join(lines)
