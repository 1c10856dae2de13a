"""Wrong labels that are planted are found, in rare classes as in frequent ones, and right ones are left alone."""

from types import SimpleNamespace

import numpy as np
import pytest

from paco_hf.evaluation.predictions import Predictions
from paco_hf.evaluation.suspects import (
    class_mean_logits,
    find_suspects,
    label_scale,
    near_duplicates,
    same_classes,
)
from paco_hf.metrics import shot_group

COUNTS = (300, 150, 120, 60, 40, 30, 25, 12, 8, 6, 4, 3)


def features(seed: int = 0, width: int = 64, spread: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Features of a long tail of classes, none negative, as those of a network."""
    generator = np.random.default_rng(seed)
    centers = generator.normal(size=(len(COUNTS), width))
    labels = np.repeat(np.arange(len(COUNTS)), COUNTS)
    drawn = centers[labels] + spread * np.sqrt(width) / 4 * generator.normal(size=(len(labels), width))
    return np.maximum(drawn + 1, 0), labels


def flipped(labels: np.ndarray, seed: int, share: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    wrong, rows = labels.copy(), generator.permutation(len(labels))[: int(share * len(labels))]
    wrong[rows] = (wrong[rows] + generator.integers(1, len(COUNTS), len(rows))) % len(COUNTS)
    return wrong, wrong != labels


def judge_labels(logits: np.ndarray, labels: np.ndarray, scale: float | None = None) -> SimpleNamespace:
    scale = scale or label_scale(logits, labels)
    names, about = list(map(str, range(logits.shape[1]))), {"split": [""] * len(labels), "file": [""] * len(labels)}
    rows = np.arange(len(labels))
    predictions = Predictions.from_logits(logits, labels, 1 / scale, row=rows, class_names=names, **about)
    suspects, odds = find_suspects(predictions)
    return SimpleNamespace(suspects=suspects, odds=odds, scale=scale, predictions=predictions)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_labels_are_found(seed: int) -> None:
    x, right = features(seed)
    labels, wrong = flipped(right, seed)
    judgment = judge_labels(class_mean_logits(x, labels, len(COUNTS)), labels)
    suspects, odds = judgment.suspects, judgment.odds
    first = np.argsort(odds)[: wrong.sum()]
    assert wrong[first].mean() > 0.95
    rows = [one.row for one in suspects]
    assert wrong[rows].mean() > 0.9
    assert wrong[rows].sum() > 0.9 * wrong.sum()
    assert np.mean([one.suggested == right[one.row] for one in suspects if wrong[one.row]]) > 0.95
    assert [odds[row] for row in rows] == sorted(odds[row] for row in rows)


def test_rare_classes_are_not_suspected_for_being_rare() -> None:
    """Of labels that are all right, of classes that overlap, hardly any is suspect; another class is the likelier one
    in rare classes as often as in frequent ones."""
    suspected, unlikely = np.zeros((8, 3)), np.zeros((8, 3))
    for seed in range(8):
        x, labels = features(seed, spread=1.0)
        judgment = judge_labels(class_mean_logits(x, labels, len(COUNTS)), labels)
        group, rows = shot_group(np.array(COUNTS))[labels], [one.row for one in judgment.suspects]
        suspected[seed] = [np.isin(np.flatnonzero(group == i), rows).mean() for i in range(3)]
        unlikely[seed] = [(judgment.odds[group == i] < 0).mean() for i in range(3)]
    assert suspected.mean(0).max() < 0.02
    many, medium, few = unlikely.mean(0)
    assert 0.05 < many < 0.2
    assert few < 1.5 * max(many, medium)


def test_copies_with_the_same_wrong_label_do_not_vouch_for_each_other() -> None:
    x, labels = features()
    copied, wrong = np.concatenate([x, x[:1], x[:1]]), np.concatenate([labels, [10, 10]])
    wrong[0] = 10
    rows = {one.row for one in judge_labels(class_mean_logits(copied, wrong, len(COUNTS)), wrong).suspects}
    assert {0, len(labels), len(labels) + 1} <= rows


def test_a_class_of_one_image_is_not_judged() -> None:
    x, labels = features()
    labels[labels == 11] = [11, 5, 5]
    alone = int(np.flatnonzero(labels == 11)[0])
    assert alone not in {one.row for one in judge_labels(class_mean_logits(x, labels, 12), labels).suspects}


def test_labels_drawn_from_the_probabilities_are_no_suspects() -> None:
    """Where classes overlap, a right label may be improbable: there are as many as there must be."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(4000, 12)) * 1.5
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (probabilities.cumsum(1) > generator.random((4000, 1))).argmax(1)
    assert (probabilities.argmax(1) != labels).mean() > 0.4
    judgment = judge_labels(5 * logits, labels)
    assert len(judgment.suspects) < 10
    assert 0.17 < judgment.scale < 0.24  # a fifth


def test_near_duplicates_with_different_labels() -> None:
    x, labels = features()
    near = x[5] + 0.02 * np.random.default_rng(1).normal(size=x.shape[1])
    twice = np.concatenate([x, [near, near]]), np.concatenate([labels, [0, 9]])
    assert near_duplicates(*twice) == [(5, len(labels) + 1)] or near_duplicates(*twice) == [
        (len(labels), len(labels) + 1)
    ]
    assert near_duplicates(x, labels) == []


def test_a_class_under_two_names() -> None:
    x, labels = features()
    assert same_classes(class_mean_logits(x, labels, 12), labels) == []
    rows = np.flatnonzero(labels == 2)
    split = labels.copy()
    split[np.random.default_rng(0).permutation(rows)[:50]] = 12
    ((one, other, area),) = same_classes(class_mean_logits(x, split, 13), split)
    assert (one, other) == (2, 12)
    assert area < 0.7


def test_a_model_that_tells_nothing_merges_no_classes() -> None:
    logits = np.random.default_rng(0).normal(size=(600, 12))
    assert same_classes(logits, np.repeat(np.arange(12), 50)) == []


def test_the_prior_of_a_model_trained_without_one_is_taken_off() -> None:
    """Logits of cross-entropy carry the log of the class counts: rare classes would be suspected for being rare."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(COUNTS)), 20)
    logits = generator.normal(size=(len(labels), len(COUNTS)))
    logits[np.arange(len(labels)), labels] += 6
    logits[3, [0, 7]] += [-6, 6]
    plain = judge_labels(logits, labels, 1.0)
    assert [(one.row, one.suggested) for one in plain.suspects] == [(3, 7)]
    biased = judge_labels(logits + 2 * np.log(COUNTS), labels, 1.0)
    corrected, odds = find_suspects(biased.predictions, np.square(COUNTS))
    assert [(one.row, one.suggested) for one in corrected] == [(3, 7)]
    assert [one.row for one in biased.suspects] != [3]
    np.testing.assert_allclose(odds[:20], plain.odds[:20], rtol=1e-3)
