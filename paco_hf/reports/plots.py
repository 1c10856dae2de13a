"""The figures of a run and of an evaluation, as files or as SVG."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, TextIO

from ..metrics import FEW_SHOT, GROUPS, MANY_SHOT, TITLES
from ..runs.layout import COUNTS_NAME, CURVE_NAME, FREQUENCY_NAME, PRIOR_NAME, RELIABILITY_NAME, RISK_NAME
from ..utils.files import replacing

# What each shows, in the words of a card. The last three need an evaluation.
CAPTIONS = {
    COUNTS_NAME: "Training images of each class, most frequent first",
    CURVE_NAME: "Training curve: the loss and, with a validation split, its balanced accuracy",
    FREQUENCY_NAME: "Accuracy of each class against its number of training images",
    RELIABILITY_NAME: "Reliability: accuracy of predictions against their confidence, overall and by group",
    PRIOR_NAME: "Accuracy at other class frequencies: in the order of the training data, uniform, in reverse order",
    RISK_NAME: "Risk against coverage: share of wrong answers if only the most confident ones are given",
}

# Of a light page. An HTML report replaces them by its own, which follow the reader's theme: no color but these.
INK, RULE = "#1c2127", "#8a919c"
SERIES = ("#1f6aa5", "#b4531a", "#2f7d4f", "#7a4fa3", "#a8325a", "#0f7c82", "#77660f", "#5a6472")
GROUP_COLORS = {"overall": INK, "many": SERIES[0], "medium": SERIES[2], "few": SERIES[1]}

_STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), RULE),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon", "text.parse_math"), False),
    **{"axes.titlesize": 10, "axes.titlelocation": "left", "legend.fontsize": 9},
    **{"svg.fonttype": "none", "svg.hashsalt": "paco_hf"},
}


def _figure(
    file: str | Path | TextIO, draw: Callable[..., None], rows: int = 1, columns: int = 1, height: float = 3
) -> None:
    """Draws on the axes and writes the figure: to a file, or as SVG to an open one."""
    import matplotlib  # takes a second, which only what draws should wait for
    from cycler import cycler
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_STYLE, "axes.prop_cycle": cycler(color=SERIES)}):
        figure = Figure(figsize=(7, 1 + height * rows), layout="constrained")
        draw(*figure.subplots(rows, columns, squeeze=False).flat)
        if not isinstance(file, str | Path):
            nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            figure.savefig(file, format="svg", transparent=True, metadata=nothing)
        else:
            kind, drawn = Path(file).suffix[1:].lower(), io.BytesIO()
            # Without the version of matplotlib: the same data are the same file.
            figure.savefig(drawn, format=kind, dpi=130, metadata={"Software": None} if kind == "png" else None)
            with replacing(Path(file)) as partial:
                partial.write_bytes(drawn.getvalue())


def _legend(axes: Any, columns: int = 4) -> None:
    """Above the axes, where it hides nothing."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=columns, borderaxespad=0, columnspacing=1.4)


def _count_axis(axes: Any, which: str, values: Sequence[int]) -> None:
    """Logarithmic, with plain numbers; linear below 1 where there is a class without images."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    scale = {"value": "log"} if min(values) > 0 else {"value": "symlog", "linthresh": 1}
    getattr(axes, f"set_{which}scale")(**scale)
    axis = getattr(axes, f"{which}axis")
    if min(values) > 0:
        wide = max(values) > 1000 * min(values)
        axis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.set_minor_formatter(NullFormatter())


def _whole_numbers(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))


def plot_counts(counts: dict[str, list[int]], file: str | Path | TextIO) -> None:
    """A figure of the class counts, sorted, on a logarithmic axis, with the borders of the groups."""

    def draw(axes: Any) -> None:
        for name, values in counts.items():
            axes.step(range(1, len(values) + 1), sorted(values, reverse=True), where="mid", label=name)
        for border in (FEW_SHOT, MANY_SHOT):
            axes.axhline(border, color=RULE, linewidth=0.8, linestyle=":")
        _count_axis(axes, "y", [n for values in counts.values() for n in values])
        _whole_numbers(axes)
        single = len(counts) == 1
        axes.set(xlabel="class, most frequent first", ylabel=next(iter(counts)) if single else "images")
        if not single:
            _legend(axes)

    _figure(file, draw)


def plot_accuracy(per_class: Sequence[float | None], counts: Sequence[int], file: str | Path | TextIO) -> None:
    """A figure of the accuracy of each class against its training images, and the means of the groups.

    Args:
        per_class (`(C,)`): fractions, `None` where a class was not scored.
        counts (`(C,)`): training images.
    """
    pairs = [(n, 100 * a) for n, a in zip(counts, per_class, strict=True) if a is not None]
    groups = {"many": (MANY_SHOT + 1, max(counts)), "medium": (FEW_SHOT, MANY_SHOT), "few": (0, FEW_SHOT - 1)}
    style = {"markersize": 2.5, "alpha": 0.4} if len(pairs) > 500 else {"markersize": 4, "alpha": 0.75}

    def draw(axes: Any) -> None:
        for name, (low, high) in groups.items():
            inside = [(n, accuracy) for n, accuracy in pairs if low <= n <= high]
            if not inside:
                continue
            mean, color = sum(accuracy for _, accuracy in inside) / len(inside), GROUP_COLORS[name]
            axes.plot(*zip(*inside, strict=True), "o", color=color, markeredgewidth=0, **style)
            ends = [max(low, min(counts)), min(high, max(counts))]
            axes.plot(ends, [mean] * 2, color=color, linewidth=2.5, label=f"mean of {name}: {mean:.1f}%")
        _count_axis(axes, "x", counts)
        axes.set(xlabel="training images of the class", ylabel="accuracy (%)", ylim=(-3, 103))
        _legend(axes)

    _figure(file, draw, height=3.4)


def _epoch_line(axes: Any, points: Sequence[tuple[float, float]], **style: Any) -> None:
    """A line over epochs; of a single epoch a dot, where a line has no length."""
    epochs, values = zip(*points, strict=True)
    axes.plot(epochs, values, marker="o" if len(set(epochs)) == 1 else None, **style)


def _epoch_axis(axes: Any, label: str) -> None:
    axes.set(xlabel="epoch", ylabel=label)
    _whole_numbers(axes)
    epochs = {epoch for line in axes.lines for epoch in line.get_xdata()}
    if len(epochs) == 1:
        # The whole numbers on either side: by itself the axis shows hundredths of an epoch.
        (epoch,) = epochs
        axes.set_xlim(math.ceil(epoch) - 1, math.floor(epoch) + 1)


def _accuracy_label(score: str) -> str:
    return f"{'balanced ' if score == 'balanced_accuracy' else ''}validation accuracy (%)"


def plot_training(log: Sequence[dict[str, Any]], file: str | Path | TextIO) -> None:
    """A figure of a run's `log.jsonl`: the loss and its parts and, where there was a validation, the balanced accuracy
    by which models are selected, overall and of each group (plain accuracy where an old log has no other)."""
    validated = any("eval_accuracy" in entry for entry in log)
    score = "balanced_accuracy" if any("eval_balanced_accuracy" in entry for entry in log) else "accuracy"

    def draw_lines(axes: Any, label: str, factor: float, lines: dict[str, dict[str, str]]) -> None:
        for key, style in lines.items():
            if points := [(entry["epoch"], factor * entry[key]) for entry in log if key in entry]:
                _epoch_line(axes, points, **style)
        _epoch_axis(axes, label)
        _legend(axes)

    def draw(axes: Any, below: Any = None) -> None:
        parts = {"loss": "loss", "class_loss": "class part", "contrast_loss": "contrast part"}
        draw_lines(axes, "training loss", 1, {key: {"label": label} for key, label in parts.items()})
        if validated:
            lines = {f"eval_{score}": {"label": TITLES[score].short, "color": INK}}
            lines |= {f"eval_{group}": {"label": group, "color": GROUP_COLORS[group]} for group in GROUPS}
            draw_lines(below, _accuracy_label(score), 100, lines)

    _figure(file, draw, 2 if validated else 1)


def plot_curves(runs: Sequence[Mapping[str, Any]], file: str | Path | TextIO) -> None:
    """A figure of the training of several runs: the loss and, where there was a validation, the balanced accuracy by
    which models are selected (plain accuracy where the log of one has no other).

    Args:
        runs (sequence of mappings): with `group` (its runs have one color), `loss`, `balanced_accuracy` and
            `accuracy`: lists of `(epoch, value)`, accuracies as fractions.
        file (path or open file): where to; an open one gets SVG.
    """
    groups = list(dict.fromkeys(run["group"] for run in runs))
    columns = 2 if max(map(len, groups)) < 36 else 1
    validated = any(run["accuracy"] for run in runs)
    complete = all(run.get("balanced_accuracy") for run in runs if run["accuracy"])
    score = "balanced_accuracy" if complete else "accuracy"

    def draw(*panels: Any) -> None:
        for key, axes in zip(("loss", score), panels, strict=False):
            labeled = set()
            for run in filter(itemgetter(key), runs):
                index = groups.index(run["group"])
                _epoch_line(
                    axes,
                    [(epoch, value if key == "loss" else 100 * value) for epoch, value in run[key]],
                    color=SERIES[index % len(SERIES)],
                    linestyle=("-", "--", ":", "-.")[index // len(SERIES) % 4],
                    linewidth=1.2,
                    label=None if index in labeled else run["group"],
                )
                labeled.add(index)
            _epoch_axis(axes, "training loss" if key == "loss" else _accuracy_label(score))
        _legend(panels[0], columns)

    rows = 2 if validated else 1
    _figure(file, draw, rows, height=3 + 0.2 * len(groups) / columns / rows)


def plot_reliability(
    groups: Mapping[str, Mapping[str, Any] | None],
    uncalibrated: Mapping[str, Mapping[str, Any] | None] | None,
    file: str | Path | TextIO,
) -> None:
    """A figure of accuracy against confidence, overall and for each group of classes.

    Args:
        groups: `images`, `ece` and `bins` (each with `images`, `confidence`, `accuracy`) of `overall`, `many`,
            `medium`, `few`; `None` where a group is empty.
        uncalibrated: the same without the stored temperature, drawn beside; `None` where there is none.
    """
    shown = {name: group for name in GROUP_COLORS if (group := groups.get(name))}
    columns = min(2, len(shown))

    def draw(*panels: Any) -> None:
        for place, (axes, (name, group)) in enumerate(zip(panels, shown.items(), strict=False)):
            axes.plot([0, 100], [0, 100], color=RULE, linewidth=1, linestyle=":")
            before = (uncalibrated or {}).get(name)
            if before:
                dashed = {"color": RULE, "linewidth": 1.2, "linestyle": "--"}
                axes.plot(*_dots(before), **dashed, label="without temperature")
            dots = _dots(group)
            axes.plot(*dots, color=GROUP_COLORS[name], linewidth=1.5, label="with temperature" if before else None)
            sizes = [8 + 150 * one["images"] / group["images"] for one in group["bins"] if one["images"]]
            axes.scatter(*dots, s=sizes, color=GROUP_COLORS[name], linewidth=0)
            old = f"{100 * before['ece']:.1f} → " if before else ""
            axes.set_title(f"{name}, {group['images']:,} images\ncalibration error {old}{100 * group['ece']:.1f}%")
            axes.set(xlim=(-2, 102), ylim=(-4, 104))
            if place % columns == 0:
                axes.set_ylabel("accuracy (%)")
            if place + columns >= len(shown):
                axes.set_xlabel("confidence (%)")
            if before and place == 0:
                axes.legend(loc="upper left")
        for axes in panels[len(shown) :]:
            axes.set_axis_off()

    _figure(file, draw, -(-len(shown) // columns), columns, height=2.8)


def _dots(group: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Confidence and accuracy of the bins that have images, in percent."""
    bins = [one for one in group["bins"] if one["images"]]
    return [100 * one["confidence"] for one in bins], [100 * one["accuracy"] for one in bins]


def plot_priors(rows: Sequence[Mapping[str, Any]], file: str | Path | TextIO) -> None:
    """A figure of the accuracy on test images distributed otherwise: forward (as in training), uniform, backward.

    Args:
        rows: mappings with `direction`, `ratio` (most to least frequent class), `accuracy` and `adapted` (with the
            logits adjusted to that distribution), fractions or `None`.
    """
    order = prior_order(rows)

    def draw(axes: Any) -> None:
        for key, label in (("accuracy", "unchanged"), ("adapted", "frequencies set")):
            points = [(i, 100 * row[key]) for i, row in enumerate(order) if row[key] is not None]
            if points:
                axes.plot(*zip(*points, strict=True), "o-", markersize=4, label=label)
        axes.set_xticks(range(len(order)), [f"{row['ratio']:g}" for row in order])
        for place in (i for i, row in enumerate(order) if row["direction"] == "uniform"):
            axes.axvline(place, color=RULE, linewidth=0.8, linestyle=":")
        axes.set_xlabel("forward (as in training)  ←  ratio of most to least frequent class  →  backward")
        axes.set_ylabel("accuracy (%)")
        _legend(axes)

    _figure(file, draw)


def plot_risk(curves: Mapping[str, Mapping[str, Any] | None], file: str | Path | TextIO) -> None:
    """A figure of the share of wrong answers among those that are given, against how many are given, the surest first.

    Args:
        curves: of `overall` and of each group `points`, pairs of coverage and risk; `None` where a group is empty.
        file (path or open file): where to; an open one gets SVG.
    """

    def draw(axes: Any) -> None:
        for name in GROUP_COLORS:
            if curve := curves.get(name):
                coverage, risk = ([100 * value for value in values] for values in zip(*curve["points"], strict=True))
                axes.step(coverage, risk, where="pre", color=GROUP_COLORS[name], linewidth=1.5, label=name)
        axes.set(xlabel="coverage: images answered, most confident first (%)", ylabel="risk: wrong answers (%)")
        axes.set(xlim=(0, 102), ylim=(0, None))
        _legend(axes)

    _figure(file, draw)


def prior_order(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """From the steepest forward distribution over the uniform to the steepest backward one."""
    sides = {"forward": -1, "uniform": 0, "backward": 1}
    return sorted(rows, key=lambda row: sides[row["direction"]] * row["ratio"])


def figures(
    counts: Sequence[int] | None,
    per_class: Sequence[float | None] | None,
    evaluation: Mapping[str, Any],
    log: Sequence[dict[str, Any]] = (),
) -> dict[str, tuple[Callable[..., None], tuple[Any, ...]]]:
    """The figures that there are data for, by file: what draws each, and from what.

    Args:
        counts (`(C,)`, *optional*): training images of each class.
        per_class (`(C,)`, *optional*): accuracy of each class.
        evaluation (mapping): what `results.json` holds; empty where there is none.
        log (sequence of mappings, *optional*): what `log.jsonl` holds.
    """
    drawn: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {}
    if counts:
        drawn[COUNTS_NAME] = plot_counts, ({"training images": counts},)
    if counts and per_class:
        drawn[FREQUENCY_NAME] = plot_accuracy, (per_class, counts)
    if log:
        drawn[CURVE_NAME] = plot_training, (log,)
    if evaluation:
        calibration = evaluation["calibration"]
        drawn[RELIABILITY_NAME] = plot_reliability, (calibration["groups"], calibration["uncalibrated"])
        if evaluation["priors"]:
            drawn[PRIOR_NAME] = plot_priors, (evaluation["priors"]["rows"],)
        if abstention := evaluation.get("abstention"):  # which evaluations of earlier versions lack
            drawn[RISK_NAME] = plot_risk, (abstention["curves"],)
    return drawn
