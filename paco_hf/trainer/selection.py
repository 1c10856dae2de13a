"""The weights of the best validation score, kept beside the checkpoints."""

import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ..utils.files import save_tensors


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

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
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
