"""Probabilities that can be trusted where a model is used: its temperature, and the class frequencies there."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .priors import log_frequencies

TEMPERATURE_RANGE = (0.02, 50.0)  # beyond, logits say nothing or everything
FEW_IMAGES = 100  # to fit a temperature on


def fit_temperature(logits: Any, labels: Any, logit_counts: Any = None) -> float:
    """Temperature scaling (Guo et al., ICML 2017) on a labeled split of any class frequencies.

    The labels' likelihood is that of `softmax(logits / T + log(frequencies of the labels))`: balanced logits are for a
    world where classes are equally frequent, the split mostly is not. Of logits that are for other frequencies the log
    of these is taken off.

    Args:
        logits (`(N, C)`): of images that were not trained on.
        labels (`(N,)`): their classes.
        logit_counts (`(C,)`, *optional*): what the logits are for (`PaCoConfig.logit_counts`); `None`: balanced.

    Returns:
        `T`, within 0.02 and 50.

    Raises:
        ValueError: fewer than two classes among the labels, which say nothing about a temperature.
    """
    scores = torch.as_tensor(np.asarray(logits), dtype=torch.float64)
    true = torch.as_tensor(np.asarray(labels), dtype=torch.long)
    frequencies = torch.bincount(true, minlength=scores.shape[1]).double()
    present = frequencies > 0
    if int(present.sum()) < 2:
        raise ValueError(
            f"a temperature needs images of two classes or more, got {len(true)} of {int(present.sum())}: give a "
            "larger validation split"
        )
    # Classes that the split does not have cannot be its labels.
    scores = scores[:, present]
    true = (present.cumsum(0) - 1)[true]
    prior = (frequencies[present] / frequencies.sum()).log()
    if logit_counts is not None:
        prior = prior - torch.as_tensor(log_frequencies(logit_counts))[present].double()
    log_scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_scale], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(scores * log_scale.exp() + prior, true)
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(np.clip(float((-log_scale.detach()).exp()), *TEMPERATURE_RANGE))


def temperature_warning(temperature: float, images: int) -> str:
    """What makes a fitted temperature doubtful, for the user to read; empty where nothing does.

    Args:
        temperature (`float`): of [`fit_temperature`].
        images (`int`): that it was fitted on.
    """
    if temperature in TEMPERATURE_RANGE:
        return "WARNING: that is the limit: the logits say almost nothing of these images' classes"
    return f"WARNING: with fewer than {FEW_IMAGES} images it may be far off" if images < FEW_IMAGES else ""
