"""A classifier by cosines wherever a classifier works: losses, checkpoints, priors, adapters, exports, runs."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_trainer import Images, make_model, make_trainer, weights
from transformers import AutoModelForImageClassification
from user_data import complaint, folders

from paco_hf import PaCoConfig, PaCoForImageClassification
from paco_hf.arguments.parser import parse_run
from paco_hf.cli import main
from paco_hf.conversion.to_onnx import export_onnx
from paco_hf.conversion.to_timm import export_timm
from paco_hf.inference.features import Embeddings
from paco_hf.losses.specs import LOSSES
from paco_hf.trainer.class_centers import start_from_centers

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def cosine(backbone: str = "vit_tiny_patch16_224", **fields) -> PaCoForImageClassification:
    return make_model(backbone, classifier="cosine", classifier_scale=16, **fields).eval()


@torch.no_grad()
def test_logits_are_scaled_cosines() -> None:
    model = cosine()
    features = model.paco(IMAGES).pooler_output
    expected = 16 * F.cosine_similarity(features[:, None], model.classifier.weight[None], dim=2)
    assert torch.allclose(model(IMAGES).logits, expected, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(IMAGES).logits.dtype == torch.float32
    assert {name for name in model.state_dict() if "classifier" in name} == {"classifier.weight", "classifier.scale"}


def test_saved_and_loaded_with_the_scale(tmp_path: Path) -> None:
    model = cosine()
    model.classifier.scale.data.fill_(9)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert torch.allclose(loaded(IMAGES).logits, model(IMAGES).logits)
    fresh = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    assert fresh.classifier.weight.shape[0] == 7
    assert fresh.classifier.weight.std() > 0


def test_checkpoints_that_say_nothing_are_linear(tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    lines = [line for line in text.splitlines() if "classifier" not in line]
    (tmp_path / "config.json").write_text("\n".join(lines))
    assert type(AutoModelForImageClassification.from_pretrained(tmp_path).classifier) is torch.nn.Linear


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("learned", [False, True])
def test_every_loss_trains_it(loss: str, learned: bool, tmp_path: Path) -> None:
    model = cosine(learn_classifier_scale=learned)
    before = model.classifier.weight.detach().clone()
    trainer = make_trainer(tmp_path, model, loss=loss, max_steps=2, weight_decay=0.1, evaluate=8)
    trainer.train()
    assert not torch.equal(trainer.classifier.classifier.weight, before)
    assert (trainer.classifier.classifier.scale.item() != 16) == learned
    assert "eval_loss" in trainer.evaluate()


@pytest.mark.parametrize("layer_decay", [None, 0.7])
def test_weight_decay_leaves_the_scale(layer_decay: float | None, tmp_path: Path) -> None:
    model = cosine(learn_classifier_scale=True)
    trainer = make_trainer(tmp_path, model, loss="ce", weight_decay=0.1, layer_decay=layer_decay)
    groups = trainer.create_optimizer().param_groups
    decays = [g["weight_decay"] for g in groups if any(p is model.classifier.scale for p in g["params"])]
    assert decays == [0]


def test_resumed_with_the_scale(tmp_path: Path) -> None:
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 9, "loss": "ce"}
    whole = make_trainer(tmp_path / "a", cosine(learn_classifier_scale=True), **settings)
    whole.train()
    other = make_trainer(tmp_path / "b", cosine(learn_classifier_scale=True), **settings)
    other.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    assert all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(whole).items())


def test_centers_are_the_means_of_unit_features() -> None:
    model = cosine()
    images = Images(16)
    with torch.no_grad():
        features = model.paco(images.views[0]).pooler_output
    labels = torch.arange(16) % 5
    line = start_from_centers(model, Embeddings(features.numpy(), labels.numpy()), "photos")
    assert line.endswith("scaled to length 1")
    unit = F.normalize(features.double(), dim=1)
    for label in range(5):
        center = F.normalize(unit[labels == label].mean(0), dim=0)
        assert torch.allclose(model.classifier.weight[label].double(), center, atol=1e-6)


@torch.no_grad()
def test_prior_and_temperature() -> None:
    model = cosine()
    raw = model(IMAGES).logits
    model.config.temperature = 2.0
    model.set_prior([5, 4, 3, 2, 1])
    expected = raw / 2 + torch.tensor([5.0, 4, 3, 2, 1]).div(15).log()
    assert torch.allclose(model(IMAGES).logits, expected, atol=1e-5)


def test_onnx_with_temperature_and_prior(tmp_path: Path) -> None:
    model = cosine("resnet18", temperature=1.5, inference_prior=[5, 4, 3, 2, 1])
    assert export_onnx(model, tmp_path / "onnx").difference < 1e-4


def test_timm_has_no_such_classifier(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="timm classifiers are linear, and the model has a cosine classifier"):
        export_timm(cosine("resnet18"), tmp_path / "timm")


def test_settings_are_checked() -> None:
    for fields, message in (
        ({"classifier": "mlp"}, "classifier must be linear or cosine, got 'mlp'"),
        ({"classifier": "cosine", "classifier_scale": 0}, "classifier_scale must be a positive number, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            PaCoConfig(num_labels=5, **fields)


def test_a_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    photos = folders(tmp_path / "photos", {"a": 24, "b": 16})
    command = [
        "train",
        "--dataset",
        str(photos),
        "--backbone",
        "cifar_resnet20",
        "--max_steps",
        "2",
        "--report",
        "false",
    ]
    command += ["--per_device_train_batch_size", "8", "--output_dir", str(tmp_path / "run")]
    for setting in (("--classifier_scale", "10.0"), ("--learn_classifier_scale", "true")):
        message = f"{' '.join(setting)} has no effect on a linear classifier, which has no scale: use"
        for more in ((), ("--classifier", "linear")):
            assert message in complaint(capsys, *command, *setting, *more)
    assert main([*command, "--classifier", "cosine", "--classifier_scale", "10", "--class_centers", "means"]) == 0
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "run")
    assert (model.config.classifier, model.classifier.scale.item()) == ("cosine", 10)
    recipe = tmp_path / "run" / "recipe.yaml"
    assert "classifier: cosine" in recipe.read_text()
    linear, _ = parse_run(["--recipe", str(recipe), "--classifier", "linear", "--class_centers", "random"])
    assert (linear.classifier, linear.classifier_scale) == (
        "linear",
        25,
    )  # not the recipe's
