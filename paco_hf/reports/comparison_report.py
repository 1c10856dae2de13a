"""A comparison of runs as text and as a page."""

from pathlib import Path
from typing import Any

from ..data.image_split import describe_split
from ..metrics import HEADLINE, TITLES
from ..utils.hub_names import short
from .html_page import svg, write_page
from .plots import plot_curves
from .run_comparison import EVALUATION_SCORES

FRACTIONS = {*HEADLINE, "worst_10_percent", "ece"}


def _written(spread: dict[str, Any] | None, name: str) -> str:
    if spread is None:
        return "-"
    factor, digits = (100, 1) if name in FRACTIONS else (1, 3)
    mean, sd = spread["mean"], spread["sd"]
    return f"{factor * mean:.{digits}f}" + ("" if sd is None else f" ± {factor * sd:.{digits}f}")


def _time(spread: dict[str, Any] | None) -> str:
    if spread is None:
        return "not recorded"
    units = {"h": 1, "min": 60, "s": 3600}
    unit, factor = next((u for u in units.items() if u[1] * spread["mean"] >= 1), ("s", 3600))
    return f"{factor * spread['mean']:.1f} {unit}" + (f" ± {factor * spread['sd']:.1f}" if spread["sd"] else "")


def _cost(cost: dict[str, Any]) -> str:
    before = {"features": cost["feature_hours"], "folds": cost["cross_validation_hours"]}
    return " + ".join([_time(cost["hours"]), *(f"{_time(spent)} {what}" for what, spent in before.items() if spent)])


def revision_texts(group: dict[str, Any]) -> dict[str, str]:
    """What a group's runs were trained on and started from, with the commit, or of a file the hash."""
    texts = {}
    for what, entries in group["revisions"].items():
        parts = [
            f"{one['repository']} at {short(str(one['commit']))}"
            if "repository" in one
            else f"{one['file']} ({one['sha256'][:7]})"
            for one in entries
        ]
        if parts:
            texts[what] = ", ".join(parts)
    return texts


def paired_lines(pair: dict[str, Any]) -> list[str]:
    """A paired difference of [`compare_runs`] in words, a score a line, in points of percent."""
    lines = []
    for name, over_seeds in pair["scores"].items():
        if over_seeds is None:
            continue
        values = ", ".join(f"{100 * value:+.1f}" for value in over_seeds["values"])
        text = f"{TITLES[name].short} {100 * over_seeds['mean']:+.1f}"
        if over_seeds["sd"] is not None:
            text += f" ± {100 * over_seeds['sd']:.1f} ({values}); over seeds {_between(over_seeds)}"
        if images := pair["images"] and pair["images"].get(name):
            text += f"; over test images {_between(images)}"
        lines.append(text)
    return lines


def _between(interval: dict[str, float]) -> str:
    return f"{100 * interval['low']:+.1f} to {100 * interval['high']:+.1f}"


def comparison_text(comparison: dict[str, Any]) -> str:
    """[`compare_runs`] for a terminal: a table for each set of test images, in percent."""
    lines = []
    for section in comparison["sections"]:
        test = section["test"]
        scored = f"{describe_split(test['name'])}, {test['images']} images"
        lines.append(f"{scored}; mean ± standard deviation over seeds, in percent")
        rows = [["", "runs", *(TITLES[name].short for name in HEADLINE), "time a run"]]
        for group in section["groups"]:
            scores = [_written(group["scores"][name], name) for name in HEADLINE]
            rows.append([group["name"], str(len(group["runs"])), *scores, _cost(group["cost"])])
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines += [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        for group in section["groups"]:
            about = [f"{what} {text}" for what, text in revision_texts(group).items()]
            if group["agreement"] is not None:
                about.append(f"two seeds predict the same class for {100 * group['agreement']:.1f}% of the images")
            lines += [f"{group['name']}: {'; '.join(about)}"] if about else []
        for pair in section["paired"]:
            lines += [
                f"{' minus '.join(pair['groups'])}, seed by seed:",
                *(f"  {text}" for text in paired_lines(pair)),
            ]
        lines.append("")
    return "\n".join([*lines, *(f"note: {note}" for note in comparison["notes"])]).rstrip()


def write_comparison(comparison: dict[str, Any], file: str | Path) -> Path:
    """Write [`compare_runs`] as one HTML page that needs nothing but itself."""
    curves = None
    if any(run["loss"] for run in comparison["runs"]):
        label = "Training loss by epoch, and balanced accuracy on the validation split where there was one, of "
        curves = svg("curves", label + ", ".join(comparison["groups"]), plot_curves, comparison["runs"])
    return write_page(
        "comparison.html",
        Path(file),
        **comparison,
        score_names={name: TITLES[name].short for name in HEADLINE},
        more_names={name: TITLES[name].short for name in EVALUATION_SCORES},
        fractions=FRACTIONS,
        written=_written,
        cost=_cost,
        curves=curves,
        revision_texts=revision_texts,
        paired_lines=paired_lines,
    )
