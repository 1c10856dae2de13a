"""A cosine classifier as a linear one, for formats that have no other."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..models.modeling_paco import CosineClassifier, PaCoForImageClassification


@torch.no_grad()
def linearize(
    model: PaCoForImageClassification, feature_length: float, temperature: float | None = None
) -> PaCoForImageClassification:
    """A copy with a linear classifier of the same top-1: `weight = scale * center / (|center| * feature_length)`, bias
    0.

    Its logits are those of the cosines times the length of the feature, divided by `feature_length`. That factor is
    one for all classes of an image, so their order is the same; probabilities are surer the longer a feature is.

    Args:
        model (`PaCoForImageClassification`): with a cosine classifier.
        feature_length (`float`): the mean length of features, above 0.
        temperature (`float`, *optional*): of the copy's configuration; that of the model does not fit its logits.

    Raises:
        ValueError: the classifier is linear, the configuration has an `inference_prior`, or the length is no positive
            number.
    """
    if not isinstance(model.classifier, CosineClassifier):
        raise ValueError("the model's classifier is already linear: use the model directly")
    if model.config.inference_prior is not None:
        raise ValueError(
            "a linear classifier cannot replace a cosine one with an inference_prior, because the weight of the "
            "prior would depend on the feature length: call `model.set_prior(None)` first, or use `paco-hf "
            "export --to onnx`, which keeps it"
        )
    if not 0 < feature_length < float("inf"):
        raise ValueError(f"feature_length must be a positive number, got {feature_length}")
    copied = copy.deepcopy(model)
    cosine: Any = copied.classifier
    linear = nn.Linear(cosine.in_features, cosine.out_features).to(cosine.weight)
    centers, scale = F.normalize(cosine.weight.cpu().double(), dim=1), cosine.scale.cpu().double()
    linear.weight.copy_((centers * (scale / feature_length)).to(linear.weight.dtype))
    nn.init.zeros_(linear.bias)
    copied.classifier = linear
    copied.config.classifier, copied.config.temperature = "linear", temperature
    copied.config.abstention = None  # which was chosen on other logits
    return copied
