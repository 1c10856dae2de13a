"""The policies of the views, AutoAugment and RandAugment, on a batch of images at once."""

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import chain

import torch
from torch import Tensor

from .batched_draws import Draws, constant, may_read
from .batched_functional import (
    AUTO,
    KIND,
    OPERATIONS,
    RAND,
    SPACE,
    apply_to,
    autocontrast,
    enhance,
    equalize,
    posterize,
    sharpen,
    solarize,
)

_FILL = 128.0
_MOVING = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
# An operation's code: its kind and its magnitude in one number, which is exact to 2^-30.
_KIND_STEP = 2.0**16


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


@lru_cache(maxsize=64)
def _policy_matrices(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The bounds between the codes of all shears, translations and rotations that are drawn, and their matrices."""
    steps = [(name, 10, i) for name in _MOVING for i in range(10)]
    steps += [(name, RAND.num_magnitude_bins, RAND.magnitude) for name in _MOVING]
    drawn = {(KIND[step[0]], sign * _magnitude(*step, size)) for step in steps for sign in (1, -1)}
    rows = sorted(drawn)
    codes = torch.tensor([kind * _KIND_STEP + magnitude for kind, magnitude in rows], dtype=torch.float64)
    table = torch.tensor([_source_matrix(*row, size) for row in rows], dtype=torch.int32)
    return (codes[1:] + codes[:-1]).div_(2).to(device), table.to(device)


def affine(images: Tensor, kind: Tensor, magnitude: Tensor) -> Tensor:
    """A policy's shears, translations and rotations of square images: the nearest source pixel, or gray.

    Args:
        images (`Tensor`, `(B, 3, H, W)`): whole numbers from 0 to 255.
        kind (`Tensor`, `(B,)`): of each image an index of [`OPERATIONS`].
        magnitude (`Tensor`, `(B,)`): in pixels, degrees or as a slope, as torchvision has it.
    """
    count, channels, height, width = images.shape
    if may_read(kind):
        pairs = zip(kind.tolist(), magnitude.tolist(), strict=True)
        matrices = torch.tensor([_source_matrix(*pair, width) for pair in pairs], dtype=torch.int32)
    else:
        bounds, table = _policy_matrices(width, kind.device)
        matrices = table[((kind * _KIND_STEP + magnitude).unsqueeze(1) > bounds).sum(1)]
    a, b, c, d, e, f = matrices.to(images.device).view(count, 6, 1, 1).unbind(1)
    x = torch.arange(width, dtype=torch.int32, device=images.device)
    y = torch.arange(height, dtype=torch.int32, device=images.device).unsqueeze(1)
    column, row = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    source = (row * width + column).mul_(inside).long().view(count, 1, -1).expand(-1, channels, -1)
    return images.flatten(2).gather(2, source).view_as(images).where(inside.unsqueeze(1), _FILL)


def _magnitude(name: str, bins: int, index: int | None, size: int) -> float:
    magnitudes = SPACE[name][0](bins, size, size)
    return 0.0 if magnitudes is None or index is None else float(magnitudes[index])


def _signed(kind: Tensor, magnitude: Tensor, draws: Draws) -> Tensor:
    signed = constant(tuple(sign for _, sign in SPACE.values()), draws.device)[kind]
    return torch.where(signed & (draws.rand(len(kind), -1) <= 0.5), -magnitude, magnitude)


@lru_cache(maxsize=64)
def _policy(size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Kind, probability and magnitude `(25, 2)` of torchvision's CIFAR-10 policy."""
    # Private, as torchvision has the policy in no other place.
    names, chances, indices = zip(*chain(*AUTO._policies), strict=True)
    magnitudes = [_magnitude(name, 10, index, size) for name, index in zip(names, indices, strict=True)]
    kinds, values = torch.tensor([KIND[name] for name in names]), torch.tensor(magnitudes, dtype=torch.float64)
    kinds, chance, values = (table.view(-1, 2).to(device) for table in (kinds, torch.tensor(chances), values))
    return kinds, chance, values


def draw_auto_augment(size: int, draws: Draws) -> tuple[Tensor, Tensor]:
    """Kind and magnitude, each `(2, B)`, of the CIFAR-10 policy; what does not happen is an identity.

    Args:
        size (`int`): side of the images in pixels.
        draws ([`Draws`]): the source of randomness.
    """
    kinds, chances, magnitudes = _policy(size, draws.device)
    policy = draws.randint(len(kinds), -1)
    happens = draws.rand(-1, 2) <= chances[policy]
    kind = kinds[policy].where(happens, KIND["Identity"]).T
    return kind, _signed(kind, magnitudes[policy].where(happens, 0.0).T, draws)


@lru_cache(maxsize=64)
def _rand_operations(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Kind and magnitude `(14,)` of torchvision's RandAugment."""
    names, bins, level = list(RAND._AUGMENTATION_SPACE), RAND.num_magnitude_bins, RAND.magnitude
    magnitudes = torch.tensor([_magnitude(name, bins, level, size) for name in names], dtype=torch.float64)
    return torch.tensor([KIND[name] for name in names]).to(device), magnitudes.to(device)


def draw_rand_augment(size: int, draws: Draws) -> tuple[Tensor, Tensor]:
    """Kind and magnitude, each `(2, B)`, of torchvision's RandAugment.

    Args:
        size (`int`): side of the images in pixels.
        draws ([`Draws`]): the source of randomness.
    """
    kinds, magnitudes = _rand_operations(size, draws.device)
    drawn = draws.randint(len(kinds), RAND.num_ops, -1)
    return kinds[drawn], _signed(kinds[drawn], magnitudes[drawn], draws)


_GROUPS: list[tuple[set[str], Callable[..., Tensor]]] = [
    (set(_MOVING), affine),
    ({"Brightness", "Contrast", "Color"}, lambda images, kind, m: enhance(images, kind, 1 + m)),
    ({"Sharpness"}, lambda images, kind, m: sharpen(images, 1 + m)),
    ({"Posterize"}, lambda images, kind, m: posterize(images, m.trunc())),
    ({"Solarize", "Invert"}, lambda images, kind, m: solarize(images, 255 * m)),
    ({"AutoContrast"}, lambda images, kind, m: autocontrast(images)),
    ({"Equalize"}, lambda images, kind, m: equalize(images)),
]

_GROUP = tuple(next((i for i, (names, _) in enumerate(_GROUPS) if name in names), -1) for name in OPERATIONS)


def augment(images: Tensor, kind: Tensor, magnitude: Tensor) -> Tensor:
    """In place. A policy's operations, one after the other: `kind` of [`OPERATIONS`], each `(steps, B)`.

    Args:
        images (`Tensor`, `(B, 3, H, W)`): whole numbers from 0 to 255.
        kind (`Tensor`, `(steps, B)`): of each image an index of [`OPERATIONS`].
        magnitude (`Tensor`, `(steps, B)`): of the operations.
    """
    for step_kind, step_magnitude in zip(kind, magnitude, strict=True):
        group = constant(_GROUP, step_kind.device)[step_kind]
        for i, (_, operation) in enumerate(_GROUPS):
            apply_to(images, group == i, operation, step_kind, step_magnitude)
    return images
