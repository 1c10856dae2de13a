"""Checkpoints where this package is not installed: by the code beside them, on several transformers and timm."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transformers
from conftest import ROOT, made_once
from PIL import Image
from timm.models.swin_transformer import SwinTransformerBlock, WindowAttention
from torch import nn
from transformers import AutoImageProcessor

from paco_hf import PaCoConfig, PaCoForImageClassification
from paco_hf.models.image_processing import build_processor

SWIN = {"embed_dim": 24, "num_heads": (1, 2, 4, 8), "depths": (2, 1, 1, 1)}
BACKBONES: dict[str, tuple[dict, int]] = {
    "cifar_resnet20": ({}, 32),
    "test_resnet": ({}, 64),
    "vit_tiny_patch16_224": ({"img_size": 64, "depth": 2}, 64),
    "convnext_atto": ({}, 64),
    "test_efficientnet": ({}, 64),
    # These two have buffers that no file holds.
    "swin_tiny_patch4_window7_224": (SWIN, 224),
    "eva02_tiny_patch14_224": ({"img_size": 56, "depth": 2}, 56),
}
PUBLISHED = ROOT / "model_cards" / "paco-resnet32-cifar100-lt-100"
INSTALLED = (transformers.__version__, timm.__version__)
# transformers 4.57.6 asks for a timm that cannot restore buffers itself.
OTHERS = [("4.57.6", timm_version) for timm_version in ("1.0.19", "1.0.24", "1.0.31")]
OTHERS += [("5.0.0", "1.0.24"), ("5.3.0", "1.0.31"), ("5.6.2", "1.0.31")]


@torch.no_grad()
def expect(folder: Path, model: PaCoForImageClassification, size: int) -> None:
    """Leave images, and what the model in the folder gives of them here, as `remote_code.py` reads it."""
    processor = AutoImageProcessor.from_pretrained(folder)
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    expected = {"images": images, "logits": model(images).logits, "features": model.paco(images).pooler_output}
    if model.config.abstention is not None:
        expected["abstained"] = model(images).abstained.float()
        assert 0 < expected["abstained"].sum() < 3
    for name, shape in {"photo": (50, 90, 3), "square": (size, size, 3)}.items():
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
        image.save(folder / f"{name}.png")
        expected[name] = processor(image, return_tensors="pt")["pixel_values"]
    expected["scores"] = model(expected["square"]).logits.softmax(1)[0]
    torch.save(expected, folder / "expected.pt")


@torch.no_grad()
def add_rule(model: PaCoForImageClassification, size: int) -> None:
    """Have it abstain from one of the images, the one that is the least sure."""
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    least, next_one = model(images).logits.softmax(1).amax(1).sort()[0][:2].tolist()
    chosen_with = {"temperature": model.config.temperature, "inference_prior": model.config.inference_prior}
    model.config.abstention = {"thresholds": [(least + next_one) / 2] * 5, "target": "coverage=0.6", **chosen_with}


@torch.no_grad()
def make_checkpoints(folder: Path) -> None:
    """A calibrated checkpoint with a prior of each backbone and classifier; the cosine ones pad their images."""
    for name, (kwargs, size) in BACKBONES.items():
        for classifier in ("linear", "cosine"):
            torch.manual_seed(0)
            config = PaCoConfig(
                backbone=name,
                backbone_kwargs=kwargs,
                image_size=size,
                id2label={i: f"class {i}" for i in range(5)},
                class_counts=[9, 7, 5, 3, 1],
                temperature=0.4,
                inference_prior=[5, 4, 3, 2, 1],
                classifier=classifier,
            )
            model, target = PaCoForImageClassification(config).eval(), folder / f"{name}-{classifier}"
            add_rule(model, size)
            model.save_pretrained(target)
            fit = "pad" if classifier == "cosine" else "crop"
            build_processor(size, [0.5, 0.4, 0.3], [0.2] * 3, fit=fit).save_pretrained(target)
            expect(target, model, size)
    shutil.copytree(PUBLISHED, folder / PUBLISHED.name)
    expect(folder / PUBLISHED.name, PaCoForImageClassification.from_pretrained(PUBLISHED).eval(), 32)


def install(versions: tuple[str, str], folder: Path) -> None:
    """Put transformers and timm, and what they need besides torch, into a folder that is laid over the installed."""
    hub = "huggingface-hub<1" if versions[0].startswith("4.") else "huggingface-hub>=1.5,<2"
    requirements = [f"transformers=={versions[0]}", f"timm=={versions[1]}", hub, "tokenizers==0.22.2"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-cache-dir", "--target", folder]
    result = subprocess.run([*command, *requirements], capture_output=True, text=True)
    if "NewConnectionError" in result.stderr or "NameResolutionError" in result.stderr:
        pytest.skip("there is no network to install other versions from")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("versions", "names"),
    [(INSTALLED, "vit*"), *(pytest.param(pair, "*", marks=pytest.mark.slow) for pair in (INSTALLED, *OTHERS))],
)
def test_the_same_outputs(
    versions: tuple[str, str], names: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shutil.copytree(made_once(tmp_path_factory, "remote code", make_checkpoints), tmp_path / "checkpoints")
    checkpoints = list((tmp_path / "checkpoints").glob(names))
    packages = tmp_path / "packages"
    if versions != INSTALLED:
        install(versions, packages)
    environment = {
        **os.environ,
        "PYTHONPATH": str(packages),
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "TRANSFORMERS_VERBOSITY": "error",
    }
    command = [sys.executable, ROOT / "tests" / "remote_code.py", *checkpoints]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    shutil.rmtree(packages, ignore_errors=True)
    assert result.returncode == 0, result.stderr[-3000:]
    answer = json.loads(result.stdout.splitlines()[-1])
    assert answer["versions"] == [*versions]
    assert len(answer["differences"]) == len(checkpoints)
    for checkpoint, differences in answer["differences"].items():
        # transformers 4 resizes by Pillow, unless it pads, which rounds otherwise: by one level, of 255.
        rounded = ["photo"] if versions[0].startswith("4.") and "cosine" not in checkpoint else []
        assert all(differences.pop(name) < 1.01 / 255 / 0.19 for name in rounded), checkpoint
        assert max(differences.values()) <= 1e-5, (checkpoint, differences)


class Waves(nn.Module):
    """A backbone with a buffer that no file holds, and without timm's method to restore it."""

    def __init__(self, random: bool = False, **kwargs) -> None:
        super().__init__()
        self.num_features = 3
        self.register_buffer("wave", torch.rand(3) if random else torch.arange(3).float().cos(), persistent=False)
        self.scale = nn.Parameter(torch.ones(3))

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return x.mean((2, 3)) * self.wave * self.scale


@pytest.fixture
def waves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "is_model", lambda name: True)
    monkeypatch.setattr(timm, "create_model", lambda name, num_classes, **kwargs: Waves(**kwargs))


@torch.no_grad()
def assert_same_when_loaded(model: PaCoForImageClassification, images: torch.Tensor, folder: Path) -> None:
    model.eval().save_pretrained(folder)
    assert torch.equal(PaCoForImageClassification.from_pretrained(folder)(images).logits, model(images).logits)


def test_buffers_of_any_backbone_are_restored(waves: None, tmp_path: Path) -> None:
    model = PaCoForImageClassification(PaCoConfig(backbone="waves", num_labels=4))
    assert_same_when_loaded(model, torch.randn(2, 3, 8, 8), tmp_path)


def test_what_cannot_be_built_without_memory_is_loaded(
    waves: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(name: str, num_classes: int, **kwargs) -> nn.Module:
        float(torch.linspace(0, 1, 3)[1])  # as for the rates of stochastic depth
        return Waves(**kwargs)

    monkeypatch.setattr(timm, "create_model", build)
    model = PaCoForImageClassification(PaCoConfig(backbone="waves", num_labels=4))
    state = torch.get_rng_state()
    assert_same_when_loaded(model, torch.ones(2, 3, 8, 8), tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_random_buffer_is_refused(waves: None, tmp_path: Path) -> None:
    PaCoForImageClassification(PaCoConfig(backbone="waves", backbone_kwargs={"random": True})).save_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match="'waves' cannot be loaded: its buffer wave is random"):
        PaCoForImageClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize("owners", [[WindowAttention], [WindowAttention, SwinTransformerBlock]], ids=["one", "all"])
def test_buffers_of_a_timm_that_does_not_restore_them(
    owners: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for owner in owners:
        monkeypatch.delattr(owner, "init_non_persistent_buffers")
    model = PaCoForImageClassification(PaCoConfig(backbone="swin_tiny_patch4_window7_224", backbone_kwargs=SWIN))
    assert_same_when_loaded(model, torch.randn(1, 3, 224, 224), tmp_path)


def test_a_backbone_of_another_size_is_refused(tmp_path: Path) -> None:
    size = {"img_size": 32, "depth": 1}
    config = PaCoConfig(backbone="vit_tiny_patch16_224", backbone_kwargs=size)
    PaCoForImageClassification(config).save_pretrained(tmp_path)
    other = {"backbone_kwargs": {**size, "img_size": 64}, "ignore_mismatched_sizes": True, "num_labels": 3}
    with pytest.raises(ValueError, match=rf"the first is paco\.backbone\.pos_embed.*than {timm.__version__}"):
        PaCoForImageClassification.from_pretrained(tmp_path, **other)
