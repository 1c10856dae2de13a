"""The training settings of the method, and those of transformers whose defaults differ here. Loads no torch."""

from dataclasses import dataclass
from typing import Literal

from ..losses.specs import DEFAULT_LOSS, LOSSES
from .fields import AT_LEAST_0, AT_LEAST_1, FACTOR, POSITIVE, SHARE, arg


@dataclass
class MethodArguments:
    """Settings of loss, optimizer and schedule that transformers does not have; a field's help says what it does."""

    loss: str = arg(
        DEFAULT_LOSS,
        "what is trained: PaCo, GPaCo, its multi-task or one-view variant, or a baseline",
        choices=LOSSES.keys(),
    )
    alpha: float | None = arg(None, "weight of each positive (default: 0.05; multitask: of the contrastive part, 0.5)")
    beta: float = arg(1.0, "weight of an anchor's class center (paco, gpaco)")
    gamma: float = arg(1.0, "weight of the rows in the denominator (paco, gpaco)")
    temperature: float = arg(0.2, "divides the similarities of features", POSITIVE)
    supervised_temperature: float = arg(1.0, "divides the class logits (paco, gpaco)", POSITIVE)
    class_prior: bool = arg(True, "add the log of the class frequencies to the class logits in the loss (not ce)")
    projection_dim: int = arg(128, "width D of the projected features", AT_LEAST_1)
    queue_size: int = arg(8192, "length K of the queue of past keys; 0: none", AT_LEAST_0)
    key_momentum: float = arg(0.999, "momentum of the key encoder (paco)", SHARE)
    projector: Literal["auto", "mlp2-bn", "mlp3-relu", "mlp3-gelu"] = arg(
        "auto", "projector; auto: mlp2-bn for paco, else mlp3-relu (mlp3-gelu on a ViT)"
    )
    gather_batch: bool = arg(False, "contrast with the batches of all processes, not only the own")
    momentum: float = arg(0.9, "momentum of SGD")
    nesterov: bool = arg(False, "Nesterov momentum for SGD")
    decay_all_parameters: bool = arg(
        True, "weight decay on biases and norms too, as in the reference; false: the usual exclusions"
    )
    layer_decay: float | None = arg(
        None,
        "factor of the learning rate from each layer of the backbone to the one below it, such as 0.65 (default: one "
        "rate for all)",
        FACTOR,
    )
    trainable_convolutions: str | None = arg(
        None, "train only the convolutions under this part of the backbone, such as layer4.2"
    )
    epoch_schedule: Literal["none", "cosine", "cifar_step", "mae"] = arg(
        "none",
        "the reference's schedules: cosine and cifar_step, set once an epoch, and mae, set each step; none: "
        "--lr_scheduler_type, each step",
    )
    warmup_epochs: int = arg(10, "warm-up of --epoch_schedule", AT_LEAST_0)
    min_learning_rate: float = arg(0.0, "where the schedule mae ends", AT_LEAST_0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = arg(
        "auto", "auto: bf16 where the hardware has it, else fp32; the loss is always float32"
    )
    channels_last: bool = arg(True, "keep images and weights in channels-last memory")


@dataclass
class ChangedDefaults:
    """Settings of `transformers.TrainingArguments` with other defaults."""

    optim: str = arg("sgd", "optimizer, any that transformers knows")
    learning_rate: float = arg(0.02, "peak learning rate, for the whole batch", AT_LEAST_0)
    weight_decay: float = arg(5e-4, "weight decay", AT_LEAST_0)
    per_device_train_batch_size: int = arg(128, "training images a process and step", AT_LEAST_1)
    per_device_eval_batch_size: int = arg(256, "evaluation images a process and step", AT_LEAST_1)
    num_train_epochs: float = arg(100, "passes over the training images")
    max_grad_norm: float = arg(0.0, "clip gradients to this norm; 0: never")
    lr_scheduler_type: str = arg("cosine", "schedule where --epoch_schedule is none")
    eval_strategy: str = arg("epoch", "when to score the validation split")
    save_strategy: str = arg("epoch", "when to save a checkpoint: no, epoch or steps")
    save_total_limit: int | None = arg(1, "checkpoints to keep")
    logging_strategy: str = arg("epoch", "when to log: epoch or steps")
    metric_for_best_model: str | None = arg("balanced_accuracy", "validation metric that selects the model")
    dataloader_num_workers: int = arg(
        -1, "processes that decode and augment; -1: none for images kept in memory, else one a core, 8 at most"
    )
    dataloader_drop_last: bool = arg(True, "drop a ragged last training batch")
    remove_unused_columns: bool | None = arg(False, "drop columns the model does not take")
    ddp_find_unused_parameters: bool | None = arg(False, "of DistributedDataParallel")
    logging_nan_inf_filter: bool = arg(False, "hide losses that are not finite")
    report_to: str = arg("none", "trackers, such as tensorboard")
    hub_strategy: str = arg("end", "end: a run is pushed once, when it is finished")
    disable_tqdm: bool | None = arg(None, "no progress bar (default: where there is no terminal)")


# Of transformers' own flags, those that `--help` shows; `--help_all` shows the rest.
COMMON_TRAINING_FLAGS = {
    *("output_dir", "num_train_epochs", "max_steps", "seed", "per_device_train_batch_size"),
    *("per_device_eval_batch_size", "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type"),
    *("warmup_steps", "optim", "weight_decay", "max_grad_norm", "label_smoothing_factor", "eval_strategy"),
    *("save_strategy", "save_steps", "save_total_limit", "logging_strategy", "logging_steps"),
    *("dataloader_num_workers", "dataloader_drop_last", "metric_for_best_model", "report_to"),
    *("push_to_hub", "hub_model_id", "hub_private_repo"),
}
