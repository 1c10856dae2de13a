"""The metrics against the reference's shot accuracy, scikit-learn and worked examples."""

import numpy as np
import pytest
from conftest import golden
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, recall_score

from paco_hf.metrics import expected_calibration_error, long_tailed_accuracy

GROUPS = ("many", "medium", "few")
SEEDS = range(8)


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
    assert [result[group] for group in GROUPS] == [1.0, 1.0, 1.0]
    moved = long_tailed_accuracy([0, 1, 2, 3], [0, 1, 2, 3], [101, 100, 20, 19], many=200, few=10)
    assert [moved[group] for group in GROUPS] == [None, 1.0, None]


def test_errors() -> None:
    for arguments, message in (
        (([0, 1], [0], [1, 1]), "the same length"),
        (([], [], [1]), "nothing to score"),
        (([2], [0], [1, 1]), r"predictions must be in 0\.\.1"),
        (([0], [-1], [1, 1]), r"references must be in 0\.\.1"),
    ):
        with pytest.raises(ValueError, match=message):
            long_tailed_accuracy(*(np.asarray(a, dtype=int) for a in arguments))


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, references and class counts; odd seeds leave classes without a reference, or a group empty."""
    generator = np.random.default_rng(seed)
    classes = int(generator.integers(5, 30))
    counts = generator.integers(1, 20 if seed == 7 else 300, classes)
    referenced = np.arange(0, classes, 2 if seed % 2 else 1)
    references = generator.choice(referenced, 400)
    logits = generator.normal(size=(400, classes))
    logits[np.arange(400), references] += generator.uniform(0, 4, 400)
    odds = np.exp(logits)
    return odds / odds.sum(axis=1, keepdims=True), references, counts


def members(counts: np.ndarray) -> dict[str, np.ndarray]:
    return {"many": counts > 100, "medium": (counts >= 20) & (counts <= 100), "few": counts < 20}


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")  # it leaves such classes out, too
@pytest.mark.parametrize("seed", SEEDS)
def test_accuracies_equal_scikit_learn(seed: int) -> None:
    probabilities, references, counts = random_case(seed)
    predictions = probabilities.argmax(axis=1)
    result = long_tailed_accuracy(predictions, references, counts)
    assert result["accuracy"] == pytest.approx(accuracy_score(references, predictions), abs=1e-12)
    present = np.unique(references)
    recall = recall_score(references, predictions, labels=present, average=None)
    assert [result["per_class"][label] for label in present] == pytest.approx(recall, abs=1e-12)
    absent = np.setdiff1d(np.arange(counts.size), present)
    assert [result["per_class"][label] for label in absent] == [None] * absent.size
    assert bool(absent.size) == bool(seed % 2)
    assert result["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(references, predictions), abs=1e-12)
    worst = result["worst_class"]
    assert worst["accuracy"] == pytest.approx(recall.min(), abs=1e-12)
    assert worst["class"] == present[recall.argmin()]
    assert result["geometric_mean"] == pytest.approx(stats.gmean(recall), abs=1e-12)
    assert result["harmonic_mean"] == pytest.approx(stats.hmean(recall), abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_groups_equal_those_of_the_confusion_matrix(seed: int) -> None:
    probabilities, references, counts = random_case(seed)
    predictions = probabilities.argmax(axis=1)
    result = long_tailed_accuracy(predictions, references, counts)
    matrix = confusion_matrix(references, predictions, labels=np.arange(counts.size))
    for name, group in members(counts).items():
        scored = [row[label] / row.sum() for label, row in enumerate(matrix) if group[label] and row.sum()]
        assert result[name] == (pytest.approx(np.mean(scored), abs=1e-12) if scored else None)
    assert (result["many"] is None) == (seed == 7)


def test_classes_without_a_reference_count_nowhere() -> None:
    # The only few-shot class is predicted, but no reference is of it.
    result = long_tailed_accuracy([0, 2, 1], [0, 0, 1], [500, 50, 5])
    assert (result["many"], result["medium"], result["few"]) == (0.5, 1.0, None)
    assert result["per_class"] == [0.5, 1.0, None]
    assert result["balanced_accuracy"] == 0.75
    assert result["worst_class"] == {"class": 0, "accuracy": 0.5}


def scikit_learn_error(probabilities: np.ndarray, references: np.ndarray, n_bins: int) -> float:
    """Expected calibration error from scikit-learn's reliability curve and the sizes of its bins."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == references
    accuracy, mean = calibration_curve(right, confidence, n_bins=n_bins)
    sizes = np.bincount(np.digitize(confidence, np.linspace(0, 1, n_bins + 1)[1:-1], right=True))
    return float((np.abs(accuracy - mean) * sizes[sizes > 0]).sum() / len(references))


@pytest.mark.parametrize("n_bins", [1, 10, 15])
@pytest.mark.parametrize("seed", SEEDS)
def test_calibration_error_equals_scikit_learn(seed: int, n_bins: int) -> None:
    probabilities, references, counts = random_case(seed)
    result = expected_calibration_error(probabilities, references, counts, n_bins=n_bins)
    expected = scikit_learn_error(probabilities, references, n_bins)
    assert result["expected_calibration_error"] == pytest.approx(expected, abs=1e-12)
    for name, group in members(counts).items():
        rows = group[references]
        expected = scikit_learn_error(probabilities[rows], references[rows], n_bins) if rows.any() else None
        assert result[name] == (None if expected is None else pytest.approx(expected, abs=1e-12))
    assert expected_calibration_error(probabilities, references, n_bins=n_bins) == {
        "expected_calibration_error": result["expected_calibration_error"]
    }


def test_calibration_error_of_a_worked_example() -> None:
    # In the bin of 0.75 two of three are right: |2/3 - 3/4| * 3/4; in that of 0.5 one of one: |1 - 1/2| * 1/4.
    rows, references = [[0.75, 0.25], [0.75, 0.25], [0.75, 0.25], [0.5, 0.5]], [0, 0, 1, 0]
    result = expected_calibration_error(rows, references, [500, 5])
    assert result == {
        "expected_calibration_error": pytest.approx(0.1875),
        "many": pytest.approx(1 / 3),
        "medium": None,
        "few": pytest.approx(0.75),
    }
    assert expected_calibration_error([[1, 0], [0, 1]], [0, 1]) == {"expected_calibration_error": 0.0}
    assert expected_calibration_error([[1, 0], [0, 1]], [1, 0]) == {"expected_calibration_error": 1.0}


@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_a_bin_has_its_upper_bound(precision: type) -> None:
    # Bins of 1/15: 12/15 closes the twelfth; a confidence above it is in the thirteenth.
    rows = np.array([[0.8, 0.2], [0.79, 0.21], [0.81, 0.19]], dtype=precision)
    together = expected_calibration_error(rows[:2], [0, 1])
    assert together["expected_calibration_error"] == pytest.approx(abs(1 / 2 - 0.795), abs=1e-6)
    apart = expected_calibration_error(rows[[0, 2]], [0, 1])
    assert apart["expected_calibration_error"] == pytest.approx((0.2 + 0.81) / 2, abs=1e-6)


@pytest.mark.parametrize(("precision", "near"), [(np.float16, 2e-2), (np.float32, 1e-6)])
def test_low_precision_still_sums_to_one(precision: type, near: float) -> None:
    generator = np.random.default_rng(0)
    odds = np.exp(generator.normal(size=(200, 1000)) * 4)
    rows, references = odds / odds.sum(axis=1, keepdims=True), generator.integers(0, 1000, 200)
    exact = expected_calibration_error(rows, references)["expected_calibration_error"]
    lower = expected_calibration_error(rows.astype(precision), references)["expected_calibration_error"]
    assert lower == pytest.approx(exact, abs=near)


HALF = [[0.5, 0.5]]


@pytest.mark.parametrize(
    ("probabilities", "references", "options", "message"),
    [
        (HALF, [0], {"n_bins": 0}, r"n_bins must be at least 1, such as 15, got 0"),
        ([], [], {}, "nothing to score"),
        ([0, 1], [0, 1], {}, r"got \(2,\) and \(2,\): pass one row"),
        (HALF, [0, 1], {}, r"got \(1, 2\) and \(2,\)"),
        (HALF, [[0]], {}, r"got \(1, 2\) and \(1, 1\)"),
        ([[]], [0], {}, r"got \(1, 0\) and \(1,\)"),
        ([[0.5, 0.5], [1.0]], [0, 1], {}, "one column for each class in every row"),
        ([*HALF, [float("nan"), 1.0]], [0, 1], {}, "NaN in row 1"),
        ([*HALF, [-0.5, 1.5]], [0, 1], {}, r"values from -0\.5 to 1\.5 that sum to 1 in row 1: logits need a softmax"),
        ([[0.5, 1.5]], [0], {}, r"values from 0\.5 to 1\.5 that sum to 2 in row 0"),
        ([[0.5, 0.4]], [0], {}, r"sum to 0\.9 in row 0"),
        ([[float("inf"), 0.0]], [0], {}, "sum to inf in row 0"),
        (HALF, [0.0], {}, "integers, got float64"),
        (HALF, [2], {}, r"references must be in 0\.\.1 \(probabilities has 2 columns\), got 2 to 2"),
        (HALF, [-1], {}, r"got -1 to -1"),
        (HALF, [0], {"class_counts": [1, 2, 3]}, r"each of the 2 columns of probabilities, got shape \(3,\)"),
    ],
)
def test_calibration_errors_that_are_refused(
    probabilities: list, references: list, options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(probabilities, references, **options)
