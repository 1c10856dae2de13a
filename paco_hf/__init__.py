"""paco_hf: parametric contrastive learning (PaCo, GPaCo) for long-tailed images, as a Hugging Face model package.

Importing it is light: names load on first use, and `torch`, `transformers` and `timm` only with them. The
configuration, the models and the CIFAR backbones register themselves with transformers' Auto classes and with timm
when those libraries are imported, or at once where they already are. No network is touched.
"""

from .utils.interrupts import guard_start as _guard_start

_guard_start()  # the imports that follow take a moment

import lazy_loader  # noqa: E402
from wrapt import register_post_import_hook  # noqa: E402

from .models.registration import IMAGE_PROCESSING as _IMAGE_PROCESSING  # noqa: E402

__version__ = "0.1.0"

# The names that load on first use are listed in `__init__.pyi`, where type checkers see them too.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
# `from paco_hf import *` brings the classes and the losses, not the packages.
__all__ = [name for name in __all__ if name.startswith("PaCo") or name.endswith("_loss")]

# The first hook, before any that an unsuitable version would fail in.
register_post_import_hook("paco_hf.utils.versions:check_versions", "transformers")
register_post_import_hook("paco_hf.models.registration:register_backbones", "timm")
register_post_import_hook("paco_hf.models.registration:register_config", "transformers.models.auto.configuration_auto")
register_post_import_hook("paco_hf.models.registration:register_models", "transformers.models.auto.modeling_auto")
for _module in _IMAGE_PROCESSING:
    register_post_import_hook("paco_hf.models.registration:register_image_processor", _module)
