"""What a model is good and bad at, in one sentence, from the numbers of an evaluation."""

from collections.abc import Mapping
from typing import Any

from ..metrics import GROUP_SIZES, GROUPS
from ..utils.text import percent as _percent

TOO_WIDE = 0.2  # an interval of the balanced accuracy from which nothing is concluded
CONFUSED_IMAGES = 5  # the fewest of a confusion that is named
FEW_IMAGES = 30  # of rare classes, below which the sentence says how low the accuracy may be
SURE = 0.99  # the lower end of an accuracy, where all images are right, from which it does not
CONFIDENCE_GAP = 0.02  # the smallest difference of confidence and accuracy that is named

_CLASSES = {"many": "frequent classes", "medium": "medium-frequent classes", "few": "rare classes"}
_SIZES = {name: size.removesuffix(" images") for name, size in GROUP_SIZES.items()}


def summarize(results: Mapping[str, Any]) -> str:
    """One sentence on what the model does well and badly. It claims no difference that the test images do not show.

    Args:
        results (mapping): what [`paco_hf.evaluation.analysis.evaluate_logits`] returns.
    """
    images, classes = f"{results['images']:,}", len(results["class_names"])
    accuracy, balanced = results["metrics"]["accuracy"]["value"], results["metrics"]["balanced_accuracy"]
    interval = f"{100 * balanced['low']:.1f} to {_percent(balanced['high'])}"
    if sum(row["test_images"] > 0 for row in results["per_class"]) == 1:
        return "The images are all of one class, so the scores do not show what the model is good or bad at."
    if balanced["high"] - balanced["low"] > TOO_WIDE:
        return (
            f"The test is too small to show what the model is good or bad at: after {images} images, its balanced "
            f"accuracy may be anywhere from {interval}."
        )
    if balanced["low"] <= 1 / classes:
        return (
            f"The model is no better than guessing among {classes:,} classes: its balanced accuracy is "
            f"{_percent(balanced['value'])} ({interval}), that of a guess {_percent(1 / classes)}."
        )
    parts = [f"classifies {'all' if accuracy == 1 else f'{_percent(accuracy)} of'} {images} images correctly"]
    parts += [*(_groups(results["metrics"]) if accuracy < 1 else ()), *_confusion(results), *_confidence(results)]
    text = " and ".join(parts) if len(parts) < 3 else f"{', '.join(parts[:-1])}, and {parts[-1]}"
    return f"The model {text}{_caution(results)}."


def _caution(results: Mapping[str, Any]) -> str:
    """How low the accuracy may be, where there are few images of rare classes or all are right by chance."""
    metrics, groups = results["metrics"], results["calibration"]["groups"]
    accuracy, few = metrics["accuracy"], metrics.get("few")
    is_small = bool(few and groups["few"]["images"] < FEW_IMAGES)
    if not is_small and (accuracy["value"] < 1 or accuracy["low"] > SURE):
        return ""
    rare = f"; few: {_percent(few['low'])}" if few and is_small else ""
    return f"; with so few images the true accuracy may be as low as {_percent(accuracy['low'])}{rare}"


def _groups(metrics: Mapping[str, Any]) -> list[str]:
    """The most frequent group of classes against the rarest; a difference where their intervals are apart."""
    present = [name for name in GROUPS if metrics.get(name)]
    if len(present) < 2:
        return []
    frequent, rare = present[0], present[-1]
    better, worse = (rare, frequent) if metrics[rare]["low"] > metrics[frequent]["high"] else (frequent, rare)
    figures = (
        f"{_percent(metrics[frequent]['value'])} with {_SIZES[frequent]} training images, "
        f"{_percent(metrics[rare]['value'])} with {_SIZES[rare]}"
    )
    if metrics[better]["low"] > metrics[worse]["high"]:
        return [f"does better on {_CLASSES[better]} than on {_CLASSES[worse]} ({figures})"]
    return [f"shows no clear difference between {_CLASSES[frequent]} and {_CLASSES[rare]} ({figures})"]


def _confusion(results: Mapping[str, Any]) -> list[str]:
    """The confusion with the largest share of the true class's images, of those that are more than a few images."""
    for row in results["confusions"]:
        if row["images"] >= CONFUSED_IMAGES:
            ends = [results["class_names"][row[end]].strip() or f"class {row[end]}" for end in ("true", "predicted")]
            total = results["per_class"][row["true"]]["test_images"]
            return [f'most often takes "{ends[0]}" for "{ends[1]}" ({row["images"]:,} of {total:,} images)']
    return []


def _confidence(results: Mapping[str, Any]) -> list[str]:
    """Where the mean confidence is further from the accuracy than the interval of the accuracy reaches."""
    calibration, gaps = results["calibration"], {}
    whole = "balanced_accuracy" if calibration["weighted"] else "accuracy"
    for name, group in calibration["groups"].items():
        metric = results["metrics"].get(whole if name == "overall" else name)
        if group and metric:
            gap = group["confidence"] - group["accuracy"]
            reach = metric["high"] - metric["value"] if gap > 0 else metric["value"] - metric["low"]
            if abs(gap) > max(CONFIDENCE_GAP, reach):
                gaps[name] = gap
    if not gaps:
        return []
    name = max(gaps, key=lambda key: abs(gaps[key]))
    if "overall" in gaps and abs(gaps[name] - gaps["overall"]) <= CONFIDENCE_GAP:
        name = "overall"
    where = f" on {_CLASSES[name]}" if name in _CLASSES else ""
    return [f"is {100 * abs(gaps[name]):.1f} points too {'confident' if gaps[name] > 0 else 'cautious'}{where}"]
