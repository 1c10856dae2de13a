"""From a configuration to a finished run folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data import resolve_data_config
from torch.utils.data import Dataset
from transformers import BitImageProcessor, TrainerCallback, set_seed

from .allocator import keep_freed_memory, peak_memory
from .assessment import FEW_IMAGES, examine, store_temperature, write_evaluation
from .backbone_source import BackboneSource, find_backbone, one_side
from .callbacks import OnTrainBegin
from .cards import write_card
from .checkpoints import list_checkpoints
from .data.batched_views import BatchedView, BatchedViews, batched_obstacle
from .data.carve import (
    SPLITS_NAME,
    TEST_FRACTION,
    Division,
    check_source,
    divide,
    read_manifest,
    report,
    source_of,
)
from .data.loading import load_data
from .data.long_tail import class_counts
from .data.shards import LANES, StreamSampler
from .data.splits import ImageData, Images, LabelledImages
from .data.survey import Survey, survey
from .data.views import EvaluationDataset, ImageCollator, ViewsDataset, WholeImages, build_view
from .distributed import own_cores
from .embedding import Embeddings, features_of, start_from_centers
from .evaluation import headline
from .lora import add_adapter, describe_training
from .modeling_paco import PaCoForImageClassification
from .optimizer import freeze_backbone
from .preprocessing import SMALL_IMAGE, build_processor
from .run_args import RunArguments, resolved
from .run_folder import (
    EVALUATION_FOLDER,
    METRICS_NAME,
    RECIPE_NAME,
    RUN_NAME,
    as_yaml,
    changed_settings,
    clear_run,
    open_folder,
    public_text,
    run_record,
    summary,
    write_json,
    write_text,
)
from .scoring import balanced_logits, group_counts, score
from .suggestions import suggested_settings
from .trainer import PaCoTrainer
from .training_args import PaCoTrainingArguments


def train(
    run: RunArguments, args: PaCoTrainingArguments, callbacks: Sequence[TrainerCallback] = ()
) -> dict[str, Any] | None:
    """Train, select on the validation split, score the test split once, and leave a complete run folder.

    Args:
        run (`RunArguments`): data, backbone, views, and how to treat the folder.
        args (`PaCoTrainingArguments`): the method and the training; `args.output_dir` becomes the run folder.
        callbacks (sequence of `transformers.TrainerCallback`, *optional*): for the trainer.

    Returns:
        what `metrics.json` holds (`{"test": ..., "validation": ...}`), `None` for a dry run.

    Raises:
        ValueError, OSError: bad settings or data, found before training starts.
        FloatingPointError: a loss that is not finite.
    """
    folder = Path(args.output_dir)
    main = args.process_index == 0
    finished = open_folder(folder, run, args)
    if finished is not None:
        _say(main, f"{folder} is finished; nothing to resume\n{summary(finished, str(folder))}")
        _publish(folder, args)
        return finished
    if (run.freeze_backbone or run.lora_rank) and args.trainable_convolutions:
        kept = "--freeze_backbone" if run.freeze_backbone else "--lora_rank"
        raise ValueError(f"{kept} trains no weight of the backbone, --trainable_convolutions a part: give one")
    if run.streaming and run.class_centers == "means":
        raise ValueError("--class_centers means reads all images first, --streaming once: give a file of embeddings")
    _say(main, _describe_hardware(args))
    if run.batch_note:
        _say(main, run.batch_note)
    # Before the images are looked at: a name may be mistyped.
    backbone = find_backbone(run.backbone) if run.backbone else None
    if backbone and _is_pretrained(run, backbone):
        # And its weights may be missing, or another's.
        _new_model(run, backbone, num_labels=2)
    division = _load(run, args)
    data, trained, validation = division.data, division.trained, division.validation
    if run.calibrate is None:
        run.calibrate = data.own and validation is not None and len(validation.labels) >= FEW_IMAGES
        if data.own and not run.calibrate:
            held_out = len(validation.labels) if validation else 0
            _say(main, f"not calibrated in the end: {held_out} validation images, fewer than {FEW_IMAGES}")
    if run.calibrate and validation is None:
        raise ValueError("--calibrate fits on the validation split, but there is none: give --validation_fraction")
    backbone = _fill_defaults(run, data, backbone)
    if run.undecided:
        _say(main, _suggest(run, args, len(trained.labels), len(data.class_names), backbone))
    view_names = [str(run.query_view), str(run.key_view)][: args.num_views]
    for name in view_names:
        build_view(name, int(run.image_size or 0))
    set_seed(args.seed)
    model = _build_model(run, backbone, data, class_counts(trained.labels, len(data.class_names)))
    processor = _build_processor(run, backbone, data, model)
    if data.own:
        _say(main, _describe_input(run, backbone, processor))
    if (run.freeze_backbone or run.lora_rank) and not _is_pretrained(run, backbone):
        _say(main, "note: the backbone is frozen as it was drawn: --pretrained true starts from weights that see")
    # Everything is decoded, or sampled, before training: an image that cannot be decoded should not end a finished
    # run.
    images, validation_images, test_images = (Images(s) if s else None for s in (trained, validation, data.test))
    assert images is not None
    train_dataset, batched_views = _build_views(run, view_names, images, args.seed, processor)
    if args.dataloader_num_workers < 0:
        args.dataloader_num_workers = 0 if images.decoded is not None else own_cores()
    if run.streaming and args.dataloader_num_workers not in (0, 1, 2, 4, LANES):
        raise ValueError(
            f"--dataloader_num_workers {args.dataloader_num_workers} would have each worker read every shard of a "
            f"stream: give 0, 1, 2, 4 or {LANES}"
        )
    workers = f" in {args.dataloader_num_workers} worker processes" if args.dataloader_num_workers else ""
    _say(main, f"views: {', '.join(view_names)}, made by {run.augment_backend}{workers}")
    if run.class_centers not in ("random", "means"):
        stored = Embeddings.load(run.class_centers)
        _say(main, start_from_centers(model, stored, Path(run.class_centers).name))
    # As asked for: without a validation split the trainer turns `eval_strategy` off.
    settings = resolved(run, args)
    if run.dry_run:
        _say(main, as_yaml(settings))
        return None

    if args.device.type == "cpu":
        keep_freed_memory()
    checkpoints = list_checkpoints(folder) if run.resume else []
    if run.class_centers == "means" and not checkpoints:
        _say(main, _start_from_means(args, model, processor, images))
    trainer = _build_trainer(
        model,
        args,
        batched_views=batched_views,
        train_sampler=_stream_sampler(run, args, trained.groups),
        train_dataset=train_dataset,
        eval_dataset=EvaluationDataset(validation_images, validation.labels) if validation else None,
        data_collator=ImageCollator(processor),
        processing_class=processor,
        callbacks=list(callbacks),
    )
    if run.lora_rank:
        moments = 2 if "adam" in str(getattr(args.optim, "value", args.optim)) else 1
        _say(main, describe_training(trainer.model, moments))
    if checkpoints:
        check_source(read_manifest(folder), division.manifest)
        changed = changed_settings(folder, settings)
        _say(main, f"resuming from {checkpoints[-1]}" + (f", with changed settings: {changed}" if changed else ""))
    elif run.resume:
        _say(main, "no complete checkpoint to resume from: starting anew")
    if main and not checkpoints:
        clear_run(folder)
    # Written when training really starts, so that a resume that fails leaves the recipe of the run as it was.
    trainer.add_callback(OnTrainBegin(lambda: _write_beginning(folder, run, settings, division.manifest)))
    trainer.train(resume_from_checkpoint=str(checkpoints[-1]) if checkpoints else None)

    if run.lora_rank:
        _say(main, f"peak memory of training: {peak_memory(args.device.type)}")
    seconds = trainer.training_time.seconds
    last_step, selected_step = trainer.state.global_step, trainer.load_selected()
    history = {
        e["step"]: e["eval_balanced_accuracy"] for e in trainer.state.log_history if "eval_balanced_accuracy" in e
    }
    if main:
        trainer.save_classifier(folder)
        processor.save_pretrained(folder)
    trainer.accelerator.wait_for_everyone()
    if run.calibrate:
        assert validation_images is not None
        _say(main, store_temperature(str(folder), validation_images, data.class_names))
        trainer.accelerator.wait_for_everyone()
    # What is scored is the saved folder, in full precision: what `pipeline` will give.
    tested = balanced_logits(str(folder), test_images, data.class_names) if test_images else None
    metrics: dict[str, Any] = {
        "test": headline(tested[0], tested[1], group_counts(tested[2])) if tested else None,
        "validation": score(folder, validation_images) if validation_images else None,
        "selected_step": selected_step,
        "last_step": last_step,
        "validation_balanced_accuracy_by_step": {str(step): value for step, value in history.items()},
    }
    if main:
        splits = {"train": trained, "validation": validation, "test": data.test}
        record = run_record(run, args, splits, seconds, [*data.warnings, *data.notes])
        write_json(folder / RUN_NAME, record)
        write_json(folder / METRICS_NAME, metrics)
    _say(main, summary(metrics, str(folder)))
    if main and run.report and test_images and tested:
        page = write_evaluation(folder / EVALUATION_FOLDER, *examine([str(folder)], test_images, *tested))
        _say(main, f"report: {page}")
    if main and run.report:
        _say(main, f"model card: {write_card(folder)}")
    _publish(folder, args)
    return metrics


def _publish(folder: Path, args: PaCoTrainingArguments) -> None:
    """Push a finished run where that was asked for."""
    if not args.push_to_hub or args.process_index != 0:
        return
    from .hub import push

    private, repo_id = bool(args.hub_private_repo), args.hub_model_id or folder.resolve().name
    info = push(folder, repo_id, private=private, revision=args.hub_revision, token=args.hub_token)
    print(f"published: {info.repo_url}")


def _load(run: RunArguments, args: PaCoTrainingArguments) -> Division:
    """The data, looked at and divided, and what the user should know of it before training."""
    main = args.process_index == 0
    with args.main_process_first(local=False):
        data = load_data(
            run.dataset,
            dataset_path=run.dataset_path,
            image_column=run.image_column,
            label_column=run.label_column,
            imbalance_factor=run.imbalance_factor,
            imbalance_kind=run.imbalance_kind,
            lists=run.lists,
            splits=run.splits,
            streaming=run.streaming,
            window=max(run.shuffle_buffer, LANES * args.per_device_train_batch_size),
        )
        if data.described:
            _say(main, data.described)
        # A stream is read once, in training.
        look = (data.own if run.inspect is None else run.inspect) and isinstance(data.train, LabelledImages)
        source = source_of(data.train, data.own) if look else None
        seen = survey(data, run.skip_undecodable) if look else Survey()
    if run.skip_undecodable and not look:
        raise ValueError("--skip_undecodable leaves out what --inspect finds: give --inspect true, or leave it out")
    if data.own and data.test is None and run.test_fraction is None:
        run.test_fraction = TEST_FRACTION
    if data.test is not None and run.test_fraction:
        data.notes.append("there is a test split, so --test_fraction carves none")
    test_fraction = (run.test_fraction or 0.0) if data.own else 0.0
    division = divide(
        data, args.seed, run.validation_fraction, test_fraction, seen.twins, source, split_seed=run.split_seed
    )
    data = division.data
    if data.own:
        lines = report(division, seen.lines)
    else:
        lines = [_describe_data(data, division.trained, division.validation), *seen.lines]
    lines += [f"WARNING: {warning}" for warning in data.warnings] + [f"note: {note}" for note in data.notes]
    _say(main, "\n".join(lines))
    return division


def _is_pretrained(run: RunArguments, backbone: BackboneSource | None) -> bool:
    return run.pretrained or bool(run.pretrained_file or (backbone and backbone.weights))


def _write_beginning(folder: Path, run: RunArguments, settings: dict[str, Any], manifest: Any) -> None:
    write_text(folder / RECIPE_NAME, as_yaml(settings))
    if manifest:
        for content in (manifest["source"], *filter(None, manifest["splits"].values())):
            content["name"] = public_text(content["name"], run)
        write_json(folder / SPLITS_NAME, manifest)


def _suggest(
    run: RunArguments, args: PaCoTrainingArguments, images: int, classes: int, backbone: BackboneSource
) -> str:
    """Choose what the user left open from the size of the data, and say so."""
    parts = args.world_size * args.gradient_accumulation_steps
    chosen = suggested_settings(
        images,
        int(run.image_size or 0),
        _is_pretrained(run, backbone),
        args.loss,
        None if "per_device_train_batch_size" in run.undecided else args.per_device_train_batch_size * parts,
        None if "num_train_epochs" in run.undecided else args.num_train_epochs,
        args.max_steps,
    )
    chosen["per_device_train_batch_size"] = max(chosen.pop("batch") // parts, 1)
    applied = {name: value for name, value in chosen.items() if name in run.undecided}
    for name, value in applied.items():
        setattr(args, name, value)
    run.undecided = set()
    listed = ", ".join(f"{name} {value}" for name, value in applied.items())
    return f"chosen for {images:,} training images of {classes:,} classes: {listed} (a flag changes any of them)"


def _fill_defaults(run: RunArguments, data: ImageData, backbone: BackboneSource | None) -> BackboneSource:
    """Backbone, its input size and views that fit the size of the images, where the user named none."""
    size = run.image_size or data.image_size
    # Weights see what they were trained on: images of their own size.
    pretrained = _is_pretrained(run, backbone) and (backbone is None or "input_size" in (backbone.config or {}))
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


def _new_model(run: RunArguments, backbone: BackboneSource, **config: Any) -> PaCoForImageClassification:
    return PaCoForImageClassification.from_timm(
        backbone.architecture,
        pretrained=run.pretrained,
        pretrained_file=run.pretrained_file or backbone.weights,
        classifier_init_std=run.classifier_init_std,
        backbone_kwargs=backbone.options | run.backbone_options,
        **config,
    )


def _build_model(
    run: RunArguments, backbone: BackboneSource, data: ImageData, counts: list[int]
) -> PaCoForImageClassification:
    model = _new_model(
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
        freeze_backbone(model.paco.backbone)
    if run.lora_rank:
        targets = run.lora_targets.split(",") if run.lora_targets else None
        add_adapter(model, run.lora_rank, run.lora_alpha, targets)
    return model.train()


def _start_from_means(
    args: PaCoTrainingArguments, model: PaCoForImageClassification, processor: Any, images: Images
) -> str:
    """Set the classifier to the class means of the training images' features; returns what was done."""
    names, labels = list(model.config.id2label.values()), np.asarray(images.split.labels)
    model.to(args.device)
    features = features_of(model.paco, processor, images, images.split.name, args.per_device_eval_batch_size)
    model.train()
    return start_from_centers(model, Embeddings(features, labels, None, names), images.split.name)


def _build_processor(
    run: RunArguments, backbone: BackboneSource, data: ImageData, model: PaCoForImageClassification
) -> BitImageProcessor:
    """How images are made ready for evaluation: on one's own data as the backbone's weights were, unless images are
    small or the user says otherwise."""
    config: dict[str, Any] = (
        {"pretrained_cfg": backbone.config} if backbone.weights else {"model": model.paco.backbone}
    )
    statistics, size = resolve_data_config({}, **config), model.config.image_size
    as_backbone = data.own and size > SMALL_IMAGE
    if run.eval_interpolation is None:
        smooth = as_backbone and statistics["interpolation"] != "bilinear"
        run.eval_interpolation = "bicubic" if smooth else "bilinear"
    mean, std = data.mean or statistics["mean"], data.std or statistics["std"]
    return build_processor(size, mean, std, run.eval_interpolation, statistics["crop_pct"] if as_backbone else None)


def _describe_input(run: RunArguments, backbone: BackboneSource, processor: BitImageProcessor) -> str:
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


def _build_views(
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


def _stream_sampler(run: RunArguments, args: PaCoTrainingArguments, groups: Any) -> StreamSampler | None:
    if groups is None:
        return None
    seed = args.seed if args.data_seed is None else args.data_seed
    processes = args.world_size
    buffer = run.shuffle_buffer * processes
    return StreamSampler(groups, args.per_device_train_batch_size, LANES * processes, buffer, seed)


def _build_trainer(*args: Any, **kwargs: Any) -> PaCoTrainer:
    try:
        return PaCoTrainer(*args, **kwargs)
    except RuntimeError as error:  # a tracker of --report_to that is not installed, a device that is not there
        raise ValueError(str(error)) from error


def _describe_hardware(args: PaCoTrainingArguments) -> str:
    chosen = ", chosen for this hardware" if args.precision == "auto" else ""
    processes = f", {args.world_size} processes" if args.world_size > 1 else ""
    return f"{args.loss} on {args.device.type}{processes}, {args.resolved_precision}{chosen}"


def _describe_data(data: ImageData, trained: Any, validation: Any) -> str:
    counts = data.class_counts
    parts = [
        f"{data.train.name}: {len(counts)} classes, {max(counts)} to {min(counts)} images a class; "
        f"{len(trained.labels)} to train on"
    ]
    for split, purpose in ((validation, "validation"), (data.test, "the test")):
        parts.append(f"{len(split.labels)} for {purpose} ({split.name})" if split else f"none for {purpose}")
    return ", ".join(parts)


def _say(main: bool, text: str) -> None:
    if main:
        print(text, flush=True)
