"""What lies in a folder of images, and what of it is no data: hidden files, litter of other programs, files that
cannot be opened, and what this package wrote there itself. Every verb looks at folders with it."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .text import examples

IMAGE_SUFFIXES = {
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
    *(".tga", ".tif", ".tiff", ".webp"),
}
# Of cameras and drawing programs: what has nothing else is no folder of something else.
UNREAD_SUFFIXES = {".arw", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".jxl", ".nef", ".psd", ".raw", ".svg"}

# What archivers, desktops and network drives leave behind.
_LITTER_FOLDERS = {
    *("__macosx", "@eadir", "@recycle", "#recycle", "#snapshot", "@tmp", "$recycle.bin", "system volume information"),
    *("lost+found", "__pycache__"),
}
_TRACKERS = {"wandb", "mlruns", "lightning_logs", "tb_logs"}  # which log images, too
_LITTER_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}

# What runs leave, and evaluations, indexes and prepared data.
_RUN_FILES = ("recipe.yaml", "run.json", "data.json", "metrics.json", "log.jsonl", "splits.json")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "adapter_model.safetensors")
_WRITTEN_TOGETHER = (
    ("results.json", "report.html"),
    ("index.json", "vectors.faiss"),
    ("plan.json", "manifest.json"),
)

HIDDEN, LITTER, OUTPUT, EMPTY = (
    "hidden files and folders",
    "files of other programs",
    "run outputs",
    "empty folders",
)
BROKEN, SPECIAL, LOOP = (
    "dangling links",
    "pipes, sockets and devices",
    "links to folders of the same dataset",
)
_ADVICE = "pass image files, or folders with images"
UNREAD, OTHER = "images in unsupported formats", "files without an image suffix"


@dataclass
class Contents:
    """What lies right in a folder, sorted by name, without what is passed over.

    Args:
        images, others, folders (list of `Path`): image files by their suffix, other files, and folders.
    """

    images: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)


class PassedOver:
    """What is in folders and is not read, by kind; and what is in those that were looked at, which [`scan`] keeps.

    Args:
        root (path): the folder that it is named from.
    """

    def __init__(self, root: str | Path) -> None:
        self.root, self.real_root = Path(root), os.path.realpath(root)
        self.contents: dict[str, Contents] = {}
        self._names: dict[str, set[str]] = defaultdict(set)

    def add(self, kind: str, path: str | Path) -> None:
        """Take note of a path of this kind."""
        below = os.path.relpath(path, self.root)
        self._names[kind].add(os.path.basename(path) if below.startswith("..") else below)

    @property
    def note(self) -> str:
        """All of it in one line; empty where there is nothing."""
        parts = [f"{kind} ({len(names)}: {examples(sorted(names))})" for kind, names in self._names.items()]
        return f"skipped in {self.root}: {'; '.join(parts)}" if parts else ""


def scan(folder: str | Path, passed: PassedOver) -> Contents:
    """Look at a folder, without opening a file.

    Args:
        folder (path): to look at.
        passed ([`PassedOver`]): takes note of what is no data.

    Raises:
        OSError: it cannot be listed.
    """
    if (before := passed.contents.get(str(folder))) is not None:
        return before
    passed.contents[str(folder)] = contents = Contents()
    try:
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except PermissionError as error:
        raise OSError(f"the folder {folder} cannot be read: add permissions (chmod u+rx)") from error
    for entry in ordered:
        path = Path(entry.path)
        kind, reason = _kind(entry, passed.real_root)
        if not reason and kind == "folder":
            reason = _not_data(path, passed.real_root, set())
        if reason:
            passed.add(reason, path)
        elif kind == "folder":
            contents.folders.append(path)
        else:
            (contents.images if is_image_name(entry.name) else contents.others).append(path)
    return contents


def walk(folder: str | Path, passed: PassedOver) -> Iterator[Contents]:
    """What lies in a folder and in the folders below it, a folder before those in it.

    Args:
        folder (path): to look at; linked folders are looked at, too.
        passed ([`PassedOver`]): takes note of what is no data.
    """
    waiting: list[tuple[Path, frozenset[tuple[int, int]]]] = [(Path(folder), frozenset())]
    while waiting:
        inside, above = waiting.pop()
        about = inside.stat()
        if (place := (about.st_dev, about.st_ino)) in above:
            passed.add(LOOP, inside)
            continue
        yield (contents := scan(inside, passed))
        waiting += [(deeper, above | {place}) for deeper in reversed(contents.folders)]


def walk_images(folder: str | Path, passed: PassedOver) -> Iterator[Path]:
    """The image files in a folder and in the folders below it, those of a folder before those of its folders.

    Args:
        folder (path): to look at; linked folders are looked at, too.
        passed ([`PassedOver`]): takes note of what is no data, and of images that cannot be read.
    """
    for contents in walk(folder, passed):
        for other in contents.others:
            passed.add(UNREAD if is_unread_image(other.name) else OTHER, other)
        yield from contents.images


def list_image_files(paths: Sequence[str | Path], passed: PassedOver | None = None) -> list[Path]:
    """The files, and the image files in the folders, sorted within each.

    Args:
        paths (sequence of paths): files and folders.
        passed ([`PassedOver`], *optional*): takes note of what is no data.

    Raises:
        ValueError: a folder has no image files, or a path is no regular file.
        OSError: a path does not exist.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            here = PassedOver(path) if passed is None else passed
            files += (inside := list(walk_images(path, here)))
            if not inside:
                also = f" ({here.note})" if here.note else ""
                raise ValueError(f"the folder {path} has no image files{also}: {_ADVICE}")
        elif path.is_file():
            files.append(path)
        elif path.exists():
            raise ValueError(f"{path} is a pipe, a socket or a device: {_ADVICE}")
        else:
            what = "is a broken link" if path.is_symlink() else "does not exist"
            raise OSError(f"{path} {what}: {_ADVICE}")
    return files


def is_image_name(name: str) -> bool:
    """Whether a file of this name should be an image that can be read."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_unread_image(name: str) -> bool:
    """Whether a file of this name should be an image of a kind that cannot be read."""
    return os.path.splitext(name)[1].lower() in UNREAD_SUFFIXES


def _kind(entry: "os.DirEntry[str]", root: str) -> tuple[str, str]:
    """`folder` or `file`, and why it is no data, empty where it may be."""
    name = entry.name.lower()
    if name.startswith("."):
        return "", HIDDEN
    try:
        if entry.is_dir():
            reasons = {LOOP: _leads_back(entry, root), LITTER: name in _LITTER_FOLDERS, OUTPUT: name in _TRACKERS}
            return "folder", next((reason for reason, holds in reasons.items() if holds), "")
        if entry.is_file():
            return "file", LITTER if name in _LITTER_FILES else ""
    except OSError:  # a link to itself
        pass
    return "", BROKEN if entry.is_symlink() and not os.path.exists(entry.path) else SPECIAL


def _not_data(folder: Path, root: str, visited: set[tuple[int, int]]) -> str:
    """Why a folder is no data: it is an output of this package or holds nothing else, or it is empty."""
    if is_output(folder):
        return OUTPUT
    reasons = set()
    try:
        about = folder.stat()
        if (place := (about.st_dev, about.st_ino)) in visited:
            return LOOP
        visited.add(place)
        with os.scandir(folder) as entries:
            for entry in entries:
                kind, reason = _kind(entry, root)
                if not reason and kind == "folder":
                    reason = _not_data(Path(entry.path), root, visited)
                if not reason:
                    return ""
                reasons.add(reason)
    except PermissionError:
        return ""  # is refused where it is looked into
    return OUTPUT if OUTPUT in reasons else EMPTY


def _leads_back(entry: "os.DirEntry[str]", root: str) -> bool:
    """Whether a linked folder is one that is read already: in the data, and not hidden there, or above it."""
    if not entry.is_symlink():
        return False
    target = os.path.realpath(entry.path)
    common = os.path.commonpath([target, root])
    return common == target or (common == root and not any(p[0] == "." for p in Path(target).relative_to(root).parts))


def is_output(folder: Path) -> bool:
    """Whether this package, or another trainer, wrote a folder: a run, checkpoint, model, evaluation, index or
    prepared data.

    Args:
        folder (path): to look at.
    """

    def has(*names: str) -> int:
        return sum(os.path.isfile(folder / name) for name in names)

    return (
        has("trainer_state.json") > 0
        or has(*_RUN_FILES) > 1
        or (has("config.json") > 0 and has(*_WEIGHTS) > 0)
        or any(has(*names) == len(names) for names in _WRITTEN_TOGETHER)
    )
