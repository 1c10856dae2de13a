"""Files: written whole or not at all, JSON, YAML and tensors; errors that name the file."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file under a temporary name, then rename it."""
    partial = path.with_suffix(".partial")
    contiguous = {key: tensor.contiguous() for key, tensor in tensors.items()}
    save_file(contiguous, partial, metadata={"format": "pt", **(metadata or {})})
    partial.replace(path)


def as_yaml(settings: dict[str, Any]) -> str:
    return yaml.safe_dump(settings, sort_keys=False)


def read_json(path: Path) -> Any:
    """The content of a JSON file, `None` where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def write_text(path: Path, text: str) -> None:
    partial = path.with_suffix(f".partial{path.suffix}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


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
