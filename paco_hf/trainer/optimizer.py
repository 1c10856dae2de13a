"""What an optimizer is given: which parameters are trained, and in which groups of rate and weight decay."""

from typing import Any, cast

import torch
from timm.optim import param_groups_layer_decay
from torch import nn
from transformers import Trainer

from ..arguments.training_args import PaCoTrainingArguments
from ..models.modeling_contrastive import PaCoForContrastiveTraining
from ..models.modeling_paco import SCALE_NAME, PaCoForImageClassification


def optimizer_and_settings(args: PaCoTrainingArguments, model: Any = None) -> tuple[Any, dict[str, Any]]:
    """transformers' choice of an optimizer for `args.optim`, with the method's settings and groups.

    Args:
        args (`PaCoTrainingArguments`): the optimizer and its settings.
        model (`PaCoForImageClassification`, *optional*): what is trained.

    Returns:
        class and keyword arguments; among these `params` where the method makes groups of its own.

    Raises:
        ValueError: layer-wise decay for a backbone without layers.
    """
    optimizer, settings = Trainer.get_optimizer_cls_and_kwargs(args, model)
    if optimizer is torch.optim.SGD:
        settings = {"momentum": args.momentum, "nesterov": args.nesterov, "fused": True, **settings}
    if isinstance(model, PaCoForImageClassification):
        if args.layer_decay is not None:
            settings["params"] = layer_decay_groups(model, args)
        if args.head_learning_rate is not None:
            groups = settings["params"] if args.layer_decay is not None else weight_decay_groups(model, args)
            settings["params"] = head_groups(model, groups, args)
    return optimizer, settings


def decayed_names(model: nn.Module, args: PaCoTrainingArguments) -> list[str]:
    """Names of the parameters with weight decay where there is no layer-wise decay.

    Args:
        model (`nn.Module`): what is trained.
        args (`PaCoTrainingArguments`): with `decay_all_parameters`: all but a classifier's scale; else transformers'
            usual exclusions, too.
    """
    if args.decay_all_parameters:
        names = [name for name, _ in model.named_parameters()]
    else:
        names = Trainer.get_decay_parameter_names(cast(Any, None), model)  # which does not look at the trainer
    return [name for name in names if name != SCALE_NAME]


def weight_decay_groups(model: nn.Module, args: PaCoTrainingArguments) -> list[dict[str, Any]]:
    """The trainable parameters with weight decay, and those without.

    Args:
        model (`nn.Module`): what is trained.
        args (`PaCoTrainingArguments`): `learning_rate`, `weight_decay`, `decay_all_parameters`.
    """
    decayed, groups = set(decayed_names(model, args)), []
    for is_decayed, weight_decay in ((True, args.weight_decay), (False, 0.0)):
        params = [p for name, p in model.named_parameters() if p.requires_grad and (name in decayed) is is_decayed]
        groups.append({"params": params, "lr": args.learning_rate, "weight_decay": weight_decay})
    return groups


def head_groups(
    model: PaCoForImageClassification, groups: list[dict[str, Any]], args: PaCoTrainingArguments
) -> list[dict[str, Any]]:
    """Parameter groups in which classifier and projector have a rate of their own.

    Args:
        model (`PaCoForImageClassification`): what is trained.
        groups (list of `dict`): an optimizer's groups of its parameters.
        args (`PaCoTrainingArguments`): `head_learning_rate`, `layer_decay`.

    Returns:
        the groups without classifier and projector, and theirs. The first group's rate is the one that is logged: the
        backbone's, which is `learning_rate`; with layer-wise decay, where each layer has another one, the head's.
    """
    parts = [model.classifier, *([model.projector] if isinstance(model, PaCoForContrastiveTraining) else [])]
    head = {id(parameter) for part in parts for parameter in part.parameters()}
    rate, result = {"lr": args.head_learning_rate}, []
    for is_head in (True, False) if args.layer_decay is not None else (False, True):
        for group in groups:
            params = [parameter for parameter in group["params"] if (id(parameter) in head) is is_head]
            if params:
                result.append({**group, "params": params, **(rate if is_head else {})})
    return result


class _Whole(nn.Module):
    """A backbone under its own names with classifier and projector on top: one model to timm's grouping."""

    def __init__(self, model: PaCoForImageClassification) -> None:
        super().__init__()
        backbone = model.paco.backbone
        for name, parameter in backbone.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, child in backbone.named_children():
            self.add_module(name, child)
        # Names that no backbone has, and that its patterns do not know, so that they make the topmost layer.
        self.paco_classifier = model.classifier
        if isinstance(model, PaCoForContrastiveTraining):
            self.paco_projector = model.projector
        self.group_matcher = backbone.group_matcher


def layer_decay_groups(model: PaCoForImageClassification, args: PaCoTrainingArguments) -> list[dict[str, Any]]:
    """Parameter groups whose rates fall from layer to layer towards the input, as in MAE's fine-tuning.

    Of L blocks, the input embeddings are layer 0 and block i is layer i + 1; classifier, projector and the norm after
    average pooling are layer L + 1. Layer l has `args.learning_rate * args.layer_decay ** (L + 1 - l)`. timm counts
    the layers; it keeps the norm before a class token's read-out with the last block. Unless
    `args.decay_all_parameters`, one-dimensional parameters and what the backbone exempts (position embedding, class
    token) have no weight decay.

    Args:
        model (`PaCoForImageClassification`): what is trained.
        args (`PaCoTrainingArguments`): `learning_rate`, `layer_decay`, `weight_decay`, `decay_all_parameters`.

    Returns:
        the trainable parameters as an optimizer's groups, the topmost layer first.

    Raises:
        ValueError: the backbone does not say which layers it has.
    """
    backbone = model.paco.backbone
    if not hasattr(backbone, "group_matcher"):
        raise ValueError(
            f"layer_decay {args.layer_decay} needs a backbone with layer groups (timm's group_matcher), which "
            f"{model.config.backbone!r} does not have: remove --layer_decay"
        )
    spared: Any = () if args.decay_all_parameters else getattr(backbone, "no_weight_decay", tuple)()
    spared = {*spared, f"paco_{SCALE_NAME}"}
    groups = param_groups_layer_decay(
        _Whole(model),
        weight_decay=args.weight_decay,
        no_weight_decay_list=spared,
        weight_decay_exclude_1d=not args.decay_all_parameters,
        layer_decay=args.layer_decay,
    )
    # The first group's rate is the one that is logged.
    groups.sort(key=lambda group: -group["lr_scale"])
    return [{**group, "lr": args.learning_rate * group["lr_scale"]} for group in groups]


def freeze_convolutions(backbone: nn.Module, trainable: str) -> None:
    """Freeze all convolutions of a backbone but those under a module, as the reference does on Places-LT.

    Everything else stays trainable, the affine parameters of every BatchNorm included; running statistics move.

    Args:
        backbone (`nn.Module`): a timm model.
        trainable (`str`): name of the module whose convolutions are trained, such as `layer4.2`.

    Raises:
        ValueError: there is no convolution under this name.
    """
    kinds = nn.Conv1d | nn.Conv2d | nn.Conv3d
    convolutions = {name: module for name, module in backbone.named_modules() if isinstance(module, kinds)}
    kept = {name for name in convolutions if f"{name}.".startswith(f"{trainable}.")}
    if not kept:
        raise ValueError(
            f"trainable_convolutions {trainable!r} matches no convolutions of the backbone: use a prefix such as "
            f"{next(reversed(convolutions), 'none at all')!r}"
        )
    for name in convolutions.keys() - kept:
        convolutions[name].requires_grad_(False)
