"""From a run and photos of a class that it does not know to a run with that class, without training: measured first,
then written."""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..conversion.imprinting import Imprinter, common_direction, has_abstention
from ..data.image_split import ImageSplit
from ..data.sources.labels import look_alike
from ..data.spec import SPLITS_NAME
from ..evaluation.selection import same_images
from ..inference.batches import ImageFiles
from ..inference.load_model import load_for_inference
from ..inference.unlabeled import find_images
from ..metrics import HEADLINE, TITLES, headline
from ..models.modeling_paco import PaCoForImageClassification
from ..reports.model_card import write_card
from ..runs.folder import RunFolder
from ..runs.layout import ADDED_NAME, CONVERSION_NAME, RECIPE_NAME, RUN_NAME
from ..utils.files import check_new_folder, new_folder, write_json
from .addition_data import AdditionSplits, FeatureReader, class_sample
from .evaluation_data import read_run

LEAST_PHOTOS = 5  # of which each is told by the others
_BLOCK = 4096  # images whose logits are computed at a time


@dataclass
class Addition:
    """A class that a model gets, measured and not yet written.

    Args:
        model (`PaCoForImageClassification`): that has the class.
        processor (image processor): of the run.
        run ([`RunFolder`]): that it is made from.
        record (`dict`): what was measured, an entry of `added_classes.json`.
        notes (list of `str`): what the user should know.
    """

    model: PaCoForImageClassification
    processor: Any
    run: RunFolder
    record: dict[str, Any]
    notes: list[str]

    def lines(self) -> list[str]:
        """What was measured, for the user to read."""
        record, name = self.record, self.record["name"]
        lines = [
            f"{name!r}: class {record['label']}, center computed from {record['images']} photos; the common part "
            f"of the features comes from {record['common_part']}"
        ]
        tests = {"left_one_out": "photos (leave-one-out)", "held_out": "images of {split}"}
        for key, images in tests.items():
            if scores := record[key]:
                taken = ", ".join(f"{other!r} {count}" for other, count in scores["taken_for"].items())
                line = f"recognized: {scores['right']} of {scores['images']} {images.format(**scores)}"
                lines.append(f"{line}; the others were predicted as {taken}" if taken else line)
        if old := record["other_classes"]:
            columns = "".join(f"{TITLES[key].short:>10}" for key in HEADLINE)
            lines.append(f"accuracy on {old['images']} images of the other classes ({old['split']}), before and after")
            lines.append(f"{'':>8}{columns}")
            for when in ("before", "after"):
                values = (f"{'-' if v is None else f'{100 * v:.1f}':>10}" for v in old[when].values())
                lines.append(f"{when:>8}{''.join(values)}")
            lost = [f"{entry['class']!r} {entry['lost']} of {entry['images']}" for entry in old["lost"]]
            lines.append(f"classes with images now predicted as {name!r}: {', '.join(lost) or 'none'}")
        return [*lines, *self.notes]

    def check_loss(self, most: float) -> None:
        """That the other classes lose no more balanced accuracy than they may.

        Args:
            most (`float`): 0 to 1.

        Raises:
            ValueError: they lose more, or it was not measured.
        """
        old = self.record["other_classes"]
        if old is None:
            raise ValueError("--max_loss needs images of the other classes: pass them with --dataset")
        loss = old["before"]["balanced_accuracy"] - old["after"]["balanced_accuracy"]
        if loss > most:
            raise ValueError(
                f"the other classes lose {100 * loss:.2f} points of balanced accuracy, more than --max_loss "
                f"{most:g} allows, so nothing is written: use other photos, or train with the class"
            )

    def write(self, output_dir: str | Path) -> Path:
        """Write a complete folder with a card, or nothing.

        Args:
            output_dir (path): new.
        """
        with new_folder(output_dir) as made:
            self.model.save_pretrained(made)
            self.processor.save_pretrained(made)
            for name in (RECIPE_NAME, RUN_NAME, SPLITS_NAME, CONVERSION_NAME):  # of the training, which stays the same
                if (self.run.home / name).is_file():
                    shutil.copyfile(self.run.home / name, made / name)
            write_json(made / ADDED_NAME, {"classes": [*self.run.added, self.record]})
            write_card(made)
        return Path(output_dir)


def add_class(
    run: str | Path,
    photos: Sequence[str | Path] | ImageFiles,
    name: str,
    output_dir: str | Path,
    *,
    max_loss: float | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Add a class to a trained classifier without training, into a new run folder.

    Args:
        run (path): run folder, checkpoint or Hub id; it stays as it is.
        photos (sequence of paths, or [`ImageFiles`]): images of the class, as for
            [`paco_hf.inference.unlabeled.find_images`].
        name (`str`): of the class.
        output_dir (path): new folder.
        max_loss (`float`, *optional*): the balanced accuracy that the other classes may lose, 0 to 1; where they lose
            more nothing is written.
        settings (*optional*): other arguments of [`measure_addition`].

    Returns:
        the entry of `added_classes.json`: `name`, `label`, `images`, `copies` and `undecodable` that were left out,
        `left_one_out` and `held_out` (how many images of the class are recognized), and `other_classes`: their scores
        `before` and `after`, and which are `lost` to the new one. `None` is what could not be measured.

    Raises:
        ValueError, OSError: as [`measure_addition`]; the folder is not new; the loss is too large.
    """
    check_new_folder(output_dir)
    addition = measure_addition(run, photos, name, **settings)
    if max_loss is not None:
        addition.check_loss(max_loss)
    addition.write(output_dir)
    return addition.record


def measure_addition(
    run: str | Path,
    photos: Sequence[str | Path] | ImageFiles,
    name: str,
    *,
    dataset: str | None = None,
    split: str | None = None,
    batch_size: int = 64,
    precision: str = "fp32",
    **data_fields: Any,
) -> Addition:
    """Make a class of photos, and measure what it does to the others.

    Args:
        run, photos, name: as those of [`add_class`].
        dataset (`str`, *optional*): to measure with (default: what the run was trained on).
        split (`str`, *optional*): which images (default: the test, where there is none the validation split, else what
            the run was trained on).
        batch_size, precision (*optional*): as those of [`paco_hf.inference.feature_cache.extract_features`].
        data_fields (*optional*): other fields of the [`paco_hf.data.spec.DataSpec`].

    Raises:
        ValueError: the name is empty, or that of a class; no photo can be decoded; images that were asked for cannot
            be had; a linear classifier without images of its classes; a model with stored class frequencies.
        OSError: a path or the model does not exist.
    """
    source = read_run(run)
    _check_name(name, source)
    images = photos if isinstance(photos, ImageFiles) else ImageFiles(find_images(photos), strict=False)
    model, processor = load_for_inference(str(run), batch_size, precision)
    Imprinter(model, torch.zeros(1))  # refuses a stored prior before images are computed
    splits = AdditionSplits(source, name, dataset, split, data_fields)
    reference, scored = splits.reference(), splits.scored
    if reference is None and model.config.classifier == "linear":
        raise ValueError(
            f"{source.name} has a linear classifier, and adding a class to it needs images of the other classes, "
            f"which are not available ({splits.reason}): pass them with --dataset"
        )
    features = FeatureReader(model, processor, batch_size, precision)
    photo_features = features.photos(images, name)
    # A copy tells nothing more, and would be recognized by itself.
    distinct = photo_features[torch.from_numpy(np.unique(same_images(photo_features.numpy())))]
    common, common_part = None, "the mean of the class centers"
    if reference is not None:
        labels = np.asarray(reference.labels)
        rows = class_sample(labels, model.config.num_labels)
        common = common_direction(features.split(reference, rows), torch.from_numpy(labels[rows]))
        common_part = f"{len(rows):,} images of {reference.public_name}"
    scored_features = None if scored is None else features.split(scored)
    imprinter = Imprinter(model.cpu(), common)
    made = imprinter.with_class(name, distinct)
    record = {
        "name": name,
        "label": model.config.num_labels,
        "images": len(distinct),
        "copies": len(photo_features) - len(distinct),
        "undecodable": len(images.errors),
        "made_from": Path(source.name).resolve().name,
        "common_part": common_part,
        "left_one_out": _left_one_out(imprinter, distinct),
        "held_out": None,
        "other_classes": None,
    }
    if scored is not None and scored_features is not None:
        record |= _compare(model, made, scored, scored_features, distinct)
    notes = [*filter(None, [splits.note]), *_notes(record, model)]
    return Addition(made, processor, source, record, notes)


def _check_name(name: str, run: RunFolder) -> None:
    known = [str(other) for other in (run.config.get("id2label") or {}).values()]
    if not name.strip():
        raise ValueError(f"--name must be the name of the new class, got {name!r}")
    if name in known or look_alike(name, known):
        raise ValueError(
            f"{run.name} already has a class {name!r}{'' if name in known else look_alike(name, known)}: use "
            "another --name; to use more photos of an existing class, train again"
        )


def _left_one_out(imprinter: Imprinter, features: Tensor) -> dict[str, Any] | None:
    if len(features) < LEAST_PHOTOS:
        return None
    names = imprinter.model.config.id2label
    return _recognized(imprinter.left_out_logits(features).argmax(1).numpy(), names)


def _recognized(predicted: np.ndarray, names: dict[int, str]) -> dict[str, Any]:
    """Count the images predicted as the new class (it is not in `names`), and the classes predicted for the others."""
    taken = Counter(names[c] for c in predicted.tolist() if c in names)
    return {"images": len(predicted), "right": len(predicted) - taken.total(), "taken_for": dict(taken.most_common(5))}


def _compare(
    model: PaCoForImageClassification,
    made: PaCoForImageClassification,
    scored: ImageSplit,
    features: Tensor,
    photos: Tensor,
) -> dict[str, Any]:
    """`other_classes` and `held_out` of the record."""
    labels, config, new = np.asarray(scored.labels), model.config, model.config.num_labels
    before, after = (_predicted(one, features) for one in (model, made))
    others = labels < new
    if not others.any():
        raise ValueError(f"{scored.name} has no images of the model's classes: pass images of them")
    lost = Counter(labels[others & (before == labels) & (after == new)].tolist())
    shown = {
        "before": headline(before[others], labels[others], config),
        "after": headline(after[others], labels[others], made.config),
    }
    images, names = np.bincount(labels, minlength=new), config.id2label
    old = {
        "split": scored.public_name,
        "role": scored.role,
        "images": int(others.sum()),
        **{when: {key: scores[key] for key in HEADLINE} for when, scores in shown.items()},
        "lost": [{"class": names[c], "images": int(images[c]), "lost": n} for c, n in lost.most_common()],
    }
    held_out = None
    rows = np.flatnonzero(~others)
    # The photos themselves may be among these images.
    copies = same_images(torch.cat([photos, features[rows]]).numpy())
    if len(rows := rows[~np.isin(copies[len(photos) :], copies[: len(photos)])]):
        held_out = {"split": scored.public_name, **_recognized(after[rows], names)}
    return {"other_classes": old, "held_out": held_out}


@torch.no_grad()
def _predicted(model: PaCoForImageClassification, features: Tensor) -> np.ndarray:
    weight = model.classifier.weight
    parts = [model.classifier(part.to(weight)).argmax(1) for part in features.split(_BLOCK)]
    return torch.cat(parts).cpu().numpy()


def _notes(record: dict[str, Any], model: PaCoForImageClassification) -> list[str]:
    """What the user should know of how it was made."""
    notes = []
    if record["copies"]:
        notes.append(f"{record['copies']} photos are exact copies of others and are skipped")
    if record["left_one_out"] is None:
        known = "so only the other images show" if record["held_out"] else "so it is unknown"
        notes.append(f"fewer than {LEAST_PHOTOS} different photos, {known} how well the class is recognized")
    if not model.config.balanced_logits and model.config.classifier == "cosine":
        notes.append(
            "the classifier has no bias, so the logit of the new class does not depend on its number of images, "
            "unlike the other classes, which were trained without class prior"
        )
    if has_abstention(model.config):
        notes.append(
            "the stored abstention thresholds do not cover the new class and are removed: choose new "
            "ones with `paco-hf evaluate --abstain`"
        )
    return notes
