"""`PaCoTrainingArguments`: `transformers.TrainingArguments` with the method's settings and defaults."""

import copy
import sys
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainingArguments

from ..losses.specs import LOSSES, LossSpec, loss_spec
from ..utils.hardware import hardware_precision
from ..utils.versions import check_versions
from .fields import check_ranges
from .method_arguments import ChangedDefaults, CommonArguments, MethodArguments
from .unsupported import check_accelerator, check_idle, check_supported

check_versions()  # again: whatever imported transformers first may have swallowed the error


@dataclass
class PaCoTrainingArguments(CommonArguments, ChangedDefaults, MethodArguments, TrainingArguments):
    """Arguments of [`PaCoTrainer`]: those of `transformers.TrainingArguments` and the settings of the method.

    These defaults differ from `transformers.TrainingArguments`:

    * optimization: `optim="sgd"`, `learning_rate=0.02`, `weight_decay=5e-4`, `max_grad_norm=0` (no clipping),
      `num_train_epochs=100`, `per_device_train_batch_size=128`, `per_device_eval_batch_size=64`,
      `dataloader_drop_last=True` (training only);
    * evaluation and checkpoints: `eval_strategy="epoch"`, `save_strategy="epoch"`, `save_total_limit=1`,
      `logging_strategy="epoch"`, `metric_for_best_model="balanced_accuracy"`, `logging_nan_inf_filter=False` (a loss
      that is not finite stops the run);
    * chosen automatically: `dataloader_num_workers=-1` (from the data; with [`PaCoTrainer`] alone, 0),
      `torch_compile="auto"` (from the length of the run; with [`PaCoTrainer`] alone, `False`), `disable_tqdm` (true if
      standard error is not a terminal), `use_cpu` (true if there is no accelerator);
    * others: `remove_unused_columns=False`, `ddp_find_unused_parameters=False`, `log_level_replica="passive"` (the
      same as the first process), `report_to="none"`, `hub_strategy="end"` (the only supported value).

    Args: the fields of [`MethodArguments`], [`CommonArguments`] and [`ChangedDefaults`], and those of
        `transformers.TrainingArguments`.

    Raises:
        ValueError: a value is out of range, two settings contradict each other, or a setting is in [`UNSUPPORTED`].

    Example:

    ```python
    from paco_hf import PaCoTrainingArguments

    args = PaCoTrainingArguments("runs/demo", loss="paco", num_train_epochs=10, temperature=0.05, use_cpu=True)
    print(args.optim, args.learning_rate)
    ```
    """

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
                raise ValueError(
                    f"--precision {self.precision} contradicts --bf16 {self.bf16} --fp16 {self.fp16}: remove "
                    "--bf16 and --fp16"
                )
            self.bf16, self.fp16 = self.precision == "bf16", self.precision == "fp16"
        if self.fp16 and self.use_cpu:
            raise ValueError("fp16 needs a GPU: on a CPU, use --precision bf16 or fp32")
        if loss_spec(self.loss).prior == "required" and not self.class_prior:
            raise ValueError(
                f"class_prior=False contradicts loss {self.loss!r}, which needs the class frequencies: use "
                "loss='ce', or remove class_prior"
            )
        check_ranges(self)
        if self.torch_compile in ("true", "false"):
            self.torch_compile = self.torch_compile == "true"
        if self.torch_compile == "auto" and (self.torch_compile_backend or self.torch_compile_mode):
            self.torch_compile = True  # as in transformers
        if self.torch_compile is False and (kind := self.torch_compile_mode or self.torch_compile_backend):
            raise ValueError(f"torch_compile=False contradicts the compile setting {kind!r}: set only one of them")
        check_supported(self)
        check_idle(self)
        if self.hub_strategy != "end":
            raise ValueError(
                "hub_strategy must be 'end', because a run is pushed once, when it is finished, got "
                f"{self.hub_strategy!r}"
            )
        if self.epoch_schedule == "mae" and self.min_learning_rate > self.learning_rate:
            limit = f"at most learning_rate, {self.learning_rate}"
            raise ValueError(f"min_learning_rate must be {limit}, got {self.min_learning_rate}")
        if self.max_steps == 0 or self.max_steps < -1 or self.max_steps != int(self.max_steps):
            raise ValueError(
                f"max_steps must be a positive integer, or -1 to train for num_train_epochs, got {self.max_steps}"
            )
        if not self.num_train_epochs > 0 and not self.max_steps > 0:
            raise ValueError(f"num_train_epochs must be positive, got {self.num_train_epochs}")
        compiled = self.torch_compile
        if compiled == "auto" or self.use_cpu:  # which transformers warns of
            self.torch_compile = False
        try:
            super().__post_init__()
        except (TypeError, LookupError, AttributeError, ArithmeticError) as error:
            raise ValueError(f"transformers rejects a setting ({type(error).__name__}: {error}): change it") from error
        self.torch_compile = compiled
        check_accelerator(self.accelerator_config)

    def changed(self, **values: Any) -> "PaCoTrainingArguments":
        """A copy with other values, which are not checked; device and processes are not set up again."""
        result = copy.copy(self)
        result.__dict__.update(values)
        return result

    @property
    def device(self) -> torch.device:
        """Device of this process. The CPU has no index, because torch 2.7 loads nothing onto `cpu:0`."""
        device: torch.device = super().device
        return torch.device("cpu") if device.type == "cpu" else device

    @property
    def spec(self) -> LossSpec:
        """Definition of the loss."""
        return LOSSES[self.loss]

    @property
    def optimizer_name(self) -> str:
        """`optim` as text (transformers turns it into a member of an enumeration)."""
        return str(getattr(self.optim, "value", self.optim))

    @property
    def order_seed(self) -> int:
        """Seed of the order of the training images."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def resolved_precision(self) -> str:
        """Precision used on this hardware: `bf16`, `fp16` or `fp32`."""
        return "bf16" if self.bf16 else "fp16" if self.fp16 else "fp32"
