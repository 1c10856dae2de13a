"""Images without labels, to classify or embed: files, folders, tables, parquet, addresses and data sets on the Hub."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ..utils.folder_contents import PassedOver, list_image_files, walk, walk_images
from ..utils.images import open_image

_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".tar")  # known without what reads them


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
        ValueError: there are no images, or a table says not where they are.
        OSError: a path does not exist, or cannot be read.
    """
    images = UnlabeledImages()
    for path in map(str, paths):
        here = Path(path)
        if here.is_dir() and (holds_images(here) or not _holds_tables(here)):
            passed = PassedOver(here)
            images.add_files(list_image_files([here], passed))
            images.notes += [passed.note] if passed.note else []
        elif not here.is_dir() and here.suffix.lower() not in _TABLES and os.path.lexists(here):
            images.add_files(list_image_files([here]))
        else:
            _add_rows(images, path, image_column)
    return images


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
    if not here.is_dir() or not (holds_images(here) or _holds_tables(here)):
        list_image_files([here])


def _holds_tables(folder: Path) -> bool:
    for contents in walk(folder, PassedOver(folder)):
        if any(file.suffix.lower() in _TABLES or file.name == "dataset_info.json" for file in contents.others):
            return True
    return False


def _add_rows(images: UnlabeledImages, dataset: str, image_column: str | None) -> None:
    from datasets import Image as ImageFeature

    from ..data.sources.columns import find_image_column
    from ..data.sources.file_names import FileFinder, missing_files
    from ..data.sources.remote import local_copy
    from ..data.sources.rows import read_rows
    from ..data.sources.table_files import file_names_in

    with local_copy(dataset) as (place, remote):
        if remote and Path(place).is_dir() and holds_images(Path(place)):
            images.add_files(list_image_files([place]))
            return
        if remote and Path(place).suffix.lower() not in _TABLES and Path(place).is_file():
            images.add_files([place])
            return
        splits, notes = read_rows(place, columns=(image_column,), remote=remote)
        images.notes += notes
        for split, rows in splits.items():
            column = find_image_column(rows, dataset, image_column, rows.finder)
            name = dataset if len(splits) == 1 else f"{dataset}#{split}"
            names = file_names_in(rows, column)
            if rows.files or names is not None:
                finder = rows.finder or FileFinder(Path())
                files = rows.files or finder.find(names or [], rows.root)
                if None in files:
                    raise ValueError(missing_files(f"{name} (column {column!r})", names or [], files, finder))
                images.add_files([str(file) for file in files])
                continue
            encoded = rows.data.select_columns([column]).cast_column(column, ImageFeature(decode=False))
            images.names += [f"{name}{'/' if len(splits) > 1 else '#'}{row}" for row in range(len(encoded))]
            images.sources += [(encoded, row, column) for row in range(len(encoded))]
