"""From a configuration to a finished run folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, set_seed

from ..arguments.arguments import RunArguments
from ..arguments.resolve import resolved
from ..arguments.training_args import PaCoTrainingArguments
from ..data.augmentation.transforms import build_view
from ..data.images import Images
from ..data.long_tail import class_counts
from ..data.samplers import LANES
from ..data.split_manifest import SPLITS_NAME, check_source
from ..data.torch_datasets import EvaluationDataset, ImageCollator
from ..inference.features import Embeddings
from ..inference.logits import balanced_logits, score
from ..metrics import headline
from ..models.lora import describe_training
from ..models.pretrained_backbones import find_backbone
from ..reports.model_card import write_card
from ..runs.folder import RunFolder, changed_settings, clear_run, open_folder
from ..runs.layout import EVALUATION_FOLDER, METRICS_NAME, RECIPE_NAME, RUN_NAME
from ..runs.record import run_record, summary
from ..runs.resume_points import list_checkpoints
from ..trainer.callbacks import OnTrainBegin
from ..trainer.class_centers import start_from_centers
from ..utils.console import say
from ..utils.files import as_yaml, write_json, write_text
from ..utils.hardware import available_cores
from ..utils.memory import keep_freed_memory, peak_memory
from .build import (
    apply_auto_settings,
    build_image_processor,
    build_model,
    build_trainer,
    build_views,
    describe_hardware,
    describe_input,
    fill_defaults,
    is_pretrained,
    new_model,
    start_from_means,
    stream_sampler,
)
from .calibrate import FEW_IMAGES, store_temperature
from .evaluate import examine, write_evaluation
from .prepare_data import load_run_data
from .publish import publish


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
        say(main, f"{folder} is finished; nothing to resume\n{summary(finished, str(folder))}")
        publish(folder, args)
        return finished
    if (run.freeze_backbone or run.lora_rank) and args.trainable_convolutions:
        kept = "--freeze_backbone" if run.freeze_backbone else "--lora_rank"
        raise ValueError(f"{kept} trains no weight of the backbone, --trainable_convolutions a part: give one")
    if run.streaming and run.class_centers == "means":
        raise ValueError("--class_centers means reads all images first, --streaming once: give a file of embeddings")
    say(main, describe_hardware(args))
    if run.batch_note:
        say(main, run.batch_note)
    # Before the images are looked at: a name may be mistyped.
    backbone = find_backbone(run.backbone) if run.backbone else None
    if backbone and is_pretrained(run, backbone):
        # And its weights may be missing, or another's.
        new_model(run, backbone, num_labels=2)
    division = load_run_data(run, args)
    data, trained, validation = division.data, division.trained, division.validation
    if run.calibrate is None:
        run.calibrate = data.user_data and validation is not None and len(validation.labels) >= FEW_IMAGES
        if data.user_data and not run.calibrate:
            held_out = len(validation.labels) if validation else 0
            say(main, f"not calibrated in the end: {held_out} validation images, fewer than {FEW_IMAGES}")
    if run.calibrate and validation is None:
        raise ValueError("--calibrate fits on the validation split, but there is none: give --validation_fraction")
    backbone = fill_defaults(run, data, backbone)
    if run.undecided:
        say(main, apply_auto_settings(run, args, len(trained.labels), len(data.class_names), backbone))
    view_names = [str(run.query_view), str(run.key_view)][: args.spec.views]
    for name in view_names:
        build_view(name, int(run.image_size or 0))
    set_seed(args.seed)
    model = build_model(run, backbone, data, class_counts(trained.labels, len(data.class_names)))
    processor = build_image_processor(run, backbone, data, model)
    if data.user_data:
        say(main, describe_input(run, backbone, processor))
    if (run.freeze_backbone or run.lora_rank) and not is_pretrained(run, backbone):
        say(main, "note: the backbone is frozen as it was drawn: --pretrained true starts from weights that see")
    # Everything is decoded, or sampled, before training: an image that cannot be decoded should not end a finished
    # run.
    images, validation_images, test_images = (Images(s) if s else None for s in (trained, validation, data.test))
    assert images is not None
    train_dataset, batched_views = build_views(run, view_names, images, args.seed, processor)
    if args.dataloader_num_workers < 0:
        args.dataloader_num_workers = 0 if images.decoded is not None else available_cores()
    if run.streaming and args.dataloader_num_workers not in (0, 1, 2, 4, LANES):
        raise ValueError(
            f"--dataloader_num_workers {args.dataloader_num_workers} would have each worker read every shard of a "
            f"stream: give 0, 1, 2, 4 or {LANES}"
        )
    workers = f" in {args.dataloader_num_workers} worker processes" if args.dataloader_num_workers else ""
    say(main, f"views: {', '.join(view_names)}, made by {run.augment_backend}{workers}")
    if run.class_centers not in ("random", "means"):
        stored = Embeddings.load(run.class_centers)
        say(main, start_from_centers(model, stored, Path(run.class_centers).name))
    # As asked for: without a validation split the trainer turns `eval_strategy` off.
    settings = resolved(run, args)
    if run.dry_run:
        say(main, as_yaml(settings))
        return None

    if args.device.type == "cpu":
        keep_freed_memory()
    checkpoints = list_checkpoints(folder) if run.resume else []
    if run.class_centers == "means" and not checkpoints:
        say(main, start_from_means(args, model, processor, images))
    trainer = build_trainer(
        model,
        args,
        batched_views=batched_views,
        train_sampler=stream_sampler(run, args, trained.groups),
        train_dataset=train_dataset,
        eval_dataset=EvaluationDataset(validation_images, validation.labels) if validation else None,
        data_collator=ImageCollator(processor),
        processing_class=processor,
        callbacks=list(callbacks),
    )
    if run.lora_rank:
        moments = 2 if "adam" in str(getattr(args.optim, "value", args.optim)) else 1
        say(main, describe_training(trainer.model, moments))
    if checkpoints:
        check_source(RunFolder(folder).manifest, division.manifest)
        changed = changed_settings(folder, settings)
        say(main, f"resuming from {checkpoints[-1]}" + (f", with changed settings: {changed}" if changed else ""))
    elif run.resume:
        say(main, "no complete checkpoint to resume from: starting anew")
    if main and not checkpoints:
        clear_run(folder)
    # Written when training really starts, so that a resume that fails leaves the recipe of the run as it was.
    trainer.add_callback(OnTrainBegin(lambda: _write_beginning(folder, run, settings, division.manifest)))
    trainer.train(resume_from_checkpoint=str(checkpoints[-1]) if checkpoints else None)

    if run.lora_rank:
        say(main, f"peak memory of training: {peak_memory(args.device.type)}")
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
        say(main, store_temperature(str(folder), validation_images, data.class_names))
        trainer.accelerator.wait_for_everyone()
    # What is scored is the saved folder, in full precision: what `pipeline` will give.
    tested = balanced_logits(str(folder), test_images, data.class_names) if test_images else None
    metrics: dict[str, Any] = {
        "test": headline(tested[0].argmax(axis=1), tested[1], tested[2]) if tested else None,
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
    say(main, summary(metrics, str(folder)))
    if main and run.report and test_images and tested:
        page = write_evaluation(folder / EVALUATION_FOLDER, *examine([str(folder)], test_images, *tested))
        say(main, f"report: {page}")
    if main and run.report:
        say(main, f"model card: {write_card(folder)}")
    publish(folder, args)
    return metrics


def _write_beginning(folder: Path, run: RunArguments, settings: dict[str, Any], manifest: Any) -> None:
    write_text(folder / RECIPE_NAME, as_yaml(settings))
    if manifest:
        write_json(folder / SPLITS_NAME, manifest)
