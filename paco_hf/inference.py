"""The classifier's forward pass over many images: as fast as the hardware gives in the precision asked for."""

import os
import shutil
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from .allocator import keep_freed_memory
from .modeling_paco import PaCoForImageClassification
from .training_args import hardware_precision

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def fast_forward(
    model: PaCoForImageClassification, precision: str = "fp32", compile: bool = False
) -> Callable[[Tensor], Tensor]:
    """A function from normalised images `(B, 3, H, W)` to logits `(B, C)` in float32.

    The model is put in eval mode and channels-last memory. It computes in autocast where `precision` is not `fp32`.

    Args:
        model (`PaCoForImageClassification`): where it lies is where images are computed.
        precision (`str`, *optional*, defaults to `"fp32"`): `fp32`, `bf16`, `fp16` (GPU only), or `auto`: `bf16` where
            the hardware multiplies it, else `fp32`.
        compile (`bool`, *optional*, defaults to `False`): `torch.compile` with frozen weights. It takes seconds to a
            minute at the first batch, so it pays for thousands of large images. Without a C++ compiler it warns
            and does without.

    Raises:
        ValueError: unknown precision, or `fp16` on a CPU.
    """
    device = model.device
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "auto":
        precision = hardware_precision(use_cpu=device.type == "cpu")
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("fp16 needs a GPU: on a CPU choose --precision bf16 or fp32")
    if device.type == "cpu":
        keep_freed_memory()
    model.eval().to(memory_format=torch.channels_last)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]

    def logits(images: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=precision != "fp32"):
            result: Tensor = model(images).logits
        return result

    compiled = _compiled(logits, device.type) if compile else logits
    longest = 0

    @torch.no_grad()
    def forward(images: Tensor) -> Tensor:
        nonlocal longest
        rows = len(images)
        images = images.to(device).contiguous(memory_format=torch.channels_last)
        longest = max(longest, rows)
        if compile and rows < longest:
            # The ragged last batch would be compiled anew.
            images = torch.cat([images, images.new_zeros(longest - rows, *images.shape[1:])])
            images = images.contiguous(memory_format=torch.channels_last)
        return compiled(images)[:rows].float()

    return forward


def _compiled(function: Callable[[Tensor], Tensor], device: str) -> Callable[[Tensor], Tensor]:
    compiler = os.environ.get("CXX", "g++")
    if device == "cpu" and shutil.which(compiler) is None:
        warnings.warn(f"no C++ compiler {compiler!r} on the path: going on without torch.compile", stacklevel=3)
        return function
    return torch.compile(function, options={"freezing": True})
