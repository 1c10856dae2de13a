"""Draws which package imports which, for CONTRIBUTING.md: `python docs/import_graph.py` writes docs/import-graph.svg.

The storeys are those of the contract in pyproject.toml, the arrows are read from the code. An arrow that follows from
others is left out (`cli` imports `hub`, but also `workflows`, which imports it); the picture's description has all.
"""

import tomllib
from pathlib import Path

import grimp
import matplotlib.pyplot as plt

DOCS = Path(__file__).parent
# From left to right, so that no arrow runs through a box.
COLUMNS = {
    "cli": 2.0,
    "workflows": 1.2,
    "trainer": 1.0,
    "conversion": 2.0,
    "webapp": 3.0,
    "hub": 1.5,
    "reports": 1.1,
    "runs": 1.1,
    "inference": 3.0,
    "arguments": 1.1,
    "models": 0.8,
    "data": 2.0,
    "evaluation": 3.2,
    "losses": 0.4,
    "metrics": 2.7,
    "utils": 1.6,
}


def storeys() -> list[list[str]]:
    """The packages of each storey, from the top; the doors above `cli` are none."""
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    return [layer.split(" | ") for layer in layers[layers.index("cli") :]]


def imports() -> dict[str, set[str]]:
    """The packages that each package imports."""
    graph = grimp.build_graph("paco_hf", cache_dir=None)
    names = [name for storey in storeys() for name in storey]
    for name in names:
        graph.squash_module(f"paco_hf.{name}")
    below = {name: graph.find_modules_directly_imported_by(f"paco_hf.{name}") for name in names}
    return {name: {other for other in names if f"paco_hf.{other}" in below[name]} - {name} for name in names}


def needed(edges: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The edges that do not follow from others."""
    below: dict[str, set[str]] = {}
    for name in reversed(edges):  # from the ground up
        below[name] = edges[name].union(*(below[other] for other in edges[name]))
    return [(a, b) for a in edges for b in sorted(edges[a]) if not any(b in below[other] for other in edges[a])]


def draw(file: Path) -> None:
    """Write the picture, the same bytes for the same code and matplotlib."""
    edges, rows = imports(), storeys()
    height = {name: len(rows) - 1 - row for row, names in enumerate(rows) for name in names}
    style = {"svg.hashsalt": "paco_hf", "svg.fonttype": "none", "font.size": 11}
    with plt.rc_context(style):
        figure, axes = plt.subplots(figsize=(8, 9))
        for row in range(0, len(rows), 2):
            axes.axhspan(row - 0.5, row + 0.5, color="#f2f4f8", zorder=0)
        for row in range(len(rows)):
            axes.text(-0.15, row, str(row), color="#8a93a6", ha="center", va="center")
        axes.set(xlim=(-0.3, 3.7), ylim=(-0.5, len(rows) - 0.5))
        axes.set_axis_off()
        for name, y in height.items():
            box = {"boxstyle": "round,pad=0.45", "facecolor": "#dce6f7", "edgecolor": "#3b5b92"}
            axes.text(COLUMNS[name], y, name, ha="center", va="center", bbox=box)
        for a, b in needed(edges):
            arrow = {"arrowstyle": "-|>", "color": "#54617a", "shrinkA": 0, "shrinkB": 0}
            # From the lower edge of one box to the upper one of the other.
            axes.annotate("", (COLUMNS[b], height[b] + 0.21), (COLUMNS[a], height[a] - 0.21), arrowprops=arrow)
        described = "; ".join(f"{name}: {' '.join(sorted(others))}" for name, others in edges.items())
        figure.savefig(file, bbox_inches="tight", metadata={"Date": None, "Description": described})
        plt.close(figure)


if __name__ == "__main__":
    draw(DOCS / "import-graph.svg")
