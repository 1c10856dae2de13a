"""Files: written whole or not at all, JSON and YAML; errors that name the file."""

import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from .text import repeated


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it becomes `path` when the block ends, and goes if it fails."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_signed(path: Path, text: str) -> Path | None:
    """Write a Markdown file that people may change; what they changed is kept under another name.

    Args:
        path (`Path`): the file.
        text (`str`): its content; a comment with its checksum is added.

    Returns:
        where the former file now is, `None` where there was none, or one as it was written.
    """
    kept = None
    if is_changed(path):
        names = (path.with_name(f"{path.stem}.kept{number or ''}{path.suffix}") for number in itertools.count())
        path.rename(kept := next(name for name in names if not name.exists()))
    write_text(path, f"{text.rstrip()}\n\n{_signature(text)}\n")
    return kept


def is_changed(path: Path) -> bool:
    """Whether there is a file, and it is not as [`write_signed`] wrote it."""
    if not path.is_file():
        return False
    text, _, signature = path.read_bytes().decode(errors="replace").rstrip().rpartition("\n\n")
    return signature != _signature(text)


def _signature(text: str) -> str:
    return f"<!-- as paco-hf wrote it: {hashlib.sha256(text.rstrip().encode()).hexdigest()[:16]} -->"


def as_yaml(settings: dict[str, Any]) -> str:
    return yaml.safe_dump(settings, sort_keys=False)


class _YamlLoader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, of which YAML's own loader takes the last."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if (twice := repeated(keys)) is not None:
            raise ValueError(f"the key {twice[1]!r} appears twice: keep one of them")
        return node


def _number(loader: _YamlLoader, node: Any) -> Any:
    """A number, but not to the base of 60, as which YAML 1.1 reads what means a time."""
    if ":" in node.value:
        raise ValueError(f"{node.value} is read as a base-60 number: put it in quotes, or write the number")
    is_int = node.tag.endswith(":int")
    return loader.construct_yaml_int(node) if is_int else loader.construct_yaml_float(node)


_YamlLoader.add_constructor("tag:yaml.org,2002:int", _number)
_YamlLoader.add_constructor("tag:yaml.org,2002:float", _number)


def read_yaml(text: str) -> Any:
    """What a YAML text holds; `ValueError` where it is no YAML, or a key is there twice."""
    try:
        return yaml.load(text, _YamlLoader)
    except Exception as error:  # a tag or nesting that does not fit has an error of any type
        reason = str(error) if isinstance(error, yaml.YAMLError | ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(" ".join(reason.split())) from error


def read_text(path: Path) -> str:
    """The text of a file; `ValueError` that names it where it is no UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged or not UTF-8 ({error}): restore it, or save it as UTF-8") from error


def read_mapping(path: Path, advice: str = "restore it, or train the run again") -> dict[str, Any]:
    """The content of a JSON or YAML file, empty where there is no such file.

    Args:
        path (`Path`): the file; its suffix tells the format.
        advice (`str`, *optional*, defaults to `"restore it, or train the run again"`): what to do about a damaged one.

    Raises:
        ValueError: it is damaged, or holds no mapping; names the file.
    """
    if not path.is_file():
        return {}
    text = read_text(path)
    try:
        content = json.loads(text) if path.suffix == ".json" else read_yaml(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): {advice}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (it contains no mapping): {advice}")
    return content


def expand(path: str) -> str:
    """A path with `~` and variables of the environment such as `$HOME` filled in."""
    return os.path.expandvars(os.path.expanduser(path))


RESTORE = "restore it, or pass another checkpoint"  # what to do about a damaged file of one
TIMM_FORM = "is in timm format, which paco-hf does not read: pass the original run, or load it with `pipeline`"


def check_file(file: str | Path, advice: str) -> None:
    """`OSError` with what to give instead, where there is no such file."""
    if not Path(file).is_file():
        raise OSError(f"{file} {'is a folder' if Path(file).is_dir() else 'does not exist'}: {advice}")


def check_folder(folder: str | Path, advice: str) -> None:
    """`OSError` with what to give instead, where there is no such folder."""
    if not Path(folder).is_dir():
        raise OSError(f"{folder} {'is not a folder' if Path(folder).exists() else 'does not exist'}: {advice}")


def relative_name(path: str | Path, folder: str | Path) -> str:
    """A path from a folder on, as it is written into files: with slashes on every system."""
    return os.path.relpath(path, folder).replace(os.sep, "/")


def sorted_files(folder: Path, pattern: str) -> list[Path]:
    """The files of a pattern in an order that is the same on every system: Windows' own is without case."""
    return sorted(folder.glob(pattern), key=lambda file: file.parts)


def portable_name(text: str) -> str:
    """A name for a file or folder on every system: Windows has fewer letters, and devices with names of their own."""
    name = re.sub(r'[\x00-\x1f<>:"/\\|?*]', "-", text).rstrip(". ")
    return re.sub(r"^(con|prn|aux|nul|com\d|lpt\d)(?=\.|$)", r"\1-", name, flags=re.IGNORECASE)


def check_embeddings(file: str | Path) -> None:
    """`OSError` where there is no such file, or it is not of safetensors."""
    from safetensors import SafetensorError, safe_open

    advice = "pass a file from `paco-hf embed`"
    check_file(file, advice)
    try:
        with safe_open(file, framework="np"):
            pass
    except SafetensorError as error:
        raise OSError(f"{file} cannot be read ({error}): {advice}") from error


def hub_file_parts(address: str) -> tuple[str, str | None, str]:
    """Repository, revision and path of `hf://user/name[@revision]/path`; `ValueError` where it is no such address."""
    parts = re.fullmatch(r"hf://([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)", address)
    if parts is None:
        raise ValueError(f"{address!r} is not the URL of a file: expected hf://user/name/path/in/repository")
    return parts[1], parts[2], parts[3]


def check_source(source: str) -> None:
    """`OSError` where it is a path without a file, `ValueError` where it is an address that cannot be read."""
    if source.startswith("hf://"):
        hub_file_parts(source)
    elif "://" not in source:
        check_file(
            source,
            "pass a checkpoint file of the reference implementation, or a URL (http, https, hf://user/name/file)",
        )
    elif not source.startswith(("http://", "https://")):
        raise ValueError(
            f"{source!r} is neither a file nor a known URL: pass a file, or a URL that starts with http://, "
            "https:// or hf://"
        )


def check_output(file: str | Path, suffixes: str | tuple[str, ...] = "") -> None:
    """`ValueError` where a file cannot be written there, before there is work that would be lost.

    Args:
        file (path): to be written.
        suffixes (`str` or several, *optional*, defaults to `""`): that its name must end in.
    """
    path = Path(file)
    if not path.name.lower().endswith(suffixes):
        named = suffixes if isinstance(suffixes, str) else ", ".join(suffixes)
        raise ValueError(f"must be a file ending in {named}, got {file}")
    if path.is_dir():
        raise ValueError(f"{file} is a folder: pass the name of a file in it")
    if not path.absolute().parent.is_dir():
        raise ValueError(
            f"{file} cannot be written, because there is no folder {path.parent}: create it, or use another"
        )
    check_writable(file)


def check_new_folder(folder: str | os.PathLike) -> None:
    """`ValueError` where a folder cannot be made, or has something in it."""
    target = Path(folder).resolve()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(f"{os.fspath(folder)} exists and is not an empty folder: use another one, or remove it")
    existing = next(parent for parent in target.parents if parent.exists())
    if not existing.is_dir():
        raise ValueError(f"{os.fspath(folder)} cannot be created, because {existing} is a file: use another folder")
    check_writable(folder)


def check_writable(path: str | os.PathLike) -> None:
    """`ValueError` where nothing can be written to a path, as its folder, or its disk, is read-only."""
    target = Path(path).absolute()
    existing = next(parent for parent in (target, *target.parents) if parent.is_dir())
    if not os.access(existing, os.W_OK):
        raise ValueError(f"{os.fspath(path)} cannot be written, because {existing} is read-only: use another folder")


@contextmanager
def new_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """A folder that takes its name when the block ends, and is gone where the block fails; `ValueError` where there is
    one already with something in it."""
    check_new_folder(folder)
    target = Path(folder).resolve()
    existing = next(parent for parent in target.parents if parent.exists())
    with tempfile.TemporaryDirectory(dir=existing, prefix=f".{target.name}-") as scratch:
        made = Path(scratch) / target.name
        made.mkdir()
        yield made
        target.parent.mkdir(parents=True, exist_ok=True)
        made.rename(target)


def identity(file: str | Path) -> tuple[int | str, ...]:
    """What changes where a file is changed or replaced, even by one of its size under its time stamp.

    The time of the change of an inode cannot be set. Where there is none, it is the content that counts.
    """
    state = os.stat(file)
    if os.name == "nt" or not state.st_ino:
        with open(file, "rb") as opened:
            return (hashlib.file_digest(opened, "sha256").hexdigest(),)
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


class DiskError(OSError):
    """That a folder cannot be written, in one line that says what to do."""


@contextmanager
def disk_errors(advice: str) -> Iterator[None]:
    """Turn what libraries raise where a disk is full or read-only, each in its way, into a [`DiskError`].

    Args:
        advice (`str`): what to do.
    """
    try:
        yield
    except DiskError:
        raise
    except Exception as error:
        reason = _disk_error(error)
        if reason is None:
            raise
        raise DiskError(f"{reason}: {advice}") from error


def check_space(folder: Path, needed: int, what: str) -> None:
    """`OSError` where a folder's disk has less free space than will be written to it at least.

    Args:
        folder (`Path`): that there is.
        needed (`int`): bytes.
        what (`str`): what needs them.
    """
    if (free := shutil.disk_usage(folder).free) < needed:
        raise OSError(
            f"the disk of {folder} has {free / 1e6:.0f} MB left, but {what} needs {needed / 1e6:.0f} MB: free "
            "disk space, or choose another folder"
        )


def _disk_error(error: BaseException | None) -> str | None:
    """What is wrong with the disk, where an error or one that it comes of is about that."""
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        full = "No space left" in str(error) or number in (errno.ENOSPC, errno.EDQUOT)
        # torch's writer of archives notices only that its place in the file is another one.
        full |= "inline_container" in str(error) or "PytorchStreamWriter" in str(error)
        if full or number == errno.EROFS:
            file = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
            return f"the disk is {'full' if full else 'read-only'}{file}"
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def readable(what: str | Path, advice: str = "pass another checkpoint") -> Iterator[None]:
    """Turn whatever an unreadable file raises into an `OSError` that names it.

    Args:
        what (path): the file.
        advice (`str`, *optional*, defaults to `"give another checkpoint"`): what to do.
    """
    try:
        yield
    except Exception as error:  # torch, pickle, json and safetensors have a type for every kind of damage
        reason = str(error).partition(". ")[0]  # torch goes on with guesses
        raise OSError(
            f"{what} cannot be read ({type(error).__name__}: {reason}), as it is damaged: {advice}"
        ) from error
