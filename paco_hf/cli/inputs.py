"""Types of the flags that name files, checkpoints and data: what is not there is an error before libraries load."""

import os
from pathlib import Path

from ..data.spec import hub_id, is_published
from ..utils.text import is_repo_id


def existing_path(text: str) -> str:
    """A file or folder; `OSError` where there is none."""
    if not Path(text).exists():
        raise OSError(f"{text} does not exist")
    return text


def source_file(text: str) -> str:
    """A file or an address; `OSError` where it is a path without a file."""
    if "://" not in text and not Path(text).is_file():
        raise OSError(f"{text} does not exist, or is not a file")
    return text


def existing_list(text: str) -> str:
    """A file, folder or address; `OSError` where it is a path to nothing."""
    if "://" not in text and not Path(text).exists():
        raise OSError(f"the list {text} does not exist: give a file or an address (http, https)")
    return text


def run_folder(text: str) -> str:
    """A folder; `OSError` where there is none."""
    if not Path(text).is_dir():
        raise OSError(f"{text} is not a folder")
    return text


def checkpoint(text: str) -> str:
    """A local folder with a checkpoint, or the id of a model on the Hub; `OSError` where it can be neither."""
    if Path(text).is_dir():
        if not any(Path(text).glob("*config.json")):
            raise OSError(f"{text} has no config.json: give a run folder, or a checkpoint in one")
        return text
    reason = _unreachable("models", text) if is_repo_id(text) else "an id there is user/name"
    if reason:
        raise OSError(f"{text!r} is no local folder, and cannot be loaded from the Hub ({reason})")
    return text


def data_source(text: str) -> str:
    """A named data set, a path, an address or a Hub id; `OSError` where it can be none of them."""
    if is_published(text) or "://" in text or Path(text).exists():
        return text
    repo_id = hub_id(text)
    if repo_id is None or Path(text).suffix.lower() in (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt"):
        raise OSError(f"{text} does not exist: give a folder, a file, an address or the id of a data set on the Hub")
    if reason := _unreachable("datasets", repo_id):
        raise OSError(
            f"{text!r} is no local folder, and cannot be loaded from the Hub ({reason}). Without network give a local "
            "folder: --dataset FOLDER, or for a benchmark --dataset_path FOLDER"
        )
    return text


def _unreachable(kind: str, repo_id: str) -> str | None:
    """Why a repository on the Hub cannot be loaded, where that is known without a request; else `None`."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE:
        return None
    caches = [Path(constants.HF_HUB_CACHE) / f"{kind}--{repo_id.replace('/', '--')}"]
    if kind == "datasets":
        prepared = os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets"
        caches += Path(prepared).glob(f"{repo_id.replace('/', '___')}*")
    return None if any(map(Path.exists, caches)) else "offline, and the cache has nothing of it"
