"""The HTML report of an evaluation: one page that needs nothing but itself, and the same figures as PNGs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..metrics import FEW_SHOT, GROUP_SIZES, MANY_SHOT, TITLES, shots
from .html_page import number, percent, picture, points, span, svg, write_page
from .plots import CAPTIONS, COUNTS_NAME, FREQUENCY_NAME, PRIOR_NAME, RELIABILITY_NAME, figures, prior_order

REPORT_NAME = "report.html"
LISTED = 50  # classes in the page's last table, where there are more than twice as many

# What the page calls each figure.
_FIGURES = {
    FREQUENCY_NAME: "frequency",
    COUNTS_NAME: "counts",
    RELIABILITY_NAME: "reliability",
    PRIOR_NAME: "priors",
}

NO_COUNTS = (
    "Left out: the model does not say how many training images each class had (class_counts in its configuration), "
    "so its classes have no order from frequent to rare."
)

# How each score of the first table is written, and what it is.
_HEADLINE: dict[str, tuple[Callable[[float | None], str], str]] = {
    "accuracy": (percent, "share of the test images that are classified right"),
    "balanced_accuracy": (percent, "mean of the classes' accuracies: each class counts alike"),
    "many": (percent, f"balanced accuracy of the classes with more than {MANY_SHOT} training images"),
    "medium": (percent, f"of those with {FEW_SHOT} to {MANY_SHOT} training images"),
    "few": (percent, f"of those with fewer than {FEW_SHOT} training images"),
    "worst_10_percent": (percent, "mean accuracy of the tenth of the classes that do worst"),
    "head_tail_gap": (points, "accuracy of many minus that of few: 0 where rare classes do as well"),
    "harmonic_mean": (percent, "of the classes' accuracies; 0 if a class is never right"),
    "geometric_mean": (percent, "of the classes' accuracies; 0 if a class is never right"),
    "ece": (percent, "how far confidence and accuracy are apart (expected calibration error)"),
    "nll": (number, "mean negative logarithm of the true class's probability; lower is better"),
    "brier": (number, "squared error of the probabilities, 0 to 2; lower is better"),
}


def write_report(
    results: Mapping[str, Any], folder: str | Path, examples: Mapping[int, Sequence[tuple[Image.Image, str]]]
) -> Path:
    """Write `report.html` and its figures as PNGs into a folder.

    Args:
        results (mapping): what `results.json` holds.
        folder (path): made where it does not exist.
        examples (mapping): for the worst classes, by class, images and what each was taken for.

    Returns:
        path of the page.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    counts, calibration = results["class_counts"], results["calibration"]
    dataset, split = results["dataset"], results["split"]
    return write_page(
        "report.html",
        folder / REPORT_NAME,
        **{key: results[key] for key in ("model", "dataset", "images", "confidence")},
        class_names=[name.strip() or f"class {i}" for i, name in enumerate(results["class_names"])],
        scored=split if dataset in split else f"{dataset}, {split}",
        class_counts=counts,
        sizes=dict(zip(GROUP_SIZES, shots(counts), strict=True)) if counts else None,
        notes=_notes(results),
        headline=_headline(results["metrics"]),
        groups=_groups(results) if counts else None,
        calibration=calibration,
        bins=calibration["groups"]["overall"]["bins"],
        confusion_groups=_confusion_groups(results["confusion_groups"]),
        tail_to_head=results["tail_to_head"],
        all_confusions=results["confusions"],
        worst=[{**row, "pictures": _pictures(examples.get(row["class"], ()))} for row in results["worst_classes"]],
        priors=prior_order(results["priors"]["rows"]) if results["priors"] else None,
        per_class=_lowest(results["per_class"]),
        figures=_figures(results, folder),
        no_counts=NO_COUNTS,
        many_shot=MANY_SHOT,
        few_shot=FEW_SHOT,
    )


def _notes(results: Mapping[str, Any]) -> list[str]:
    unscored = sum(not row["test_images"] for row in results["per_class"])
    notes = []
    if unscored:
        classes = "1 class has" if unscored == 1 else f"{unscored:,} classes have"
        notes.append(f"{classes} no test image: no accuracy, and not counted in any mean.")
    if results["left_aside"]:
        notes.append(f"These scores leave aside {results['left_aside']}.")
    if not results["calibration"]["balanced"]:
        notes.append(
            "The model was trained without class prior: its logits are for classes as frequent as in training, and "
            "its confidences too."
        )
    return notes


def _headline(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = []
    for name, (write, meaning) in _HEADLINE.items():
        score = metrics.get(name)
        title = TITLES[name].long if name in ("accuracy", "balanced_accuracy") else TITLES[name].short
        value, between = write(score["value"] if score else None), span(score, write)
        rows.append({"name": name, "title": title, "value": value, "between": between, "meaning": meaning})
    return rows


def _groups(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows, calibration = [], results["calibration"]
    for (name, size), classes in zip(GROUP_SIZES.items(), shots(results["class_counts"]), strict=True):
        score, group = results["metrics"].get(name), calibration["groups"].get(name) or {}
        accuracy = score["value"] if score else None
        rows.append(
            {
                "name": name,
                "size": size,
                "classes": classes,
                "images": group.get("images", 0),
                "accuracy": accuracy,
                "part": round(100 * (accuracy or 0), 1),
                "between": span(score),
                "confidence": group.get("confidence"),
                "ece": group.get("ece"),
                "before": ((calibration["uncalibrated"] or {}).get(name) or {}).get("ece"),
            }
        )
    return rows


def _confusion_groups(groups: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not groups:
        return None
    rows = [
        {"name": name, "share": share, "right": right, "parts": [round(100 * part, 1) for part in share or ()]}
        for name, share, right in zip(groups["names"], groups["share"], groups["right"], strict=True)
    ]
    return {"names": groups["names"], "rows": rows}


def _pictures(examples: Sequence[tuple[Image.Image, str]]) -> list[dict[str, str]]:
    return [{"address": picture(image), "caption": f"taken for {caption}"} for image, caption in examples]


def _lowest(per_class: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The classes, lowest accuracy first, those without test images last; of very many the first of them."""
    ordered = sorted(per_class, key=lambda row: 2.0 if row["accuracy"] is None else row["accuracy"])
    return ordered if len(ordered) <= 2 * LISTED else ordered[:LISTED]


def _figures(results: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The figures there are data for, as SVG for the page; each is also written as PNG."""
    shown: dict[str, Any] = dict.fromkeys(_FIGURES.values())
    counts, calibration = results["class_counts"], results["calibration"]
    means = (f"{name} {percent((results['metrics'].get(name) or {}).get('value'))}" for name in GROUP_SIZES)
    before = calibration["uncalibrated"]
    details = {
        FREQUENCY_NAME: f"means: {', '.join(means)}",
        COUNTS_NAME: f"from {max(counts):,} to {min(counts):,}" if counts else "",
        RELIABILITY_NAME: f"calibration error {percent(calibration['groups']['overall']['ece'])}"
        + (f" (without temperature {percent(before['overall']['ece'])})" if before else ""),
        PRIOR_NAME: "the table below has the figures",
    }
    for file, (plot, data) in figures(counts, [row["accuracy"] for row in results["per_class"]], results).items():
        name = _FIGURES[file]
        shown[name] = svg(name, f"{CAPTIONS[file]}; {details[file]}", plot, *data)
        plot(*data, folder / file)
    return shown
