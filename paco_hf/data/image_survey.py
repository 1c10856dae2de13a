"""Looking at every image of a split once, in blocks that processes share: decoded, or its header alone. What was seen
is kept, every minute as well, so that a stop loses no more than that."""

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from tqdm.auto import tqdm

from ..utils.files import identity, write_text
from ..utils.images import PIXEL_LIMIT, ImageReadError, image_header
from ..utils.worker_pool import rows_in_blocks
from .images import LabeledImages, kept_in_memory

FULL, HEADERS = "full", "headers"
_WHOLE = "whole"  # decoded as small as can be
_BLOCK = {FULL: 32, _WHOLE: 32, HEADERS: 512}  # images
_KEEP = 60.0  # seconds after which outcomes are stored, should the process end
_VERSION = 2  # of what identifies a split


@dataclass
class Contents:
    """One split's images, by row.

    Args:
        pixels (list of `str`): a hash of the decoded image, or of what [`paco_hf.utils.images.image_header`] tells,
            with a `~` in the end where that is not all of the file; empty where the image is damaged.
        errors (`dict`): what is wrong with the damaged ones.
        sizes (list): width and height of the smallest and of the largest by area; `None`: none is whole.
        stored (`bool`, *optional*, defaults to `False`): read from what an earlier look stored.
    """

    pixels: list[str]
    errors: dict[int, str]
    sizes: list[list[int] | None]
    stored: bool = False


@dataclass
class _Look:
    """What a process needs for its blocks of rows."""

    split: LabeledImages
    depth: str
    keep: bool

    def rows(self, rows: Sequence[int]) -> list[tuple[str, list[int], str, Any]]:
        """Of each row a hash, its size, what is wrong with it, and the decoded image where it is kept."""
        return [self._header(row) if self.depth == HEADERS else self._decoded(row) for row in rows]

    def _decoded(self, row: int) -> tuple[str, list[int], str, Any]:
        try:
            image = self.split.open(row, small=self.depth == _WHOLE)
        except ImageReadError:  # it may be whole
            raise
        except ValueError as error:
            return "", [], str(error), None
        if self.depth == _WHOLE:
            return _WHOLE, [*image.size], "", None
        content = f"{image.width} {image.height} ".encode() + image.tobytes()
        return content_digest(content), [*image.size], "", np.asarray(image) if self.keep else None

    def _header(self, row: int) -> tuple[str, list[int], str, Any]:
        try:
            content = self.split.content(row)
            if content is None:
                raise ValueError(f"{self.split.called(row)} is empty; replace or remove it")
            size, mark, whole = image_header(content, partial(self.split.called, row))
        except ImageReadError:
            raise
        except ValueError as error:
            return "", [], str(error), None
        return mark + ("" if whole else "~"), [*size], "", None


@dataclass
class _Outcomes:
    """Outcomes so far, by row, some of them from a look that was stopped."""

    by_row: dict[int, tuple[str, list[int], str]] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> "_Outcomes":
        known = cls()
        with suppress(OSError):
            for line in file.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError, TypeError):  # cut off as its process ended
                    rows, hashes, sizes, errors = json.loads(line)
                    known.by_row |= dict(zip(rows, zip(hashes, sizes, errors, strict=True), strict=True))
        return known

    def append(self, file: Path, rows: Sequence[int]) -> None:
        """Store the outcomes of these rows."""
        columns = zip(*(self.by_row[row] for row in rows), strict=True)
        with suppress(OSError):  # without a place to store it the next run looks again
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8") as opened:
                opened.write(f"\n{json.dumps([[*rows], *columns])}")


def look_at(
    split: LabeledImages, depth: str = FULL, keep: bool = False, *, fingerprint: str | None = None
) -> Contents:
    """What a split's images are, or what an earlier look stored.

    Args:
        split ([`LabeledImages`]): the images.
        depth (`str`, *optional*, defaults to `"full"`): `full`: decode them; `headers`: read their headers.
        keep (`bool`, *optional*, defaults to `False`): where images are kept in memory for training, keep them as they
            are decoded, in `split.decoded`.
        fingerprint (`str`, *optional*): [`split_fingerprint`], where it is known.

    Raises:
        OSError: a process that decodes has ended.
    """
    # What is too large with one limit is not with another.
    name = f"{fingerprint or split_fingerprint(split)}{os.environ.get(PIXEL_LIMIT, '')}" + (
        "" if depth == FULL else f"-{depth}"
    )
    path = _folder() / f"{name}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        stored = json.loads(path.read_text(encoding="utf-8"))
        if len(stored["pixels"]) == len(split.labels):
            errors = {int(row): message for row, message in stored["errors"].items()}
            return Contents(stored["pixels"], errors, stored["sizes"], stored=True)
    contents = _look(split, depth, keep and _is_kept(split), path.with_suffix(".partial"))
    _store(path, {name: getattr(contents, name) for name in ("pixels", "errors", "sizes")})
    if path.is_file():
        with suppress(OSError):
            path.with_suffix(".partial").unlink(missing_ok=True)
    return contents


def scored_errors(split: LabeledImages, fingerprint: str | None = None) -> dict[int, str]:
    """What is wrong with the damaged images of a split to score on, by row: all are decoded, and kept as [`look_at`]
    keeps them; where they are not, a JPEG is decoded small.

    Args:
        split ([`LabeledImages`]): the images.
        fingerprint (`str`, *optional*): [`split_fingerprint`], where it is known.
    """
    keep = _is_kept(split)
    return look_at(split, FULL if keep else _WHOLE, keep, fingerprint=fingerprint).errors


def _is_kept(split: LabeledImages) -> bool:
    with suppress(ValueError):  # none of a few is whole, which the look finds
        return kept_in_memory(split)
    return False


def _look(split: LabeledImages, depth: str, keep: bool, partly: Path) -> Contents:
    # A file that many rows name is looked at once.
    files: Any = split_files(split) or range(len(split.labels))
    first: dict[Any, int] = {}
    for row, file in enumerate(files):
        first.setdefault(file, row)
    known = _Outcomes.read(partly)
    # Of what is kept in memory the images are needed, too.
    rows = [row for row in first.values() if keep or row not in known.by_row]
    what = f"checking images of {split.name}" + ("" if depth == FULL else " (headers)")
    kept: dict[int, np.ndarray] = {}
    unsaved: list[int] = []
    saved = time.monotonic()
    with (
        tqdm(
            desc=what, total=len(first), initial=len(first) - len(rows), leave=False, unit=" images", disable=None
        ) as progress,
        closing(rows_in_blocks(_Look.rows, _Look(split, depth, keep), rows, _BLOCK[depth])) as results,
    ):
        try:
            for block, outcomes in results:
                for row, (*outcome, image) in zip(block, outcomes, strict=True):
                    known.by_row[row] = tuple(outcome)
                    if image is not None:
                        kept[split.source_row(row)] = image
                unsaved += block
                progress.update(len(block))
                if time.monotonic() - saved > _KEEP:
                    known.append(partly, unsaved)
                    unsaved, saved = [], time.monotonic()
        except BaseException:  # Ctrl-C too: what was seen is not lost
            if unsaved:
                known.append(partly, unsaved)
            raise
    split.decoded.update(kept)
    at = [known.by_row[first[file]] for file in files]
    errors = {row: error for row, (_, _, error) in enumerate(at) if error}
    sizes = [[*size] for _, size, _ in at if size]
    extremes = [pick(sizes, key=math.prod, default=None) for pick in (min, max)]
    return Contents([pixels for pixels, _, _ in at], errors, extremes)


def files_digests(split: LabeledImages, rows: Sequence[int]) -> dict[int, str]:
    """Hashes of the whole encoded images of some rows: whether those are equal whose headers are.

    Args:
        split ([`LabeledImages`]): the images.
        rows (sequence of `int`): which are read; what was read before is not read again.
    """
    path = _folder() / f"{split_fingerprint(split)}-files.json"
    digests: dict[int, str] = {}
    with suppress(OSError, ValueError, AttributeError):
        digests = {int(row): digest for row, digest in json.loads(path.read_text(encoding="utf-8")).items()}
    missing = [row for row in rows if row not in digests]
    if not missing:
        return digests
    what, results = f"comparing files of {split.name}", rows_in_blocks(_read, split, missing, _BLOCK[HEADERS])
    with closing(results), tqdm(desc=what, total=len(missing), leave=False, unit=" images", disable=None) as progress:
        for block, hashes in results:
            digests |= dict(zip(block, hashes, strict=True))
            progress.update(len(block))
    _store(path, digests)
    return digests


def note_damaged(split: LabeledImages, rows: set[int]) -> set[int]:
    """The rows of images that turned out damaged where these images were read, in this run or in an earlier one, whose
    features of them may be kept.

    Args:
        split ([`LabeledImages`]): the images.
        rows (set of `int`): those that this run met.
    """
    path = _folder() / f"{split_fingerprint(split)}-damaged.json"
    with suppress(OSError, ValueError, TypeError):
        rows = rows | {*map(int, json.loads(path.read_text(encoding="utf-8")))}
    if rows:
        _store(path, sorted(rows))
    return rows


def _store(path: Path, content: Any) -> None:
    with suppress(OSError):  # without a place to store it the next run looks again
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(content))


def _read(split: LabeledImages, rows: Sequence[int]) -> list[str]:
    return [content_digest(split.read(row)) for row in rows]


def content_digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _folder() -> Path:
    return Path(datasets.config.HF_DATASETS_CACHE) / "paco_hf" / "surveys"


def split_files(split: LabeledImages) -> list[str] | None:
    """The file of each image, where the images are files."""
    if split.files is not None:
        return [split.files[row] for row in split.source_rows]
    first = split.encoded[0][split.image_column] or {}
    if first.get("bytes") or not os.path.isfile(first.get("path") or ""):
        return None
    return [image["path"] for image in split.encoded[split.image_column]]


def total_bytes(split: LabeledImages) -> int:
    """The bytes of all encoded images; no image is read."""
    files = split_files(split)
    if files is not None:
        return sum(map(os.path.getsize, files))
    return int(split.encoded_sizes().clip(0).sum())


def split_fingerprint(split: LabeledImages) -> str:
    """Identifies the images of a split and their order, without decoding one: by paths, sizes, times and inodes of
    files, else by the fingerprint that `datasets` keeps."""
    digest = hashlib.blake2b(f"{_VERSION} {split.name} ".encode(), digest_size=16)
    files = split_files(split)
    if files is None:
        # Private, as `datasets` names the state of a dataset nowhere else; it changes with every transformation.
        digest.update(f"{split.data._fingerprint} {split.image_column}".encode())
        return digest.hexdigest()
    identities = {file: identity(file) for file in set(files)}
    for file, path in zip(files, _absolute(files), strict=True):
        digest.update(f"{path} {identities[file]}\n".encode())
    return digest.hexdigest()


def _absolute(files: Sequence[str]) -> Iterator[str]:
    """`os.path.abspath` of files, at once for those of a folder."""
    folders: dict[str, str] = {}
    for file in files:
        folder, name = os.path.split(file)
        if name in ("", ".", ".."):
            yield os.path.abspath(file)
            continue
        if folder not in folders:
            folders[folder] = os.path.join(os.path.abspath(folder), "")
        yield folders[folder] + name
