"""What is chosen for a pretrained backbone that is trained, by its kind, and what flags leave of it."""

from pathlib import Path

import pytest
import timm
import torch
import yaml
from timm.models import group_parameters, list_models, save_for_hf
from user_data import complaint, folders, printed

from paco_hf.arguments import fine_tuning
from paco_hf.arguments.auto_settings import suggested_settings
from paco_hf.arguments.fine_tuning import CONVNEXT, CONVOLUTIONAL, TRANSFORMER, choose_fine_tuning
from paco_hf.models.pretrained_backbones import BackboneSource

COUNTS = {"a": 12, "b": 6, "c": 3}
ADAMW = {"optim": "adamw_torch", "decay_all_parameters": False, "head_learning_rate": None}
# Of batches of 8.
OF_VIT = {**ADAMW, "layer_decay": 0.75, "weight_decay": 0.05, "learning_rate": 1.56e-5}
OF_CONVNEXT = {**ADAMW, "layer_decay": 0.93, "weight_decay": 1e-8, "learning_rate": 5e-5, "warmup_epochs": 0}
OF_RESNET = {"optim": "sgd", "learning_rate": 0.00125, "head_learning_rate": 0.0125, "layer_decay": None}
OF_RESNET |= {"weight_decay": 5e-4, "decay_all_parameters": True}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("vit_small_patch14_dinov2.lvd142m", TRANSFORMER),
        ("vit_base_patch16_224.mae", TRANSFORMER),
        ("deit3_small_patch16_224", TRANSFORMER),
        ("beit_base_patch16_224", TRANSFORMER),
        ("eva02_tiny_patch14_224", TRANSFORMER),
        ("swin_tiny_patch4_window7_224", TRANSFORMER),
        ("swinv2_tiny_window8_256", TRANSFORMER),
        ("convnext_tiny.in12k_ft_in1k", CONVNEXT),
        ("convnextv2_atto", CONVNEXT),
        ("resnet50", CONVOLUTIONAL),
        ("efficientnet_b0.ra_in1k", CONVOLUTIONAL),
        ("mobilenetv3_large_100", CONVOLUTIONAL),
        ("regnety_004", CONVOLUTIONAL),
        ("cifar_resnet32", CONVOLUTIONAL),
    ],
)
def test_the_kind_of_a_backbone(name: str, kind: fine_tuning.FineTuning) -> None:
    adamw = choose_fine_tuning(BackboneSource(name), "adamw_torch_fused")
    assert choose_fine_tuning(BackboneSource(name), None) is kind
    assert choose_fine_tuning(BackboneSource(name), "sgd") is CONVOLUTIONAL
    assert adamw is (None if kind is CONVOLUTIONAL else kind)
    assert choose_fine_tuning(BackboneSource(name), "rmsprop") is None


@pytest.mark.parametrize("module", [*fine_tuning._TRANSFORMERS, *fine_tuning._CONVNEXTS])
def test_they_are_modules_of_timm_whose_models_know_their_layers(module: str) -> None:
    name = min(list_models(module=module), key=len)
    with torch.device("meta"):
        model = timm.create_model(name)
    layers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    assert len(set(layers.values())) > 3


def test_rates_and_epochs() -> None:
    def suggested(kind: fine_tuning.FineTuning, images: int, **settings) -> dict:
        return suggested_settings(images, 224, True, fine_tuning=kind, **settings)

    assert suggested(TRANSFORMER, 9000, batch=256)["learning_rate"] == 5e-4
    assert suggested(TRANSFORMER, 9000)["learning_rate"] == 2.5e-4
    assert {suggested(CONVNEXT, 9000, batch=batch)["learning_rate"] for batch in (16, 512)} == {5e-5}
    found = suggested(CONVOLUTIONAL, 9000)
    assert (found["learning_rate"], found["head_learning_rate"]) == (0.02, 0.2)
    assert suggested(CONVOLUTIONAL, 9000, rate=0.003)["head_learning_rate"] == 0.03
    assert [suggested(CONVNEXT, images)["num_train_epochs"] for images in (1999, 2000)] == [20, 10]
    assert suggested(TRANSFORMER, 1000)["warmup_epochs"] == 2
    # The scale of a rate for features is no backbone's.
    assert suggested(CONVOLUTIONAL, 9000, cosine=True) == found


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders(tmp_path_factory.mktemp("data") / "photos", COUNTS, size=(72, 72))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder of weights for each kind."""
    root = tmp_path_factory.mktemp("timm")
    for name in ("test_vit", "test_convnext", "test_resnet"):
        torch.manual_seed(3)
        save_for_hf(timm.create_model(name, num_classes=3), str(root / name), safe_serialization=True)
    return root


# Backbone, flags, settings that they lead to, and whose settings the run says that it takes.
RUNS: list[tuple[str, str, dict, fine_tuning.FineTuning | None]] = [
    ("vit", "", OF_VIT, TRANSFORMER),
    ("convnext", "", OF_CONVNEXT, CONVNEXT),
    ("resnet", "", OF_RESNET, CONVOLUTIONAL),
    # What is given stays; the rest is of the kind.
    ("vit", "--learning_rate 1e-3", OF_VIT | {"learning_rate": 1e-3}, TRANSFORMER),
    ("vit", "--layer_decay 0.5", OF_VIT | {"layer_decay": 0.5}, TRANSFORMER),
    ("vit", "--weight_decay 0.3", OF_VIT | {"weight_decay": 0.3}, TRANSFORMER),
    ("convnext", "--head_learning_rate 0.01", OF_CONVNEXT | {"head_learning_rate": 0.01}, CONVNEXT),
    ("resnet", "--learning_rate 0.4", OF_RESNET | {"learning_rate": 0.4, "head_learning_rate": 4.0}, CONVOLUTIONAL),
    ("resnet", "--head_learning_rate 0.3", OF_RESNET | {"head_learning_rate": 0.3}, None),
    ("resnet", "--layer_decay 0.5", OF_RESNET | {"layer_decay": 0.5, "head_learning_rate": None}, None),
    # SGD, or what only SGD has.
    ("vit", "--optim sgd", OF_RESNET, CONVOLUTIONAL),
    ("convnext", "--momentum 0.8", OF_RESNET | {"momentum": 0.8}, CONVOLUTIONAL),
    ("vit", "--optim adamw_torch", OF_VIT, TRANSFORMER),
    ("vit", "--optim rmsprop --learning_rate 1e-3", {"learning_rate": 1e-3, "layer_decay": None}, None),
    # Loss, classifier and class centers.
    ("resnet", "", {"loss": "balanced_softmax", "classifier": "cosine", "class_centers": "means"}, CONVOLUTIONAL),
    ("vit", "--loss ce --classifier linear", {"loss": "ce", "classifier": "linear"}, TRANSFORMER),
    ("vit", "--class_centers random", {"classifier": "cosine", "class_centers": "random"}, TRANSFORMER),
    ("vit", "--num_train_epochs 7", {"num_train_epochs": 7}, TRANSFORMER),
    ("vit", "", {"num_train_epochs": 20, "warmup_epochs": 2}, TRANSFORMER),
]


@pytest.mark.parametrize(("backbone", "more", "expected", "source"), RUNS)
def test_settings_of_a_run(
    backbone: str, more: str, expected: dict, source, photos: Path, saved: Path, tmp_path, capsys, no_rehearsal
) -> None:
    argv = ["--dataset", str(photos), "--backbone", str(saved / f"test_{backbone}"), "--freeze_backbone", "false"]
    argv += ["--test_fraction", "0", "--validation_fraction", "0", "--image_size", "64"]
    out = printed(capsys, *argv, "--output_dir", str(tmp_path / "run"), "--dry_run", *more.split())
    recipe = yaml.safe_load(out[out.index("\ndataset: ") :])
    assert {name: recipe.get(name) for name in expected} == expected
    line = next(line for line in out.splitlines() if line.startswith("settings for "))
    assert [kind for kind in (TRANSFORMER, CONVNEXT, CONVOLUTIONAL) if kind.source in line] == [source] * bool(source)


@pytest.mark.parametrize(
    ("backbone", "frozen", "optimizer"), [("vit", "false", "rmsprop"), ("resnet", "true", "adamw_torch")]
)
def test_an_optimizer_without_a_usual_rate(
    backbone: str, frozen: str, optimizer: str, photos: Path, saved: Path, tmp_path, capsys
) -> None:
    argv = ["--dataset", str(photos), "--backbone", str(saved / f"test_{backbone}"), "--freeze_backbone", frozen]
    argv += ["--output_dir", str(tmp_path / "run"), "--optim", optimizer]
    assert "has no default learning rate" in complaint(capsys, "train", *argv)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("backbone", ["vit", "convnext", "resnet"])
def test_it_trains_from_the_means_and_resumes(backbone: str, photos: Path, saved: Path, tmp_path, capsys) -> None:
    argv = ["--dataset", str(photos), "--backbone", str(saved / f"test_{backbone}"), "--freeze_backbone", "false"]
    argv += ["--image_size", "64", "--max_steps", "2", "--save_steps", "1", "--save_total_limit", "9"]
    argv += ["--report", "false", "--output_dir", str(tmp_path / "run")]
    out = printed(capsys, *argv)
    assert "class centers: the means of" in out
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    for file in [*(tmp_path / "run" / "checkpoint-2").iterdir(), tmp_path / "run" / "metrics.json"]:
        file.unlink()
    out = printed(capsys, *argv, "--resume")
    assert "resuming from" in out
    assert "changed settings" not in out
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


def test_adapters_are_trained_as_before(photos: Path, saved: Path, tmp_path, capsys, no_rehearsal) -> None:
    pytest.importorskip("peft")
    argv = ["--dataset", str(photos), "--backbone", str(saved / "test_vit"), "--lora_rank", "2", "--dry_run"]
    out = printed(capsys, *argv, "--output_dir", str(tmp_path / "run"))
    recipe = yaml.safe_load(out[out.index("\ndataset: ") :])
    assert (recipe["optim"], recipe["classifier"], recipe["num_train_epochs"]) == ("sgd", "linear", 60)
    assert not recipe.keys() & {"layer_decay", "head_learning_rate"}
