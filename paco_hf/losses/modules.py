"""The losses as modules, with their settings and class counts."""

import pkgutil
from typing import Any

import torch
from torch import nn

from .specs import loss_spec


class LossModule(nn.Module):
    """The formula of a loss with fixed settings; the class counts move with the module.

    `forward` takes what the formula takes (see [`LossSpec`]), and returns a scalar, or [`LossTerms`], which add up to
    the loss.

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

    def forward(self, *inputs: Any) -> Any:
        prior = {} if self.class_counts is None else {"class_counts": self.class_counts}
        return self.formula(*inputs, **prior, **self.settings)
