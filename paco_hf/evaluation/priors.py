"""Class priors: logits adapted to them, and scores where the classes are distributed otherwise."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

RATIOS = (50, 25, 10, 5, 2)
# Directions and ratios of the priors that a report shows.
PRIORS = [("forward", r) for r in RATIOS] + [("uniform", 1)] + [("backward", r) for r in reversed(RATIOS)]


def read_frequencies(file: str) -> dict[str, float]:
    """Class frequencies by label, of a file that `paco-hf estimate-prior` wrote.

    Raises:
        ValueError: it is something else.
        OSError: there is no such file.
    """
    try:
        stored = json.loads(Path(file).read_text(encoding="utf-8"))
        frequencies = {entry["label"]: float(entry["frequency"]) for entry in stored["classes"]}
        wrong = next((label for label, value in frequencies.items() if not 0 <= value < math.inf), None)
        if wrong is not None:
            raise ValueError(f"the frequency of {wrong!r} must be finite and at least 0, got {frequencies[wrong]}")
        if sum(frequencies.values()) <= 0:
            raise ValueError("at least one frequency must be above 0, but all are 0")
    except OSError as error:
        raise OSError(f"--prior must be training, none or a file, got {file!r} ({error})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} must be a file from `paco-hf estimate-prior --output` ({error})") from error
    return frequencies


def softmax(logits: np.ndarray) -> np.ndarray:
    """Rows of probabilities, in float64 where the logits are."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def log_frequencies(counts: Sequence[int]) -> np.ndarray:
    """Logarithms of the classes' shares, `(C,)`; a class that was never seen counts as seen once."""
    images = np.maximum(np.asarray(counts), 1)
    return np.log(images / images.sum()).astype(np.float32)


def shifted_prior(counts: np.ndarray, ratio: float, direction: str) -> np.ndarray:
    """Class frequencies that fall geometrically by `ratio` from first to last class: `forward` in the order of the
    training counts, `backward` in the reverse order, `uniform` not at all (Hong et al., CVPR 2021). `(C,)`, sum 1.

    Args:
        counts (`(C,)`): training images of each class.
        ratio (`float`): of the most to the least frequent class.
        direction (`str`): `forward`, `uniform` or `backward`.
    """
    rank = np.empty(len(counts))
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(counts)) / max(len(counts) - 1, 1)
    exponent = {"forward": rank, "uniform": np.zeros(len(counts)), "backward": 1 - rank}[direction]
    weight = float(ratio) ** -exponent
    return weight / weight.sum()


def scores_under_priors(
    adapted: np.ndarray, true: np.ndarray, predicted: np.ndarray, counts: np.ndarray
) -> dict[str, Any]:
    """Accuracy where classes are as frequent as a prior says, from the accuracy of each class: of the predictions as
    they are, and with the log of the prior added to the (balanced) logits.

    Args:
        adapted (`(P, N)`): class ids of the predictions with each of [`PRIORS`].
        true (`(N,)`): class ids.
        predicted (`(N,)`): class ids of the predictions as they are.
        counts (`(C,)`): training images of each class.
    """
    images = np.bincount(true, minlength=len(counts))
    rows = []
    for (direction, ratio), better in zip(PRIORS, adapted, strict=True):
        weight = np.where(images > 0, shifted_prior(counts, ratio, direction), 0)
        weight = weight / weight.sum()
        accuracies = (
            float(weight @ (np.bincount(true[p == true], minlength=len(counts)) / np.maximum(images, 1)))
            for p in (predicted, better)
        )
        rows.append(
            {"direction": direction, "ratio": ratio, **dict(zip(("accuracy", "adapted"), accuracies, strict=True))}
        )
    return {"ratios": list(RATIOS), "rows": rows}
