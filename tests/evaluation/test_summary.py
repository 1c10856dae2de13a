"""The sentence on what a model is good and bad at claims what the images show, and nothing else."""

import numpy as np
import pytest

from paco_hf.evaluation.analysis import evaluate_logits

COUNTS = [300, 200, 60, 40, 9, 5]


def sentence(
    accuracy: list[float],
    counts: list[int] | None = None,
    images: int = 100,
    confidence: float | None = None,
    names: list[str] | None = None,
) -> str:
    """Of a model with this accuracy on each class, which takes the rest for the class before, and is everywhere as
    confident as it says (by default as confident as it is right)."""
    classes = len(accuracy)
    labels = np.repeat(np.arange(classes), images)
    right = np.concatenate([np.arange(images) < round(share * images) for share in accuracy])
    predicted = np.where(right, labels, (labels - 1) % classes)
    sure = np.asarray(accuracy)[labels] if confidence is None else np.full(labels.size, confidence)
    sure = np.clip(sure, 1.01 / classes, 0.999)
    logits = np.tile(np.log((1 - sure) / max(classes - 1, 1))[:, None], (1, classes))
    logits[np.arange(labels.size), predicted] = np.log(sure)
    names = names or [f"c{i}" for i in range(classes)]
    results = evaluate_logits(logits, labels, class_names=names, class_counts=counts, resamples=200)
    text: str = results["summary"]
    assert text.endswith(".")
    assert text.count(". ") == 0
    return text


def test_what_it_is_good_and_bad_at() -> None:
    assert sentence([0.95, 0.93, 0.9, 0.9, 0.6, 0.5], COUNTS, confidence=0.85) == (
        "The model classifies 79.7% of 600 images correctly, does better on frequent classes than on rare classes "
        '(94.0% with more than 100 training images, 55.0% with fewer than 20), most often takes "c5" for "c4" '
        "(50 of 100 images), and is 30.0 points too confident on rare classes."
    )


def test_rare_classes_may_do_better() -> None:
    text = sentence([0.5, 0.5, 0.7, 0.7, 0.9, 0.9], COUNTS)
    assert "does better on rare classes than on frequent classes (50.0% with more than 100" in text
    assert "too" not in text


@pytest.mark.parametrize("rare", [0.79, 0.72])
def test_no_difference_is_claimed_within_the_intervals(rare: float) -> None:
    text = sentence([0.8, 0.8, 0.8, 0.8, rare, rare], COUNTS)
    assert "shows no clear difference between frequent classes and rare classes (80.0% with more than 100" in text
    assert "better" not in text


def test_groups_that_are_empty_are_not_named() -> None:
    no_few = sentence([0.95, 0.95, 0.6, 0.6], [300, 200, 60, 40])
    assert "on frequent classes than on medium-frequent classes (95.0% with more than 100 training images" in no_few
    assert "60.0% with 20 to 100)" in no_few
    assert "rare" not in no_few
    for counts in ([300] * 4, None):
        text = sentence([0.95, 0.95, 0.6, 0.6], counts)
        assert text.startswith("The model classifies 77.5% of 400 images correctly and most often takes")
        assert "classes" not in text


def test_confidence() -> None:
    even = [0.8] * 6
    assert sentence(even, COUNTS, confidence=0.95).endswith("and is 15.0 points too confident.")
    assert sentence(even, COUNTS, confidence=0.6).endswith("and is 20.0 points too cautious.")
    assert sentence(even, COUNTS, confidence=0.815).endswith("of 100 images).")  # within the interval of the accuracy


def test_perfect() -> None:
    assert sentence([1.0] * 6, COUNTS) == "The model classifies all 600 images correctly."
    cautious = "The model classifies all 600 images correctly and is 40.0 points too cautious."
    assert sentence([1.0] * 6, COUNTS, confidence=0.6) == cautious


def test_few_images_are_said_to_show_little() -> None:
    text = sentence([1.0] * 6, COUNTS, images=8)
    assert text.startswith("The model classifies all 48 images correctly")
    assert text.endswith("; with so few images the true accuracy may be as low as 92.6%; few: 79.4%.")
    text = sentence([0.95, 0.93, 0.9, 0.9, 0.6, 0.5], COUNTS, images=12)
    assert "; with so few images the true accuracy may be as low as" in text
    assert "with so few" not in sentence([1.0] * 4, [300, 200, 60, 40], images=100)


def test_one_mistake_is_not_rounded_away() -> None:
    assert sentence([1.0] * 5 + [0.9995], COUNTS, images=2000).startswith("The model classifies 99.99% of 12,000 ")


@pytest.mark.parametrize(
    ("accuracy", "guess"), [([0.17] * 6, "16.7%"), ([1.0, 0, 0, 0, 0], "20.0%"), ([0.0] * 6, "16.7%")]
)
def test_guessing(accuracy: list[float], guess: str) -> None:
    text = sentence(accuracy, COUNTS[: len(accuracy)])
    assert text.startswith(
        f"The model is no better than guessing among {len(accuracy)} classes: its balanced accuracy is"
    )
    assert text.endswith(f"that of a guess {guess}.")


@pytest.mark.parametrize("accuracy", [[1.0, 1.0], [1.0, 0.5, 0.5], [0.5] * 6])
def test_few_images_show_nothing(accuracy: list[float]) -> None:
    text = sentence(accuracy, COUNTS[: len(accuracy)], images=2)
    assert text.startswith("The test is too small to show what the model is good or bad at: after")


def test_a_single_class() -> None:
    text = "The images are all of one class, so the scores do not show what the model is good or bad at."
    assert sentence([1.0], [300]) == text


def test_confusions_of_a_few_images_are_not_named() -> None:
    assert "most often takes" not in sentence([0.97, 0.97, 0.96, 0.97, 0.97, 0.97], COUNTS)
    names = ["a", "b", "c", "d", " ", "f"]
    assert 'takes "class 4" for "d" (40 of 100 images)' in sentence([0.97] * 4 + [0.6, 0.9], COUNTS, names=names)
