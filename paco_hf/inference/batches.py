"""Images, of a split or of files, in batches through the image processors of checkpoints."""

import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..utils.hardware import available_cores
from ..utils.signals import start_worker, worker_context
from ..utils.text import describe_errors
from ..utils.workers import fitting_workers
from .unlabeled import UnlabeledImages

_FEW = 2  # batches for which no processes are started


class ImageFiles:
    """PIL images in RGB without labels, by index, each decoded when it is asked for.

    Args:
        images ([`UnlabeledImages`], or sequence of `Path`): the images, or their files.
        strict (`bool`, *optional*, defaults to `True`): batches end with a `ValueError` at one that cannot be decoded;
            else it is left out of them, and `errors` has the message by index.
    """

    def __init__(self, images: UnlabeledImages | Sequence[Path], strict: bool = True) -> None:
        if not isinstance(images, UnlabeledImages):
            files, images = images, UnlabeledImages()
            images.add_files(files)
        self.images, self.names, self.strict = images, images.names, strict
        self.errors: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Image.Image:
        return self.images.open(index)

    def check_any(self) -> None:
        """`ValueError` where none can be decoded."""
        if len(self.errors) == len(self):
            raise ValueError(describe_errors(len(self), next(iter(self.errors.values())), len(self)))


class Batch(NamedTuple):
    """Images as models take them.

    Args:
        rows (sequence of `int`): their indices, those that cannot be decoded among them.
        pixels (list of `Tensor`): the decoded ones `(B, 3, H, W)` for each image processor; empty where there is none.
        errors (`dict`): of the others, what is wrong, by index.
    """

    rows: Sequence[int]
    pixels: list[Tensor]
    errors: dict[int, str]


class _Collator:
    """A batch of images through each image processor; equal processors work once."""

    def __init__(self, processors: Sequence[Any]) -> None:
        settings = [processor.to_dict() for processor in processors]
        self.which = [settings.index(one) for one in settings]
        self.processors = {i: processors[i] for i in self.which}

    def __call__(self, images: list[Image.Image]) -> list[Tensor]:
        pixels = {i: processor(images, return_tensors="pt") for i, processor in self.processors.items()}
        return [pixels[i]["pixel_values"] for i in self.which]


class _Batches:
    """Batches by their number: what a data loader's worker decodes."""

    def __init__(self, images: Any, rows: Sequence[int], size: int, collate: _Collator) -> None:
        self.images, self.rows, self.size, self.collate = images, rows, size, collate

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    def image_rows(self, number: int) -> Sequence[int]:
        return self.rows[number * self.size : (number + 1) * self.size]

    def __getitem__(self, number: int) -> tuple[list[Tensor], dict[int, str]]:
        decoded, errors = [], {}
        for row in self.image_rows(number):
            try:
                decoded.append(self.images[row])
            except ValueError as error:
                errors[row] = str(error)
        return self.collate(decoded) if decoded else [], errors


def decoded_batches(
    images: Any,
    processors: Sequence[Any],
    batch_size: int,
    description: str,
    *,
    rows: Sequence[int] | None = None,
    show: bool = True,
) -> Iterator[Batch]:
    """Go through images in their order, with a progress bar on a terminal; processes decode the next ones meanwhile.

    Args:
        images, processors, batch_size, description, rows, show: as those of [`image_batches`].

    Yields:
        every batch, cut at the same places whatever cannot be decoded.

    Raises:
        ValueError: an image cannot be decoded, of those that are not [`ImageFiles`], or strict; the message names it.
    """
    batches = _Batches(images, range(len(images)) if rows is None else rows, batch_size, _Collator(processors))
    total, tolerant = len(batches.rows), isinstance(images, ImageFiles) and not images.strict
    loader: Any = DataLoader(batches, None, collate_fn=_as_it_is, **_workers(batches, show))  # type: ignore[arg-type]
    hidden = None if show and total > batch_size else True
    with tqdm(total=total, desc=description, unit=" images", disable=hidden) as progress:
        for number, (pixels, errors) in enumerate(loader):
            if errors and not tolerant:
                raise ValueError(next(iter(errors.values())))
            batch = Batch(batches.image_rows(number), pixels, errors)
            yield batch
            progress.update(len(batch.rows))


def image_batches(
    images: Any,
    processors: Sequence[Any],
    batch_size: int,
    description: str,
    *,
    rows: Sequence[int] | None = None,
    show: bool = True,
) -> Iterator[list[Tensor]]:
    """The decoded images of [`decoded_batches`]; of those that cannot be decoded [`ImageFiles`] keep the errors.

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
    for batch in decoded_batches(images, processors, batch_size, description, rows=rows, show=show):
        if isinstance(images, ImageFiles):
            images.errors |= batch.errors
        if batch.pixels:
            yield batch.pixels


def _workers(batches: _Batches, show: bool) -> dict[str, Any]:
    """The settings of a data loader for the processes that decode; none for few files, or where all is decoded."""
    if len(batches) <= _FEW if isinstance(batches.images, ImageFiles) else batches.images.decoded is not None:
        return {}
    workers, note = fitting_workers(available_cores(), batches.size * _image_bytes(batches))
    if note and show:
        print(note, file=sys.stderr)
    if not workers:
        return {}
    forked = multiprocessing.get_start_method() == "fork"
    context = {"multiprocessing_context": worker_context()} if forked else {}
    return {"num_workers": workers, "worker_init_fn": partial(start_worker, None), **context}


def _image_bytes(batches: _Batches) -> int:
    """What an image takes that is ready for the models: the first that can be decoded, of a few."""
    for row in islice(batches.rows, 8):
        try:
            return sum(pixels.nbytes for pixels in batches.collate([batches.images[row]]))
        except ValueError:
            continue
    return sum(pixels.nbytes for pixels in batches.collate([Image.new("RGB", (256, 256))]))


def _as_it_is(batch: Any) -> Any:  # under spawn a lambda cannot be sent
    return batch
