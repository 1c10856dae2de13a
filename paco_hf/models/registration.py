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


def register_image_processor(image_processing_auto: Any) -> None:
    """Register the image processor with `AutoImageProcessor` of `transformers.models.auto.image_processing_auto`."""
    from .configuration_paco import PaCoConfig
    from .image_processing_paco import PaCoImageProcessor

    image_processing_auto.AutoImageProcessor.register(
        PaCoConfig, image_processor_classes={"torchvision": PaCoImageProcessor}, exist_ok=True
    )


def register_backbones(timm: Any) -> None:
    """Register the CIFAR ResNets with timm; importing their module does it."""
    from . import backbones as backbones
