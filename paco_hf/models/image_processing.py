"""The evaluation transform of a checkpoint, as the image processor that is saved with it."""

from collections.abc import Sequence
from typing import Any

from PIL import Image
from transformers import BitImageProcessor

from .image_processing_paco import PaCoImageProcessor

FITS = ("crop", "pad")  # how images become squares
SMALL_IMAGE = 64  # pixels; up to here CIFAR's backbone and views are the default, and images are not cropped


def build_processor(
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bilinear",
    crop_pct: float | None = None,
    fit: str = "crop",
) -> BitImageProcessor:
    """Make images squares, resize and normalize them.

    Args:
        size (`int`): side of the square input in pixels. Images of up to `SMALL_IMAGE` are used whole.
        mean (sequence of `float`): of each channel, for values in 0..1.
        std (sequence of `float`): likewise.
        interpolation (`str`, *optional*, defaults to `"bilinear"`): or `"bicubic"`.
        crop_pct (`float`, *optional*): larger images are cut from `size / crop_pct`, rounded down as timm does;
            default: from 8/7 of the size (256 for 224).
        fit (`str`, *optional*, defaults to `"crop"`): the middle is cut out; or `"pad"`: the whole image is seen, on a
            ground of the color of its border.
    """
    whole = round(size * 8 / 7) if crop_pct is None else int(size / crop_pct)
    settings: dict[str, Any] = {
        "crop_size": {"height": size, "width": size},
        "resample": Image.Resampling[interpolation.upper()],
        "image_mean": list(mean),
        "image_std": list(std),
    }
    if fit == "pad":  # nothing is left to cut then
        return PaCoImageProcessor(size={"shortest_edge": size}, **settings)
    return BitImageProcessor(size={"shortest_edge": size if size <= SMALL_IMAGE else whole}, **settings)
