"""The table of `docs/reproduce.md`: `python -m benchmarks.rows` prints it from the recipes.

The hours are an estimate, not a measurement: the operations of a run (counted by torch on the row's backbone) divided
by [`RATE`]. A training step costs three forward passes a view that gets a gradient, one for a view of the key encoder.
The core-hours are images times [`DECODE`] and [`VIEW`], which `benchmarks.streaming` measured for PaCo's two views.
"""

import json
import re
from pathlib import Path

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import paco_hf  # noqa: F401
from paco_hf.arguments.recipes import overview, read_recipe
from paco_hf.data.long_tail import long_tailed_counts
from paco_hf.data.published import BENCHMARKS
from paco_hf.losses import loss_spec

RATE = 25e12  # operations a second and GPU: what convolutions reach on a data-center GPU in TF32 or half precision
DECODE, VIEW = 1.25e-3, 2.78e-3  # core-seconds of an image of 500 x 375 pixels, and of each of its views
GPUS = {"imagenet": 8}  # the reference's README: 8 for ImageNet and ViTs, 4 for the long-tailed sets, 1 for CIFAR
DOCUMENT = Path(__file__).parents[1] / "docs" / "reproduce.md"


def operations(backbone: str, kwargs: dict, size: int) -> int:
    """Floating-point operations of one forward pass of one image."""
    with torch.device("meta"):
        model = timm.create_model(backbone.split(".")[0], num_classes=0, **kwargs).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, size, size))
    return counter.get_total_flops()


def training_images(settings: dict) -> int:
    """Of the published training split."""
    benchmark = BENCHMARKS[settings["dataset"]]
    if benchmark.n_max:
        return sum(long_tailed_counts(benchmark.n_max, benchmark.num_classes, settings["imbalance_factor"]))
    return benchmark.canonical["train"].images


def row(entry: dict, measured: dict[str, str]) -> str:
    """One line of the table."""
    recipe = read_recipe(entry["name"])
    reported = f"{entry['reported']['top1']:.1f}" if entry["reported"] else "none"
    later = entry["reported"] and entry["reported"]["source"] != "reference README"
    state = measured.get(entry["name"], "smoke-tested")
    if recipe.ensemble:
        runs = " ".join(f"runs/{name}" for name in recipe.ensemble)
        dataset = read_recipe(recipe.ensemble[0]).settings["dataset"]
        first = f"`paco-hf evaluate {runs} --dataset {dataset} --dataset_path ROOT` ¹"
        return f"| {entry['row']} | {first} | {reported}, of two ResNeXt-101 | - | - | - | {state} |"
    settings = recipe.settings
    cifar = settings["dataset"].startswith("cifar")
    size = 32 if cifar else settings["image_size"]
    once = operations(settings["backbone"], settings.get("backbone_kwargs", {}), size)
    spec = loss_spec(settings["loss"])
    passes = 3 * spec.views - 2 * spec.key_encoder
    images = training_images(settings) * settings["num_train_epochs"]
    hours = passes * once * images / RATE / 3600
    core_hours = "²" if cifar else f"{float(f'{images * (DECODE + spec.views * VIEW) / 3600:.2g}'):,.0f}"
    gpus = 1 if cifar else GPUS.get(settings["dataset"], 4)
    return (
        f"| {entry['row']} | `--recipe {entry['name']}` | {reported}{' ³' if later else ''} | {gpus} GPU"
        f"{'s' if gpus > 1 else ''}, batch {settings['global_batch_size']}, {settings['precision']} | {_hours(hours)} "
        f"| {core_hours} | {state} |"
    )


def _hours(hours: float) -> str:
    """Two digits; for networks whose operations are too small to fill a GPU there is no estimate."""
    return "²" if hours < 0.1 else f"{hours:.1f}" if hours < 10 else f"{float(f'{hours:.2g}'):.0f}"


def measured() -> dict[str, str]:
    """Top-1 of the rows whose checkpoints lie in `model_cards`, by recipe."""
    files = {path.parent.name: path for path in (DOCUMENT.parents[1] / "model_cards").glob("*/metrics.json")}
    scores = {name: json.loads(path.read_text(encoding="utf-8"))["test"]["accuracy"] for name, path in files.items()}
    return {name: f"measured: {100 * score:.1f}, last epoch" for name, score in scores.items()}


def table() -> str:
    """All rows of the papers, in their order."""
    head = ["| row | command | top-1 reported | reference's hardware | GPU hours | core-hours | state here |"]
    entries, known = [entry for entry in overview() if entry["row"]], measured()
    return "\n".join([*head, "|---|---|---|---|---|---|---|", *(row(entry, known) for entry in entries)])


def document_table(text: str) -> str:
    """The table that stands in the document."""
    found = re.search(r"^\| row \|.*?(?=\n\n)", text, re.DOTALL | re.MULTILINE)
    assert found, "no table"
    return found[0]


if __name__ == "__main__":
    print(table())
