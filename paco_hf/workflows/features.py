"""Training on features: what a frozen backbone gives of the images is computed once."""

import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..arguments.resolve import RunPlan
from ..data.augmentation.transforms import build_view
from ..data.images import Images
from ..data.samplers import EpochIndex
from ..data.torch_datasets import FeatureDataset, ImageCollator, ViewsDataset
from ..inference.feature_cache import cached_features
from ..inference.features import Embeddings
from ..inference.forward import fast_forward
from ..models.modeling_paco import PaCoForImageClassification
from ..utils.hardware import available_cores
from .prepare_data import RunData


@dataclass
class RunFeatures:
    """The features of a run's images, computed when they are first asked for.

    Args:
        plan (`RunPlan`): of the run.
        data (`RunData`): its splits.
        model (`PaCoForImageClassification`): with the frozen backbone.
    """

    plan: RunPlan
    data: RunData
    model: PaCoForImageClassification

    def plain(self, role: str) -> tuple[Embeddings, str]:
        """Those of the images of a split as they are, and what was done, for the user to read."""
        images, start = self.data.images[role], time.monotonic()
        training = self.model.training
        self.model.to(self.plan.args.device)
        batch = self.plan.args.per_device_eval_batch_size
        features, how = cached_features(self.model.paco, self.plan.processor, images, batch)
        self.model.train(training)
        line = f"features of {len(features):,} {role} images: {how}, {time.monotonic() - start:.0f} s"
        return Embeddings(features, np.asarray(images.split.labels), None, self.data.class_names), line

    @cached_property
    def trained(self) -> tuple[Embeddings, str]:
        """Those of the training images."""
        return self.plain("train")

    def dataset(self) -> FeatureDataset:
        """What is trained on: plain features as each view, or those of augmented images."""
        plan, images = self.plan, self.data.images["train"]
        pairs, views = plan.run.feature_views, len(plan.views)
        if not pairs:
            features = self.trained[0].features
            return FeatureDataset([np.stack([features] * views)], images.split.labels)
        return FeatureDataset([self._augmented(images, i) for i in range(pairs)], images.split.labels)

    def _augmented(self, images: Images, epoch: int) -> np.ndarray:
        plan, labels = self.plan, images.split.labels
        views = [build_view(name, int(plan.run.image_size or 0)) for name in plan.views]
        rows: Any = [EpochIndex(row, epoch) for row in range(len(labels))]
        loader: Any = DataLoader(
            ViewsDataset(images, labels, views, plan.args.seed),
            plan.args.per_device_eval_batch_size,
            sampler=rows,
            num_workers=available_cores(),
            collate_fn=ImageCollator(plan.processor),
        )
        training, forward = self.model.training, fast_forward(self.model.paco.to(plan.args.device))
        parts = []
        description = f"embedding views, {epoch + 1} of {plan.run.feature_views}"
        with tqdm(total=len(labels), desc=description, unit=" images", disable=None, leave=False) as progress:
            for batch in loader:
                names = [name for name in ("pixel_values", "key_pixel_values") if name in batch]
                parts.append(torch.stack([forward(batch[name]).cpu() for name in names]))
                progress.update(len(batch["labels"]))
        self.model.train(training)
        return torch.cat(parts, dim=1).numpy()
