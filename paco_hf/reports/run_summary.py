"""What a run, a converted checkpoint or a recipe holds, read for its card."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..arguments.recipes import Recipe, read_recipe
from ..data.published import BENCHMARKS, Benchmark
from ..losses.specs import METHODS
from ..models.configuration_paco import PaCoConfig
from ..runs.layout import CONVERSION_NAME, EVALUATION_FOLDER, EVALUATION_NAME, METRICS_NAME, RECIPE_NAME, RUN_NAME
from ..runs.redaction import public_settings
from ..runs.resume_points import run_of
from ..utils.files import read_json


@dataclass
class Subject:
    """What a card is about, and the evidence that there is for it."""

    title: str
    settings: dict[str, Any] = field(default_factory=dict)  # without paths
    book: Recipe | None = None  # the package's recipe that it follows
    config: PaCoConfig | None = None  # of the weights, where there are any
    metrics: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    conversion: dict[str, Any] | None = None
    baselines: dict[str, dict[str, Any]] = field(default_factory=dict)  # scores by name
    emissions: float | None = None  # kg of CO2 equivalent
    evaluation: dict[str, Any] | None = None  # the `results.json` of the split that was scored
    repo: str = ""  # what the examples load

    @property
    def benchmark(self) -> Benchmark | None:
        return BENCHMARKS.get(str(self.settings.get("dataset")))

    @property
    def scores(self) -> dict[str, Any] | None:
        return self.metrics.get("test") or self.metrics.get("validation")


def read_subject(folder: Path, recipe: str | None = None, baselines: Sequence[str | Path] = ()) -> Subject:
    """What a folder holds."""
    if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
        raise ValueError(f"{folder} holds no finished model (config.json and model.safetensors): is it a run folder?")
    home = run_of(folder)
    run, conversion = read_json(home / RUN_NAME) or {}, read_json(folder / CONVERSION_NAME)
    config, metrics = PaCoConfig.from_pretrained(folder), read_json(folder / METRICS_NAME) or {}
    book = read_recipe(name) if (name := recipe or run.get("recipe") or (conversion or {}).get("recipe")) else None
    if (home / RECIPE_NAME).is_file():
        settings = yaml.safe_load((home / RECIPE_NAME).read_text(encoding="utf-8"))
    else:
        settings = dict(book.settings) if book else {}
    settings = public_settings(settings, run.get("dataset"))
    if recipe and book:
        for key in ("dataset", "loss", "imbalance_factor"):
            if key in settings and settings[key] != book.settings.get(key, settings[key]):
                raise ValueError(f"{folder} does not follow {recipe}: its {key} is {settings[key]}")
        if config.backbone.split(".")[0] != str(book.settings.get("backbone")).split(".")[0]:
            raise ValueError(f"{folder} does not follow {recipe}: its backbone is {config.backbone}")
    emissions = None
    if (home / "emissions.csv").is_file():  # what `--report_to codecarbon` writes, kilograms
        with (home / "emissions.csv").open(encoding="utf-8") as file:
            emissions = sum(float(row["emissions"]) for row in csv.DictReader(file))
    others = {}
    for other in map(Path, baselines):
        scores, own = _baseline(other, settings.get("dataset"), run)
        method = METHODS[own]
        others[f"{method} ({other.name})" if method in others else method] = scores
    subject = Subject(folder.resolve().name, settings, book, config, metrics, run, conversion, others, emissions)
    evaluation = read_json(folder / EVALUATION_FOLDER / EVALUATION_NAME)
    # One of another split, or of a run before this one, is not about these scores. Another CPU may decide for another
    # class where two are as good as equal.
    if evaluation and subject.scores and abs(evaluation["scores"]["accuracy"] - subject.scores["accuracy"]) < 1e-3:
        subject.evaluation = evaluation
    return subject


def _baseline(folder: Path, dataset: str | None, run: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Test scores and loss of a run, which must be of the same images."""
    scores = (read_json(folder / METRICS_NAME) or {}).get("test")
    if not scores:
        raise ValueError(f"the baseline {folder} has no test scores in its {METRICS_NAME}")
    own = read_json(folder / RUN_NAME) or {}
    settings = yaml.safe_load((folder / RECIPE_NAME).read_text(encoding="utf-8"))
    name = public_settings(settings, own.get("dataset")).get("dataset")
    tested = [record.get("data", {}).get("test") for record in (run, own)]
    if name != dataset or (all(tested) and tested[0] != tested[1]):
        raise ValueError(f"the baseline {folder} was scored on other images ({name}): its scores cannot stand beside")
    return scores, settings.get("loss", "paco")
