"""Training on features: what a frozen backbone gives of the images is computed once."""

import time
from dataclasses import dataclass, field
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
from ..inference.feature_cache import cached_features, cached_views
from ..inference.features import Embeddings
from ..inference.forward import fast_forward
from ..models.modeling_paco import PaCoForImageClassification
from ..utils.hardware import available_cores
from ..utils.main_process import first_then_others
from ..utils.signals import end_with_lost_batch
from ..utils.workers import fitting_workers
from .prepare_data import RunData


@dataclass
class RunFeatures:
    """The features of a run's images, computed when they are first asked for.

    Args:
        plan (`RunPlan`): of the run, with its input.
        data (`RunData`): its splits.
        model (`PaCoForImageClassification`): with the frozen backbone.
        lines (list of `str`, *optional*): what was done, for the user to read.
    """

    plan: RunPlan
    data: RunData
    model: PaCoForImageClassification
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._plain: dict[str, Embeddings] = {}
        self._views: list[np.ndarray] | None = None

    def plain(self, role: str) -> Embeddings:
        """Those of the images of a split as they are scored.

        Args:
            role (`str`): of the split, such as `train`.
        """
        if role not in self._plain:
            images, start, training = self.data.images[role], time.monotonic(), self.model.training
            batch = self.plan.args.per_device_eval_batch_size
            backbone = self.model.to(self.plan.args.device).paco
            # The others read what the first one kept.
            features, how = first_then_others(
                lambda: cached_features(backbone, self.plan.processor, images, batch, keep=True)
            )
            self.model.train(training)
            self.lines.append(f"features of {len(features):,} {role} images: {how}{_rate(features, start)}")
            labels = np.asarray(images.split.labels)
            self._plain[role] = Embeddings(features, labels, None, self.data.class_names)
        return self._plain[role]

    def views(self) -> list[np.ndarray]:
        """What is trained on, as for [`FeatureDataset`]: the features of `--feature_views` augmented views, which the
        epochs take in turn; or where there are none, those of the images as they are."""
        if self._views is None:
            draws = range(self.plan.run.feature_views)
            self._views = [self._augmented(self.data.images["train"], draw) for draw in draws]
        return self._views or [self.plain("train").features[None]]

    def dataset(self) -> FeatureDataset:
        """The training data of a trainer."""
        return FeatureDataset(self.views(), self.data.images["train"].split.labels, len(self.plan.views))

    def _augmented(self, images: Images, draw: int) -> np.ndarray:
        plan, start, backbone = self.plan, time.monotonic(), self.model.to(self.plan.args.device).paco
        drawn = {"views": plan.views, "size": plan.run.image_size, "seed": plan.args.seed, "draw": draw}
        training = self.model.training
        features, how = cached_views(backbone, plan.processor, images, drawn, lambda: self._drawn(images, draw))
        self.model.train(training)
        line = f"features of augmented views, {draw + 1} of {plan.run.feature_views}: {how}"
        self.lines.append(f"{line}{_rate(images.split.labels, start)}")
        return features

    def _drawn(self, images: Images, draw: int) -> np.ndarray:
        plan, labels = self.plan, images.split.labels
        views = [build_view(name, int(plan.run.image_size or 0)) for name in plan.views]
        batch = plan.args.per_device_eval_batch_size
        image_bytes = len(views) * 3 * int(plan.run.image_size or 0) ** 2 * 4
        workers, note = fitting_workers(available_cores(), batch * image_bytes)
        self.lines += filter(None, [note])
        rows: Any = [EpochIndex(row, draw) for row in range(len(labels))]
        loader: Any = DataLoader(
            ViewsDataset(images, labels, views, plan.args.seed),
            batch,
            sampler=rows,
            num_workers=workers,
            collate_fn=ImageCollator(plan.processor),
            worker_init_fn=end_with_lost_batch,
        )
        forward, parts = fast_forward(self.model.paco), []
        description = f"embedding views, {draw + 1} of {plan.run.feature_views}"
        with tqdm(total=len(labels), desc=description, unit=" images", disable=None, leave=False) as progress:
            for batch in loader:
                pixels = [batch[name] for name in ("pixel_values", "key_pixel_values") if name in batch]
                parts.append(torch.stack([forward(view).cpu() for view in pixels]))
                progress.update(len(batch["labels"]))
        return torch.cat(parts, dim=1).numpy()


def _rate(images: Any, start: float) -> str:
    seconds = time.monotonic() - start
    return f" in {seconds:.0f} s, {len(images) / max(seconds, 1e-3):,.0f} images/s"
