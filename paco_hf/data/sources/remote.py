"""Data at the addresses of fsspec (`hf://datasets/user/name`, `https://...`, `s3://...`): copied once, and read as
what lies on the disk."""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import fsspec
from tqdm.auto import tqdm

from ...utils.files import DiskError, disk_errors, portable_name, replacing, write_json
from ...utils.folder_contents import is_image_name

_THREADS = 8
_STATE = "state.json"  # of the files that were copied, as they were


def is_address(dataset: str) -> bool:
    """Whether it is an address, not a path."""
    return "://" in dataset


@contextmanager
def local_copy(dataset: str) -> Iterator[tuple[str, "RemoteData | None"]]:
    """The path of the copy of what is at an address, and what it was copied from; other data as it is. In the errors
    of the block the address stands in place of the path.

    Args:
        dataset (`str`): address, path or Hub id.
    """
    if not is_address(dataset) or dataset.startswith("file://"):
        yield dataset.removeprefix("file://"), None
        return
    remote = RemoteData(dataset)
    place = str(remote.copy())
    try:
        yield place, remote
    except (ValueError, OSError) as error:
        if place not in str(error):
            raise
        kind = ValueError if isinstance(error, ValueError) else OSError
        raise kind(str(error).replace(place, remote.shown)) from error


def check_address(address: str) -> None:
    """`ImportError` where the package of its file system is absent, `ValueError` where there is no such one."""
    protocol = address.split("://")[0].split("::")[-1]
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        package = re.search(r"[Ii]nstall [\"']?([\w-]+)", str(error))
        advice = f"pip install {package[1]}" if package else str(error)
        raise ImportError(f"{address} needs a package for {protocol}:// that is not installed: {advice}") from error
    except ValueError as error:
        raise ValueError(
            f"{address} uses an unknown file system ({protocol}://): use https, hf, s3, gs or another that fsspec "
            "supports, or a local copy"
        ) from error


class RemoteData:
    """A folder or file at an address, and its copy in the cache of `datasets`.

    Args:
        address (`str`): of fsspec.

    Raises:
        ImportError: the package of its file system is absent.
        ValueError: there is no such file system.
    """

    def __init__(self, address: str) -> None:
        check_address(address)
        self.address = address.rstrip("/")
        self.shown = _without_password(self.address)

    def copy(self) -> Path:
        """Copy what has changed since the last time, and give the path of the copy.

        Where the address cannot be reached, what was copied whole before is read.

        Raises:
            OSError: there is nothing, or it cannot be read, or the disk is full.
        """
        name = os.path.basename(urlsplit(self.address).path) or "data"
        parent = self.address[: -len(name)] if self.address.endswith(name) else self.address
        try:
            fs, root = fsspec.core.url_to_fs(self.address)
            is_folder = fs.isdir(root)
            if not is_folder and not fs.exists(root):
                raise FileNotFoundError
            # Addresses of the web spell names in percents.
            plain = unquote if root.startswith("http") else str
            files = {path: plain(path[len(root) :].lstrip("/")) for path in fs.find(root)} if is_folder else {root: ""}
        except FileNotFoundError as error:
            raise OSError(
                f"{self.shown} does not exist or cannot be reached: pass the URL of a folder or file"
            ) from error
        except Exception as error:  # each file system has types of its own
            for kept in (_folder(self.address), _folder(parent) / name):
                if kept.is_file() or (kept.is_dir() and (kept.parent / _STATE).is_file()):
                    print(f"{self.shown} cannot be reached: using the cached copy", file=sys.stderr)
                    return kept
            raise OSError(
                f"{self.shown} cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:300]}): "
                "pass a local copy"
            ) from error
        files = {path: below for path, below in files.items() if not any(p.startswith(".") for p in below.split("/"))}
        target = _folder(self.address) if is_folder else _folder(parent)
        self._fetch(fs, {path: target / (below or name) for path, below in files.items()}, target)
        if not is_folder:
            return target / name
        present = {target / below for below in files.values()}
        for gone in [file for file in target.rglob("*") if file.is_file() and file not in present]:
            gone.unlink()
        return target

    def copy_files(self, names: Sequence[str]) -> None:
        """Copy the files of these names, relative to the folder of a table, beside the copy of the table, save those
        that do not exist.

        Args:
            names (sequence of `str`): of images.
        """
        parent = self.address.rpartition("/")[0]
        folder = _folder(f"{parent}/")
        plain = {name: name.strip().replace("\\", "/") for name in names}
        wanted = {n: p for n, p in plain.items() if p and not os.path.isabs(p) and ".." not in p.split("/")}
        fs, root = fsspec.core.url_to_fs(parent)
        absent = [path for path in wanted.values() if not (folder / path).is_file()]
        spelled = quote if root.startswith("http") else str
        files = {f"{root.rstrip('/')}/{spelled(path)}": folder / path for path in absent}
        self._fetch(fs, files, folder, skip_missing=True)

    def _fetch(self, fs: Any, files: dict[str, Path], folder: Path, skip_missing: bool = False) -> None:
        state_file, before = folder.parent / _STATE, {}
        with suppress(OSError, ValueError):
            before = json.loads(state_file.read_text(encoding="utf-8"))

        def fetch(path: str) -> tuple[str, str]:
            target = files[path]
            try:
                about = fs.info(path)
                state = json.dumps([about.get(key) for key in _CHANGES], default=str)
                # Without a time or tag an image of the same size is taken for the same.
                is_known = any(about.get(key) for key in _CHANGES[1:]) or is_image_name(path)
                if before.get(path) != state or not is_known or not target.is_file():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with replacing(target) as partial:
                        fs.get_file(path, str(partial))
            except FileNotFoundError:
                if not skip_missing:
                    raise
                return path, ""
            return path, state

        try:
            with disk_errors(f"free space in {folder}, or set HF_DATASETS_CACHE to another folder"):
                folder.mkdir(parents=True, exist_ok=True)
                with ThreadPoolExecutor(_THREADS) as pool:
                    results = pool.map(fetch, files)
                    hidden = None if len(files) > 1 else True
                    states = dict(tqdm(results, f"copying {self.shown}", len(files), unit=" files", disable=hidden))
                write_json(state_file, before | {path: state for path, state in states.items() if state})
        except DiskError:
            raise
        except Exception as error:
            raise OSError(
                f"{self.shown} cannot be copied ({type(error).__name__}: {' '.join(str(error).split())[:300]}): "
                "run the same command again to resume; copied files are kept"
            ) from error


_CHANGES = ("size", "ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created", "blob_id", "md5")


def _folder(address: str) -> Path:
    from datasets.config import HF_DATASETS_CACHE

    name = portable_name(os.path.basename(address.rstrip("/"))) or "data"
    key = hashlib.sha256(address.encode()).hexdigest()[:16]
    return Path(HF_DATASETS_CACHE) / "paco_hf" / "remote" / key / name


def _without_password(address: str) -> str:
    host = urlsplit(address).netloc
    return address.replace(host, host.rpartition("@")[2]) if "@" in host else address
