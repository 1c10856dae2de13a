"""Tensors in safetensors files."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .files import replacing


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


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names, shapes and values of tensors, whatever their order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
