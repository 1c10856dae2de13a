"""`PaCoTrainingArguments`: `transformers.TrainingArguments` with the method's settings and defaults."""

import sys
from dataclasses import dataclass, field
from typing import Literal

import torch
from transformers import TrainingArguments

from ..utils.hardware import hardware_precision

# Of transformers' own flags, those that `--help` shows; `--help_all` shows the rest.
COMMON_TRAINING_FLAGS = {
    "output_dir",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
    "weight_decay",
    "max_grad_norm",
    "label_smoothing_factor",
    "seed",
    "eval_strategy",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "logging_strategy",
    "logging_steps",
    "dataloader_num_workers",
    "dataloader_drop_last",
    "metric_for_best_model",
    "report_to",
    "push_to_hub",
    "hub_model_id",
    "hub_private_repo",
}

CONTRASTIVE = ("paco", "gpaco", "multitask", "gpaco_single")


@dataclass
class PaCoTrainingArguments(TrainingArguments):
    """Arguments of [`PaCoTrainer`]: those of `transformers.TrainingArguments`, and the method's.

    Defaults that differ from `TrainingArguments`: `optim="sgd"`, `learning_rate=0.02`, `weight_decay=5e-4`,
    `per_device_train_batch_size=128`, `per_device_eval_batch_size=256`, `max_grad_norm=0` (no clipping),
    `num_train_epochs=100`, `eval_strategy="epoch"`, `save_strategy="epoch"`, `save_total_limit=1`,
    `logging_strategy="epoch"`, `dataloader_num_workers=-1` (chosen by the data; with [`PaCoTrainer`] alone 0),
    `metric_for_best_model="balanced_accuracy"`, `dataloader_drop_last=True` (training only),
    `remove_unused_columns=False`, `ddp_find_unused_parameters=False`, `logging_nan_inf_filter=False` (a loss that
    is not finite stops the run), `report_to="none"`, `hub_strategy="end"` (there is no other), `disable_tqdm` where
    standard error is no terminal, and `use_cpu` where there is no accelerator.
    """

    loss: Literal["paco", "gpaco", "multitask", "gpaco_single", "balanced_softmax", "ce"] = field(
        default="paco",
        metadata={"help": "what is trained: PaCo, GPaCo, its multi-task or one-view variant, or a baseline"},
    )
    alpha: float | None = field(
        default=None,
        metadata={"help": "weight of each positive (default: 0.05; multitask: of the contrastive part, 0.5)"},
    )
    beta: float = field(default=1.0, metadata={"help": "weight of an anchor's class centre (paco, gpaco)"})
    gamma: float = field(default=1.0, metadata={"help": "weight of the rows in the denominator (paco, gpaco)"})
    temperature: float = field(default=0.2, metadata={"help": "divides the similarities of features"})
    supervised_temperature: float = field(default=1.0, metadata={"help": "divides the class logits (paco, gpaco)"})
    class_prior: bool = field(
        default=True,
        metadata={"help": "add the log of the class frequencies to the class logits in the loss (not ce)"},
    )
    projection_dim: int = field(default=128, metadata={"help": "width D of the projected features"})
    queue_size: int = field(default=8192, metadata={"help": "length K of the queue of past keys; 0: none"})
    key_momentum: float = field(default=0.999, metadata={"help": "momentum of the key encoder (paco)"})
    projector: Literal["auto", "mlp2-bn", "mlp3-relu", "mlp3-gelu"] = field(
        default="auto", metadata={"help": "projector; auto: mlp2-bn for paco, else mlp3-relu (mlp3-gelu on a ViT)"}
    )
    gather_batch: bool = field(
        default=False, metadata={"help": "contrast with the batches of all processes, not only the own"}
    )
    momentum: float = field(default=0.9, metadata={"help": "momentum of SGD"})
    nesterov: bool = field(default=False, metadata={"help": "Nesterov momentum for SGD"})
    decay_all_parameters: bool = field(
        default=True,
        metadata={"help": "weight decay on biases and norms too, as in the reference; false: the usual exclusions"},
    )
    layer_decay: float | None = field(
        default=None,
        metadata={
            "help": "factor of the learning rate from each layer of the backbone to the one below it, such as 0.65 "
            "(default: one rate for all)"
        },
    )
    trainable_convolutions: str | None = field(
        default=None,
        metadata={"help": "train only the convolutions under this part of the backbone, such as layer4.2"},
    )
    epoch_schedule: Literal["none", "cosine", "cifar_step", "mae"] = field(
        default="none",
        metadata={
            "help": "the reference's schedules: cosine and cifar_step, set once an epoch, and mae, set each step; "
            "none: --lr_scheduler_type, each step"
        },
    )
    warmup_epochs: int = field(default=10, metadata={"help": "warm-up of --epoch_schedule"})
    min_learning_rate: float = field(default=0.0, metadata={"help": "where the schedule mae ends"})
    precision: Literal["auto", "fp32", "bf16", "fp16"] = field(
        default="auto",
        metadata={"help": "auto: bf16 where the hardware has it, else fp32; the loss is always float32"},
    )
    channels_last: bool = field(default=True, metadata={"help": "keep images and weights in channels-last memory"})

    optim: str = field(default="sgd", metadata={"help": "optimizer, any that transformers knows"})
    learning_rate: float = field(default=0.02, metadata={"help": "peak learning rate, for the whole batch"})
    weight_decay: float = field(default=5e-4, metadata={"help": "weight decay"})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "training images a process and step"})
    per_device_eval_batch_size: int = field(default=256, metadata={"help": "evaluation images a process and step"})
    num_train_epochs: float = field(default=100, metadata={"help": "passes over the training images"})
    max_grad_norm: float = field(default=0.0, metadata={"help": "clip gradients to this norm; 0: never"})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "schedule where --epoch_schedule is none"})
    eval_strategy: str = field(default="epoch", metadata={"help": "when to score the validation split"})
    save_strategy: str = field(default="epoch", metadata={"help": "when to save a checkpoint: no, epoch or steps"})
    save_total_limit: int | None = field(default=1, metadata={"help": "checkpoints to keep"})
    logging_strategy: str = field(default="epoch", metadata={"help": "when to log: epoch or steps"})
    metric_for_best_model: str | None = field(
        default="balanced_accuracy", metadata={"help": "validation metric that selects the model"}
    )
    dataloader_num_workers: int = field(
        default=-1,
        metadata={
            "help": "processes that decode and augment; -1: none for images kept in memory, else one a core, 8 at most"
        },
    )
    dataloader_drop_last: bool = field(default=True, metadata={"help": "drop a ragged last training batch"})
    remove_unused_columns: bool | None = field(
        default=False, metadata={"help": "drop columns the model does not take"}
    )
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "of DistributedDataParallel"})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "hide losses that are not finite"})
    report_to: str = field(default="none", metadata={"help": "trackers, such as tensorboard"})
    hub_strategy: str = field(default="end", metadata={"help": "end: a run is pushed once, when it is finished"})
    disable_tqdm: bool | None = field(
        default=None, metadata={"help": "no progress bar (default: where there is no terminal)"}
    )

    def __post_init__(self) -> None:
        self.bf16: bool
        self.fp16: bool
        if self.disable_tqdm is None:
            self.disable_tqdm = not sys.stderr.isatty()
        if not torch.accelerator.is_available():
            self.use_cpu = True
        if self.precision == "auto" and not (self.bf16 or self.fp16):
            self.bf16 = hardware_precision(self.use_cpu) == "bf16"
        elif self.precision != "auto":
            if (self.bf16 and self.precision != "bf16") or (self.fp16 and self.precision != "fp16"):
                raise ValueError(f"--precision {self.precision} contradicts --bf16 {self.bf16} --fp16 {self.fp16}")
            self.bf16, self.fp16 = self.precision == "bf16", self.precision == "fp16"
        if self.fp16 and self.use_cpu:
            raise ValueError("fp16 needs a GPU: on a CPU choose --precision bf16 or fp32")
        self._check()
        super().__post_init__()

    def _check(self) -> None:
        for name, allowed in (
            ("loss", (*CONTRASTIVE, "balanced_softmax", "ce")),
            ("epoch_schedule", ("none", "cosine", "cifar_step", "mae")),
            ("precision", ("auto", "fp32", "bf16", "fp16")),
            ("hub_strategy", ("end",)),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("temperature", "supervised_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name, least in (
            ("gradient_accumulation_steps", 1),
            ("per_device_train_batch_size", 1),
            ("per_device_eval_batch_size", 1),
            ("projection_dim", 1),
            ("queue_size", 0),
            ("warmup_epochs", 0),
            ("learning_rate", 0),
            ("min_learning_rate", 0),
            ("weight_decay", 0),
        ):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 <= self.label_smoothing_factor < 1:
            raise ValueError(
                f"label_smoothing_factor must be at least 0 and below 1, got {self.label_smoothing_factor}"
            )
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be above 0 and at most 1, got {self.layer_decay}")
        if self.epoch_schedule == "mae" and self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate must be at most learning_rate, {self.learning_rate}, got {self.min_learning_rate}"
            )
        if not 0 <= self.key_momentum <= 1:
            raise ValueError(f"key_momentum must be between 0 and 1, got {self.key_momentum}")
        if not self.num_train_epochs > 0 and not self.max_steps > 0:
            raise ValueError(f"num_train_epochs must be positive, got {self.num_train_epochs}")

    @property
    def is_contrastive(self) -> bool:
        """Whether the loss contrasts features (and so needs projector and queue)."""
        return self.loss in CONTRASTIVE

    @property
    def resolved_precision(self) -> str:
        """What `precision` came to on this hardware: `bf16`, `fp16` or `fp32`."""
        return "bf16" if self.bf16 else "fp16" if self.fp16 else "fp32"

    @property
    def num_views(self) -> int:
        """Augmented views of an image that the loss needs: 1 or 2."""
        return 2 if self.loss in ("paco", "gpaco", "multitask") else 1
