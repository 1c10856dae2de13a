"""Settings of a training that contradict its model or data."""

from typing import Any

from ..metrics import score_fields


def check_metric(name: str | None, config: Any) -> None:
    classes = range(config.num_labels)
    known = [*score_fields(classes, classes, config), "loss"]
    if name is not None and name.removeprefix("eval_") not in known:
        raise ValueError(f"metric_for_best_model must be one of {', '.join(known)} for these classes, got {name!r}")
