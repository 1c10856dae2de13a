"""What exports to timm and to ONNX share."""

import contextlib
import copy
import io
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image
from timm.data import resolve_data_config
from torch import Tensor, nn
from transformers import BitImageProcessor

from ..models.image_processing import build_processor
from ..models.image_processing_paco import PaCoImageProcessor
from ..models.modeling_paco import CosineClassifier, PaCoForImageClassification

_CHECKPOINT = "The checkpoint itself loads where this package is installed (`import paco_hf`) or with "
OTHER_ROUTES = f"{_CHECKPOINT}`trust_remote_code=True`, and `paco-hf export --to onnx` needs neither"
PADDED_ROUTES = (
    f"{_CHECKPOINT}`trust_remote_code=True`, and then pads; `paco-hf export --to onnx` needs neither, but you "
    "must pad the images as `preprocessing` in the metadata of the file describes"
)


def default_processor(model: PaCoForImageClassification) -> BitImageProcessor:
    """The image processor of a training run for the model's image size, with the backbone's mean and deviation."""
    statistics = resolve_data_config({}, model=model.paco.backbone)
    return build_processor(model.config.image_size, statistics["mean"], statistics["std"])


def preprocessing_settings(processor: BitImageProcessor) -> dict[str, Any]:
    """An image processor in words that need no transformers."""
    fields = processor.to_dict()
    crop = fields["crop_size"]
    steps = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
    if "shortest_edge" not in fields["size"] or crop["height"] != crop["width"] or not all(map(fields.get, steps)):
        raise ValueError(
            "the image processor must resize the shortest edge, center-crop a square, rescale and normalize to "
            f"be exported, got {fields}"
        )
    padded = isinstance(processor, PaCoImageProcessor)
    return {
        **({"pad_to_square": "median color of the border"} if padded else {}),
        "shortest_edge": fields["size"]["shortest_edge"],
        "resample": Image.Resampling(fields["resample"]).name.lower(),
        "crop_size": crop["height"],
        "rescale_factor": fields["rescale_factor"],
        "mean": list(fields["image_mean"]),
        "std": list(fields["image_std"]),
    }


def label_names(model: PaCoForImageClassification) -> list[str]:
    """The names of the classes, in the order of their ids."""
    return [model.config.id2label[i] for i in range(model.config.num_labels)]


def reference_model(model: PaCoForImageClassification) -> Any:
    """A copy to compare with and to export: float32, on the CPU, in evaluation mode."""
    copied = copy.deepcopy(model).to(device="cpu", dtype=torch.float32).eval()
    copied.config.return_dict, copied.config.output_hidden_states = True, False
    return copied


class ShiftedCosine(nn.Module):
    """A cosine classifier whose logits a constant is added to.

    Args:
        classifier ([`CosineClassifier`]): it.
        shift (`Tensor` of shape `(C,)`): what is added.
    """

    def __init__(self, classifier: CosineClassifier, shift: Tensor) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_buffer("shift", shift)

    def forward(self, features: Tensor) -> Tensor:
        """
        Args:
            features (`Tensor` of shape `(B, F)`): of the backbone.

        Returns:
            `(B, C)` logits.
        """
        logits: Tensor = self.classifier(features) + self.shift
        return logits


def folded_classifier(model: PaCoForImageClassification) -> nn.Module:
    """The classifier, with the configuration's temperature and prior in its weights."""
    classifier = copy.deepcopy(model.classifier)
    with torch.no_grad():
        if isinstance(classifier, CosineClassifier):
            classifier.scale.div_(model.config.temperature or 1)
            return ShiftedCosine(classifier, model.adjust_logits(torch.zeros(model.config.num_labels)))
        classifier.weight.div_(model.config.temperature or 1)
        classifier.bias.copy_(model.adjust_logits(classifier.bias))
    return classifier


def logit_shift(logits: Tensor, prior: Tensor) -> Tensor:
    """`(B, C)` balanced logits for class frequencies `(C,)` of any scale."""
    return logits + (prior / prior.sum()).log()


def random_images(batch: int, height: int, width: int) -> Tensor:
    """`(batch, 3, height, width)` standard normal values, the same at each call.

    Args:
        batch (`int`): number of images.
        height (`int`): in pixels.
        width (`int`): in pixels.
    """
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def model_logits(model: Any, images: Tensor, prior: Tensor | None = None) -> Tensor:
    """The logits of a model, whosever it is.

    Args:
        model (`nn.Module`): gives logits, or an output that has them.
        images (`Tensor` of shape `(B, 3, H, W)`): normalized images.
        prior (`Tensor` of shape `(C,)`, *optional*): class frequencies to adapt the logits to.

    Raises:
        ValueError: the model does not take images of this size, or its logits are not finite.
    """
    try:
        with torch.no_grad():
            output = model(images)
    except Exception as error:  # timm's models assert, or fail in whatever operation comes first
        height, width = images.shape[2:]
        raise ValueError(
            f"the model does not accept images of {height} x {width} pixels ({short_text(error)})"
        ) from error
    logits = output if isinstance(output, Tensor) else output.logits
    if not logits.isfinite().all():
        raise ValueError("the model's logits are not finite, as after a diverged training: export another checkpoint")
    return logits if prior is None else logit_shift(logits, prior)


def largest_difference(expected: Tensor, actual: Tensor) -> float:
    """The largest absolute difference, relative to the largest absolute value that was expected."""
    scale = expected.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return float((actual - expected).abs().max() / scale)


def short_text(error: Exception) -> str:
    """The message of an error in one line."""
    return " ".join(str(error).split())[:300]


@contextlib.contextmanager
def quiet_logging() -> Iterator[None]:
    """Nothing that libraries print or warn of is shown."""
    sink = io.StringIO()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
