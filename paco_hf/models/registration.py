"""Makes the models known to transformers' Auto classes, and the CIFAR backbones to timm.

[`paco_hf`] has these functions called once the library in question is imported.
"""

from typing import Any


def register_config(configuration_auto: Any) -> None:
    """Register [`PaCoConfig`] with `AutoConfig` of `transformers.models.auto.configuration_auto`."""
    from .configuration_paco import PaCoConfig

    configuration_auto.AutoConfig.register(PaCoConfig.model_type, PaCoConfig, exist_ok=True)


def register_models(modeling_auto: Any) -> None:
    """Register the models with the Auto classes of `transformers.models.auto.modeling_auto`."""
    from .configuration_paco import PaCoConfig
    from .modeling_paco import PaCoForImageClassification, PaCoModel

    modeling_auto.AutoModel.register(PaCoConfig, PaCoModel, exist_ok=True)
    modeling_auto.AutoModelForImageClassification.register(PaCoConfig, PaCoForImageClassification, exist_ok=True)


def register_backbones(timm: Any) -> None:
    """Register the CIFAR ResNets with timm; importing their module does it."""
    from . import backbones as backbones
