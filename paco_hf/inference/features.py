"""Features of images from a checkpoint: as an array, as a file, as class centres to start from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoImageProcessor

from ..data.images import Images
from ..data.torch_datasets import EvaluationDataset, ImageCollator
from ..models.modeling_paco import PaCoModel
from ..utils.files import save_tensors
from ..utils.hardware import available_cores
from .forward import check_inference, fast_features, inference_device
from .load_model import load_classifier
from .prediction import image_files, open_files


@dataclass
class Embeddings:
    """Features of images, as `paco-hf embed` writes them.

    Args:
        features (`(N, F)` `float32`): what the backbone gives before the classifier, not normalised.
        labels (`(N,)` `int64`, *optional*): classes of the images.
        files (list of `str`, *optional*): their names, where they are files.
        class_names (list of `str`, *optional*): names of the classes.
    """

    features: np.ndarray
    labels: np.ndarray | None = None
    files: list[str] | None = None
    class_names: list[str] | None = None

    def save(self, file: str | Path) -> None:
        """Write a safetensors file with `features` and, where they are known, `labels`; names in its metadata."""
        tensors = {"features": torch.from_numpy(self.features)}
        if self.labels is not None:
            tensors["labels"] = torch.from_numpy(self.labels)
        named = {name: value for name in ("files", "class_names") if (value := getattr(self, name))}
        save_tensors(tensors, Path(file), {name: json.dumps(value) for name, value in named.items()})

    @classmethod
    def load(cls, file: str | Path) -> "Embeddings":
        """Read what [`save`] wrote.

        Raises:
            OSError: no such file, or not safetensors.
            ValueError: there are no features `(N, F)` in it, or as many labels as features are not.
        """
        if not Path(file).is_file():
            raise OSError(f"there is no file {str(file)!r} of embeddings: `paco-hf embed` writes one")
        try:
            with safe_open(file, framework="pt") as stored:
                metadata = stored.metadata() or {}
                tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
            names = {name: json.loads(metadata[name]) for name in ("files", "class_names") if name in metadata}
        except (SafetensorError, ValueError) as error:
            raise OSError(f"{file} cannot be read ({error}): truncated, or not safetensors?") from error
        features, labels = tensors.get("features"), tensors.get("labels")
        if features is None or features.ndim != 2 or not len(features) or not features.float().isfinite().all():
            raise ValueError(
                f"{file} needs `features` of finite numbers (N, F), as `paco-hf embed` writes: it has "
                f"{', '.join(f'{key} {tuple(tensor.shape)}' for key, tensor in tensors.items()) or 'nothing'}"
            )
        if labels is not None and (labels.shape != features.shape[:1] or labels.is_floating_point()):
            raise ValueError(
                f"{file} has {len(features)} features, but labels of shape {tuple(labels.shape)} and {labels.dtype}: "
                "give a whole number for each"
            )
        return cls(features.float().numpy(), None if labels is None else labels.long().numpy(), **names)


def features_of(
    model: PaCoModel, processor: Any, images: Any, name: str, batch_size: int = 256, precision: str = "fp32"
) -> np.ndarray:
    """Features `(N, F)` in float32 of images that lie behind an index (PIL, RGB), made ready by the `processor`."""
    forward = fast_features(model, precision)
    in_memory = getattr(images, "decoded", None) is not None
    loader = DataLoader(
        EvaluationDataset(images, [0] * len(images)),
        batch_size,
        num_workers=0 if in_memory else available_cores(),
        collate_fn=ImageCollator(processor),
    )
    progress = tqdm(loader, desc=f"embedding {name}", unit=" batches", disable=None if len(loader) > 1 else True)
    return torch.cat([forward(batch["pixel_values"]).cpu() for batch in progress]).numpy()


def embed_split(
    model_folder: str, split: Any, class_names: list[str], batch_size: int = 256, precision: str = "fp32"
) -> tuple[Embeddings, list[int] | None]:
    """Features of a labelled split, made by a checkpoint or a model of the Hub of the images as `predict` sees them.

    Returns:
        the features with labels and names of the classes; the training images of each class, where the model says so.

    Raises:
        ValueError: the split has more classes than the model.
    """
    check_inference(precision, batch_size)
    model = load_classifier(model_folder).to(inference_device())
    if len(class_names) > model.config.num_labels:
        raise ValueError(f"{split.name} has {len(class_names)} classes, the model {model.config.num_labels}")
    processor = AutoImageProcessor.from_pretrained(model_folder)
    features = features_of(model.paco, processor, Images(split), split.name, batch_size, precision)
    labelled = Embeddings(features, np.asarray(split.labels), None, class_names)
    return labelled, model.config.group_counts


def embed_files(
    model_folder: str, paths: Sequence[str | Path], batch_size: int = 32, precision: str = "fp32"
) -> Embeddings:
    """Features of image files and of the image files in folders.

    Raises:
        ValueError: an image cannot be decoded, or a folder has none.
        OSError: a path or the model does not exist.
    """
    check_inference(precision, batch_size)
    files = image_files(paths)
    model = load_classifier(model_folder).paco.to(inference_device())
    processor = AutoImageProcessor.from_pretrained(model_folder)
    forward = fast_features(model, precision)
    parts = [forward(pixels).cpu() for _, pixels in open_files(processor, files, batch_size, "embedding")]
    return Embeddings(torch.cat(parts).numpy(), files=[str(file) for file in files])


def check_output(file: str | Path) -> None:
    """`ValueError` where [`Embeddings.save`] could not write, before there is work that would be lost."""
    path = Path(file)
    if path.suffix != ".safetensors" or path.is_dir() or not path.absolute().parent.is_dir():
        raise ValueError(f"--output must be a file ending in .safetensors in a folder that exists, got {file}")
