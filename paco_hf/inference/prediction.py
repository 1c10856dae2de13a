"""Image files classified, and their class frequencies."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoImageProcessor

from ..evaluation.prior_estimation import MIN_FREQUENCY, estimate_prior
from ..models.configuration_paco import PaCoConfig
from ..utils.images import IMAGE_SUFFIXES, open_image
from ..utils.memory import keep_freed_memory
from .forward import check_inference, fast_forward, inference_device
from .load_model import load_classifier


def predict(
    model_folder: str,
    paths: list[str],
    top: int = 5,
    batch_size: int = 32,
    precision: str = "fp32",
    prior: str | None = None,
) -> list[dict[str, Any]]:
    """Classify image files and folders of them, in the precision of [`paco_hf.inference.forward.fast_forward`].

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
    """How frequent the classes are among unlabelled image files ([`estimate_prior`]).

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
