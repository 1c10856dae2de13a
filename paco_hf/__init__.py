"""paco_hf: parametric contrastive learning (PaCo, GPaCo) for long-tailed images, as a Hugging Face model package.

Importing it registers the configuration, the models and the CIFAR backbones; it touches no network. Everything that
needs the Trainer, `datasets`, torchvision or matplotlib loads on first use.
"""

from importlib import import_module
from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from . import backbones as backbones
from .configuration_paco import PaCoConfig
from .losses import balanced_softmax_loss, multitask_loss, paco_loss
from .modeling_paco import PaCoForImageClassification, PaCoModel, PaCoPreTrainedModel

__version__ = "0.1.0"

AutoConfig.register("paco", PaCoConfig)
AutoModel.register(PaCoConfig, PaCoModel)
AutoModelForImageClassification.register(PaCoConfig, PaCoForImageClassification)

_LAZY = {
    "PaCoForContrastiveTraining": "modeling_training",
    "PaCoTrainer": "trainer",
    "PaCoTrainingArguments": "training_args",
}
_LAZY_MODULES = ("conversion", "data", "metrics")

__all__ = [
    "PaCoConfig",
    "PaCoForContrastiveTraining",
    "PaCoForImageClassification",
    "PaCoModel",
    "PaCoPreTrainedModel",
    "PaCoTrainer",
    "PaCoTrainingArguments",
    "balanced_softmax_loss",
    "multitask_loss",
    "paco_loss",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    if name in _LAZY_MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_LAZY_MODULES})
