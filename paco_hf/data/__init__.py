"""Long-tailed image data: where it comes from, its splits, and augmented views of it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
