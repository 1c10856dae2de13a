"""A new classifier on the weights of a local file: what is taken from it, and what is refused."""

import argparse
import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from paco_hf import PaCoForImageClassification
from paco_hf.arguments.parser import parse_run

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2}


class Other:
    """What weights-only loading does not know."""


@pytest.fixture
def encoder() -> dict[str, torch.Tensor]:
    """An MAE encoder of 64 x 64 images: a class token and `norm`, no classifier."""
    torch.manual_seed(1)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64, **TINY)
    return {name: torch.randn_like(tensor) for name, tensor in model.state_dict().items()}


def from_file(file, backbone: str = "vit_tiny_patch16_224", size: int = 64, **kwargs) -> PaCoForImageClassification:
    if backbone.startswith("vit"):
        kwargs = {**TINY, "img_size": size, "global_pool": "avg", **kwargs}
    return PaCoForImageClassification.from_timm(
        backbone, pretrained_file=file, backbone_kwargs=kwargs, image_size=size, num_labels=5
    )


@pytest.mark.parametrize("form", ["mae.pth", "plain.bin", "plain.safetensors"])
def test_encoder_with_a_fresh_norm_after_pooling(tmp_path, encoder, form: str) -> None:
    if form.endswith("safetensors"):
        save_file(encoder, tmp_path / form)
    else:
        mae = {"model": encoder, "args": argparse.Namespace(epochs=1), "epoch": 3}
        torch.save(mae if form.startswith("mae") else encoder, tmp_path / form)
    model = from_file(tmp_path / form)
    backbone = model.paco.backbone.state_dict()
    for name, tensor in encoder.items():
        if not name.startswith("norm."):
            assert torch.equal(backbone[name], tensor), name
    assert torch.equal(backbone["fc_norm.weight"], torch.ones(32))
    assert model.paco.backbone.fc_norm.eps == 1e-6
    model.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["backbone_kwargs"] == {**TINY, "img_size": 64, "global_pool": "avg"}


def test_position_embedding_is_resampled_and_a_finetuned_norm_is_taken(tmp_path, encoder) -> None:
    encoder |= {"fc_norm.weight": encoder.pop("norm.weight"), "fc_norm.bias": encoder.pop("norm.bias")}
    encoder |= {"head.weight": torch.zeros(1000, 32), "head.bias": torch.zeros(1000)}
    torch.save(encoder, tmp_path / "a.pth")
    backbone = from_file(tmp_path / "a.pth", size=32).paco.backbone
    assert backbone.pos_embed.shape == (1, 5, 32)
    assert torch.equal(backbone.pos_embed[:, 0], encoder["pos_embed"][:, 0])
    assert torch.equal(backbone.fc_norm.bias, encoder["fc_norm.bias"])


def test_torchvisions_resnet(tmp_path) -> None:
    from torchvision.models import resnet18

    torch.manual_seed(1)
    theirs = resnet18()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    with torch.inference_mode():
        model = from_file(tmp_path / "resnet18.pth", "resnet18")
    assert model.classifier.weight.requires_grad
    images = torch.randn(2, 3, 64, 64)
    theirs.fc = torch.nn.Identity()
    with torch.no_grad():
        assert torch.allclose(model.eval().paco(images).pooler_output, theirs.eval()(images), atol=1e-5)


def test_refusals(tmp_path, encoder, capfd) -> None:
    torch.save({"model": encoder, "optimizer": Other()}, tmp_path / "pickled.pth")
    torch.save({k: v for k, v in encoder.items() if "blocks.1.norm" not in k}, tmp_path / "lacking.pth")
    torch.save(encoder, tmp_path / "good.pth")
    (tmp_path / "text.safetensors").write_text("no weights")
    for file, kwargs, error, message in (
        ("none.pth", {}, OSError, "none.pth' is not a file"),
        ("pickled.pth", {}, OSError, "pickled objects other than weights.*Other"),
        (
            "lacking.pth",
            {},
            ValueError,
            "is missing 4 of the 30 weights of the backbone .*, the first is blocks.1.norm1.weight",
        ),
        (
            "good.pth",
            {"backbone": "resnet18"},
            ValueError,
            "is missing 100 of the 120 weights of the backbone 'resnet18'",
        ),
        ("good.pth", {"embed_dim": 48}, ValueError, "does not match the backbone .*size mismatch for cls_token"),
        ("text.safetensors", {}, OSError, "cannot load .*text.safetensors"),
    ):
        with pytest.raises(error, match=message) as caught:
            from_file(tmp_path / file, **kwargs)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""
    with pytest.raises(ValueError, match=r"pretrained_file 'none.pth' is not a file"):
        parse_run(["--pretrained_file", "none.pth"])


def test_standard_deviation_of_a_new_classifier() -> None:
    torch.manual_seed(0)
    small = PaCoForImageClassification.from_timm("cifar_resnet20", num_labels=100, classifier_init_std=2e-5)
    assert small.classifier.weight.std().item() == pytest.approx(2e-5, rel=0.05)
    assert not small.classifier.bias.any()
    with pytest.raises(ValueError, match=r"classifier_init_std must be positive, got 0.0"):
        parse_run(["--classifier_init_std", "0"])
