"""From the plan of a run to what is trained: the model, the training data and the trainer."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback, set_seed

from ..arguments.resolve import RunPlan
from ..arguments.run_arguments import RunArguments
from ..data.augmentation.batched_transforms import BatchedView, BatchedViews
from ..data.augmentation.transforms import build_view
from ..data.images import Images
from ..data.long_tail import class_counts
from ..data.samplers import StreamSampler
from ..data.streaming.manifest import LANES
from ..data.torch_datasets import EvaluationDataset, FeatureDataset, ImageCollator, ViewsDataset, WholeImages
from ..inference.features import Embeddings
from ..models.lora import add_adapter, check_targets
from ..models.modeling_paco import PaCoForImageClassification
from ..models.pretrained_backbones import BackboneSource, one_side
from ..trainer.class_centers import start_from_centers
from ..trainer.paco_trainer import PaCoTrainer
from ..utils.console import say
from .features import RunFeatures
from .prepare_data import RunData


@dataclass
class RunParts:
    """What a trainer is made of.

    Args:
        model (`PaCoForImageClassification`): as training starts.
        train_dataset (`Dataset`): the training images, as views or whole.
        batched_views (`BatchedViews`, *optional*): what makes views of whole images, a batch at a time.
        features ([`RunFeatures`], *optional*): of a frozen backbone, which training sees in place of images. They are
            computed when they are asked for; until then there is no `train_dataset`.
        seconds (`dict`, *optional*): what was done before training took, as the run's record names it.
    """

    model: PaCoForImageClassification
    train_dataset: Dataset | None
    batched_views: BatchedViews | None
    features: RunFeatures | None = None
    seconds: dict[str, float] = field(default_factory=dict)


def build(plan: RunPlan, data: RunData, model: PaCoForImageClassification) -> RunParts:
    """The model, with its class centers, and the training data of a run.

    Args:
        plan (`RunPlan`): of the run.
        data (`RunData`): its splits.
        model (`PaCoForImageClassification`): of [`build_model`].

    Raises:
        ValueError: stored class centers do not fit.
    """
    if plan.on_features:
        parts = RunParts(model, None, None, RunFeatures(plan, data, model))
    else:
        parts = RunParts(model, *build_views(plan, data.images["train"]))
    if (centers := plan.run.class_centers) not in ("random", "means"):
        line = start_from_centers(model, Embeddings.load(centers), Path(centers).name)
        say(plan.args.process_index == 0, line)
    return parts


def placeholder(plan: RunPlan, data: RunData, model: PaCoForImageClassification) -> FeatureDataset:
    """Features of no image in place of those that are not computed yet, as many and as wide.

    Args:
        plan (`RunPlan`): of the run.
        data (`RunData`): its splits.
        model (`PaCoForImageClassification`): that is to be trained on them.
    """
    labels = data.images["train"].split.labels
    features = np.zeros((1, len(labels), model.classifier.in_features), dtype=np.float32)
    return FeatureDataset([features], labels, len(plan.views))


def new_model(
    run: RunArguments, backbone: BackboneSource, backbone_kwargs: dict[str, Any], **config: Any
) -> PaCoForImageClassification:
    """A classifier with the weights that the run starts from.

    Args:
        run (`RunArguments`): where the weights are from.
        backbone (`BackboneSource`): what the backbone is built of.
        backbone_kwargs (`dict`): keyword arguments of `timm.create_model`.
        config: fields of the model's configuration.
    """
    return PaCoForImageClassification.from_timm(
        backbone.architecture,
        pretrained=run.pretrained,
        pretrained_file=run.pretrained_file or backbone.weights,
        pretrained_revision=run.backbone_revision,
        classifier_init_std=run.classifier_init_std,
        backbone_kwargs=backbone_kwargs,
        **config,
    )


def check_adapters(run: RunArguments, backbone: BackboneSource | None) -> None:
    """Refuse adapters of a backbone without linear layers, before its weights and the images are read.

    Args:
        run (`RunArguments`): with a `lora_rank`.
        backbone (`BackboneSource`, *optional*): that of `run.backbone`, where the user named one.

    Raises:
        ValueError: there is nothing to adapt, or nothing of `run.lora_targets`.
        ImportError: `peft` is not installed.
    """
    if backbone is None:
        raise ValueError(
            "--lora_rank adapts linear layers, and the default backbones are ResNets without any: choose a "
            "--backbone such as vit_small_patch16_224"
        )
    options = backbone.options | run.backbone_options
    native = (backbone.config or {}).get("input_size", (3, 224, 224))[-1]
    size = options.get("img_size") or run.image_size or native
    if (backbone.config or {}).get("fixed_input_size"):
        options.setdefault("img_size", size)
    check_targets(backbone.architecture, options, one_side(size, backbone.architecture), run.adapted_names)


def build_model(plan: RunPlan, data: RunData) -> PaCoForImageClassification:
    """The classifier, drawn from the plan's seed.

    Raises:
        ValueError: the backbone does not take images of the plan's size.
    """
    set_seed(plan.args.seed)
    run, names = plan.run, dict(enumerate(data.class_names))
    model = new_model(
        run,
        plan.backbone,
        plan.backbone_kwargs,
        image_size=run.image_size,
        id2label=names,
        label2id={name: label for label, name in names.items()},
        class_counts=class_counts(data.division.trained.labels, len(names)),
        selection_counts=data.division.data.class_counts,
        classifier=run.classifier,
        classifier_scale=run.classifier_scale,
        learn_classifier_scale=run.learn_classifier_scale,
    )
    size = model.config.image_size
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, size, size))
    except Exception as error:  # timm's models assert, or fail in whatever operation comes first
        raise ValueError(
            f"the backbone {run.backbone!r} cannot take images of {size} x {size} pixels ({error}): set "
            "--image_size, or the input size in --backbone_kwargs"
        ) from error
    if run.freeze_backbone:
        model.paco.backbone.requires_grad_(False)
    if run.lora_rank:
        add_adapter(model, run.lora_rank, run.lora_alpha, run.adapted_names)
    return model.train()


def build_views(plan: RunPlan, images: Images) -> tuple[Dataset, BatchedViews | None]:
    """The training data, and what makes views of its batches (`None`: it makes them itself)."""
    labels, seed, size, processor = images.split.labels, plan.args.seed, int(plan.run.image_size or 0), plan.processor
    pixels = None if plan.run.augment_backend == "pil" else images.pixels()
    if pixels is None:
        return ViewsDataset(images, labels, [build_view(name, size) for name in plan.views], seed), None
    views = [BatchedView(name, size) for name in plan.views]
    dataset = WholeImages(pixels, labels, seed, plan.run.view_draws or "image")
    return dataset, BatchedViews(views, processor.image_mean, processor.image_std)


def start_from_means(plan: RunPlan, data: RunData, parts: RunParts) -> str:
    """Set the classifier to the class means of the training images' features.

    Args:
        plan (`RunPlan`): of the run.
        data (`RunData`): its splits.
        parts (`RunParts`): its model, which moves to the device of the run.

    Returns:
        what was done, for the user to read.
    """
    features = parts.features or RunFeatures(plan, data, parts.model)
    return start_from_centers(parts.model, features.plain("train"), data.images["train"].split.name)


def build_trainer(
    plan: RunPlan, data: RunData, parts: RunParts, callbacks: Sequence[TrainerCallback], processes: int | None = None
) -> PaCoTrainer:
    """The trainer of a run.

    Args:
        plan (`RunPlan`): of the run.
        data (`RunData`): its splits.
        parts (`RunParts`): its model and training data.
        callbacks (sequence of `transformers.TrainerCallback`): further ones.
        processes (`int`, *optional*): that the order of a stream is made for (default: those that there are), so that
            a run has one order, also when it is resumed.

    Raises:
        ValueError: settings that contradict the model, the data or the installed packages.
    """
    if parts.train_dataset is None and parts.features:
        parts = replace(parts, train_dataset=parts.features.dataset())
    args, train, validation = plan.args, data.images["train"].split, data.images.get("validation")
    sampler = None
    if train.groups is not None:
        processes = processes or args.world_size
        share = max(args.per_device_train_batch_size * args.world_size // processes, 1)
        buffer = plan.run.shuffle_buffer * processes
        sampler = StreamSampler(train.groups, share, LANES * processes, buffer, args.order_seed)
    try:
        return PaCoTrainer(
            parts.model,
            args,
            batched_views=parts.batched_views,
            train_sampler=sampler,
            train_dataset=parts.train_dataset,
            eval_dataset=_evaluated(parts, validation) if validation else None,
            data_collator=ImageCollator(plan.processor),
            processing_class=plan.processor,
            callbacks=list(callbacks),
        )
    except RuntimeError as error:  # a tracker of --report_to that is not installed, a device that is not there
        raise ValueError(str(error)) from error


def _evaluated(parts: RunParts, validation: Images) -> Dataset:
    if parts.features is None:
        return EvaluationDataset(validation, validation.split.labels)
    return FeatureDataset([parts.features.plain("validation").features[None]], validation.split.labels)
