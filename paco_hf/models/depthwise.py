"""Depthwise convolutions whose gradients a CPU computes fast, in training with bfloat16 autocast."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame, pad_same
from torch import Tensor, nn
from torch.nn.grad import conv2d_input, conv2d_weight


class _DepthwiseConvolution(torch.autograd.Function):
    """A convolution with bfloat16 images, a float32 weight, and gradients that are computed in float32.

    Args: images `(B, C, H, W)`, weight `(C, 1, h, w)`, bias `(C,)` or `None`, and what `F.conv2d` takes after these.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.settings = settings
        return F.conv2d(images, weight.to(images.dtype), None if bias is None else bias.to(images.dtype), *settings)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        images, weight = ctx.saved_tensors
        for_images, for_weight, for_bias, *others = ctx.needs_input_grad
        gradient, weight = gradient.float(), weight.float()
        result = [
            conv2d_input(images.shape, weight, gradient, *ctx.settings).to(images.dtype) if for_images else None,
            conv2d_weight(images.float(), weight.shape, gradient, *ctx.settings) if for_weight else None,
            gradient.sum((0, 2, 3)) if for_bias else None,
        ]
        return *result, *(None for _ in others)


class _WideConv2d(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        narrow = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        if not (input.is_cpu and narrow and torch.is_grad_enabled()):
            return super().forward(input)
        images, padding = self._padded(input.bfloat16())
        settings = self.stride, padding, self.dilation, self.groups
        result: Tensor = _DepthwiseConvolution.apply(images, self.weight, self.bias, *settings)
        return result

    def _padded(self, images: Tensor) -> tuple[Tensor, Any]:
        return images, self.padding


class _WideConv2dSame(_WideConv2d, Conv2dSame):
    def _padded(self, images: Tensor) -> tuple[Tensor, Any]:
        return pad_same(images, list(self.kernel_size), list(self.stride), list(self.dilation)), (0, 0)


_WIDE: dict[type, type[nn.Conv2d]] = {nn.Conv2d: _WideConv2d, Conv2dSame: _WideConv2dSame}


def use_wide_gradients(model: nn.Module) -> int:
    """Compute gradients of depthwise convolutions in float32 under bfloat16 autocast on a CPU, where that is faster.

    On a CPU with AVX-512 and bfloat16, the gradient for the input of a strided depthwise convolution takes 15 to 40
    times as long in bfloat16 as in float32, that for the weight of a kernel of more than 3 x 3 takes 3 to 6 times.
    Weights, state dict and forward pass stay as they are.

    Args:
        model (`nn.Module`): changed in place.

    Returns:
        how many convolutions these are.
    """
    slow = [module for module in model.modules() if type(module) in _WIDE and _is_slow(module)]
    for conv in slow:
        conv.__class__ = _WIDE[type(conv)]
    return len(slow)


def _is_slow(conv: Any) -> bool:
    depthwise = conv.groups == conv.in_channels == conv.out_channels > 1
    plain = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return depthwise and plain and (max(conv.stride) > 1 or max(conv.kernel_size) > 3)
