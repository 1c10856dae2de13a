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

from .calibration import fit_temperature
from .data.splits import Images
from .data.views import EvaluationDataset, ImageCollator
from .distributed import own_cores
from .inference import check_inference, fast_features, inference_device
from .modeling_paco import PaCoForImageClassification, PaCoModel
from .modeling_training import save_tensors
from .scoring import group_counts, image_files, load_classifier, open_files


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
        num_workers=0 if in_memory else own_cores(),
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
    return labelled, group_counts(model.config)


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


def start_from_centers(model: PaCoForImageClassification, embeddings: Embeddings, source: str) -> str:
    """Set the classifier to tell classes by their nearest centre, from which training then goes on.

    With centres `m_c` and their mean `m` the logits are those of Gaussians of one spherical covariance:
    `w_c = (m_c - m) / T`, `b_c = (|m|^2 - |m_c|^2) / 2T`, balanced. `T` is fitted on the embeddings where they are of
    labelled images, and such that logits vary by 1 where they are the centres themselves.

    Args:
        model (`PaCoForImageClassification`): its classifier is changed.
        embeddings ([`Embeddings`]): of labelled images, whose class means are the centres; or, without labels, the
            centres: one row a class.
        source (`str`): what they are, for messages.

    Returns:
        what was done, for the user to read.

    Raises:
        ValueError: the width is not the backbone's, a class has no image, or there is not one row a class.
    """
    features, labels = torch.from_numpy(embeddings.features).double(), embeddings.labels
    classes, width = model.classifier.weight.shape
    if features.shape[1] != width:
        raise ValueError(
            f"{source} has embeddings of width {features.shape[1]}, but {model.config.backbone!r} gives {width}: "
            "make them with this backbone"
        )
    names, own = embeddings.class_names, [model.config.id2label[label] for label in range(classes)]
    if names is not None and names != own:
        odd = next(filter(lambda pair: pair[0] != pair[1], zip(names, own, strict=False)), (len(names), classes))
        raise ValueError(f"{source} is of other classes than the data, first {odd[0]!r}, here {odd[1]!r}")
    if labels is None:
        if len(features) != classes:
            raise ValueError(
                f"{source} has {len(features)} rows without labels, but there are {classes} classes: give one row a "
                "class, in their order, or labels"
            )
        centers = features
    else:
        present = np.bincount(labels[(labels >= 0) & (labels < classes)], minlength=classes)
        if labels.min() < 0 or labels.max() >= classes or present.min() == 0:
            raise ValueError(
                f"{source} needs images of each of the {classes} classes and of no other, but has none of class "
                f"{int(present.argmin())}, or labels beyond"
            )
        index = torch.from_numpy(labels)
        centers = torch.zeros(classes, width, dtype=torch.float64).index_add_(0, index, features)
        centers /= torch.from_numpy(present)[:, None]
    middle = centers.mean(0)
    weight, bias = centers - middle, ((middle**2).sum() - (centers**2).sum(1)) / 2
    logits = features @ weight.T + bias
    if labels is None:
        temperature = float(logits.std()) or 1.0
    else:
        # What it is good for is order of magnitude; logits of one size lie in the range that the fit searches.
        scale = float(logits.std()) or 1.0
        temperature = scale * fit_temperature((logits / scale).numpy(), labels)
    with torch.no_grad():
        model.classifier.weight.copy_(weight / temperature)
        model.classifier.bias.copy_(bias / temperature)
    means = "given" if labels is None else f"the means of {len(features):,} embeddings"
    return f"class centres: {means} ({source}), divided by {temperature:.3g}"


def check_output(file: str | Path) -> None:
    """`ValueError` where [`Embeddings.save`] could not write, before there is work that would be lost."""
    path = Path(file)
    if path.suffix != ".safetensors" or path.is_dir() or not path.absolute().parent.is_dir():
        raise ValueError(f"--output must be a file ending in .safetensors in a folder that exists, got {file}")
