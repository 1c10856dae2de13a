"""The losses as modules, with their settings and class counts."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .functional import LossTerms, at_least_float32, balanced_softmax_loss, multitask_loss, paco_loss


class ContrastiveLoss(nn.Module):
    """[`paco_loss`] or [`multitask_loss`] with fixed settings; the class counts move with the module.

    `forward(features, labels, class_logits)` returns [`LossTerms`]; the first two add up to the loss.
    """

    def __init__(self, variant: str, class_counts: Any = None, **settings: Any) -> None:
        super().__init__()
        self.function = multitask_loss if variant == "multitask" else paco_loss
        self.settings = settings
        self.register_buffer(
            "class_counts", None if class_counts is None else torch.as_tensor(class_counts), persistent=False
        )

    def forward(self, features: Tensor | Sequence[Tensor], labels: Tensor, class_logits: Tensor) -> LossTerms:
        return self.function(
            features, labels, class_logits, class_counts=self.class_counts, return_terms=True, **self.settings
        )


class ClassificationLoss(nn.Module):
    """Cross-entropy, or balanced softmax where `class_counts` is given. `forward(class_logits, labels)`: a scalar."""

    def __init__(self, class_counts: Any = None, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.register_buffer(
            "class_counts", None if class_counts is None else torch.as_tensor(class_counts), persistent=False
        )

    def forward(self, class_logits: Tensor, labels: Tensor) -> Tensor:
        if self.class_counts is None:
            return F.cross_entropy(at_least_float32(class_logits), labels, label_smoothing=self.label_smoothing)
        return balanced_softmax_loss(class_logits, labels, self.class_counts, label_smoothing=self.label_smoothing)
