"""The metrics against the reference's shot accuracy and worked examples."""

from pathlib import Path

import numpy as np
import pytest
from conftest import golden

import paco_hf
from paco_hf.metrics import long_tailed_accuracy


def test_shots_equal_the_reference() -> None:
    tensors, _ = golden("shot_acc.safetensors")
    result = long_tailed_accuracy(tensors["preds"].numpy(), tensors["labels"].numpy(), tensors["train_counts"].numpy())
    expected = tensors["many_med_few"].tolist()
    assert [result["many"], result["medium"], result["few"]] == pytest.approx(expected, abs=1e-12)
    assert result["accuracy"] == pytest.approx(tensors["top1"].item(), abs=1e-12)
    assert result["per_class"] == pytest.approx(tensors["per_class"].tolist(), abs=1e-12)


def test_empty_group_is_none_not_zero() -> None:
    tensors, _ = golden("shot_acc.safetensors")
    names = ("all_many_preds", "all_many_labels", "all_many_train_counts")
    result = long_tailed_accuracy(*(tensors[name].numpy() for name in names))
    assert result["many"] == pytest.approx(tensors["all_many_result"][0].item(), abs=1e-12)
    assert result["medium"] is None
    assert result["few"] is None


def test_worked_example() -> None:
    # Class 0 is right 1 of 2 times, class 1 always, class 3 never; class 2 has no reference.
    result = long_tailed_accuracy([0, 1, 1, 0], [0, 0, 1, 3], [101, 100, 50, 19])
    assert result["accuracy"] == 0.5
    assert result["balanced_accuracy"] == pytest.approx(0.5)
    assert (result["many"], result["medium"], result["few"]) == (0.5, 1.0, 0.0)
    assert result["per_class"] == [0.5, 1.0, None, 0.0]
    assert result["worst_class"] == {"class": 3, "accuracy": 0.0}
    assert result["harmonic_mean"] == result["geometric_mean"] == 0.0
    better = long_tailed_accuracy([0, 1, 1], [0, 0, 1], [101, 100])
    assert better["harmonic_mean"] == pytest.approx(2 / 3)
    assert better["geometric_mean"] == pytest.approx(0.5**0.5)


def test_bounds_of_the_groups_are_theirs() -> None:
    result = long_tailed_accuracy([0, 1, 2, 3], [0, 1, 2, 3], [101, 100, 20, 19])
    assert [result[group] for group in ("many", "medium", "few")] == [1.0, 1.0, 1.0]
    moved = long_tailed_accuracy([0, 1, 2, 3], [0, 1, 2, 3], [101, 100, 20, 19], many=200, few=10)
    assert [moved[group] for group in ("many", "medium", "few")] == [None, 1.0, None]


def test_errors() -> None:
    for arguments, message in (
        (([0, 1], [0], [1, 1]), "one length"),
        (([], [], [1]), "nothing to score"),
        (([2], [0], [1, 1]), r"predictions must be in 0\.\.1"),
        (([0], [-1], [1, 1]), r"references must be in 0\.\.1"),
    ):
        with pytest.raises(ValueError, match=message):
            long_tailed_accuracy(*(np.asarray(a, dtype=int) for a in arguments))


def test_the_same_through_evaluate() -> None:
    import evaluate

    folder = Path(paco_hf.__file__).parent / "evaluate_modules" / "long_tailed_accuracy"
    metric = evaluate.load(str(folder))
    predictions, references, counts = [0, 1, 1, 0], [0, 0, 1, 3], [101, 100, 50, 19]
    result = metric.compute(predictions=predictions, references=references, class_counts=counts)
    assert result == long_tailed_accuracy(predictions, references, counts)
