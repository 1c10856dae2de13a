"""A readable line for each log of a training, above a progress bar on a terminal."""

from typing import Any

from transformers import ProgressCallback, TrainerCallback

from ..metrics import HEADLINE, TITLES


class ReadableLines(TrainerCallback):
    """Prints a readable line for each log: all that there is to see where there is no terminal."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Print the entry.

        Args:
            args, state, control, logs, kwargs: as in [`transformers.TrainerCallback`].
        """
        line = readable(logs or {}, state)
        if state.is_world_process_zero and line is not None:
            self.write(line)

    def write(self, line: str) -> None:
        print(line, flush=True)


class ReadableProgress(ReadableLines, ProgressCallback):
    """transformers' progress bar, with the readable lines above it."""

    def write(self, line: str) -> None:
        if self.training_bar is not None:
            self.training_bar.write(line)
        else:
            super().write(line)


def readable(logs: dict[str, Any], state: Any) -> str | None:
    """One line for a log entry: losses, or validation scores in percent; `None` for what is neither."""
    total = state.num_train_epochs
    where = f"step {state.global_step}/{state.max_steps}, epoch {state.epoch or 0:.4g}/{total}"
    if "eval_accuracy" in logs:
        scores = [
            f"{TITLES[name].short} {100 * logs[f'eval_{name}']:.1f}" for name in HEADLINE if f"eval_{name}" in logs
        ]
        return f"{where}: validation " + ", ".join(scores)
    if "loss" not in logs:
        return None
    line = f"{where}: loss {logs['loss']:.4g}"
    if "class_loss" in logs:
        line += f" (class {logs['class_loss']:.4g}, contrastive {logs['contrast_loss']:.4g})"
    line += f", learning rate {logs['learning_rate']:.3g}"
    if "positives_per_anchor" in logs:
        line += f", {logs['positives_per_anchor']:.3g} positives per anchor"
    if logs.get("queue_fill", 1) < 1:
        line += f", queue {100 * logs['queue_fill']:.0f}% filled"
    return line
