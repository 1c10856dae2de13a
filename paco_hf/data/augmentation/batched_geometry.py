"""Crops, flips and holes of a batch of images at once; see [`paco_hf.data.augmentation.batched_functional`]."""

import math

import torch
from torch import Tensor

from .batched_draws import Draws, may_read

_RATIO = (3 / 4, 4 / 3)
_CHUNK = 2**22  # numbers to resize at a time: crops of large images need not be in memory all at once


def shifted_crop(images: Tensor, top: Tensor, left: Tensor, padding: int) -> Tensor:
    """The window of the images' own size at `(top, left)` of the images padded with black.

    Args:
        images (`Tensor`, `(B, 3, H, W)`): whole numbers from 0 to 255.
        top, left (`Tensor`, `(B,)`): of the window.
        padding (`int`): pixels on each side.
    """
    height, width = images.shape[-2:]
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    device = images.device
    return windows[torch.arange(len(images), device=device), :, top.to(device), left.to(device)]


def draw_boxes(height: int, width: int, scale: tuple[float, float], draws: Draws) -> Tensor:
    """`RandomResizedCrop`'s boxes `(B, 4)`: top, left, height, width. The first of ten that fits, or a central one.

    Args:
        height, width (`int`): of the images.
        scale (pair of `float`): range of the share of the area.
        draws ([`Draws`]): the source of randomness.
    """
    area = height * width * draws.uniform(*scale, 10, -1).double()
    aspect = draws.uniform(math.log(_RATIO[0]), math.log(_RATIO[1]), 10, -1).double().exp()
    place = draws.rand(2, -1, dtype=torch.float64)
    widths, heights = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first, fitting = fits.int().argmax(0, keepdim=True), fits.any(0)
    central_width = float(min(width, round(height * _RATIO[1])))
    central_height = float(min(height, round(width / _RATIO[0])))
    box_width = widths.gather(0, first)[0].where(fitting, central_width)
    box_height = heights.gather(0, first)[0].where(fitting, central_height)
    free = torch.stack([height - box_height, width - box_width])
    top, left = (place * (free + 1)).floor().where(fitting, (free / 2).floor())
    return torch.stack([top, left, box_height, box_width], 1)


def _resampling(start: Tensor, length: Tensor, extent: int, size: int) -> Tensor:
    """PIL's bilinear weights `(B, size, extent)` from the box of each image to `size`, in its steps of 2^-22."""
    start, length = start.view(-1, 1, 1), length.view(-1, 1, 1)
    pixel = torch.arange(extent, dtype=torch.float64, device=start.device) - start
    out = torch.arange(size, dtype=torch.float64, device=start.device).unsqueeze(1)
    scale = length / size
    distance = (pixel - (out + 0.5) * scale + 0.5) * (1 / scale.clamp(min=1))
    weights = (1 - distance.abs()).clamp_(min=0) * ((pixel >= 0) & (pixel < length))
    return (weights / weights.sum(2, keepdim=True)).mul_(2**22).add_(0.5).floor_().mul_(2**-22)


def _resized(images: Tensor, y: Tensor, x: Tensor, height: Tensor, width: Tensor, size: int) -> Tensor:
    count, _, down, across = images.shape
    rows = images.permute(0, 2, 1, 3).to(torch.float64, memory_format=torch.contiguous_format)
    rows = rows.view(count, down * 3, across) @ _resampling(x, width, across, size).mT
    rows = rows.add_(0.5).floor_().view(count, down, 3 * size)
    rows = _resampling(y, height, down, size) @ rows
    return rows.add_(0.5).floor_().view(count, size, 3, size).permute(0, 2, 1, 3).float()


def resized_crop(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """PIL's antialiased bilinear resizing of a box `(top, left, height, width)` of each image to `(size, size)`.

    Each direction is rounded. The weights have 22 bits and the pixels 8: sums are exact in `float64`, in any order.

    Args:
        images (`Tensor`, `(B, 3, H, W)`): whole numbers from 0 to 255.
        boxes (`Tensor`, `(B, 4)`): of [`draw_boxes`].
        size (`int`): side of the result in pixels.
    """
    height, width = boxes[:, 2:].unbind(1)
    # Pillow 13 begins with the direction that leaves less to do.
    vertical_first = (height > size) & (height - size > 2 * (width - size))
    result = torch.empty(len(images), 3, size, size, device=images.device)
    chunk = max(_CHUNK // images.shape[1:].numel(), 1)
    if not may_read(boxes):
        tensors = (images, boxes.double(), vertical_first.view(-1, 1, 1, 1), result)
        for part, places, swapped, place in zip(*(tensor.split(chunk) for tensor in tensors), strict=True):
            y, x, h, w = places.unbind(1)
            place.copy_(_resized(part, y, x, h, w, size))
            if images.shape[-2] > size:  # else no box is higher
                place.copy_(_resized(part.mT, x, y, w, h, size).mT.where(swapped, place))
        return result
    for swap, rows in enumerate((~vertical_first, vertical_first)):
        for index in rows.nonzero().squeeze(1).split(chunk):
            if len(index):
                place = index.to(images.device)
                part = images.index_select(0, place)
                y, x, h, w = boxes[index].to(images.device, torch.float64).unbind(1)
                result[place] = _resized(part.mT, x, y, w, h, size).mT if swap else _resized(part, y, x, h, w, size)
    return result


def cutout(images: Tensor, y: Tensor, x: Tensor, side: int) -> Tensor:
    """In place. A black square around `(y, x)`, clipped at the borders.

    Args:
        images (`Tensor`, `(B, 3, H, W)`): whole numbers from 0 to 255.
        y, x (`Tensor`, `(B,)`): center of the hole.
        side (`int`): of the hole in pixels.
    """
    height, width = images.shape[-2:]
    half, device = side // 2, images.device
    rows = torch.arange(height, device=device) - y.to(device).unsqueeze(1)
    columns = torch.arange(width, device=device) - x.to(device).unsqueeze(1)
    rows, columns = (rows >= -half) & (rows < half), (columns >= -half) & (columns < half)
    # A product is faster than filling, and nothing here is infinite.
    return images.mul_((~(rows.unsqueeze(2) & columns.unsqueeze(1))).unsqueeze(1))
