"""The module's former place: see [`paco_hf.data.augmentation.transforms`] and [`paco_hf.data.torch_datasets`]."""

from .augmentation.transforms import *  # noqa: F403
from .samplers import EpochIndex, EpochSampler  # noqa: F401
from .torch_datasets import EvaluationDataset, ImageCollator, ViewsDataset, WholeImages  # noqa: F401
