"""What `predict` adds to its entries where the configuration of a model says that it should abstain."""

from typing import Any

from torch import Tensor

from ..models.abstention import abstains
from ..models.configuration_paco import PaCoConfig


def abstained_rows(logits: Tensor, config: PaCoConfig) -> list[bool]:
    """Of each image whether the model abstains.

    Args:
        logits (`Tensor` of shape `(B, C)`): of the model, as it gives them.
        config ([`PaCoConfig`]): of the model.
    """
    if config.abstention is None:
        return [False] * len(logits)
    unsure, unlike = abstains(logits, config)
    return (unsure | unlike).tolist()


def marked(entry: dict[str, Any], abstained: bool) -> dict[str, Any]:
    """An entry of an image, with `abstained` where that is so; all else stays.

    Args:
        entry (`dict`): label and score among others.
        abstained (`bool`): of [`abstained_rows`].
    """
    return {**entry, "abstained": True} if abstained else entry
