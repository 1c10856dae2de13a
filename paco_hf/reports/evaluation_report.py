"""The HTML report of an evaluation: one page that needs nothing but itself, and the same figures as PNGs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..metrics import FEW_SHOT, GROUP_SIZES, GROUPS, MANY_SHOT, TITLES, shots
from ..runs.layout import REPORT_NAME
from .html_page import number, percent, picture, points, svg, write_page
from .plots import CAPTIONS, COUNTS_NAME, FREQUENCY_NAME, PRIOR_NAME, RELIABILITY_NAME, RISK_NAME, figures, prior_order

_SHOWN = ("model", "dataset", "images", "confidence", "class_counts", "metrics", "calibration", "confusion_groups")
LISTED = 50  # classes in the page's last table, where there are more than twice as many

# What the page calls each figure.
_FIGURES = {
    FREQUENCY_NAME: "frequency",
    COUNTS_NAME: "counts",
    RELIABILITY_NAME: "reliability",
    PRIOR_NAME: "priors",
    RISK_NAME: "risk",
}


def write_report(results: Mapping[str, Any], folder: str | Path, pictures: Mapping[int, Image.Image]) -> Path:
    """Write `report.html` and its figures as PNGs into a folder.

    Args:
        results (mapping): what `results.json` holds.
        folder (path): made where it does not exist.
        pictures (mapping): the images of the worst classes and of the confusions, by their place in the split.

    Returns:
        path of the page.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    counts, dataset, split = (results[key] for key in ("class_counts", "dataset", "split"))
    names = [name.strip() or f"class {i}" for i, name in enumerate(results["class_names"])]
    addresses = {row: picture(image) for row, image in pictures.items()}
    return write_page(
        "report.html",
        folder / REPORT_NAME,
        results=results,
        **{key: results[key] for key in _SHOWN},
        class_names=names,
        scored=split if dataset in split else f"{dataset}, {split}",
        sizes=dict(zip(GROUPS, shots(counts), strict=True)) if counts else None,
        group_sizes=GROUP_SIZES,
        titles=TITLES,
        percent=percent,
        formats={"head_tail_gap": points, "nll": number, "brier": number},
        worst=_shown(results["worst_classes"], names, addresses),
        tail_to_head=_shown(results["tail_to_head"] or (), names, addresses),
        confusions_of_all=_shown(results["confusions"], names, addresses),
        priors=prior_order(results["priors"]["rows"]) if results["priors"] else None,
        per_class=_lowest(results["per_class"]),
        figures=_figures(results, folder),
        abstention=results.get("abstention"),
        many_shot=MANY_SHOT,
        few_shot=FEW_SHOT,
    )


def _shown(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], addresses: Mapping[int, str]
) -> list[dict[str, Any]]:
    """Rows of results with their examples as pictures."""

    def shown(example: Mapping[str, Any]) -> dict[str, str]:
        taken_for = f"taken for {names[example['predicted']]} ({example['confidence']:.0%})"
        return {"address": addresses[example["row"]], "caption": taken_for, "file": example["file"]}

    return [{**row, "pictures": [shown(e) for e in row["examples"] if e["row"] in addresses]} for row in rows]


def _lowest(per_class: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The classes, lowest accuracy first, those without test images last; of very many the first of them."""
    ordered = sorted(per_class, key=lambda row: 2.0 if row["accuracy"] is None else row["accuracy"])
    return ordered if len(ordered) <= 2 * LISTED else ordered[:LISTED]


def _figures(results: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The figures there are data for, as SVG for the page; each is also written as PNG."""
    shown: dict[str, Any] = dict.fromkeys(_FIGURES.values())
    counts, calibration = results["class_counts"], results["calibration"]
    means = (f"{name} {percent((results['metrics'].get(name) or {}).get('value'))}" for name in GROUPS)
    before = calibration["uncalibrated"]
    details = {
        FREQUENCY_NAME: f"means: {', '.join(means)}",
        COUNTS_NAME: f"from {max(counts):,} to {min(counts):,}" if counts else "",
        RELIABILITY_NAME: f"calibration error {percent(calibration['groups']['overall']['ece'])}"
        + (f" (without temperature {percent(before['overall']['ece'])})" if before else ""),
        PRIOR_NAME: "the table below has the figures",
        RISK_NAME: "the table below has the figures",
    }
    for file, (plot, data) in figures(counts, [row["accuracy"] for row in results["per_class"]], results).items():
        name = _FIGURES[file]
        shown[name] = svg(name, f"{CAPTIONS[file]}; {details[file]}", plot, *data)
        plot(*data, folder / file)
    return shown
