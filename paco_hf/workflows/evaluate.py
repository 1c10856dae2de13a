"""From a run to its evaluation: scores, `results.json`, the report, and what is then stored in the checkpoint."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from PIL.Image import Image

from ..data.images import Images
from ..data.spec import public_name
from ..evaluation.analysis import evaluate_logits
from ..inference.logits import balanced_logits
from ..metrics import headline
from ..models.configuration_paco import PaCoConfig
from ..runs.folder import RunFolder
from ..runs.layout import CARD_NAME, EVALUATION_FOLDER, EVALUATION_NAME, VALIDATION_FOLDER
from ..utils.distributed import entered_once
from ..utils.files import check_writable, write_json
from ..utils.locks import sole_owner
from .calibrate import store_temperature
from .evaluation_data import check_same_test, load_evaluation


def evaluate_runs(
    models: Sequence[str],
    *,
    dataset: str | None = None,
    split: str = "test",
    data_fields: dict[str, Any] | None = None,
    inference: dict[str, Any] | None = None,
    calibrate: bool = False,
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
        calibrate (`bool`, *optional*, defaults to `False`): first fit a temperature on the validation split, and store
            it in the checkpoint.
        report (`bool`, *optional*, defaults to `True`): write `results.json`, `report.html` and its figures.
        output_dir (`str`, *optional*): where to; where not given, `evaluation/` in the folder of the model, and
            nothing is written of several models, or of one from the Hub.

    Returns:
        what `results.json` holds (see [`examine`]), the page (`None`: not written), and lines for the user.

    Raises:
        ValueError, OSError: bad data or checkpoints, or no folder to write to, found before anything is scored.
    """
    data_fields, inference = data_fields or {}, inference or {}
    if output_dir is not None and not report:
        raise ValueError("--no_report writes nothing into --output_dir: leave out one of them")
    folder = _output_folder(models, output_dir, split) if report else None
    if calibrate and not (Path(models[0]) / "config.json").is_file():
        raise ValueError(
            f"--calibrate changes config.json, but {models[0]} is not a local checkpoint: give a run folder"
        )
    with ExitStack() as held:
        if calibrate or (folder and output_dir is None):
            home = sole_owner(RunFolder(models[0]).home, "an evaluation", "evaluate it then")
            held.enter_context(entered_once(home))
        return _evaluate_runs(models, dataset, split, data_fields, inference, calibrate, report, folder)


def _evaluate_runs(
    models: Sequence[str],
    dataset: str | None,
    split: str,
    data_fields: dict[str, Any],
    inference: dict[str, Any],
    calibrate: bool,
    report: bool,
    folder: Path | None,
) -> tuple[dict[str, Any], Path | None, list[str]]:
    notes: list[str] = []
    if report and folder is None:
        notes.append("no report of several models, or of one from the Hub, without a place for it: --output_dir DIR")
    if calibrate:
        held_out = load_evaluation(models[0], dataset, "validation", **data_fields)
        notes += filter(None, [held_out.note])
        notes.append(store_temperature(models[0], Images(held_out), held_out.class_names, **inference))
    scored = load_evaluation(models[0], dataset, split, **data_fields)
    if len(models) > 1:
        check_same_test(models, split, scored)
    if scored.note:
        notes.append(scored.note)
    images = Images(scored)
    results, examples = examine(models, images, *balanced_logits(models, images, scored.class_names, **inference))
    notes += _describe(results, split)
    page = write_evaluation(folder, results, examples) if folder and PartialState().is_main_process else None
    if page and (card := page.parents[1] / CARD_NAME).is_file() and page.parent.name == EVALUATION_FOLDER:
        notes.append(f"{card} is as it was: paco-hf card {card.parent} writes it anew, with these figures")
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
            notes.append("the temperature was fitted on these images: calibration is better here than elsewhere")
    if calibration["weighted"]:
        notes.append(
            "calibration error, log loss and Brier score: each class counts alike, as the logits are balanced"
        )
    if results["left_aside"]:
        notes.append(f"these scores leave aside {results['left_aside']}")
    return notes


def write_evaluation(folder: Path, results: dict[str, Any], examples: dict[int, list[tuple[Image, str]]]) -> Path:
    """Write `results.json`, the page and its figures.

    Args:
        folder (`Path`): made where it does not exist.
        results (`dict`): what [`examine`] computed.
        examples (`dict`): images of the worst classes and what they were taken for, by class.

    Returns:
        path of the page.
    """
    from ..reports.evaluation_report import write_report  # its plots take a second to import

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / EVALUATION_NAME, results)
    return write_report(results, folder, examples)


def _interval(metric: dict[str, float]) -> str:
    return f"{100 * metric['value']:.1f} ({100 * metric['low']:.1f} to {100 * metric['high']:.1f})"


def _output_folder(models: Sequence[str], output_dir: str | None, split: str) -> Path | None:
    if output_dir is not None:
        folder = Path(output_dir)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"--output_dir {folder} is a file: give a folder")
        check_writable(folder)
        return folder
    if len(models) > 1 or not Path(models[0]).is_dir():
        return None
    return Path(models[0]) / (EVALUATION_FOLDER if split == "test" else VALIDATION_FOLDER)


def examine(
    models: Sequence[str], images: Images, logits: np.ndarray, labels: np.ndarray, config: PaCoConfig
) -> tuple[dict[str, Any], dict[int, list[tuple[Image, str]]]]:
    """All that a report shows of images whose [`paco_hf.inference.logits.balanced_logits`] are known.

    A temperature in the checkpoint's configuration is applied, a prior is not; of several checkpoints neither.

    Args:
        models (sequence of `str`): the checkpoints.
        images ([`paco_hf.data.images.Images`]): that were scored.
        logits (`(N, C)`): balanced, the mean over the checkpoints.
        labels (`(N,)`): true class ids.
        config ([`PaCoConfig`]): of the first checkpoint.

    Returns:
        what [`evaluate_logits`] gives, with `model`, `dataset`, `split`, `selection` (the hash that
        `run.json` has), `scores` and `left_aside` (what is stored and not applied, in words); and for the worst
        classes `(image, what it was taken for)`, by class id.
    """
    split = images.split
    names = [config.id2label[c] for c in range(config.num_labels)]
    counts = config.group_counts
    temperature = config.temperature if len(models) == 1 else None
    configs = [config] if len(models) == 1 else [PaCoConfig.from_pretrained(model) for model in models]
    stored = {
        "temperature": len(models) > 1 and any(one.temperature is not None for one in configs),
        "class frequencies (inference_prior)": any(one.inference_prior is not None for one in configs),
    }
    whose = "the checkpoint" if len(models) == 1 else "a checkpoint"
    results = {
        "model": " + ".join(Path(folder).resolve().name for folder in models),
        "dataset": public_name(split.dataset),  # a report may be shown to others
        "split": split.public_name,
        "selection": split.selection,
        "scores": headline(logits.argmax(axis=1), labels, config),
        "left_aside": " and ".join(f"the {name} stored in {whose}" for name, present in stored.items() if present),
        **evaluate_logits(
            logits,
            labels,
            class_names=names,
            class_counts=counts,
            temperature=temperature,
            logit_counts=config.logit_counts,
        ),
    }
    examples = {
        worst["class"]: [
            (images[e["row"]], f"{names[e['predicted']]} ({e['confidence']:.0%})") for e in worst["examples"]
        ]
        for worst in results["worst_classes"]
    }
    return results, examples
