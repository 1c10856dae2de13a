"""Thresholds that keep what they promise, by simulation; and the figures about them, against plain computations."""

import re

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from paco_hf import PaCoConfig
from paco_hf.evaluation.abstention import (
    choose_thresholds,
    examine_abstention,
    image_weights,
    parse_target,
    precision_bound,
    precision_threshold,
    share_threshold,
)
from paco_hf.evaluation.image_scores import Answers
from paco_hf.evaluation.priors import softmax
from paco_hf.evaluation.unknown import (
    auroc,
    false_acceptance,
    parse_unknown,
    unknown_scores,
    unknown_thresholds,
)
from paco_hf.models.abstention import abstains, adjusted_logits

COUNTS = [300, 200, 50, 30, 9, 5]  # many, many, medium, medium, few, few


def answers(n: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated confidences, and whether the answers are right."""
    confidence = generator.beta(2, 0.5, n)
    return confidence, generator.random(n) < confidence


def test_a_promised_precision_is_kept_where_the_measured_one_is_not() -> None:
    generator, wanted = np.random.default_rng(0), 0.95
    others, _ = answers(50_000, generator)
    missed = {"promised": 0, "measured": 0}
    answered = []
    for _ in range(100):
        confidence, right = answers(500, generator)
        threshold, _ = precision_threshold(confidence, right, np.ones(500), wanted)
        ranked = np.argsort(-confidence)
        precision = np.cumsum(right[ranked]) / np.arange(1, 501)
        plain = confidence[ranked][np.flatnonzero(precision >= wanted)[-1]]
        # The precision on other images, exactly, as confidences are calibrated.
        missed["measured"] += others[others >= plain].mean() < wanted
        if threshold is not None:
            missed["promised"] += others[others >= threshold].mean() < wanted
            answered.append((others >= threshold).mean())
    assert missed["promised"] <= 0.15 * 100  # one in ten is the level
    assert missed["measured"] >= 0.35 * 100
    assert np.mean(answered) > 0.3  # of the 0.56 that one could answer if one knew


def test_the_bound_is_nearly_the_exact_one() -> None:
    # One-sided, of Clopper and Pearson: `0.1 ** (1 / n)` where all are right.
    for n in (30, 100, 1000):
        assert precision_bound(1.0, n) == pytest.approx(0.1 ** (1 / n), abs=0.25 / n)
    assert precision_bound(0.0, 100) == 0
    assert precision_bound(0.99, 100) == pytest.approx(0.9616, abs=0.003)  # scipy.stats.beta.ppf(0.1, 99, 2)


def long_tailed(seed: int = 0, n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of long-tailed images by a model that is worse at rare classes, and takes them for one another."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(6, n, p=np.asarray(COUNTS) / sum(COUNTS))
    logits = generator.normal(size=(n, 6))
    logits[np.arange(n), labels] += np.asarray([4, 4, 4, 4, 2.5, 2.5])[labels]
    return softmax(logits), labels


def test_rare_classes_are_held_to_the_same_precision_where_classes_are_equally_frequent() -> None:
    probabilities, labels = long_tailed()
    weight = image_weights(labels, [1.0] * 6)
    thresholds, chosen = choose_thresholds(
        Answers.from_probabilities(probabilities), labels, weight, COUNTS, "precision=0.95"
    )
    assert thresholds[0] == thresholds[1] == chosen["many"]["threshold"]
    assert thresholds[4] == chosen["few"]["threshold"]
    assert chosen["few"]["images"] == (probabilities.argmax(1) >= 4).sum()
    # On other images, with as many of each class.
    probabilities, labels = long_tailed(1)
    rows = np.concatenate([np.flatnonzero(labels == c)[:250] for c in range(6)])
    probabilities, labels = probabilities[rows], labels[rows]
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    for group in ((0, 1), (2, 3), (4, 5)):
        kept = np.isin(predicted, group) & (confidence >= thresholds[predicted])
        assert (predicted == labels)[kept].mean() > 0.93, group
        assert kept.sum() > 100
    # As frequent as in training, what is taken for a rare class is more often a frequent one.
    probabilities, labels = long_tailed()
    answers_there = Answers.from_probabilities(probabilities)
    unweighted, _ = choose_thresholds(answers_there, labels, np.ones(20_000), COUNTS, "precision=0.95")
    assert unweighted[4] > thresholds[4] + 0.01
    assert abs(thresholds[4] - thresholds[0]) > 0.005


def test_a_precision_out_of_reach_says_what_is_in_reach() -> None:
    probabilities, labels = long_tailed(n=2000)
    weight = image_weights(labels, [1.0] * 6)
    with pytest.raises(ValueError, match=r"precision=0\.999 cannot be guaranteed for predictions of") as one:
        choose_thresholds(Answers.from_probabilities(probabilities), labels, weight, COUNTS, "precision=0.999")
    reachable = re.search(r"use precision=([\d.]+), coverage=SHARE", str(one.value))[1]
    name = re.search("for predictions of (many|medium|few)-shot classes", str(one.value))[1]
    # Of that group it can be promised, and no more.
    group = np.asarray([0, 0, 1, 1, 2, 2])[probabilities.argmax(1)] == ("many", "medium", "few").index(name)
    args = probabilities.max(1)[group], (probabilities.argmax(1) == labels)[group], weight[group]
    assert precision_threshold(*args, float(reachable))[0] is not None
    assert precision_threshold(*args, float(reachable) + 0.011)[0] is None
    # And by the others it can be promised, too.
    choose_thresholds(Answers.from_probabilities(probabilities), labels, weight, COUNTS, f"precision={reachable}")
    never = np.eye(6)[[0] * 50]  # nothing is predicted as few
    with pytest.raises(ValueError, match=r"(medium|few)-shot classes: no validation image was predicted as one"):
        choose_thresholds(
            Answers.from_probabilities(never), np.zeros(50, dtype=int), np.ones(50), COUNTS, "precision=0.9"
        )
    thresholds, _ = choose_thresholds(
        Answers.from_probabilities(never), np.zeros(50, dtype=int), np.ones(50), COUNTS, "coverage=0.9"
    )
    assert thresholds.tolist() == [1.0] * 6


def test_coverage_is_that_of_each_group_and_ties_stay_together() -> None:
    probabilities, labels = long_tailed()
    thresholds, chosen = choose_thresholds(
        Answers.from_probabilities(probabilities), labels, np.ones(20_000), COUNTS, "coverage=0.8"
    )
    predicted = probabilities.argmax(1)
    for group, name in (((0, 1), "many"), ((4, 5), "few")):
        rows = np.isin(predicted, group)
        share = (probabilities.max(1) >= thresholds[predicted])[rows].mean()
        assert share == pytest.approx(0.8, abs=0.002) == chosen[name]["coverage"]
    one, chosen = choose_thresholds(
        Answers.from_probabilities(probabilities), labels, np.ones(20_000), None, "coverage=0.8"
    )
    assert len({*one}) == 1
    assert list(chosen) == ["all"]
    assert share_threshold(np.asarray([3.0, 3, 3, 1]), np.ones(4), 0.5) == 3
    tied, right = np.repeat([0.9, 0.8], 60), np.repeat([True, False], 60)
    assert precision_threshold(tied, right, np.ones(120), 0.9)[0] == 0.9


def test_scores_of_unknown_images_against_plain_computations() -> None:
    generator = np.random.default_rng(0)
    known, unknown = generator.normal(1, 1, 500), generator.normal(0, 1, 300)
    known[:50] = unknown[:50]  # ties
    labels, scores = np.repeat([1, 0], [500, 300]), np.concatenate([known, unknown])
    assert auroc(known, unknown) == pytest.approx(roc_auc_score(labels, scores))
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert false_acceptance(known, unknown) == pytest.approx(false[np.argmax(true >= 0.95)])
    # A rare class's images, whose scores are lower, are accepted as often.
    predicted = np.repeat([0, 4], 250)
    shifted = known - 2 * (predicted == 4)
    least = unknown_thresholds(shifted, predicted, np.ones(500), COUNTS, 0.9)
    for c in (0, 4):
        assert (shifted[predicted == c] >= least[c]).mean() == pytest.approx(0.9, abs=0.005)
    assert least[2] == share_threshold(shifted, np.ones(500), 0.9)  # nothing was predicted so


@pytest.mark.parametrize("score", ["max_logit", "energy"])
def test_what_is_chosen_here_is_what_models_compare(score: str) -> None:
    logits = 5 * np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    scores, middle = unknown_scores(logits, score), float(np.median(unknown_scores(logits, score)))
    rule = {"unknown": {"score": score, "thresholds": [middle] * 6}}
    config = PaCoConfig(num_labels=6, temperature=0.5, inference_prior=[6, 5, 4, 3, 2, 1], abstention=rule)
    _, unlike = abstains(adjusted_logits(torch.from_numpy(logits), config), config)
    clear = np.abs(scores - middle) > 1e-4
    assert (unlike.numpy() == (scores < middle))[clear].all()
    assert unlike.any()


def test_risk_against_coverage_by_hand() -> None:
    confidence, right = np.asarray([0.9, 0.8, 0.7, 0.6]), np.asarray([True, False, True, False])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    result = examine_abstention(Answers.from_probabilities(probabilities), (~right).astype(int), np.ones(4), [150, 5])
    curve = result["curves"]["overall"]
    assert curve["points"] == [[0.25, 0.0], [0.5, 0.5], [0.75, pytest.approx(1 / 3)], [1.0, 0.5]]
    assert curve["area"] == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert {row["coverage"]: row["risk"] for row in curve["table"]}[0.5] == 0.5
    assert result["curves"]["few"]["points"][-1] == [1.0, 1.0]
    assert result["curves"]["medium"] is None
    assert "by_class" not in result
    abstained = confidence < 0.75
    result = examine_abstention(
        Answers.from_probabilities(probabilities), (~right).astype(int), np.ones(4), [150, 5], abstained
    )
    overall, few = result["by_prediction"]["overall"], result["by_prediction"]["few"]
    assert (overall["images"], overall["coverage"], overall["precision"]) == (4, 0.5, 0.5)
    assert overall["low"] < 0.5 < overall["high"]
    assert few == {"images": 0, "coverage": None, "precision": None, "low": None, "high": None}
    assert result["by_class"]["many"]["precision"] == 1.0
    assert result["by_class"]["few"]["precision"] == 0.0


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_target, "0.95", "must be precision=SHARE, coverage=SHARE or none"),
        (parse_target, "precision=high", "must end in a share"),
        (parse_target, "coverage=1", "above 0 and below 1"),
        (parse_target, "precision=nan", "above 0 and below 1"),
        (parse_unknown, "distance", "must be max_logit, energy"),
        (parse_unknown, "energy=95", "above 0 and below 1"),
    ],
)
def test_bad_targets(parse, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)
