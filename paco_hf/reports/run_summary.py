"""What a run, a converted checkpoint or a recipe holds, read for its card."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..arguments.recipes import Recipe, read_recipe
from ..data.published import BENCHMARKS, Benchmark
from ..losses.specs import DEFAULT_LOSS, LossSpec, loss_spec
from ..runs.checkpoint_config import CheckpointConfig
from ..runs.folder import RunFolder
from ..runs.layout import METRICS_NAME
from ..runs.redaction import public_settings
from ..utils.files import readable


@dataclass
class Subject:
    """What a card is about, and the evidence that there is for it."""

    title: str
    settings: dict[str, Any] = field(default_factory=dict)  # without paths
    recipe: Recipe | None = None  # the package's recipe that it follows
    config: CheckpointConfig | None = None  # of the weights, where there are any
    metrics: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)  # `run.json`
    conversion: dict[str, Any] = field(default_factory=dict)
    added: list[dict[str, Any]] = field(default_factory=list)  # `added_classes.json`
    baselines: dict[str, dict[str, Any]] = field(default_factory=dict)  # scores by name
    emissions: float | None = None  # kg of CO2 equivalent
    evaluation: dict[str, Any] = field(default_factory=dict)  # `results.json` of the split that was scored
    log: list[dict[str, Any]] = field(default_factory=list)  # `log.jsonl`
    repo: str = ""  # what the examples load
    trained_scale: float | None = None  # of a cosine classifier whose scale was trained
    pads: bool = False  # images, which timm's transforms cannot

    @property
    def benchmark(self) -> Benchmark | None:
        return BENCHMARKS.get(str(self.settings.get("dataset")))

    @property
    def loss(self) -> str | None:
        """The loss that the weights were trained with, `None` where it is not known."""
        return self.conversion.get("method") or self.settings.get("loss")

    @property
    def spec(self) -> LossSpec | None:
        return loss_spec(self.loss) if self.loss else None

    @property
    def in_timm(self) -> bool:
        """Whether timm has the backbone, and words for what its images go through."""
        return not self.backbone.startswith("cifar_") and not self.pads

    @property
    def backbone(self) -> str:
        return str(self.config.backbone if self.config else self.settings.get("backbone", ""))

    @property
    def scores(self) -> dict[str, Any] | None:
        return self.metrics.get("test") or self.metrics.get("validation")


def read_subject(
    folder: Path,
    recipe: str | None = None,
    baselines: Sequence[str | Path] = (),
    metrics: dict[str, Any] | None = None,
) -> Subject:
    """What a folder holds, as a card says it.

    Args:
        folder (`Path`): run folder, checkpoint or converted checkpoint.
        recipe (`str`, *optional*): the package's recipe that it follows, where it does not say so itself.
        baselines (sequence of paths, *optional*): run folders whose test scores stand beside.
        metrics (`dict`, *optional*): its scores, where they are not in the folder yet.

    Raises:
        ValueError: no finished model, a recipe that it does not follow, a baseline of other images or without scores.
    """
    run = RunFolder(folder)
    if metrics is not None:
        run.metrics = metrics
    run.check_model()
    config, scores = CheckpointConfig.read(run), run.metrics.get(run.scored_split)
    name = recipe or run.record.get("recipe") or run.conversion.get("recipe")
    book = read_recipe(name) if name else None
    settings = run.settings or public_settings(book.settings if book else {}, run.record.get("dataset"))
    if recipe and book:
        for key in ("dataset", "loss", "imbalance_factor"):
            if key in settings and settings[key] != book.settings.get(key, settings[key]):
                raise ValueError(f"{folder} does not follow {recipe}: its {key} is {settings[key]}")
        if config.backbone.split(".")[0] != str(book.settings.get("backbone")).split(".")[0]:
            raise ValueError(f"{folder} does not follow {recipe}: its backbone is {config.backbone}")
    named: dict[str, dict[str, Any]] = {}
    for baseline in map(RunFolder, baselines):
        _check_same_images(baseline, settings.get("dataset"), run)
        method = loss_spec(baseline.settings.get("loss", DEFAULT_LOSS)).title
        named[f"{method} ({baseline.path.name})" if method in named else method] = baseline.metrics["test"]
    # An evaluation of another split, of a run before this one, or with --tta is not about these scores. Another CPU
    # may decide for another class where two are as good as equal.
    evaluation = run.evaluation
    augmented = evaluation.get("tta", "none") != "none"
    if not scores or not evaluation or augmented or abs(evaluation["scores"]["accuracy"] - scores["accuracy"]) >= 1e-3:
        evaluation = {}
    learned = config.classifier == "cosine" and config.learn_classifier_scale
    return Subject(
        folder.resolve().name,
        settings,
        recipe=book,
        config=config,
        metrics=run.metrics,
        record=run.record,
        conversion=run.conversion,
        added=run.added,
        baselines=named,
        emissions=run.emissions,
        evaluation=evaluation,
        log=run.log,
        pads=run.pads,
        trained_scale=_trained_scale(run.path / "model.safetensors") if learned else None,
    )


def _trained_scale(weights: Path) -> float | None:
    with readable(weights), safe_open(weights, "numpy") as file:
        # numpy has no bfloat16.
        known = file.get_slice("classifier.scale").get_dtype() != "BF16"
        return float(file.get_tensor("classifier.scale")) if known else None


def _check_same_images(baseline: RunFolder, dataset: str | None, run: RunFolder) -> None:
    """Raise `ValueError` where a baseline has no test scores, or those of other images than the run's."""
    if not baseline.metrics.get("test"):
        raise ValueError(f"the baseline {baseline.name} has no test scores in its {METRICS_NAME}: give one that has")
    name = baseline.settings.get("dataset")
    tested = [one.record.get("data", {}).get("test") for one in (run, baseline)]
    if name != dataset or (all(tested) and tested[0] != tested[1]):
        raise ValueError(
            f"the baseline {baseline.name} was scored on other images ({name}): give a baseline that was scored on "
            "those of the run"
        )
