"""Features of images from a checkpoint: as an array, as a file, as class centers to start from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from ..data.images import Images
from ..utils import files
from ..utils.tensors import read_tensors, save_tensors
from .batches import ImageFiles
from .feature_cache import cached_features, extract_features
from .load_model import load_for_inference
from .unlabeled import find_images


@dataclass
class Embeddings:
    """Features of images, as `paco-hf embed` writes them.

    Args:
        features (`(N, F)` `float32`): what the backbone gives before the classifier, not normalized.
        labels (`(N,)` `int64`, *optional*): classes of the images.
        files (list of `str`, *optional*): their names, where they are files.
        class_names (list of `str`, *optional*): names of the classes.
        errors (`dict`, *optional*): of files that could not be decoded, and have no features, what is wrong.
    """

    features: np.ndarray
    labels: np.ndarray | None = None
    files: list[str] | None = None
    class_names: list[str] | None = None
    errors: dict[str, str] | None = None

    def save(self, file: str | Path) -> None:
        """Write a safetensors file with `features` and, where they are known, `labels`; names in its metadata."""
        tensors = {"features": torch.from_numpy(self.features)}
        if self.labels is not None:
            tensors["labels"] = torch.from_numpy(self.labels)
        named = {name: value for name in ("files", "class_names", "errors") if (value := getattr(self, name))}
        save_tensors(tensors, Path(file), {name: json.dumps(value) for name, value in named.items()})

    @classmethod
    def load(cls, file: str | Path) -> "Embeddings":
        """Read what [`save`] wrote.

        Raises:
            OSError: no such file, or not safetensors.
            ValueError: there are no features `(N, F)` in it, or as many labels as features are not.
        """
        files.check_embeddings(file)
        try:
            tensors, metadata = read_tensors(file)
            names = {n: json.loads(metadata[n]) for n in ("files", "class_names", "errors") if n in metadata}
        except (SafetensorError, ValueError) as error:
            raise OSError(
                f"{file} cannot be read ({error}): it is truncated or not safetensors; write it again with `paco-hf "
                "embed`"
            ) from error
        features, labels = tensors.get("features"), tensors.get("labels")
        if features is None or features.ndim != 2 or not len(features) or not features.float().isfinite().all():
            raise ValueError(
                f"{file} must contain finite `features` (N, F), as `paco-hf embed` writes them: it has "
                f"{', '.join(f'{key} {tuple(tensor.shape)}' for key, tensor in tensors.items()) or 'nothing'}"
            )
        if labels is not None and (labels.shape != features.shape[:1] or labels.is_floating_point()):
            raise ValueError(
                f"{file} has {len(features)} features, but labels of shape {tuple(labels.shape)} and "
                f"{labels.dtype}: use one integer per row"
            )
        return cls(features.float().numpy(), None if labels is None else labels.long().numpy(), **names)


def embed_split(
    model_folder: str, split: Any, class_names: list[str], batch_size: int = 256, precision: str = "fp32"
) -> tuple[Embeddings, list[int] | None]:
    """Features of a labeled split, made by a checkpoint or a model of the Hub of the images as `predict` sees them.

    Args:
        model_folder (`str`): run folder, checkpoint or Hub id.
        split ([`paco_hf.data.images.LabeledImages`] or of prepared shards): the images.
        class_names (list of `str`): names of their classes.
        batch_size, precision (*optional*): as those of [`extract_features`].

    Returns:
        the features with labels and names of the classes; the training images of each class, where the model says so.

    Raises:
        ValueError: the split has more classes than the model.
    """
    model, processor = load_for_inference(model_folder, batch_size, precision)
    if len(class_names) > model.config.num_labels:
        raise ValueError(
            f"{split.name} has {len(class_names)} classes, but the model has {model.config.num_labels}: give data "
            "with the classes of the model"
        )
    features, _ = cached_features(model.paco, processor, Images(split), batch_size, precision)
    embeddings = Embeddings(features.astype(np.float32), np.asarray(split.labels), None, class_names)
    return embeddings, model.config.group_counts


def embed_files(
    model_folder: str,
    paths: Sequence[str | Path] | ImageFiles,
    batch_size: int = 32,
    precision: str = "fp32",
    *,
    strict: bool = False,
) -> Embeddings:
    """Features of images without labels.

    Args:
        model_folder (`str`): run folder, checkpoint or Hub id.
        paths (sequence of paths, or [`ImageFiles`]): as for [`paco_hf.inference.unlabeled.find_images`].
        batch_size, precision (*optional*): as those of [`extract_features`].
        strict (`bool`, *optional*, defaults to `False`): stop at the first image that cannot be decoded, instead of
            leaving it out.

    Returns:
        the features of the images that can be decoded; `errors` names the others.

    Raises:
        ValueError: no image can be decoded, or with `strict` one cannot; a folder has none.
        OSError: a path or the model does not exist.
    """
    images = paths if isinstance(paths, ImageFiles) else ImageFiles(find_images(paths), strict)
    model, processor = load_for_inference(model_folder, batch_size, precision)
    features = extract_features(model.paco, processor, images, "files", batch_size, precision)
    errors = {images.names[index]: message for index, message in images.errors.items()}
    return Embeddings(features, files=[name for name in images.names if name not in errors], errors=errors)


def check_output(file: str | Path) -> None:
    """`ValueError` where [`Embeddings.save`] could not write, before there is work that would be lost."""
    files.check_output(file, ".safetensors")
