"""The published lists of images (`path label` lines, or iNaturalist's JSON): reading and recognizing them."""

import csv
import hashlib
import http.client
import json
import re
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distribution
from itertools import combinations, zip_longest
from pathlib import Path
from urllib.parse import urlsplit

from ..metrics import shots
from ..utils.files import check_file
from .long_tail import class_counts
from .published import BENCHMARKS, Benchmark, Canonical


@dataclass
class ImageList:
    """A split as its list gives it: paths below the dataset's root, with their class ids `0..C-1`."""

    name: str
    dataset: str
    paths: list[str]
    labels: list[int]
    folders: list[str]  # of each class, by id
    content: bytes


def git_blob_id(content: bytes) -> str:
    """The id by which git knows a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def check_list(source: str) -> None:
    """`OSError` where a list is neither a file nor an address."""
    if not source.startswith(("http://", "https://")):
        check_file(source, "pass a list file, or its URL (http, https)")


def fetch(source: str) -> tuple[str, bytes]:
    """Name and content of a local file or an `http(s)` address.

    Raises:
        OSError: it does not exist or cannot be reached.
    """
    if not source.startswith(("http://", "https://")):
        check_list(source)
        return Path(source).name, Path(source).read_bytes()
    try:
        with urllib.request.urlopen(source, timeout=20) as answer:
            return Path(urlsplit(source).path).name, answer.read()
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
        raise OSError(
            f"the list {source} cannot be downloaded ({error}): download it on a machine with network access and "
            "pass the file"
        ) from error


def read_list(source: str, dataset: str | None = None) -> ImageList:
    """Read a list of a dataset of [`BENCHMARKS`], and check every line.

    Args:
        source (`str`): file or address.
        dataset (`str`, *optional*): whose list it should be; recognized by its paths where not given.

    Raises:
        ValueError: a malformed line (with its number), a path or label that cannot be the dataset's, a path twice.
        OSError: it does not exist or cannot be reached.
    """
    return parse_list(*fetch(source), dataset)


def parse_list(name: str, content: bytes, dataset: str | None = None) -> ImageList:
    """[`read_list`] on what was read already.

    Args:
        name (`str`): of the file.
        content (`bytes`): of the file.
        dataset (`str`, *optional*): whose list it should be; recognized by its paths where not given.
    """
    dataset = dataset or _guess_dataset(content)
    if dataset not in BENCHMARKS:
        raise ValueError(f"unknown dataset {dataset!r}: choose one of {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[dataset]
    if benchmark.path is None:
        with_lists = [n for n, b in BENCHMARKS.items() if b.path]
        raise ValueError(f"{dataset} has no image lists (only {', '.join(with_lists)} have)")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not a text file ({error}): pass the list, not an archive") from error
    entries = [*(_json_entries if text.lstrip().startswith("{") else _text_entries)(name, text)]
    places: dict[str, str] = {}
    folder_by_label: dict[int, str] = {}
    label_by_folder: dict[str, int] = {}
    for where, path, label in entries:
        match = re.fullmatch(benchmark.path, path, re.IGNORECASE)
        if match is None:
            other = _matching_datasets(path, BENCHMARKS)
            hint = f": is this a list of {other[0]}?" if other else ""
            raise ValueError(f"{where}: {path!r} is not a path of {dataset}, such as {benchmark.example}{hint}")
        if not 0 <= label < benchmark.num_classes:
            raise ValueError(
                f"{where}: label {label} is out of range: {dataset} has {benchmark.num_classes} classes, 0 to "
                f"{benchmark.num_classes - 1}"
            )
        folder = match["cls"]
        before = folder_by_label.setdefault(label, folder), label_by_folder.setdefault(folder, label)
        if before != (folder, label):
            raise ValueError(
                f"{where}: {path!r} has label {label}, but earlier lines give label {label} to {before[0]!r}, and "
                f"label {before[1]} to {folder!r}: use one label per folder"
            )
        if (first := places.setdefault(path, where)) != where:
            raise ValueError(f"{where}: {path!r} appears twice (first in {first}): remove one of them")
    if not entries:
        raise ValueError(f"{name} is empty: pass a list of images")
    labels = [label for _, _, label in entries]
    folders = [folder_by_label.get(label, "") for label in range(max(labels) + 1)]
    return ImageList(name, dataset, list(places), labels, folders, content)


def _guess_dataset(content: bytes) -> str:
    """The dataset whose paths a list's first line has; `ValueError` where it fits none."""
    text = content.decode("utf-8-sig", errors="replace")
    if text.lstrip().startswith("{"):
        return "inat2018"
    path = text.split("\n", 1)[0].rpartition(" ")[0]
    known = {name: benchmark for name, benchmark in BENCHMARKS.items() if benchmark.needs_list}
    if fitting := _matching_datasets(path, known):
        return fitting[0]
    wanted = ", ".join(benchmark.example for benchmark in known.values())
    line = text.split("\n", 1)[0][:80]
    raise ValueError(
        f"its first line, {line!r}, is not a path and label of a known dataset: expected paths like {wanted}"
    )


def _matching_datasets(path: str, benchmarks: Mapping[str, Benchmark]) -> list[str]:
    """The datasets that have such paths."""
    return [name for name, b in benchmarks.items() if b.path and re.fullmatch(b.path, path, re.IGNORECASE)]


def _text_entries(name: str, text: str) -> Iterator[tuple[str, str, int]]:
    for number, line in enumerate(text.splitlines(), 1):
        path, _, label = line.rpartition(" ")
        if not path or not re.fullmatch(r"-?\d+", label):
            raise ValueError(f"{name}, line {number}: {line!r} must have the form 'path label'")
        yield f"{name}, line {number}", path, int(label)


def _json_entries(name: str, text: str) -> Iterator[tuple[str, str, int]]:
    try:
        content = json.loads(text)
        files = {image["id"]: image["file_name"] for image in content["images"]}
        for number, annotation in enumerate(content["annotations"], 1):
            path, label = files[annotation["image_id"]], annotation["category_id"]
            if not isinstance(path, str) or type(label) is not int:
                raise TypeError(f"annotation {number} has file_name {path!r} and category_id {label!r}")
            yield f"{name}, annotation {number}", path, label
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{name} is not iNaturalist's JSON of images, annotations and categories ({type(error).__name__}: {error})"
        ) from error


@cache
def _imagenet() -> dict[str, str]:
    """Synsets of ImageNet's 1000 classes with their names: timm's files, read without timm, which loads torch."""
    folder = Path(str(distribution("timm").locate_file("timm/data/_info")))
    named = (folder / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8").splitlines()
    names = dict(csv.reader(named, delimiter="\t"))
    return {synset: names[synset] for synset in (folder / "imagenet_synsets.txt").read_text(encoding="utf-8").split()}


def imagenet_class_names() -> list[str]:
    """Readable names of ImageNet's 1000 classes, by id."""
    return class_names("imagenet", list(_imagenet()))


def class_names(dataset: str, folders: Sequence[str]) -> list[str]:
    """Readable names of the classes of these folders; ImageNet's synsets by their description, as timm has it."""
    if not dataset.startswith("imagenet"):
        return list(folders)
    names = [_imagenet().get(synset, synset) for synset in folders]
    return [f"{n} ({s})" if names.count(n) > 1 else n for n, s in zip(names, folders, strict=True)]


def recognize(content: bytes) -> tuple[str, str] | None:
    """Dataset and split of which this is the published list: byte by byte, or by its length in lines and bytes where
    only that is known."""
    blob, extent = git_blob_id(content), (len(content), content.count(b"\n"))
    for dataset, benchmark in BENCHMARKS.items():
        for split, published in benchmark.canonical.items() if benchmark.needs_list else ():
            if blob == published.blob or (published.blob is None and extent == (published.size, published.images)):
                return dataset, split
    return None


def differences(published: Canonical, labels: Sequence[int], num_classes: int) -> list[str]:
    """In which statistics labels differ from those of a published split; empty where in none.

    Args:
        published (`Canonical`): what is known of it.
        labels (sequence of `int`): to compare.
        num_classes (`int`): `C`.
    """
    counts = class_counts(labels, num_classes, allow_empty=True)
    pairs = {
        "images": (len(labels), published.images),
        "images of the largest class": (max(counts), published.most),
        "images of the smallest class": (min(counts), published.fewest),
        "many-shot, medium-shot and few-shot classes": (shots(counts), published.shots or shots(counts)),
    }
    return [f"{what}: {ours}, published {theirs}" for what, (ours, theirs) in pairs.items() if ours != theirs]


def tree_lists(dataset: str, root: Path, lists: Mapping[str, str], needs_train: bool = True) -> dict[str, ImageList]:
    """The lists of a benchmark by split: those of the user, and those in `root` under their official names.

    Args:
        dataset (`str`): its name.
        root (path): of the folder tree.
        lists (`dict`): file or address by split.
        needs_train (`bool`, *optional*, defaults to `True`): whether there has to be a training list, where the
            benchmark has one.

    Raises:
        ValueError: there is no training list, or one that is another split's or contradicts it.
    """
    benchmark, sources = BENCHMARKS[dataset], dict(lists)
    for split, names in benchmark.lists.items():
        official = next((root / name for name in names if (root / name).is_file()), None)
        if official:
            sources.setdefault(split, str(official))
    if benchmark.needs_list and needs_train and "train" not in sources:
        raise ValueError(
            f"{root} has no list of the {dataset} training images ({' or '.join(benchmark.lists['train'])}): put "
            "it there, or pass it with --train_list (`paco-hf data prepare`: --list)"
        )
    result = {split: read_list(source, dataset) for split, source in sources.items()}
    for split, image_list in result.items():
        known = recognize(image_list.content)
        if known and known != (dataset, split):
            raise ValueError(
                f"{image_list.name} is the {known[1]} list of {known[0]}: pass the {split} list of {dataset} instead"
            )
    for one, other in combinations(result.values(), 2):
        if both := set(one.paths) & set(other.paths):
            raise ValueError(
                f"{len(both)} images are in both {one.name} and {other.name}, such as {min(both)}: remove them "
                "from one of the two"
            )
    for image_list in result.values() if "train" in result else ():
        pairs = zip_longest(image_list.folders, result["train"].folders)
        for label, (folder, trained) in enumerate(pairs):
            if folder and folder != trained:
                raise ValueError(
                    f"{image_list.name} has {folder!r} as class {label}, which is "
                    f"{'no class' if trained is None else trained!r} in {result['train'].name}: pass lists with "
                    "the same classes"
                )
    return result
