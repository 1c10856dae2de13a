"""The settings of a run as a recipe: what makes it what it is."""

import dataclasses
from typing import Any

from transformers import TrainingArguments

from .method_arguments import CommonArguments
from .run_arguments import RunArguments
from .training_args import PaCoTrainingArguments

# Not part of what a run computes, so not part of its saved recipe.
NOT_IN_RECIPE = {
    *("recipe", "resume", "overwrite", "dry_run", "report", "output_dir", "logging_dir", "run_name", "disable_tqdm"),
    *("log_level", "log_level_replica"),
    *("push_to_hub", "hub_model_id", "hub_private_repo", "hub_strategy", "hub_revision", "hub_token", "local_rank"),
    # What it scales is in the recipe as scaled.
    "scale_learning_rate",
    # No settings, but what is known of them.
    *("automatic", "notes"),
}


def run_settings(run: RunArguments, args: PaCoTrainingArguments) -> dict[str, Any]:
    """The settings that make the run what it is, as a recipe: the method's, and transformers' where changed."""
    settings = {f.name: getattr(run, f.name) for f in dataclasses.fields(RunArguments)}
    inherited = {f.name: f for f in dataclasses.fields(TrainingArguments)}
    common = {f.name for f in dataclasses.fields(CommonArguments)}
    for f in dataclasses.fields(PaCoTrainingArguments):
        value = getattr(args, f.name)
        value = getattr(value, "value", value)
        changed = f.name in common or f.name not in inherited or value != inherited[f.name].default
        if f.init and changed and isinstance(value, bool | int | float | str | None):
            settings[f.name] = value
    settings["backbone_kwargs"] = run.backbone_options or None
    # Chosen once the images are known, as the backbone and the views are.
    settings["augment_backend"] = None if run.augment_backend == "auto" else run.augment_backend
    settings["torch_compile"] = None if args.torch_compile == "auto" else args.torch_compile
    # bf16 and fp16 say what `precision` was resolved to.
    settings["precision"] = args.resolved_precision
    omitted = NOT_IN_RECIPE | {"bf16", "fp16", "use_cpu"} | run.automatic
    if "per_device_train_batch_size" not in run.automatic:  # a share of it tells nothing without their number
        parts = args.gradient_accumulation_steps * args.world_size
        settings["global_batch_size"] = args.per_device_train_batch_size * parts
    if args.epoch_schedule == "none":  # which has its warm-up in steps
        omitted |= {"warmup_epochs"}
    return {name: value for name, value in settings.items() if name not in omitted and value is not None}
