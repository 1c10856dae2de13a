"""Images without labels, to classify or embed: files, folders, tables, parquet, addresses and data sets on the Hub."""

import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ..utils.files import expand
from ..utils.folder_contents import PassedOver, is_image_name, list_image_files, walk, walk_images
from ..utils.images import open_image

_PACKED = (".parquet", ".tar", ".tar.gz", ".tgz")
_TABLES = (".csv", ".tsv", ".json", ".jsonl", "dataset_info.json", *_PACKED)  # known without what reads them


@dataclass
class UnlabeledImages:
    """PIL images in RGB by index, each decoded when it is asked for.

    Args:
        names (list of `str`): files, or `table#row` and `table#split/row` of images that are in a table.
        sources (list): what each is decoded from: a path, or the row of encoded images and the column.
        notes (list of `str`): what the user should know.
    """

    names: list[str] = field(default_factory=list)
    sources: list[Any] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    def open(self, index: int) -> Image.Image:
        """Decode one image.

        Raises:
            ValueError: it cannot be decoded; the message names it.
        """
        source, name = self.sources[index], self.names[index]
        if isinstance(source, tuple):
            encoded, row, column = source
            content = encoded[row][column] or {}
            if not (source := content.get("bytes") or content.get("path")):
                raise ValueError(f"{name} is empty: replace or remove it")
        return open_image(io.BytesIO(source) if isinstance(source, bytes) else source, name)

    def add_files(self, files: Sequence[str | Path]) -> None:
        """Add image files.

        Args:
            files (sequence of paths): that there are.
        """
        self.names += map(str, files)
        self.sources += files


def find_images(paths: Sequence[str | Path], image_column: str | None = None) -> UnlabeledImages:
    """The images that paths mean, in their order, those of a folder sorted.

    A folder with image files means all that are in it and in the folders below; other folders, tables, addresses and
    ids of data sets on the Hub are read as for training, all splits of them.

    Args:
        paths (sequence of paths): image files, folders, tables (`.csv`, `.parquet`, ...), addresses, Hub ids.
        image_column (`str`, *optional*): of the images in a table; detected where `None`.

    Raises:
        TypeError: `paths` is one path, or holds what is none.
        ValueError: there are no images, an empty path, or a table says not where they are.
        OSError: a path does not exist, or cannot be read.
    """
    if not isinstance(paths, Iterable) or isinstance(paths, str | bytes):
        raise TypeError(f"paths must be a list of paths, got {paths!r}: put a single one in a list")
    paths = list(paths)
    for path in paths:
        if not isinstance(path, str | Path):
            raise TypeError(f"paths must be text or pathlib.Path, got {path!r}")
        if not str(path).strip():
            raise ValueError(f"paths has an empty one, {path!r}: give a file or folder, '.' for the current folder")
    images = UnlabeledImages()
    for path in map(expand, map(str, paths)):
        if "://" in path:
            from ..data.sources.remote import local_copy

            with local_copy(path) as (place, remote):
                _add(images, path, Path(place), image_column, remote)
        else:
            _add(images, path, Path(path), image_column)
    return images


def _add(images: UnlabeledImages, path: str, here: Path, image_column: str | None, remote: Any = None) -> None:
    if here.is_dir():
        has_images = holds_images(here)
        # Images that are packed are what they are beside, or the other way round, as training sees it.
        if not (has_images and _holds(here, (*_PACKED, "dataset_info.json"))) or not _add_packed(images, path, here):
            if has_images or not _holds(here, _TABLES):
                passed = PassedOver(here)
                images.add_files(list_image_files([here], passed))
                images.notes += [passed.note] if passed.note else []
            else:
                _add_rows(images, path, here, image_column, remote)
    elif is_image_name(here.name):
        images.add_files(list_image_files([here]))
    elif here.name.lower().endswith(_TABLES) or not os.path.lexists(here):
        _add_rows(images, path, here, image_column, remote)
    else:
        from ..data.sources.archives import next_step

        if advice := next_step(here):
            raise ValueError(f"{here} is not an image: {advice}")
        images.add_files(list_image_files([here]))


def _add_packed(images: UnlabeledImages, path: str, here: Path) -> bool:
    """Add the images that parquet or tar files of a folder have in them, if that is how the folder is read."""
    rows = UnlabeledImages()
    try:
        _add_rows(rows, path, here, None)
    except (ValueError, OSError):
        return False
    if not any(isinstance(source, tuple) for source in rows.sources):
        return False
    images.names += rows.names
    images.sources += rows.sources
    images.notes += rows.notes
    return True


def holds_images(folder: Path) -> bool:
    """Whether there is an image file in a folder, or below it."""
    return next(walk_images(folder, PassedOver(folder)), None) is not None


def check_images(path: str) -> None:
    """Whether [`find_images`] finds something there, as far as can be told at once.

    Args:
        path (`str`): that exists.

    Raises:
        ValueError: a folder has neither images nor tables; a pipe, socket or device.
        OSError: a path does not exist.
    """
    here = Path(path)
    if not here.is_dir() or not (holds_images(here) or _holds(here, _TABLES)):
        list_image_files([here])


def _holds(folder: Path, endings: tuple[str, ...]) -> bool:
    contents = walk(folder, PassedOver(folder))
    return any(file.name.lower().endswith(endings) for inside in contents for file in inside.others)


def _add_rows(
    images: UnlabeledImages, dataset: str, place: Path, image_column: str | None, remote: Any = None
) -> None:
    from datasets import Image as ImageFeature

    from ..data.sources.columns import find_image_column
    from ..data.sources.file_names import FileFinder, resolve_files
    from ..data.sources.rows import read_rows
    from ..data.sources.table_files import file_names_in

    splits, notes = read_rows(str(place) if remote else dataset, columns=(image_column,), remote=remote)
    images.notes += notes
    for split, rows in splits.items():
        column = find_image_column(rows, dataset, image_column, rows.finder)
        name = dataset if len(splits) == 1 else f"{dataset}#{split}"
        names = file_names_in(rows, column)
        if rows.files or names is not None:
            finder = rows.finder or FileFinder(Path())
            where = f"{name} (column {column!r})"
            images.add_files(rows.files or resolve_files(finder, names or [], rows.root, where))
            continue
        encoded = rows.data.select_columns([column]).cast_column(column, ImageFeature(decode=False))
        images.names += [f"{name}{'/' if len(splits) > 1 else '#'}{row}" for row in range(len(encoded))]
        images.sources += [(encoded, row, column) for row in range(len(encoded))]
