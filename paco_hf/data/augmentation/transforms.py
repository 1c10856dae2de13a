"""Augmented views (PIL image to `uint8` tensor), and the dataset that draws them reproducibly.

A view is a list of named operations. What follows the last of them, scaling to 0..1 and normalizing, is done a batch
at a time by [`ImageCollator`], so that workers hand over bytes.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from PIL import Image, ImageFilter, ImageOps
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor, nn
from torchvision.transforms import v2


class GaussianBlur(nn.Module):
    """PIL's Gaussian blur of a radius drawn uniformly from `radius` (SimCLR; in pixels)."""

    def __init__(self, radius: tuple[float, float] = (0.1, 2.0)) -> None:
        super().__init__()
        self.radius = radius

    def forward(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(torch.empty(()).uniform_(*self.radius).item()))


class Cutout(nn.Module):
    """One black square with a center uniform over the image, clipped at the borders (DeVries & Taylor, 2017).

    It works on `uint8` `(3, H, W)` before normalization: the hole is a black pixel, not the mean.
    """

    def __init__(self, side: int = 16) -> None:
        super().__init__()
        self.side = side

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        y, x = int(torch.randint(height, ())), int(torch.randint(width, ()))
        half = self.side // 2
        image[..., max(y - half, 0) : y + half, max(x - half, 0) : x + half] = 0
        return image


class FitSquare(nn.Module):
    """The middle square of an image, scaled to `size` pixels; an image of that size is left alone."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, image: Image.Image) -> Image.Image:
        if image.size == (self.size, self.size):
            return image
        return ImageOps.fit(image, (self.size, self.size), Image.Resampling.BILINEAR)


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    return image.point(lambda value: value & (0xFF00 >> bits))


def rand_augment(count: int, magnitude: int) -> Callable[[Image.Image], Image.Image]:
    """timm's RandAugment (Cubuk et al., 2020) as the reference has it, on an RGB image.

    `count` of its 15 operations are drawn with replacement, each is applied with probability 0.5 and at a level of
    `gauss(magnitude, 0.5)` clipped to 0..10: a magnitude of 12 behaves as 10. The randomness is `random`'s and
    numpy's.
    """
    policy = rand_augment_transform(f"rand-n{count}-m{magnitude}-mstd0.5", {"img_mean": (124, 116, 104)})
    for operation in policy.ops:
        if operation.name == "Posterize":
            # The reference's PosterizeTpu. Below level 2.5 it keeps 0 bits: black, which Pillow's posterize refuses.
            operation.aug_fn = _posterize
    return policy


def _resized_crop(size: int, low: float) -> nn.Module:
    return v2.RandomResizedCrop(size, scale=(low, 1.0), antialias=True)


def _jitter(hue: float, p: float) -> nn.Module:
    return v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, hue)], p)


def _simclr(
    size: int,
    *policy: Any,
    low: float = 0.08,
    hue: float = 0.0,
    jitter_p: float = 1.0,
    blur_p: float = 0.5,
    flip_first: bool = False,
) -> list[Any]:
    crop, flip = _resized_crop(size, low), v2.RandomHorizontalFlip()
    color = [_jitter(hue, jitter_p), v2.RandomGrayscale(0.2), v2.RandomApply([GaussianBlur()], blur_p)]
    return [crop, *([flip, *color] if flip_first else [*color, flip]), *policy, v2.PILToTensor()]


def _regular(size: int, *policy: Any) -> list[Any]:
    return [_resized_crop(size, 0.08), v2.RandomHorizontalFlip(), _jitter(0.0, 1.0), *policy, v2.PILToTensor()]


def _cifar(size: int, *color: nn.Module) -> list[Any]:
    crop = v2.RandomCrop(size, padding=size // 8)
    return [FitSquare(size), crop, v2.RandomHorizontalFlip(), *color, v2.PILToTensor(), Cutout(size // 2)]


_cifar_sim = partial(_simclr, low=0.2, hue=0.1, jitter_p=0.8, flip_first=True)

# Each maps the side of the image in pixels to the operations, in order.
VIEWS: dict[str, Callable[[int], list[Any]]] = {
    # The reference's views for CIFAR. torchvision's policy rotates both ways, the reference's one way only.
    "cifar_reg": lambda size: _cifar(size, v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, fill=[128, 128, 128])),
    "cifar_sim": _cifar_sim,
    # The second view of its GPaCo on long-tailed CIFAR.
    "cifar_sim_weak_blur": partial(_cifar_sim, blur_p=0.2),
    "cifar_rand": lambda size: _cifar(size, v2.RandAugment(2, 9, fill=[128, 128, 128])),
    # Crop, flip and cutout alone: AutoAugment costs accuracy where training is short.
    "cifar_light": _cifar,
    # The reference's views for 224-pixel images.
    "sim": _simclr,
    "sim02": partial(_simclr, low=0.2),
    "mocov2": partial(_simclr, low=0.2, hue=0.1, jitter_p=0.8),
    "regular": _regular,
}

# As `VIEWS`, with RandAugment as second argument: those of the reference's views for 224-pixel images that have it.
RAND_AUGMENT_VIEWS: dict[str, Callable[[int, Any], list[Any]]] = {
    "randcls": _regular,
    "stack": partial(_simclr, flip_first=True),
}

_RAND_AUGMENT_NAME = re.compile(rf"({'|'.join(RAND_AUGMENT_VIEWS)})-n([1-9][0-9]*)-m(0|[1-9][0-9]*)")


def view_operations(name: str, size: int) -> list[Any]:
    """The operations of the named view for images of `size` pixels, in order; see [`build_view`].

    Args:
        name (`str`): of [`VIEWS`], or `randcls-n<N>-m<M>` or `stack-n<N>-m<M>`, with `N` operations of
            [`rand_augment`] of magnitude `M`.
        size (`int`): the side of the result in pixels.

    Raises:
        ValueError: unknown name.
    """
    if name in VIEWS:
        return VIEWS[name](size)
    if match := _RAND_AUGMENT_NAME.fullmatch(name):
        return RAND_AUGMENT_VIEWS[match[1]](size, rand_augment(int(match[2]), int(match[3])))
    patterns = " or ".join(f"{family}-n<N>-m<M>" for family in RAND_AUGMENT_VIEWS)
    raise ValueError(
        f"unknown view {name!r}: choose one of {', '.join(sorted(VIEWS))}, or {patterns} with integers N >= 1 and "
        "M >= 0"
    )


def build_view(name: str, size: int) -> v2.Compose:
    """The named view for images of `size` pixels: an RGB PIL image to a `uint8` tensor `(3, size, size)`.

    Raises:
        ValueError: unknown name, as from [`view_operations`].
    """
    return v2.Compose(view_operations(name, size))
