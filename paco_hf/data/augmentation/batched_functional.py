"""The operations of the views on a batch of images at once, on the device where the batch is.

Each operation is a pair: `draw_...` draws its parameters for the images of a batch (small CPU tensors), and a pure
function applies them. Images are `float32` `(B, 3, H, W)` that hold whole numbers from 0 to 255 between operations:
every operation rounds where PIL does, in arithmetic that is exact or as wide as PIL's, so the result is PIL's.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import chain

import torch
from torch import Generator, Tensor
from torchvision.transforms import v2

from .batched_geometry import happens, uniform

_FILL = 128.0
_AUTO = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
_RAND = v2.RandAugment(num_ops=2, magnitude=9)
# Private, as torchvision gives the ranges of the operations in no other way, and PIL's views draw from the same.
_SPACE = {"Identity": (lambda *_: None, False), **_RAND._AUGMENTATION_SPACE, **_AUTO._AUGMENTATION_SPACE}
OPERATIONS = list(_SPACE)  # an operation of a policy is its place in this list
_KIND = {name: kind for kind, name in enumerate(OPERATIONS)}
_ENHANCE = torch.tensor([_KIND[name] for name in ("Brightness", "Contrast", "Color")])


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
    index = rows.nonzero().squeeze(1)
    if len(index):
        on_device = index.to(images.device)
        selected = images.index_select(0, on_device)
        images.index_copy_(0, on_device, operation(selected, *(values[index] for values in parameters)))
    return images


@lru_cache(maxsize=4096)
def _source_matrix(kind: int, magnitude: float, size: int) -> tuple[int, ...]:
    """From a pixel to its source `(a x + b y + c, d x + e y + f)`, in PIL's fixed point with 16 bits."""
    name, middle = OPERATIONS[kind], size / 2
    a, b, c, d, e, f = 1.0, 0.0, 0.0, 0.0, 1.0, 0.0
    if name == "Rotate":
        angle = -math.radians(magnitude % 360)
        cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
        a, b, d, e = cos, sin, -sin, cos
        c, f = (cos * -middle + sin * -middle) + middle, (-sin * -middle + cos * -middle) + middle
    elif name.startswith("Shear"):
        # Through degrees, as torchvision has them.
        slope = math.tan(math.radians(math.degrees(math.atan(magnitude))))
        b, d = (slope, 0.0) if name == "ShearX" else (0.0, slope)
    else:
        c, f = (-float(int(magnitude)), 0.0) if name == "TranslateX" else (0.0, -float(int(magnitude)))
    return tuple(math.floor(v * 65536 + 0.5) for v in (a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5))


def affine(images: Tensor, kind: Tensor, magnitude: Tensor) -> Tensor:
    """A policy's shears, translations and rotations of square images: the nearest source pixel, or gray.

    Args:
        images (`Tensor`, `(B, 3, H, W)`): whole numbers from 0 to 255.
        kind (`Tensor`, `(B,)`): of each image an index of [`OPERATIONS`].
        magnitude (`Tensor`, `(B,)`): in pixels, degrees or as a slope, as torchvision has it.
    """
    count, channels, height, width = images.shape
    pairs = zip(kind.tolist(), magnitude.tolist(), strict=True)
    matrices = torch.tensor([_source_matrix(*pair, width) for pair in pairs], dtype=torch.int32)
    a, b, c, d, e, f = matrices.to(images.device).view(count, 6, 1, 1).unbind(1)
    x = torch.arange(width, dtype=torch.int32, device=images.device)
    y = torch.arange(height, dtype=torch.int32, device=images.device).unsqueeze(1)
    column, row = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    source = (row * width + column).mul_(inside).long().view(count, 1, -1).expand(-1, channels, -1)
    return images.flatten(2).gather(2, source).view_as(images).where(inside.unsqueeze(1), _FILL)


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
    mean = luma.sum((1, 2, 3), keepdim=True, dtype=torch.float64).div_(luma[0].numel()).add_(0.5).floor_().float()
    gray = luma.mul_(_each(kind == _KIND["Color"], images))
    return _blend(gray.add_(mean * _each(kind == _KIND["Contrast"], images)), images, factor)


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


def draw_jitter(
    count: int, p: float, hue: float, generator: Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Which images, the order of their enhancements, the factors in it, the place of the hue, and its steps.

    Args:
        count (`int`): `B`.
        p (`float`): the share of images that are changed.
        hue (`float`): the largest shift, of the whole circle.
        generator (`torch.Generator`): the source of randomness, on the CPU.
    """
    chosen = happens(generator, p, count)
    order = torch.rand(count, 3, generator=generator).argsort(1)
    factor = uniform(generator, 0.6, 1.4, count, 3)
    place = torch.randint(4, (count,), generator=generator)
    steps = (uniform(generator, -hue, hue, count).double() * 255).int()
    return chosen, _ENHANCE[order], factor, place, steps if hue else None


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


# ---- policies


def _magnitude(name: str, bins: int, index: int | None, size: int) -> float:
    magnitudes = _SPACE[name][0](bins, size, size)
    return 0.0 if magnitudes is None or index is None else float(magnitudes[index])


def _signed(kind: Tensor, magnitude: Tensor, generator: Generator) -> Tensor:
    signed = torch.tensor([sign for _, sign in _SPACE.values()])[kind]
    return torch.where(signed & (torch.rand(kind.shape, generator=generator) <= 0.5), -magnitude, magnitude)


@lru_cache(maxsize=64)
def _policy(size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Kind, probability and magnitude `(25, 2)` of torchvision's CIFAR-10 policy."""
    # Private, as torchvision has the policy in no other place.
    names, chances, indices = zip(*chain(*_AUTO._policies), strict=True)
    magnitudes = [_magnitude(name, 10, index, size) for name, index in zip(names, indices, strict=True)]
    kinds = torch.tensor([_KIND[name] for name in names]).view(-1, 2)
    return kinds, torch.tensor(chances).view(-1, 2), torch.tensor(magnitudes, dtype=torch.float64).view(-1, 2)


def draw_auto_augment(count: int, size: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Kind and magnitude, each `(2, B)`, of the CIFAR-10 policy; what does not happen is an identity.

    Args:
        count (`int`): `B`.
        size (`int`): side of the images in pixels.
        generator (`torch.Generator`): the source of randomness, on the CPU.
    """
    kinds, chances, magnitudes = _policy(size)
    policy = torch.randint(len(kinds), (count,), generator=generator)
    happens = torch.rand(count, 2, generator=generator) <= chances[policy]
    kind = kinds[policy].where(happens, _KIND["Identity"]).T
    return kind, _signed(kind, magnitudes[policy].where(happens, 0.0).T, generator)


def draw_rand_augment(count: int, size: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Kind and magnitude, each `(2, B)`, of torchvision's RandAugment.

    Args:
        count (`int`): `B`.
        size (`int`): side of the images in pixels.
        generator (`torch.Generator`): the source of randomness, on the CPU.
    """
    names, bins, level = list(_RAND._AUGMENTATION_SPACE), _RAND.num_magnitude_bins, _RAND.magnitude
    magnitudes = torch.tensor([_magnitude(name, bins, level, size) for name in names], dtype=torch.float64)
    drawn = torch.randint(len(names), (_RAND.num_ops, count), generator=generator)
    kind = torch.tensor([_KIND[name] for name in names])[drawn]
    return kind, _signed(kind, magnitudes[drawn], generator)


_GROUPS: list[tuple[set[str], Callable[..., Tensor]]] = [
    ({"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"}, affine),
    ({"Brightness", "Contrast", "Color"}, lambda images, kind, m: enhance(images, kind, 1 + m)),
    ({"Sharpness"}, lambda images, kind, m: sharpen(images, 1 + m)),
    ({"Posterize"}, lambda images, kind, m: posterize(images, m.trunc())),
    ({"Solarize", "Invert"}, lambda images, kind, m: solarize(images, 255 * m)),
    ({"AutoContrast"}, lambda images, kind, m: autocontrast(images)),
    ({"Equalize"}, lambda images, kind, m: equalize(images)),
]

_GROUP = torch.tensor([next((i for i, (names, _) in enumerate(_GROUPS) if name in names), -1) for name in OPERATIONS])


def augment(images: Tensor, kind: Tensor, magnitude: Tensor) -> Tensor:
    """In place. A policy's operations, one after the other: `kind` of [`OPERATIONS`], each `(steps, B)`.

    Args:
        images (`Tensor`, `(B, 3, H, W)`): whole numbers from 0 to 255.
        kind (`Tensor`, `(steps, B)`): of each image an index of [`OPERATIONS`].
        magnitude (`Tensor`, `(steps, B)`): of the operations.
    """
    for step_kind, step_magnitude in zip(kind, magnitude, strict=True):
        group = _GROUP[step_kind]
        for i, (_, operation) in enumerate(_GROUPS):
            apply_to(images, group == i, operation, step_kind, step_magnitude)
    return images
