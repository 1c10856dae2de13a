"""A checkpoint as ONNX files of several precisions in the Hub's layout, each with its size, its speed and its accuracy
by how frequent the classes are."""

import importlib.metadata
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from torch import nn

from ..conversion.export_common import label_names
from ..conversion.onnx_forms import FORM_FILES, INT8_KINDS, check_onnx_packages, write_fp16, write_int8
from ..conversion.to_onnx import export_onnx
from ..data.image_split import ImageSplit
from ..data.images import Images
from ..data.spec import public_name
from ..inference.batches import image_batches
from ..inference.load_model import load_classifier, load_processor
from ..inference.onnx_model import OnnxModel, load_onnx
from ..metrics import GROUPS, HEADLINE, TITLES, headline, shot_group
from ..utils.files import new_folder, write_json
from ..utils.hardware import available_cores, cpu_name
from .evaluation_data import load_evaluation

FORMS_NAME = "onnx/forms.json"
_BATCH = 32
_CALIBRATION = 256  # images, where there are no more classes than that; of more classes one each
_MOST_CALIBRATION = 1024


@dataclass(frozen=True)
class OnnxForms:
    """What [`write_onnx_forms`] wrote.

    Attributes:
        folder (`Path`): where it is.
        record (`dict`): what `onnx/forms.json` holds.
        lines (list of `str`): for the user to read.
    """

    folder: Path
    record: dict[str, Any]
    lines: list[str]


def write_onnx_forms(
    run: str,
    folder: str | Path,
    forms: Sequence[str],
    *,
    int8: str | None = None,
    calibration_split: str = "train",
    dataset: str | None = None,
    split: str | None = None,
    **data_fields: Any,
) -> OnnxForms:
    """Write `onnx/model.onnx`, `onnx/model_fp16.onnx` and `onnx/model_quantized.onnx`, as far as they are asked for,
    with `config.json`, `preprocessor_config.json` and `onnx/forms.json`: complete, or not at all.

    Each form is scored on the same images, in turns. Scores are those of the files: a temperature and class
    frequencies that the checkpoint stores are in them.

    Args:
        run (`str`): run folder, checkpoint or Hub id.
        folder (path): does not exist, or is empty.
        forms (sequence of `str`): of `fp32`, `fp16` and `int8`.
        int8 (`str`, *optional*): `static` or `dynamic`, as [`write_int8`] has them (default: `static` where
            convolutions hold most of the weights).
        calibration_split (`str`, *optional*, defaults to `"train"`): whose images the ranges of static int8 are from.
        dataset (`str`, *optional*): of the images (default: what the run was trained on).
        split (`str`, *optional*): to score on (default: the test split, where there is none the validation split).
        data_fields (*optional*): other fields of the [`paco_hf.data.spec.DataSpec`].

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is not installed.
        ValueError: an unknown form, a model that cannot be converted, no images to score on.
        OSError: the checkpoint or the images cannot be had.
    """
    if not forms or set(forms) - FORM_FILES.keys():
        raise ValueError(f"forms must be some of {', '.join(FORM_FILES)}, got {', '.join(forms) or 'none'}")
    if int8 not in (None, *INT8_KINDS):
        raise ValueError(f"int8 must be {' or '.join(INT8_KINDS)}, got {int8!r}")
    forms = [form for form in FORM_FILES if form in forms]
    check_onnx_packages()
    model, processor = load_classifier(run), load_processor(run)
    kind = int8 or _fitting_int8(model)
    scored = _scored_images(run, dataset, split, data_fields)
    calibration = None
    if "int8" in forms and kind == "static":
        calibration = _calibration_images(run, dataset, calibration_split, data_fields, scored)
    with new_folder(folder) as made:
        source = _export(model, processor, made)
        if "fp16" in forms:
            write_fp16(source, source.with_name(FORM_FILES["fp16"]))
        if "int8" in forms:
            batches = _batches(calibration, processor) if calibration else []
            write_int8(source, source.with_name(FORM_FILES["int8"]), kind, batches)
        record = _record(run, made, ["fp32", *(form for form in forms if form != "fp32")], scored, model.config)
        if "int8" in forms:
            about = {"images": len(calibration.labels), "split": calibration.public_name} if calibration else None
            record["int8"] = {"kind": kind, "calibration": about}
        if "fp32" not in forms:  # the others were compared with it
            source.unlink()
            record["forms"]["fp32"]["file"] = None
        write_json(made / FORMS_NAME, record)
    return OnnxForms(Path(folder), record, _lines(record, model.config))


def _fitting_int8(model: Any) -> str:
    """`static` where convolutions hold most of the weights, else `dynamic`."""
    sizes = {kind: 0 for kind in (nn.Conv2d, nn.Linear)}
    for module in model.paco.backbone.modules():
        for kind in sizes:
            sizes[kind] += module.weight.numel() if isinstance(module, kind) else 0
    return "static" if sizes[nn.Conv2d] >= sizes[nn.Linear] else "dynamic"


def _scored_images(run: str, dataset: str | None, split: str | None, fields: dict[str, Any]) -> ImageSplit:
    about = "ONNX forms are evaluated on images"
    try:
        if split is not None:
            return load_evaluation(run, dataset, split, **fields)
        try:
            return load_evaluation(run, dataset, "test", **fields)
        except ValueError as error:
            try:
                return load_evaluation(run, dataset, "validation", **fields)
            except (ValueError, OSError):
                raise error from None
    except (ValueError, OSError) as error:
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"{about}: {error}") from error


def _calibration_images(
    run: str, dataset: str | None, split: str, fields: dict[str, Any], scored: ImageSplit
) -> ImageSplit:
    """A few hundred images, of each class alike as far as it has them: of what the run was trained on, where that can
    be had, else of the data that is scored."""
    try:
        try:
            images = load_evaluation(run, None, split, **({} if dataset else fields))
        except (ValueError, OSError):
            if dataset is None:
                raise
            images = load_evaluation(run, dataset, split, **fields)
        same_data = (images.dataset, images.selection) == (scored.dataset, scored.selection)
        if same_data and scored.source_split in (None, images.source_split):
            raise ValueError(
                f"the forms are evaluated on {scored.name}, which cannot also calibrate them: use "
                "another --calibration_split"
            )
    except (ValueError, OSError) as error:
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"static int8 needs calibration images (--int8 dynamic needs none): {error}") from error
    return images.select(calibration_rows(images.labels))


def calibration_rows(labels: Sequence[int]) -> list[int]:
    """Rows of images whose classes are as equally frequent as they can be, the same at each call.

    Args:
        labels (sequence of `int`): class of each image.
    """
    order = np.random.RandomState(0).permutation(len(labels))
    turn: list[int] = []  # how many of its class come before each image
    before: dict[int, int] = {}
    for row in order:
        turn.append(before.get(labels[row], 0))
        before[labels[row]] = turn[-1] + 1
    number = max(_CALIBRATION, min(len(before), _MOST_CALIBRATION))
    return [int(row) for row in order[np.argsort(turn, kind="stable")][:number]]


def _batches(images: ImageSplit, processor: Any) -> list[np.ndarray]:
    batches = image_batches(Images(images), [processor], _BATCH, "calibration images")
    return [pixels.numpy() for (pixels,) in batches]


def _export(model: Any, processor: Any, folder: Path) -> Path:
    """Write the float32 file and what describes it; gives the file's path."""
    # Images come as the processor leaves them: for a size of any other kind some backbones take minutes to export.
    made = export_onnx(model, folder / "exported", image_processor=processor, dynamic_size=False)
    source = folder / "onnx" / FORM_FILES["fp32"]
    source.parent.mkdir()
    made.file.rename(source)
    for file in made.file.parent.iterdir():
        file.rename(folder / file.name)
    made.file.parent.rmdir()
    names = label_names(model)
    config = {
        # transformers.js and Optimum know image classifiers by transformers' own types alone, and run all files alike.
        "model_type": "resnet",
        "architectures": ["ResNetForImageClassification"],
        "backbone": model.config.backbone,
        "id2label": dict(enumerate(names)),
        "label2id": {name: label for label, name in enumerate(names)},
        "num_channels": 3,
        "image_size": model.config.image_size,
    }
    write_json(folder / "config.json", config)
    return source


def _record(run: str, folder: Path, forms: list[str], images: ImageSplit, config: Any) -> dict[str, Any]:
    """Run each form on the images, in turns, and say what became of them."""
    files = {form: folder / "onnx" / FORM_FILES[form] for form in forms}
    models = {form: load_onnx(file) for form, file in files.items()}
    predicted, speed = _predictions(models, images)
    labels = np.asarray(images.labels)
    group = shot_group(np.asarray(config.group_counts))[labels] if config.group_counts else None
    described = {}
    for form, file in files.items():
        described[form] = {
            "file": f"onnx/{file.name}",
            "bytes": file.stat().st_size,
            "images_per_second": round(1 / speed[form][0], 1),
            "cpu_seconds_per_image": round(speed[form][1], 6),
            "scores": {name: headline(predicted[form], labels, config)[name] for name in HEADLINE},
        }
        if form != "fp32":
            described[form]["changed"] = _changed(predicted["fp32"], predicted[form], images, group)
    return {
        "model": Path(run).resolve().name if Path(run).exists() else run,
        "dataset": public_name(images.dataset),
        "split": images.public_name,
        "selection": images.selection,
        "images": len(labels),
        "machine": {
            "cpu": cpu_name(),
            "threads": available_cores(),
            "load_average": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
            "batch_size": _BATCH,
            "versions": {name: importlib.metadata.version(name) for name in ("torch", "timm", "onnx", "onnxruntime")},
        },
        "forms": described,
    }


def _predictions(
    models: dict[str, OnnxModel], images: ImageSplit
) -> tuple[dict[str, np.ndarray], dict[str, tuple[float, float]]]:
    """Top-1 of each form `(N,)`, and its seconds an image, the median over the batches, without their preparation: by
    the clock, and of all cores together, which what else the computer does changes little."""
    (processor,) = {model.processor.to_json_string(): model.processor for model in models.values()}.values()
    best: dict[str, list[np.ndarray]] = {form: [] for form in models}
    seconds: dict[str, list[tuple[float, float]]] = {form: [] for form in models}
    for (pixels,) in image_batches(Images(images), [processor], _BATCH, f"evaluating {images.name}"):
        array = pixels.numpy()
        for form, model in models.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            logits = model.logits(array)
            spent = time.perf_counter() - start, time.process_time() - cpu_start
            seconds[form].append((spent[0] / len(array), spent[1] / len(array)))
            best[form].append(logits.argmax(axis=1))
    # The first batch finds nothing allocated.
    kept = {form: zip(*(times[1:] or times), strict=True) for form, times in seconds.items()}
    speed = {form: (median(next(times)), median(next(times))) for form, times in kept.items()}
    return {form: np.concatenate(parts) for form, parts in best.items()}, speed


def _changed(before: np.ndarray, after: np.ndarray, images: ImageSplit, group: np.ndarray | None) -> dict[str, Any]:
    """Where two forms differ: of which groups, for the worse or better, and in which rows of the split's source."""
    labels, names = np.asarray(images.labels), images.class_names
    worse, better = (before == labels) & (after != labels), (before != labels) & (after == labels)
    rows = np.flatnonzero(before != after)

    def counted(which: np.ndarray) -> dict[str, int]:
        by_group = (
            {name: int((which & (group == i)).sum()) for i, name in enumerate(GROUPS)} if group is not None else {}
        )
        return {"all": int(which.sum()), **by_group}

    return {
        "images": len(rows),
        "right_to_wrong": counted(worse),
        "wrong_to_right": counted(better),
        "rows": [
            {
                "row": images.source_row(int(i)),
                "label": names[labels[i]],
                "fp32": names[before[i]],
                "form": names[after[i]],
            }
            for i in rows
        ],
    }


def _lines(record: dict[str, Any], config: Any) -> list[str]:
    """The record as a table."""
    heads = [TITLES[name].short for name in HEADLINE]
    lines = [
        f"{'form':<6}{'MB':>8}{'images/s':>10}{'CPU ms':>8}" + "".join(f"{head:>10}" for head in heads) + "   changed"
    ]
    for form, about in record["forms"].items():
        values = [about["scores"][name] for name in HEADLINE]
        shown = "".join(f"{'-' if value is None else f'{100 * value:.1f}':>10}" for value in values)
        line = f"{form:<6}{about['bytes'] / 1e6:>8.1f}{about['images_per_second']:>10.1f}"
        line += f"{1000 * about['cpu_seconds_per_image']:>8.1f}{shown}"
        if changed := about.get("changed"):
            groups = [
                f"{name} {changed['right_to_wrong'][name]}/{changed['wrong_to_right'][name]}"
                for name in GROUPS
                if name in changed["right_to_wrong"]
            ]
            line += f"   {changed['images']}" + (f" (now wrong/now correct: {', '.join(groups)})" if groups else "")
        lines.append(line)
    if config.abstention is not None:
        lines.append("the abstention thresholds are only in the metadata of the files")
    machine = record["machine"]
    where = f"{machine['cpu']}, {machine['threads']} threads, batches of {machine['batch_size']}"
    lines.append(f"{record['images']:,} images of {record['split']}; {where}")
    if about := record.get("int8"):
        images = about["calibration"]
        ranges = f", activation ranges from {images['images']:,} images of {images['split']}" if images else ""
        lines.append(f"int8: {about['kind']}{ranges}")
    if config.inference_prior is not None:
        lines.append(
            "these scores use the class frequencies stored in the checkpoint, unlike the scores of `evaluate`"
        )
    return lines
