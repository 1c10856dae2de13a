"""The labeled images that a class is added and measured with, and their features."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.image_split import ImageSplit
from ..data.images import Images
from ..inference.batches import ImageFiles
from ..inference.feature_cache import extract_features, stored_features
from ..models.modeling_paco import PaCoForImageClassification
from ..runs.folder import RunFolder
from .evaluation_data import load_evaluation

REFERENCE = 1000  # images that say what the features of all classes share, about


@dataclass
class AdditionSplits:
    """The labeled images that an addition is made and measured with.

    Args:
        run ([`RunFolder`]): that a class is added to.
        name (`str`): of the class.
        dataset (`str`, *optional*): of the images; that of the run where it is `None`.
        split (`str`, *optional*): that is scored; where it is `None`, the first there is of test, validation and
            train.
        fields (`dict`): other fields of the [`paco_hf.data.spec.DataSpec`].

    `scored` is the split, `None` where there is none, for which `reason` is the error; `note` says so, or what its
    scores are worth.

    Raises:
        ValueError, OSError: images that were asked for cannot be had.
    """

    run: RunFolder
    name: str
    dataset: str | None
    split: str | None
    fields: dict[str, Any]
    note: str = ""

    def __post_init__(self) -> None:
        self.scored: ImageSplit | None = None
        self.reason: Exception | None = None
        for role in (self.split,) if self.split else ("test", "validation", "train"):
            try:
                self.scored = self._load(role)
                break
            except (ValueError, OSError) as error:
                if self.split or (self.dataset and role == "test"):
                    raise
                self.reason = self.reason or error
        if self.scored is None and self.reason and any(self.fields.values()):
            raise self.reason  # a flag that says how to read them may be why
        if self.scored is None:
            self.note = f"the effect on the other classes was not measured ({self.reason})"
        elif self.scored.role == "train":
            self.note = (
                "the model was trained on these images of the other classes: expect larger losses on new images"
            )
        if self.scored and self.scored.note:
            self.note = "; ".join(filter(None, (self.note, self.scored.note)))

    def reference(self) -> ImageSplit | None:
        """Images of the classes that the model knows: those that it was trained on, else those that are scored."""
        if self.scored is None or self.scored.role == "train":
            return self.scored
        try:
            return self._load("train")
        except (ValueError, OSError):  # other data may have a test alone
            return self.scored

    def _load(self, role: str) -> ImageSplit:
        try:
            return load_evaluation(self.run, self.dataset, role, **self.fields)
        except ValueError:
            known = self.run.config.get("id2label") or {}
            more = RunFolder(self.run.path, self.run.name)
            more.config = {**self.run.config, "id2label": {**known, str(len(known)): self.name}}
            try:  # data that has the new class, too
                return load_evaluation(more, self.dataset, role, **self.fields)
            except ValueError:
                pass
            raise


@dataclass
class FeatureReader:
    """Features of images, of a model that is loaded.

    Args:
        model (`PaCoForImageClassification`): its device is where they are computed.
        processor (image processor): of the model.
        batch_size (`int`), precision (`str`): as those of [`extract_features`].
    """

    model: PaCoForImageClassification
    processor: Any
    batch_size: int
    precision: str

    def photos(self, images: ImageFiles, name: str) -> Tensor:
        """Those of a new class's photos; `ValueError` where they are not finite, or none can be decoded."""
        title = f"photos of {name}"
        features = extract_features(self.model.paco, self.processor, images, title, self.batch_size, self.precision)
        if not np.isfinite(features).all():
            raise ValueError(
                "the features of the photos are not finite: the model is damaged, or its training diverged"
            )
        return torch.from_numpy(features)

    def split(self, split: ImageSplit, rows: np.ndarray | None = None) -> Tensor:
        """Those of labeled images, or of some rows of them: read where they are in the cache."""
        model, processor, images = self.model.paco, self.processor, Images(split)
        features = stored_features(model, processor, images, self.precision)
        if features is not None:
            return torch.from_numpy(features if rows is None else features[rows]).float()
        some = None if rows is None else rows.tolist()
        computed = extract_features(model, processor, images, split.name, self.batch_size, self.precision, rows=some)
        return torch.from_numpy(computed)


def class_sample(labels: np.ndarray, classes: int) -> np.ndarray:
    """Rows of about [`REFERENCE`] images, drawn at random, of each class as many, as far as there are.

    Args:
        labels (`(N,)`): classes of images.
        classes (`int`): images of classes from this one on are left out.

    Returns:
        `(M,)`, ascending.
    """
    order = np.random.default_rng(0).permutation(np.flatnonzero(labels < classes))
    order = order[np.argsort(labels[order], kind="stable")]
    ordered = labels[order]
    place = np.arange(len(order)) - np.searchsorted(ordered, ordered)  # among the images of its class
    return np.sort(order[np.argsort(place, kind="stable")[:REFERENCE]])
