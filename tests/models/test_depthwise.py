"""Depthwise convolutions in bfloat16, with gradients in float32."""

import copy
import pickle

import pytest
import timm
import torch
from timm.layers import Conv2dSame
from tiny_trainer import make_model, make_trainer
from torch import nn

from paco_hf.models import depthwise
from paco_hf.models.depthwise import use_wide_gradients


def gradients(module: nn.Module, images: torch.Tensor, autocast: bool) -> list[torch.Tensor]:
    images = images.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = module(images)
    output.float().square().sum().backward()
    parts = [output.detach(), images.grad, *(parameter.grad for parameter in module.parameters())]
    module.zero_grad()
    return [part.float() for part in parts]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [nn.Conv2d, Conv2dSame])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (5, 1)])
def test_gradients_are_those_of_the_layer(kind, kernel: int, stride: int, bias: bool) -> None:
    torch.manual_seed(0)
    padding = 0 if kind is Conv2dSame else kernel // 2
    plain = nn.Sequential(kind(8, 8, kernel, stride, padding, groups=8, bias=bias))
    wide = copy.deepcopy(plain)
    assert use_wide_gradients(wide) == 1
    assert use_wide_gradients(wide) == 0
    assert [*wide.state_dict()] == [*plain.state_dict()]
    images = torch.randn(4, 8, 12, 12)
    # Without autocast nothing changes.
    for a, b in zip(gradients(wide, images, False), gradients(plain, images, False), strict=True):
        assert torch.equal(a, b)
    exact, narrow = gradients(plain, images, False), gradients(plain, images, True)
    errors = [
        (got - true).norm() / true.norm() for got, true in zip(gradients(wide, images, True), exact, strict=True)
    ]
    assert max(errors) < 0.02
    # The output is the same, the gradients of images and weight are no worse.
    for error, true, rounded in zip(errors[:3], exact, narrow, strict=False):
        assert error < 1.1 * (rounded - true).norm() / true.norm()


def test_what_is_fast_is_left_alone() -> None:
    fast = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 5), nn.Conv2d(8, 16, 5, groups=8))
    same = nn.Conv2d(8, 8, 5, padding="same", groups=8)
    assert use_wide_gradients(nn.Sequential(fast, same)) == 0


def test_a_changed_model_can_be_copied_and_pickled() -> None:
    model = timm.create_model("mobilenetv2_050", num_classes=0)
    assert use_wide_gradients(model) == 4
    images = torch.randn(1, 3, 32, 32)
    expected = model.eval()(images)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(images), expected)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_training_takes_it_in_bfloat16_alone(tmp_path, monkeypatch, precision: str) -> None:
    calls = []
    inner = depthwise.conv2d_input
    monkeypatch.setattr(depthwise, "conv2d_input", lambda *args: calls.append(args[2].dtype) or inner(*args))
    model = make_model("mobilenetv2_050", backbone_kwargs={})
    make_trainer(tmp_path, model, loss="paco", precision=precision).train()
    # One for each strided layer: the key encoder has no backward pass.
    assert calls == ([torch.float32] * 4 if precision == "bf16" else [])
