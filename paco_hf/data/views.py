"""The module's former place: see [`paco_hf.data.augmentation.transforms`] and [`paco_hf.data.torch_datasets`]."""

from .augmentation.transforms import VIEWS as VIEWS
from .augmentation.transforms import build_view as build_view
from .augmentation.transforms import view_operations as view_operations
from .samplers import EpochIndex as EpochIndex
from .samplers import EpochSampler as EpochSampler
from .torch_datasets import EvaluationDataset as EvaluationDataset
from .torch_datasets import ImageCollator as ImageCollator
from .torch_datasets import ViewsDataset as ViewsDataset
from .torch_datasets import WholeImages as WholeImages
