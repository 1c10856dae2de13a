"""The module's former place: see [`paco_hf.data.augmentation.transforms`] and [`paco_hf.data.torch_datasets`]."""

from .augmentation.transforms import VIEWS, build_view, view_operations
from .samplers import EpochIndex, EpochSampler
from .torch_datasets import EvaluationDataset, ImageCollator, ViewsDataset, WholeImages

__all__ = [
    "VIEWS",
    "EpochIndex",
    "EpochSampler",
    "EvaluationDataset",
    "ImageCollator",
    "ViewsDataset",
    "WholeImages",
    "build_view",
    "view_operations",
]
