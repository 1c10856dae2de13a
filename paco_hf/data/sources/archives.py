"""What is packed: tar files of WebDataset, folders of `save_to_disk`, and the next step for other archives."""

import tarfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ...utils.folder_contents import is_image_name
from ...utils.text import examples

_TAR, _ZIP = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"), (".zip",)
_ARCHIVES = (*_TAR, *_ZIP, ".7z", ".rar", ".gz", ".bz2", ".xz", ".zst")
_SAVED = (("dataset_dict.json",), ("dataset_info.json", "state.json"))
# What people have images or labels in, and what makes it something that is read.
_OTHER_FILES = {
    (".xlsx", ".xls", ".ods", ".numbers"): "save the sheet as CSV",
    (".txt", ".lst", ".dat"): "if it lists images and labels, save it as CSV with the header file,label",
    (".xml", ".yaml", ".yml"): "write the file and the label of each image into a CSV, with the header file,label",
    (".pkl", ".pickle", ".npy", ".npz", ".mat", ".h5", ".hdf5", ".pt", ".pth"): (
        "write its images into class folders, or with their labels into parquet (datasets.Dataset.to_parquet)"
    ),
    (".arrow", ".feather", ".orc", ".avro", ".db", ".sqlite", ".tfrecord", ".lmdb", ".mdb"): (
        "save it as parquet (datasets.Dataset.to_parquet)"
    ),
}


def is_archive(path: Path) -> bool:
    """Whether a file is packed, by its name."""
    return path.name.lower().endswith(_ARCHIVES)


def next_step(path: Path) -> str:
    """What to do with a file that is not read; empty where nothing is known of its kind.

    Args:
        path (path): the file.
    """
    name, folder = path.name.lower(), str(path)
    for suffix in sorted(_ARCHIVES, key=len, reverse=True):
        if name.endswith(suffix):
            folder = str(path)[: -len(suffix)] or "unpacked"
            break
    if name.endswith(_ZIP):
        return f"unpack it first (python -m zipfile -e {path} {folder}), then use --dataset {folder}"
    if name.endswith(_TAR):
        return f"unpack it first (mkdir {folder}; tar -xf {path} -C {folder}), then use --dataset {folder}"
    if is_archive(path):
        return f"unpack it first into a folder such as {folder}, then pass the folder as --dataset"
    return next((advice for suffixes, advice in _OTHER_FILES.items() if name.endswith(suffixes)), "")


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` of `datasets` wrote this folder."""
    return any(all((folder / name).is_file() for name in names) for names in _SAVED)


def load_saved(folder: Path) -> Any:
    """What `save_to_disk` wrote.

    Raises:
        OSError: it is damaged.
    """
    from datasets import DatasetDict, load_from_disk

    try:
        saved = load_from_disk(str(folder))
    except Exception as error:  # json, pyarrow and datasets have types of their own for every kind of damage
        raise OSError(
            f"{folder} cannot be read as a dataset of save_to_disk ({type(error).__name__}: "
            f"{' '.join(str(error).split())}): save it again"
        ) from error
    return saved if isinstance(saved, DatasetDict) else DatasetDict(train=saved)


def is_webdataset(path: Path) -> bool:
    """Whether a tar file has samples as WebDataset writes them: files of one name with several suffixes, of which one
    is of an image.

    Args:
        path (path): of a file.

    Raises:
        OSError: it is damaged.
    """
    if not path.name.lower().endswith(_TAR):
        return False
    try:
        with tarfile.open(path) as archive:
            names = [member.name for member in islice((one for one in archive if one.isfile()), 20)]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise OSError(f"{path} is truncated or not a tar file ({error}): download it again") from error
    samples: dict[str, set[str]] = {}
    for name in names:
        head, _, base = name.rpartition("/")
        key, _, suffix = base.partition(".")
        samples.setdefault(f"{head}/{key}", set()).add(suffix)
    paired = [kinds for kinds in samples.values() if len(kinds) > 1]
    return bool(paired) and any(is_image_name(f"x.{kind}") for kind in paired[0])


def load_webdataset(files: Sequence[Path]) -> Any:
    """The samples of tar files of one split.

    Args:
        files (sequence of paths): of WebDataset.

    Raises:
        OSError: a file is damaged, or samples differ in what they have.
    """
    from datasets import load_dataset

    try:
        data = load_dataset("webdataset", data_files={"train": [str(file) for file in files]}, split="train")
    except Exception as error:  # datasets wraps whatever its readers raise
        reason = error.__cause__ or error
        raise OSError(
            f"{examples([*files])} cannot be read as WebDataset ({type(reason).__name__}: "
            f"{' '.join(str(reason).split())}): download the shards again, or unpack them"
        ) from error
    data = data.remove_columns([name for name in data.column_names if name.startswith("__")])
    # What a sample's JSON says, as columns.
    data = data.flatten()
    plain = {name: name.removeprefix("json.") for name in data.column_names if name.startswith("json.")}
    return data.rename_columns({name: short for name, short in plain.items() if short not in data.column_names})
