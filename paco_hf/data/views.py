"""The module's former place: see [`paco_hf.data.augmentation.transforms`] and [`paco_hf.data.torch_datasets`]."""

from .augmentation.transforms import RAND_AUGMENT_VIEWS, VIEWS, Cutout, FitSquare, GaussianBlur
from .augmentation.transforms import build_view, rand_augment, view_operations
from .samplers import EpochIndex, EpochSampler
from .torch_datasets import EvaluationDataset, ImageCollator, ViewsDataset, WholeImages
