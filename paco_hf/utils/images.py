"""Image files: how they are decoded, and small copies."""

import io
import os
import re
import warnings
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from .text import one_line

PIXEL_LIMIT = "PACO_HF_MAX_IMAGE_PIXELS"  # in the environment, which processes have that are started from this one
_USUAL_LIMIT = Image.MAX_IMAGE_PIXELS
# PIL warns of half of what it refuses, which nobody need know.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def allow_image_pixels(limit: int | None) -> None:
    """Let images have up to so many pixels, in this process and in those that it starts; `None`: PIL's 179 million."""
    if limit is not None:
        os.environ[PIXEL_LIMIT] = str(limit)
        Image.MAX_IMAGE_PIXELS = limit / 2  # type: ignore[assignment]  # it refuses twice as many
    elif os.environ.pop(PIXEL_LIMIT, None):
        Image.MAX_IMAGE_PIXELS = _USUAL_LIMIT


if PIXEL_LIMIT in os.environ:
    allow_image_pixels(int(os.environ[PIXEL_LIMIT]))


def open_image(source: Any, name: str) -> Image.Image:
    """Decode a file to RGB, turned as its EXIF orientation says.

    Deeper grays are brought to 8 bits, where PIL would clip them to white: 16-bit values are divided by 256; 32-bit
    integers likewise where one is above 255; floating-point values are taken as 0 to 1 where none is above 1, as 0 to
    255 where none is above that, else as 16 bits. Transparency is dropped without a background, as
    `convert("RGB")` and so transformers' pipeline do.

    Raises:
        ValueError: it cannot be decoded, or is larger than [`allow_image_pixels`] allows; the message has the `name`.
    """
    name = one_line(name)
    try:
        with Image.open(source) as image:
            return _eight_bits(ImageOps.exif_transpose(image)).convert("RGB")
    except Image.DecompressionBombError as error:
        pixels, limit = (f"{float(number):,.0f}" for number in re.findall(r"[\d.]+(?= pixels)", str(error)))
        raise ValueError(
            f"{name} has {pixels} pixels, and at most {limit} are allowed: if you trust the file, give "
            f"--max_image_pixels {pixels.replace(',', '')}"
        ) from error
    except Exception as error:  # decoders have an error of their own for every kind of damage
        reason = str(error) or type(error).__name__
        if isinstance(source, str | os.PathLike):  # `name` says as much of its place as may be known
            reason = reason.replace(os.fspath(source), os.path.basename(source))
        reason = re.sub(r" ?<_io\.BytesIO object at \w+>", "", reason)
        raise ValueError(f"{name} cannot be decoded as an image: {reason}; replace or remove it") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    if not (image.mode in ("I", "F") or image.mode.startswith("I;16")):
        return image
    values = np.asarray(image)
    most = values.max(initial=0)
    if image.mode == "F" and most <= 1:
        values = np.nan_to_num(values) * 255
    elif image.mode.startswith("I;16") or most > 255:
        values = values / 256
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def small_copy(image: Image.Image, side: int) -> tuple[str, bytes]:
    """An image of at most `side` pixels a side, encoded: `PNG` where it is tiny, else `JPEG`, a tenth of that."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    kind = "PNG" if max(small.size) <= 64 else "JPEG"
    content = io.BytesIO()
    small.save(content, kind, quality=85)
    return kind, content.getvalue()
