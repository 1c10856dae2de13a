"""Data sets and collators for the data loader: augmented views, whole images, evaluation images."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .augmentation.batched_draws import image_keys

_VIEW_NAMES = ("pixel_values", "key_pixel_values")


@contextmanager
def _preserved_randomness() -> Iterator[None]:
    """Leave the global generators as they were found: torch's, `random`'s and numpy's."""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])


def _seed(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1)[0])


class ViewsDataset(Dataset):
    """Augmented views of labeled images; what is drawn is a function of `(seed, epoch, index)` alone.

    Args:
        images: PIL images in RGB by index.
        labels (sequence of `int`): their classes.
        views (sequence of callables, one or two): as from [`build_view`]; the query view, then the key view.
        seed (`int`): of the augmentations.

    Items are `{"pixel_values", "labels"}` and, with two views, `"key_pixel_values"`.
    """

    def __init__(self, images: Any, labels: Sequence[int], views: Sequence[Any], seed: int = 0) -> None:
        if len(views) not in (1, 2):
            raise ValueError(f"there must be one or two views, got {len(views)}")
        self.images, self.labels, self.views, self.seed = images, labels, views, seed

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        items = []
        with _preserved_randomness():
            for index in indices:
                image = self.images[index]
                seed = _seed(self.seed, getattr(index, "epoch", 0), int(index))
                for set_seed in (torch.random.default_generator.manual_seed, random.seed, np.random.seed):
                    set_seed(seed)
                views = zip(_VIEW_NAMES, self.views, strict=False)
                items.append({**{name: view(image) for name, view in views}, "labels": self.labels[index]})
        return items


class WholeImages(Dataset):
    """Labeled images of one size as they are, a batch at a time, for `BatchedViews`.

    Args:
        pixels (`np.ndarray` of shape `(N, H, W, 3)`, `uint8`): the images.
        labels (sequence of `int`): their classes.
        seed (`int`): of the augmentations.
        draws (`str`, *optional*, defaults to `"image"`): the views of an image are a function of `(seed, epoch,
            index)`; `batch`: of `(seed, epoch, indices)` of its batch.

    A batch is `{"labels" (B,), "pixel_values" (B, 3, H, W) uint8, "view_seed"}`. The last are the images' keys `(B,)`
    ([`image_keys`]), or one number for the batch.
    """

    def __init__(
        self, pixels: np.ndarray, labels: Sequence[int], seed: int = 0, draws: Literal["image", "batch"] = "image"
    ) -> None:
        if draws not in ("image", "batch"):
            raise ValueError(f"draws must be image or batch, got {draws!r}")
        self.pixels, self.labels, self.seed = torch.from_numpy(pixels), torch.tensor(labels), seed
        self.draws = draws

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> dict[str, Any]:
        rows, epoch = torch.tensor([int(index) for index in indices]), getattr(indices[0], "epoch", 0)
        seed = image_keys(self.seed, epoch, rows) if self.draws == "image" else _seed(self.seed, epoch, *rows.tolist())
        return {
            "labels": self.labels[rows],
            "pixel_values": self.pixels[rows].permute(0, 3, 1, 2).contiguous(),
            "view_seed": seed,
        }


class FeatureDataset(Dataset):
    """Features of labeled images that a frozen backbone gave before, in place of the images; a batch at a time.

    Args:
        views (sequence of `(V, N, F)` arrays): features of the V views of each image, as often as they were drawn;
            the epochs take them in turn. `(1, N, F)` stands for each of the views.
        labels (sequence of `int`): their classes.
        count (`int`, *optional*, defaults to `1`): views of an image in a batch, 1 or 2.

    A batch is `{"labels" (B,), "pixel_values" (B, F)}` and, with two views, `"key_pixel_values"`.
    """

    def __init__(self, views: Sequence[np.ndarray], labels: Sequence[int], count: int = 1) -> None:
        self.views, self.labels = [torch.from_numpy(features) for features in views], torch.as_tensor(labels)
        self.count = count

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> dict[str, Any]:
        rows = torch.tensor([int(index) for index in indices])
        return self.batch(rows, getattr(indices[0], "epoch", 0))

    def batch(self, rows: Tensor, epoch: int = 0) -> dict[str, Any]:
        """A batch, in float32.

        Args:
            rows (`Tensor` of shape `(B,)`): of the images.
            epoch (`int`, *optional*, defaults to `0`): which views they are seen in.
        """
        drawn = self.views[epoch % len(self.views)][:, rows].float()
        names = _VIEW_NAMES[: self.count]
        return {"labels": self.labels[rows], **dict(zip(names, drawn.expand(self.count, -1, -1), strict=True))}


class EvaluationDataset(Dataset):
    """Labeled images as they are; [`ImageCollator`] gives them to the checkpoint's own image processor."""

    def __init__(self, images: Any, labels: Sequence[int]) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "labels": self.labels[index]}


class ImageCollator:
    """Batch views (scaling and normalizing them) or whole images (through the image processor).

    A batch of [`WholeImages`] is left alone.

    Args:
        image_processor: a transformers image processor; its mean and standard deviation normalize the views too.
    """

    def __init__(self, image_processor: Any) -> None:
        self.image_processor = image_processor
        self.mean = torch.tensor(image_processor.image_mean).view(3, 1, 1) * 255
        self.std = torch.tensor(image_processor.image_std).view(3, 1, 1) * 255

    def __call__(self, items: list[dict[str, Any]] | dict[str, Any]) -> dict[str, Any]:
        if isinstance(items, dict):
            return items
        batch = {"labels": torch.tensor([item["labels"] for item in items])}
        if "image" in items[0]:
            images = [item["image"] for item in items]
            batch["pixel_values"] = self.image_processor(images, return_tensors="pt")["pixel_values"]
            return batch
        for name in _VIEW_NAMES:
            if name in items[0]:
                batch[name] = (torch.stack([item[name] for item in items]).float() - self.mean) / self.std
        return batch
