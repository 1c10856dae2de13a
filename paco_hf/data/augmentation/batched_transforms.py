"""The views of [`paco_hf.data.augmentation.transforms`] made a batch at a time, on the batch's device."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from . import batched_functional as functional
from . import batched_policies as policies
from .batched_draws import BatchDraws, Draws, ImageDraws, constant
from .batched_geometry import cutout, draw_boxes, resized_crop, shifted_crop


def _random_crop(images: Tensor, draws: Draws, size: int) -> Tensor:
    if images.shape[-2:] != (size, size):
        raise ValueError(f"this view takes images of {size}x{size} pixels, got {tuple(images.shape)}")
    padding = size // 8
    top, left = draws.randint(2 * padding + 1, 2, -1)
    return shifted_crop(images, top, left, padding)


def _random_resized_crop(images: Tensor, draws: Draws, size: int, low: float) -> Tensor:
    height, width = images.shape[-2:]
    return resized_crop(images, draw_boxes(height, width, (low, 1.0), draws), size)


def _random_flip(images: Tensor, draws: Draws) -> Tensor:
    return functional.apply_to(images, draws.happens(0.5), functional.flip)


def _jitter(images: Tensor, draws: Draws, p: float, hue: float) -> Tensor:
    return functional.color_jitter(images, *functional.draw_jitter(p, hue, draws))


def _random_grayscale(images: Tensor, draws: Draws) -> Tensor:
    return functional.apply_to(images, draws.happens(0.2), functional.grayscale)


def _random_blur(images: Tensor, draws: Draws) -> Tensor:
    radius = draws.uniform(0.1, 2.0, -1)
    return functional.apply_to(images, draws.happens(0.5), functional.gaussian_blur, radius)


def _augment(images: Tensor, draws: Draws, draw: Callable[..., tuple[Tensor, Tensor]]) -> Tensor:
    return policies.augment(images, *draw(images.shape[-1], draws))


def _random_cutout(images: Tensor, draws: Draws) -> Tensor:
    height, width = images.shape[-2:]
    y, x = (draws.randint(extent, -1) for extent in (height, width))
    return cutout(images, y, x, width // 2)


def _cifar(size: int, *color: Any) -> list[Any]:
    return [partial(_random_crop, size=size), _random_flip, *color, _random_cutout]


def _crop(size: int, low: float) -> Any:
    return partial(_random_resized_crop, size=size, low=low)


_FULL_JITTER, _HUE_JITTER = partial(_jitter, p=1.0, hue=0.0), partial(_jitter, p=0.8, hue=0.1)

# As `VIEWS`: the side in pixels to the steps, in order, the first of them the crop.
BATCHED_VIEWS: dict[str, Callable[[int], list[Any]]] = {
    "cifar_reg": lambda size: _cifar(size, partial(_augment, draw=policies.draw_auto_augment)),
    "cifar_rand": lambda size: _cifar(size, partial(_augment, draw=policies.draw_rand_augment)),
    "cifar_light": _cifar,
    "cifar_sim": lambda size: [_crop(size, 0.2), _random_flip, _HUE_JITTER, _random_grayscale, _random_blur],
    "sim": lambda size: [_crop(size, 0.08), _FULL_JITTER, _random_grayscale, _random_blur, _random_flip],
    "regular": lambda size: [_crop(size, 0.08), _random_flip, _FULL_JITTER],
}


class BatchedView:
    """The named view on a batch: `uint8` `(B, 3, H, W)` to `uint8` `(B, 3, size, size)`, on the batch's device.

    It is the view of the same name in [`paco_hf.data.augmentation.transforms`]: the same operations with the same
    probabilities, with results that equal PIL's for the same parameters. What it draws differs.

    Args:
        name (`str`): of [`BATCHED_VIEWS`].
        size (`int`): the side of the result in pixels.

    Raises:
        ValueError: unknown name; on call, images that are no such batch, or of another size where it must be `size`.
    """

    def __init__(self, name: str, size: int) -> None:
        if name not in BATCHED_VIEWS:
            raise ValueError(f"unknown view {name!r}: choose one of {', '.join(sorted(BATCHED_VIEWS))}")
        self.steps = BATCHED_VIEWS[name](size)

    def __call__(self, images: Tensor, draws: Draws | Generator) -> Tensor:
        """`draws`, or a CPU generator, is the only source of randomness; `images` are left as they are."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be uint8 (B, 3, H, W), got {images.dtype} {tuple(images.shape)}")
        if isinstance(draws, Generator):
            draws = BatchDraws(draws, len(images))
        for step in self.steps:
            images = step(images, draws).float()
        return images.to(torch.uint8)


class BatchedViews:
    """The normalized views of a batch of [`paco_hf.data.torch_datasets.WholeImages`], made on the batch's device.

    Args:
        views (sequence of [`BatchedView`], one or two): the query view, then the key view.
        mean, std (sequences of 3 `float`): of the images scaled to 0..1.

    A batch's `pixel_values` `(B, 3, H, W)` `uint8` become `pixel_values` and, with two views, `key_pixel_values`,
    `float32` `(B, 3, size, size)` in channels-last memory; its `view_seed` is used up: keys of the images
    `(B,)`, or one seed for the batch.
    """

    def __init__(self, views: Sequence[BatchedView], mean: Sequence[float], std: Sequence[float]) -> None:
        if len(views) not in (1, 2):
            raise ValueError(f"there must be one or two views, got {len(views)}")
        self.views = views
        self.mean, self.std = (tuple((torch.tensor(list(values)) * 255).tolist()) for values in (mean, std))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        images, seed = batch["pixel_values"], batch["view_seed"]
        mean, std = (constant(values, images.device).view(1, 3, 1, 1) for values in (self.mean, self.std))
        generator = None if isinstance(seed, Tensor) else torch.Generator().manual_seed(seed)
        result = {key: value for key, value in batch.items() if key not in ("pixel_values", "view_seed")}
        for i, (name, view) in enumerate(zip(("pixel_values", "key_pixel_values"), self.views, strict=False)):
            drawn = view(images, generator or ImageDraws(seed, i)).to(torch.float32, memory_format=torch.channels_last)
            result[name] = drawn.sub_(mean).div_(std)
        return result


def batched_obstacle(names: Sequence[str], size: int, pixels: Any) -> str | None:
    """Why the named views of `size` pixels cannot be made a batch at a time, `None` where they can.

    `pixels` `(N, H, W, 3)` are the images, `None` where they are not kept in memory or differ in size.

    Args:
        names (sequence of `str`): of the views.
        size (`int`): side of the views in pixels.
        pixels (`np.ndarray`, *optional*): the images.
    """
    if alone := [name for name in names if name not in BATCHED_VIEWS]:
        return (
            f"{alone[0]!r} is only available with the pil backend (the tensor backend has: "
            f"{', '.join(sorted(BATCHED_VIEWS))})"
        )
    if torch.backends.mps.is_available():
        return "Apple GPUs have no float64, which is needed to match PIL"
    if pixels is None:
        return "the images differ in size, or do not fit in memory"
    padded = [name for name in names if name.startswith("cifar_") and name != "cifar_sim"]
    if padded and pixels.shape[1:3] != (size, size):
        return f"{padded[0]!r} needs images of {size} x {size} pixels, not {pixels.shape[2]} x {pixels.shape[1]}"
    return None
