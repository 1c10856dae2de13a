"""An image processor that sees whole images. It travels with a checkpoint that was trained on padded images."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BitImageProcessor

PROCESSOR_FILE = Path(__file__).name


class PaCoImageProcessor(BitImageProcessor):
    """Put images on a square ground, then resize and normalize them as a `BitImageProcessor`.

    The ground has the color of the image's border, its median in each channel: what lies on white stays on white.
    """

    def _preprocess(self, images: list[Tensor], *args: Any, **kwargs: Any) -> Any:
        return super()._preprocess([_squared(image) for image in images], *args, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """As `BitImageProcessor.save_pretrained`, with the file of code that `trust_remote_code=True` loads it by."""
        self.auto_map = {"AutoImageProcessor": f"{Path(PROCESSOR_FILE).stem}.{type(self).__name__}"}
        # Else a pipeline infers from the line above that there is code for videos, and asks whether to run it.
        self.video_processor_type = "none"
        result = super().save_pretrained(save_directory, *args, **kwargs)
        shutil.copyfile(__file__, Path(save_directory) / PROCESSOR_FILE)
        return result


def _squared(image: Tensor) -> Tensor:
    """An image `(C, H, W)` in the middle of a square of its longer side."""
    height, width = image.shape[-2:]
    side = max(height, width)
    border = torch.cat([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], dim=1)
    result = border.median(dim=1).values[:, None, None].repeat(1, side, side)
    top, left = (side - height) // 2, (side - width) // 2
    result[:, top : top + height, left : left + width] = image
    return result
