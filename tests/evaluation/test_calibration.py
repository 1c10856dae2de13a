"""Temperature and priors: known posteriors, and the published checkpoint on real images."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import torch
from conftest import ROOT
from sklearn.metrics import log_loss
from transformers import pipeline

from paco_hf import PaCoConfig, PaCoForImageClassification
from paco_hf.cli import main
from paco_hf.data.images import Images
from paco_hf.data.loading import load_data
from paco_hf.evaluation.prior_estimation import estimate_prior
from paco_hf.evaluation.priors import shifted_prior, softmax
from paco_hf.evaluation.temperature import fit_temperature
from paco_hf.inference.logits import balanced_logits
from paco_hf.metrics import expected_calibration_error

PUBLISHED = ROOT / "model_cards" / "paco-resnet32-cifar100-lt-100"


def mixture(prior: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of Gaussians around the corners of a polygon: the log-likelihoods of the classes (which are balanced
    logits) and the true classes, which are as frequent as the prior says."""
    generator = np.random.default_rng(seed)
    classes = len(prior)
    angle = 2 * np.pi * np.arange(classes) / classes
    centers = 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    labels = generator.choice(classes, n, p=prior)
    points = centers[labels] + generator.standard_normal((n, 2))
    return -0.5 * ((points[:, None] - centers) ** 2).sum(-1), labels


def tiny(classes: int) -> PaCoForImageClassification:
    torch.manual_seed(0)
    config = PaCoConfig(backbone="cifar_resnet20", num_labels=classes, image_size=32, class_counts=[9] * classes)
    return PaCoForImageClassification(config).eval()


def test_adapted_predictions_are_bayes_optimal() -> None:
    prior = np.asarray([0.5, 0.25, 0.15, 0.06, 0.03, 0.01])
    logits, labels = mixture(prior, 20000, 0)
    posterior = np.exp(logits) * prior
    bayes = (posterior.argmax(1) == labels).mean()
    model = tiny(6)
    balanced = (logits.argmax(1) == labels).mean()
    model.set_prior((prior * 1000).tolist())  # counts or probabilities
    adjusted = model.adjust_logits(torch.from_numpy(logits))
    assert (adjusted.argmax(1).numpy() == labels).mean() == bayes > balanced + 0.04
    assert adjusted.softmax(1).numpy() == pytest.approx(posterior / posterior.sum(1, keepdims=True), abs=1e-6)


def test_prior_is_stored_undone_and_tempered(tmp_path: Path) -> None:
    model = tiny(3)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        balanced = model(images).logits
        model.set_prior(torch.tensor([8.0, 1.0, 1.0]))
        shifted = model(images).logits
        torch.testing.assert_close(shifted, balanced + torch.tensor([0.8, 0.1, 0.1]).log())
        model.save_pretrained(tmp_path)
        loaded = PaCoForImageClassification.from_pretrained(tmp_path)
        torch.testing.assert_close(loaded(images).logits, shifted)
        model.set_prior([8, 1, 1], tau=0.5)
        assert model.config.inference_prior == pytest.approx(np.sqrt([8, 1, 1]) / np.sqrt([8, 1, 1]).sum())
        model.set_prior([8, 1, 1], tau=0)
        torch.testing.assert_close(model(images).logits.softmax(1), balanced.softmax(1))
        model.set_prior(None)
        torch.testing.assert_close(model(images).logits, balanced)
        model.set_prior([1, 1e-300, 1], tau=4)
        assert model(images).logits.isfinite().all()
    # As they come, too.
    model.set_prior(list(np.asarray([8.0, 1.0, 1.0])), tau=np.float32(1))
    assert model.config.inference_prior == pytest.approx([0.8, 0.1, 0.1])
    model.set_prior([torch.tensor(8), torch.tensor(1), 1])
    assert model.config.inference_prior == pytest.approx([0.8, 0.1, 0.1])


def test_a_model_without_class_prior_in_training_is_told_another_one() -> None:
    model = tiny(3)
    model.config.class_counts, model.config.balanced_logits = [80, 10, 10], False
    logits = torch.randn(4, 3)
    model.config.temperature = 2.0
    torch.testing.assert_close(model.adjust_logits(logits), logits / 2)
    model.set_prior([80, 10, 10])  # as in training
    torch.testing.assert_close(model.adjust_logits(logits).softmax(1), (logits / 2).softmax(1))
    model.set_prior([1, 1, 1])
    expected = logits / 2 - torch.tensor([0.8, 0.1, 0.1]).log()
    torch.testing.assert_close(model.adjust_logits(logits).softmax(1), expected.softmax(1))
    model.set_prior(None)
    model.config.class_counts = None
    with pytest.raises(ValueError, match="inference_prior needs class_counts"):
        model.set_prior([1, 1, 1])


def test_what_a_loaded_configuration_says_is_checked(tmp_path: Path) -> None:
    tiny(3).save_pretrained(tmp_path)
    for value in (-1.0, 0, "2", float("inf")):
        with pytest.raises(ValueError, match="temperature must be a positive number"):
            PaCoForImageClassification.from_pretrained(tmp_path, temperature=value)
    images = torch.randn(2, 3, 32, 32)
    for size in (1e-60, 1e39):
        model = PaCoForImageClassification.from_pretrained(tmp_path, inference_prior=[size, 2 * size, size])
        assert model(images).logits.isfinite().all()


@pytest.mark.parametrize(
    ("prior", "tau", "message"),
    [
        ([1, 2], 1.0, "2 entries, but the model has 3 classes"),
        ([1, 0, 2], 1.0, "must be positive: for a class"),
        ([1, float("nan"), 2], 1.0, "must be positive: for a class"),
        ("abc", 1.0, "one number per class"),
        ([1, 1, 1], -1, "tau must be 0 or more, got -1"),
    ],
)
def test_a_bad_prior_changes_nothing(prior, tau: float, message: str) -> None:
    model = tiny(3)
    model.set_prior([1, 2, 3])
    before = model.config.inference_prior
    with pytest.raises(ValueError, match=message):
        model.set_prior(prior, tau)
    assert model.config.inference_prior == before


def test_em_finds_the_prior_of_known_posteriors() -> None:
    prior = np.asarray([0.45, 0.25, 0.15, 0.1, 0.04, 0.01])
    logits, _ = mixture(prior, 8000, 1)
    estimate = estimate_prior(softmax(logits), resamples=60)
    assert np.abs(estimate["prior"] - prior).max() < 0.02
    assert np.abs(estimate["prior"] - prior).sum() < np.abs(np.bincount(logits.argmax(1)) / 8000 - prior).sum() / 2
    assert (estimate["low"] <= estimate["prior"] + 1e-9).all()
    assert (estimate["prior"] <= estimate["high"] + 1e-9).all()
    assert estimate["prior"].sum() == pytest.approx(1)


def test_em_ranges_cover_the_truth() -> None:
    prior = np.asarray([0.6, 0.25, 0.15])
    inside = 0
    for seed in range(40):
        logits, _ = mixture(prior, 400, seed + 10)
        estimate = estimate_prior(softmax(logits), resamples=60, seed=seed)
        inside += int(((estimate["low"] <= prior) & (prior <= estimate["high"])).sum())
    assert inside >= 0.88 * 120


def test_em_refuses_what_are_no_probabilities() -> None:
    for bad in (np.zeros((0, 3)), np.ones((2, 3)), np.asarray([[np.nan, 1.0]])):
        with pytest.raises(ValueError, match="probabilities must be"):
            estimate_prior(bad)


@pytest.mark.parametrize("true_temperature", [0.4, 1.0, 2.5])
def test_temperature_is_found_whatever_the_split(true_temperature: float) -> None:
    prior = np.asarray([0.5, 0.25, 0.15, 0.06, 0.03, 0.01])
    logits, labels = mixture(prior, 20000, 2)
    assert fit_temperature(logits * true_temperature, labels) == pytest.approx(true_temperature, rel=0.04)
    # Logits of a training without class prior, on a split of the training's frequencies: the usual scaling.
    carrying = (logits + np.log(prior)) * true_temperature
    found = fit_temperature(carrying, labels, prior * 1e6)
    assert found == pytest.approx(true_temperature, rel=0.04)


@pytest.mark.parametrize("block", [1, 2000, 10**9])
def test_temperature_is_the_likeliest_by_another_search(block: int, monkeypatch) -> None:
    monkeypatch.setattr("paco_hf.evaluation.temperature._BLOCK", block)  # logits that are in 64 bits at a time
    logits, labels = mixture(np.asarray([0.6, 0.3, 0.1]), 600, 3)
    # A class that the split does not have cannot be a label, however large its logit.
    wide = np.concatenate([2 * logits, np.full((600, 1), 7.0)], axis=1)
    frequencies = np.bincount(labels) / 600

    def loss(temperature: float) -> float:
        return log_loss(labels, softmax(2 * logits / temperature + np.log(frequencies)))

    best = scipy.optimize.minimize_scalar(loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-9}).x
    assert fit_temperature(wide, labels) == pytest.approx(best, rel=1e-4)
    assert fit_temperature(np.eye(3)[labels], labels) == 0.02  # the likelier the colder
    assert fit_temperature(-np.eye(3)[labels], labels) == 50
    with pytest.raises(ValueError, match="at least two classes"):
        fit_temperature(logits, np.zeros(600, int))


@pytest.fixture(scope="module")
def real() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The published checkpoint on the built-in test images: logits of their 20 classes, labels, training counts."""
    data = load_data("builtin")
    model = PaCoForImageClassification.from_pretrained(PUBLISHED)
    columns = [model.config.label2id[name] for name in data.class_names]
    names = [model.config.id2label[c] for c in range(100)]
    images = Images(data.test)
    images.split.labels = [columns[label] for label in images.split.labels]
    logits, labels, _ = balanced_logits([PUBLISHED], images, names)
    return (
        logits[:, columns],
        np.asarray([columns.index(label) for label in labels]),
        np.asarray(model.config.selection_counts)[columns],
    )


def test_calibration_lowers_the_error_on_held_out_images(real) -> None:
    logits, labels, _ = real
    half = np.random.default_rng(0).random(len(labels)) < 0.5
    temperature = fit_temperature(logits[half], labels[half])
    before, after = (
        expected_calibration_error(softmax(logits[~half] / t), labels[~half])["expected_calibration_error"]
        for t in (1, temperature)
    )
    assert temperature > 1.1  # cross-entropy is overconfident
    assert after < 0.6 * before


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_prior_pays_where_the_test_is_skewed_and_can_be_estimated(real, direction: str) -> None:
    logits, labels, counts = real
    prior = shifted_prior(counts, 50, direction)
    drawn = np.random.default_rng(1).choice(len(labels), 3000, p=prior[labels] / 100)  # 100 images of each class
    truth = np.bincount(labels[drawn], minlength=20) / 3000
    probabilities = softmax(logits[drawn] / 1.4)
    estimate = estimate_prior(probabilities, resamples=10)["prior"]
    distance, from_uniform = (np.abs(other - truth).sum() / 2 for other in (estimate, 1 / 20))
    assert distance < 0.2  # total variation; the model is wrong about many of the rare classes' images
    assert distance < from_uniform / 2
    unadapted = (logits[drawn].argmax(1) == labels[drawn]).mean()
    known, estimated = (((probabilities * p).argmax(1) == labels[drawn]).mean() for p in (prior, estimate))
    assert known > unadapted + 0.02
    assert estimated > unadapted - 0.005  # which costs nothing, though it gains less


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in PUBLISHED.iterdir():
        if file.is_file() and file.suffix != ".png":
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_estimate_prior_command(model_folder: Path, tmp_path: Path, capsys) -> None:
    data = load_data("builtin")
    shots = tmp_path / "shots"
    shots.mkdir()
    rows = [i for i, label in enumerate(data.test.labels) if label == 3][:30]
    for i in rows:
        data.test.open(i).save(shots / f"{i}.png")
    output = tmp_path / "prior.json"
    command = ["estimate-prior", str(model_folder), str(shots), "--resamples", "5"]
    assert main([*command, "--output", str(output), "--json"]) == 0
    classes = json.loads(capsys.readouterr().out)
    best = max(classes, key=lambda entry: entry["frequency"])
    assert best["label"] == data.class_names[3]
    assert best["low"] <= best["frequency"] <= best["high"]
    assert json.loads((model_folder / "config.json").read_text()).get("inference_prior") is None

    def said(*flags: str) -> list[str]:
        assert main(["predict", str(model_folder), str(shots), "--json", *flags]) == 0
        return [entry["label"] for entry in json.loads(capsys.readouterr().out)]

    hits = [sum(label == data.class_names[3] for label in said(*flags)) for flags in ((), ("--prior", str(output)))]
    assert hits[1] > hits[0]
    assert main([*command, "--store"]) == 0
    assert "set_prior(None)" in capsys.readouterr().out
    stored = said()
    assert stored == said("--prior", str(output)) != said("--prior", "none")
    classify = pipeline("image-classification", model=str(model_folder), top_k=1)
    files = sorted(str(file) for file in shots.iterdir())
    assert [rows[0]["label"] for rows in classify(files)] == stored


def test_pipeline_takes_a_prior(tmp_path: Path) -> None:
    image = load_data("builtin").test.open(0)
    plain = pipeline("image-classification", model=str(PUBLISHED), top_k=1)
    prior = [1e-6] * 100
    prior[7] = 1
    skewed = pipeline("image-classification", model=str(PUBLISHED), model_kwargs={"inference_prior": prior})
    assert plain(image)[0]["label"] != skewed(image)[0]["label"] == plain.model.config.id2label[7]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prior", "nowhere.json"], "training, none or a file"),
        (["--prior", "{other}"], "has different classes"),
        (["--prior", "{broken}"], "must be a file from `paco-hf estimate-prior --output`"),
        (["--prior", "{negative}"], "the frequency of 'apple' must be finite and at least 0, got -1.0"),
        (["--prior", "{nothing}"], "at least one frequency must be above 0"),
    ],
)
def test_bad_priors_of_predict(flags: list[str], message: str, tmp_path: Path, capsys) -> None:
    other, broken = tmp_path / "other.json", tmp_path / "broken.json"
    other.write_text(json.dumps({"classes": [{"label": "zebra crossing", "frequency": 1.0}]}))
    broken.write_text("[]")
    image = tmp_path / "image.png"
    load_data("builtin").test.open(0).save(image)
    negative, nothing = tmp_path / "negative.json", tmp_path / "nothing.json"
    names = PaCoConfig.from_pretrained(PUBLISHED).id2label.values()
    for file, first in ((negative, -1.0), (nothing, 0.0)):
        rows = [{"label": name, "frequency": first if name == "apple" else 0.0} for name in names]
        file.write_text(json.dumps({"classes": rows}))
    flags = [flag.format(other=other, broken=broken, negative=negative, nothing=nothing) for flag in flags]
    assert main(["predict", str(PUBLISHED), str(image), *flags]) == 2
    assert message in capsys.readouterr().err
