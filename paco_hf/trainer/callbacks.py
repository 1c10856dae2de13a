"""What happens beside training: key encoder's step, sampler's epoch, log file, best weights, and the time it takes."""

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

from ..models.modeling_contrastive import PaCoForContrastiveTraining
from ..runs.layout import LOG_NAME
from ..utils.distributed import world_size
from ..utils.files import replacing
from ..utils.interrupts import check_interrupt
from ..utils.signals import Termination
from ..utils.tensors import save_tensors

_log = logging.get_logger(__name__)


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
        """Note what the logits will be for, and which parameters the key encoder follows.

        Args:
            args, state, control, kwargs: as in [`transformers.TrainerCallback`].
        """
        # What the logits are for changes with the weights, and both are the model's that the trainer was handed.
        self.trainer.model.config.balanced_logits = self.trainer.class_counts is not None
        contrastive = isinstance(self.trainer.model, PaCoForContrastiveTraining)
        self.parameters = self.trainer.model.key_and_query_parameters() if contrastive else None

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell the sampler which epoch it is, also where a resumed training starts within one.

        Args:
            args, state, control, kwargs: as in [`transformers.TrainerCallback`].
        """
        if self.trainer.train_sampler is not None:
            self.trainer.train_sampler.set_epoch(state.global_step // self.trainer.updates_per_epoch)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the key encoder.

        Args:
            args, state, control, kwargs: as in [`transformers.TrainerCallback`].
        """
        if self.parameters is not None:
            self.trainer.model.update_key_encoder(self.parameters)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put off the checkpoint of an epoch's last step.

        Args:
            args, state, control, kwargs: as in [`transformers.TrainerCallback`].
        """
        # The checkpoint of an epoch's last step comes after the epoch's validation: a run killed between the two would
        # otherwise go on with the next epoch, without it.
        last = control.should_training_stop or state.global_step % self.trainer.updates_per_epoch == 0
        if control.should_save and last:
            control.should_save, self.save_at_end = False, True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save what was put off.

        Args:
            args, state, control, kwargs: as in [`transformers.TrainerCallback`].
        """
        if self.save_at_end:
            control.should_save, self.save_at_end = True, False


class StopCallback(TrainerCallback):
    """Ends a training on request, after the checkpoint of a step; `step` is then that step.

    The step is one as any other: a step that validates does so before its checkpoint.

    Args:
        termination ([`Termination`]): the request, which one process is enough for.
    """

    def __init__(self, termination: Termination) -> None:
        self.termination = termination
        self.stopping, self.step = False, 0
        self.group: Any = None
        # Kept: freed by gloo's thread, it would have that take Python's locks, perhaps while this process forks.
        self.requested = torch.tensor(0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make a group of processes that agree on the CPU, so that no step waits for the GPU.

        Args:
            args, state, control, kwargs: as in [`transformers.TrainerCallback`].
        """
        if world_size() > 1:
            self.group = dist.new_group(backend="gloo")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Agree with the other processes, and have a checkpoint written; `KeyboardInterrupt` where one was swallowed.

        Args:
            args, state, control, kwargs: as in [`transformers.TrainerCallback`].
        """
        check_interrupt()
        self.requested.fill_(int(self.termination.requested))
        if self.group is not None:
            dist.all_reduce(self.requested, dist.ReduceOp.MAX, self.group)
        self.stopping = bool(self.requested)
        control.should_save |= self.stopping

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """`KeyboardInterrupt` where one was swallowed.

        Args:
            args, state, control, kwargs: as in [`transformers.TrainerCallback`].
        """
        check_interrupt()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop, now that the checkpoint is complete.

        Args:
            args, state, control, kwargs: as in [`transformers.TrainerCallback`].
        """
        if self.stopping:
            control.should_training_stop, self.step = True, state.global_step

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave out what the end of an epoch would bring: the epoch has not ended.

        Args:
            args, state, control, kwargs: as in [`transformers.TrainerCallback`].
        """
        if self.step:
            control.should_log = control.should_evaluate = control.should_save = False


class LogFileCallback(TrainerCallback):
    """Keeps `log.jsonl`, one JSON object a line; a resumed run cuts it back to its checkpoint first."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the file, or cut it back.

        Args:
            args, state, control, kwargs: as in [`transformers.TrainerCallback`].
        """
        self._write(args, state, "w", state.log_history)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the newest entry.

        Args:
            args, state, control, kwargs: as in [`transformers.TrainerCallback`].
        """
        self._write(args, state, "a", state.log_history[-1:])

    def _write(self, args: Any, state: Any, mode: str, entries: list[dict[str, Any]]) -> None:
        if args.should_save:
            with open(Path(args.output_dir) / LOG_NAME, mode, encoding="utf-8") as file:
                file.writelines(json.dumps(entry) + "\n" for entry in entries)


def selected_file(args: Any, state: Any) -> Path:
    """The file with the weights of the best score so far.

    Args:
        args (`transformers.TrainingArguments`): the folder is their `output_dir`.
        state (`transformers.TrainerState`): the step is its `best_global_step`.

    Returns:
        `selected-N.safetensors`, whether it exists or not.
    """
    return Path(args.output_dir) / f"selected-{state.best_global_step}.safetensors"


class SelectionCallback(TrainerCallback):
    """Writes the weights after each validation of a training whose score, `args.metric_for_best_model`, is the best.

    Earlier selections stay until the next checkpoint is complete, so that a run killed between the two resumes with
    the weights that its checkpoint speaks of.

    Args:
        trainer ([`CheckpointingTrainer`]): its `trained_tensors` are written.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take over the best weights of the run that a checkpoint of another folder is of.

        Args:
            args, state, control, kwargs: as in [`transformers.TrainerCallback`].
        """
        file, source = selected_file(args, state), self.trainer.resumed_from
        if not state.best_global_step or source is None:
            return
        if args.should_save and not file.exists() and (earlier := source.parent / file.name).exists():
            with replacing(file) as partial:
                shutil.copyfile(earlier, partial)
        self.trainer.accelerator.wait_for_everyone()
        if not file.exists():
            _log.warning(
                f"{source} refers to best weights, {file.name}, which are neither next to it nor in "
                f"{args.output_dir}: the best weights from now on are kept"
            )
            state.best_metric = state.best_global_step = None

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Compare the score with the best one, and write the weights.

        Args:
            args, state, control, metrics, kwargs: as in [`transformers.TrainerCallback`].
        """
        score = (metrics or {}).get(f"eval_{str(args.metric_for_best_model).removeprefix('eval_')}")
        if score is None or not self.trainer.is_in_train or state.global_step == 0:
            return
        sign = 1 if args.greater_is_better else -1
        # The best metric itself is noted by the base class, after this.
        best = -math.inf if state.best_metric is None else sign * state.best_metric
        if sign * score > best:
            state.best_global_step = state.global_step
            if args.should_save:
                save_tensors(self.trainer.trained_tensors(), selected_file(args, state))


class TrainingTime(TrainerCallback, ExportableState):
    """Counts the seconds of training. Checkpoints keep them, so that those before a resume count too."""

    def __init__(self) -> None:
        self.before = 0.0
        self.start = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take over the seconds of a checkpoint.

        Args:
            args, state, control, kwargs: as in [`transformers.TrainerCallback`].
        """
        stored = state.stateful_callbacks.get(type(self).__name__)
        if state.global_step > 0:
            # A checkpoint that kept no time: how long it took is not known.
            self.before = stored["attributes"]["seconds"] if stored else math.nan
        self.start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training so far, not a number where a checkpoint kept no time."""
        return self.before + time.monotonic() - self.start

    @seconds.setter
    def seconds(self, value: float) -> None:
        self.before, self.start = value, time.monotonic()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {}, "attributes": {"seconds": self.seconds}}
