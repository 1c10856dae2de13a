"""The losses as modules, with their settings and class counts."""

import pkgutil
from typing import Any

import torch
from torch import Tensor, nn

from .specs import loss_spec


class LossModule(nn.Module):
    """A loss as a module with fixed settings. Class counts move to the device with the module.

    `forward` takes the arguments of the formula (see [`LossSpec`]), and returns a scalar, or [`LossTerms`] whose sum
    is the loss.

    Args:
        loss (`str`): a key of `LOSSES`.
        class_counts (`(C,)`, *optional*): training images of each class, for the class prior.
        settings: the other keyword arguments of the formula.

    Raises:
        ValueError: there is no such loss.
    """

    def __init__(self, loss: str, class_counts: Any = None, **settings: Any) -> None:
        super().__init__()
        spec = loss_spec(loss)
        self.formula = pkgutil.resolve_name(spec.formula)
        self.settings = settings | ({"return_terms": True} if spec.return_terms else {})
        counts = None if class_counts is None else torch.as_tensor(class_counts)
        self.register_buffer("class_counts", counts, persistent=False)

    def outputs_loss(self, outputs: Any, labels: Tensor) -> Any:
        """Compute the loss from the outputs of a model.

        Args:
            outputs ([`ContrastiveOutput`] where rows are contrasted, else with `logits` `(B, C)`): of the model.
            labels (`(B,)`): classes of the images.

        Returns:
            as `forward`.
        """
        batch = getattr(outputs, "batch_features", None)
        if batch is None:
            return self(outputs.logits, labels)
        # A gradient for the queue would be thrown away.
        queue = outputs.features[len(batch) :].detach()
        return self((batch, queue), outputs.feature_labels, outputs.logits)

    def forward(self, *inputs: Any) -> Any:
        prior = {} if self.class_counts is None else {"class_counts": self.class_counts}
        return self.formula(*inputs, **prior, **self.settings)
