"""Images without labels, to classify or embed: files, folders, tables, parquet, addresses and datasets on the Hub."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from ..utils.files import expand
from ..utils.folder_contents import PassedOver, is_image_name, list_image_files, walk, walk_images
from .image_parts import EncodedRows, FileImages, ImageNames, ImagePart, ShardRows

_PACKED = (".parquet", ".tar", ".tar.gz", ".tgz")
_TABLES = (".csv", ".tsv", ".json", ".jsonl", "dataset_info.json", *_PACKED)  # known without what reads them
STREAM_WINDOW = 256  # images of prepared shards to keep encoded


@dataclass
class UnlabeledImages:
    """PIL images in RGB by index, each decoded when it is asked for.

    Args:
        parts (list of [`ImagePart`]): where they lie, in their order.
        notes (list of `str`): what the user should know.
    """

    parts: list[ImagePart] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @cached_property
    def names(self) -> ImageNames:
        """Files, or `table#row` and `table#split/row` of images that are in a table."""
        return ImageNames([*self.parts])

    def __len__(self) -> int:
        return len(self.names)

    def open(self, index: int) -> Image.Image:
        """Decode one image.

        Raises:
            ValueError: it cannot be decoded; the message names it.
        """
        part, place = self.names.place(index)
        return part.open(place)

    def add_files(self, files: Iterable[str | Path]) -> None:
        """Add image files.

        Args:
            files (iterable of paths): that there are.
        """
        if self.parts and isinstance(last := self.parts[-1], FileImages):
            last.add(files)
            self.__dict__.pop("names", None)
        else:
            self.add(FileImages(files))

    def add(self, *parts: ImagePart) -> None:
        """Add images.

        Args:
            parts ([`ImagePart`]): where they lie.
        """
        self.parts += parts
        self.__dict__.pop("names", None)


def find_images(
    paths: Sequence[str | Path], image_column: str | None = None, split: str | None = None
) -> UnlabeledImages:
    """The images that paths mean, in their order, those of a folder sorted.

    A folder with image files means all that are in it and in the folders below; other folders, tables, addresses and
    ids of datasets on the Hub are read as for training, all splits of them.

    Args:
        paths (sequence of paths): image files, folders, tables (`.csv`, `.parquet`, ...), addresses, Hub ids.
        image_column (`str`, *optional*): of the images in a table; detected where `None`.
        split (`str`, *optional*): the only split of each that is meant; folders with images are then read as for
            training, too.

    Raises:
        TypeError: `paths` is one path, or holds what is none.
        ValueError: there are no images, an empty path, a table says not where they are, or there is no such split.
        OSError: a path does not exist, or cannot be read.
    """
    if not isinstance(paths, Iterable) or isinstance(paths, str | bytes):
        raise TypeError(f"paths must be a list of paths, got {paths!r}: put a single one in a list")
    paths = list(paths)
    for path in paths:
        if not isinstance(path, str | Path):
            raise TypeError(f"paths must be text or pathlib.Path, got {path!r}")
        if not str(path).strip():
            raise ValueError(
                f"paths contains an empty path, {path!r}: pass a file or folder, or '.' for the current folder"
            )
    images = UnlabeledImages()
    for path in map(expand, map(str, paths)):
        if "://" in path:
            from ..data.sources.remote import local_copy

            with local_copy(path) as (place, remote):
                _add(images, path, Path(place), _Choice(image_column, split), remote)
        else:
            _add(images, path, Path(path), _Choice(image_column, split))
    return images


@dataclass(frozen=True)
class _Choice:
    """What is chosen of a dataset: the column of the images, and a split; `None` where it is not."""

    image_column: str | None = None
    split: str | None = None

    def chosen(self, splits: Mapping[str, Any], dataset: str) -> dict[str, Any]:
        """The splits that are meant."""
        if self.split is None:
            return dict(splits)
        if self.split not in splits:
            raise ValueError(
                f"{dataset} has no split {self.split!r}: choose one of {', '.join(map(repr, splits))} with --split"
            )
        return {self.split: splits[self.split]}


def _add(images: UnlabeledImages, path: str, here: Path, choice: _Choice, remote: Any = None) -> None:
    if here.is_dir() and _is_prepared(here):
        _add_shards(images, path, str(here), choice)
    elif choice.split is not None and not is_image_name(here.name):
        _add_rows(images, path, here, choice, remote)
    elif here.is_dir():
        has_images = holds_images(here)
        # Images that are packed are what they are beside, or the other way round, as training sees it.
        if not (has_images and _holds(here, (*_PACKED, "dataset_info.json"))) or not _add_packed(images, path, here):
            if has_images or not _holds(here, _TABLES):
                passed = PassedOver(here)
                images.add_files(list_image_files([here], passed))
                images.notes += [passed.note] if passed.note else []
            else:
                _add_rows(images, path, here, choice, remote)
    elif is_image_name(here.name):
        files = list_image_files([here])
        if choice.split is not None:
            raise ValueError(f"{path} is an image and has no split {choice.split!r}: remove --split")
        images.add_files(files)
    elif here.name.lower().endswith(_TABLES) or not os.path.lexists(here):
        _add_rows(images, path, here, choice, remote)
    else:
        from ..data.sources.archives import next_step

        if advice := next_step(here):
            raise ValueError(f"{here} is not an image: {advice}")
        images.add_files(list_image_files([here]))


def _is_prepared(folder: Path) -> bool:
    """Whether it is a folder of prepared shards; other programs call files `manifest.json`, too."""
    if not (folder / "manifest.json").is_file():
        return False
    from ..data.streaming.manifest import FORMAT

    with open(folder / "manifest.json", encoding="utf-8", errors="replace") as file:
        return FORMAT in file.read(200)


def _add_shards(images: UnlabeledImages, dataset: str, root: str, choice: _Choice) -> None:
    from ..data.streaming.manifest import Manifest
    from ..data.streaming.sharded_images import ShardedImages

    manifest = Manifest.read(root)
    manifest.check_files()
    several = len(manifest.splits) > 1
    for split in choice.chosen(manifest.splits, dataset):
        prefix = f"{dataset}#{split}/" if several else f"{dataset}#"
        images.add(ShardRows(ShardedImages(manifest, split, window=STREAM_WINDOW), prefix))


def _add_packed(images: UnlabeledImages, path: str, here: Path) -> bool:
    """Add the images that parquet or tar files of a folder have in them, if that is how the folder is read."""
    rows = UnlabeledImages()
    try:
        _add_rows(rows, path, here, _Choice())
    except (ValueError, OSError):
        return False
    if not any(isinstance(part, EncodedRows) for part in rows.parts):
        return False
    images.add(*rows.parts)
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


def _add_rows(images: UnlabeledImages, dataset: str, place: Path, choice: _Choice, remote: Any = None) -> None:
    from datasets import Image as ImageFeature

    from ..data.sources.columns import find_image_column
    from ..data.sources.file_names import FileFinder, resolve_files
    from ..data.sources.row_splits import split_by_folder, split_column
    from ..data.sources.rows import read_rows
    from ..data.sources.table_files import file_names_in
    from .parquet_rows import parquet_parts

    direct, notes = parquet_parts(dataset, place, choice.image_column)
    if direct and (choice.split is None or choice.split in direct):
        images.add(*choice.chosen(direct, dataset).values())
        images.notes += notes
        return
    columns = (choice.image_column,)
    splits, notes = read_rows(str(place) if remote else dataset, columns=columns, remote=remote)
    if choice.split is not None and len(splits) == 1 and choice.split not in splits:
        splits, by_column = split_column(splits, columns, [choice.split])
        splits = splits if by_column else split_by_folder(splits, dataset, choice.image_column, notes)
    images.notes += notes
    for split, rows in choice.chosen(splits, dataset).items():
        column = find_image_column(rows, dataset, choice.image_column, rows.finder)
        name = dataset if len(splits) == 1 else f"{dataset}#{split}"
        names = None if rows.files else file_names_in(rows, column)
        if rows.files or names is not None:
            finder = rows.finder or FileFinder(Path())
            where = f"{name} (column {column!r})"
            images.add_files(rows.files or resolve_files(finder, names or [], rows.root, where))
            continue
        encoded = rows.data.select_columns([column]).cast_column(column, ImageFeature(decode=False))
        images.add(EncodedRows(encoded, column, f"{name}{'/' if len(splits) > 1 else '#'}"))
