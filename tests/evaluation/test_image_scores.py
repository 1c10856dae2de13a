"""Scores from blocks of logits are those of whole matrices, and need little memory beside the logits."""

import sys
import tracemalloc

import numpy as np
import pytest
import torch

from benchmarks.score_memory import measured, synthetic_logits
from paco_hf import PaCoConfig
from paco_hf.evaluation import image_scores, temperature
from paco_hf.evaluation.analysis import evaluate_logits
from paco_hf.evaluation.image_scores import Answers, ImageScores
from paco_hf.evaluation.predictions import Predictions
from paco_hf.evaluation.priors import log_frequencies, softmax
from paco_hf.evaluation.temperature import fit_temperature, representative_rows
from paco_hf.models.abstention import abstains, adjusted_logits
from paco_hf.workflows import abstain
from paco_hf.workflows.abstain import abstention_results


def assert_same(answers: Answers, probabilities: np.ndarray) -> None:
    np.testing.assert_array_equal(answers.predicted, probabilities.argmax(1))
    np.testing.assert_array_equal(answers.confidence, probabilities.max(1))
    assert answers.classes == probabilities.shape[1]


@pytest.mark.parametrize("counted", [False, True])
def test_blocks_give_what_whole_matrices_give(counted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_scores, "_BLOCK", 700)  # 17 images at a time, 3 in the end
    logits, labels, counts = synthetic_logits(292, 40)
    prior = counts / counts.sum()
    scores = ImageScores.from_logits(logits, labels, 1.7, counts.tolist() if counted else None, [prior, prior[::-1]])
    scaled = logits / 1.7
    probabilities = softmax(scaled)
    np.testing.assert_array_equal(scores.predicted, logits.argmax(1))
    assert_same(scores.answers, probabilities)
    assert_same(scores.uncalibrated, softmax(logits))
    np.testing.assert_array_equal(scores.true_probability, probabilities[np.arange(292), labels])
    np.testing.assert_allclose(scores.squares, (probabilities.astype(np.float64) ** 2).sum(1), rtol=1e-12)
    balanced = scaled - log_frequencies(counts) if counted else scaled
    for chosen, shift in zip(scores.adapted, (prior, prior[::-1]), strict=True):
        np.testing.assert_array_equal(chosen, (balanced + np.log(shift).astype(np.float32)).argmax(1))


def test_abstention_in_blocks_is_that_of_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, _, counts = synthetic_logits(500, 40)
    config = PaCoConfig(class_counts=counts.tolist(), num_labels=40, temperature=1.3)
    rule = {"target": "coverage=0.9", "thresholds": [0.5] * 40, "temperature": 1.3, "inference_prior": None}
    config.abstention = rule | {"unknown": {"score": "energy", "accepted": 0.9, "thresholds": [12.0] * 40}}
    monkeypatch.setattr(image_scores, "_BLOCK", 700)
    answers, abstained = abstain._answers_as_used(logits, config, True)
    adjusted = adjusted_logits(torch.from_numpy(logits), config)
    unsure, unlike = abstains(adjusted, config)
    assert 0 < int(unsure.sum()) != int(unlike.sum()) > 0
    np.testing.assert_array_equal(abstained, (unsure | unlike).numpy())
    assert_same(answers, softmax(adjusted.numpy()))


def test_scores_need_little_beside_the_logits() -> None:
    logits, labels, counts = synthetic_logits(2500, 8142)
    config = PaCoConfig(class_counts=counts.tolist(), num_labels=8142, temperature=1.3)
    names = list(map(str, range(8142)))
    about = {"split": [""] * 2500, "file": [""] * 2500, "row": labels, "class_names": names}
    calls = {
        "analysis": lambda: evaluate_logits(
            logits, labels, class_names=names, class_counts=counts, temperature=1.3, resamples=2
        ),
        "abstention": lambda: abstention_results(logits, labels, config),
        "predictions": lambda: Predictions.from_logits(logits, labels, 1.3, **about),
    }
    for name, call in calls.items():
        tracemalloc.start()  # numpy tells it of what it allocates
        call()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 0.5 * logits.nbytes, f"{name}: {peak / logits.nbytes:.2f} times the logits"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("stage", ["temperature", "evaluation"])
def test_a_process_has_at_most_half_of_the_logits_more(stage: str) -> None:
    row = measured(stage, 8000)
    assert row["logits"] < row["peak"] < 1.5 * row["logits"]


@pytest.mark.parametrize("how", [{}, {"balanced": True}, {"logit_counts": True}])
def test_a_sample_and_one_step_give_the_temperature_of_all(how: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels, counts = synthetic_logits(30_000, 60, seed=1)
    if "logit_counts" in how:
        logits, how = logits + log_frequencies(counts), {"logit_counts": counts}
    whole = fit_temperature(logits, labels, **how)
    rows, slopes = [], temperature._slopes
    monkeypatch.setattr(temperature, "_slopes", lambda *args: rows.append(len(args[4][0])) or slopes(*args))
    monkeypatch.setattr(temperature.representative_rows, "__defaults__", (3000 * 60,))
    sampled = fit_temperature(logits, labels, **how)
    assert sampled == pytest.approx(whole, rel=2e-4)
    assert sampled != whole
    # One or two passes over all images, the last; the sample alone would be off by more.
    assert rows[-1] == 30_000
    assert max(rows[:-2]) < 3100
    kept = representative_rows(labels, 60)
    alone = fit_temperature(logits[kept], labels[kept], **how)
    assert abs(alone / whole - 1) > 10 * abs(sampled / whole - 1)


def test_a_sample_has_each_class_as_often_as_all_images() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 4], [4000, 400, 40, 1]))
    rows = representative_rows(labels, 100, logits=444_100 // 10)
    assert np.bincount(labels[rows]).tolist() == [400, 40, 4, 0, 1]
    assert (np.diff(rows) > 0).all()
    first = np.flatnonzero(labels == 0)
    places = np.searchsorted(first, rows[labels[rows] == 0])
    assert set(np.diff(places)) == {10}  # evenly, whatever order the images have
    assert representative_rows(labels, 100).tolist() == list(range(len(labels)))
