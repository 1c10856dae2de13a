"""The installed versions of this package and its libraries: for reports, records and cards, and which are refused."""

import importlib.metadata
import platform
from contextlib import suppress
from typing import Any

from .hardware import cpu_name, gpu_names

# What results and errors depend on most.
_PACKAGES = (
    *("paco-hf", "torch", "torchvision", "transformers", "timm", "accelerate", "datasets", "huggingface-hub"),
    *("safetensors", "numpy", "pillow", "pyarrow", "peft"),
)


def versions() -> dict[str, str]:
    """The versions of what results depend on, as far as it is installed, and of Python; nothing is imported."""
    result = {}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            result[name] = importlib.metadata.version(name)
    return {**result, "python": platform.python_version()}


def system_lines() -> list[str]:
    """The versions, the operating system and the hardware, for a bug report."""
    return [*(" ".join(pair) for pair in versions().items()), platform.platform(), cpu_name(), *gpu_names()]


def check_versions(module: Any = None) -> None:
    """Refuse libraries of versions that this package does not allow, which pip installs only where it is told to.

    Args:
        module (*optional*): whose import this follows.

    Raises:
        ImportError: what is installed, and what to install.
    """
    from packaging.requirements import Requirement

    installed = versions()
    texts = (importlib.metadata.requires("paco-hf") if "paco-hf" in installed else None) or ()
    for requirement in map(Requirement, texts):
        name, wanted, marker = requirement.name, requirement.specifier, requirement.marker
        applies = name in installed and (marker is None or marker.evaluate())
        if applies and not wanted.contains(installed[name], prereleases=True):
            raise ImportError(
                f"{name} {installed[name]} is installed, but paco-hf {installed['paco-hf']} needs {name}{wanted}: pip "
                f"install '{name}{wanted}'"
            )
