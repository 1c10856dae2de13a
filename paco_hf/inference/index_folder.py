"""The folder of an index of images: what is in it, and whether it can be read or written. It loads no torch."""

from pathlib import Path

from ..utils.files import check_new_folder

INDEX_FOLDER = "index"
VECTORS, PICTURES, ABOUT = "vectors.faiss", "pictures.parquet", "index.json"


def check_index(folder: Path) -> None:
    """`OSError` where there is no index."""
    if not (folder / ABOUT).is_file():
        raise OSError(f"{folder} is not an image index: create one with `paco-hf index`")


def check_new_index(folder: Path, overwrite: bool) -> None:
    """`ValueError` where an index would replace something else, or another one without `overwrite`."""
    inside = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    if folder.is_file() or (inside and not (overwrite and inside == {VECTORS, PICTURES, ABOUT})):
        raise ValueError(f"{folder} is not empty: use --overwrite, which replaces only an index, or another --output")
    if not inside:
        check_new_folder(folder)


def check_included_index(run: Path) -> None:
    """`ValueError` where a run has no index to publish."""
    if not (run / INDEX_FOLDER).is_dir():
        raise ValueError(f"{run} has no {INDEX_FOLDER}/ to include: create it with `paco-hf index {run}`")
