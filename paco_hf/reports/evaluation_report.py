"""The HTML report of an evaluation: one page that needs nothing but itself, and the same figures as PNGs."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from ..data.image_split import describe_split
from ..metrics import FEW_SHOT, GROUP_SIZES, GROUPS, MANY_SHOT, TITLES, shot_group, shots
from ..runs import layout
from ..utils.text import percent
from .html_page import number, picture, points, span, svg, write_page
from .plots import CAPTIONS, figures, prior_order

_SHOWN = ("model", "dataset", "images", "confidence", "class_counts", "metrics", "calibration", "confusion_groups")
LISTED = 50  # classes in the page's last table, where there are more than twice as many

_NAMES = ("counts", "training", "frequency", "reliability", "priors", "risk")  # of the figures, on the page
_FIGURES = dict(zip(layout.FIGURE_NAMES, _NAMES, strict=True))


def write_report(
    results: Mapping[str, Any],
    folder: str | Path,
    pictures: Mapping[int, Image.Image],
    log: Sequence[dict[str, Any]] = (),
) -> Path:
    """Write `report.html` and its figures as PNGs into a folder.

    Args:
        results (mapping): what `results.json` holds.
        folder (path): made where it does not exist.
        pictures (mapping): the images of the worst classes and of the confusions, by their place in the split.
        log (sequence of mappings, *optional*): what `log.jsonl` of the run holds, for the training curve.

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
        folder / layout.REPORT_NAME,
        results=results,
        **{key: results[key] for key in _SHOWN},
        class_names=names,
        scored=describe_split(split) if dataset in split else f"{dataset}, {split}",
        sizes=dict(zip(GROUPS, shots(counts), strict=True)) if counts else None,
        group_sizes=GROUP_SIZES,
        titles=TITLES,
        headline=("accuracy", "balanced_accuracy", "few", "medium", "many", "ece"),
        percent=percent,
        formats={"head_tail_gap": points, "nll": number, "brier": number},
        worst=_shown(results["worst_classes"], names, addresses),
        tail_to_head=_shown(results["tail_to_head"] or (), names, addresses),
        confusions_of_all=_shown(results["confusions"], names, addresses),
        priors=prior_order(results["priors"]["rows"]) if results["priors"] else None,
        per_class=_lowest(results["per_class"]),
        figures=_figures(results, folder, names, log),
        validated=any("eval_accuracy" in entry for entry in log),
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


def _figures(
    results: Mapping[str, Any], folder: Path, class_names: Sequence[str], log: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The figures there are data for, as SVG for the page; each but that of the run is also written as PNG."""
    shown: dict[str, Any] = dict.fromkeys(_FIGURES.values())
    per_class = results["per_class"]
    accuracies = [row["accuracy"] for row in per_class]
    for file, (plot, data) in figures(results["class_counts"], accuracies, results, log).items():
        name = _FIGURES[file]
        shown[name] = svg(name, CAPTIONS[file], plot, *data)
        if file != layout.CURVE_NAME:  # which lies beside the card of the run
            plot(*data, folder / file)
    if shown["frequency"]:
        shown["frequency"] = _titled(shown["frequency"], per_class, class_names)
    return shown


def _titled(drawn: Markup, per_class: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> Markup:
    """The figure of [`paco_hf.reports.plots.plot_accuracy`] with what each point is, in the order that it has."""
    titles = (
        f"{class_names[row['class']]}\ntraining images: {row['train_images']:,}\n"
        f"accuracy: {percent(row['accuracy'])} ({span(row)})\ntest images: {row['test_images']:,}"
        for row in sorted(per_class, key=lambda row: int(shot_group(np.asarray(row["train_images"]))))
        if row["accuracy"] is not None
    )
    # A class of the page takes less room than a style for each point.
    point = r'(<use [^>]*) style="fill: var\(--series-(\d)\); (fill-opacity): ([\d.]+)"/>'
    named = r'\1 class="p\2" \3="\4">'
    return Markup(re.sub(point, lambda m: f"{m.expand(named)}<title>{escape(next(titles))}</title></use>", str(drawn)))
