"""Settings of `transformers.TrainingArguments` that a PaCo training refuses, since they would do nothing or harm."""

import dataclasses
import os
from typing import Any

import torch
from transformers.trainer_pt_utils import AcceleratorConfig

from ..utils.hardware import cpp_compiler
from .defaults import default_setting

_WHOLE = (
    "every process needs the whole model, queue and key encoder: start several processes with `paco-hf train "
    "--nproc N`, and to save memory use --precision bf16, --gradient_checkpointing true, --lora_rank 8 or "
    "--freeze_backbone true"
)
_BATCHES = "it would change which images the loss contrasts across processes"
_CHECKPOINTING = "timm backbones can only turn checkpointing on or off"
_ORDER = "the image order depends only on seed and epoch, so that an interrupted run resumes exactly"

# What to use instead, or why there is nothing.
UNSUPPORTED = {
    "activation_checkpointing_kwargs": _CHECKPOINTING,
    "auto_find_batch_size": "a smaller batch needs a different learning rate: set per_device_train_batch_size "
    "(`paco-hf train --dry_run` estimates the memory) and gradient_accumulation_steps",
    "average_tokens_across_devices": "images have no tokens, and the loss is a mean over the batch",
    "bf16_full_eval": "weights would stay rounded after an evaluation: use precision='bf16'",
    "dataloader_in_order": _ORDER,
    "deepspeed": _WHOLE,
    "do_predict": "call trainer.predict(dataset); `paco-hf train` evaluates the test split itself",
    "enable_jit_checkpoint": "`paco-hf train` saves a checkpoint on SIGTERM itself",
    "eval_do_concat_batches": "the metrics need all images in one array",
    "eval_use_gather_object": "it is for outputs that are not tensors, and the logits are a tensor",
    "fp16_full_eval": "weights would stay rounded after an evaluation: use precision='fp16'",
    "fsdp": _WHOLE,
    "fsdp_config": _WHOLE,
    "hub_always_push": "a run is pushed once, when it is finished",
    "gradient_checkpointing_kwargs": _CHECKPOINTING,
    "ignore_data_skip": _ORDER,
    "include_num_input_tokens_seen": "images have no tokens: the log shows epochs and steps",
    "label_names": "the loss reads its labels from the column 'labels': rename your column",
    "length_column_name": "images have no lengths to group by",
    "liger_kernel_config": "it is for language models: use torch_compile for fused kernels",
    "logging_nan_inf_filter": "a loss that is not finite stops the training",
    "neftune_noise_alpha": "it adds noise to word embeddings: use stronger augmentation (query_view)",
    "parallelism_config": _WHOLE,
    "save_only_model": "training cannot resume from such a checkpoint: set save_strategy='no', and call "
    "trainer.save_model(folder) to save only the model",
    "train_sampling_strategy": f"{_ORDER}: pass train_sampler for a different order",
    "use_cache": "it is for text generation models",
    "use_liger_kernel": "it is for language models: use torch_compile for fused kernels",
}
# `accelerate launch` and its configuration file ask for these by the environment alone.
_ENVIRONMENT = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
_ENVIRONMENT |= {"ACCELERATE_USE_MEGATRON_LM": "Megatron-LM", "ACCELERATE_USE_PARALLELISM_CONFIG": "parallelism"}


def check_supported(args: Any) -> None:
    """Refuse what would be ignored in a PaCo training, or would break it.

    Args:
        args (`PaCoTrainingArguments`): as they are set.

    Raises:
        ValueError: a setting of [`UNSUPPORTED`], or a wrapper that `accelerate launch` asks for.
    """
    for name, reason in UNSUPPORTED.items():
        if not hasattr(args, name):  # a setting of later releases
            continue
        value, default = getattr(args, name), default_setting(name)
        if (value or default) and value != default and (name, value) != ("label_names", ["labels"]):
            raise ValueError(f"{name}={value!r} is not supported: {reason}")
    if unknown := {*args.include_for_metrics} - {"inputs", "loss"}:
        raise ValueError(f"include_for_metrics may contain only 'inputs' and 'loss', got {sorted(unknown)[0]!r}")
    if isinstance(args.accelerator_config, dict):
        known = {field.name for field in dataclasses.fields(AcceleratorConfig)}
        if other := sorted(args.accelerator_config.keys() - known):
            raise ValueError(f"accelerator_config has no setting {other[0]!r}: choose from {', '.join(sorted(known))}")
    if args.torch_compile is True:
        _check_compilation(args)
    for variable, wrapper in _ENVIRONMENT.items():
        if os.environ.get(variable, "").lower() in ("true", "1", "yes"):
            raise ValueError(f"{variable}={os.environ[variable]} asks for {wrapper}, which is not supported: {_WHOLE}")


def checkpoints_activations(args: Any) -> bool:
    """Whether layers are computed once more in the backward pass, by either of the names that transformers has for it.

    Args:
        args (`PaCoTrainingArguments`): as they are set.
    """
    return bool(args.gradient_checkpointing or getattr(args, "activation_checkpointing", False))


def _check_compilation(args: Any) -> None:
    backend, mode = args.torch_compile_backend or "inductor", args.torch_compile_mode
    try:
        torch.compile(torch.nn.Identity(), backend=backend, mode=mode)  # it compiles at the first call only
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"torch_compile_backend {backend!r} with torch_compile_mode {mode!r}: {reason}") from error
    if checkpoints_activations(args):
        raise ValueError(
            "gradient_checkpointing with torch_compile is not supported, because BatchNorm would count batches "
            "twice: use only one of them"
        )
    compiler, there = cpp_compiler()
    if args.use_cpu and backend == "inductor" and not there:
        raise ValueError(
            f"torch_compile needs a C++ compiler, and {compiler!r} is not on the PATH: install one, set CXX, or "
            "remove --torch_compile"
        )


def check_accelerator(config: AcceleratorConfig) -> None:
    """Refuse batches of several processes that are made in another way.

    Args:
        config (`AcceleratorConfig`): as it was read.

    Raises:
        ValueError: it changes how batches are made.
    """
    plain = AcceleratorConfig()
    for name in ("split_batches", "dispatch_batches", "even_batches", "use_seedable_sampler"):
        if (value := getattr(config, name)) != getattr(plain, name):
            reason = _ORDER if name == "use_seedable_sampler" else _BATCHES
            raise ValueError(f"accelerator_config with {name}={value} is not supported: {reason}")


def check_idle(args: Any) -> None:
    """Refuse settings that another one leaves without an effect.

    Args:
        args (`PaCoTrainingArguments`): as they are set.

    Raises:
        ValueError: a setting of an optimizer or schedule that is not the chosen one.
    """
    names = ("adam_beta1", "adam_beta2", "adam_epsilon")
    adam = [name for name in names if getattr(args, name) != default_setting(name)]
    if adam and args.optim == "sgd":
        raise ValueError(
            f"{adam[0]} is a setting of Adam, but optim is 'sgd': set optim='adamw_torch', or remove the setting"
        )
    sgd = [name for name in ("momentum", "nesterov") if getattr(args, name) != default_setting(name)]
    if sgd and args.optim != "sgd":
        raise ValueError(
            f"{sgd[0]} is a setting of SGD, but optim is {args.optimizer_name!r}: set optim='sgd', or remove the "
            "setting"
        )
    warmup, usual = args.warmup_epochs, default_setting("warmup_epochs")
    if args.epoch_schedule == "none" and warmup != usual:
        raise ValueError(
            f"warmup_epochs={warmup!r} has no effect with epoch_schedule='none': set epoch_schedule='cosine', or use "
            "warmup_steps"
        )
    if args.epoch_schedule != "none":
        stepwise = {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": None, "warmup_steps": 0}
        for name, default in stepwise.items():
            if (value := getattr(args, name)) != default and (value or default):
                raise ValueError(
                    f"{name}={value!r} has no effect with epoch_schedule={args.epoch_schedule!r}: set "
                    "epoch_schedule='none', or use warmup_epochs"
                )
    plain = ("constant", "reduce_lr_on_plateau", "greedy")
    if args.epoch_schedule == "none" and args.warmup_steps and args.lr_scheduler_type in plain:
        raise ValueError(
            f"warmup_steps={args.warmup_steps!r} has no effect with lr_scheduler_type "
            f"{str(getattr(args.lr_scheduler_type, 'value', args.lr_scheduler_type))!r}: set 'constant_with_warmup', "
            "or leave it out"
        )


def check_views(run: Any, args: Any, views: dict[str, str | None]) -> None:
    """Refuse views that nothing sees.

    Args:
        run (`RunArguments`): the run.
        args (`PaCoTrainingArguments`): its loss.
        views (`dict`): `query_view` and `key_view`, where the user named them.

    Raises:
        ValueError: there is one, and the loss sees one view alone, or the backbone is frozen.
    """
    if (key := views.get("key_view")) and args.spec.views == 1:
        raise ValueError(
            f"--key_view {key} has no effect with --loss {args.loss}, which uses one view per image: use "
            "--query_view, or remove the flag"
        )
    for name, view in views.items():
        if view and run.on_features and not run.feature_views:
            raise ValueError(
                f"--{name} {view} has no effect on a frozen backbone, whose features are computed without "
                "augmentation: add --feature_views, such as --feature_views 4, or remove the flag"
            )
