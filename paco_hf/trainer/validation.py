"""Settings of a training that contradict its model or data."""

from typing import Any

from ..metrics import headline


def validation_scores(predictions: Any, references: Any, config: Any) -> dict[str, float]:
    """The numbers of [`headline`] that are defined: without class counts those that need no groups."""
    scores = headline(predictions, references, config)
    return {name: value for name, value in scores.items() if isinstance(value, float)}


def check_metric(name: str | None, config: Any) -> None:
    classes = range(config.num_labels)
    known = [*validation_scores(classes, classes, config), "loss"]
    if name is not None and name.removeprefix("eval_") not in known:
        raise ValueError(f"metric_for_best_model must be one of {', '.join(known)} for these classes, got {name!r}")
