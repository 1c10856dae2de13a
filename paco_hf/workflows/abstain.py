"""The rule by which a checkpoint abstains: chosen on images that it was not trained on, stored, and undone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.images import Images
from ..evaluation.abstention import (
    choose_thresholds,
    examine_abstention,
    image_weights,
    rule_lines,
)
from ..evaluation.image_scores import Answers, row_blocks
from ..evaluation.priors import softmax
from ..evaluation.temperature import fit_temperature
from ..evaluation.unknown import parse_unknown, unknown_scores, unknown_thresholds
from ..inference.logits import balanced_logits
from ..models.abstention import abstains, adjusted_logits, thresholds_apply
from ..models.configuration_paco import PaCoConfig
from ..runs.folder import RunFolder
from ..runs.layout import HELD_OUT_NAME, VALIDATION_FOLDER
from ..utils.files import readable
from ..utils.main_process import computed_once
from ..utils.tensors import read_tensors, save_tensors
from .calibrate import fitted_line, update_config
from .evaluation_data import load_evaluation

_KEPT = 10**9  # bytes of logits


@dataclass(frozen=True)
class StoredChanges:
    """What `paco-hf evaluate` is to store in a checkpoint before it is scored.

    Args:
        calibrate (`bool`, *optional*, defaults to `False`): a temperature.
        abstain (`str`, *optional*): thresholds on probabilities: `precision=SHARE`, `coverage=SHARE`, or `none`, which
            removes them.
        unknown (`str`, *optional*): thresholds on a score that images of unknown classes have less of: `max_logit` or
            `energy`, with `=SHARE` of the known images to accept, or `none`.
    """

    calibrate: bool = False
    abstain: str | None = None
    unknown: str | None = None

    @property
    def flags(self) -> list[str]:
        """Those that ask for something, as a user types them."""
        values = {"--calibrate": self.calibrate, "--abstain": self.abstain, "--unknown": self.unknown}
        return [flag for flag, value in values.items() if value]

    @property
    def fitted(self) -> list[str]:
        """Those of them that need images."""
        return [flag for flag in self.flags if getattr(self, flag[2:]) != "none"]

    def store(
        self, model: str, dataset: str | None, data_fields: dict[str, Any], inference: dict[str, Any]
    ) -> list[str]:
        """Choose it all on images that the checkpoint was not trained on, and write it into its `config.json`.

        Args:
            model (`str`): folder of the checkpoint.
            dataset (`str`, *optional*), data_fields (`dict`): as for [`load_evaluation`].
            inference (`dict`): arguments of [`balanced_logits`].

        Returns:
            lines for the user.

        Raises:
            ValueError: there are no such images, or a precision that they cannot promise.
        """
        logits, labels, source, note = np.empty((0, 0)), np.empty(0, dtype=int), "", ""
        if self.fitted:
            logits, labels, source, note = _held_out(model, dataset, data_fields, inference)
        return [*filter(None, [note]), *computed_once(lambda: self._store(model, logits, labels, source))]

    def _store(self, model: str, logits: np.ndarray, labels: np.ndarray, source: str) -> list[str]:
        """Choose it all by logits `(N, C)` of images with labels, described by `source`, and write it."""
        config, notes = PaCoConfig.from_pretrained(model), list[str]()
        fields: dict[str, Any] = {}
        if self.calibrate:
            config.temperature = fields["temperature"] = fit_temperature(logits, labels, config.logit_counts)
            notes.append(fitted_line(model, config.temperature, len(labels), source))
        if self.abstain or self.unknown:
            rule, lines = self._rule(logits, labels, config)
            fields["abstention"] = rule or None
            where = (
                (f"thresholds chosen on {len(labels)} {source}, stored in {model}")
                if lines
                else f"removed from {model}"
            )
            notes += [*lines, where] if rule else [f"{model} no longer abstains"]
        if fields:
            notes += filter(None, [update_config(model, **fields)])
        return notes

    def _rule(self, logits: np.ndarray, labels: np.ndarray, config: PaCoConfig) -> tuple[dict[str, Any], list[str]]:
        """What the rule of a configuration becomes, and lines about what was chosen."""
        rule, lines = dict(config.abstention or {}), list[str]()
        if self.abstain == "none":
            rule = {name: value for name, value in rule.items() if name == "unknown"}
        elif self.abstain:
            added, line = choose_rule(logits, labels, config, self.abstain)
            rule, lines = rule | added, [line]
        if self.unknown == "none":
            rule.pop("unknown", None)
        elif self.unknown:
            score, share = parse_unknown(self.unknown)
            scores, counts = unknown_scores(logits, score), config.group_counts
            weight = image_weights(labels, None if config.logit_counts else [1.0] * config.num_labels)
            least = unknown_thresholds(scores, logits.argmax(axis=1), weight, counts or [1] * config.num_labels, share)
            rule["unknown"] = {"score": score, "accepted": share, "thresholds": least.tolist()}
            values = " to ".join(f"{value:.2f}" for value in sorted({least.min(), least.max()}))
            lines.append(f"{self.unknown}: minimum {score} to accept an image as a known class: {values}, by group")
        return rule, lines


def choose_rule(logits: np.ndarray, labels: np.ndarray, config: PaCoConfig, target: str) -> tuple[dict[str, Any], str]:
    """Thresholds on probabilities, at the temperature and for the class frequencies of a configuration.

    Args:
        logits (`(N, C)`): of images that were not trained on, without temperature and prior.
        labels (`(N,)`): their classes.
        config ([`PaCoConfig`]): of the model.
        target (`str`): of [`choose_thresholds`].

    Returns:
        what goes into `config.abstention`, and a line about it.

    Raises:
        ValueError: as [`choose_thresholds`].
    """
    answers, _ = _answers_as_used(logits, config)
    weight = _weights_as_used(labels, config)
    thresholds, chosen = choose_thresholds(answers, labels, weight, config.group_counts, target)
    chosen_with = {"temperature": config.temperature, "inference_prior": config.inference_prior}
    return {"target": target, "thresholds": thresholds.tolist(), **chosen_with}, rule_lines(target, chosen)


def _weights_as_used(labels: np.ndarray, config: PaCoConfig) -> np.ndarray:
    """What images count for where classes are as frequent as the probabilities of a configuration say."""
    equal = None if config.logit_counts else [1.0] * config.num_labels
    return image_weights(labels, config.inference_prior or equal)


def _answers_as_used(
    logits: np.ndarray, config: PaCoConfig, examine_rule: bool = False
) -> tuple[Answers, np.ndarray | None]:
    """Answers at the temperature and prior of a configuration, and, with `examine_rule`, where its rule gives none."""
    answers, abstained = list[Answers](), list[np.ndarray]()
    for rows in row_blocks(logits, "evaluating thresholds"):
        adjusted = adjusted_logits(torch.from_numpy(logits[rows]), config)
        answers.append(Answers.from_probabilities(softmax(adjusted.numpy())))
        if examine_rule:
            unsure, unlike = abstains(adjusted, config)
            abstained.append((unsure | unlike).numpy())
    return Answers.joined(answers), np.concatenate(abstained) if examine_rule else None


def _held_out(
    model: str, dataset: str | None, data_fields: dict[str, Any], inference: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, str, str]:
    """Logits and labels of images that a checkpoint was not trained on, what they are, and a note for the user."""
    run = RunFolder(model)
    file = run.path / VALIDATION_FOLDER / HELD_OUT_NAME
    named = dataset is not None or any("validation" in data_fields.get(key, ()) for key in ("splits", "lists"))
    if not named and run.metrics.get("cross_validation"):
        if not file.is_file():
            raise ValueError(
                f"{model} was cross-validated, but {file} with the logits of the held-out images is missing: "
                "train it again, or pass images with --dataset and --validation_split"
            )
        if (tta := inference.get("tta", "none")) != "none":
            raise ValueError(
                f"the logits of the held-out images were computed without --tta {tta}: remove the flag, or pass "
                "images with --dataset and --validation_split"
            )
        with readable(file):
            tensors, _ = read_tensors(file)
            logits, labels = tensors["logits"].numpy(), tensors["labels"].numpy()
        if logits.shape[1] != PaCoConfig.from_pretrained(model).num_labels:
            raise ValueError(f"{file} has {logits.shape[1]} classes, which are not those of {model}: train it again")
        return logits, labels, "held-out training images", ""
    split = load_evaluation(model, dataset, "validation", **data_fields)
    logits, labels, _ = balanced_logits([model], Images(split), split.class_names, **inference)
    return logits, labels, f"images of {split.name}", split.note


def keep_held_out(folder: Path, logits: np.ndarray, labels: np.ndarray) -> str:
    """Write the logits of images that cross-validation held out, for thresholds and temperatures to come.

    Args:
        folder (`Path`): of the run.
        logits (`(N, C)`): of the images, by classifiers that had not seen them.
        labels (`(N,)`): their classes.

    Returns:
        a line, where there are too many to keep; empty otherwise.
    """
    if logits.nbytes > _KEPT:
        return (
            f"the logits of the {len(labels):,} held-out images take {logits.nbytes / 1e9:.1f} GB and are not "
            "stored: paco-hf evaluate --abstain and --calibrate will need a validation split"
        )
    (folder / VALIDATION_FOLDER).mkdir(parents=True, exist_ok=True)
    tensors = {"logits": torch.from_numpy(logits).float(), "labels": torch.from_numpy(np.asarray(labels)).long()}
    save_tensors(tensors, folder / VALIDATION_FOLDER / HELD_OUT_NAME)
    return ""


def abstention_results(logits: np.ndarray, labels: np.ndarray, config: PaCoConfig) -> dict[str, Any]:
    """What abstaining gains and costs on images that were scored.

    Args:
        logits (`(N, C)`): without temperature and prior.
        labels (`(N,)`): true class ids.
        config ([`PaCoConfig`]): whose temperature, prior and rule apply.

    Returns:
        what [`examine_abstention`] gives, with `prior` (whether probabilities are for stored class frequencies) and
        `rule`: the `target` and the `unknown` score that apply, `None` where none do.
    """
    rule, applied = config.abstention or {}, dict[str, Any]()
    if rule.get("thresholds") and thresholds_apply(config):
        applied["target"] = rule["target"]
    if unknown := rule.get("unknown"):
        applied["unknown"] = f"{unknown['score']}={unknown['accepted']:g}"
    answers, abstained = _answers_as_used(logits, config, bool(applied))
    examined = examine_abstention(answers, labels, _weights_as_used(labels, config), config.group_counts, abstained)
    return {"prior": config.inference_prior is not None, "rule": applied or None, **examined}


def abstention_line(results: dict[str, Any]) -> str:
    """What the rule of a checkpoint does on the images that were scored; empty where there is none.

    Args:
        results (`dict`): of [`abstention_results`].
    """
    if not results["rule"]:
        return ""
    shown = [
        (
            f"{name} {one['coverage']:.1%} answered, {one['precision']:.1%} correct ({one['low']:.1%} to "
            f"{one['high']:.1%})"
        )
        for name, one in results["by_prediction"].items()
        if one["precision"] is not None
    ]
    return f"{', '.join(results['rule'].values())}, by predicted group: {'; '.join(shown) or 'no image is answered'}"
