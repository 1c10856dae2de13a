"""The fast forward pass is the model's; scores of `evaluate` are what the model's predictions give."""

import sys
import warnings

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, pipeline

from paco_hf import PaCoConfig, PaCoForImageClassification
from paco_hf.data.images import Images, LabeledImages
from paco_hf.data.loading import load_data
from paco_hf.data.published import CIFAR_MEAN, CIFAR_STD
from paco_hf.inference.batches import ImageFiles
from paco_hf.inference.forward import fast_forward
from paco_hf.inference.logits import score
from paco_hf.inference.prediction_files import write_predictions
from paco_hf.models.image_processing import build_processor
from paco_hf.utils.hardware import hardware_precision


@pytest.fixture
def model() -> PaCoForImageClassification:
    torch.manual_seed(0)
    model = PaCoForImageClassification.from_timm("cifar_resnet20", num_labels=20, class_counts=[5] * 20, image_size=32)
    # Logits that differ from image to image, as trained ones do.
    model.classifier.weight.data.normal_()
    model.classifier.bias.data = -model.eval()(torch.randn(32, 3, 32, 32)).logits.mean(0).detach()
    return model


def test_float32_is_the_models_and_bf16_is_near(model) -> None:
    images = torch.randn(6, 3, 32, 32)
    expected = model.eval()(images).logits
    assert torch.allclose(fast_forward(model)(images), expected, atol=1e-5 * expected.abs().max().item())
    logits = fast_forward(model, "bf16")(images)
    assert (logits.dtype, logits.requires_grad) == (torch.float32, False)
    error = (logits - expected).abs().max() / expected.abs().max()
    assert 1e-6 < error < 0.05
    chosen = fast_forward(model, "auto")(images)
    assert torch.equal(chosen, fast_forward(model, hardware_precision(use_cpu=True))(images))


def test_flip_is_the_mean_of_an_image_and_its_mirror_image(model) -> None:
    images = torch.randn(5, 3, 32, 32)
    both = [model.eval()(one).logits for one in (images, images.flip(-1))]
    forward = fast_forward(model, tta="flip")
    assert torch.allclose(forward(images), (both[0] + both[1]) / 2, atol=1e-4)
    assert torch.allclose(forward(images), forward(images.flip(-1)), atol=1e-4)
    assert (both[0] - both[1]).abs().max() > 0.1
    with pytest.raises(ValueError, match="features have no mirror image"):
        forward(torch.randn(2, model.classifier.in_features))
    with pytest.raises(ValueError, match="tta must be one of none, flip, got 'rotate'"):
        fast_forward(model, tta="rotate")
    with pytest.raises(ValueError, match="--features cannot be combined with --tta flip"):
        write_predictions("model", ImageFiles([]), "all.csv", features="all.npy", tta="flip")


def test_bad_precision_is_named(model) -> None:
    with pytest.raises(ValueError, match=r"precision must be one of .*, got 'fp8'"):
        fast_forward(model, "fp8")
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        fast_forward(model, "fp16")


def test_without_a_compiler_it_goes_on_and_says_so(model, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(2, 3, 32, 32)
    expected = fast_forward(model)(images)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.warns(UserWarning, match=r"C\+\+ compiler 'no-such-compiler' is not on the PATH: continuing without"):
        forward = fast_forward(model, compile=True)
    assert torch.equal(forward(images), expected)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a C++ compiler")
def test_compiled_is_the_same_for_ragged_batches_too(model) -> None:
    images = torch.randn(7, 3, 32, 32)
    expected = fast_forward(model)(images)
    forward = fast_forward(model, compile=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logits = torch.cat([forward(images[:4]), forward(images[4:])])
    assert torch.allclose(logits, expected, atol=1e-4 * expected.abs().max().item())


def test_score_is_that_of_the_pipeline(model, tmp_path) -> None:
    data = load_data()
    build_processor(model.config.image_size, CIFAR_MEAN, CIFAR_STD).save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    some = data.test.select(list(range(0, 2000, 25)))
    result = score(tmp_path, Images(some), batch_size=32)
    classify = pipeline("image-classification", model=str(tmp_path), top_k=1)
    predicted = [model.config.label2id[row[0]["label"]] for row in classify([some.open(i) for i in range(80)])]
    assert result["accuracy"] == np.mean(np.asarray(predicted) == some.labels)
    assert len(set(predicted)) > 2
    with pytest.raises(ValueError, match=r"has label 25, but .* has 20 classes"):
        score(tmp_path, Images(LabeledImages(some.data, some.image_column, labels=[25] * 80)))


def test_an_ensemble_averages_logits(tmp_path) -> None:
    data = load_data()
    split = data.test.select(list(range(0, 2000, 40)))
    folders = []
    for name, size in (("a", 32), ("b", 24)):
        torch.manual_seed(len(folders))
        model = PaCoForImageClassification(
            PaCoConfig(backbone="cifar_resnet20", num_labels=20, class_counts=data.class_counts, image_size=size)
        )
        model.save_pretrained(tmp_path / name)
        build_processor(model.config.image_size, CIFAR_MEAN, CIFAR_STD).save_pretrained(tmp_path / name)
        folders.append(str(tmp_path / name))
    logits = torch.zeros(len(split.labels), 20)
    for folder in folders:
        processor = AutoImageProcessor.from_pretrained(folder)
        model = PaCoForImageClassification.from_pretrained(folder).eval()
        pixels = processor([split.open(i) for i in range(len(split.labels))], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            logits += model(pixels).logits
    accuracy = logits.argmax(1).eq(torch.tensor(split.labels)).float().mean().item()
    together = score(folders, Images(split))
    assert together["accuracy"] == pytest.approx(accuracy)
    assert score(folders[::-1], Images(split)) == together
    assert score(folders[0], Images(split)) != score(folders[1], Images(split))
    with pytest.raises(ValueError, match="passed twice"):
        score([folders[0], folders[0] + "/"], Images(split))
    other = PaCoForImageClassification(
        PaCoConfig(backbone="cifar_resnet20", num_labels=20, class_counts=[3] * 20, image_size=32)
    )
    other.save_pretrained(tmp_path / "c")
    with pytest.raises(ValueError, match="differ in their class counts, so their logits cannot be averaged"):
        score([folders[0], str(tmp_path / "c")], Images(split))
