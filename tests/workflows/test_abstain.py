"""`paco-hf evaluate --abstain` and `--unknown`: what they store, what `predict` and the page make of it, refusals."""

import csv
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models import save_for_hf
from user_data import SHORT, complaint, folders

from paco_hf import PaCoConfig
from paco_hf.cli import main
from paco_hf.data.images import Images
from paco_hf.data.loading import load_data
from paco_hf.evaluation.analysis import evaluate_logits
from paco_hf.evaluation.priors import softmax
from paco_hf.inference.logits import balanced_logits
from paco_hf.metrics import shot_group
from paco_hf.models.abstention import logger
from paco_hf.utils.images import open_image
from paco_hf.webapp.classifier import ALL_EQUAL, AS_TRAINED, Classifier
from paco_hf.webapp.handlers import Handlers
from paco_hf.workflows.evaluation_data import load_evaluation


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the built-in images, with a tenth of those of the test."""
    folder, data = tmp_path_factory.mktemp("few"), load_data("builtin")
    data.train.data.to_parquet(folder / "data" / "train.parquet")
    data.test.data.select(range(0, 2000, 10)).to_parquet(folder / "data" / "test.parquet")
    flags = ["--backbone", "test_resnet", "--max_steps", "10", "--learning_rate", "0.02", "--inspect", "false"]
    flags += ["--per_device_train_batch_size", "64", "--save_strategy", "no", "--eval_strategy", "no"]
    flags += ["--loss", "balanced_softmax", "--calibrate", "false", "--output_dir", str(folder / "run")]
    assert main(["train", "--dataset", str(folder / "data"), *flags]) == 0
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Intervals are not what this is about.
    monkeypatch.setattr("paco_hf.workflows.evaluate.evaluate_logits", partial(evaluate_logits, resamples=10))
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, test = tmp_path_factory.mktemp("photos"), load_data().test
    for i in range(0, 2000, 80):
        test.open(i).save(folder / f"{i:04}.png")
    return folder


def predicted(run: Path, photos: Path, capsys: pytest.CaptureFixture, *more: str) -> list[dict]:
    capsys.readouterr()
    assert main(["predict", str(run), str(photos), "--top", "20", "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_rule_is_chosen_stored_honored_and_undone(
    run: Path, photos: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, blank_figures: None
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(logger, "warning_once", warnings.append)
    before = predicted(run, photos, capsys)
    assert not any("abstained" in entry for entry in before)
    assert main(["evaluate", str(run), "--abstain", "coverage=0.6"]) == 0
    said = capsys.readouterr().out
    rule = PaCoConfig.from_pretrained(run).abstention
    split = load_evaluation(run, None, "validation")
    assert f"chosen on {len(split.labels)} images of {split.name}, stored in {run}" in said
    # Of the validation images that were predicted as a class of each group, that share is as sure; each class of the
    # split counts alike, as the logits are balanced.
    logits, labels, config = balanced_logits([run], Images(split), split.class_names)
    probabilities, thresholds = softmax(logits), np.asarray(rule["thresholds"])
    group, weight = shot_group(np.asarray(config.group_counts)), 1 / np.bincount(labels)[labels]
    for i in np.unique(group[logits.argmax(1)]):
        rows = group[logits.argmax(1)] == i
        kept = probabilities.max(1) >= thresholds[logits.argmax(1)]
        assert weight[rows & kept].sum() / weight[rows].sum() >= 0.6
        assert weight[rows & kept].sum() / weight[rows].sum() < 0.6 + weight[rows].max() / weight[rows].sum() + 1e-6
    # The report is of the test split.
    results = json.loads((run / "evaluation" / "results.json").read_text())["abstention"]
    assert results["rule"] == {"target": "coverage=0.6"}
    assert 0.4 < results["by_prediction"]["overall"]["coverage"] < 0.8
    accuracy = json.loads((run / "metrics.json").read_text())["test"]["accuracy"]
    assert results["curves"]["overall"]["points"][-1] == [1.0, pytest.approx(1 - accuracy)]
    page = (run / "evaluation" / "report.html").read_text()
    assert "<code>coverage=0.6</code>" in page
    assert "<h2>Abstention</h2>" in page
    # Predictions keep what they had.
    after = predicted(run, photos, capsys)
    names = [config.id2label[c] for c in range(20)]
    for old, new in zip(before, after, strict=True):
        assert new.pop("abstained", False) is bool(old["score"] < thresholds[names.index(old["label"])])
        assert new == old
    assert main(["predict", str(run), str(photos)]) == 0
    assert 0 < capsys.readouterr().out.count("(abstained)  ") < len(before)
    # Files have it, too.
    marks = [entry["score"] < thresholds[names.index(entry["label"])] for entry in before]
    for name in ("table.csv", "lines.jsonl"):
        assert main(["predict", str(run), str(photos), "--output", str(run / name)]) == 0
    with open(run / "table.csv", encoding="utf-8", newline="") as file:
        assert [row["abstained"] for row in csv.DictReader(file)] == [str(mark).lower() for mark in marks]
    lines = [json.loads(line) for line in (run / "lines.jsonl").read_text().splitlines()]
    assert [line.get("abstained") for line in lines] == [mark or None for mark in marks]
    # Under other class frequencies it does not apply, which is said.
    assert not warnings
    other = predicted(run, photos, capsys, "--prior", "training")
    assert not any("abstained" in entry for entry in other)
    assert "they are not applied" in warnings[0]
    assert main(["evaluate", str(run), "--abstain", "none", "--no_report"]) == 0
    assert f"{run} no longer abstains" in capsys.readouterr().out
    assert predicted(run, photos, capsys) == before


def test_another_temperature_voids_probabilities_and_not_what_is_unknown(
    run: Path, photos: Path, capsys: pytest.CaptureFixture, blank_figures: None
) -> None:
    flags = ["--calibrate", "--abstain", "coverage=0.9", "--unknown", "max_logit=0.8"]
    assert main(["evaluate", str(run), *flags]) == 0
    said = capsys.readouterr().out
    config = PaCoConfig.from_pretrained(run)
    assert config.abstention["temperature"] == config.temperature is not None
    assert "no longer apply" not in said
    assert "are not applied" not in said
    assert "coverage=0.9, max_logit=0.8, by predicted group: overall" in said
    marked = predicted(run, photos, capsys, "--prior", "none")
    assert 0 < sum("abstained" in entry for entry in marked) < len(marked)
    config.temperature = 1.7
    config.save_pretrained(run)
    assert main(["evaluate", str(run), "--calibrate"]) == 0
    assert "no longer apply" not in capsys.readouterr().out  # the same images, the same temperature
    config.temperature = config.abstention["temperature"] = 1.7
    config.save_pretrained(run)
    assert main(["evaluate", str(run), "--calibrate"]) == 0
    said = capsys.readouterr().out
    assert (
        f"the thresholds for coverage=0.9 were chosen before and no longer apply: run paco-hf evaluate {run}" in said
    )
    assert "max_logit=0.8, by predicted group" in said
    assert json.loads((run / "evaluation" / "results.json").read_text())["abstention"]["rule"] == {
        "unknown": "max_logit=0.8"
    }


def test_the_page_says_it_in_words(run: Path, photos: Path) -> None:
    config = PaCoConfig.from_pretrained(run)
    chosen_with = {"target": "precision=0.95", "temperature": None, "inference_prior": None}
    doubts = {}
    for name, rule in (
        ("sure", {"thresholds": [0.0] * 20, **chosen_with}),
        ("unsure", {"thresholds": [1.1] * 20, **chosen_with}),
        (
            "unknown",
            {"thresholds": [1.1] * 20, **chosen_with, "unknown": {"score": "energy", "thresholds": [99.0] * 20}},
        ),
    ):
        config.abstention = rule
        config.save_pretrained(run)
        classifier = Classifier(run)
        logits, _ = classifier.forward(open_image(photos / "0000.png", "it"))
        doubts[name] = [classifier.doubt(logits, place) for place in (ALL_EQUAL, AS_TRAINED)]
        page = Handlers(classifier, None).rank(logits.tolist(), ALL_EQUAL, None)
        assert doubts[name][0] in page
        assert ('class="doubt"' in page) is (name != "sure")
    assert doubts["sure"][0] == ""
    assert doubts["unsure"][0] == "Not sure: the confidence is below the threshold for precision=0.95."
    assert "only apply to the class frequencies stored" in doubts["unsure"][1]
    assert all(doubt.startswith("None of these") for doubt in doubts["unknown"])


def test_of_a_cross_validated_run_by_the_images_held_out(tmp_path: Path, capsys, blank_figures, monkeypatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(3)
    model = timm.create_model("test_resnet", num_classes=7, pretrained=False)
    model.pretrained_cfg |= {"input_size": (3, 64, 64)}
    save_for_hf(model, str(tmp_path / "weights"), safe_serialization=True)
    data = folders(tmp_path / "photos", {"a": 16, "b": 12, "c": 8}, size=(60, 48))
    run = str(tmp_path / "run")
    flags = [
        "--backbone",
        str(tmp_path / "weights"),
        "--image_size",
        "64",
        "--image_fit",
        "crop",
        "--test_fraction",
        "0.2",
    ]
    flags += ["--num_train_epochs", "2", "--cross_validation", "2", "--learning_rate", "0.1"]
    assert main(["train", "--dataset", str(data), *flags, "--output_dir", run]) == 0
    kept = Path(run, "evaluation-validation", "held_out.safetensors")
    tensors = load_file(kept)
    metrics = json.loads(Path(run, "metrics.json").read_text())
    assert tensors["logits"].shape == (metrics["cross_validation"]["images"], 3)
    right = (tensors["logits"].argmax(1) == tensors["labels"]).float().mean().item()
    assert right == pytest.approx(metrics["validation"]["accuracy"])
    assert main(["evaluate", run, "--calibrate", "--abstain", "coverage=0.5", "--unknown", "energy"]) == 0
    said = capsys.readouterr().out
    assert f"chosen on {len(tensors['labels'])} held-out training images" in said
    assert PaCoConfig.from_pretrained(run).abstention["unknown"]["accepted"] == 0.95
    # Which split the test is, is not asked for here; which one is for validation, is.
    assert main(["evaluate", run, "--abstain", "coverage=0.5", "--train_split", "train", "--no_report"]) == 0
    assert "held-out training images" in capsys.readouterr().out
    kept.unlink()
    assert "with the logits of the held-out images is missing" in complaint(
        capsys, "evaluate", run, "--abstain", "coverage=0.5"
    )


def test_refusals_are_one_line_and_change_nothing(run: Path, trained: Path, tmp_path: Path, capsys) -> None:
    config = (run / "config.json").read_bytes()
    both = [str(run), str(trained)]
    for argv, message in (
        ([str(run), "--abstain", "0.95"], "must be precision=SHARE, coverage=SHARE or none"),
        ([str(run), "--abstain", "precision=95"], "above 0 and below 1"),
        ([str(run), "--unknown", "distance"], "must be max_logit, energy"),
        (
            [str(run), "--calibrate", "--abstain", "precision=0.999"],
            "cannot be guaranteed for predictions of",
        ),
        ([str(run), "--abstain", "coverage=0.9", "--split", "validation"], "would then be too high"),
        ([*both, "--abstain", "coverage=0.9"], "--abstain stores thresholds in a checkpoint: pass one checkpoint"),
        ([*both, "--unknown", "none"], "--unknown stores thresholds"),
    ):
        assert message in complaint(capsys, "evaluate", *argv)
    assert (run / "config.json").read_bytes() == config
    photos = folders(tmp_path / "photos", {"a": 8, "b": 8})
    flags = [*SHORT, "--validation_fraction", "0", "--test_fraction", "0.2"]
    assert main(["train", "--dataset", str(photos), *flags, "--output_dir", str(tmp_path / "none")]) == 0
    said = complaint(capsys, "evaluate", str(tmp_path / "none"), "--abstain", "coverage=0.9")
    assert "has no validation split" in said
