"""`PaCoTrainingArguments`: `transformers.TrainingArguments` with the method's settings and defaults."""

import sys
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import TrainingArguments
from transformers.hf_argparser import HfArg

from ..losses.specs import DEFAULT_LOSS, LOSSES, LossSpec, loss_spec
from ..utils.hardware import hardware_precision

# Of transformers' own flags, those that `--help` shows; `--help_all` shows the rest.
COMMON_TRAINING_FLAGS = {
    *("output_dir", "num_train_epochs", "max_steps", "per_device_train_batch_size", "per_device_eval_batch_size"),
    *("gradient_accumulation_steps", "learning_rate", "lr_scheduler_type", "warmup_steps", "optim", "weight_decay"),
    *("max_grad_norm", "label_smoothing_factor", "seed", "eval_strategy", "save_strategy", "save_steps"),
    *("save_total_limit", "logging_strategy", "logging_steps", "dataloader_num_workers", "dataloader_drop_last"),
    *("metric_for_best_model", "report_to", "push_to_hub", "hub_model_id", "hub_private_repo"),
}


@dataclass
class PaCoTrainingArguments(TrainingArguments):
    """Arguments of [`PaCoTrainer`]: those of `transformers.TrainingArguments`, and the method's.

    Each field's metadata has its help text, which `paco-hf train --help` prints.

    Defaults that differ from `TrainingArguments`: `optim="sgd"`, `learning_rate=0.02`, `weight_decay=5e-4`,
    `per_device_train_batch_size=128`, `per_device_eval_batch_size=256`, `max_grad_norm=0` (no clipping),
    `num_train_epochs=100`, `eval_strategy="epoch"`, `save_strategy="epoch"`, `save_total_limit=1`,
    `logging_strategy="epoch"`, `dataloader_num_workers=-1` (chosen by the data; with [`PaCoTrainer`] alone 0),
    `metric_for_best_model="balanced_accuracy"`, `dataloader_drop_last=True` (training only),
    `remove_unused_columns=False`, `ddp_find_unused_parameters=False`, `logging_nan_inf_filter=False` (a loss that
    is not finite stops the run), `report_to="none"`, `hub_strategy="end"` (there is no other), `disable_tqdm` where
    standard error is no terminal, and `use_cpu` where there is no accelerator.

    Args:
        loss (`str`, *optional*, defaults to `"paco"`): a key of `paco_hf.losses.LOSSES`.
        alpha (`float`, *optional*): weight of each positive, `None`: 0.05; for multitask of the contrastive part, 0.5.
        beta (`float`, *optional*, defaults to `1.0`): weight of an anchor's class center.
        gamma (`float`, *optional*, defaults to `1.0`): weight of the rows in the denominator.
        temperature (`float`, *optional*, defaults to `0.2`): divides the similarities of features.
        supervised_temperature (`float`, *optional*, defaults to `1.0`): divides the class logits.
        class_prior (`bool`, *optional*, defaults to `True`): add the log of the class frequencies to the class logits.
        projection_dim (`int`, *optional*, defaults to `128`): width `D` of the projected features.
        queue_size (`int`, *optional*, defaults to `8192`): length `K` of the queue; 0 is no queue.
        key_momentum (`float`, *optional*, defaults to `0.999`): momentum of the key encoder.
        projector (`str`, *optional*, defaults to `"auto"`): `mlp2-bn`, `mlp3-relu` or `mlp3-gelu`.
        gather_batch (`bool`, *optional*, defaults to `False`): contrast with the batches of all processes.
        momentum (`float`, *optional*, defaults to `0.9`): momentum of SGD.
        nesterov (`bool`, *optional*, defaults to `False`): Nesterov momentum for SGD.
        decay_all_parameters (`bool`, *optional*, defaults to `True`): weight decay on biases and norms too.
        layer_decay (`float`, *optional*): factor of the learning rate from each layer to the one below it.
        trainable_convolutions (`str`, *optional*): train only the convolutions under this part of the backbone.
        epoch_schedule (`str`, *optional*, defaults to `"none"`): `none`, `cosine`, `cifar_step` or `mae`.
        warmup_epochs (`int`, *optional*, defaults to `10`): warm-up of `epoch_schedule`.
        min_learning_rate (`float`, *optional*, defaults to `0.0`): where the schedule `mae` ends.
        precision (`str`, *optional*, defaults to `"auto"`): `auto`, `fp32`, `bf16` or `fp16`.
        channels_last (`bool`, *optional*, defaults to `True`): keep images and weights in channels-last memory.

    Raises:
        ValueError: a value out of range, or two that contradict each other.
    """

    loss: str = HfArg(
        default=DEFAULT_LOSS,
        help="what is trained: PaCo, GPaCo, its multi-task or one-view variant, or a baseline",
        metadata={"choices": LOSSES.keys()},
    )
    alpha: float | None = HfArg(
        default=None, help="weight of each positive (default: 0.05; multitask: of the contrastive part, 0.5)"
    )
    beta: float = HfArg(default=1.0, help="weight of an anchor's class center (paco, gpaco)")
    gamma: float = HfArg(default=1.0, help="weight of the rows in the denominator (paco, gpaco)")
    temperature: float = HfArg(default=0.2, help="divides the similarities of features")
    supervised_temperature: float = HfArg(default=1.0, help="divides the class logits (paco, gpaco)")
    class_prior: bool = HfArg(
        default=True, help="add the log of the class frequencies to the class logits in the loss (not ce)"
    )
    projection_dim: int = HfArg(default=128, help="width D of the projected features")
    queue_size: int = HfArg(default=8192, help="length K of the queue of past keys; 0: none")
    key_momentum: float = HfArg(default=0.999, help="momentum of the key encoder (paco)")
    projector: Literal["auto", "mlp2-bn", "mlp3-relu", "mlp3-gelu"] = HfArg(
        default="auto", help="projector; auto: mlp2-bn for paco, else mlp3-relu (mlp3-gelu on a ViT)"
    )
    gather_batch: bool = HfArg(default=False, help="contrast with the batches of all processes, not only the own")
    momentum: float = HfArg(default=0.9, help="momentum of SGD")
    nesterov: bool = HfArg(default=False, help="Nesterov momentum for SGD")
    decay_all_parameters: bool = HfArg(
        default=True, help="weight decay on biases and norms too, as in the reference; false: the usual exclusions"
    )
    layer_decay: float | None = HfArg(
        default=None,
        help="factor of the learning rate from each layer of the backbone to the one below it, such as 0.65 "
        "(default: one rate for all)",
    )
    trainable_convolutions: str | None = HfArg(
        default=None, help="train only the convolutions under this part of the backbone, such as layer4.2"
    )
    epoch_schedule: Literal["none", "cosine", "cifar_step", "mae"] = HfArg(
        default="none",
        help="the reference's schedules: cosine and cifar_step, set once an epoch, and mae, set each step; "
        "none: --lr_scheduler_type, each step",
    )
    warmup_epochs: int = HfArg(default=10, help="warm-up of --epoch_schedule")
    min_learning_rate: float = HfArg(default=0.0, help="where the schedule mae ends")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = HfArg(
        default="auto", help="auto: bf16 where the hardware has it, else fp32; the loss is always float32"
    )
    channels_last: bool = HfArg(default=True, help="keep images and weights in channels-last memory")

    optim: str = HfArg(default="sgd", help="optimizer, any that transformers knows")
    learning_rate: float = HfArg(default=0.02, help="peak learning rate, for the whole batch")
    weight_decay: float = HfArg(default=5e-4, help="weight decay")
    per_device_train_batch_size: int = HfArg(default=128, help="training images a process and step")
    per_device_eval_batch_size: int = HfArg(default=256, help="evaluation images a process and step")
    num_train_epochs: float = HfArg(default=100, help="passes over the training images")
    max_grad_norm: float = HfArg(default=0.0, help="clip gradients to this norm; 0: never")
    lr_scheduler_type: str = HfArg(default="cosine", help="schedule where --epoch_schedule is none")
    eval_strategy: str = HfArg(default="epoch", help="when to score the validation split")
    save_strategy: str = HfArg(default="epoch", help="when to save a checkpoint: no, epoch or steps")
    save_total_limit: int | None = HfArg(default=1, help="checkpoints to keep")
    logging_strategy: str = HfArg(default="epoch", help="when to log: epoch or steps")
    metric_for_best_model: str | None = HfArg(
        default="balanced_accuracy", help="validation metric that selects the model"
    )
    dataloader_num_workers: int = HfArg(
        default=-1,
        help="processes that decode and augment; -1: none for images kept in memory, else one a core, 8 at most",
    )
    dataloader_drop_last: bool = HfArg(default=True, help="drop a ragged last training batch")
    remove_unused_columns: bool | None = HfArg(default=False, help="drop columns the model does not take")
    ddp_find_unused_parameters: bool | None = HfArg(default=False, help="of DistributedDataParallel")
    logging_nan_inf_filter: bool = HfArg(default=False, help="hide losses that are not finite")
    report_to: str = HfArg(default="none", help="trackers, such as tensorboard")
    hub_strategy: str = HfArg(default="end", help="end: a run is pushed once, when it is finished")
    disable_tqdm: bool | None = HfArg(default=None, help="no progress bar (default: where there is no terminal)")

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
        loss_spec(self.loss)
        for name, choices in (
            ("epoch_schedule", ("none", "cosine", "cifar_step", "mae")),
            ("precision", ("auto", "fp32", "bf16", "fp16")),
            ("hub_strategy", ("end",)),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        least = {
            **dict.fromkeys(("gradient_accumulation_steps", "projection_dim"), 1),
            **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), 1),
            **dict.fromkeys(("queue_size", "warmup_epochs", "learning_rate", "min_learning_rate", "weight_decay"), 0),
        }
        smoothing, lowest = self.label_smoothing_factor, self.min_learning_rate
        for name, wanted, holds in (
            ("temperature", "positive", self.temperature > 0),
            ("supervised_temperature", "positive", self.supervised_temperature > 0),
            *((name, f"at least {minimum}", getattr(self, name) >= minimum) for name, minimum in least.items()),
            ("label_smoothing_factor", "at least 0 and below 1", 0 <= smoothing < 1),
            ("layer_decay", "above 0 and at most 1", self.layer_decay is None or 0 < self.layer_decay <= 1),
            (
                "min_learning_rate",
                f"at most learning_rate, {self.learning_rate}",
                self.epoch_schedule != "mae" or lowest <= self.learning_rate,
            ),
            ("key_momentum", "between 0 and 1", 0 <= self.key_momentum <= 1),
            ("num_train_epochs", "positive", self.num_train_epochs > 0 or self.max_steps > 0),
        ):
            if not holds:
                raise ValueError(f"{name} must be {wanted}, got {getattr(self, name)}")

    @property
    def spec(self) -> LossSpec:
        """What the loss is and needs."""
        return LOSSES[self.loss]

    @property
    def resolved_precision(self) -> str:
        """What `precision` came to on this hardware: `bf16`, `fp16` or `fp32`."""
        return "bf16" if self.bf16 else "fp16" if self.fp16 else "fp32"
