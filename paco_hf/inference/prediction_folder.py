"""Where predictions are until all of them are there: names, and what is left of a former call. It loads no torch."""

from pathlib import Path

from ..utils.locks import LOCK_NAMES

FORMATS = (".csv", ".jsonl", ".parquet")
SETTINGS, FEATURES, PART = "_settings.json", "_features.npy", "part-{:08d}.parquet"


def partial_folder(output: str | Path) -> Path:
    """The folder beside the file."""
    return Path(f"{output}.partial")


def check_leftovers(output: str | Path, resume: bool, overwrite: bool) -> None:
    """`ValueError` where something is left of a former call, and it is not said what is to become of it.

    Args:
        output (path): the file to write.
        resume (`bool`): it is to be gone on with.
        overwrite (`bool`): it is to be removed.
    """
    folder = partial_folder(output)
    if resume and overwrite:
        raise ValueError("--resume and --overwrite contradict each other: use only one of them")
    inside = {file.name for file in folder.iterdir()} - {*LOCK_NAMES} if folder.is_dir() else set()
    if (folder.exists() and not folder.is_dir()) or (inside and SETTINGS not in inside):
        raise ValueError(f"{folder} exists and does not contain predictions: remove it, or use another --output")
    if inside and not (resume or overwrite):
        raise ValueError(
            f"{folder} contains partial predictions: resume with --resume, or start over with --overwrite"
        )


def clear(folder: Path) -> None:
    """Remove what is left of predictions: the settings last, as without them it is none of these."""
    files = [file for file in folder.iterdir() if file.name not in LOCK_NAMES]
    for file in sorted(files, key=lambda file: file.name == SETTINGS):
        file.unlink()
