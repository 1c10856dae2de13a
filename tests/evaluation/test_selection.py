"""What inputs and settings are chosen by."""

import numpy as np
import pytest
import scipy.optimize
from sklearn.metrics import log_loss
from tiny_trainer import make_model

from paco_hf.arguments.training_args import PaCoTrainingArguments
from paco_hf.evaluation.selection import (
    CLASSES,
    IMAGES,
    SHARPNESS,
    balanced_log_loss,
    class_mean,
    leave_one_out,
    most_alike,
    same_images,
    small_sample,
)
from paco_hf.evaluation.temperature import fit_temperature
from paco_hf.inference.features import Embeddings
from paco_hf.trainer import cross_validation
from paco_hf.trainer.cross_validation import HeadSettings


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def test_each_image_is_told_by_the_others() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([0] * 7 + [1] * 4 + [2] * 2)
    features = rng.normal(size=(13, 5)) + np.eye(5)[labels]
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = []
    for i in range(len(labels)):
        rest = np.delete(np.arange(len(labels)), i)
        means = np.stack([unit[rest][labels[rest] == c].mean(0) for c in range(3)])
        cosines.append(unit[i] @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T)
    expected = [-np.log(softmax(s * np.array(cosines))[np.arange(13), labels]) for s in SHARPNESS]
    balanced = [np.mean([one[labels == c].mean() for c in range(3)]) for one in expected]
    assert np.allclose(leave_one_out(features, labels), expected[int(np.argmin(balanced))])


def test_copies_are_left_out_with_an_image(monkeypatch) -> None:
    monkeypatch.setattr("paco_hf.evaluation.selection.SHARPNESS", (10,))
    rng = np.random.default_rng(0)
    labels = np.repeat(range(4), 6)
    features = rng.normal(size=(24, 8))
    copied, theirs = np.concatenate([features, features[:3], features[:1]]), np.concatenate([labels, labels[:3], [1]])
    losses = leave_one_out(copied, theirs)
    # The first image is told by the means of what is no copy of it, in its class; the copy in the other class stays.
    rest = np.delete(np.arange(28), [0, 24])
    unit = copied / np.linalg.norm(copied, axis=1, keepdims=True)
    means = np.stack([unit[rest][theirs[rest] == c].mean(0) for c in range(4)])
    cosines = unit[0] @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    assert losses[0] == pytest.approx(-np.log(softmax(10 * cosines[None])[0, 0]))
    assert losses[0] == pytest.approx(losses[24])


def test_the_image_that_each_is_most_like(monkeypatch) -> None:
    rng = np.random.default_rng(4)
    features = rng.normal(size=(300, 32)) + 6
    rows = rng.permutation(300)[:200]
    near = features[rows] * rng.uniform(0.5, 2, (200, 1)) + 0.2 * rng.normal(size=(200, 32))
    monkeypatch.setattr("paco_hf.evaluation.selection._BLOCK", 1000)
    assert (most_alike(near.astype(np.float16), features) == rows).mean() > 0.95


def test_images_that_are_the_same() -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(5000, 32)).astype(np.float32) + 4  # all in much the same direction
    rows = rng.permutation(5000)
    features[rows[:100]] = features[rows[100:200]] * (1 + 1e-6)
    features[rows[300:400]] = features[rows[200]]  # more than a few
    copies = same_images(features)
    assert np.array_equal(copies[rows[:100]], copies[rows[100:200]])
    assert len(set(copies[rows[300:400]]) | {copies[rows[200]]}) == 1
    assert len(set(copies)) == 4800
    assert np.array_equal(copies[copies], copies)
    labels = np.zeros(5000, dtype=int)
    labels[rows[:50]] = 1
    assert len(set(same_images(features, labels))) == 4850
    assert same_images(features[:1]).tolist() == [0]


def test_an_error_of_pairs_is_that_of_resampled_images() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], [300, 100])
    values = rng.normal(size=400)
    mean, error = class_mean(values, labels)
    assert mean == pytest.approx((values[:300].mean() + values[300:].mean()) / 2)
    drawn = []
    for _ in range(3000):  # within classes
        rows = np.concatenate([rng.integers(0, 300, 300), rng.integers(300, 400, 100)])
        drawn.append(class_mean(values[rows], labels)[0])
    assert error == pytest.approx(np.std(drawn), rel=0.15)


@pytest.mark.parametrize("counts", [None, [20, 5, 2]])
def test_log_loss_at_the_best_temperature(counts: list[int] | None) -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1, 2], [20, 5, 2])
    logits = (rng.normal(size=(27, 3)) + 2 * np.eye(3)[labels]) * 5
    prior = np.log(np.array(counts) / 27) if counts else 0
    weights = 1 / np.bincount(labels)[labels]

    def loss(temperature: float) -> float:
        return log_loss(labels, softmax(logits / temperature - prior), sample_weight=weights)

    best = scipy.optimize.minimize_scalar(loss, bounds=(0.1, 50), method="bounded", options={"xatol": 1e-9})
    assert fit_temperature(logits, labels, counts, balanced=True) == pytest.approx(best.x, rel=1e-4)
    assert balanced_log_loss(logits, labels, counts) == pytest.approx(best.fun, rel=1e-6)


def test_settings_whose_log_loss_is_no_number_are_not_chosen(monkeypatch, tmp_path) -> None:
    labels, model = np.repeat(np.arange(5), 4), make_model("cifar_resnet20")
    features = np.random.default_rng(4).normal(size=(20, 64)).astype(np.float32)
    embeddings = Embeddings(features, labels, None, list("abcde"))
    args = PaCoTrainingArguments(output_dir=str(tmp_path), loss="ce", per_device_train_batch_size=4, max_steps=1)
    candidates = [HeadSettings(rate, 0.0, 25.0) for rate in (0.3, 0.1, 0.2)]
    losses = iter([float("nan"), 0.7, float("nan")])
    monkeypatch.setattr(cross_validation, "balanced_log_loss", lambda *a, **k: next(losses))
    result = cross_validation.cross_validate(model, args, embeddings, candidates, 2, centers=None)
    assert result.settings == candidates[1]
    assert [loss for loss, _ in result.scores.values()] == [float("inf"), 0.7, float("inf")]


@pytest.mark.parametrize(("classes", "per_class"), [(3, 500), (40, 30), (1000, 3), (2, 2)])
def test_a_small_sample_has_all_classes_alike(classes: int, per_class: int) -> None:
    labels = [*np.repeat(np.arange(classes), per_class).tolist(), classes]  # one class of one image
    rows = small_sample(labels, seed=3)
    counts = np.bincount(np.asarray(labels)[rows], minlength=classes + 1)
    assert len(rows) <= max(IMAGES * 1.25, 2 * min(classes, CLASSES))
    assert set(counts[counts > 0]) == {min(per_class, max(-(-IMAGES // min(classes, CLASSES)), 2))}
    assert (counts > 0).sum() == min(classes, CLASSES)
    assert counts[-1] == 0
    assert rows.tolist() == small_sample(labels, seed=3).tolist()


def test_classes_of_one_image_say_nothing() -> None:
    with pytest.raises(ValueError, match="each has one"):
        small_sample([0, 1, 2])
