"""Draws the method for docs/how-it-works.md: `python docs/drawings.py` writes three SVG files beside this script.

Each stands on a white card, so that it reads on light and dark pages, and has its letters as paths.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

DOCS = Path(__file__).parent
ALPHA, BETA, GAMMA = "\N{GREEK SMALL LETTER ALPHA}", "\N{GREEK SMALL LETTER BETA}", "\N{GREEK SMALL LETTER GAMMA}"
INK, MUTED, CARD = "#1c2127", "#5a6472", "#ffffff"
BLUE, ORANGE, GREEN, GRAY = "#1f6aa5", "#b4531a", "#2f7d4f", "#8a919c"
FILLS = {BLUE: "#e3eef7", ORANGE: "#f9e8de", GREEN: "#e2f1e7", GRAY: "#eef0f3"}
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "svg.fonttype": "path",
    "svg.hashsalt": "paco_hf",
}


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of these inches whose axes have its coordinates, in hundredths of an inch."""
    figure = plt.figure(figsize=(width, height), facecolor=CARD)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 100 * width), ylim=(0, 100 * height))
    axes.axis("off")
    return figure, axes


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str, color: str = GRAY) -> None:
    """A rounded box with its text in the middle; `x` and `y` are its lower left corner."""
    shape = FancyBboxPatch(
        (x, y), width, height, boxstyle="round,pad=0,rounding_size=6", edgecolor=color, facecolor=FILLS[color], lw=1.2
    )
    axes.add_patch(shape)
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", linespacing=1.35)


def arrow(axes: Axes, *points: tuple[float, float], color: str = INK, dashed: bool = False) -> None:
    """A line through the points with a head at its end."""
    style = (0, (4, 2)) if dashed else "solid"
    if points[:-2]:
        axes.plot(*zip(*points[:-1], strict=True), color=color, lw=1.2, linestyle=style, solid_capstyle="butt")
    head = FancyArrowPatch(
        *points[-2:], arrowstyle="-|>", mutation_scale=10, color=color, lw=1.2, linestyle=style, shrinkA=0, shrinkB=0
    )
    axes.add_patch(head)


def note(axes: Axes, x: float, y: float, text: str, color: str = MUTED, **options: Any) -> None:
    axes.text(
        x, y, text, color=color, **{"ha": "center", "va": "center", "fontsize": 8, "linespacing": 1.3, **options}
    )


def draw_method() -> Figure:
    """From two views of an image to the loss."""
    figure, axes = canvas(8.2, 4.3)
    box(axes, 15, 195, 70, 50, "image")
    box(axes, 125, 300, 80, 50, "query view", BLUE)
    box(axes, 125, 90, 80, 50, "key view", ORANGE)
    arrow(axes, (50, 245), (50, 325), (125, 325), color=BLUE)
    arrow(axes, (50, 195), (50, 115), (125, 115), color=ORANGE)
    note(axes, 88, 338, "augment")
    note(axes, 88, 102, "augment")

    box(axes, 240, 300, 85, 50, "backbone", BLUE)
    box(axes, 370, 345, 120, 50, "classifier\n= class centers", GREEN)
    box(axes, 370, 255, 120, 50, "projector", BLUE)
    arrow(axes, (205, 325), (240, 325), color=BLUE)
    arrow(axes, (325, 332), (347, 332), (347, 370), (370, 370), color=BLUE)
    arrow(axes, (325, 318), (347, 318), (347, 280), (370, 280), color=BLUE)

    box(axes, 240, 90, 250, 50, "key encoder\n(backbone and projector, no gradient)", ORANGE)
    arrow(axes, (205, 115), (240, 115), color=ORANGE)
    arrow(axes, (282, 300), (282, 140), color=MUTED, dashed=True)
    note(axes, 290, 212, "moving average\nafter each step", ha="left")

    box(axes, 535, 345, 130, 50, "class logits\n+ log prior", GREEN)
    box(axes, 535, 195, 130, 60, "similarities of\nquery and rows\n/ temperature", BLUE)
    arrow(axes, (490, 370), (535, 370), color=GREEN)
    arrow(axes, (490, 280), (512, 280), (512, 238), (535, 238), color=BLUE)
    note(axes, 497, 229, "query features", color=BLUE, ha="right")
    arrow(axes, (490, 115), (512, 115), (512, 212), (535, 212), color=ORANGE)
    note(axes, 497, 152, "keys", color=ORANGE, ha="right")

    for slot in range(8):
        patch = Rectangle((540 + 15 * slot, 25), 13, 38, edgecolor=ORANGE, facecolor=FILLS[ORANGE], lw=1)
        axes.add_patch(patch)
    note(axes, 600, 12, "queue: the last K keys with their labels")
    arrow(axes, (490, 102), (512, 102), (512, 44), (538, 44), color=ORANGE)
    arrow(axes, (600, 64), (600, 195), color=ORANGE)
    note(axes, 608, 130, "rows of earlier\nbatches", ha="left")

    box(axes, 700, 262, 105, 66, "one softmax\nover centers\nand rows", GRAY)
    arrow(axes, (665, 370), (752, 370), (752, 328), color=GREEN)
    arrow(axes, (665, 225), (752, 225), (752, 262), color=BLUE)
    note(axes, 600, 410, "inference uses these logits, without the prior", color=GREEN)
    return figure


def draw_softmax() -> Figure:
    """The terms of one anchor: numerators with their weights above, the denominator below."""
    figure, axes = canvas(8.2, 3.3)
    classes = [("c1", 74), ("c2", 46), ("c3 = y", 30), ("c4", 14)]
    rows = [("query", 26, False), ("query", 14, False), ("its key", 92, True), ("key", 34, False)]
    rows += [("queue", 12 + 8 * (i % 3), i == 2) for i in range(6)]
    note(axes, 145, 305, "C class centers", color=GREEN, fontsize=10)
    note(axes, 540, 305, "rows: queries and keys of the batch, and the queue", color=ORANGE, fontsize=10)
    base, left = 95, 55
    for index, (name, height) in enumerate(classes):
        x, own = left + 48 * index, name.endswith("y")
        fill = GREEN if own else FILLS[GREEN]
        axes.add_patch(Rectangle((x, base), 30, height, facecolor=fill, edgecolor=GREEN, lw=1.2))
        note(axes, x + 15, base - 11, name, color=GREEN if own else MUTED)
    for index, (name, height, positive) in enumerate(rows):
        x = 315 + 48 * index
        fill = ORANGE if positive else FILLS[ORANGE]
        axes.add_patch(Rectangle((x, base), 30, height, facecolor=fill, edgecolor=ORANGE, lw=1.2))
        note(axes, x + 15, base - 11, name, color=ORANGE if positive else MUTED)
    axes.plot((20, 800), (base, base), color=GRAY, lw=1)
    note(axes, 166, 232, f"positive of weight {BETA}", color=GREEN)
    arrow(axes, (166, 222), (166, base + 34), color=GREEN)
    note(axes, 522, 250, f"positives of weight {ALPHA} each: rows of class y", color=ORANGE)
    arrow(axes, (426, 240), (426, base + 96), color=ORANGE)
    arrow(axes, (618, 240), (618, base + 34), color=ORANGE)
    note(axes, 145, 62, "exp(class logit + log prior)")
    note(axes, 540, 62, f"{GAMMA} * exp(similarity / temperature)")
    axes.plot((55, 55, 785, 785), (46, 38, 38, 46), color=INK, lw=1.2)
    text = "denominator of the softmax: the sum of all bars (the anchor itself is left out)"
    note(axes, 420, 22, text, color=INK, fontsize=9)
    note(axes, 279, base + 45, "+", color=INK, fontsize=16)
    return figure


def softmax(logits: Sequence[float]) -> list[float]:
    powers = [math.exp(logit) for logit in logits]
    return [power / sum(powers) for power in powers]


def draw_prior() -> Figure:
    """What an image that looks equally like three classes teaches, with and without the prior."""
    counts = (500, 50, 5)
    frequencies = [count / sum(counts) for count in counts]
    log_prior = [math.log(frequency) for frequency in frequencies]
    centered = [value - sum(log_prior) / 3 for value in log_prior]
    figure, grid = plt.subplots(2, 3, figsize=(8.2, 4.1), facecolor=CARD)
    figure.subplots_adjust(left=0.2, right=0.98, top=0.84, bottom=0.09, wspace=0.28, hspace=0.45)
    titles = ("logits that fit\nthe training images", "what the loss sees", "what the model answers")
    colors = (GREEN, GRAY, ORANGE)
    kinds = (("without prior\n(cross-entropy)", centered, centered), ("with prior\n(PaCo)", [0.0] * 3, log_prior))
    for row, (kind, logits, seen) in enumerate(kinds):
        for column, values in enumerate((logits, softmax(seen), softmax(logits))):
            axes: Axes = grid[row][column]
            bars = axes.bar(("many\n(500)", "medium\n(50)", "few\n(5)"), values, color=colors, width=0.62)
            axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=2, fontsize=8)
            axes.set_ylim((-3.2, 3.2) if column == 0 else (0, 1.15))
            axes.axhline(0, color=GRAY, lw=0.8)
            axes.set_yticks([])
            axes.tick_params(length=0, labelsize=7.5, colors=MUTED)
            axes.set_facecolor(CARD)
            for side in axes.spines.values():
                side.set_visible(False)
            if row == 0:
                axes.set_title(titles[column], fontsize=9.5, color=INK, pad=10)
        middle = sum(grid[row][0].get_position().intervaly) / 2
        figure.text(0.015, middle, kind, va="center", fontsize=9.5, linespacing=1.4)
    return figure


DRAWINGS: dict[str, Callable[[], Figure]] = {"method": draw_method, "softmax": draw_softmax, "prior": draw_prior}


def write(folder: Path = DOCS) -> list[Path]:
    """Draw all into a folder.

    Returns:
        the files.
    """
    files = []
    with plt.rc_context(STYLE):
        for name, draw in DRAWINGS.items():
            figure = draw()
            files.append(folder / f"{name}.svg")
            edge = Rectangle((0, 0), 1, 1, transform=figure.transFigure, fill=False, edgecolor=GRAY, lw=1)
            figure.add_artist(edge)
            nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            figure.savefig(files[-1], facecolor=CARD, metadata=nothing)
            plt.close(figure)
    return files


if __name__ == "__main__":
    for file in write():
        print(f"{file.name}: {file.stat().st_size:,} bytes")
