"""The classifier's forward pass over many images: as fast as the hardware gives in the precision asked for."""

import sys
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from ..models.modeling_paco import PaCoForImageClassification, PaCoModel
from ..utils.hardware import cpp_compiler, hardware_precision

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("auto", *_DTYPES)
TTA = ("none", "flip")  # test-time augmentation


def inference_device() -> torch.device:
    """The accelerator, or the CPU where there is none."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def resolve_precision(precision: str, device: torch.device) -> str:
    """`precision`, and for `auto` what the hardware has.

    Raises:
        ValueError: unknown precision, or `fp16` on a CPU.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("fp16 needs a GPU: on a CPU, use --precision bf16 or fp32")
    return hardware_precision(use_cpu=device.type == "cpu") if precision == "auto" else precision


def check_tta(tta: str) -> None:
    """`ValueError` where there is no such test-time augmentation."""
    if tta not in TTA:
        raise ValueError(f"tta must be one of {', '.join(TTA)}, got {tta!r}")


def check_inference(precision: str, batch_size: int) -> None:
    """Before any work: `ValueError` where the precision cannot be had here, or for an empty batch. `auto` is told."""
    if batch_size < 1:
        raise ValueError(f"--batch_size must be at least 1, got {batch_size}")
    resolved = resolve_precision(precision, inference_device())
    if precision == "auto":
        print(f"{resolved} (chosen for this hardware)", file=sys.stderr)


def fast_forward(
    model: PaCoForImageClassification | PaCoModel, precision: str = "fp32", compile: bool = False, tta: str = "none"
) -> Callable[[Tensor], Tensor]:
    """A function from normalized images `(B, 3, H, W)` to logits `(B, C)` in float32; of a [`PaCoModel`], to features
    `(B, F)`.

    The model is put in eval mode and channels-last memory. It computes in autocast where `precision` is not `fp32`.

    Args:
        model (`PaCoForImageClassification` or `PaCoModel`): its device is where images are computed.
        precision (`str`, *optional*, defaults to `"fp32"`): `fp32`, `bf16`, `fp16` (GPU only), or `auto`: `bf16` where
            the hardware multiplies it, else `fp32`.
        compile (`bool`, *optional*, defaults to `False`): `torch.compile` with frozen weights. It takes seconds to a
            minute at the first batch, so it pays for thousands of large images. Without a C++ compiler it warns
            and does without.
        tta (`str`, *optional*, defaults to `"none"`): `flip`: the mean of what an image and its mirror image give, at
            twice the cost.

    Raises:
        ValueError: unknown precision or `tta`, or `fp16` on a CPU; on calling the function, features with `flip`.
    """
    check_tta(tta)
    device = model.device
    precision = resolve_precision(precision, device)
    model.eval().to(memory_format=torch.channels_last)
    dtype, output = _DTYPES[precision], "pooler_output" if isinstance(model, PaCoModel) else "logits"

    def computed(images: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=precision != "fp32"):
            result: Tensor = model(images, return_dict=True)[output]
        return result

    compiled = _compiled(computed, device.type) if compile else computed
    longest = 0

    @torch.no_grad()
    def forward(images: Tensor) -> Tensor:
        nonlocal longest
        rows = len(images)
        images = images.to(device, model.dtype)
        if images.ndim == 2:  # features, in place of images
            if tta == "flip":
                raise ValueError("features have no mirror image: pass images, or remove tta='flip'")
            return computed(images).float()
        images = images.contiguous(memory_format=torch.channels_last)
        longest = max(longest, rows)
        if compile and rows < longest:
            # The ragged last batch would be compiled anew.
            images = torch.cat([images, images.new_zeros(longest - rows, *images.shape[1:])])
            images = images.contiguous(memory_format=torch.channels_last)
        result = compiled(images)[:rows].float()
        if tta == "flip":
            mirrored = images.flip(-1).contiguous(memory_format=torch.channels_last)
            result = (result + compiled(mirrored)[:rows].float()) / 2
        return result

    return forward


def _compiled(function: Callable[[Tensor], Tensor], device: str) -> Callable[[Tensor], Tensor]:
    compiler, there = cpp_compiler()
    if device == "cpu" and not there:
        warnings.warn(
            f"the C++ compiler {compiler!r} is not on the PATH: continuing without torch.compile", stacklevel=3
        )
        return function
    return torch.compile(function, options={"freezing": True})
