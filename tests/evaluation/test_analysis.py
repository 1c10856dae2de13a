"""Scores with intervals, calibration, confusions and priors of a labeled split, against independent computations."""

from statistics import fmean

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import brier_score_loss, log_loss

from paco_hf.evaluation.analysis import evaluate_logits
from paco_hf.evaluation.intervals import bootstrap
from paco_hf.evaluation.priors import shifted_prior, softmax
from paco_hf.metrics import GROUPS, expected_calibration_error, long_tailed_accuracy


def problem(n: int = 3000, classes: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Logits that are right more often for the frequent classes, which come first."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(n) % classes)
    logits = generator.standard_normal((n, classes)).astype(np.float32)
    logits[np.arange(n), labels] += np.linspace(3, 0.5, classes)[labels]
    counts = [400, 300, 200, 150, 101, 100, 60, 30, 20, 19, 8, 5][:classes]
    return logits, labels, counts


@pytest.fixture(scope="module")
def results() -> dict:
    logits, labels, counts = problem()
    return evaluate_logits(logits, labels, class_names=[f"c{i}" for i in range(12)], class_counts=counts)


def test_the_numbers_are_those_of_other_implementations(results: dict) -> None:
    logits, labels, counts = problem()
    probabilities = softmax(logits.astype(np.float64))
    value = {name: metric["value"] for name, metric in results["metrics"].items()}
    plain = long_tailed_accuracy(logits.argmax(1), labels, counts)
    for name in ("accuracy", "balanced_accuracy", *GROUPS, "harmonic_mean", "geometric_mean"):
        assert value[name] == pytest.approx(plain[name], abs=1e-12), name
    assert value["nll"] == pytest.approx(log_loss(labels, probabilities), rel=1e-5)
    assert value["brier"] == pytest.approx(
        brier_score_loss(labels, probabilities, labels=range(12), scale_by_half=False), rel=1e-5
    )
    ece = expected_calibration_error(probabilities, labels)["expected_calibration_error"]
    assert value["ece"] == pytest.approx(ece, abs=1e-6)
    assert value["head_tail_gap"] == pytest.approx(plain["many"] - plain["few"])
    # A tenth of 12 classes is one.
    assert value["worst_10_percent"] == pytest.approx(min(plain["per_class"]))


def test_worst_tenth_is_the_mean_of_the_worst_classes() -> None:
    logits, labels, _ = problem(classes=12)
    wide = np.concatenate([logits, np.full((len(logits), 8), -9, np.float32)], axis=1)
    labels = np.concatenate([labels, np.arange(12, 20)])
    wide = np.concatenate([wide, np.zeros((8, 20), np.float32) + np.eye(20, dtype=np.float32)[0]])
    result = evaluate_logits(wide, labels, class_names=list(map(str, range(20))), class_counts=None, resamples=20)
    assert result["metrics"]["worst_10_percent"]["value"] == 0  # two of the eight that are never right
    assert result["metrics"]["harmonic_mean"]["value"] == 0


def test_intervals_contain_the_truth_as_often_as_they_say() -> None:
    """Coverage of the 95 % interval over repeated test sets, for a mean, and for a calibration error, whose plain
    bootstrap is too large."""
    generator = np.random.default_rng(1)
    truth, inside = 0.7, {"accuracy": 0, "ece": 0}
    images = 240
    for _ in range(200):
        right = generator.random(images) < truth
        confidence = np.where(np.arange(images) % 2 == 0, 0.9, 0.75)  # gaps of 0.2 and 0.05

        def statistics(rows: np.ndarray, right: np.ndarray = right, confidence: np.ndarray = confidence) -> dict:
            gaps = [abs((right[rows] - confidence[rows])[confidence[rows] == c].sum()) for c in (0.9, 0.75)]
            return {"accuracy": float(right[rows].mean()), "ece": float(sum(gaps) / len(rows))}

        for name, metric in bootstrap(statistics, images, resamples=200).items():
            expected = truth if name == "accuracy" else 0.125
            inside[name] += metric["low"] <= expected <= metric["high"]
    # 95 % of 200 is 190, with a standard deviation of 3; a bootstrap of 240 images covers a little less.
    assert 178 <= inside["accuracy"] <= 199
    assert 170 <= inside["ece"] <= 199


@pytest.mark.parametrize("truths", ["alike", "apart"])
def test_intervals_of_the_worst_classes_contain_the_truth(truths: str) -> None:
    """Which the images drawn anew do not: of few images a class, the worst classes were mostly unlucky."""
    generator = np.random.default_rng(3)
    names = ("worst_10_percent", "harmonic_mean", "geometric_mean")
    inside = dict.fromkeys(names, 0)
    for _ in range(40):
        accuracy = np.full(30, 0.7) if truths == "alike" else generator.beta(3, 2, 30)
        labels = np.repeat(np.arange(30), 10)
        right = generator.random(300) < accuracy[labels]
        logits = 3 * np.eye(30, dtype=np.float32)[np.where(right, labels, (labels + 1) % 30)]
        metrics = evaluate_logits(
            logits, labels, class_names=list(map(str, range(30))), class_counts=None, resamples=100
        )["metrics"]
        assert all(m is None or m["low"] <= m["value"] <= m["high"] for m in metrics.values())
        expected = (fmean(sorted(accuracy)[:3]), scipy.stats.hmean(accuracy), scipy.stats.gmean(accuracy))
        for name, truth in zip(names, expected, strict=True):
            inside[name] += metrics[name]["low"] <= truth <= metrics[name]["high"]
    assert min(inside.values()) >= 32


def test_calibrated_models_may_have_no_calibration_error() -> None:
    generator = np.random.default_rng(4)
    inside = 0
    for _ in range(30):
        logits = generator.standard_normal((600, 10))
        labels = (softmax(logits).cumsum(1) > generator.random((600, 1))).argmax(1)
        metrics = evaluate_logits(
            logits, labels, class_names="abcdefghij", class_counts=None, logit_counts=[1] * 10, resamples=100
        )["metrics"]
        inside += metrics["ece"]["low"] == 0 < metrics["ece"]["high"]
    assert inside >= 26


def test_classes_count_alike_where_the_test_is_skewed() -> None:
    """Balanced logits are for equally frequent classes: on a skewed test they are scored as if it was not."""
    logits, labels, counts = problem(1200)
    names = list(map(str, range(12)))
    kept = np.concatenate([np.flatnonzero(labels == c)[: (10, 20, 50, 100)[c % 4]] for c in range(12)])
    repeated = np.concatenate([np.repeat(kept[labels[kept] == c], 100 // (10, 20, 50, 100)[c % 4]) for c in range(12)])
    skewed, balanced, as_is = (
        evaluate_logits(logits[rows], labels[rows], class_names=names, class_counts=counts, resamples=5, **settings)
        for rows, settings in ((kept, {}), (repeated, {}), (kept, {"logit_counts": counts}))
    )
    assert (skewed["calibration"]["weighted"], balanced["calibration"]["weighted"]) == (True, False)
    for name in ("ece", "nll", "brier"):
        assert skewed["metrics"][name]["value"] == pytest.approx(balanced["metrics"][name]["value"], rel=1e-6)
    for name in ("overall", *GROUPS):
        one, other = (of["calibration"]["groups"][name] for of in (skewed, balanced))
        assert one["ece"] == pytest.approx(other["ece"], rel=1e-6)
        assert one["accuracy"] == pytest.approx(other["accuracy"], rel=1e-6)
    # Logits that are for other frequencies are scored on the images as they are.
    probabilities = softmax(logits[kept].astype(float))
    assert as_is["metrics"]["nll"]["value"] == pytest.approx(log_loss(labels[kept], probabilities), rel=1e-5)
    ece = expected_calibration_error(probabilities, labels[kept])["expected_calibration_error"]
    assert as_is["metrics"]["ece"]["value"] == pytest.approx(ece, abs=1e-6) != skewed["metrics"]["ece"]["value"]


def test_logits_that_carry_the_training_prior_are_told_another_one() -> None:
    logits, labels, counts = problem()
    names = list(map(str, range(12)))
    carrying = logits + np.log(np.asarray(counts, np.float32))
    plain, theirs = (
        evaluate_logits(z, labels, class_names=names, class_counts=counts, resamples=5, logit_counts=given)
        for z, given in ((logits, None), (carrying, counts))
    )
    for one, other in zip(plain["priors"]["rows"], theirs["priors"]["rows"], strict=True):
        assert one["adapted"] == pytest.approx(other["adapted"])
    assert plain["metrics"]["accuracy"]["value"] > theirs["metrics"]["accuracy"]["value"]


def test_small_test_sets_have_wide_intervals() -> None:
    """A class that is never right, or one image of a class, is no certainty about the next test set."""
    labels = np.repeat(np.arange(6), 8)
    logits = np.eye(6, dtype=np.float32)[np.where(labels == 2, labels, 0)]
    metrics = evaluate_logits(logits, labels, class_names="abcdef", class_counts=[150, 50, 30, 9, 9, 9])["metrics"]
    exact = scipy.stats.binomtest(16, 48).proportion_ci(0.95)
    found = metrics["accuracy"]
    assert (found["low"], found["high"]) == pytest.approx((exact.low, exact.high), abs=0.04)
    assert metrics["few"]["value"] == 0
    assert metrics["few"]["high"] == pytest.approx(scipy.stats.binomtest(0, 24).proportion_ci(0.95).high)


def test_intervals_agree_with_scipy() -> None:
    generator = np.random.default_rng(2)
    right = (generator.random(400) < 0.6).astype(float)
    own = bootstrap(lambda rows: {"mean": float(right[rows].mean())}, 400, resamples=4000)["mean"]
    other = scipy.stats.bootstrap((right,), np.mean, n_resamples=4000, method="BCa", rng=3).confidence_interval
    assert (own["low"], own["high"]) == pytest.approx((other.low, other.high), abs=0.006)


def test_calibration_by_group(results: dict) -> None:
    logits, labels, counts = problem()
    probabilities = softmax(logits)
    of_class = np.asarray(counts)[labels]
    for name, rows in (("overall", of_class > 0), ("many", of_class > 100), ("few", of_class < 20)):
        group = results["calibration"]["groups"][name]
        expected = expected_calibration_error(probabilities[rows], labels[rows])["expected_calibration_error"]
        assert group["ece"] == pytest.approx(expected)
        assert group["images"] == rows.sum() == sum(b["images"] for b in group["bins"])
        assert len(group["bins"]) == 15
        confidence = probabilities[rows].max(1)
        for entry in group["bins"]:
            assert entry["images"] == ((confidence > entry["low"]) & (confidence <= entry["high"])).sum()
            assert (entry["confidence"] is None) == (entry["images"] == 0)
    assert results["calibration"]["uncalibrated"] is None


def test_temperature_changes_probabilities_only() -> None:
    logits, labels, counts = problem()
    names = list(map(str, range(12)))
    plain, cooled = (
        evaluate_logits(logits, labels, class_names=names, class_counts=counts, temperature=t, resamples=10)
        for t in (None, 0.5)
    )
    assert cooled["metrics"]["accuracy"]["value"] == plain["metrics"]["accuracy"]["value"]
    assert cooled["metrics"]["nll"]["value"] == pytest.approx(log_loss(labels, softmax(logits.astype(float) / 0.5)))
    assert cooled["calibration"]["uncalibrated"] == plain["calibration"]["groups"]


def test_confusions(results: dict) -> None:
    logits, labels, counts = problem()
    predicted = logits.argmax(1)
    for entry in results["confusions"] + results["tail_to_head"]:
        times = ((labels == entry["true"]) & (predicted == entry["predicted"])).sum()
        assert entry["images"] == times > 0
        assert entry["share"] == pytest.approx(times / (labels == entry["true"]).sum())
        assert entry["true"] != entry["predicted"]
    shares = [entry["share"] for entry in results["confusions"]]
    assert shares == sorted(shares, reverse=True)
    assert len(shares) == 20
    assert all(counts[e["predicted"]] >= 10 * counts[e["true"]] for e in results["tail_to_head"])
    groups = results["confusion_groups"]
    for i, name in enumerate(GROUPS):
        assert sum(groups["share"][i]) == pytest.approx(1)
        assert groups["right"][i] <= groups["share"][i][i]
        assert groups["right"][i] == pytest.approx(results["calibration"]["groups"][name]["accuracy"])


def test_worst_classes_name_their_surest_mistakes(results: dict) -> None:
    logits, labels, _ = problem()
    predicted, confidence = logits.argmax(1), softmax(logits).max(1)
    accuracies = [entry["accuracy"] for entry in results["worst_classes"]]
    assert accuracies == sorted(accuracies)
    assert len(accuracies) == 10
    for entry in results["worst_classes"]:
        mistakes = np.flatnonzero((labels == entry["class"]) & (predicted != labels))
        surest = sorted(mistakes, key=lambda row: -confidence[row])[:4]
        assert [e["row"] for e in entry["examples"]] == surest
        assert all(e["predicted"] == predicted[e["row"]] for e in entry["examples"])


def test_shifted_priors() -> None:
    counts = np.asarray([5, 500, 50])
    forward, backward = (shifted_prior(counts, 50, direction) for direction in ("forward", "backward"))
    assert forward.argsort().tolist() == [0, 2, 1]
    assert forward.max() / forward.min() == pytest.approx(50)
    assert backward == pytest.approx(forward[[1, 0, 2]])
    assert shifted_prior(counts, 50, "uniform") == pytest.approx([1 / 3] * 3)


def test_adapting_to_a_prior_equals_a_resampled_test_set() -> None:
    """The reweighted accuracies are what a test set drawn with that prior gives."""
    logits, labels, counts = problem(20000)
    results = evaluate_logits(logits, labels, class_names=list(map(str, range(12))), class_counts=counts, resamples=5)
    generator = np.random.default_rng(5)
    images = np.bincount(labels, minlength=12)
    for row in results["priors"]["rows"]:
        prior = shifted_prior(np.asarray(counts), row["ratio"], row["direction"])
        drawn = generator.choice(len(labels), 40000, p=prior[labels] / images[labels])
        as_is, adapted = logits[drawn].argmax(1), (logits[drawn] + np.log(prior)).argmax(1)
        assert (as_is == labels[drawn]).mean() == pytest.approx(row["accuracy"], abs=0.01)
        assert (adapted == labels[drawn]).mean() == pytest.approx(row["adapted"], abs=0.01)


@pytest.mark.parametrize(
    ("counts", "empty"), [(None, GROUPS), ([200] * 12, ("medium", "few")), ([50] * 12, ("many", "few"))]
)
def test_empty_groups_are_none(counts: list[int] | None, empty: tuple[str, ...]) -> None:
    logits, labels, _ = problem(300)
    names = list(map(str, range(12)))
    results = evaluate_logits(logits, labels, class_names=names, class_counts=counts, resamples=10)
    for name in empty:
        assert results["metrics"][name] is None
        assert results["calibration"]["groups"][name] is None
    assert results["metrics"]["head_tail_gap"] is None
    assert (results["priors"] is None) == (counts is None) == (results["tail_to_head"] is None)


def test_intervals_of_the_classes(results: dict) -> None:
    for row in results["per_class"]:
        right = round(row["accuracy"] * row["test_images"])
        interval = scipy.stats.binomtest(right, row["test_images"]).proportion_ci(0.95, method="wilsoncc")
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))


def test_two_classes_one_of_them_untested() -> None:
    results = evaluate_logits([[1.0, 0.0]], [0], class_names=["a", "b"], class_counts=[5, 3], resamples=10)
    assert [results["per_class"][1][name] for name in ("accuracy", "low", "high")] == [None] * 3
    # One image that is right says little: Clopper and Pearson's interval.
    low = scipy.stats.binomtest(1, 1).proportion_ci(0.95).low
    assert results["metrics"]["accuracy"] == {"value": 1.0, "low": pytest.approx(low), "high": 1.0}
    assert results["per_class"][1]["accuracy"] is None
    assert results["priors"]["rows"][0]["accuracy"] == 1


def test_bad_logits_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3\)"):
        evaluate_logits([[1.0, 0.0]], [0], class_names=["a", "b", "c"], class_counts=None)
    with pytest.raises(ValueError, match="image 1 are not finite"):
        evaluate_logits([[1.0, 0.0], [np.nan, 0.0]], [0, 1], class_names=["a", "b"], class_counts=None)
