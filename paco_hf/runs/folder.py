"""A run's folder: what is in it, read in one place. It loads no torch."""

import csv
import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

from ..data.manifest_file import read_manifest
from ..data.spec import SPLITS_NAME
from ..utils.files import RESTORE, read_mapping, read_text
from . import layout
from .redaction import public_settings


class RunFolder:
    """What a run left in its folder. Each file is read once, when it is first asked for; what is not there is empty.

    A checkpoint in a run folder has the run's recipe, record, manifest and log, but no scores: those are of the model
    that was selected. Folders of converted checkpoints and of models on the Hub read alike.

    Args:
        path (path): a run folder, or a checkpoint in one.
        name (`str`, *optional*): what messages call it, defaults to `path` as it was passed.

    Raises:
        ValueError: on reading a property whose file is damaged; names the file.
    """

    def __init__(self, path: str | Path, name: str | None = None) -> None:
        self.path = Path(path)
        self.name = name or str(path)

    @cached_property
    def home(self) -> Path:
        """The folder of the run: of a checkpoint the one that it lies in, else the folder itself."""
        folder = self.path.resolve()
        is_checkpoint = re.fullmatch(r"checkpoint-\d+", folder.name)
        return folder.parent if is_checkpoint and (folder.parent / layout.RECIPE_NAME).is_file() else self.path

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """`recipe.yaml`: the resolved settings, with paths of the computer."""
        settings = read_mapping(self.home / layout.RECIPE_NAME)
        if settings.get("augment_backend") == "tensor":
            settings.setdefault("view_draws", "batch")  # as was done before there was a choice
        return settings

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The recipe without paths, fit to be shown."""
        return public_settings(self.recipe, self.record.get("dataset"))

    @cached_property
    def record(self) -> dict[str, Any]:
        """`run.json`: images of each split, hardware, time, versions."""
        return read_mapping(self.home / layout.RUN_NAME)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """`splits.json`: the images of each split."""
        return read_manifest(self.home / SPLITS_NAME)

    @cached_property
    def data(self) -> dict[str, Any]:
        """`data.json`: what identifies the images that it was started with."""
        return read_mapping(self.home / layout.DATA_NAME)

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        """`log.jsonl`: the entries of the training log."""
        path = self.home / layout.LOG_NAME
        entries = []
        for line, text in enumerate(read_text(path).splitlines() if path.is_file() else (), 1):
            try:
                entries.append(dict(json.loads(text)))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path} is damaged at line {line}: {error}") from error
        return entries

    @cached_property
    def emissions(self) -> float | None:
        """Kilograms of CO2 equivalent, from what `--report_to codecarbon` writes."""
        path = self.home / "emissions.csv"
        if not path.is_file():
            return None
        return sum(float(row["emissions"]) for row in csv.DictReader(read_text(path).splitlines()))

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """`metrics.json`: scores of `test` and `validation`, the steps of the model."""
        return read_mapping(self.path / layout.METRICS_NAME, advice="remove it to evaluate the run again")

    @property
    def scored_split(self) -> str:
        """The split whose scores stand for the run: `test`, where there was none `validation`."""
        return "test" if self.metrics.get("test") else "validation"

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """`results.json` of `paco-hf evaluate` on the test split."""
        return read_mapping(self.evaluation_path, advice="evaluate the run again")

    @property
    def evaluation_path(self) -> Path:
        return self.path / layout.EVALUATION_FOLDER / layout.EVALUATION_NAME

    @cached_property
    def conversion(self) -> dict[str, Any]:
        """`conversion.json` of a converted checkpoint."""
        return read_mapping(self.path / layout.CONVERSION_NAME)

    @cached_property
    def added(self) -> list[dict[str, Any]]:
        """`added_classes.json`: what `paco-hf add-class` measured of each class that it added, in their order."""
        classes: list[dict[str, Any]] = read_mapping(self.path / layout.ADDED_NAME).get("classes", [])
        return classes

    @cached_property
    def config(self) -> dict[str, Any]:
        """`config.json` of the model, as it is in the file."""
        return read_mapping(self.path / "config.json", advice=RESTORE)

    @cached_property
    def pads(self) -> bool:
        """Whether the model's image processor pads images, by code that travels with it."""
        return read_mapping(self.path / "preprocessor_config.json").get("image_processor_type") == "PaCoImageProcessor"

    @property
    def started(self) -> bool:
        """Whether a training wrote into the folder: there are a recipe with its settings, and its log or a
        checkpoint."""
        written = (self.path / layout.LOG_NAME).is_file() or bool(list_checkpoints(self.path))
        recipe = read_mapping(self.path / layout.RECIPE_NAME)
        return written and {"loss", "dataset", "backbone", "learning_rate"} <= recipe.keys()

    @property
    def card(self) -> Path:
        """Where the model card lies, or would lie."""
        return self.path / layout.CARD_NAME

    @property
    def checkpoints(self) -> list[Path]:
        """The complete checkpoints of the run, oldest first."""
        return list_checkpoints(self.home)

    def check_model(self) -> None:
        """Raise `ValueError` where the folder holds no model that can be loaded."""
        if not (self.path / "config.json").is_file() or not (self.path / "model.safetensors").is_file():
            raise ValueError(
                f"{self.name} has no finished model (config.json and model.safetensors): pass a run folder"
            )

    def check_finished(self) -> None:
        """Raise `OSError` with the first file that a finished run has and this folder lacks."""
        records = (self.home / name for name in (layout.RUN_NAME, layout.RECIPE_NAME, layout.LOG_NAME))
        for path in (self.path / layout.METRICS_NAME, *records):
            if not path.is_file():
                raise OSError(f"{path} is missing: pass the folder of a finished run")


def seed_runs(folder: str | Path) -> list[Path]:
    """The finished runs of a folder of `train --seeds`, in the order of the command; of another folder it itself.

    Raises:
        ValueError: none is finished.
    """
    file = Path(folder) / layout.SEEDS_NAME
    if not file.is_file():
        return [Path(folder)]
    runs = [Path(folder) / run["folder"] for run in read_mapping(file).get("runs", [])]
    finished = [run for run in runs if (run / layout.METRICS_NAME).is_file()]
    if not finished:
        raise ValueError(f"{folder} has no finished run: finish it by running the same command with --resume")
    return finished


def list_checkpoints(folder: str | Path) -> list[Path]:
    """The `checkpoint-N` folders of a run, oldest first; one without a trainer's state is the user's own."""
    states = Path(folder).glob(f"checkpoint-*/{layout.STATE_NAME}")
    checkpoints = [state.parent for state in states if re.fullmatch(r"checkpoint-\d+", state.parent.name)]
    return sorted(checkpoints, key=lambda path: int(path.name.split("-")[1]))
