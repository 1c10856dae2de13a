"""Settings of a training that contradict its model or data: each is refused before anything is built."""

import os
from collections.abc import Callable, Iterable, Sequence, Sized
from importlib.util import find_spec
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from transformers import EvalPrediction, get_scheduler
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from transformers.trainer_pt_utils import nested_numpify
from transformers.utils import logging

from ..arguments.defaults import default_setting
from ..arguments.training_args import PaCoTrainingArguments
from ..data.torch_datasets import WholeImages
from ..metrics import GROUPS, headline, long_tailed_accuracy
from ..models.configuration_paco import PaCoConfig
from ..models.modeling_contrastive import PaCoForContrastiveTraining
from ..models.modeling_paco import PaCoForImageClassification
from .optimizer import optimizer_and_settings

# What transformers' list of installed trackers lacks, and names of packages that are not those of their trackers.
_UNLISTED = {"azure_ml": "azureml", "flyte": "flytekit"}
_PACKAGES = {"azure_ml": "azureml-sdk", "comet_ml": "comet-ml", "flyte": "flytekit"}
_EXTRAS = ("tensorboard", "trackio", "wandb")
_WITHOUT_LOGIN = ("offline", "disabled")
# By which a model can be selected: those of classes in each group.
SCORES = [name for name, v in long_tailed_accuracy([0], [0], [1]).items() if isinstance(v, float) or name in GROUPS]

_log = logging.get_logger(__name__)


def check_training(
    model: PaCoForImageClassification, args: PaCoTrainingArguments, train_dataset: Any, batched_views: Any
) -> None:
    """Refuse what a [`PaCoTrainer`] cannot train.

    Args:
        model (`PaCoForImageClassification`): as it is handed to the trainer.
        args (`PaCoTrainingArguments`): as they are.
        train_dataset (`torch.utils.data.Dataset`, *optional*): of the training.
        batched_views (callable, *optional*): what makes views of whole images.

    Raises:
        ValueError: a model of another kind, logits that are calibrated or shifted to a prior, class counts that are
            lacking or 0, several GPUs for one process, a model in training that is of another loss, or batches that
            cannot be.
    """
    if not (hasattr(model, "paco") and hasattr(model.config, "class_counts")):
        raise ValueError(
            f"the model is a {type(model).__name__}, but a PaCoTrainer trains a PaCoForImageClassification: "
            "create one from any timm backbone with PaCoForImageClassification.from_timm(name, num_labels=...)"
        )
    if any(getattr(model.config, name) is not None for name in ("temperature", "inference_prior", "abstention")):
        raise ValueError(
            "training uses balanced logits: set temperature, inference_prior and abstention of the config to None"
        )
    check_class_counts(args, model.config)
    if args.n_gpu > 1:
        raise ValueError(
            f"one process sees {args.n_gpu} GPUs, but the queue needs one process per GPU: launch with `paco-hf train "
            f"--nproc {args.n_gpu}` or `torchrun`, or set CUDA_VISIBLE_DEVICES=0"
        )
    if isinstance(model, PaCoForContrastiveTraining) and model.spec != args.spec:
        raise ValueError(
            f"the model was created for the loss {model.spec.name!r}, but loss is {args.loss!r}: set "
            f"loss={model.spec.name!r}"
        )
    check_optimizer(model, args)
    check_queue(args)
    if isinstance(train_dataset, WholeImages) and batched_views is None:
        raise ValueError("WholeImages are bytes without views: also pass batched_views, which makes the views")
    if isinstance(train_dataset, Sized):
        check_batches(args, len(train_dataset), model)


def check_optimizer(model: PaCoForImageClassification, args: PaCoTrainingArguments) -> None:
    """Refuse an optimizer or a schedule that cannot be made, and settings that the optimizer does not look at.

    Args:
        model (`PaCoForImageClassification`): what is trained.
        args (`PaCoTrainingArguments`): as they are.

    Raises:
        ValueError, ImportError: what is wrong.
    """
    check_rates(args, any(parameter.requires_grad for parameter in model.paco.backbone.parameters()))
    options = optimizer_and_settings(args, model)[1]
    name = args.optimizer_name
    for setting in ("adam_beta1", "adam_beta2", "adam_epsilon", "optim_args"):
        if (value := getattr(args, setting)) == (default := default_setting(setting)):
            continue
        without = optimizer_and_settings(args.changed(**{setting: default}), model)[1]
        if {**options, "params": None} == {**without, "params": None}:
            raise ValueError(f"{setting}={value!r} has no effect with optim={name!r}: remove it")
    if args.optim_target_modules and not any(kind in name for kind in ("galore", "apollo")):
        raise ValueError(f"optim_target_modules={args.optim_target_modules!r} has no effect with optim={name!r}")
    if args.epoch_schedule == "none":
        trial = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        kind, settings = args.lr_scheduler_type, args.lr_scheduler_kwargs
        try:
            get_scheduler(kind, trial, args.get_warmup_steps(10), 10, scheduler_specific_kwargs=settings)
        except (TypeError, ValueError) as error:
            kind = str(getattr(kind, "value", kind))
            raise ValueError(f"lr_scheduler_type {kind!r} with lr_scheduler_kwargs {settings}: {error}") from error


def check_queue(args: PaCoTrainingArguments) -> None:
    """`ValueError` where the queue alone needs more memory than is free."""
    if not args.spec.contrastive:
        return
    # Rows are drawn, and normalized into others, on the CPU.
    needed, free = 8 * args.queue_size * (args.projection_dim + 1), psutil.virtual_memory().available
    if needed > free:
        raise ValueError(
            f"queue_size {args.queue_size:,} with projection_dim {args.projection_dim} needs {needed / 1e9:,.1f} GB "
            f"of memory, and {free / 1e9:,.1f} GB are free: lower queue_size or projection_dim"
        )


def check_packages(args: PaCoTrainingArguments) -> None:
    """Refuse trackers and an optimizer whose packages are not installed: that takes neither model nor data.

    Args:
        args (`PaCoTrainingArguments`): as they are.

    Raises:
        ValueError: an unknown tracker, one that nobody is logged in to, or settings that the optimizer does not take.
        ImportError: what to install.
    """
    installed = {*get_available_reporting_integrations(), "kubeflow"}
    installed |= {tracker for tracker, module in _UNLISTED.items() if find_spec(module)}
    for tracker in args.report_to:
        if tracker not in INTEGRATION_TO_CALLBACK:
            raise ValueError(f"report_to must be one of {', '.join(INTEGRATION_TO_CALLBACK)}, got {tracker!r}")
        if tracker not in installed:
            package = f"'paco-hf[{tracker}]'" if tracker in _EXTRAS else _PACKAGES.get(tracker, tracker)
            raise ImportError(
                f"report_to {tracker!r} needs a package that is not installed: `pip install {package}`, or remove it"
            )
    if "wandb" in args.report_to and args.process_index == 0 and os.environ.get("WANDB_MODE") not in _WITHOUT_LOGIN:
        import wandb

        try:
            wandb.login()
        except wandb.Error as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise ValueError(f"report_to 'wandb': {reason}; or set WANDB_MODE=offline to sync it later") from error
    try:
        optimizer_and_settings(args, nn.Sequential())
    except ImportError as error:
        raise ImportError(f"optim {args.optimizer_name!r}: {error}") from error
    except ValueError as error:
        if not args.optim_target_modules:  # which a model has that is not there yet
            raise ValueError(f"optim {args.optimizer_name!r}: {error}") from error


def check_rates(args: PaCoTrainingArguments, backbone_trained: bool) -> None:
    """Refuse rates of parts of the network where the head alone is trained.

    Args:
        args (`PaCoTrainingArguments`): as they are.
        backbone_trained (`bool`): whether anything of the backbone is trained.

    Raises:
        ValueError: there is such a rate, and the backbone is frozen.
    """
    if args.layer_decay is not None and not backbone_trained:
        raise ValueError(
            f"layer_decay {args.layer_decay:g} needs a trainable backbone, and the backbone is frozen: remove it, "
            "or train the backbone"
        )
    if args.head_learning_rate is not None and not backbone_trained:
        raise ValueError(
            f"head_learning_rate {args.head_learning_rate:g} needs a trainable backbone, and the backbone is "
            f"frozen: set learning_rate to {args.head_learning_rate:g} instead"
        )


def check_optimizer_covers(optimizer: Any, model: nn.Module) -> None:
    """Refuse an optimizer of the caller that lacks a part of what is trained.

    Args:
        optimizer (`torch.optim.Optimizer`, *optional*): as it is handed to the trainer.
        model (`PaCoForImageClassification`): with what the loss needs around it.

    Raises:
        ValueError: it lacks parameters.
    """
    if optimizer is None:
        return
    has = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    lacks = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in has]
    if lacks:
        raise ValueError(
            f"the optimizer is missing {len(lacks)} of the trained parameters, the first is {lacks[0]}: create it "
            "from PaCoForContrastiveTraining.from_classifier(model, loss) and pass that model, or set optim"
        )


def check_types(args: Any, train_sampler: Any, compute_loss_func: Any = None) -> None:
    """Refuse arguments and samplers that are those of other trainers.

    Args:
        args (`PaCoTrainingArguments`): as they are handed to the trainer.
        train_sampler (sampler, *optional*): likewise.
        compute_loss_func (callable, *optional*): likewise; there must be none.

    Raises:
        ValueError: they are others, with what to give instead.
    """
    if not isinstance(args, PaCoTrainingArguments):
        raise ValueError(
            f"args are {type(args).__name__}, but a PaCoTrainer needs PaCoTrainingArguments, which accept the "
            "same settings and those of the method"
        )
    if compute_loss_func is not None:
        raise ValueError(
            "compute_loss_func would not be called, because args.loss defines the loss: remove it, or override "
            "compute_loss in a subclass"
        )
    if train_sampler is not None and not hasattr(train_sampler, "set_epoch"):
        raise ValueError(
            f"train_sampler is a {type(train_sampler).__name__} without set_epoch(epoch), which a resumed run "
            "needs for the order of its epoch: add the method, or remove the sampler"
        )


def check_labels(labels: Tensor, classes: int) -> None:
    """`ValueError` where a label `(B,)` is none of `0..classes - 1`."""
    if labels.is_floating_point():
        raise ValueError(f"labels must be integers, 0 to {classes - 1}, got {labels.dtype}")
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise ValueError(
            f"a label is {int(wrong[0])}, but the model has {classes} classes, 0 to {classes - 1}: renumber the "
            "classes, or create the model with a larger num_labels"
        )


def prior_counts(args: PaCoTrainingArguments, config: PaCoConfig) -> list[int] | None:
    """The training images of each class `(C,)` that the loss takes for its prior, `None` where it has none."""
    return config.class_counts if args.class_prior and args.spec.prior != "none" else None


def check_class_counts(args: PaCoTrainingArguments, config: PaCoConfig) -> None:
    """Raise `ValueError` where a prior is lacking, or one of its classes has no image."""
    counts, need = prior_counts(args, config), args.spec.prior
    if counts is None and (need == "required" or (need == "optional" and args.class_prior)):
        raise ValueError(
            f"loss {args.loss!r} needs the training images of each class: set class_counts in the model's config "
            "(paco_hf.data.class_counts(labels, num_labels)), or class_prior=False for a contrastive loss "
            "without prior"
        )
    if counts is not None and min(counts) == 0:
        raise ValueError(
            f"class {counts.index(0)} has no training images, so it has no prior: remove the class, or add images"
        )


def check_batches(args: PaCoTrainingArguments, images: int, model: PaCoForImageClassification) -> None:
    """Refuse batches without images, and batches that are too small for BatchNorm.

    Args:
        args (`PaCoTrainingArguments`): with the size of a batch.
        images (`int`): of the training split.
        model (`PaCoForImageClassification`): with its projector, or without.

    Raises:
        ValueError: fewer images than a batch, or a last batch of one image.
    """
    batch = args.per_device_train_batch_size * args.world_size
    if args.dataloader_drop_last and images < batch:
        raise ValueError(
            f"the training split has {images} images, fewer than one batch of {batch}: lower "
            "--per_device_train_batch_size, or set --dataloader_drop_last false"
        )
    if args.dataloader_drop_last or args.world_size > 1 or images % batch != 1:
        return
    projector = args.spec.projector if args.projector == "auto" else args.projector
    fresh = args.spec.contrastive and not isinstance(model, PaCoForContrastiveTraining) and projector == "mlp2-bn"
    if fresh or any(isinstance(module, nn.BatchNorm1d) for module in model.modules()):
        raise ValueError(
            f"the last batch of {images} images in batches of {batch} has a single image, which the projector's "
            "BatchNorm cannot handle: set --dataloader_drop_last true, or another --per_device_train_batch_size"
        )


def validation_scores(predictions: Any, references: Any, config: PaCoConfig) -> dict[str, float]:
    """The numbers of [`headline`] that are defined: without class counts those that need no groups.

    Args:
        predictions (`(N,)`): class ids.
        references (`(N,)`): class ids.
        config (`PaCoConfig`): with the counts that the groups are made by.

    Returns:
        the scores by name, 0 to 1.
    """
    scores = headline(predictions, references, config)
    return {name: value for name, value in scores.items() if isinstance(value, float)}


def metric_names(
    compute_metrics: Callable[[Any], dict[str, Any]], config: PaCoConfig, preprocess: Callable | None = None
) -> list[str] | None:
    """The names of the metrics of a user's function, tried on one image of each class, classified right.

    Args:
        compute_metrics (callable): as `transformers.Trainer` takes it.
        config (`PaCoConfig`): with the classes.
        preprocess (callable, *optional*): what the logits go through before, with the labels.

    Returns:
        the names; `None`, with a warning, where it fails on these images.
    """
    classes, predictions = torch.arange(config.num_labels), torch.eye(config.num_labels) * 10
    try:
        if preprocess is not None:
            predictions = preprocess(predictions, classes)
        numbers = nested_numpify(predictions)
        return list(compute_metrics(EvalPrediction(predictions=numbers, label_ids=classes.numpy())))
    except Exception as error:  # it may count on inputs, or on the images of its dataset
        _log.warning(
            f"compute_metrics failed in a check with one image per class before training ({type(error).__name__}: "
            f"{error}): the first evaluation will show whether it returns metric_for_best_model"
        )
        return None


def check_metric(name: str | None, known: Iterable[str], sets: Sequence[str] = ()) -> None:
    """Refuse a metric to select a model by that there is not.

    Args:
        name (`str`, *optional*): of the metric, with or without `eval_`.
        known (iterable of `str`): the metrics that are computed, besides the loss.
        sets (sequence of `str`, *optional*): names of the datasets that are evaluated, where these are several.

    Raises:
        ValueError: it is none of them.
    """
    known = [*(metric.removeprefix("eval_") for metric in known), "loss"]
    if sets:
        known = [f"{data}_{metric}" for data in sets for metric in known]
    if name is not None and name.removeprefix("eval_") not in known:
        raise ValueError(f"metric_for_best_model must be one of {', '.join(known)} for these classes, got {name!r}")
