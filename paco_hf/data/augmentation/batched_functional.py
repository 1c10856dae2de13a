"""The operations of the views on a batch of images at once, on the device where the batch is.

Each operation is a pair: `draw_...` draws its parameters for the images of a batch (small tensors), and a pure
function applies them. Images are `float32` `(B, 3, H, W)` that hold whole numbers from 0 to 255 between operations:
every operation rounds where PIL does, in arithmetic that is exact or as wide as PIL's, so the result is PIL's.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torchvision.transforms import v2

from .batched_draws import Draws, constant, may_read

AUTO = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
RAND = v2.RandAugment(num_ops=2, magnitude=9)
# Private, as torchvision gives the ranges of the operations in no other way, and PIL's views draw from the same.
SPACE = {"Identity": (lambda *_: None, False), **RAND._AUGMENTATION_SPACE, **AUTO._AUGMENTATION_SPACE}
OPERATIONS = list(SPACE)  # an operation of a policy is its place in this list
KIND = {name: kind for kind, name in enumerate(OPERATIONS)}
_BLOCK = 2**17  # numbers that a core works on at a time, which stay in its cache
_ENHANCE = tuple(KIND[name] for name in ("Brightness", "Contrast", "Color"))


def _each(values: Tensor, images: Tensor) -> Tensor:
    """One number an image, to go with `(B, 3, H, W)`."""
    return values.to(images.device, images.dtype).view(-1, 1, 1, 1)


def apply_to(images: Tensor, rows: Tensor, operation: Callable[..., Tensor], *parameters: Tensor) -> Tensor:
    """In place, on the images where `rows` (`bool`) holds; the parameters are those of all images.

    Args:
        images (`Tensor`, `(B, 3, H, W)`): whole numbers from 0 to 255.
        rows (`Tensor` of `bool`, `(B,)`): which images.
        operation (callable): takes images and their parameters.
        parameters (`Tensor`, first dimension `B`): of all images.
    """
    if not may_read(rows):  # for all of them, then: which they are is not known here
        return images.copy_(operation(images, *parameters).where(rows.view(-1, 1, 1, 1), images))
    block = max(_BLOCK * torch.get_num_threads() // images[0].numel(), 1) if images.is_cpu else len(images)
    for index in rows.nonzero().squeeze(1).split(block):
        if len(index):
            on_device = index.to(images.device)
            selected = images.index_select(0, on_device)
            images.index_copy_(0, on_device, operation(selected, *(values[index] for values in parameters)))
    return images


def flip(images: Tensor) -> Tensor:
    return images.flip(-1)


# ---- color


def _luma(images: Tensor) -> Tensor:
    """PIL's "L" `(B, 1, H, W)`: 24-bit sums, exact in `float32`."""
    red, green, blue = images.split(1, 1)
    return (red * 19595).add_(green, alpha=38470).add_(blue, alpha=7471).add_(0x8000).mul_(2**-16).floor_()


def grayscale(images: Tensor) -> Tensor:
    return _luma(images).expand_as(images)


def _blend(degenerate: Tensor | float, images: Tensor, factor: Tensor) -> Tensor:
    """PIL's `Image.blend`: `float32` arithmetic in its order, cut off (not rounded) to whole numbers."""
    return ((images - degenerate) * _each(factor, images)).add_(degenerate).clamp_(0, 255).floor_()


def enhance(images: Tensor, kind: Tensor, factor: Tensor) -> Tensor:
    """PIL's brightness, contrast or color of each image by `factor`: away from black, its mean gray or its grays.

    Args:
        images (`Tensor`, `(B, 3, H, W)`): whole numbers from 0 to 255.
        kind (`Tensor`, `(B,)`): of each image an index of [`OPERATIONS`].
        factor (`Tensor`, `(B,)`): 1 leaves an image as it is.
    """
    luma = _luma(images)
    pixels = luma[0].numel()
    # Exact in float32, too, where the sum has at most its 24 bits.
    sums = luma.sum((1, 2, 3), keepdim=True, dtype=torch.float32 if pixels * 255 < 2**24 else torch.float64)
    mean = sums.double().div_(pixels).add_(0.5).floor_().float()
    gray = luma.mul_(_each(kind == KIND["Color"], images))
    return _blend(gray.add_(mean * _each(kind == KIND["Contrast"], images)), images, factor)


def sharpen(images: Tensor, factor: Tensor) -> Tensor:
    """PIL's sharpness: away from its 3x3 smoothing, which leaves the border as it is."""
    smooth = images.clone()
    sums = images[..., :-2, :] + images[..., 1:-1, :] + images[..., 2:, :]
    sums = sums[..., :-2] + sums[..., 1:-1] + sums[..., 2:]
    smooth[..., 1:-1, 1:-1] = sums.add_(images[..., 1:-1, 1:-1], alpha=4).div_(13).add_(0.5).floor_()
    return _blend(smooth, images, factor)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    step = _each(2.0 ** (8 - bits), images)
    return (images / step).floor_().mul_(step)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """The inverse from a threshold on; with a threshold of 0, the inverse."""
    return torch.where(images < _each(threshold.ceil(), images), images, 255 - images)


def autocontrast(images: Tensor) -> Tensor:
    low, high = (extreme((2, 3), keepdim=True).double() for extreme in (images.amin, images.amax))
    flat = high <= low
    scale = torch.full_like(low, 255).div_(high - low).masked_fill_(flat, 1)  # 255 / x is 255 * (1 / x) in torch
    offset = (-low * scale).masked_fill_(flat, 0)
    return (images * scale).add_(offset).trunc_().clamp_(0, 255).float()


def equalize(images: Tensor) -> Tensor:
    count, channels = images.shape[:2]
    pixels = images.flatten(2).long().view(count * channels, -1)
    histogram = pixels.new_zeros(len(pixels), 256).scatter_add_(1, pixels, torch.ones_like(pixels))
    below = histogram.cumsum(1) - histogram
    last = histogram.gather(1, pixels.amax(1, keepdim=True))
    step = (pixels.shape[1] - last) // 255
    table = ((step // 2 + below) // step.clamp(min=1)).clamp_(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=images.device))
    return table.float().gather(1, pixels).view_as(images)


@lru_cache(maxsize=8)
def _hue_table(device: torch.device) -> Tensor:
    """How much of its saturation each channel loses at each of PIL's 256 hues `(3, 256)`."""
    place = torch.arange(256, dtype=torch.float64) * 6 / 255
    sector = place.floor()
    up = (place - sector).float().double()
    none, full, down = torch.zeros_like(up), torch.ones_like(up), 1 - up
    # Of red, from sector to sector; green is two sectors behind it and blue four.
    channels = torch.stack([none, up, full, full, down, none])
    table = [channels[(sector.long() + shift) % 6, torch.arange(256)] for shift in (0, 4, 2)]
    return torch.stack(table).to(device)


def shift_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Through PIL's HSV of 8 bits, with `shift` steps (of 256) of hue. Floats are as wide as those of PIL."""
    value = images.amax(1)
    chroma = value - images.amin(1)
    red, green, _ = images.unbind(1)
    r, g, b = ((value.unsqueeze(1) - images) / chroma.clamp(min=1).unsqueeze(1)).double().unbind(1)
    hue = torch.where(red == value, b - g, torch.where(green == value, 2 + r - b, 4 + g - r)).float().double()
    hue = (hue / 6 + 1).frac().float().double().mul_(255).int()
    saturation = (chroma / value.clamp(min=1)).double().mul_(255).floor_().div_(255).float().double()
    hue = (hue + shift.to(images.device, torch.int32).view(-1, 1, 1)) & 255
    lost = _hue_table(images.device).gather(1, hue.long().view(1, -1).expand(3, -1))
    lost = lost.view(3, *hue.shape).transpose(0, 1)
    return (1 - saturation.unsqueeze(1) * lost).mul_(value.unsqueeze(1)).add_(0.5).floor_().float()


def draw_jitter(p: float, hue: float, draws: Draws) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Which images, the order of their enhancements, the factors in it, the place of the hue, and its steps.

    Args:
        p (`float`): the share of images that are changed.
        hue (`float`): the largest shift, of the whole circle.
        draws ([`Draws`]): the source of randomness.
    """
    chosen = draws.happens(p)
    order = draws.rand(-1, 3).argsort(stable=True, dim=1)
    factor = draws.uniform(0.6, 1.4, -1, 3)
    place = draws.randint(4, -1)
    steps = (draws.uniform(-hue, hue, -1).double() * 255).int()
    return chosen, constant(_ENHANCE, draws.device)[order], factor, place, steps if hue else None


def color_jitter(
    images: Tensor, chosen: Tensor, kind: Tensor, factor: Tensor, place: Tensor, steps: Tensor | None
) -> Tensor:
    """In place. The hue comes after `place` of the enhancements: one pass for all images, not one for each place.

    Args:
        images (`Tensor`, `(B, 3, H, W)`): whole numbers from 0 to 255.
        chosen (`Tensor` of `bool`, `(B,)`): which images are changed.
        kind, factor (`Tensor`, `(B, 3)`): of the enhancements, in order.
        place (`Tensor`, `(B,)`): after how many of them the hue is shifted.
        steps (`Tensor`, `(B,)`, *optional*): of the hue, of 256.
    """
    for i in range(3):
        apply_to(images, chosen & (place > i), enhance, kind[:, i], factor[:, i])
    if steps is not None:
        apply_to(images, chosen, shift_hue, steps)
    for i in range(3):
        apply_to(images, chosen & (place <= i), enhance, kind[:, i], factor[:, i])
    return images


def _box(radius: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """PIL's three box blurs for a Gaussian: weights of the center, its neighbors and theirs, in steps of 2^-24.

    A radius of 2 needs a box of at most 5 pixels, the outermost with a fraction of the weight (Gwosdek et al., 2011).
    """
    variance = radius * radius / 3
    length = (12.0 * variance.double() + 1).sqrt().float()
    whole = ((length.double() - 1) / 2).floor().float()
    fraction = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    box = whole + fraction / (6 * (variance - (whole + 1) * (whole + 1)))
    inner = box.floor().double()
    full = (2**24 / (box * 2 + 1)).double().floor()
    outer = ((2**24 - (inner * 2 + 1) * full) / 2).floor()
    return full * 2**-24, full.where(inner > 0, outer) * 2**-24, outer.where(inner > 0, 0.0) * 2**-24


def gaussian_blur(images: Tensor, radius: Tensor) -> Tensor:
    """PIL's Gaussian blur with radii up to 2: three box blurs in each direction, each rounded; exact in `float64`."""
    center, near, far = (_each(weight, images.double()) for weight in _box(radius))
    images = images.double()
    for dim, border in ((3, (2, 2, 0, 0)), (2, (0, 0, 2, 2))):
        for _ in range(3):
            wide = torch.nn.functional.pad(images, border, mode="replicate")
            taps = [wide.narrow(dim, i, images.shape[dim]) for i in range(5)]
            images = (taps[1] + taps[3]).mul_(near).addcmul_(images, center)
            images = images.addcmul_(taps[0] + taps[4], far).add_(0.5).floor_()
    return images.float()
