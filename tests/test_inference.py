"""The fast forward pass is the model's; scores of `evaluate` are what the model's predictions give."""

import sys
import warnings

import numpy as np
import pytest
import torch
from transformers import pipeline

from paco_hf import PaCoForImageClassification
from paco_hf.data.loading import load_data
from paco_hf.data.splits import Images, LabelledImages
from paco_hf.inference import fast_forward
from paco_hf.training_args import hardware_precision
from paco_hf.workflow import _build_processor, score


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


def test_bad_precision_is_named(model) -> None:
    with pytest.raises(ValueError, match=r"precision must be one of .*, got 'fp8'"):
        fast_forward(model, "fp8")
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        fast_forward(model, "fp16")


def test_without_a_compiler_it_goes_on_and_says_so(model, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(2, 3, 32, 32)
    expected = fast_forward(model)(images)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.warns(UserWarning, match=r"no C\+\+ compiler 'no-such-compiler'"):
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
    _build_processor(model, data).save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    some = data.test.select(list(range(0, 2000, 25)), "some")
    result = score(tmp_path, Images(some), batch_size=32)
    classify = pipeline("image-classification", model=str(tmp_path), top_k=1)
    predicted = [model.config.label2id[row[0]["label"]] for row in classify([some.open(i) for i in range(80)])]
    assert result["accuracy"] == np.mean(np.asarray(predicted) == some.labels)
    assert len(set(predicted)) > 2
    with pytest.raises(ValueError, match=r"has label 25, but .* has 20 classes"):
        score(tmp_path, Images(LabelledImages(some.data, some.image_column, [25] * 80)))
