"""From a run to the labels of its data that are probably wrong."""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.image_split import ImageSplit
from ..data.images import Images
from ..evaluation.predictions import Predictions
from ..evaluation.priors import log_frequencies
from ..evaluation.selection import class_mean
from ..evaluation.suspects import (
    Suspect,
    class_mean_logits,
    find_suspects,
    label_scale,
    near_duplicates,
    same_classes,
)
from ..inference.feature_cache import cached_features
from ..inference.load_model import load_for_inference
from ..utils.files import write_text
from .evaluation_data import load_evaluation, names_run_data, read_run, split_predictions

COLUMNS = ("file", "label", "suggested", "probability", "reason")
_WEAK = 0.5  # share of the labels, each class counting alike, below which a model does not know the classes
DUPLICATE = "near-duplicate of {}, which is labeled {}"


@dataclass
class SuspectLabels:
    """What is suspicious about the labels of a split.

    Args:
        split ([`ImageSplit`]): the images.
        predictions ([`Predictions`]): what they are judged by.
        suspects (list of [`Suspect`]): labels that are probably wrong, worst first.
        same_classes (list): pairs of class ids that are probably one class, with the area under the ROC curve.
        notes (list of `str`): what the user should know.
    """

    split: ImageSplit
    predictions: Predictions
    suspects: list[Suspect]
    same_classes: list[tuple[int, int, float]]
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """What files call the images."""
        return self.predictions.file

    def rows(self) -> list[dict[str, Any]]:
        """The suspects by [`COLUMNS`]."""
        classes, labels = self.predictions.class_names, self.predictions.label
        rows = []
        for one in self.suspects:
            label, suggested = classes[labels[one.row]], classes[one.suggested]
            values = (self.names[one.row], label, suggested, round(one.probability, 4), one.reason)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
        return rows


def suspect_labels(
    run_folder: str,
    *,
    dataset: str | None = None,
    split: str | None = None,
    data_fields: dict[str, Any] | None = None,
    number: int | None = None,
    batch_size: int = 256,
    precision: str = "fp32",
) -> SuspectLabels:
    """Look for labels that are probably wrong, for near-duplicates with different labels, and for classes that are
    probably one.

    Training images of a run whose backbone was frozen are judged by the class means of their features, each by means
    without it ([`class_mean_logits`]): of three ways, this finds most wrong labels (`benchmarks/suspects.md`). Other
    images by the model's probabilities; they must not be those that it was trained on, whose labels it knows by heart.

    Args:
        run_folder (`str`): run folder, checkpoint or Hub id.
        dataset (`str`, *optional*): of the images (default: what the run was trained on).
        split (`str`, *optional*): `train`, `validation` or `test` (default: `train` where the backbone was frozen,
            else `validation`).
        data_fields (`dict`, *optional*): other fields of the [`paco_hf.data.spec.DataSpec`].
        number (`int`, *optional*): the worst so many images, suspect or not (default: those that are suspect).
        batch_size, precision (*optional*): as those of [`paco_hf.inference.features.embed_split`].

    Raises:
        ValueError, OSError: no images to judge by, or bad data or checkpoints.
    """
    run = read_run(run_folder)
    trained_on = names_run_data(run, dataset)
    frozen = bool(run.recipe.get("freeze_backbone")) and trained_on
    role = split or ("train" if frozen else "validation")
    if role == "train" and trained_on and not frozen:
        raise ValueError(
            f"{run.name} trained all its weights on the labels of the training images, so it cannot judge them: "
            "use --split validation, or train with --freeze_backbone true on a pretrained backbone"
        )
    images = load_evaluation(run_folder, dataset, role, **(data_fields or {}))
    model, processor = load_for_inference(run_folder, batch_size, precision)
    if len(set(images.labels)) < 2:
        raise ValueError(
            f"{images.name} has images of only one class, so wrong labels cannot be detected: add images of other "
            "classes"
        )
    features, _ = cached_features(model.paco, processor, Images(images), batch_size, precision)
    features, labels, config = features.astype(np.float32), np.asarray(images.labels), model.config
    if frozen and role == "train":
        logits = class_mean_logits(features, labels, config.num_labels)
    else:
        with torch.no_grad():
            logits = model.classifier(torch.from_numpy(features).to(model.device)).float().cpu().numpy()
        if config.logit_counts is not None:  # else rare classes are suspected for being rare
            logits -= log_frequencies(config.logit_counts)
    predictions = split_predictions(images, logits, labels, 1 / label_scale(logits, labels), config)
    suspects, odds = find_suspects(predictions)
    agreed = float(class_mean(predictions.prediction == labels, labels)[0])
    if number:
        suspects = _worst(predictions, suspects, odds, number)
    elif agreed >= _WEAK:  # to a weak model many images look the same
        pairs = near_duplicates(features, labels)
        suspects = _with_duplicates(predictions, suspects, [(a, b) if odds[a] < odds[b] else (b, a) for a, b in pairs])
    same = same_classes(logits, labels)
    notes = [images.note] if images.note else []
    if agreed < _WEAK:
        notes.append(
            f"WARNING: the model agrees with only {100 * agreed:.0f}% of the labels (all classes weighted "
            "equally): it is too weak to judge them, or most labels are wrong"
        )
    if alone := int((np.bincount(labels) == 1).sum()):
        has = "1 class has one image" if alone == 1 else f"{alone} classes have one image each"
        notes.append(f"{has}, whose label cannot be judged")
    return SuspectLabels(images, predictions, suspects, same, notes)


def _worst(predictions: Predictions, suspects: list[Suspect], odds: np.ndarray, number: int) -> list[Suspect]:
    """The images of the lowest odds; those that are no suspects say so."""
    known, result = {one.row: one for one in suspects}, []
    for row in np.argsort(odds, kind="stable")[:number].tolist():
        first, second = predictions.top_classes[row, :2]
        place = 1 if first == predictions.label[row] else 0
        probability = float(predictions.top_probabilities[row, place])
        other = Suspect(row, int(second if place else first), probability, "less certain than others, not suspect")
        result.append(known.get(row, other))
    return result


def _with_duplicates(predictions: Predictions, suspects: list[Suspect], pairs: list[tuple[int, int]]) -> list[Suspect]:
    """The suspects and, after them, of near-duplicates with different labels of which neither is suspect the one whose
    label is the less probable, which comes first in its pair; those that are suspect say which image they are like."""
    known, classes, label = {one.row: one for one in suspects}, predictions.class_names, predictions.label
    result = [*suspects]
    for first, second in pairs:
        for one, other in ((first, second), (second, first)):
            reason = DUPLICATE.format(predictions.file[other], repr(classes[label[other]]))
            if one in known:
                known[one].reason += f"; {reason}"
                known[one].duplicate = other
            elif other not in known and one == first:
                place = predictions.top_classes[one] == label[other]
                probability = float(predictions.top_probabilities[one][place].sum())
                result.append(Suspect(one, int(label[other]), probability, reason, other))
    return result


def write_suspects(outcome: SuspectLabels, file: Path) -> Path:
    """Write the CSV, and beside it a page with thumbnails.

    Args:
        outcome ([`SuspectLabels`]): of [`suspect_labels`].
        file (`Path`): the CSV.

    Returns:
        path of the page.
    """
    from ..reports.suspects_report import write_suspects_page

    text, rows = io.StringIO(newline=""), outcome.rows()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(file, text.getvalue())
    names = outcome.predictions.class_names
    return write_suspects_page(
        file.with_suffix(".html"),
        [*zip(rows, outcome.suspects, strict=True)],
        outcome.split.open,
        title=outcome.split.public_name,
        images=len(outcome.names),
        same=[(names[one], names[other], area) for one, other, area in outcome.same_classes],
    )
