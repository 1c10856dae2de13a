"""An image processor that sees whole images. It travels with a checkpoint that was trained on padded images."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import image_utils
from transformers.utils.versions import require_version

require_version("transformers>=4.56")  # as in `configuration_paco`

PROCESSOR_FILE = Path(__file__).name

# The one of tensors. Before transformers 5.4 this was its name, and `BitImageProcessor` one of arrays.
BitImageProcessor: Any = getattr(
    transformers,
    "BitImageProcessor" if hasattr(transformers.BitImageProcessor, "_preprocess") else "BitImageProcessorFast",
)


class PaCoImageProcessor(BitImageProcessor):
    """Put images on a square ground, then resize and normalize them as a `BitImageProcessor`.

    The ground has the color of the image's border, its median in each channel: what lies on white stays on white.
    """

    def _preprocess(self, images: list[Tensor], **kwargs: Any) -> Any:
        limit = kwargs["size"].shortest_edge if kwargs["do_resize"] else None
        resample = kwargs["resample"] if "resample" in kwargs else kwargs["interpolation"]  # before transformers 5.4
        squares = [self._squared(image, limit, resample) for image in images]
        return super()._preprocess(squares, **kwargs)

    def _squared(self, image: Tensor, limit: int | None, resample: Any) -> Tensor:
        """An image `(C, H, W)` in the middle of a square of its longer side, or of the limit where that is less.

        Sides are scaled one by one, as in all resizing, and the longer one before there is a ground, so that what is
        padded is never much more than the image.
        """
        shape = image.shape[-2:]
        side = max(shape)
        least = min(side, limit or side)
        border = torch.cat([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], dim=1)
        height, width = (least if n == side else n for n in shape)
        scaled = self.resize(image, image_utils.SizeDict(height=height, width=width), resample)
        ground = border.median(dim=1).values[:, None, None].repeat(1, *(least if n == side else side for n in shape))
        top, left = (ground.shape[1] - height) // 2, (ground.shape[2] - width) // 2
        ground[:, top : top + height, left : left + width] = scaled
        return self.resize(ground, image_utils.SizeDict(height=least, width=least), resample)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """As `BitImageProcessor.save_pretrained`, with the file of code that `trust_remote_code=True` loads it by."""
        self.auto_map = {"AutoImageProcessor": f"{Path(PROCESSOR_FILE).stem}.{type(self).__name__}"}
        # Else a pipeline infers from the line above that there is code for videos, and asks whether to run it.
        self.video_processor_type = "none"
        result = super().save_pretrained(save_directory, *args, **kwargs)
        shutil.copyfile(__file__, Path(save_directory) / PROCESSOR_FILE)
        return result
