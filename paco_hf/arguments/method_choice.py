"""What is trained where the user left it open: on a pretrained backbone a classifier of its features, or all of it.

`benchmarks/pretrained.md` has the measurements that these choices follow.
"""

import dataclasses
from typing import Any, cast

from ..data.images import ImageData
from ..models.pretrained_backbones import BackboneSource
from .auto_settings import PRETRAINED_CENTERS, PRETRAINED_CLASSIFIER, PRETRAINED_LOSS
from .input_choice import is_pretrained
from .method_arguments import FOLLOW_SCORES
from .run_arguments import RunArguments
from .training_args import PaCoTrainingArguments

# On an accelerator a pretrained backbone is trained where there are more images than these.
MANY_IMAGES = 5000
FOLDS = 5
_LOGITS = 200_000_000  # of images that are held out, which are kept in memory several times


def choose_method(
    run: RunArguments, args: PaCoTrainingArguments, data: ImageData, backbone: BackboneSource | None
) -> tuple[RunArguments, PaCoTrainingArguments, list[str]]:
    """Decide whether a pretrained backbone is frozen; then classifier, its centers, loss and folds. The arguments stay
    as they are.

    Args:
        run (`RunArguments`): as the user left them.
        args (`PaCoTrainingArguments`): likewise.
        data (`ImageData`): the dataset, before it is split.
        backbone (`BackboneSource`, *optional*): that of `run.backbone`, where the user named one.

    Returns:
        both arguments, with `cross_validation` `none` or a number; and what was decided, for the user to read.

    Raises:
        ValueError: cross-validation is asked for where it cannot be.
    """
    notes = []
    if "freeze_backbone" in run.automatic and is_pretrained(run, backbone) and run.lora_rank is None:
        images, on_cpu = len(data.train.labels), args.device.type == "cpu"
        why = _trains_backbone(run, args)
        if why is None and (on_cpu or images <= MANY_IMAGES):
            why = "on a CPU" if on_cpu else f"{images:,} images"
            notes.append(
                f"the pretrained backbone is frozen and its features are computed once ({why}); --freeze_backbone "
                "false fine-tunes it"
            )
            run = dataclasses.replace(run, freeze_backbone=True)
        else:
            why = why or f"{images:,} images on {args.device.type}"
            notes.append(f"the pretrained backbone is fine-tuned ({why}); --freeze_backbone true freezes it")
    if run.feature_views and (not run.freeze_backbone or run.streaming):
        raise ValueError(
            f"--feature_views {run.feature_views} needs a frozen backbone and data that is not streamed: use "
            "--freeze_backbone true without --streaming, or remove --feature_views"
        )
    if is_pretrained(run, backbone) and run.lora_rank is None:
        before = run
        run, args = _choose_head(run, args)
        notes += _describe_head(before, run, args)
    if run.on_features and "precision" in run.automatic:
        # Steps on features are too small for 16 bits to be faster, and float32 is what the folds and others compare.
        args = args.changed(precision="fp32", bf16=False)
    run, fold_notes = choose_folds(run, args, data)
    return run, args, [*notes, *fold_notes]


def _trains_backbone(run: RunArguments, args: PaCoTrainingArguments) -> str | None:
    """The flag, if any, that is of a backbone that is trained, or of images that are seen but once."""
    settings = {name: getattr(run, name) for name in ("query_view", "key_view")}
    settings |= {name: getattr(args, name) for name in ("trainable_convolutions", "layer_decay", "head_learning_rate")}
    settings["streaming"] = run.streaming or None
    return next((f"--{name}" for name, value in settings.items() if value is not None), None)


def _choose_head(run: RunArguments, args: PaCoTrainingArguments) -> tuple[RunArguments, PaCoTrainingArguments]:
    changes: dict[str, Any] = {}
    if "classifier" in run.automatic:
        changes["classifier"] = PRETRAINED_CLASSIFIER
    if "class_centers" in run.automatic and not run.streaming:
        changes["class_centers"] = PRETRAINED_CENTERS
    if "loss" in run.automatic:
        args = args.changed(loss=PRETRAINED_LOSS)
    return dataclasses.replace(run, **cast(Any, changes)), args


def _describe_head(before: RunArguments, run: RunArguments, args: PaCoTrainingArguments) -> list[str]:
    """What [`_choose_head`] chose."""
    values = {name: getattr(run, name) for name in ("classifier", "class_centers")}
    chosen = {name: value for name, value in values.items() if value != getattr(before, name)}
    chosen |= {"loss": args.loss} if "loss" in run.automatic else {}
    if not chosen:
        return []
    listed = ", ".join(f"{name} {value}" for name, value in sorted(chosen.items()))
    return [f"defaults for a pretrained backbone: {listed} (flags override them)"]


def choose_folds(run: RunArguments, args: PaCoTrainingArguments, data: ImageData) -> tuple[RunArguments, list[str]]:
    """Decide whether settings are chosen by cross-validation; no validation split is needed then.

    Args:
        run (`RunArguments`): as the user left them.
        args (`PaCoTrainingArguments`): likewise.
        data (`ImageData`): the dataset, before it is split.

    Returns:
        the arguments, with `cross_validation` `none` or a number; and what the user should know of that.

    Raises:
        ValueError: cross-validation is asked for where it cannot be.
    """
    images, logits = len(data.train.labels), len(data.train.labels) * len(data.class_names)
    obstacles = {
        "a trainable backbone (freeze it with --freeze_backbone true)": not run.freeze_backbone,
        "--streaming": run.streaming,
        "several processes": args.world_size > 1,
        "a learning rate that depends on validation scores (--lr_scheduler_type)": args.lr_scheduler_type
        in FOLLOW_SCORES,
        "a dataset with one image per class": max(data.class_counts) < 2,
        f"{logits:,} logits of held-out images, more than the limit of {_LOGITS:,}": logits > _LOGITS,
    }
    obstacle = next((name for name, is_there in obstacles.items() if is_there), None)
    folds, notes = run.cross_validation, []
    if folds is None:
        wanted = run.freeze_backbone and data.user_data and bool(run.automatic)
        held_out = "a validation split" if data.validation else None
        if "validation_fraction" not in run.automatic:
            held_out = held_out or f"--validation_fraction {run.validation_fraction:g}"
        folds = str(FOLDS) if wanted and (obstacle or held_out) is None else "none"
        if wanted and folds == "none":
            notes = [
                f"cross-validation, which chooses input size and settings, is off because of {obstacle or held_out}"
            ]
    elif folds != "none":
        usual = RunArguments.validation_fraction if not run.automatic else None
        if "validation_fraction" not in run.automatic and run.validation_fraction not in (0, usual):
            obstacle = obstacle or f"--validation_fraction {run.validation_fraction:g}"
        if obstacle:
            raise ValueError(
                f"--cross_validation {folds} cannot be combined with {obstacle}: remove the flag, or change that"
            )
        if int(folds) > images:
            raise ValueError(
                f"--cross_validation {folds} needs at least {folds} images, got {images}: use at most {images} folds"
            )
        if data.validation:
            notes = [
                f"the validation split ({len(data.validation.labels)} images) is not used: cross-validation "
                "replaces it"
            ]
    fraction = run.validation_fraction if folds == "none" else 0.0
    return dataclasses.replace(run, cross_validation=folds, validation_fraction=fraction), notes
