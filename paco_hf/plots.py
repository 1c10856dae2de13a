"""The figures of a run: class counts, training curve, accuracy against class frequency. matplotlib is an extra."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

COUNTS_NAME, CURVE_NAME, FREQUENCY_NAME = "class_counts.png", "training_curve.png", "accuracy_by_frequency.png"
# What each shows, in the words of a card.
CAPTIONS = {
    COUNTS_NAME: "Images of each class, most frequent first",
    CURVE_NAME: "Training curve: the loss, and the validation accuracy where there was a validation",
    FREQUENCY_NAME: "Accuracy of each class against its number of training images",
}


def _figure(file: str | Path, rows: int, draw: Callable[..., None]) -> None:
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'paco-hf[plots]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(rows, 1, figsize=(7, 1 + 3 * rows), layout="constrained", squeeze=False)
    draw(*axes[:, 0])
    # Without the version of matplotlib: the same data are the same file.
    figure.savefig(file, metadata={"Software": None} if Path(file).suffix == ".png" else None)
    pyplot.close(figure)


def plot_counts(counts: dict[str, list[int]], file: str | Path) -> None:
    """A figure of the class counts, sorted, on a logarithmic axis, with the borders of the groups.

    Raises:
        ImportError: matplotlib is not installed.
    """

    def draw(axes: Any) -> None:
        for name, values in counts.items():
            axes.step(range(1, len(values) + 1), sorted(values, reverse=True), where="mid", label=name)
        for border in (20, 100):
            axes.axhline(border, color="gray", linewidth=0.8, linestyle=":")
        axes.set(yscale="log", xlabel="class, most frequent first", ylabel="images")
        axes.legend()

    _figure(file, 1, draw)


def plot_accuracy(per_class: Sequence[float | None], counts: Sequence[int], file: str | Path) -> None:
    """A figure of the accuracy of each class against its training images, and the means of the groups.

    Args:
        per_class (`(C,)`): fractions, `None` where a class was not scored.
        counts (`(C,)`): training images.

    Raises:
        ImportError: matplotlib is not installed.
    """
    pairs = [(n, 100 * a) for n, a in zip(counts, per_class, strict=True) if a is not None]
    groups = {"few": (0, 19), "medium": (20, 100), "many": (101, max(counts))}

    def draw(axes: Any) -> None:
        axes.scatter(*zip(*pairs, strict=True), s=12, label="a class")
        for name, (low, high) in groups.items():
            inside = [accuracy for n, accuracy in pairs if low <= n <= high]
            if inside:
                ends = [max(low, min(counts)), high]
                axes.plot(ends, [sum(inside) / len(inside)] * 2, linewidth=2, label=f"mean of {name}")
        axes.set(xscale="log", xlabel="training images of the class", ylabel="accuracy, %", ylim=(-2, 102))
        axes.legend()

    _figure(file, 1, draw)


def plot_training(log: Sequence[dict[str, Any]], file: str | Path) -> None:
    """A figure of a run's `log.jsonl`: the loss and its parts and, where there was a validation, its accuracy.

    Raises:
        ImportError: matplotlib is not installed.
    """
    losses = [entry for entry in log if "loss" in entry]
    scores = [entry for entry in log if "eval_accuracy" in entry]

    def draw(axes: Any, below: Any = None) -> None:
        for key, label in (("loss", "loss"), ("class_loss", "class part"), ("contrast_loss", "contrast part")):
            points = [(entry["epoch"], entry[key]) for entry in losses if key in entry]
            if points:
                axes.plot(*zip(*points, strict=True), label=label)
        axes.set(xlabel="epoch", ylabel="training loss")
        axes.legend()
        for group in ("accuracy", "many", "medium", "few"):
            points = [(entry["epoch"], 100 * entry[f"eval_{group}"]) for entry in scores if f"eval_{group}" in entry]
            if points:
                below.plot(*zip(*points, strict=True), label={"accuracy": "top-1"}.get(group, group))
        if scores:
            below.set(xlabel="epoch", ylabel="validation accuracy, %")
            below.legend()

    _figure(file, 2 if scores else 1, draw)
