"""From a checkpoint, or several, to scores on a data set and to predictions for image files."""

import copy
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm
from transformers import AutoImageProcessor

from .allocator import keep_freed_memory
from .calibration import MIN_FREQUENCY, estimate_prior
from .configuration_paco import PaCoConfig
from .data.splits import IMAGE_SUFFIXES, Images, open_image
from .data.views import EvaluationDataset, ImageCollator
from .distributed import gather_rows, own_cores
from .evaluation import headline
from .inference import check_inference, fast_forward, inference_device
from .lora import ADAPTER_NAME
from .modeling_paco import PaCoForImageClassification


def score(
    model_folders: str | Path | Sequence[str | Path],
    images: Images,
    batch_size: int = 256,
    precision: str = "fp32",
    compile: bool = False,
) -> dict[str, Any]:
    """Long-tailed accuracy of a checkpoint on labelled images, over all processes; of several, that of their ensemble.

    It is that of the balanced logits: a temperature or inference prior in the configuration is left aside. The logits
    of several checkpoints are averaged (GPaCo's ensemble rows), each with its own image processor. `precision` and
    `compile` are those of [`paco_hf.inference.fast_forward`]; in float32 the scores are those of `pipeline`. A
    checkpoint without class counts has no groups: many, medium and few are `None`.

    Raises:
        ValueError: a checkpoint has fewer classes than the images; checkpoints of other classes.
    """
    models = _load(model_folders)
    logits, labels = _all_logits(models, images, batch_size, precision, compile)
    return headline(logits, labels, group_counts(next(iter(models.values())).config))


def evaluate(
    model_folders: str | Path | Sequence[str | Path],
    split: Any,
    class_names: list[str],
    batch_size: int = 256,
    precision: str = "fp32",
    compile: bool = False,
) -> dict[str, Any]:
    """[`score`] on a split whose classes must be those of the checkpoints.

    Raises:
        ValueError: classes with other names, or in another order.
    """
    logits, labels, config = balanced_logits(model_folders, Images(split), class_names, batch_size, precision, compile)
    return headline(logits, labels, group_counts(config))


def balanced_logits(
    model_folders: str | Path | Sequence[str | Path],
    images: Images,
    class_names: list[str],
    batch_size: int = 256,
    precision: str = "fp32",
    compile: bool = False,
) -> tuple[np.ndarray, np.ndarray, PaCoConfig]:
    """What a checkpoint, or several, make of the images of a split whose classes must be those of the checkpoints.

    Returns:
        logits `(N, C)` in float32, without temperature and inference prior, of several checkpoints their mean; labels
        `(N,)`; the configuration of the first checkpoint, as stored. In all processes alike.

    Raises:
        ValueError: classes with other names, or in another order.
    """
    check_inference(precision, batch_size)
    split = images.split
    models = _load(model_folders)
    folder, model = next(iter(models.items()))
    stored = copy.deepcopy(model.config)
    own = model.config.id2label
    for label, name in enumerate(class_names):
        # A class whose name is its number, in the data or as transformers puts it, has none.
        named = name != str(label) and own.get(label) != f"LABEL_{label}"
        if named and label in own and own[label] != name:
            raise ValueError(
                f"class {label} is {name!r} in {split.name}, but {own[label]!r} in {folder}: not the classes "
                "it was trained on"
            )
    return *_all_logits(models, images, batch_size, precision, compile), stored


def _load(model_folders: str | Path | Sequence[str | Path]) -> dict[str, PaCoForImageClassification]:
    """The checkpoints by folder; they must have the same classes and groups."""
    folders = [model_folders] if isinstance(model_folders, str | Path) else list(model_folders)
    models = {os.path.normpath(folder): load_classifier(folder) for folder in folders}
    if len(models) < len(folders):
        raise ValueError(f"a checkpoint is given twice: {', '.join(map(str, folders))}")
    first, *others = models
    for other in others:
        compared = (
            ("classes", lambda c: c.id2label),
            ("class counts", group_counts),
            ("balanced_logits", lambda c: c.balanced_logits),
        )
        for name, of in compared:
            if of(models[first].config) != of(models[other].config):
                raise ValueError(f"{first} and {other} have other {name}, so their logits cannot be averaged")
    return models


def group_counts(config: PaCoConfig) -> list[int] | None:
    """Training images of each class, by which the groups many, medium and few are formed."""
    return config.selection_counts or config.class_counts


class _Collator:
    """Batches of whole images through the image processor of each checkpoint; equal processors work once."""

    def __init__(self, folders: Sequence[str]) -> None:
        collators = [ImageCollator(AutoImageProcessor.from_pretrained(folder)) for folder in folders]
        settings = [collator.image_processor.to_dict() for collator in collators]
        self.which = [settings.index(own) for own in settings]
        self.collators = {i: collators[i] for i in self.which}

    def __call__(self, items: list[dict[str, Any]]) -> list[Tensor]:
        pixels = {i: collate(items)["pixel_values"] for i, collate in self.collators.items()}
        return [pixels[i] for i in self.which]


def _all_logits(
    models: dict[str, PaCoForImageClassification], images: Images, batch_size: int, precision: str, compile: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The logits `(N, C)` and labels `(N,)` of all images, in their order, in every process."""
    labels, name = images.split.labels, images.split.name
    folder, model = next(iter(models.items()))
    classes = model.config.num_labels
    if max(labels) >= classes:
        raise ValueError(f"{name} has label {max(labels)}, but {folder} has {classes} classes, 0 to {classes - 1}")
    state = PartialState(cpu=not torch.accelerator.is_available())
    keep_freed_memory()
    for model in models.values():
        model.config.temperature = model.config.inference_prior = None
    forwards = [fast_forward(model.to(state.device), precision, compile) for model in models.values()]
    dataset = EvaluationDataset(images, labels)
    # Neighbours, which are read together.
    first, last = (len(dataset) * (state.process_index + i) // state.num_processes for i in (0, 1))
    own = range(first, last)
    loader = DataLoader(
        Subset(dataset, own),
        batch_size,
        num_workers=0 if images.decoded is not None else own_cores(),
        collate_fn=_Collator(list(models)),
    )
    shown = state.is_main_process and len(loader) > 1
    progress = tqdm(loader, desc=f"scoring {name}", unit=" batches", disable=None if shown else True)
    # A process may have no image at all.
    parts = [torch.empty(0, classes, device=state.device)]
    for views in progress:
        logits = [forward(pixels) for forward, pixels in zip(forwards, views, strict=True)]
        parts.append(torch.stack(logits).mean(0))
    # The ranks have consecutive images.
    return torch.cat(gather_rows(torch.cat(parts))).cpu().numpy(), np.asarray(labels)


def predict(
    model_folder: str,
    paths: list[str],
    top: int = 5,
    batch_size: int = 32,
    precision: str = "fp32",
    prior: str | None = None,
) -> list[dict[str, Any]]:
    """Classify image files and folders of them, in the precision of [`paco_hf.inference.fast_forward`].

    Args:
        prior (`str`, *optional*): how frequent the classes are among the images, instead of what the model has stored:
            `training`: as in training; `none`: all alike; or a file that [`estimate_prior_of_files`] wrote.

    Returns:
        one `{"file", "label", "score", "top"}` an image, `top` being a list of `{"label", "score"}`, best first.

    Raises:
        ValueError: an image cannot be decoded, a folder has none, or the prior is not this model's.
        OSError: a path or the model does not exist.
    """
    if top < 1:
        raise ValueError(f"--top must be at least 1, got {top}")
    check_inference(precision, batch_size)
    keep_freed_memory()
    files = image_files(paths)
    model = load_classifier(model_folder).to(inference_device())
    if prior is not None:
        model.set_prior(read_prior(prior, model_folder, model.config))
    processor = AutoImageProcessor.from_pretrained(model_folder)
    return classify(fast_forward(model, precision), model.config, processor, files, top, batch_size)


def read_prior(prior: str, model_folder: str, config: PaCoConfig) -> list[float] | None:
    if prior == "none":
        return None
    if prior == "training":
        if config.class_counts is None:
            raise ValueError(f"{model_folder} does not say how frequent its classes were in training: --prior FILE")
        return [max(count, 0.5) for count in config.class_counts]
    try:
        stored = json.loads(Path(prior).read_text(encoding="utf-8"))
        found = {entry["label"]: float(entry["frequency"]) for entry in stored["classes"]}
        wrong = next((label for label, value in found.items() if not 0 <= value < math.inf), None)
        if wrong is not None or sum(found.values()) <= 0:
            said = "all frequencies are 0" if wrong is None else f"the frequency of {wrong!r} is {found[wrong]}"
            raise ValueError(f"{said}, which is no share of images")
    except OSError as error:
        raise OSError(f"--prior must be training, none or a file, got {prior!r} ({error})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{prior} is not what `paco-hf estimate-prior --output` writes ({error})") from error
    names = [config.id2label[c] for c in range(config.num_labels)]
    if set(found) != set(names):
        odd = sorted(set(found) ^ set(names), key=str)[0]
        raise ValueError(f"{prior} is of other classes than {model_folder}: {odd!r} is in one of the two only")
    return [max(found[name], MIN_FREQUENCY) for name in names]


def classify(
    forward: Callable[[Tensor], Tensor],
    config: PaCoConfig,
    processor: Any,
    files: list[Path],
    top: int,
    batch_size: int,
) -> list[dict[str, Any]]:
    """[`predict`] with a model that is loaded: `forward` maps images `(B, 3, H, W)` to logits `(B, C)`."""
    results = []
    for batch, logits in _file_logits(forward, processor, files, batch_size):
        scores, labels = logits.softmax(-1).topk(min(top, config.num_labels))
        for file, row_scores, row_labels in zip(batch, scores.tolist(), labels.tolist(), strict=True):
            ranked = [{"label": config.id2label[c], "score": s} for c, s in zip(row_labels, row_scores, strict=True)]
            results.append({"file": str(file), **ranked[0], "top": ranked})
    return results


def _file_logits(
    forward: Callable[[Tensor], Tensor], processor: Any, files: list[Path], batch_size: int
) -> Iterator[tuple[list[Path], Tensor]]:
    """The files in batches, with their logits `(B, C)`."""
    for batch, pixels in open_files(processor, files, batch_size, "classifying"):
        yield batch, forward(pixels)


def open_files(processor: Any, files: list[Path], batch_size: int, doing: str) -> Iterator[tuple[list[Path], Tensor]]:
    """The files in batches, with their images `(B, 3, H, W)` made ready by the image processor."""
    with tqdm(
        total=len(files), desc=doing, unit=" images", disable=None if len(files) > batch_size else True
    ) as progress:
        for start in range(0, len(files), batch_size):
            batch = files[start : start + batch_size]
            images = [open_image(file, str(file)) for file in batch]
            yield batch, processor(images, return_tensors="pt")["pixel_values"]
            progress.update(len(batch))


def estimate_prior_of_files(
    model_folder: str,
    paths: list[str],
    resamples: int = 200,
    batch_size: int = 32,
    precision: str = "fp32",
) -> list[dict[str, Any]]:
    """How frequent the classes are among unlabelled image files ([`paco_hf.calibration.estimate_prior`]).

    The model's temperature is applied, a prior that it has stored is not.

    Returns:
        `{"label", "frequency", "low", "high"}` of each class, in the order of the model's.

    Raises:
        ValueError: an image cannot be decoded, or a folder has none.
        OSError: a path or the model does not exist.
    """
    check_inference(precision, batch_size)
    if resamples < 1:
        raise ValueError(f"--resamples must be 1 or more, got {resamples}; the usual number is 200")
    keep_freed_memory()
    files = image_files(paths)
    model = load_classifier(model_folder).to(inference_device())
    # EM starts from probabilities for equally frequent classes, whatever the logits are for.
    model.set_prior([1] * model.config.num_labels)
    processor = AutoImageProcessor.from_pretrained(model_folder)
    forward = fast_forward(model, precision)
    rows = [logits.double().softmax(-1).cpu() for _, logits in _file_logits(forward, processor, files, batch_size)]
    estimate = estimate_prior(torch.cat(rows).numpy(), resamples=resamples)
    columns = (estimate[key].tolist() for key in ("prior", "low", "high"))
    return [
        {"label": model.config.id2label[c], "frequency": frequency, "low": low, "high": high}
        for c, (frequency, low, high) in enumerate(zip(*columns, strict=True))
    ]


def load_classifier(model: str | Path) -> PaCoForImageClassification:
    """A checkpoint, of a folder or from the Hub; `OSError` where it is neither."""
    try:
        return PaCoForImageClassification.from_pretrained(model)
    except OSError as error:
        if (Path(model) / ADAPTER_NAME).is_file():
            raise OSError(
                f"{model} has adapters without the weights that they adapt, to resume training from: the run's folder "
                "has the merged model"
            ) from error
        if Path(model).is_dir():
            raise
        raise OSError(
            f"{str(model)!r} is no local folder, and cannot be loaded from the Hub ({str(error).splitlines()[0]})"
        ) from error


def image_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files, and the image files in the folders, sorted within each."""
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
            if not found:
                raise ValueError(f"the folder {path} has no image files")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise OSError(f"{path} does not exist")
    return files
