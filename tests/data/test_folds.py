"""Folds of cross-validation."""

import numpy as np
import pytest

from paco_hf.data.long_tail import stratified_folds


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_hold_each_image_out_once(folds: int) -> None:
    labels = [0] * 23 + [1] * 5 + [2] * 3 + [3] * 2 + [4]
    fold_of = stratified_folds(labels, folds, seed=1)
    assert fold_of[-1] == -1  # always trained on
    assert (fold_of[:-1] >= 0).all()
    for c, count in enumerate([23, 5, 3, 2]):
        held = np.bincount(fold_of[np.asarray(labels) == c], minlength=folds)
        assert held.max() - held.min() <= 1
        assert (held > 0).sum() == min(count, folds)
        assert held.max() < count  # something is left to train on
    sizes = np.bincount(fold_of[fold_of >= 0], minlength=folds)
    assert sizes.max() - sizes.min() <= 1
    assert not np.array_equal(fold_of, stratified_folds(labels, folds, seed=2))


def test_copies_are_held_out_together() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [2] * 2)
    copies = np.array([0, 0, 2, 2, 2, 5, 6, 6, 8, 9, 9])
    fold_of = stratified_folds(labels, 3, copies=copies)
    assert np.array_equal(fold_of, fold_of[copies])
    assert sorted(fold_of[[0, 2, 5]]) == [0, 1, 2]
    assert (fold_of[9:] == -1).all()  # all of them the same image: nothing else is left to train on
    with pytest.raises(ValueError, match="each has one"):
        stratified_folds([0, 0, 1], 2, copies=np.array([0, 0, 2]))


@pytest.mark.parametrize(("labels", "folds", "message"), [([0, 1, 2], 5, "each has one"), ([0, 0], 1, "got 1")])
def test_folds_that_cannot_be(labels: list[int], folds: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stratified_folds(labels, folds)
