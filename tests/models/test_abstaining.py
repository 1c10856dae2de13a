"""Models that say where they had better not answer: what they give besides, and when they no longer say it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_trainer import make_model, make_trainer
from transformers import Trainer, TrainingArguments, pipeline

from paco_hf import PaCoConfig, PaCoForImageClassification, PaCoPipeline
from paco_hf.models.abstention import abstains, logger, thresholds_apply
from paco_hf.models.image_processing import build_processor

IMAGES = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def abstaining(**fields) -> tuple[PaCoForImageClassification, torch.Tensor]:
    """A model that abstains from half of the images, and its logits without a rule."""
    model = make_model(**fields).eval()
    logits = model(IMAGES).logits
    middle = logits.softmax(1).amax(1).median().item() + 1e-6
    chosen_with = {"temperature": model.config.temperature, "inference_prior": model.config.inference_prior}
    model.config.abstention = {"target": "coverage=0.5", "thresholds": [middle] * 5, **chosen_with}
    return model, logits


@torch.no_grad()
@pytest.mark.parametrize("fields", [{}, {"temperature": 0.5, "inference_prior": [5, 4, 3, 2, 1]}])
def test_logits_stay_and_abstained_comes_along(fields: dict, tmp_path: Path) -> None:
    model, logits = abstaining(**fields)
    model.save_pretrained(tmp_path)
    loaded = PaCoForImageClassification.from_pretrained(tmp_path)
    for one in (model, loaded):
        output = one(IMAGES)
        torch.testing.assert_close(output.logits, logits, rtol=0, atol=0)
        expected = logits.softmax(1).amax(1) < model.config.abstention["thresholds"][0]
        assert output.abstained.tolist() == expected.tolist()
        assert 0 < output.abstained.sum() < 12
        assert len(one(IMAGES, return_dict=False)) == 1  # a tuple has what it had
    loaded.config.abstention = None
    assert "abstained" not in loaded(IMAGES)
    # By the predicted class.
    label = int(logits[0].argmax())
    model.config.abstention["thresholds"] = [float(c == label) * 2 for c in range(5)]
    assert model(IMAGES).abstained.tolist() == (logits.argmax(1) == label).tolist()


@torch.no_grad()
def test_thresholds_on_probabilities_are_void_after_a_change_and_those_on_logits_are_not(monkeypatch) -> None:
    model, logits = abstaining()
    said = []
    monkeypatch.setattr(logger, "warning_once", said.append)
    model.set_prior([5, 4, 3, 2, 1])
    assert not thresholds_apply(model.config)
    assert "abstained" not in model(IMAGES)
    assert "they are not applied" in said[0]
    model.set_prior(None)
    assert model(IMAGES).abstained.any()
    model.config.temperature = 2.0
    assert "abstained" not in model(IMAGES)
    middle = logits.amax(1).median().item() + 1e-5
    model.config.abstention["unknown"] = {"score": "max_logit", "thresholds": [middle] * 5}
    for temperature, prior in ((2.0, None), (None, [5, 4, 3, 2, 1])):
        model.config.temperature = temperature
        model.set_prior(prior)
        unsure, unlike = abstains(model(IMAGES).logits, model.config)
        assert not unsure.any()
        # Under a prior the largest of the logits may be another's; before it, it is as it was.
        assert unlike.tolist() == model(IMAGES).abstained.tolist() == (logits.amax(1) < middle).tolist()


def test_pipeline_says_it(tmp_path: Path) -> None:
    model, _ = abstaining()
    model.config.abstention["thresholds"] = [0.0] * 5
    images = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)) for i in (0, 1)]
    given = {"model": model, "image_processor": build_processor(32, [0.5] * 3, [0.5] * 3), "top_k": 3}
    plain = pipeline("image-classification", **given)(images, batch_size=2)
    ours = pipeline("image-classification", **given, pipeline_class=PaCoPipeline)
    assert ours(images, batch_size=2) == plain
    scores = [entries[0]["score"] for entries in plain]
    unsure = int(np.argmin(scores))
    model.config.abstention["thresholds"] = [float(np.mean(scores))] * 5
    marked = ours(images, batch_size=2)
    assert marked[unsure][0].pop("abstained") is True
    assert marked == plain


def test_trainers_see_logits_alone_and_training_refuses_a_rule(tmp_path: Path) -> None:
    model, _ = abstaining()
    data = [{"pixel_values": image, "labels": 0} for image in IMAGES]
    predicted = Trainer(model, TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)).predict(data)
    assert predicted.predictions.shape == (12, 5)
    with pytest.raises(ValueError, match="inference_prior and abstention of the config to None"):
        make_trainer(tmp_path, model)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({}, "must be a dictionary with thresholds or unknown"),
        ([0.5] * 5, "must be a dictionary"),
        ({"thresholds": [0.5] * 4}, "4 thresholds, but the model has 5 classes"),
        ({"thresholds": ["a"] * 5}, "one number per class"),
        ({"unknown": {"score": "distance", "thresholds": [1.0] * 5}}, "score max_logit or energy"),
        ({"unknown": {"score": "energy"}}, "with thresholds or unknown"),
    ],
)
def test_rules_that_cannot_be(rule, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PaCoConfig(num_labels=5, abstention=rule)


def test_a_head_of_other_classes_has_no_rule(tmp_path: Path) -> None:
    model, _ = abstaining(class_counts=None)
    model.save_pretrained(tmp_path)
    assert PaCoConfig.from_pretrained(tmp_path, num_labels=7).abstention is None
    assert PaCoConfig.from_pretrained(tmp_path, num_labels=5).abstention == model.config.abstention
