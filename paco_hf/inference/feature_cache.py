"""Features of images, computed; or read, where the same weights saw the same images before."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from safetensors import SafetensorError

from ..data.image_split import ImageSplit
from ..data.image_survey import split_fingerprint
from ..data.images import Images, LabeledImages
from ..models.backbones import feature_size
from ..models.modeling_paco import PaCoModel
from ..utils.files import disk_errors
from ..utils.tensors import read_tensors, save_tensors, tensors_digest
from .batches import ImageFiles, image_batches
from .forward import fast_forward, resolve_precision

_WHOLE = 1e9  # bytes; features that take more are kept in 16 bits
_CACHE = 2e10  # bytes of all that is kept, more only if what was kept last is that large
_ABANDONED = 86400.0  # seconds after which a file that is still being written is taken for one that never will be


def extract_features(
    model: PaCoModel,
    processor: Any,
    images: Any,
    name: str,
    batch_size: int = 256,
    precision: str = "fp32",
    *,
    rows: Sequence[int] | None = None,
) -> np.ndarray:
    """Features of images, in their order.

    Args:
        model (`PaCoModel`): its device is where they are computed.
        processor (image processor): makes the images ready for the model.
        images ([`paco_hf.data.images.Images`] or [`paco_hf.inference.batches.ImageFiles`]): PIL images in RGB by
            index.
        name (`str`): what they are, for the progress bar.
        batch_size (`int`, *optional*, defaults to `256`): images a batch.
        precision (`str`, *optional*, defaults to `"fp32"`): of [`paco_hf.inference.forward.fast_forward`].
        rows (sequence of `int`, *optional*): those images alone.

    Returns:
        `(N, F)` in float32; without the files that cannot be decoded, where these are left out.

    Raises:
        ValueError: no image can be decoded.
    """
    forward = fast_forward(model, precision)
    batches = image_batches(images, [processor], batch_size, f"computing features of {name}", rows=rows)
    parts = [forward(pixels).cpu() for (pixels,) in batches]
    if isinstance(images, ImageFiles):
        images.check_any()
    return torch.cat(parts).numpy()


def cached_features(
    model: PaCoModel, processor: Any, images: Images, batch_size: int, precision: str = "fp32", *, keep: bool = False
) -> tuple[np.ndarray, str]:
    """Features of images, from the cache of `datasets` where the same weights saw the same images before.

    Args:
        model (`PaCoModel`): its device is where they are computed.
        processor (image processor): makes the images ready for the model.
        images ([`Images`]): of a split.
        batch_size (`int`): images a batch.
        precision (`str`, *optional*, defaults to `"fp32"`): of [`paco_hf.inference.forward.fast_forward`].
        keep (`bool`, *optional*, defaults to `False`): store them for the next time.

    Returns:
        `(N, F)`, in the order of the images: in float32, or in float16 where they are too many; and where they are
        from, for the user to read.
    """
    # Weights and files are hashed for it once.
    file = _file(model, processor, images.split, precision) if keep or _folder().is_dir() else None

    def compute() -> np.ndarray:
        return extract_features(model, processor, images, images.split.name, batch_size, precision)

    return _stored_or(compute, file, (len(images), feature_size(model.backbone)), keep)


def cached_views(
    model: PaCoModel, processor: Any, images: Images, drawn: dict[str, Any], compute: Callable[[], np.ndarray]
) -> tuple[np.ndarray, str]:
    """Features of augmented views of images, from the same cache.

    Args:
        model, processor, images: as those of [`cached_features`].
        drawn (`dict`): all that tells these views from others: their names as `views`, the seed, ...
        compute (callable): makes the features, `(V, N, F)`.

    Returns:
        `(V, N, F)` in float32 or float16; and where they are from, for the user to read.
    """
    file = _file(model, processor, images.split, "fp32", drawn)
    return _stored_or(compute, file, (len(drawn["views"]), len(images), feature_size(model.backbone)), keep=True)


def _stored_or(
    compute: Callable[[], np.ndarray], file: Path | None, shape: tuple[int, ...], keep: bool
) -> tuple[np.ndarray, str]:
    stored = _read(file, shape) if file else None
    if stored is not None:
        return stored, "read from the cache"
    features = compute()
    # Ratios of features are what matters: float16 keeps eleven bits of each, where it reaches.
    if features.nbytes > _WHOLE and np.abs(features).max() < np.finfo(np.float16).max:
        features = features.astype(np.float16)
    if not keep or file is None:
        return features, "computed"
    try:
        with disk_errors("they will be computed again next time"):
            file.parent.mkdir(parents=True, exist_ok=True)
            tensors = {"features": torch.from_numpy(features)}
            save_tensors(tensors, file, {"digest": tensors_digest(tensors)})
    except OSError as error:
        return features, f"computed, but not cached ({error})"
    return features, f"computed{_pruned(file)}"


def stored_features(model: PaCoModel, processor: Any, images: Images, precision: str = "fp32") -> np.ndarray | None:
    """What [`cached_features`] kept of the same images, weights and input; `None` where there is nothing.

    Args:
        model, processor, images, precision: as those of [`cached_features`].
    """
    file = _file(model, processor, images.split, precision) if _folder().is_dir() else None
    return _read(file, (len(images), feature_size(model.backbone))) if file else None


def _read(file: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    if not file.is_file():
        return None
    try:
        tensors, about = read_tensors(file)
        features = tensors["features"]
    except (OSError, SafetensorError, KeyError):  # damaged: it is written anew
        return None
    intact = about.get("digest") == tensors_digest(tensors)
    if not intact or features.shape != shape or not features.isfinite().all():
        return None
    with suppress(OSError):  # a cache that is only read is not pruned either
        os.utime(file)
    return features.numpy()


def _pruned(latest: Path) -> str:
    """Remove what was read or written longest ago where the cache is too large, and say so."""
    entries, total, removed = [], 0, 0
    for file in _folder().glob("*.partial"):
        with suppress(OSError):
            if time.time() - file.stat().st_mtime > _ABANDONED:  # its process was killed
                file.unlink()
    for file in _folder().glob("*.safetensors"):  # what others are writing has another ending
        with suppress(OSError):  # another run removed it
            about = file.stat()
            entries.append((file == latest, about.st_mtime, about.st_size, file))
    for is_latest, _, size, file in sorted(entries, reverse=True):
        total += size
        if total > _CACHE and not is_latest:
            with suppress(OSError):
                file.unlink()
                removed += 1
    return f" (removed the {removed} least recently used from {_folder()}, which is full)" if removed else ""


def _folder() -> Path:
    return Path(datasets.config.HF_DATASETS_CACHE) / "paco_hf" / "features"


def _file(
    model: PaCoModel, processor: Any, split: ImageSplit, precision: str, drawn: dict[str, Any] | None = None
) -> Path | None:
    """Where features are kept; `None` for a stream, which is read but once."""
    if not isinstance(split, LabeledImages):
        return None
    config = model.config
    settings = {"backbone": config.backbone, "kwargs": config.backbone_kwargs, "input": processor.to_dict()}
    settings |= {"precision": resolve_precision(precision, model.device), **({"drawn": drawn} if drawn else {})}
    parts = (
        split_fingerprint(split),
        tensors_digest(model.state_dict()),
        json.dumps(settings, sort_keys=True, default=str),
    )
    key = hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()
    return _folder() / f"{key}.safetensors"
