"""`run.json`, the record of a finished run, and its scores as text."""

import datetime
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..arguments.recipes import recipe_names
from ..arguments.run_arguments import RunArguments
from ..arguments.training_args import PaCoTrainingArguments
from ..data.image_split import ImageSplit
from ..data.spec import DataSpec
from ..metrics import HEADLINE, TITLES
from ..models.pretrained_backbones import find_weights, weights_id
from ..utils.hardware import cpu_name
from ..utils.hub_names import model_repository
from ..utils.versions import versions
from .redaction import public_name, public_text

_HASHED = 2**30  # bytes of weights that are hashed, which takes seconds


def run_record(
    run: RunArguments,
    args: PaCoTrainingArguments,
    splits: dict[str, ImageSplit],
    seconds: float,
    notes: Sequence[str] = (),
    preparation: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """What `run.json` holds: the recipe, the commits of data and weights, the images of each split, the time and the
    hardware of the training.

    A split's `selection` is the SHA-256 of its `row label` lines, rows counted in its source.

    Args:
        run (`RunArguments`): of the run.
        args (`PaCoTrainingArguments`): of the run.
        splits (`dict`): images by `train`, `validation` and `test`; `None` where there are none.
        seconds (`float`): of training; NaN where they are not known.
        notes (sequence of `str`, *optional*): what the user should know of the data.
        preparation (mapping, *optional*): seconds of what came before training, by the name that the record has.
    """
    device = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else cpu_name()
    cores = "" if args.device.type == "cuda" else f", {os.cpu_count()} cores"
    return {
        "dataset": public_name(run.dataset),
        "recipe": run.recipe if run.recipe in recipe_names() else None,
        **_weights(run),
        "data": {
            name: {"name": split.public_name, "images": len(split.labels), "selection": split.selection}
            for name, split in splits.items()
        },
        **({"notes": [public_text(note, run) for note in notes]} if notes else {}),
        "training": {
            "seconds": None if math.isnan(seconds) else round(seconds, 1),
            **{name: round(value, 1) for name, value in (preparation or {}).items()},
            "hardware": device + cores,
            "processes": args.world_size,
            "precision": args.resolved_precision,
        },
        "versions": versions(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _weights(run: RunArguments) -> dict[str, Any]:
    """What a run's data and weights are, exactly: commits on the Hub, or of a file of weights a hash."""
    record: dict[str, Any] = {}
    revisions: dict[str, Any] = {}
    if repository := DataSpec.from_settings(vars(run)).repository:
        revisions["data"] = {"repository": repository, "commit": run.dataset_revision}
    if run.backbone and not run.pretrained_file and (run.pretrained or model_repository(run.backbone)):
        record["base_model"] = weights_id(run.backbone)
        if record["base_model"]:
            revisions["weights"] = {"repository": record["base_model"], "commit": run.backbone_revision}
    file = run.pretrained_file or next(iter(find_weights(run.backbone or "")), None)
    if file and os.path.getsize(file) < _HASHED:
        with open(file, "rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        revisions["weights"] = {"file": os.path.basename(file), "sha256": digest}
    return {**record, **({"revisions": revisions} if revisions else {})}


def summary(metrics: dict[str, Any], title: str) -> str:
    """The scores of a run as a small table, in percent."""
    lines = [title, f"{'':>12}" + "".join(f"{TITLES[name].short:>10}" for name in HEADLINE)]
    for split in ("validation", "test"):
        if metrics.get(split):
            values = [metrics[split][column] for column in HEADLINE]
            lines.append(f"{split:>12}" + "".join(f"{'-' if v is None else f'{100 * v:.1f}':>10}" for v in values))
    history = metrics.get("validation_balanced_accuracy_by_step")
    if history:
        selected, last = str(metrics["selected_step"]), list(history)[-1]
        lines.append(
            f"selected the model of step {selected} on the validation split (balanced accuracy "
            f"{100 * history.get(selected, 0):.1f} during training; {100 * history[last]:.1f} at the last step, "
            f"{last})"
        )
    elif folds := metrics.get("cross_validation"):
        low, high = (100 * end for end in folds["balanced_accuracy_95"])
        lines.append(
            f"model of the last step, {metrics['last_step']}, trained on all images; cross-validation of "
            f"{folds['images']} images in {folds['folds']} folds: balanced accuracy {low:.1f} to {high:.1f} (95% "
            "interval)"
        )
        if alone := folds["classes_of_one_image"]:
            lines.append(f"classes with one image, not covered by cross-validation: {alone}")
    elif "last_step" in metrics:
        why = (
            ("evaluated only at the end, so there was no model selection")
            if metrics.get("validation")
            else "no validation split"
        )
        lines.append(f"model of the last step, {metrics['last_step']}; {why}")
    return "\n".join(lines)
