"""From a run to its evaluation: scores, `results.json`, the report, and what is then stored in the checkpoint."""

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from ..data.images import Images
from ..data.spec import public_name
from ..evaluation.analysis import evaluate_logits
from ..evaluation.predictions import Predictions
from ..inference.load_model import load_config
from ..inference.logits import balanced_logits
from ..metrics import headline
from ..models.configuration_paco import PaCoConfig
from ..runs.folder import RunFolder
from ..runs.layout import (
    CARD_NAME,
    EVALUATION_FOLDER,
    EVALUATION_NAME,
    HELD_OUT_NAME,
    PREDICTIONS_NAME,
    VALIDATION_FOLDER,
)
from ..utils.distributed import entered_once
from ..utils.files import check_writable, write_json
from ..utils.locks import sole_owner
from ..utils.main_process import computed_once
from .abstain import StoredChanges, abstention_line, abstention_results
from .evaluation_data import check_same_test, load_evaluation, split_predictions


def evaluate_runs(
    models: Sequence[str],
    *,
    dataset: str | None = None,
    split: str = "test",
    data_fields: dict[str, Any] | None = None,
    inference: dict[str, Any] | None = None,
    changes: StoredChanges | None = None,
    report: bool = True,
    output_dir: str | None = None,
) -> tuple[dict[str, Any], Path | None, list[str]]:
    """Score a checkpoint, or the ensemble of several, and write what there is to see.

    Args:
        models (sequence of `str`): run folders or checkpoints; of several the logits are averaged.
        dataset (`str`, *optional*): as for [`paco_hf.data.loading.load_data`]; that of the first run where not given.
        split (`str`, *optional*, defaults to `"test"`): or `"validation"`.
        data_fields (`dict`, *optional*): other fields of the [`paco_hf.data.spec.DataSpec`].
        inference (`dict`, *optional*): arguments of [`balanced_logits`].
        changes ([`StoredChanges`], *optional*): what is first chosen on held-out images, and stored in the checkpoint.
        report (`bool`, *optional*, defaults to `True`): write `results.json`, `report.html` and its figures.
        output_dir (`str`, *optional*): where to; where not given, `evaluation/` in the folder of the model, and
            nothing is written of several models, or of one from the Hub.

    Returns:
        what `results.json` holds (see [`examine`]), the page (`None`: not written), and lines for the user.

    Raises:
        ValueError, OSError: bad data or checkpoints, or no folder to write to, found before anything is scored.
    """
    data_fields, inference, changes = data_fields or {}, inference or {}, changes or StoredChanges()
    if output_dir is not None and not report:
        raise ValueError("--no_report writes nothing, but --output_dir is set: remove one of the two flags")
    folder = _output_folder(models, output_dir, split) if report else None
    if changes.flags and not (Path(models[0]) / "config.json").is_file():
        raise ValueError(
            f"{changes.flags[0]} changes config.json, but {models[0]} is not a local checkpoint: pass a run folder"
        )
    with ExitStack() as held:
        if changes.flags or (folder and output_dir is None):
            advice = "use a copy of the run" if changes.flags else "set --output_dir to another folder"
            held.enter_context(entered_once(sole_owner(RunFolder(models[0]).home, "an evaluation", advice)))
        return _evaluate_runs(models, dataset, split, data_fields, inference, changes, report, folder)


def _evaluate_runs(
    models: Sequence[str],
    dataset: str | None,
    split: str,
    data_fields: dict[str, Any],
    inference: dict[str, Any],
    changes: StoredChanges,
    report: bool,
    folder: Path | None,
) -> tuple[dict[str, Any], Path | None, list[str]]:
    notes, tta = list[str](), inference.get("tta", "none")
    if report and folder is None:
        notes.append("no report is written: for several models, or a model from the Hub, set --output_dir DIR")
    scored = load_evaluation(models[0], dataset, split, **data_fields)
    if len(models) > 1:
        check_same_test(models, split, scored)
    # Only where all that is asked for can be had is anything changed.
    notes += changes.store(models[0], dataset, data_fields, inference)
    if changes.fitted and tta != "none":
        notes.append(f"{' and '.join(changes.fitted)}: fitted with --tta {tta}, so use it for predictions, too")
    if scored.note:
        notes.append(scored.note)
    images = Images(scored)
    logits = balanced_logits(models, images, scored.class_names, **inference)

    def examined() -> tuple[dict[str, Any], Path | None]:
        evaluation = examine(models, images, *logits, tta=tta)
        return evaluation.results, write_evaluation(folder, evaluation) if folder else None

    results, page = computed_once(examined)
    notes += _describe(results, split)
    shown = page and tta == "none" and page.parent.name == EVALUATION_FOLDER  # on a card
    if page and shown and (card := page.parents[1] / CARD_NAME).is_file():
        notes.append(f"{card} is unchanged: update it with paco-hf card {card.parent}")
    return results, page, notes


def _describe(results: dict[str, Any], split: str) -> list[str]:
    """Lines for the user on how sure the scores are, and how far the probabilities can be trusted."""
    notes = [
        "95% intervals: top-1 {accuracy}, balanced {balanced_accuracy}; calibration error {ece}".format(
            **{key: _interval(results["metrics"][key]) for key in ("accuracy", "balanced_accuracy", "ece")}
        )
    ]
    calibration = results["calibration"]
    if calibration["temperature"] is not None:
        pairs = [(name, calibration["uncalibrated"][name], group) for name, group in calibration["groups"].items()]
        shown = (f"{name} {100 * old['ece']:.1f} -> {100 * new['ece']:.1f}" for name, old, new in pairs if new)
        notes.append(f"temperature {calibration['temperature']:.3f}: calibration error {', '.join(shown)}")
        if split == "validation":
            notes.append("the temperature was fitted on these images: expect worse calibration on other images")
    if calibration["weighted"]:
        notes.append(
            "calibration error, log loss and Brier score weight all classes equally, because the logits are balanced"
        )
    if line := abstention_line(results["abstention"]):
        notes.append(line)
    if results["tta"] != "none":
        notes.append(f"evaluated with --tta {results['tta']}: use it for predictions, too")
    if results["left_aside"]:
        notes.append(f"these scores do not use {results['left_aside']}")
    return notes


@dataclass
class Evaluation:
    """All that a report shows of a labeled split.

    Args:
        results (`dict`): what `results.json` holds.
        pictures (`dict`): the images that are shown, by their place in the split.
        predictions ([`Predictions`]): of each image.
        log (`list`): the training log of the run, empty where there is none or there are several checkpoints.
    """

    results: dict[str, Any]
    pictures: dict[int, Image]
    predictions: Predictions
    log: list[dict[str, Any]]


def write_evaluation(folder: Path, evaluation: Evaluation) -> Path:
    """Write `results.json`, `predictions.parquet`, the page and its figures.

    Args:
        folder (`Path`): made where it does not exist.
        evaluation ([`Evaluation`]): what [`examine`] computed.

    Returns:
        path of the page.
    """
    from ..reports.evaluation_report import write_report  # its plots take a second to import

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / EVALUATION_NAME, evaluation.results)
    evaluation.predictions.write(folder / PREDICTIONS_NAME)
    return write_report(evaluation.results, folder, evaluation.pictures, evaluation.log)


def _interval(metric: dict[str, float]) -> str:
    return f"{100 * metric['value']:.1f} ({100 * metric['low']:.1f} to {100 * metric['high']:.1f})"


def _output_folder(models: Sequence[str], output_dir: str | None, split: str) -> Path | None:
    if output_dir is not None:
        folder = Path(output_dir)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"--output_dir {folder} is a file: pass a folder")
        check_writable(folder)
        return folder
    if len(models) > 1 or not Path(models[0]).is_dir():
        return None
    folder = Path(models[0]) / (EVALUATION_FOLDER if split == "test" else VALIDATION_FOLDER)
    if split != "test" and (folder / HELD_OUT_NAME).is_file():
        raise ValueError(
            f"{folder} has the cross-validation results, which cannot be recomputed: set --output_dir DIR, or use "
            "--no_report"
        )
    return folder


def examine(
    models: Sequence[str],
    images: Images,
    logits: np.ndarray,
    labels: np.ndarray,
    config: PaCoConfig,
    *,
    tta: str = "none",
) -> Evaluation:
    """All that a report shows of images whose [`paco_hf.inference.logits.balanced_logits`] are known.

    A temperature in the checkpoint's configuration is applied, a prior is not; of several checkpoints neither.

    Args:
        models (sequence of `str`): the checkpoints.
        images ([`paco_hf.data.images.Images`]): that were scored.
        logits (`(N, C)`): balanced, the mean over the checkpoints.
        labels (`(N,)`): true class ids.
        config ([`PaCoConfig`]): of the first checkpoint.
        tta (`str`, *optional*, defaults to `"none"`): what the logits were computed with.

    Returns:
        [`Evaluation`]; its results are what [`evaluate_logits`] gives, with the files of examples, `model`, `dataset`,
        `split`, `selection` (the hash that `run.json` has), `tta`, `scores`, `abstention` ([`abstention_results`]) and
        `left_aside` (what is stored and not applied, in words).
    """
    split = images.split
    names = [config.id2label[c] for c in range(config.num_labels)]
    counts = config.group_counts
    temperature = config.temperature if len(models) == 1 else None
    configs = [config] if len(models) == 1 else [load_config(model) for model in models]
    stored = {
        "the temperature": len(models) > 1 and any(one.temperature is not None for one in configs),
        "the class frequencies (inference_prior)": any(one.inference_prior is not None for one in configs),
        "the abstention thresholds": len(models) > 1 and any(one.abstention is not None for one in configs),
    }
    whose = "the checkpoint" if len(models) == 1 else "a checkpoint"
    used = copy.copy(config)
    if len(models) > 1:
        used.temperature = used.inference_prior = used.abstention = None
    results = {
        "model": " + ".join(Path(folder).resolve().name for folder in models),
        "dataset": public_name(split.dataset),  # a report may be shown to others
        "split": split.public_name,
        "selection": split.selection,
        "tta": tta,
        "scores": headline(logits.argmax(axis=1), labels, config),
        "left_aside": " and ".join(f"{name} stored in {whose}" for name, present in stored.items() if present),
        **evaluate_logits(
            logits,
            labels,
            class_names=names,
            class_counts=counts,
            temperature=temperature,
            logit_counts=config.logit_counts,
        ),
        "abstention": abstention_results(logits, labels, used),
    }
    predictions = split_predictions(split, logits, labels, temperature, config)
    lists = ("worst_classes", "confusions", "tail_to_head")
    shown = [example for name in lists for row in results[name] or () for example in row["examples"]]
    for example in shown:
        example["file"] = predictions.file[example["row"]]
    pictures = {row: images[row] for row in sorted({example["row"] for example in shown})}
    return Evaluation(results, pictures, predictions, RunFolder(models[0]).log if len(models) == 1 else [])
