"""The tables of `benchmarks.pretrained`, from its records alone."""

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from paco_hf.losses.specs import LOSSES
from paco_hf.metrics import HEADLINE, TITLES, long_tailed_accuracy, shot_group, shots
from paco_hf.utils.files import write_text

from .pretrained_records import DATA_NAME, read_data, unpacked

DRAWS = 10_000  # of the bootstrap
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
BAR = {"balanced_accuracy": "balanced", "few": "few"}
HEAD = """# Classifiers on the features of a pretrained backbone

`python -m benchmarks.pretrained table` writes what is between the two marks; the rest is kept.
"""
EXPLAINED = """\
Mean and standard deviation over seeds, percent of the test images. Each cell is a classifier on the features of the
backbone as it is: six settings (learning rates, and scales of cosine classifiers) are tried by cross-validation on the
training images, and the test split is scored once a seed. *train*: seconds of one training on all images; *choose*:
those of the cross-validation. The features come on top, once for all cells."""


def write_tables(records: dict[Path, dict[str, dict[str, Any]]], output: Path) -> str:
    """Write the tables of all data sets into a Markdown file, between its two marks.

    Args:
        records (`dict`): of each data set, by its folder.
        output (`Path`): the file; what is around the marks is kept.

    Returns:
        the tables.
    """
    parts = [EXPLAINED]
    for folder, found in records.items():
        if found:
            parts += [_section(read_data(folder), found)]
    text = "\n\n".join(parts)
    before = output.read_text(encoding="utf-8") if output.is_file() else f"{HEAD}\n{BEGIN}\n{END}\n"
    if BEGIN not in before or END not in before:
        raise ValueError(f"{output} lacks the lines {BEGIN} and {END}, between which the tables belong: add them")
    head, rest = before.split(BEGIN, 1)
    write_text(output, f"{head}{BEGIN}\n\n{text}\n\n{END}{rest.split(END, 1)[1]}")
    return text


def _section(data: dict[str, Any], records: dict[str, dict[str, Any]]) -> str:
    counts, labels = unpacked(data["train_counts"]), unpacked(data["labels"])
    many, medium, few = shots(counts)
    rows = _rows(data, records)
    titles = ["", *(TITLES[name].short for name in HEADLINE), "train, s", "choose, s"]
    lines = [
        f"## {data['name']}",
        "",
        f"{counts.sum():,} training images of {len(counts)} classes, {counts.max()} to {counts.min()} a class ({many} "
        f"many, {medium} medium, {few} few); {len(labels):,} test images. {_measured_on(records)}",
        "",
        f"| {' | '.join(titles)} |",
        f"|{'---|' * len(titles)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join([*lines, *_follows(data, records), *_bar(data, records), *_stages(records)])


def _measured_on(records: dict[str, dict[str, Any]]) -> str:
    machines = [one["machine"] for one in records.values()]
    dates = sorted(machine["date"][:10] for machine in machines)
    days = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    known = {f"{one['cpu']}, {one['cores']} cores, {one['threads']} used" for one in machines if "cpu" in one}
    inputs = sorted({one["input"] for one in records.values() if one["kind"] == "head"})
    return " ".join([f"Measured {days} on {'; '.join(sorted(known))}.", *(f"Input: {one}." for one in inputs)])


def title(record: dict[str, Any]) -> str:
    """What a measurement is called in the table."""
    if record["kind"] == "run":
        return "**`paco-hf train`, nothing else given**"
    size = f", {record['input'].split()[0]} px" if "input" in record else ""
    if record["kind"] == "head":
        start = "class means" if record["class_centers"] == "means" else "random"
        return f"{record['classifier']}, {LOSSES[record['loss']].title}, from {start}{size}"
    return f"{record['title']}{size}"


def scores(data: dict[str, Any], records: Iterable[dict[str, Any]]) -> dict[str, list[float]]:
    """Scores of all seeds of one or several records, in percent, from their predictions.

    Args:
        data (`dict`): of [`read_data`]; a record of its own images brings their labels.
        records (iterable of `dict`): of one measurement.
    """
    found: dict[str, list[float]] = {name: [] for name in HEADLINE}
    for record in records:
        labels, counts = (unpacked(record.get(name, data[name])) for name in ("labels", "train_counts"))
        for one in record["seeds"].values():
            values = long_tailed_accuracy(unpacked(one["predictions"]), labels, counts)
            for name in HEADLINE:
                if values[name] is not None:
                    found[name].append(100 * values[name])
    return found


def _grouped(records: dict[str, dict[str, Any]]) -> dict[str, tuple[str, list[dict[str, Any]]]]:
    """Records of the same measurement with other seeds, by title."""
    grouped: dict[str, tuple[str, list[dict[str, Any]]]] = {}
    for record in records.values():
        grouped.setdefault(title(record), (record["kind"], []))[1].append(record)
    return grouped


def _rows(data: dict[str, Any], records: dict[str, dict[str, Any]]) -> list[list[str]]:
    order = ["run", "head", "baseline", "fine-tuned"]
    rows = []
    for name, (kind, same) in _grouped(records).items():
        found = scores(data, same)
        seconds = [one["seconds"] for record in same for one in record["seeds"].values()]
        choosing = [record["cross_validation_seconds"] for record in same if "cross_validation_seconds" in record]
        stages = [record.get("stages", {}) for record in same]
        choosing += [one["cross-validation"] for one in stages if "cross-validation" in one]
        times = [f"{statistics.fmean(values):.3g}" if values else "" for values in (seconds, choosing)]
        cells = [name, *(spread(found[score]) for score in HEADLINE), *times]
        rows.append((order.index(kind), -statistics.fmean(found["balanced_accuracy"]), cells))
    return [cells for _, _, cells in sorted(rows)]


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds."""
    if not values:
        return "-"
    return f"{statistics.fmean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def _follows(data: dict[str, Any], records: dict[str, dict[str, Any]]) -> list[str]:
    """The best cells, and where among them the one is that the command takes."""
    cells = [record for record in records.values() if record["kind"] == "head"]
    command = next((record["chosen"] for record in records.values() if record["kind"] == "run"), {})
    lines = []
    for score, short in BAR.items():
        means = {title(one): found for one in cells if (found := scores(data, [one])[score])}
        if not means:
            continue
        order = sorted(means, key=lambda name: -statistics.fmean(means[name]))
        line = f"* Best of {len(order)} cells in *{short}*: {order[0]}, {spread(means[order[0]])}"
        parts = ("classifier", "loss", "class_centers")
        same = [title(one) for one in cells if all(one[part] == command.get(part) for part in parts)]
        for rank, name in enumerate(order, 1):
            if name in same:
                line += f"; the command's, {name}: {spread(means[name])}, rank {rank}"
        lines.append(f"{line}.")
    return ["", *lines] if lines else []


def _stages(records: dict[str, dict[str, Any]]) -> list[str]:
    whole = {name: record for name, record in records.items() if record["kind"] == "run"}
    if not whole:
        return []
    lines = ["", "Seconds of the command:", ""]
    for name, record in whole.items():
        found = "features computed" if record["features_computed"] else "features computed before"
        split = ", ".join(f"{stage} {seconds:g}" for stage, seconds in record["stages"].items())
        lines.append(f"* {name.removeprefix('run-')}, {found}: **{record['wall_clock_seconds']:.0f}** ({split})")
    return lines


def _bar(data: dict[str, Any], records: dict[str, dict[str, Any]]) -> list[str]:
    ours = [record for record in records.values() if record["kind"] == "run"]
    theirs = {name: record for name, record in records.items() if record["kind"] == "baseline"}
    if not ours or not theirs:
        return []
    lines = ["", "| the command minus the best baseline | baseline | difference | standard error | held |"]
    lines.append("|---|---|---|---|---|")
    labels, counts = unpacked(data["labels"]), unpacked(data["train_counts"])
    right = correct(ours, labels)
    for score, short in BAR.items():
        classes = np.ones(len(counts), dtype=bool) if score == "balanced_accuracy" else shot_group(counts) == 2
        values = {name: scores(data, [record])[score] for name, record in theirs.items()}
        values = {name: found for name, found in values.items() if found}
        if not values:
            continue
        best = max(values, key=lambda name: statistics.fmean(values[name]))
        difference, error = paired_bootstrap(right - correct([theirs[best]], labels), labels, classes)
        held = "yes" if difference >= -error else "**no**"
        lines.append(f"| {short} | {title(theirs[best])} | {100 * difference:+.2f} | {100 * error:.2f} | {held} |")
    return lines


def correct(records: Iterable[dict[str, Any]], labels: np.ndarray) -> np.ndarray:
    """The share of the seeds that recognize each test image, `(N,)`.

    Args:
        records (iterable of `dict`): of one measurement.
        labels (`(N,)`): true classes.
    """
    predictions = [unpacked(one["predictions"]) for record in records for one in record["seeds"].values()]
    if any(len(one) != len(labels) for one in predictions):
        raise ValueError(f"a record has predictions of other images than the {len(labels)} of {DATA_NAME}")
    return np.mean([one == labels for one in predictions], axis=0)


def paired_bootstrap(
    difference: np.ndarray, labels: np.ndarray, classes: np.ndarray, draws: int = DRAWS
) -> tuple[float, float]:
    """Mean over classes of the mean over their images, and its standard error where images are drawn anew.

    Args:
        difference (`(N,)`): of each test image, such as how much more of the seeds recognize it.
        labels (`(N,)`): their classes; images are drawn within these, with replacement.
        classes (`(C,)` of `bool`): those that count.
        draws (`int`, *optional*, defaults to `DRAWS`): of all images.

    Returns:
        the mean of the images as they are, and the standard deviation of that of the draws.
    """
    generator = np.random.default_rng(0)
    present = [label for label in np.flatnonzero(classes) if (labels == label).any()]
    mean, drawn = 0.0, np.zeros(draws)
    for label in present:
        values = difference[labels == label]
        mean += float(values.mean()) / len(present)
        drawn += values[generator.integers(len(values), size=(draws, len(values)))].mean(1) / len(present)
    return mean, float(drawn.std())
