"""Class frequencies of unlabeled images, by expectation maximization (Saerens et al., 2002)."""

from typing import Any

import numpy as np
from tqdm.auto import tqdm

MIN_FREQUENCY = 1e-6  # an estimate of 0 would rule a class out for good


def estimate_prior(
    probabilities: Any,
    *,
    smoothing: float = 1.0,
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
    iterations: int = 2000,
    tolerance: float = 1e-6,
) -> dict[str, np.ndarray]:
    """Class frequencies of unlabeled images by expectation maximization (Saerens et al., Neural Computation 2002).

    Args:
        probabilities (`(N, C)`): of balanced logits (a world where classes are equally frequent). They are taken at
            their word: a class that the model often takes for another is underestimated.
        smoothing (`float`, *optional*, defaults to `1.0`): images of each class that are counted as if they had been
            seen besides (the mode under a Dirichlet prior). 0 is maximum likelihood, which gives classes that resemble
            others no image at all.
        resamples (`int`, *optional*, defaults to `200`): of the images, for the range; 0: none.
        level (`float`, *optional*, defaults to `0.95`): of the range, by percentiles. It covers which images were
            seen, not errors of the model.
        seed (`int`, *optional*, defaults to `0`): of the resamples.
        iterations, tolerance: EM ends when no frequency moves by more than the tolerance, or after so many rounds.

    Returns:
        `prior`, `low` and `high`, each `(C,)`; the last two are NaN without resamples.

    Raises:
        ValueError: no images, or rows that are no probabilities.
    """
    rows = np.asarray(probabilities, dtype=np.float64)
    if rows.ndim != 2 or rows.size == 0:
        raise ValueError(f"probabilities must be (N, C) with one image or more, got shape {rows.shape}")
    if not (np.isfinite(rows).all() and (rows >= 0).all() and np.allclose(rows.sum(axis=1), 1, atol=0.01)):
        raise ValueError("probabilities must be finite, not negative, and sum to 1 in each row: logits need a softmax")
    n, classes = rows.shape
    start = np.full(classes, 1 / classes)
    prior = _expectation_maximization(rows, np.ones(n), start, smoothing, iterations, tolerance)
    generator = np.random.default_rng(seed)
    drawn = np.empty((resamples, classes))
    for k in tqdm(range(resamples), desc="resampling", unit=" estimates", disable=None, leave=False):
        weights = np.bincount(generator.integers(n, size=n), minlength=n).astype(np.float64)
        # From near the estimate, yet with every class possible: a frequency of 0 would stay 0.
        start = 0.99 * prior + 0.01 / classes
        drawn[k] = _expectation_maximization(rows, weights, start, smoothing, iterations, 10 * tolerance)
    ends = ((1 - level) / 2, (1 + level) / 2)
    low, high = np.quantile(drawn, ends, axis=0) if resamples else np.full((2, classes), np.nan)
    return {"prior": prior, "low": low, "high": high}


def _expectation_maximization(
    rows: np.ndarray, weights: np.ndarray, start: np.ndarray, smoothing: float, iterations: int, tolerance: float
) -> np.ndarray:
    prior = start
    for _ in range(iterations):
        evidence = rows @ prior
        updated = prior * (rows.T @ (weights / np.maximum(evidence, np.finfo(np.float64).tiny))) + smoothing
        updated /= updated.sum()
        moved = float(np.abs(updated - prior).max())
        prior = updated
        if moved <= tolerance:
            break
    return prior
