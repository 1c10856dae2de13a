"""Logits as the configuration wants them, and whether to abstain from an image. It travels with each
checkpoint."""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils import logging

from .configuration_paco import PaCoConfig

logger = logging.get_logger(__name__)


@dataclass
class AbstainingOutput(ImageClassifierOutput):
    """What a model gives whose configuration has `abstention`: also `abstained` `(B,)`, `bool`."""

    abstained: Tensor | None = None


def prior_shift(config: PaCoConfig) -> Tensor | None:
    """What `inference_prior` adds to the logits, `(C,)`; `None` where there is none."""
    if config.inference_prior is None:
        return None
    # In double precision, as a rare class's share may be less than float32 holds, and on the CPU, as not every
    # device has it.
    prior = torch.tensor(config.inference_prior, dtype=torch.float64)
    shift = (prior / prior.sum()).clamp(min=torch.finfo(torch.float32).tiny).log()
    if config.logit_counts is not None:
        shift = shift - torch.tensor(config.logit_counts, dtype=torch.float64).clamp(min=1).log()
    return shift


def adjusted_logits(logits: Tensor, config: PaCoConfig) -> Tensor:
    """The classifier's `(B, C)` logits with the temperature and the prior of the configuration, where it has these."""
    if config.temperature is not None:
        logits = logits / config.temperature
    shift = prior_shift(config)
    return logits if shift is None else logits + shift.to(logits.dtype).to(logits.device)


def abstains(logits: Tensor, config: PaCoConfig) -> tuple[Tensor, Tensor]:
    """Where `config.abstention` says that the answer is not sure enough, and where an image is like no class.

    Args:
        logits (`Tensor` of shape `(B, C)`): of the model, [`adjusted_logits`].
        config ([`PaCoConfig`]): of the model.

    Returns:
        two `bool` tensors of shape `(B,)`. Where temperature or prior are no longer those that the thresholds on
        probabilities were chosen with, these do not apply, which is logged once.
    """
    logits, rule = logits.detach().float(), config.abstention or {}
    unsure = unlike = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    if rule.get("thresholds") and not thresholds_apply(config):
        logger.warning_once(_VOID)
    elif rule.get("thresholds"):
        probability, label = logits.softmax(-1).max(-1)
        unsure = probability < torch.tensor(rule["thresholds"], device=logits.device)[label]
    if unknown := rule.get("unknown"):
        shift = prior_shift(config)
        plain = logits if shift is None else logits - shift.to(logits.dtype).to(logits.device)
        highest, label = (plain * (config.temperature or 1.0)).max(-1)
        score = highest if unknown["score"] == "max_logit" else (plain * (config.temperature or 1.0)).logsumexp(-1)
        unlike = score < torch.tensor(unknown["thresholds"], device=logits.device)[label]
    return unsure, unlike


_VOID = (
    "the temperature or the class frequencies of the model have changed since its abstention thresholds were "
    "chosen, so they are not applied: choose new ones with paco-hf evaluate --abstain"
)


def thresholds_apply(config: PaCoConfig) -> bool:
    """Whether temperature and prior are those that the thresholds of `config.abstention` were chosen with."""
    rule = config.abstention or {}
    return all(rule.get(name) == getattr(config, name) for name in ("temperature", "inference_prior"))


def may_abstain(config: PaCoConfig) -> bool:
    """Whether the configuration has a rule that applies."""
    return config.abstention is not None and (bool(config.abstention.get("unknown")) or thresholds_apply(config))


def with_abstention(output: Any, config: PaCoConfig) -> Any:
    """An output with `abstained`, where the configuration has a rule that applies; a tuple is left as it is."""
    if config.abstention is None or isinstance(output, tuple):
        return output
    unsure, unlike = abstains(output.logits, config)
    if not may_abstain(config):
        return output
    values = {field.name: getattr(output, field.name) for field in fields(output)}
    return AbstainingOutput(**values, abstained=unsure | unlike)
