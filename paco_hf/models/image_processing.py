"""The evaluation transform of a checkpoint, as the image processor that is saved with it."""

from collections.abc import Sequence

from PIL import Image
from transformers import BitImageProcessor

SMALL_IMAGE = 64  # pixels; up to here CIFAR's backbone and views are the default, and images are not cropped


def build_processor(
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bilinear",
    crop_pct: float | None = None,
) -> BitImageProcessor:
    """Resize, center crop, normalize.

    Args:
        size (`int`): side of the square input in pixels. Images of up to `SMALL_IMAGE` are used whole.
        mean (sequence of `float`): of each channel, for values in 0..1.
        std (sequence of `float`): likewise.
        interpolation (`str`, *optional*, defaults to `"bilinear"`): or `"bicubic"`.
        crop_pct (`float`, *optional*): larger images are cut from `size / crop_pct`, rounded down as timm does;
            default: from 8/7 of the size (256 for 224).
    """
    whole = round(size * 8 / 7) if crop_pct is None else int(size / crop_pct)
    return BitImageProcessor(
        size={"shortest_edge": size if size <= SMALL_IMAGE else whole},
        crop_size={"height": size, "width": size},
        resample=Image.Resampling[interpolation.upper()],
        image_mean=list(mean),
        image_std=list(std),
    )
