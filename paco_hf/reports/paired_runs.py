"""What runs of the same seeds and test images tell beyond the means of each: paired differences, and agreement."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.paired import image_differences, pairwise_agreement, seed_differences
from ..evaluation.predictions import Predictions
from ..metrics import HEADLINE
from ..runs.layout import EVALUATION_FOLDER, PREDICTIONS_NAME

Run = dict[str, Any]


def paired_differences(groups: Sequence[Sequence[Run]]) -> list[dict[str, Any]]:
    """The differences of each group of runs to the first, over the seeds that both have.

    Args:
        groups (sequence of sequences of `dict`): runs as [`paco_hf.reports.run_comparison.compare_runs`] reads them,
            all scored on the same images.

    Returns:
        a dictionary a group but the first, where it has seeds of the first: `groups` (its name, and that of the
        first), `seeds`, `scores` (by name what [`paco_hf.evaluation.paired.seed_differences`] gives, `None` where one
        has no such score), and `images` ([`paco_hf.evaluation.paired.image_differences`], `None` where the runs do
        not have the predictions of the same images).
    """
    pairs = []
    for group in groups[1:]:
        first = {run["seed"]: run for run in groups[0]}
        seeds = [run["seed"] for run in group if run["seed"] in first]
        if not seeds or len({*seeds}) < len(seeds) or None in seeds:
            continue
        ours, theirs = [run for run in group if run["seed"] in first], [first[seed] for seed in seeds]
        pairs.append(
            {
                "groups": [group[0]["group"], groups[0][0]["group"]],
                "seeds": seeds,
                "scores": {name: _over_seeds(ours, theirs, name) for name in HEADLINE},
                "images": _over_images(ours, theirs),
            }
        )
    return pairs


def agreement(runs: Sequence[Run]) -> float | None:
    """[`paco_hf.evaluation.paired.pairwise_agreement`] of the runs of a group; `None` where their predictions are not
    known."""
    if len(runs) < 2 or (read := _predictions(runs)) is None:
        return None
    return pairwise_agreement(read[0])


def _over_seeds(ours: Sequence[Run], theirs: Sequence[Run], name: str) -> dict[str, Any] | None:
    values = [[run["scores"].get(name) for run in runs] for runs in (ours, theirs)]
    return None if None in values[0] + values[1] else seed_differences(*values)


def _over_images(ours: Sequence[Run], theirs: Sequence[Run]) -> dict[str, Any] | None:
    read = _predictions([*ours, *theirs])
    if read is None:
        return None
    predictions, labels = read
    return image_differences(predictions[: len(ours)], predictions[len(ours) :], labels)


def _predictions(runs: Sequence[Run]) -> tuple[np.ndarray, np.ndarray] | None:
    """Predictions `(S, N)` and labels `(N,)` of runs; `None` where one has none, or those of other images."""
    files = [Path(run["folder"]) / EVALUATION_FOLDER / PREDICTIONS_NAME for run in runs]
    if any(run["test"]["split"] != "test" for run in runs) or not all(file.is_file() for file in files):
        return None
    read = [Predictions.read(file) for file in files]
    first = read[0]
    same = all(
        one.file == first.file and np.array_equal(one.row, first.row) and np.array_equal(one.label, first.label)
        for one in read
    )
    return (np.stack([one.prediction for one in read]), first.label) if same else None
