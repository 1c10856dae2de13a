"""The losses: the table of what each is and needs (`specs`), the formulas, their autograd, and modules."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
