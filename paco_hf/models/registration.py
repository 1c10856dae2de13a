"""Makes the models known to transformers' Auto classes, and the CIFAR backbones to timm.

[`paco_hf`] has these functions called once the library in question is imported.
"""

import sys
from typing import Any

# Modules, and what each has once it is imported.
IMAGE_PROCESSING = {
    "transformers.models.auto.image_processing_auto": "AutoImageProcessor",
    "transformers.models.bit.image_processing_bit": "BitImageProcessor",
    "paco_hf.models.image_processing_paco": "PaCoImageProcessor",
}


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


def register_image_processor(module: Any) -> None:
    """Register the image processor with `AutoImageProcessor`, once it and its base class are there.

    While they are imported, the Auto classes may be, too, for docstrings. Each of the three calls this when it is
    done, and the last one of them does it.

    Args:
        module: one of [`IMAGE_PROCESSING`].
    """
    begun = {name: sys.modules[name] for name in IMAGE_PROCESSING if name in sys.modules}
    if not all(hasattr(begun[name], IMAGE_PROCESSING[name]) for name in begun):
        return
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    from .configuration_paco import PaCoConfig
    from .image_processing_paco import PaCoImageProcessor

    classes = {"torchvision": PaCoImageProcessor}
    AutoImageProcessor.register(PaCoConfig, image_processor_classes=classes, exist_ok=True)


def register_backbones(timm: Any) -> None:
    """Register the CIFAR ResNets with timm; importing their module does it."""
    from . import backbones as backbones
