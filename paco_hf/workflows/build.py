"""Backbone, model, image processor, views and trainer of a run."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data import resolve_data_config
from torch.utils.data import Dataset
from transformers import BitImageProcessor

from ..arguments.arguments import RunArguments
from ..arguments.auto_settings import suggested_settings
from ..arguments.training_args import PaCoTrainingArguments
from ..data.augmentation.batched_transforms import BatchedView, BatchedViews, batched_obstacle
from ..data.augmentation.transforms import build_view
from ..data.images import ImageData, Images
from ..data.samplers import LANES, StreamSampler
from ..data.torch_datasets import ViewsDataset, WholeImages
from ..inference.features import Embeddings, extract_features
from ..models.image_processing import SMALL_IMAGE, build_processor
from ..models.lora import add_adapter
from ..models.modeling_paco import PaCoForImageClassification
from ..models.pretrained_backbones import BackboneSource, find_backbone, one_side
from ..trainer.class_centers import start_from_centers
from ..trainer.paco_trainer import PaCoTrainer


def is_pretrained(run: RunArguments, backbone: BackboneSource | None) -> bool:
    return run.pretrained or bool(run.pretrained_file or (backbone and backbone.weights))


def apply_auto_settings(
    run: RunArguments, args: PaCoTrainingArguments, images: int, classes: int, backbone: BackboneSource
) -> str:
    """Choose what the user left open from the size of the data, and say so."""
    parts = args.world_size * args.gradient_accumulation_steps
    chosen = suggested_settings(
        images,
        int(run.image_size or 0),
        is_pretrained(run, backbone),
        loss=args.loss,
        batch=None if "per_device_train_batch_size" in run.undecided else args.per_device_train_batch_size * parts,
        epochs=None if "num_train_epochs" in run.undecided else args.num_train_epochs,
        max_steps=args.max_steps,
    )
    chosen["per_device_train_batch_size"] = max(chosen.pop("batch") // parts, 1)
    applied = {name: value for name, value in chosen.items() if name in run.undecided}
    for name, value in applied.items():
        setattr(args, name, value)
    run.undecided = set()
    listed = ", ".join(f"{name} {value}" for name, value in applied.items())
    return f"chosen for {images:,} training images of {classes:,} classes: {listed} (a flag changes any of them)"


def fill_defaults(run: RunArguments, data: ImageData, backbone: BackboneSource | None) -> BackboneSource:
    """Backbone, its input size and views that fit the size of the images, where the user named none."""
    size = run.image_size or data.image_size
    # Weights see what they were trained on: images of their own size.
    pretrained = is_pretrained(run, backbone) and (backbone is None or "input_size" in (backbone.config or {}))
    if size is None and not pretrained and (typical := data.native_size()) <= SMALL_IMAGE:
        size = typical
    run.backbone = run.backbone or ("cifar_resnet32" if size and size <= SMALL_IMAGE else "resnet50")
    backbone = backbone or find_backbone(run.backbone)
    config = backbone.config or {}
    native = config.get("input_size", (3, 224, 224))[-1]
    if "img_size" in run.backbone_options:
        run.backbone_options["img_size"] = one_side(run.backbone_options["img_size"], str(run.backbone))
    options = backbone.options | run.backbone_options
    size = size or options.get("img_size") or native
    if config.get("fixed_input_size") and size != native:
        run.backbone_options.setdefault("img_size", size)
    run.image_size = size
    run.query_view = run.query_view or ("cifar_reg" if size <= SMALL_IMAGE else "regular")
    run.key_view = run.key_view or ("cifar_sim" if size <= SMALL_IMAGE else "sim")
    return backbone


def new_model(run: RunArguments, backbone: BackboneSource, **config: Any) -> PaCoForImageClassification:
    return PaCoForImageClassification.from_timm(
        backbone.architecture,
        pretrained=run.pretrained,
        pretrained_file=run.pretrained_file or backbone.weights,
        classifier_init_std=run.classifier_init_std,
        backbone_kwargs=backbone.options | run.backbone_options,
        **config,
    )


def build_model(
    run: RunArguments, backbone: BackboneSource, data: ImageData, counts: list[int]
) -> PaCoForImageClassification:
    model = new_model(
        run,
        backbone,
        image_size=run.image_size,
        id2label=dict(enumerate(data.class_names)),
        label2id={name: i for i, name in enumerate(data.class_names)},
        class_counts=counts,
        selection_counts=data.class_counts,
    )
    size = model.config.image_size
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, size, size))
    except Exception as error:  # timm's models assert, or fail in whatever operation comes first
        raise ValueError(
            f"the backbone {run.backbone!r} cannot take images of {size} x {size} pixels ({error}): set "
            "--image_size, or --backbone_kwargs with the size it should be built for"
        ) from error
    if run.freeze_backbone:
        model.paco.backbone.requires_grad_(False)
    if run.lora_rank:
        targets = run.lora_targets.split(",") if run.lora_targets else None
        add_adapter(model, run.lora_rank, run.lora_alpha, targets)
    return model.train()


def start_from_means(
    args: PaCoTrainingArguments, model: PaCoForImageClassification, processor: Any, images: Images
) -> str:
    """Set the classifier to the class means of the training images' features; returns what was done."""
    names, labels = list(model.config.id2label.values()), np.asarray(images.split.labels)
    model.to(args.device)
    features = extract_features(model.paco, processor, images, images.split.name, args.per_device_eval_batch_size)
    model.train()
    return start_from_centers(model, Embeddings(features, labels, None, names), images.split.name)


def build_image_processor(
    run: RunArguments, backbone: BackboneSource, data: ImageData, model: PaCoForImageClassification
) -> BitImageProcessor:
    """How images are made ready for evaluation: on one's own data as the backbone's weights were, unless images are
    small or the user says otherwise."""
    config: dict[str, Any] = (
        {"pretrained_cfg": backbone.config} if backbone.weights else {"model": model.paco.backbone}
    )
    statistics, size = resolve_data_config({}, **config), model.config.image_size
    as_backbone = data.user_data and size > SMALL_IMAGE
    if run.eval_interpolation is None:
        smooth = as_backbone and statistics["interpolation"] != "bilinear"
        run.eval_interpolation = "bicubic" if smooth else "bilinear"
    mean, std = data.mean or statistics["mean"], data.std or statistics["std"]
    return build_processor(size, mean, std, run.eval_interpolation, statistics["crop_pct"] if as_backbone else None)


def describe_input(run: RunArguments, backbone: BackboneSource, processor: BitImageProcessor) -> str:
    weights = "weights drawn at random"
    if file := run.pretrained_file or backbone.weights:
        weights = f"weights of {Path(file).name}"
    elif run.pretrained:
        weights = "timm's pretrained weights"
    side, cut = processor.size["shortest_edge"], processor.crop_size["height"]
    mean, std = (", ".join(f"{value:.3f}" for value in of) for of in (processor.image_mean, processor.image_std))
    return (
        f"backbone {run.backbone}, {weights}; input {cut} x {cut} pixels, from images of a shorter side of {side} "
        f"({run.eval_interpolation}); mean {mean}, std {std}"
    )


def build_views(
    run: RunArguments, names: list[str], images: Any, seed: int, processor: Any
) -> tuple[Dataset, BatchedViews | None]:
    """The training data, and what makes views of its batches (`None`: it makes them itself).

    `run.augment_backend` becomes what was chosen.
    """
    size = int(run.image_size or 0)
    pixels = None if run.augment_backend == "pil" else images.pixels()
    obstacle = batched_obstacle(names, size, pixels)
    if run.augment_backend == "tensor" and obstacle:
        raise ValueError(f"--augment_backend tensor cannot be had: {obstacle}; choose pil or auto")
    if run.augment_backend == "auto":
        # On larger images PIL is the faster one on a CPU.
        run.augment_backend = "pil" if obstacle or size > SMALL_IMAGE else "tensor"
    labels = images.split.labels
    if run.augment_backend == "pil" or pixels is None:
        return ViewsDataset(images, labels, [build_view(name, size) for name in names], seed), None
    views = [BatchedView(name, size) for name in names]
    return WholeImages(pixels, labels, seed), BatchedViews(views, processor.image_mean, processor.image_std)


def stream_sampler(run: RunArguments, args: PaCoTrainingArguments, groups: Any) -> StreamSampler | None:
    if groups is None:
        return None
    seed = args.seed if args.data_seed is None else args.data_seed
    processes = args.world_size
    buffer = run.shuffle_buffer * processes
    return StreamSampler(groups, args.per_device_train_batch_size, LANES * processes, buffer, seed)


def build_trainer(*args: Any, **kwargs: Any) -> PaCoTrainer:
    try:
        return PaCoTrainer(*args, **kwargs)
    except RuntimeError as error:  # a tracker of --report_to that is not installed, a device that is not there
        raise ValueError(str(error)) from error


def describe_hardware(args: PaCoTrainingArguments) -> str:
    chosen = ", chosen for this hardware" if args.precision == "auto" else ""
    processes = f", {args.world_size} processes" if args.world_size > 1 else ""
    return f"{args.loss} on {args.device.type}{processes}, {args.resolved_precision}{chosen}"
