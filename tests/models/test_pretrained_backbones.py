"""Backbones of one's own, and settings that fit the size of the data."""

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file
from timm.models import save_for_hf
from user_data import complaint, folders, printed

from paco_hf.arguments.auto_settings import suggested_settings
from paco_hf.arguments.parser import parse_run
from paco_hf.models.modeling_paco import PaCoForImageClassification

# ---- backbones


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A timm model as timm's `save_for_hf` writes it, with a data configuration of its own."""
    folder = tmp_path_factory.mktemp("timm") / "mine"
    torch.manual_seed(3)
    model = timm.create_model("test_resnet", num_classes=7, pretrained=False)
    model.pretrained_cfg |= {
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
        "interpolation": "bicubic",
        "crop_pct": 0.8,
        "input_size": (3, 96, 96),
    }
    save_for_hf(model, str(folder), safe_serialization=True)
    return folder


def test_local_backbone_brings_its_weights_and_its_data_configuration(
    saved: Path, tmp_path, capsys, no_rehearsal
) -> None:
    root = folders(tmp_path / "photos", {"a": 6, "b": 6}, size=(110, 100))
    argv = ["--dataset", str(root), "--backbone", str(saved), "--output_dir", str(tmp_path / "run")]
    argv += ["--freeze_backbone", "false"]
    out = printed(capsys, *argv, "--max_steps", "1", "--learning_rate", "0", "--weight_decay", "0")
    assert "96 x 96 pixels from images resized to a shorter side of 120 (bicubic)" in out
    assert "mean 0.100, 0.200, 0.300, std 0.400, 0.500, 0.600" in out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["backbone"], config["image_size"]) == ("test_resnet", 96)
    assert str(saved) not in json.dumps(config)
    processor = json.loads((tmp_path / "run" / "preprocessor_config.json").read_text())
    assert (processor["size"], processor["resample"]) == ({"shortest_edge": 120}, 3)
    theirs = timm.create_model(f"local-dir:{saved}", pretrained=True, num_classes=0).state_dict()
    ours = PaCoForImageClassification.from_pretrained(tmp_path / "run").paco.backbone.state_dict()
    assert all(
        torch.equal(ours[name], tensor)
        for name, tensor in theirs.items()
        if "running" not in name[-12:] and "num_" not in name
    )
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert (recipe["backbone"], recipe["eval_interpolation"]) == (str(saved), "bicubic")
    flags = ["--image_size", "80", "--eval_interpolation", "bilinear", "--dry_run", "--overwrite"]
    assert "80 x 80 pixels from images resized to a shorter side of 100 (bilinear)" in printed(capsys, *argv, *flags)


def test_transformers_that_timm_saved(tmp_path, capsys, no_rehearsal) -> None:
    # timm writes their input size with one number a side.
    folder = tmp_path / "vit"
    save_for_hf(timm.create_model("test_vit", num_classes=3), str(folder), safe_serialization=True)
    assert isinstance(json.loads((folder / "config.json").read_text())["model_args"]["img_size"], list)
    root = folders(tmp_path / "photos", {"a": 6, "b": 6})
    argv = ["--dataset", str(root), "--backbone", str(folder), "--output_dir", str(tmp_path / "run")]
    argv += ["--freeze_backbone", "false"]
    out = printed(capsys, *argv, "--max_steps", "1", "--learning_rate", "0", "--weight_decay", "0")
    assert f"backbone {folder}, weights from model.safetensors; input 160 x 160" in out
    ours = PaCoForImageClassification.from_pretrained(tmp_path / "run").paco.backbone.state_dict()
    theirs = load_file(folder / "model.safetensors")
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items() if not name.startswith("head."))
    argv.append("--overwrite")
    out = printed(capsys, *argv, "--backbone_kwargs", '{"img_size": [96, 96]}', "--dry_run")
    assert "input 96 x 96" in out
    line = complaint(capsys, "train", *argv, "--backbone_kwargs", '{"img_size": [96, 64]}', "--dry_run")
    assert "must be the side of a square in pixels, got [96, 64]" in line


def test_weights_are_looked_for_before_the_images_are_looked_at(tmp_path, capsys) -> None:
    root = folders(tmp_path / "photos", {"a": 6, "b": 6})
    argv = ["train", "--dataset", str(root), "--pretrained", "true", "--output_dir", str(tmp_path / "run")]
    (root / "a" / "0.png").write_bytes(b"")  # the survey would complain
    assert "timm has no pretrained weights for 'cifar_resnet20'" in complaint(
        capsys, *argv, "--backbone", "cifar_resnet20"
    )
    assert "Without network access they must be in the cache" in complaint(capsys, *argv, "--backbone", "resnet18")


def test_backbones_that_are_not_there(saved: Path, tmp_path, capsys) -> None:
    root = folders(tmp_path / "photos", {"a": 3, "b": 3})
    (tmp_path / "empty").mkdir()
    (tmp_path / "weightless").mkdir()
    (tmp_path / "weightless" / "config.json").write_text((saved / "config.json").read_text())
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text('{"model_type": "paco"}')
    (tmp_path / "foreign" / "model.safetensors").write_bytes(b"")
    for backbone, message in (
        (str(tmp_path / "none"), "is neither a folder nor a timm model"),
        (str(tmp_path / "empty"), "has no config.json"),
        (str(tmp_path / "weightless"), "has no weights (model.safetensors or pytorch_model.bin)"),
        (str(tmp_path / "foreign"), "is not in timm format"),
        ("hf://nobody/nothing", "'hf://nobody/nothing' cannot be loaded from the Hub"),
        ("resnet5O", "unknown backbone 'resnet5O': did you mean"),
    ):
        argv = ["--dataset", str(root), "--backbone", backbone, "--output_dir", str(tmp_path / "run")]
        assert message in complaint(capsys, "train", *argv)


@pytest.mark.parametrize("loss", ["paco", *(pytest.param(loss, marks=pytest.mark.slow) for loss in ("gpaco", "ce"))])
def test_frozen_backbone_stays_as_it_is(loss: str, tmp_path, capsys) -> None:
    root = folders(tmp_path / "photos", {"a": 12, "b": 12})
    argv = ["--dataset", str(root), "--backbone", "cifar_resnet20", "--freeze_backbone", "true", "--loss", loss]
    argv += ["--save_total_limit", "5", "--save_steps", "1", "--max_steps", "4", "--output_dir", str(tmp_path / "run")]
    printed(capsys, *argv)
    first, last = (load_all(tmp_path / "run" / f"checkpoint-{step}") for step in (1, 4))
    moved = {key for key in first if not torch.equal(first[key], last[key])}
    trained = {key for key in first if key.startswith(("classifier.", "projector."))}
    follows = {key for key in first if key.startswith("key_encoder.projector.")}
    backbone = {key for key in first if "backbone." in key}
    assert trained <= moved
    assert moved - follows - {"queue.features", "queue.labels", "queue.pointer"} == trained
    assert not moved & backbone
    assert any("running_mean" in key for key in backbone)
    for key in backbone:
        if key.startswith("key_encoder."):
            assert torch.equal(last[key], last[key.removeprefix("key_encoder.")]), key
    assert all(not last[key].any() for key in backbone if "running_mean" in key)
    (tmp_path / "run" / "metrics.json").unlink()
    for step in (3, 4):
        shutil.rmtree(tmp_path / "run" / f"checkpoint-{step}")
    printed(capsys, *argv, "--resume")
    again = load_all(tmp_path / "run" / "checkpoint-4")
    assert again.keys() == last.keys()
    assert all(torch.equal(last[key], value) for key, value in again.items())


def load_all(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    state = folder / "paco_training_state.safetensors"
    return tensors | (load_file(state) if state.is_file() else {})


# ---- settings for the size of the data


def test_suggested_settings() -> None:
    recipe = suggested_settings(10_847, 32, False)
    assert (recipe["queue_size"], recipe["projection_dim"], recipe["alpha"], recipe["temperature"]) == (
        1024,
        32,
        0.01,
        0.05,
    )
    assert (recipe["batch"], recipe["num_train_epochs"], recipe["learning_rate"]) == (128, 100, 0.1)
    large = suggested_settings(115_846, 224, False)
    assert (large["queue_size"], large["projection_dim"], large["alpha"], large["temperature"]) == (
        8192,
        128,
        0.05,
        0.2,
    )
    assert large["key_momentum"] == 0.999
    few = suggested_settings(600, 224, True)
    assert (few["batch"], few["num_train_epochs"], few["learning_rate"]) == (32, 60, 0.005)
    assert (few["queue_size"], few["key_momentum"], few["warmup_epochs"]) == (256, 0.99, 6)
    assert [suggested_settings(n, 224, True)["batch"] for n in (5, 20, 100, 999, 1000, 5000)] == [
        5,
        8,
        25,
        32,
        64,
        128,
    ]
    assert suggested_settings(600, 224, False)["num_train_epochs"] == 200
    assert suggested_settings(600, 224, False, batch=64)["learning_rate"] == 0.05
    assert suggested_settings(600, 224, False, epochs=50)["warmup_epochs"] == 5
    assert "queue_size" not in suggested_settings(600, 224, False, loss="ce")
    assert "alpha" not in suggested_settings(600, 224, False, loss="multitask")


def test_what_is_chosen_is_said_and_flags_win(tmp_path, capsys, no_rehearsal) -> None:
    root = folders(tmp_path / "photos", {"a": 40, "b": 20})
    argv = ["--dataset", str(root), "--backbone", "cifar_resnet20", "--dry_run"]
    out = printed(capsys, *argv, "--queue_size", "100", "--learning_rate", "0.3")
    line = next(line for line in out.splitlines() if line.startswith("settings for 43 training images of 2 classes: "))
    assert "num_train_epochs 200" in line
    assert "per_device_train_batch_size 10" in line
    assert "queue_size" not in line
    settings = yaml.safe_load(out[out.index("dataset: ") :])
    assert (settings["queue_size"], settings["learning_rate"], settings["num_train_epochs"]) == (100, 0.3, 200)
    assert (settings["epoch_schedule"], settings["warmup_epochs"], settings["temperature"]) == ("cosine", 20, 0.05)
    out = printed(capsys, *argv, "--recipe", "paco-resnet32-builtin", "--per_device_train_batch_size", "32")
    assert "settings for 4" not in out
    run, args = parse_run(["--dataset", str(root), "--optim", "adamw_torch", "--warmup_steps", "3"])
    assert not run.automatic & {"optim", "epoch_schedule", "warmup_epochs"}
    assert (run.eval_interpolation, args.epoch_schedule) == (None, "none")
    assert parse_run(["--dataset", "builtin"])[0].eval_interpolation == "bilinear"
    assert not parse_run(["--dataset", "cifar100-lt"])[0].automatic


def test_pretrained_backbones_see_images_of_their_own_size(saved: Path, tmp_path, capsys, no_rehearsal) -> None:
    argv = ["--dataset", str(folders(tmp_path / "photos", {"a": 4, "b": 4})), "--dry_run"]
    assert "backbone test_resnet, randomly initialized; input 16 x 16" in printed(
        capsys, *argv, "--backbone", "test_resnet"
    )
    assert "input: to be chosen from 96 x 96 pixels, cropped; 96 x 96 pixels, padded" in printed(
        capsys, *argv, "--backbone", str(saved)
    )
    out = printed(capsys, *argv, "--backbone", str(saved), "--freeze_backbone", "false", "--loss", "paco")
    assert "96 x 96 pixels" in out
    assert "views: regular, sim" in out
