"""A cosine classifier that goes to timm as a linear one: the same top-1, a temperature fitted on images, refusals."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from tiny_trainer import make_model
from transformers import AutoImageProcessor
from user_data import complaint, folders

from paco_hf import PaCoForImageClassification
from paco_hf.cli import main
from paco_hf.conversion import linearize
from paco_hf.data.images import Images
from paco_hf.evaluation.analysis import evaluate_logits
from paco_hf.evaluation.priors import softmax
from paco_hf.evaluation.temperature import TEMPERATURE_RANGE, match_temperature
from paco_hf.models.image_processing import build_processor
from paco_hf.workflows import linear_export
from paco_hf.workflows.evaluation_data import load_evaluation

NARROW = '{"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}'


def cosine(**fields) -> PaCoForImageClassification:
    return make_model("resnet18", classifier="cosine", classifier_scale=16, **fields).eval()


@torch.no_grad()
@pytest.mark.parametrize("length", [0.01, 3.0, 500.0])
def test_same_top_1_whatever_the_length(length: float) -> None:
    model = cosine(temperature=2.0)
    model.classifier.scale.fill_(9.0)  # trained
    copied = linearize(model, length)
    assert (copied.config.classifier, copied.config.temperature, model.config.classifier) == ("linear", None, "cosine")
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(500, model.classifier.in_features, generator=generator)
    features *= torch.logspace(-3, 3, 500)[:, None]
    features[0] = 0
    expected, logits = model.classifier(features), copied.classifier(features)
    assert torch.equal(expected.argmax(1), logits.argmax(1))
    assert not logits[0].any()
    lengths = features.norm(dim=1, keepdim=True)
    expected = expected * lengths / length
    assert ((logits - expected).abs() <= 1e-5 * expected.abs().amax(1, keepdim=True)).all()
    assert not copied.classifier.bias.any()


def test_a_center_without_length_is_a_zero() -> None:
    model = cosine()
    with torch.no_grad():
        model.classifier.weight[1] = 0
    assert not linearize(model, 2.0).classifier.weight[1].any()


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"cosine one with an inference_prior"):
        linearize(cosine(inference_prior=[5, 4, 3, 2, 1]), 1.0)
    with pytest.raises(ValueError, match="is already linear"):
        linearize(make_model(), 1.0)
    for length in (0.0, float("nan"), float("inf"), -1.0):
        with pytest.raises(ValueError, match="feature_length must be a positive number"):
            linearize(cosine(), length)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cosine")
    photos = folders(folder / "photos", {"ant": 40, "bee": 30, "cat": 20, "dog": 10}, size=(32, 32))
    command = ["train", "--dataset", str(photos), "--backbone", "resnet18", "--backbone_kwargs", NARROW]
    command += ["--image_size", "32", "--classifier", "cosine", "--max_steps", "8", "--report", "false"]
    command += ["--per_device_train_batch_size", "16", "--loss", "ce", "--output_dir", str(folder / "run")]
    assert main(command) == 0
    return folder / "run"


@torch.no_grad()
@pytest.mark.parametrize("split", ["validation", "train", "test"])
def test_exported_with_the_images_of_the_run(run: Path, split: str, tmp_path: Path, capsys) -> None:
    capsys.readouterr()
    flags = [] if split == "validation" else ["--split", split]
    assert main(["export", str(run), str(tmp_path / "out"), "--to", "timm", *flags]) == 0
    out = capsys.readouterr().out
    images = load_evaluation(run, split=split)
    count = len(images.labels)
    assert f"{count} of {count} images of {images.name} have the same top-1 class" in out
    matched = "fitted to match the checkpoint's probabilities, because these are training images"
    assert (matched in out) == (split == "train")
    model = PaCoForImageClassification.from_pretrained(run).eval()
    native = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    opened = Images(images)
    views = [AutoImageProcessor.from_pretrained(run)(opened[i], return_tensors="pt") for i in range(count)]
    pixels = torch.cat([view["pixel_values"] for view in views])
    logits = [model(pixels).logits, native(pixels)]
    assert torch.equal(logits[0].argmax(1), logits[1].argmax(1))
    errors = [
        evaluate_logits(
            one.numpy(),
            images.labels,
            class_names=images.class_names,
            class_counts=None,
            logit_counts=model.config.logit_counts,
        )["metrics"]["ece"]["value"]
        for one in logits
    ]
    shown = re.search(r"calibration error there ([\d.]+) -> ([\d.]+)", out)
    assert [float(value) for value in shown.groups()] == pytest.approx([100 * e for e in errors], abs=0.06)
    assert errors[1] != errors[0]


def test_training_images_where_none_are_for_validation(run: Path, tmp_path: Path, capsys) -> None:
    photos = run.parent / "photos"
    command = ["train", "--dataset", str(photos), "--backbone", "resnet18", "--backbone_kwargs", NARROW]
    command += ["--image_size", "32", "--classifier", "cosine", "--max_steps", "2", "--report", "false"]
    command += ["--validation_fraction", "0", "--output_dir", str(tmp_path / "run")]
    assert main(command) == 0
    capsys.readouterr()
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out"), "--to", "timm"]) == 0
    out = capsys.readouterr().out
    assert f"of 80 images of {photos} train" in out
    assert "fitted to match the checkpoint's probabilities, because these are training images" in out


def test_published_with_what_differs(run: Path, tmp_path: Path, capsys) -> None:
    """`push --to timm` fits and says what `export` does; a card that was edited stays, but for its use."""
    edited = tmp_path / "edited"
    shutil.copytree(run, edited)
    assert main(["card", str(edited), "--license", "mit"]) == 0
    text = (edited / "README.md").read_text()
    (edited / "README.md").write_text(text.replace("## Limits\n", "## Limits\n\nNot for mushrooms.\n"))
    capsys.readouterr()
    folder = tmp_path / "sent"
    assert main(["push", str(edited), "ada/ants", "--to", "timm", "--write_only", str(folder)]) == 0
    out = capsys.readouterr().out
    same, count = re.search(r"(\d+) of (\d+) images of .* have the same top-1", out).groups()
    card = ModelCard.load(folder / "README.md")
    use = " ".join(card.text.partition("## How to use it")[2].partition("\n## ")[0].split())
    assert f"({same} of {count} images, photos" in use
    assert (
        f"temperature, {re.search(r'temperature ([.0-9]+), fitted on these images', out)[1]}, was fitted on these"
        in use
    )
    assert 'model="ada/ants"' in use
    assert "trust_remote_code" not in card.text
    assert "Not for mushrooms." in card.text
    assert (card.data.library_name, card.data.license) == ("timm", "mit")
    assert {"run.json", "metrics.json", "recipe.yaml", "splits.json", "class_counts.png"} <= {
        file.name for file in folder.iterdir()
    }
    assert not list(folder.rglob("*.py"))
    (edited / "README.md").write_text("Mine alone.")
    argv = ["push", str(edited), "a/b", "--to", "timm", "--write_only", str(tmp_path / "new")]
    assert "has no section '## How to use it'" in complaint(capsys, *argv)
    assert not (tmp_path / "new").exists()


def test_confidence_that_is_handed_on() -> None:
    """On images that were trained on labels say nothing; the probabilities of the checkpoint do."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(300, 6)) * 3
    assert match_temperature(logits, softmax(logits / 1.7)) == pytest.approx(1.7, rel=1e-6)
    lengths = generator.uniform(0.5, 1.5, size=(300, 1))
    wanted = softmax(logits / 1.7)

    def loss(temperature: float) -> float:
        return float(-(wanted * np.log(softmax(logits * lengths / temperature))).sum(1).mean())

    best = match_temperature(logits * lengths, wanted)
    assert loss(best) < min(loss(0.99 * best), loss(1.01 * best))
    assert match_temperature(logits, np.eye(6)[logits.argmax(1)]) == TEMPERATURE_RANGE[0]


def test_images_that_cannot_be_had(run: Path, tmp_path: Path, capsys) -> None:
    out = [str(tmp_path / "out"), "--to", "timm"]
    other = folders(tmp_path / "other", {"yak": 2, "zebra": 2})
    about = "exporting a cosine classifier to timm needs images to fit a linear one: "
    answer = complaint(capsys, "export", str(run), *out, "--dataset", str(other))
    assert f"{about}{other} train has a class 'yak'" in answer
    photos = run.parent / "photos"
    photos.rename(tmp_path / "moved")
    try:
        assert about in complaint(capsys, "export", str(run), *out)
        assert main(["export", str(run), *out, "--dataset", str(tmp_path / "moved")]) == 0
    finally:
        (tmp_path / "moved").rename(photos)


def test_padding_is_refused_before_the_images_are_read(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    cosine().save_pretrained(tmp_path / "padded")
    build_processor(32, [0.5] * 3, [0.5] * 3, fit="pad").save_pretrained(tmp_path / "padded")
    monkeypatch.setattr(linear_export, "load_evaluation", lambda *a, **k: pytest.fail("images are read"))
    out = [str(tmp_path / "out"), "--to", "timm", "--dataset", str(run.parent / "photos")]
    assert "padded with the color of their border" in complaint(capsys, "export", str(tmp_path / "padded"), *out)


def test_refusals_of_the_command(run: Path, tmp_path: Path, capsys) -> None:
    out = str(tmp_path / "out")
    assert "remove them" in complaint(capsys, "export", str(run), out, "--to", "onnx", "--split", "train")
    model = cosine()
    for name, fields in {"prior": {"inference_prior": [5, 4, 3, 2, 1]}, "cifar": {}, "linear": {}}.items():
        if name == "cifar":
            model = make_model("cifar_resnet20", classifier="cosine")
        elif name == "linear":
            model = make_model()
        model.config.update(fields)
        model.save_pretrained(tmp_path / name)
        AutoImageProcessor.from_pretrained(run).save_pretrained(tmp_path / name)
    for name, message in (
        ("prior", "`paco-hf export --to onnx`, which keeps it"),
        ("cifar", "timm itself has no 'cifar_resnet20'"),
        ("linear", "has a linear one"),
    ):
        flags = ["--split", "train"] if name == "linear" else []
        assert message in complaint(capsys, "export", str(tmp_path / name), out, "--to", "timm", *flags), name
        publish = ["push", str(tmp_path / name), "ada/x", "--to", "timm", "--write_only", out]
        assert message in complaint(capsys, *publish, *flags), name
    assert not Path(out).exists()
