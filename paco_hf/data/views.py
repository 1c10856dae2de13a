"""The module's former place: see [`paco_hf.data.augmentation.transforms`] and [`paco_hf.data.torch_datasets`]."""

from .augmentation.transforms import (
    RAND_AUGMENT_VIEWS,
    VIEWS,
    Cutout,
    FitSquare,
    GaussianBlur,
    build_view,
    rand_augment,
    view_operations,
)
from .samplers import EpochIndex, EpochSampler
from .torch_datasets import EvaluationDataset, ImageCollator, ViewsDataset, WholeImages

__all__ = [
    "RAND_AUGMENT_VIEWS",
    "VIEWS",
    "Cutout",
    "EpochIndex",
    "EpochSampler",
    "EvaluationDataset",
    "FitSquare",
    "GaussianBlur",
    "ImageCollator",
    "ViewsDataset",
    "WholeImages",
    "build_view",
    "rand_augment",
    "view_operations",
]
