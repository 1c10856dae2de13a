"""Images, of a split or of files, in batches through the image processors of checkpoints."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm

from ..utils.hardware import available_cores
from ..utils.signals import end_with_lost_batch
from ..utils.text import describe_errors
from ..utils.workers import fitting_workers
from .unlabeled import UnlabeledImages


class ImageFiles:
    """PIL images in RGB without labels, by index, each decoded when it is asked for.

    Args:
        images ([`UnlabeledImages`], or sequence of `Path`): the images, or their files.
        strict (`bool`, *optional*, defaults to `True`): one that cannot be decoded is a `ValueError`; else it is
            `None`, and `errors` has the message by index.
    """

    def __init__(self, images: UnlabeledImages | Sequence[Path], strict: bool = True) -> None:
        if not isinstance(images, UnlabeledImages):
            images = UnlabeledImages([*map(str, images)], [*images])
        self.images, self.names, self.strict = images, images.names, strict
        self.errors: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Image.Image | None:
        try:
            return self.images.open(index)
        except ValueError as error:
            if self.strict:
                raise
            self.errors[index] = str(error)
            return None

    def check_any(self) -> None:
        """`ValueError` where none can be decoded."""
        if len(self.errors) == len(self):
            raise ValueError(describe_errors(self.errors, len(self)))


class _Collator:
    """A batch of images through each image processor; equal processors work once. `None` is left out."""

    def __init__(self, processors: Sequence[Any]) -> None:
        settings = [processor.to_dict() for processor in processors]
        self.which = [settings.index(one) for one in settings]
        self.processors = {i: processors[i] for i in self.which}

    def __call__(self, images: list[Image.Image | None]) -> list[Tensor]:
        images = [image for image in images if image is not None]
        if not images:
            return []
        pixels = {i: processor(images, return_tensors="pt") for i, processor in self.processors.items()}
        return [pixels[i]["pixel_values"] for i in self.which]


def image_batches(
    images: Any,
    processors: Sequence[Any],
    batch_size: int,
    description: str,
    *,
    rows: Sequence[int] | None = None,
    show: bool = True,
) -> Iterator[list[Tensor]]:
    """Go through images in their order, with a progress bar on a terminal.

    Args:
        images ([`ImageFiles`] or [`paco_hf.data.images.Images`]): PIL images in RGB by index.
        processors (sequence of image processors): of the checkpoints that see the images.
        batch_size (`int`): images a batch; the last one may have fewer.
        description (`str`): what is done, for the progress bar.
        rows (sequence of `int`, *optional*): those images alone.
        show (`bool`, *optional*, defaults to `True`): whether there is a progress bar.

    Yields:
        for each batch with images, one tensor `(B, 3, H, W)` a processor.

    Raises:
        ValueError: an image cannot be decoded; the message names it.
    """
    rows = range(len(images)) if rows is None else rows
    collate, workers = _Collator(processors), 0
    if rows and not isinstance(images, ImageFiles) and images.decoded is None:
        image_bytes = sum(pixels.nbytes for pixels in collate([images[rows[0]]]))
        workers, note = fitting_workers(available_cores(), batch_size * image_bytes)
        if note and show:
            print(note, file=sys.stderr)
    split = Subset(images, rows)
    loader = DataLoader(split, batch_size, num_workers=workers, collate_fn=collate, worker_init_fn=end_with_lost_batch)
    hidden = None if show and len(rows) > batch_size else True
    with tqdm(total=len(rows), desc=description, unit=" images", disable=hidden) as progress:
        for start, batch in zip(range(0, len(rows), batch_size), loader, strict=True):
            if batch:
                yield batch
            progress.update(min(batch_size, len(rows) - start))
