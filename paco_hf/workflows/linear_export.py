"""A checkpoint with a cosine classifier as one with a linear classifier: what that takes, and what it costs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..conversion.linear_classifier import linearize
from ..conversion.to_timm import native_model, timm_preprocessing
from ..data.image_split import ImageSplit
from ..data.images import Images
from ..evaluation.analysis import evaluate_logits
from ..evaluation.priors import softmax
from ..evaluation.temperature import fit_temperature, match_temperature, temperature_warning
from ..inference.feature_cache import cached_features
from ..inference.forward import inference_device
from ..inference.load_model import load_processor
from ..models.configuration_paco import PaCoConfig
from ..models.modeling_paco import PaCoForImageClassification
from .evaluation_data import load_evaluation

_BATCH = 64


@dataclass(frozen=True)
class LinearCopy:
    """A checkpoint whose cosine classifier became a linear one, and what that changes on the images of the fit.

    Attributes:
        model (`PaCoForImageClassification`): the copy.
        images (`str`): what the images are called, without folders of this computer.
        count (`int`): how many there are.
        same (`int`): how many of them have the same top-1.
        temperature (`float`): that was fitted on them.
        trained_on (`bool`): they are images to train on, so it was fitted to the probabilities of the cosine
            classifier in place of their labels.
        errors (pair of `float`): the calibration error there of the cosine classifier and of the linear one.
        lines (list of `str`): the same for the user to read.
    """

    model: PaCoForImageClassification
    images: str
    count: int
    same: int
    temperature: float
    trained_on: bool
    errors: tuple[float, float]
    lines: list[str]


def linear_copy(
    model: PaCoForImageClassification,
    folder: str,
    *,
    dataset: str | None = None,
    split: str | None = None,
    **data_fields: Any,
) -> LinearCopy:
    """A copy with a linear classifier of the same top-1 that timm can hold, its temperature fitted on images.

    Args:
        model (`PaCoForImageClassification`): with a cosine classifier; as loaded from `folder`.
        folder (`str`): run folder, checkpoint or Hub id.
        dataset (`str`, *optional*): of the images (default: what the run was trained on).
        split (`str`, *optional*): which images (default: the validation split, where there is none those trained on).
        data_fields (*optional*): other fields of the [`paco_hf.data.spec.DataSpec`].

    Returns:
        [`LinearCopy`].

    Raises:
        ValueError, OSError: a stored prior, a backbone or an input that timm lacks; the images cannot be had, or say
            nothing about a temperature.
    """
    processor = load_processor(folder)
    timm_preprocessing(processor)  # what cannot be is refused before the images are read
    native_model(linearize(model, 1.0))
    images = _load_images(folder, dataset, split, data_fields)
    if len(images.class_names) > model.config.num_labels:
        raise ValueError(
            f"{images.name} has {len(images.class_names)} classes, but {folder} has {model.config.num_labels}: "
            "pass images of the model's classes"
        )
    labels = np.asarray(images.labels)
    backbone = model.paco.to(inference_device())
    computed, _ = cached_features(backbone, processor, Images(images), _BATCH)
    features = torch.from_numpy(computed).float()
    model.to("cpu")
    length = float(features.double().norm(dim=1).mean())
    if not 0 < length < float("inf"):
        raise ValueError(
            f"the features of {images.name} have a mean length of {length}, as after a training that diverged: "
            "export another checkpoint"
        )
    copied = linearize(model, length)
    with torch.no_grad():
        cosine, linear = (one.classifier(features).numpy() for one in (model, copied))
    config = model.config
    trained_on = images.role == "train"
    if trained_on:  # their labels would only tell how well the model knows them
        temperature = match_temperature(linear, softmax(cosine / (config.temperature or 1)))
    else:
        temperature = fit_temperature(linear, labels, config.logit_counts)
    copied.config.temperature = temperature
    before = _calibration_error(cosine, labels, config, config.temperature)
    after = _calibration_error(linear, labels, config, temperature)
    same = int((cosine.argmax(axis=1) == linear.argmax(axis=1)).sum())
    fitted = (
        ("to match the checkpoint's probabilities, because these are training images")
        if trained_on
        else ("on these images")
    )
    lines = [
        images.note,
        f"converted the cosine classifier to a linear one (mean feature length {length:.4g}): {same:,} of "
        f"{len(labels):,} images of {images.name} have the same top-1 class",
        f"temperature {temperature:.3f}, fitted {fitted}: calibration error there {100 * before:.1f} -> "
        f"{100 * after:.1f}",
        temperature_warning(temperature, len(labels)),
    ]
    return LinearCopy(
        model=copied,
        images=images.public_name,
        count=len(labels),
        same=same,
        temperature=temperature,
        errors=(before, after),
        trained_on=trained_on,
        lines=list(filter(None, lines)),
    )


def _load_images(folder: str, dataset: str | None, split: str | None, data_fields: dict[str, Any]) -> ImageSplit:
    try:
        if split is None:
            try:
                return load_evaluation(folder, dataset, "validation", **data_fields)
            except ValueError:  # there is none; whatever else is wrong the training images have as well
                return load_evaluation(folder, dataset, "train", **data_fields)
        return load_evaluation(folder, dataset, split, **data_fields)
    except (ValueError, OSError) as error:
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"exporting a cosine classifier to timm needs images to fit a linear one: {error}") from error


def _calibration_error(logits: np.ndarray, labels: np.ndarray, config: PaCoConfig, temperature: float | None) -> float:
    """That of `paco-hf evaluate`."""
    results = evaluate_logits(
        logits,
        labels,
        class_names=[config.id2label[label] for label in range(config.num_labels)],
        class_counts=None,
        temperature=temperature,
        logit_counts=config.logit_counts,
        resamples=10,  # the intervals are not used
    )
    error: float = results["metrics"]["ece"]["value"]
    return error
