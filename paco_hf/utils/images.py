"""Image files: how they are decoded, and small copies."""

import errno
import hashlib
import io
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from .text import one_line

Name = str | Callable[[], str]
PIXEL_LIMIT = "PACO_HF_MAX_IMAGE_PIXELS"  # in the environment, which processes have that are started from this one
_END = 4096  # bytes that a header is told by; files of one length that begin and end alike are read
_USUAL_LIMIT = Image.MAX_IMAGE_PIXELS
# PIL warns of half of what it refuses, which nobody need know.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


class ImageReadError(ValueError):
    """An image that may be whole could not be read: memory, open files, the disk or its rights failed."""


def allow_image_pixels(limit: int | None) -> None:
    """Let images have up to so many pixels, in this process and in those that it starts; `None`: PIL's 179 million."""
    if limit is not None:
        os.environ[PIXEL_LIMIT] = str(limit)
        Image.MAX_IMAGE_PIXELS = limit / 2  # type: ignore[assignment]  # it refuses twice as many
    elif os.environ.pop(PIXEL_LIMIT, None):
        Image.MAX_IMAGE_PIXELS = _USUAL_LIMIT


if PIXEL_LIMIT in os.environ:
    allow_image_pixels(int(os.environ[PIXEL_LIMIT]))


def open_image(source: Any, name: Name, small: bool = False) -> Image.Image:
    """Decode a file to RGB, turned as its EXIF orientation says.

    Deeper grays are brought to 8 bits, where PIL would clip them to white: 16-bit values are divided by 256; 32-bit
    integers likewise where one is above 255; floating-point values are taken as 0 to 1 where none is above 1, as 0 to
    255 where none is above that, else as 16 bits. Transparency is dropped without a background, as
    `convert("RGB")` and so transformers' pipeline do.

    Args:
        source: a path, or an opened file.
        name (`str`, or callable that gives it): what the message of an error calls it.
        small (`bool`, *optional*, defaults to `False`): a JPEG at an eighth of its size, for which all of the file is
            read as well, in a quarter of the time: enough to know whether it can be decoded.

    Raises:
        ValueError: it cannot be decoded, or is larger than [`allow_image_pixels`] allows; an [`ImageReadError`] where
            it cannot even be read.
    """
    with _image_errors(source, name), Image.open(source) as image:
        if small:
            image.draft(None, (1, 1))  # the mode stays
        return _eight_bits(ImageOps.exif_transpose(image)).convert("RGB")


def image_header(source: str | bytes, name: Name) -> tuple[tuple[int, int], str, bool]:
    """What a file tells without being decoded.

    Args:
        source (`str` or `bytes`): a path, or the encoded image.
        name (`str`, or callable that gives it): what the message of an error calls it.

    Returns:
        width and height; a hash of its length, its first and its last bytes; and whether these are all of it.

    Raises:
        ValueError: as [`open_image`], where the header tells already.
    """
    with (
        _image_errors(source, name),
        io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file,
        Image.open(file) as image,
    ):
        length = file.seek(0, os.SEEK_END)
        file.seek(0)
        first = file.read(_END)
        file.seek(max(length - _END, 0))
        digest = hashlib.blake2b(b"%d " % length + first + file.read(_END), digest_size=16)
        return image.size, digest.hexdigest(), length <= 2 * _END


@contextmanager
def _image_errors(source: Any, name: Name) -> Iterator[None]:
    """Whatever decoding raises as a `ValueError` that says what to do."""
    try:
        yield
    except Image.DecompressionBombError as error:
        pixels, limit = (f"{float(number):,.0f}" for number in re.findall(r"[\d.]+(?= pixels)", str(error)))
        raise ValueError(
            f"{_called(name)} has {pixels} pixels, and at most {limit} are allowed: if you trust the file, use "
            f"--max_image_pixels {pixels.replace(',', '')}"
        ) from error
    except Exception as error:  # decoders have an error of their own for every kind of damage
        # To seek before the start, as a damaged file may ask for, is EINVAL.
        if isinstance(error, MemoryError) or getattr(error, "errno", None) not in (None, errno.EINVAL):
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise ImageReadError(
                f"{_called(name)} cannot be read: {reason}; fix that, then run the same command again"
            ) from error
        reason = str(error) or type(error).__name__
        reason = re.sub(r"<_io\.BufferedReader name=(.*)>", r"\1", reason)
        if isinstance(source, str | os.PathLike):  # `name` says as much of its place as may be known
            reason = reason.replace(os.fspath(source), os.path.basename(source))
        reason = re.sub(r" ?<_io\.BytesIO object at \w+>", "", reason)
        raise ValueError(f"{_called(name)} cannot be decoded as an image: {reason}; replace or remove it") from error


def _called(name: Name) -> str:
    return one_line(name if isinstance(name, str) else name())


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
