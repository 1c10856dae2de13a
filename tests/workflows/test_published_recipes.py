"""Every recipe on a miniature of its data set: two optimizer steps, evaluation, reload, by `accelerate launch`."""

import json
import os
import sys
from pathlib import Path

import miniature
import numpy as np
import patience
import pytest
import timm
import torch
import yaml
from conftest import ROOT
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

import paco_hf  # noqa: F401
from paco_hf.arguments.recipes import read_recipe, recipe_names
from paco_hf.data.published import BENCHMARKS

TRAINING = ROOT / "training"
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]
MAKERS = {**miniature.MAKERS, "cifar100": miniature.cifar, "cifar100-lt": miniature.cifar100_lt}
PRETRAINED = {"resnet152.tv_in1k": "resnet152", "vit_base_patch16_224.mae": "vit_base_patch16_224"}
ROWS = [name for name in recipe_names() if not name.endswith("-builtin") and "ensemble" not in name]


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory):
    made: dict[str, Path] = {}

    def tree(dataset: str) -> Path:
        if dataset not in made:
            made[dataset] = MAKERS[dataset](tmp_path_factory.mktemp(dataset))
        return made[dataset]

    return tree


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory):
    """Files of the form that pretrained weights come in, with fresh weights."""
    made: dict[str, Path] = {}

    def file(backbone: str) -> Path:
        if backbone not in made:
            kwargs = {"global_pool": "token", "num_classes": 0} if backbone.startswith("vit") else {}
            made[backbone] = tmp_path_factory.mktemp("weights") / f"{backbone}.safetensors"
            save_file(timm.create_model(PRETRAINED[backbone], **kwargs).state_dict(), made[backbone])
        return made[backbone]

    return file


def launch(script: str, *arguments: str, config: str | None = None) -> str:
    options = (
        ["--config_file", str(TRAINING / "accelerate_configs" / config)]
        if config
        else ["--num_processes", "1", "--cpu"]
    )
    command = [*LAUNCH, *options, str(TRAINING / script), *arguments]
    done = patience.run(command, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def flags(name: str, trees, weights) -> list[str]:
    recipe = read_recipe(name).settings
    given = [
        "--recipe",
        name,
        "--dataset_path",
        str(trees(recipe["dataset"])),
        "--max_steps",
        "2",
        "--precision",
        "fp32",
    ]
    given += ["--per_device_train_batch_size", "4", "--save_strategy", "no", "--dataloader_num_workers", "0"]
    if "cifar" not in name:
        given += ["--image_size", "64"]
    if recipe.get("gradient_accumulation_steps", 1) > 1:
        given += ["--gradient_accumulation_steps", "2"]
    if recipe["backbone"] in PRETRAINED:
        given += ["--pretrained_file", str(weights(recipe["backbone"]))]
    elif recipe.get("pretrained"):
        given += ["--pretrained", "false"]
    return given


def check_folder(folder: Path, name: str) -> None:
    recipe, resolved = read_recipe(name).settings, yaml.safe_load((folder / "recipe.yaml").read_text())
    for setting in ("loss", "backbone", "query_view", "key_view", "temperature", "alpha", "epoch_schedule", "optim"):
        assert resolved.get(setting, recipe.get(setting)) == recipe.get(setting, resolved.get(setting))
    accumulation = 2 if recipe.get("gradient_accumulation_steps", 1) > 1 else 1
    assert resolved["global_batch_size"] == 4 * accumulation
    scaled = recipe["learning_rate"] * 4 * accumulation / recipe["global_batch_size"]
    assert resolved["learning_rate"] == pytest.approx(scaled)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["last_step"] == 2
    assert 0 <= metrics["test"]["accuracy"] <= 1

    benchmark = BENCHMARKS[recipe["dataset"]]
    processor = AutoImageProcessor.from_pretrained(folder)
    assert processor.image_mean == pytest.approx(benchmark.mean)
    assert processor.image_std == pytest.approx(benchmark.std)
    assert int(processor.resample) == (3 if "vit" in name else 2)
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    assert model.config.backbone == recipe["backbone"]
    image = miniature.picture(5)
    with torch.no_grad():
        logits = model(processor(image, return_tensors="pt")["pixel_values"]).logits[0]
    assert torch.isfinite(logits).all()
    best = pipeline("image-classification", model=str(folder))(image, top_k=1)[0]
    assert model.config.label2id[best["label"]] == int(np.argmax(logits.numpy()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_the_recipe_runs(name: str, trees, weights, tmp_path: Path) -> None:
    output = launch("train.py", *flags(name, trees, weights), "--output_dir", str(tmp_path / "run"))
    assert "instead of the recipe's" in output
    check_folder(tmp_path / "run", name)


@pytest.mark.slow
def test_the_ensemble(trees, weights, tmp_path: Path) -> None:
    members = read_recipe("gpaco-ensemble-imagenet-lt").ensemble
    for name in members:
        launch("train.py", *flags(name, trees, weights), "--output_dir", str(tmp_path / name))
    where = ["--dataset", "imagenet-lt", "--dataset_path", str(trees("imagenet-lt")), "--json"]
    scores = json.loads(launch("evaluate.py", *(str(tmp_path / name) for name in members), *where))
    assert 0 <= scores["accuracy"] <= 1


@pytest.mark.slow
def test_two_processes(trees, weights, tmp_path: Path) -> None:
    name, folder = "paco-resnet50-imagenet-lt", str(tmp_path / "run")
    given = [*flags(name, trees, weights), "--per_device_train_batch_size", "2", "--nproc", "2"]
    assert "2 processes" in launch("train.py", *given, "--output_dir", folder, config="cpu_2.yaml")
    check_folder(tmp_path / "run", name)
    arguments = [folder, "--dataset", "imagenet-lt", "--dataset_path", str(trees("imagenet-lt")), "--json"]
    scores = json.loads(launch("evaluate.py", *arguments, "--nproc", "2", config="cpu_2.yaml"))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    assert {name: scores[name] for name in metrics} == metrics
    assert scores == json.loads(launch("evaluate.py", *arguments))


def test_a_recipe_in_this_process(trees, weights, tmp_path: Path, capsys) -> None:
    from paco_hf.cli import main

    name = "gpaco-resnet50-imagenet-lt"
    given = [*flags(name, trees, weights), "--image_size", "32", "--output_dir", str(tmp_path / "run")]
    assert main(["train", *given]) == 0
    output = capsys.readouterr().out
    assert "note: the train split is not the published one" in output
    assert "views: randcls-n2-m10, stack-n2-m10, backend pil" in output
    check_folder(tmp_path / "run", name)
