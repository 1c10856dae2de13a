"""The model to train, with the parts that the loss needs, frozen and laid out by the settings."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import set_seed

from ..arguments.training_args import PaCoTrainingArguments
from ..models.depthwise import use_wide_gradients
from ..models.modeling_contrastive import PaCoForContrastiveTraining
from ..models.modeling_paco import PaCoForImageClassification
from .optimizer import freeze_convolutions


def training_model(model: PaCoForImageClassification, args: PaCoTrainingArguments) -> PaCoForImageClassification:
    """The model with what the loss needs around it, sharing its weights.

    Args:
        model (`PaCoForImageClassification`): what is to be trained.
        args (`PaCoTrainingArguments`): the method and the training.
    """
    set_seed(args.seed)
    if args.spec.contrastive and not isinstance(model, PaCoForContrastiveTraining):
        names = ("projection_dim", "queue_size", "key_momentum", "projector", "gather_batch")
        settings = {name: getattr(args, name) for name in names}
        model = PaCoForContrastiveTraining.from_classifier(model, args.loss, queue_seed=args.seed, **settings)
    if args.trainable_convolutions is not None:
        freeze_convolutions(model.paco.backbone, args.trainable_convolutions)
    if args.device.type == "cpu" and args.bf16:
        use_wide_gradients(model.paco.backbone)
    return model.to(memory_format=torch.channels_last) if args.channels_last else model


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute inside a `with` block.

    Args:
        owner (object): with the attribute.
        name (`str`): of the attribute.
        value: inside the block.
    """
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
