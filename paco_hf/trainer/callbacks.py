"""What happens beside training: the key encoder's step, the sampler's epoch, the log file, and what the user sees."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from ..models.modeling_contrastive import PaCoForContrastiveTraining
from ..runs.layout import LOG_NAME


class MethodCallback(TrainerCallback):
    """Moves the key encoder after each optimizer step, tells the sampler the epoch, saves after validation.

    Args:
        trainer ([`PaCoTrainer`]): whose training it is.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.parameters: Any = None
        self.save_at_end = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # What the logits are for changes with the weights, and both are the model's that the trainer was handed.
        self.trainer.model.config.balanced_logits = self.trainer.class_counts is not None
        if isinstance(self.trainer.model, PaCoForContrastiveTraining):
            self.parameters = self.trainer.model.key_and_query_parameters()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.train_sampler is not None:
            self.trainer.train_sampler.set_epoch(state.global_step // self.trainer.updates_per_epoch)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.parameters is not None:
            self.trainer.model.update_key_encoder(self.parameters)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The checkpoint of an epoch's last step comes after the epoch's validation: a run killed between the two would
        # otherwise go on with the next epoch, without it.
        last = control.should_training_stop or state.global_step % self.trainer.updates_per_epoch == 0
        if control.should_save and last:
            control.should_save, self.save_at_end = False, True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.save_at_end:
            control.should_save, self.save_at_end = True, False


class LogFileCallback(TrainerCallback):
    """Keeps `log.jsonl`, one JSON object a line; a resumed run cuts it back to its checkpoint first."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write(args, state, "w", state.log_history)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write(args, state, "a", state.log_history[-1:])

    def _write(self, args: Any, state: Any, mode: str, entries: list[dict[str, Any]]) -> None:
        if state.is_world_process_zero:
            with open(Path(args.output_dir) / LOG_NAME, mode, encoding="utf-8") as file:
                file.writelines(json.dumps(entry) + "\n" for entry in entries)


class OnTrainBegin(TrainerCallback):
    """Calls a function on the main process once everything is loaded and training is about to begin.

    Args:
        action (callable): called without arguments.
    """

    def __init__(self, action: Callable[[], None]) -> None:
        self.action = action

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.action()


class TrainingTime(TrainerCallback, ExportableState):
    """Counts the seconds of training. Checkpoints keep them, so that those before a resume count too."""

    def __init__(self) -> None:
        self.before = 0.0
        self.start = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        stored = state.stateful_callbacks.get(type(self).__name__)
        if state.global_step > 0:
            # A checkpoint that kept no time: how long it took is not known.
            self.before = stored["attributes"]["seconds"] if stored else math.nan
        self.start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training so far, not a number where a checkpoint kept no time."""
        return self.before + time.monotonic() - self.start

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {}, "attributes": {"seconds": self.seconds}}
