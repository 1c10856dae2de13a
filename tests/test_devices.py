"""No float64 is sent to a device, nor made there: Apple's GPUs have none (`device_without_float64.py`)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from device_without_float64 import DEVICE, Elsewhere, in_use
from PIL import Image
from tiny_trainer import COUNTS, make_model, make_trainer, weights
from user_data import folders

from paco_hf.cli import main
from paco_hf.conversion import linearize
from paco_hf.losses.functional import log_class_prior
from paco_hf.losses.specs import LOSSES
from paco_hf.webapp.classifier import Classifier


def test_the_device_has_no_float64() -> None:
    wide = torch.zeros(2, dtype=torch.float64)
    with in_use():
        here = torch.zeros(2).to(DEVICE)
        assert isinstance(here, Elsewhere)
        assert (here + 1).tolist() == [1, 1]
        for send in (lambda: wide.to(DEVICE), lambda: wide.to(here), here.double, lambda: here.copy_(wide)):
            with pytest.raises(TypeError, match="float64"):
                send()
        with pytest.raises(TypeError, match="float64"):
            torch.as_tensor(np.zeros(2), device=DEVICE)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_and_is_evaluated_as_on_the_cpu(loss: str, tmp_path: Path) -> None:
    settings = {"loss": loss, "max_steps": 2, "evaluate": 8, "dataloader_num_workers": 0}
    settings |= {"dataloader_pin_memory": False, "use_cpu": True}
    before = make_trainer(tmp_path / "cpu", **settings)
    before.train()
    with in_use():
        trainer = make_trainer(tmp_path / "device", **settings)
        trainer.train()
        assert trainer.evaluate()["eval_loss"] > 0
        assert {type(tensor) for tensor in weights(trainer).values()} == {Elsewhere}
        there = {name: tensor.cpu() for name, tensor in weights(trainer).items()}
    # Two steps add up rounding, which differs from CPU to CPU: 1.1e-5 was seen.
    torch.testing.assert_close(there, weights(before), rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("counts", [COUNTS, np.array(COUNTS, dtype=np.float64), torch.tensor(COUNTS).double()])
def test_counts_of_any_type_make_the_prior(counts: object) -> None:
    expected = log_class_prior(COUNTS, torch.zeros(1, 5))
    with in_use():
        assert torch.equal(log_class_prior(counts, torch.zeros(1, 5).to(DEVICE)).cpu(), expected)


@pytest.mark.parametrize("classifier", ["linear", "cosine"])
def test_adjusted_logits_are_those_of_the_cpu(classifier: str) -> None:
    model = make_model("resnet18", classifier=classifier).eval()
    model.config.temperature = 1.7
    model.set_prior([0.9, 0.05, 0.03, 0.01, 0.01])
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(images).logits
        with in_use():
            torch.testing.assert_close(model.to(DEVICE)(images.to(DEVICE)).logits.cpu(), expected)


def test_a_linear_classifier_is_made_there() -> None:
    model = make_model("resnet18", classifier="cosine")
    expected = linearize(model, 2.0).classifier.weight
    with in_use():
        torch.testing.assert_close(linearize(model.to(DEVICE), 2.0).classifier.weight.cpu(), expected)


@pytest.mark.slow
def test_verbs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    images = folders(tmp_path / "images", {"a": 30, "b": 14, "c": 9})
    one, run = str(images / "a" / "0.png"), tmp_path / "run"
    train = ["train", "--dataset", images, "--backbone", "resnet10t", "--image_size", "32", "--max_steps", "2"]
    train += ["--per_device_train_batch_size", "8", "--dataloader_num_workers", "0", "--dataloader_pin_memory"]
    train += ["false", "--report", "false", "--augment_backend", "pil"]
    cosine = ["--classifier", "cosine", "--class_centers", "means", "--freeze_backbone", "true"]
    with in_use():
        for words in (
            [*train, "--output_dir", run],
            [*train, "--class_centers", "means", "--output_dir", tmp_path / "means"],
            [*train, *cosine, "--feature_views", "1", "--output_dir", tmp_path / "cosine"],
            ["evaluate", run, "--calibrate"],
            ["estimate-prior", run, images, "--store"],
            ["embed", run, images, "--output", tmp_path / "e.safetensors"],
            ["export", run, "--to", "onnx", tmp_path / "onnx"],
            ["export", tmp_path / "cosine", "--to", "timm", "--dataset", images, tmp_path / "timm"],
            ["index", run, "--dataset", images],
        ):
            assert main([str(word) for word in words]) == 0, words
        capsys.readouterr()
        assert main(["predict", str(run), one, "--json"]) == 0
        (answer,) = json.loads(capsys.readouterr().out)
        logits, features = Classifier(str(run)).forward(Image.open(one).convert("RGB"))
        assert logits.shape == (3,)
        assert features.ndim == 1
    assert main(["predict", str(run), one, "--json", "--precision", "fp32"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["score"] == pytest.approx(answer["score"], abs=1e-5)
