"""Backbones that a run is planned with: without a default configuration, and too small for the images."""

from pathlib import Path

import pytest
from timm.models import register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn
from user_data import folders

from paco_hf.cli import main


@register_model
def resnet_without_cfg(pretrained: bool = False, **kwargs) -> nn.Module:
    kwargs = {key: kwargs[key] for key in ("num_classes",) if key in kwargs}
    return ResNet(BasicBlock, (1, 1, 1, 1), channels=(4, 8, 8, 8), **kwargs)


def test_it_is_planned_with_timms_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], no_rehearsal: None
) -> None:
    photos = str(folders(tmp_path / "photos", {"a": 9, "b": 6}, size=(32, 32)))
    argv = [
        "train",
        "--dataset",
        photos,
        "--backbone",
        "resnet_without_cfg",
        "--dry_run",
        "--output_dir",
        str(tmp_path / "run"),
    ]
    assert main(argv) == 0
    assert "backbone: resnet_without_cfg" in capsys.readouterr().out


def test_a_size_that_it_cannot_take_is_said_before_images_are_decoded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paco_hf.workflows.prepare_data.Images", lambda split: pytest.fail("decoded too early"))
    argv = ["train", "--backbone", "dla46_c", "--image_size", "8", "--dry_run", "--output_dir", str(tmp_path / "run")]
    assert main(argv) == 2
    assert "cannot take images of 8 x 8 pixels" in capsys.readouterr().err
