"""`paco-hf evaluate` and `report` on runs: what they write, and what they store in a checkpoint."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import pipeline
from user_data import SHORT, folders

from paco_hf import PaCoConfig
from paco_hf.cli import main
from paco_hf.data.images import Images
from paco_hf.data.loading import load_data
from paco_hf.evaluation.priors import softmax
from paco_hf.inference.batches import image_batches
from paco_hf.inference.feature_cache import cached_features
from paco_hf.inference.load_model import load_for_inference
from paco_hf.inference.logits import balanced_logits
from paco_hf.inference.prediction import predict
from paco_hf.metrics import expected_calibration_error
from paco_hf.reports.model_card import write_card
from paco_hf.workflows.calibrate import update_config
from paco_hf.workflows.evaluation_data import load_evaluation

FAST = [
    "--max_steps",
    "8",
    "--learning_rate",
    "0.01",
    "--per_device_train_batch_size",
    "32",
    "--backbone",
    "test_resnet",
    "--eval_strategy",
    "no",
    "--save_strategy",
    "no",
]


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> list[str]:
    """Flags for the built-in images with a fifth of those of the test."""
    folder = tmp_path_factory.mktemp("few")
    data = load_data("builtin")
    data.train.data.to_parquet(folder / "train.parquet")
    data.test.data.select(range(0, 2000, 5)).to_parquet(folder / "test.parquet")
    return ["--dataset", str(folder), "--inspect", "false"]


@pytest.fixture(scope="module")
def trained(few: list[str], tmp_path_factory) -> dict[int, Path]:
    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        assert (
            main(
                [
                    "train",
                    *few,
                    *FAST,
                    "--calibrate",
                    "false",
                    "--seed",
                    str(seed),
                    "--output_dir",
                    str(root / f"seed{seed}"),
                ]
            )
            == 0
        )
    return {seed: root / f"seed{seed}" for seed in (0, 1)}


@pytest.fixture
def run(trained: dict[int, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained[0], tmp_path / "run"))


def test_mirror_images_are_computed_and_named(run: Path, capsys, no_pngs, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    split = load_evaluation(run)
    images, names = Images(split), split.class_names
    model, processor = load_for_inference(str(run), 64, "fp32")
    cached_features(model.paco, processor, images, 64, keep=True)
    plain, labels, _ = balanced_logits(run, images, names)
    flipped = []
    for (pixels,) in image_batches(images, [processor], 64, "flipping"):
        with torch.no_grad():
            flipped.append(model(pixels.flip(-1)).logits)
    expected = (plain + torch.cat(flipped).numpy()) / 2
    # Not those of the features that are kept, which are of images as they are.
    assert np.allclose(balanced_logits(run, images, names, tta="flip")[0], expected, atol=1e-4)
    assert not np.allclose(plain, expected, atol=1e-2)
    assert main(["evaluate", str(run), "--tta", "flip"]) == 0
    printed = capsys.readouterr().out
    assert "evaluated with --tta flip: use it for predictions, too" in printed
    assert "README.md is unchanged" not in printed  # a card has scores without it
    results = json.loads((run / "evaluation" / "results.json").read_text())
    assert (results["tta"], results["scores"]["accuracy"]) == ("flip", (expected.argmax(1) == labels).mean())
    assert "of each image and of its mirror image are averaged" in (run / "evaluation" / "report.html").read_text()
    file = tmp_path / "image.png"
    images[0].save(file)
    (shown,) = predict(str(run), [str(file)], tta="flip")
    assert shown["score"] == pytest.approx(softmax(expected[:1])[0].max(), abs=1e-4)


def test_evaluate_writes_results_and_report_beside_the_run(
    run: Path, tmp_path: Path, capsys, no_pngs, request
) -> None:
    assert main(["evaluate", str(run)]) == 0
    said = capsys.readouterr().out
    assert "95% intervals: top-1" in said
    assert f"report: {run / 'evaluation' / 'report.html'}" in said
    results = json.loads((run / "evaluation" / "results.json").read_text())
    metrics = json.loads((run / "metrics.json").read_text())["test"]
    assert results["scores"] == metrics
    assert results["metrics"]["accuracy"]["value"] == pytest.approx(metrics["accuracy"])
    assert results["selection"] == json.loads((run / "run.json").read_text())["data"]["test"]["selection"]
    page = (run / "evaluation" / "report.html").read_text()
    assert f"{100 * metrics['accuracy']:.1f}" in page
    assert "data:image/" in page  # the worst classes' images
    card = write_card(run).read_text()
    assert "Expected calibration error" in card
    assert "](reliability.png)" in card
    assert (run / "reliability.png").is_file()
    request.getfixturevalue("blank_figures")  # the others
    # It may have been edited since, so it is left alone, which is said.
    (run / "README.md").write_text("Mine.")
    assert main(["evaluate", str(run)]) == 0
    assert f"{run / 'README.md'} is unchanged: update it with paco-hf card {run}\n" in capsys.readouterr().out
    assert (run / "README.md").read_text() == "Mine."
    # A new run in the folder takes the old evaluation away.
    photos = str(folders(tmp_path / "photos", {"a": 9, "b": 6}))
    assert main(["train", "--dataset", photos, *SHORT, "--overwrite", "--output_dir", str(run)]) == 0
    assert not (run / "evaluation").exists()


def test_no_report_writes_nothing(run: Path, capsys) -> None:
    assert main(["evaluate", str(run), "--no_report", "--json"]) == 0
    said = capsys.readouterr()
    found, metrics = json.loads(said.out), json.loads((run / "metrics.json").read_text())["test"]
    assert {name: found[name] for name in metrics} == metrics
    assert found["intervals"]["ece"]["low"] <= found["intervals"]["ece"]["value"]
    assert (found["temperature"], found["report"]) == (None, None)
    assert "95% intervals: top-1" in said.err
    assert not (run / "evaluation").exists()


def test_calibrate_uses_the_validation_split_and_is_stored(run: Path, few: list[str], capsys, blank_figures) -> None:
    assert main(["evaluate", str(run), "--calibrate"]) == 0
    said = capsys.readouterr().out
    temperature = PaCoConfig.from_pretrained(run).temperature
    assert temperature is not None
    assert f"temperature {temperature:.3f}" in said
    results = json.loads((run / "evaluation" / "results.json").read_text())
    assert results["calibration"]["temperature"] == temperature
    # The split that it was fitted on is the run's own carve, not the test split.
    split = load_evaluation(run, None, "validation")
    assert len(split.labels) == json.loads((run / "run.json").read_text())["data"]["validation"]["images"]
    logits, labels, _ = balanced_logits([run], Images(split), split.class_names)
    frequencies = np.log(np.bincount(labels, minlength=20) / len(labels))
    loss = {
        t: -np.log(softmax(logits.astype(float) / t + frequencies)[np.arange(len(labels)), labels]).mean()
        for t in (0.9 * temperature, temperature, 1.1 * temperature)
    }
    assert min(loss, key=loss.get) == temperature
    # What the report says of the test split is what `pipeline` gives.
    data = load_data(few[1])
    rows = range(0, 400, 8)
    classify = pipeline("image-classification", model=str(run), top_k=20)
    probabilities = np.zeros((len(rows), 20))
    for i, row in enumerate(rows):
        for entry in classify(data.test.open(row)):
            probabilities[i, data.class_names.index(entry["label"])] = entry["score"]
    logits, labels, _ = balanced_logits([run], Images(data.test), data.class_names)
    assert probabilities == pytest.approx(softmax(logits[rows] / temperature), abs=1e-4)
    ece = expected_calibration_error(softmax(logits / temperature), labels)["expected_calibration_error"]
    assert results["metrics"]["ece"]["value"] == pytest.approx(ece, abs=1e-5)


def test_train_calibrates(few: list[str], tmp_path: Path, capsys, blank_figures) -> None:
    folder = tmp_path / "run"
    assert main(["train", *few, *FAST, "--calibrate", "true", "--report", "true", "--output_dir", str(folder)]) == 0
    temperature = PaCoConfig.from_pretrained(folder).temperature
    said = capsys.readouterr().out
    assert f"temperature {temperature:.3f}, fitted on " in said
    # One command, from nothing to a report and a card.
    card = (folder / "README.md").read_text()
    assert "Expected calibration error" in card
    assert "](reliability.png)" in card
    assert f"report: {folder / 'evaluation' / 'report.html'}" in said
    results = json.loads((folder / "evaluation" / "results.json").read_text())
    assert results["scores"] == json.loads((folder / "metrics.json").read_text())["test"]
    assert results["calibration"]["temperature"] == temperature
    assert main(["evaluate", str(folder), "--calibrate", "--no_report"]) == 0
    assert PaCoConfig.from_pretrained(folder).temperature == pytest.approx(temperature, rel=1e-4)
    flags = ["--calibrate", "true", "--validation_fraction", "0", "--output_dir", str(tmp_path / "other")]
    assert main(["train", *few, *FAST, *flags]) == 2
    assert "--validation_fraction" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("images", "expected"), [(60, False), (110, True)])
def test_own_data_is_calibrated_where_there_is_enough(images: int, expected: bool, tmp_path: Path) -> None:
    source = load_data("builtin").test
    for i in range(2 * images):
        file = tmp_path / "photos" / "train" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        source.open(i).save(file)
    flags = [
        "--max_steps",
        "2",
        "--backbone",
        "test_resnet",
        "--validation_fraction",
        "0.5",
        "--test_fraction",
        "0",
    ]
    command = ["train", "--dataset", str(tmp_path / "photos"), *flags, "--output_dir", str(tmp_path / "run")]
    assert main(command) == 0
    assert (PaCoConfig.from_pretrained(tmp_path / "run").temperature is not None) == expected


def test_ensembles_of_other_carves_are_refused(tmp_path: Path, capsys) -> None:
    source = load_data("builtin").test
    for i in range(40):
        file = tmp_path / "photos" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        source.open(i).save(file)
    runs = [str(tmp_path / f"run{seed}") for seed in range(3)]
    flags = ["--dataset", str(tmp_path / "photos"), "--max_steps", "1", "--backbone", "test_resnet"]
    for run, seeds in zip(runs, (("0", "0"), ("1", "0"), ("1", "1")), strict=True):
        assert main(["train", *flags, "--seed", seeds[0], "--split_seed", seeds[1], "--output_dir", run]) == 0
    assert main(["evaluate", *runs[:2], "--no_report"]) == 0
    assert main(["report", *runs[:2], "--json"]) == 0
    assert main(["evaluate", *runs[1:], "--no_report"]) == 2
    assert "run1" in (said := capsys.readouterr().err)
    assert "run2" in said


def test_ensembles_have_a_report_where_there_is_a_place_and_no_temperature(
    trained: dict[int, Path], tmp_path: Path, capsys, blank_figures
) -> None:
    both = [str(folder) for folder in trained.values()]
    assert main(["evaluate", *both]) == 0
    assert "set --output_dir DIR" in capsys.readouterr().out
    assert main(["evaluate", *both, "--output_dir", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["model"] == "seed0 + seed1"
    assert "do not use" not in capsys.readouterr().out
    calibrated = Path(shutil.copytree(trained[1], tmp_path / "calibrated"))
    update_config(str(calibrated), temperature=2.0, inference_prior=[1.0] * 20)
    assert main(["evaluate", both[0], str(calibrated), "--output_dir", str(tmp_path / "out")]) == 0
    said = "do not use the temperature stored in a checkpoint and the class frequencies (inference_prior) stored in a"
    assert said in capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text()
    assert said in page
    assert "The probabilities are not calibrated" in page
    assert main(["evaluate", *both, "--calibrate"]) == 2
    assert "pass one checkpoint, not several" in capsys.readouterr().err


def test_report_has_mean_and_deviation_over_seeds(trained: dict[int, Path], tmp_path: Path, capsys) -> None:
    runs, page = [str(folder) for folder in trained.values()], tmp_path / "comparison.html"
    assert main(["report", *runs, "--output", str(page)]) == 0
    accuracies = [
        100 * json.loads((folder / "metrics.json").read_text())["test"]["accuracy"] for folder in trained.values()
    ]
    said = capsys.readouterr().out
    assert f"{np.mean(accuracies):.1f} ± {np.std(accuracies, ddof=1):.1f}" in said
    assert f"{np.mean(accuracies):.1f}" in page.read_text()
    assert main(["report", *runs, "--output", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert main(["report", *runs, "--output", str(tmp_path / "no" / "page.html")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--calibrate", "--split", "validation"], "would then be too high"),
        (["--output_dir", "{file}"], "is a file"),
    ],
)
def test_bad_flags_are_refused_before_scoring(run: Path, flags: list[str], message: str, capsys) -> None:
    flags = [flag.format(file=run / "config.json") for flag in flags]
    assert main(["evaluate", str(run), *flags]) == 2
    assert message in capsys.readouterr().err
    assert PaCoConfig.from_pretrained(run).temperature is None
