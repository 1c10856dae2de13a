"""Files: written whole or not at all, JSON, YAML and tensors; errors that name the file."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it becomes `path` when the block ends, and goes if it fails."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all. Equal content makes equal files.

    Args:
        tensors (`dict`): by name.
        path (`Path`): of the file.
        metadata (`dict`, *optional*): strings by name, for its header.
    """
    contiguous = {key: tensor.contiguous() for key, tensor in tensors.items()}
    with replacing(path) as partial:
        save_file(contiguous, partial, metadata={"format": "pt", **(metadata or {})})
        # safetensors writes metadata in an order that differs from run to run; sorted, they take as many bytes.
        with open(partial, "r+b") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
            file.seek(8)
            file.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length))


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file by name, and the strings in its header."""
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118


def first_difference(expected: dict[str, Tensor], tensors: dict[str, Tensor]) -> str | None:
    """The first name that only one of two states has, or whose tensors differ in shape; `None` where they fit."""
    names = sorted(expected.keys() ^ tensors.keys())
    return next(iter(names or [key for key in expected if expected[key].shape != tensors[key].shape]), None)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def as_yaml(settings: dict[str, Any]) -> str:
    return yaml.safe_dump(settings, sort_keys=False)


def read_text(path: Path) -> str:
    """The text of a file; `ValueError` that names it where it is no UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def read_mapping(path: Path, advice: str = "restore it, or train the run anew") -> dict[str, Any]:
    """The content of a JSON or YAML file, empty where there is no such file.

    Args:
        path (`Path`): the file; its suffix tells the format.
        advice (`str`, *optional*, defaults to `"restore it, or train the run anew"`): what to do about a damaged one.

    Raises:
        ValueError: it is damaged, or holds no mapping; names the file.
    """
    if not path.is_file():
        return {}
    text = read_text(path)
    try:
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is damaged ({' '.join(str(error).split())}): {advice}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (it holds no mapping): {advice}")
    return content


@contextmanager
def new_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """A folder that takes its name when the block ends, and is gone where the block fails; `ValueError` where there is
    one already with something in it."""
    target = Path(folder).resolve()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(f"{os.fspath(folder)} exists and is not an empty folder: name another one, or remove it")
    existing = next(parent for parent in target.parents if parent.exists())
    if not existing.is_dir():
        raise ValueError(f"{os.fspath(folder)} cannot be made: {existing} is a file")
    with tempfile.TemporaryDirectory(dir=existing, prefix=f".{target.name}-") as scratch:
        made = Path(scratch) / target.name
        made.mkdir()
        yield made
        target.parent.mkdir(parents=True, exist_ok=True)
        made.rename(target)


@contextmanager
def readable(what: str | Path) -> Iterator[None]:
    """Turn whatever an unreadable file raises into an `OSError` that names it."""
    try:
        yield
    except Exception as error:  # torch, pickle, json and safetensors have a type for every kind of damage
        raise OSError(
            f"{what} cannot be read ({type(error).__name__}: {error}): truncated? Resume from another checkpoint"
        ) from error
