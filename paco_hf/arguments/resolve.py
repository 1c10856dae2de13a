"""The settings of a run, resolved: what makes it what it is, as a recipe."""

import dataclasses
from typing import Any

from transformers import TrainingArguments

from .arguments import RunArguments, json_object
from .training_args import COMMON_TRAINING_FLAGS, PaCoTrainingArguments

# Not part of what a run computes, so not part of its saved recipe.
NOT_IN_RECIPE = {
    "recipe",
    "resume",
    "overwrite",
    "dry_run",
    "report",
    "output_dir",
    "logging_dir",
    "run_name",
    "disable_tqdm",
    "push_to_hub",
    "hub_model_id",
    "hub_private_repo",
    "hub_strategy",
    "hub_revision",
    "hub_token",
    # What it scales is in the recipe as scaled.
    "scale_learning_rate",
    "local_rank",
}


def resolved(run: RunArguments, args: PaCoTrainingArguments) -> dict[str, Any]:
    """The settings that make the run what it is, as a recipe: the method's, and transformers' where changed."""
    settings = {f.name: getattr(run, f.name) for f in dataclasses.fields(RunArguments)}
    inherited = {f.name: f for f in dataclasses.fields(TrainingArguments)}
    for f in dataclasses.fields(PaCoTrainingArguments):
        value = getattr(args, f.name)
        value = getattr(value, "value", value)
        changed = f.name in COMMON_TRAINING_FLAGS or f.name not in inherited or value != inherited[f.name].default
        if f.init and changed and isinstance(value, bool | int | float | str | None):
            settings[f.name] = value
    settings["backbone_kwargs"] = json_object(run.backbone_kwargs) or None
    # Chosen once the images are known, as the backbone and the views are.
    settings["augment_backend"] = None if run.augment_backend == "auto" else run.augment_backend
    # bf16 and fp16 say what `precision` was resolved to.
    settings["precision"] = args.resolved_precision
    for name in ("bf16", "fp16", "use_cpu"):
        settings.pop(name, None)
    left_out = NOT_IN_RECIPE | run.undecided
    return {name: value for name, value in settings.items() if name not in left_out and value is not None}
