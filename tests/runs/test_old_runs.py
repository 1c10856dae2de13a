"""Run folders of the first layout of the package load, evaluate and resume."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from paco_hf import PaCoForContrastiveTraining
from paco_hf.cli import main

OLD_RUNS = ROOT / "tests" / "old_runs"


@pytest.fixture(params=["class_folders", "csv_paco"])
def old(request, tmp_path, monkeypatch) -> Path:
    """A copy of an old run with its images, in the working directory, since its recipe has relative paths."""
    folder = Path(shutil.copytree(OLD_RUNS / request.param, tmp_path / request.param))
    monkeypatch.chdir(folder)
    return folder


def assert_same_weights(one: Path, other: Path) -> None:
    for name in ("model.safetensors", "checkpoint-20/paco_training_state.safetensors"):
        tensors, expected = load_file(one / name), load_file(other / name)
        assert tensors.keys() == expected.keys()
        for key, tensor in tensors.items():
            # Another CPU rounds otherwise; on the one that made them the bits are equal.
            torch.testing.assert_close(tensor, expected[key], atol=1e-4, rtol=1e-3, msg=f"{name} {key}")


def test_loads(old) -> None:
    model = AutoModelForImageClassification.from_pretrained(old / "run")
    training = PaCoForContrastiveTraining.from_pretrained(old / "run" / "checkpoint-20")
    assert training.config.num_labels == model.config.num_labels == 3
    assert (training.key_encoder is not None) == (old.name == "csv_paco")
    assert len(training.queue.labels) == 16


def test_evaluates(old, capsys) -> None:
    expected = json.loads((old / "expected.json").read_text(encoding="utf-8"))["evaluate"]
    assert main(["evaluate", "run", "--no_report", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores.keys() == expected.keys()
    for name in ("accuracy", "balanced_accuracy", "few", "per_class", "worst_class"):
        assert scores[name] == expected[name], name


def test_finished_run_stays_as_it_is(old, capsys) -> None:
    before = {file: file.read_bytes() for file in (old / "run").rglob("*") if file.is_file()}
    command = json.loads((old / "expected.json").read_text(encoding="utf-8"))["command"]
    assert main([*command, "--resume"]) == 0
    assert "is already finished" in capsys.readouterr().out
    assert before == {file: file.read_bytes() for file in (old / "run").rglob("*") if file.is_file()}


def test_interrupted_run_resumes_to_the_same_end(old, capsys) -> None:
    expected = json.loads((old / "expected.json").read_text(encoding="utf-8"))
    assert main([*expected["command"][:-1], "interrupted", "--resume"]) == 0
    assert "resuming from interrupted/checkpoint-10" in capsys.readouterr().out
    assert_same_weights(old / "interrupted", old / "run")
    metrics = json.loads((old / "interrupted" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["test"] == expected["metrics"]["test"]
    recipes = [yaml.safe_load((old / name / "recipe.yaml").read_text()) for name in ("interrupted", "run")]
    assert [recipe.pop("per_device_eval_batch_size") for recipe in recipes] == [64, 256]  # another default now
    added = {"classifier": "linear", "classifier_scale": 25, "learn_classifier_scale": False}  # since then
    added |= {"cross_validation": "none", "feature_views": 0, "image_fit": "crop", "global_batch_size": 8}
    added |= {"view_draws": "batch", "torch_compile": False, "inspect": "full", "strict": False}
    assert {name: recipes[0].pop(name) for name in added} == added
    for recipe in recipes:  # whether transformers writes them depends on its release
        recipe.pop("activation_checkpointing", None), recipe.pop("gradient_checkpointing", None)
    assert recipes[0] == recipes[1]
    earlier = (old / "run" / "splits.json").read_text().replace("train, carved", "train, split off")  # its name then
    assert json.loads((old / "interrupted" / "splits.json").read_text()) == json.loads(earlier)


def test_old_views_can_be_left_for_new_ones(old, capsys) -> None:
    """A run from before `view_draws` resumes with the draws of its batches, unless the user chooses."""
    expected = json.loads((old / "expected.json").read_text(encoding="utf-8"))
    command = [*expected["command"][:-1], "interrupted", "--resume", "--dry_run"]
    assert main(command) == 0
    kept = capsys.readouterr().out
    assert "backend tensor with random numbers drawn per batch" in kept
    assert "view_draws: batch" in kept
    assert "view_draws" not in re.findall(r"resuming from .*", kept)[0]
    assert main([*command, "--view_draws", "image"]) == 0
    changed = capsys.readouterr().out
    assert "view_draws batch -> image" in re.findall(r"resuming from .*", changed)[0]
    assert "view_draws: image" in changed
