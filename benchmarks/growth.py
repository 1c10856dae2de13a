"""How time and peak memory of the loss grow with queue, classes and batch: `python -m benchmarks.growth`.

Writes JSON and a log-log plot; the legend has the slopes, fitted to the upper half of the points.
"""

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from . import ours, plain
from .bench import loss_call, write_json
from .machine import describe, peak_memory
from .setup import loss_inputs

BASE = {"queue": 8192, "classes": 1000, "batch": 128}
DIM = 128
GRID = {
    "queue": [256, 1024, 4096, 16_384, 65_536],
    "classes": [10, 100, 1000, 10_000],
    "batch": [32, 64, 128, 256, 512, 1024],
}
NAMES = {"queue": "queue length K", "classes": "classes C", "batch": "batch B"}
QUANTITIES = {"median_s": "time, s", "peak_bytes": "peak memory, bytes"}
SIDES = {"ours": ours.paco_loss, "plain": plain.paco_loss}
PLAIN_LIMIT = 2**24  # entries of the plain side's largest matrix: some 0.1 s and 0.5 GB


def sides_for(sizes: dict[str, int]) -> dict[str, Callable]:
    """Both sides, or ours alone where the plain one would take too long."""
    entries = sizes["batch"] * (sizes["classes"] + 2 * sizes["batch"] + sizes["queue"])
    return {side: loss for side, loss in SIDES.items() if side == "ours" or entries <= PLAIN_LIMIT}


def measure_point(sizes: dict[str, int], repeats: int, training: bool) -> dict[str, dict[str, float]]:
    """Median and least time, and peak memory, of each side; the sides take turns."""
    inputs = loss_inputs(sizes["batch"], sizes["queue"], DIM, sizes["classes"])
    calls = {side: loss_call(loss, inputs, training) for side, loss in sides_for(sizes).items()}
    times: dict[str, list[float]] = {side: [] for side in calls}
    for repeat in range(repeats + 1):
        for side, call in calls.items():
            start = time.perf_counter()
            call()
            if repeat:
                times[side].append(time.perf_counter() - start)
    return {
        side: {"median_s": statistics.median(times[side]), "min_s": min(times[side]), "peak_bytes": peak_memory(call)}
        for side, call in calls.items()
    }


def measure(grid: dict[str, list[int]], repeats: int, training: bool) -> dict[str, list[dict[str, Any]]]:
    """The points of each axis, the other sizes being those of `BASE`."""
    curves: dict[str, list[dict[str, Any]]] = {axis: [] for axis in grid}
    with tqdm(total=sum(map(len, grid.values())), unit=" points", disable=None, leave=False) as progress:
        for axis, values in grid.items():
            for value in values:
                progress.set_description(f"{axis} {value}")
                sizes = {**BASE, axis: value}
                curves[axis].append({**sizes, **measure_point(sizes, repeats, training)})
                progress.update()
    return curves


def slope(x: list[float], y: list[float]) -> float | None:
    """Least squares in log-log on the upper half of the points (two at least)."""
    half = max(len(x) - len(x) // 2, 2)
    if len(x) < 2:
        return None
    return float(np.polyfit(np.log(x[-half:]), np.log(y[-half:]), 1)[0])


def curve(points: list[dict[str, Any]], axis: str, side: str, quantity: str) -> tuple[list[float], list[float]]:
    """A side's values along an axis, where it was measured."""
    measured = [point for point in points if side in point]
    return [point[axis] for point in measured], [point[side][quantity] for point in measured]


def slopes(curves: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, dict[str, float | None]]]:
    """By axis, quantity and side."""
    return {
        axis: {
            quantity: {side: slope(*curve(points, axis, side, quantity)) for side in SIDES} for quantity in QUANTITIES
        }
        for axis, points in curves.items()
    }


def table(curves: dict[str, list[dict[str, Any]]]) -> str:
    """The curves and their slopes as text."""
    fitted = slopes(curves)
    lines = []
    for axis, points in curves.items():
        lines.append(f"{NAMES[axis]:<16}" + "".join(f"{side + ' ms':>12}{side + ' MB':>12}" for side in SIDES))
        for point in points:
            cells = [
                f"{point[side]['median_s'] * 1e3:>12.2f}{point[side]['peak_bytes'] / 1e6:>12.2f}"
                if side in point
                else f"{'-':>12}{'-':>12}"
                for side in SIDES
            ]
            lines.append(f"{point[axis]:<16}" + "".join(cells))
        values = (fitted[axis][quantity][side] for side in SIDES for quantity in QUANTITIES)
        lines.append(
            f"{'slope':<16}" + "".join(f"{value:>12.2f}" if value is not None else f"{'-':>12}" for value in values)
        )
    return "\n".join(lines)


def draw(curves: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """One column an axis, one row a quantity, both scales logarithmic."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    fitted = slopes(curves)
    figure, axes = pyplot.subplots(
        len(QUANTITIES), len(curves), figsize=(4 * len(curves), 6.5), squeeze=False, layout="constrained"
    )
    for column, (axis, points) in enumerate(curves.items()):
        for plot, (quantity, label) in zip(axes[:, column], QUANTITIES.items(), strict=True):
            for side in SIDES:
                value = fitted[axis][quantity][side]
                name = side if value is None else f"{side}, slope {value:.2f}"
                plot.loglog(*curve(points, axis, side, quantity), marker="o", label=name)
            plot.set(xlabel=NAMES[axis], ylabel=label)
            plot.grid(alpha=0.3)
            plot.legend()
    fixed = ", ".join(f"{NAMES[axis]} {value}" for axis, value in BASE.items())
    figure.suptitle(f"Loss, forward and backward, width {DIM}; where it does not vary: {fixed}")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write. Status 2 where the results could not be written or drawn."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--repeats", type=int, default=9, metavar="N", help="timed calls a point (default: 9)")
    parser.add_argument("--axes", nargs="+", choices=list(GRID), default=list(GRID), help="default: all")
    parser.add_argument("--training", action="store_true", help="only the queries need a gradient, as in training")
    parser.add_argument("--quick", action="store_true", help="one call, and the first three points of each axis")
    parser.add_argument("--output", default="growth.json", metavar="PATH", help="JSON; the plot is beside it, as PNG")
    args = parser.parse_args(argv)
    output = Path(args.output)
    if not output.absolute().parent.is_dir():
        print(f"benchmarks.growth: --output {args.output}: no such folder", file=sys.stderr)
        return 2
    if importlib.util.find_spec("matplotlib") is None:
        print("benchmarks.growth: the plot needs matplotlib (pip install matplotlib)", file=sys.stderr)
        return 2
    grid = {axis: GRID[axis][: 3 if args.quick else None] for axis in args.axes}
    curves = measure(grid, 1 if args.quick else max(args.repeats, 1), args.training)
    print(table(curves))
    content = {
        "machine": describe(),
        "dim": DIM,
        "training": args.training,
        "slopes": slopes(curves),
        "curves": curves,
    }
    write_json(output, content)
    draw(curves, output.with_suffix(".png"))
    print(f"written to {output} and {output.with_suffix('.png')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
