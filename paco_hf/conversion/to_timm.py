"""A checkpoint as timm has them."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
from timm.models import get_model_args, model_entrypoint, save_for_hf
from torch import nn
from transformers import AutoModelForImageClassification, BitImageProcessor

from ..models.modeling_paco import CosineClassifier, PaCoForImageClassification
from ..utils.files import new_folder, read_mapping, write_json
from . import export_common as common

TIMM_TOLERANCE = 1e-5  # both relative to the largest logit


def export_timm(
    model: PaCoForImageClassification, folder: str | os.PathLike, *, image_processor: BitImageProcessor | None = None
) -> Path:
    """Write a checkpoint that plain timm and plain transformers load: `timm.create_model("local-dir:FOLDER",
    pretrained=True)`, the Auto classes, `pipeline("image-classification", model=FOLDER)`.

    Weights are float32. A `temperature` and an `inference_prior` of the configuration are folded into the classifier,
    so the logits are the model's. transformers loads this image processor. timm's transform has other roundings: PIL's
    resizing differs by one of 255 levels in a few values of a hundred, and where the margins of the crop are odd,
    the crop may lie one pixel further to the right or down.

    Args:
        model ([`PaCoForImageClassification`]): left as it is.
        folder (path): does not exist, or is empty.
        image_processor (`BitImageProcessor`, *optional*): the checkpoint's. `None`: as a training run would make it
            for `config.image_size`, with the mean and standard deviation of the backbone in timm.

    Returns:
        `Path` of the folder.

    Raises:
        ValueError: a backbone that timm lacks, or whose classifier is not one linear layer (a cosine classifier:
            [`paco_hf.conversion.linearize`] before); logits that are not finite, or differ by more than 1e-5 of the
            largest; a folder with something in it; an image processor that timm has no words for. Nothing is written
            then.
    """
    processor = image_processor or common.default_processor(model)
    preprocessing = timm_preprocessing(processor)
    size = preprocessing["crop_size"]
    with new_folder(folder) as made:
        reference = common.reference_model(model)
        images = common.random_images(2, size, size)
        expected = common.model_logits(reference, images)
        _save_native(native_model(reference), made, common.label_names(model), preprocessing)
        processor.save_pretrained(made)
        # Called without a name for the model: with its file open, Windows could not rename the folder.
        loaders: dict[str, Callable[[], nn.Module]] = {
            "timm": lambda: timm.create_model(f"local-dir:{made}", pretrained=True).eval(),
            "transformers": lambda: AutoModelForImageClassification.from_pretrained(made),
        }
        for loader, load in loaders.items():
            with common.quiet_logging():
                difference = common.largest_difference(expected, common.model_logits(load(), images))
            if not difference <= TIMM_TOLERANCE:
                raise ValueError(
                    f"the model loaded by {loader} differs by {difference:.1e} of the largest logit. "
                    f"{common.OTHER_ROUTES}"
                )
    return Path(folder)


def timm_preprocessing(processor: BitImageProcessor) -> dict[str, Any]:
    """An image processor in words that timm has.

    Args:
        processor (`BitImageProcessor`): of the checkpoint.

    Raises:
        ValueError: there are none.
    """
    preprocessing = common.preprocessing_settings(processor)
    if "pad_to_square" in preprocessing:
        raise ValueError(
            "images are padded with the color of their border, which timm transforms do not support: train with "
            f"--image_fit crop. {common.PADDED_ROUTES}"
        )
    return preprocessing


def native_model(model: PaCoForImageClassification) -> nn.Module:
    """The timm model with the weights of backbone and classifier.

    Raises:
        ValueError: timm lacks the backbone, or it has no linear classifier.
    """
    if isinstance(model.classifier, CosineClassifier):
        raise ValueError(
            "timm classifiers are linear, and the model has a cosine classifier: `paco_hf.conversion.linearize` "
            "converts it to a linear one with the same top-1, and `paco-hf export --to timm` fits its "
            f"temperature on images. {common.OTHER_ROUTES}"
        )
    backbone = model.paco.backbone
    architecture = backbone.pretrained_cfg["architecture"]
    if not model_entrypoint(architecture).__module__.startswith("timm."):
        raise ValueError(f"timm itself has no {architecture!r}. {common.OTHER_ROUTES}")
    try:
        arguments = {**get_model_args(backbone), "num_classes": model.config.num_labels}
        native = timm.create_model(architecture, **arguments).eval()
        head = native.get_classifier()
        if not isinstance(head, nn.Linear):
            raise TypeError(f"its classifier is a {type(head).__name__}")
        (name,) = (name for name, module in native.named_modules() if module is head)
        weights = {f"{name}.{key}": tensor for key, tensor in common.folded_classifier(model).state_dict().items()}
        native.load_state_dict({**backbone.state_dict(), **weights})
    except Exception as error:  # timm's models raise whatever they run into
        raise ValueError(
            f"timm's {architecture!r} cannot represent the model: it would need one linear layer on the pooled "
            f"features ({common.short_text(error)}). {common.OTHER_ROUTES}"
        ) from error
    return native


def _save_native(native: nn.Module, folder: Path, label_names: list[str], preprocessing: dict[str, Any]) -> None:
    size = preprocessing["crop_size"]
    try:
        save_for_hf(
            native,
            str(folder),
            safe_serialization=True,
            # The second entry sends AutoImageProcessor to preprocessor_config.json, past timm's transform.
            model_config={"label_names": label_names, "image_processor_type": "BitImageProcessor"},
            data_config={
                "input_size": (3, size, size),
                "interpolation": preprocessing["resample"],
                "mean": preprocessing["mean"],
                "std": preprocessing["std"],
                # timm resizes to floor(size / crop_pct): the quotient must not fall short of the shortest edge.
                "crop_pct": math.nextafter(size / preprocessing["shortest_edge"], 0),
                "crop_mode": "center",
            },
        )
    except RuntimeError as error:  # safetensors takes no weights that two layers share
        raise ValueError(f"timm cannot save this model ({common.short_text(error)}). {common.OTHER_ROUTES}") from error
    path = folder / "config.json"
    config = read_mapping(path)
    del config["model_args"]["num_classes"]  # it is at the top as well, and transformers would pass both on
    for key in ("tag", "license", "origin_url", "paper_name", "paper_ids"):
        config["pretrained_cfg"].pop(key, None)  # what timm knows of its own weights
    write_json(path, config)
