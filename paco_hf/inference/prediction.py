"""Image files classified, and their class frequencies."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..evaluation.prior_estimation import MIN_FREQUENCY, estimate_prior
from ..evaluation.priors import read_frequencies
from ..models.configuration_paco import PaCoConfig
from ..utils.memory import keep_freed_memory
from .batches import ImageFiles, image_batches
from .forward import fast_forward
from .load_model import load_for_inference
from .unlabeled import find_images


def predict(
    model_folder: str,
    paths: list[str] | ImageFiles,
    top: int = 5,
    batch_size: int = 32,
    precision: str = "fp32",
    prior: str | None = None,
    *,
    strict: bool = False,
) -> list[dict[str, Any]]:
    """Classify images.

    Args:
        model_folder (`str`): run folder, checkpoint or Hub id.
        paths (list of `str`, or [`ImageFiles`]): as for [`paco_hf.inference.unlabeled.find_images`].
        top (`int`, *optional*, defaults to `5`): classes listed for an image.
        batch_size (`int`, *optional*, defaults to `32`): images a batch.
        precision (`str`, *optional*, defaults to `"fp32"`): of [`paco_hf.inference.forward.fast_forward`].
        prior (`str`, *optional*): how frequent the classes are among the images, instead of what the model has stored:
            `training`: as in training; `none`: all alike; or a file that [`estimate_file_prior`] wrote.
        strict (`bool`, *optional*, defaults to `False`): stop at the first image that cannot be decoded.

    Returns:
        one `{"file", "label", "score", "top"}` an image, `top` being a list of `{"label", "score"}`, best first. Of an
        image that cannot be decoded label and score are `None`, `top` is empty, and `error` says what is wrong.

    Raises:
        ValueError: with `strict` an image cannot be decoded; a folder has none, or the prior is not this model's.
        OSError: a path or the model does not exist.
    """
    if top < 1:
        raise ValueError(f"--top must be at least 1, got {top}")
    images = paths if isinstance(paths, ImageFiles) else ImageFiles(find_images(paths), strict)
    model, processor = load_for_inference(model_folder, batch_size, precision)
    if prior is not None:
        model.set_prior(read_prior(prior, model_folder, model.config))
    forward = fast_forward(model, precision)
    return classify(forward, model.config, processor, images, top=top, batch_size=batch_size)


def classify(
    forward: Callable[[Tensor], Tensor],
    config: PaCoConfig,
    processor: Any,
    files: list[Path] | ImageFiles,
    *,
    top: int,
    batch_size: int,
    strict: bool = False,
) -> list[dict[str, Any]]:
    """[`predict`] with a model that is loaded.

    Args:
        forward (callable): images `(B, 3, H, W)` to logits `(B, C)`.
        config (`PaCoConfig`): names the classes.
        processor (image processor): prepares the images.
        files (list of `Path`, or [`ImageFiles`]): the images.
        top, batch_size (`int`), strict (`bool`, *optional*, defaults to `False`): as those of [`predict`].
    """
    names = config.id2label
    images = files if isinstance(files, ImageFiles) else ImageFiles(files, strict)
    rankings: list[list[dict[str, Any]]] = []
    for logits in _image_logits(forward, processor, images, batch_size):
        scores, labels = logits.softmax(-1).topk(min(top, len(names)))
        for row in zip(scores.tolist(), labels.tolist(), strict=True):
            rankings.append([{"label": names[c], "score": s} for s, c in zip(*row, strict=True)])
    entries: list[dict[str, Any]] = []
    decoded = iter(rankings)
    for i, file in enumerate(images.names):
        if error := images.errors.get(i):
            entries.append({"file": file, "label": None, "score": None, "top": [], "error": error})
        else:
            ranks = next(decoded)
            entries.append({"file": file, **ranks[0], "top": ranks})
    return entries


def _image_logits(
    forward: Callable[[Tensor], Tensor], processor: Any, images: ImageFiles, batch_size: int
) -> Iterator[Tensor]:
    keep_freed_memory()
    return (forward(pixels) for (pixels,) in image_batches(images, [processor], batch_size, "classifying"))


def read_prior(prior: str, model_folder: str, config: PaCoConfig) -> list[float] | None:
    """Class frequencies for [`PaCoForImageClassification.set_prior`].

    Args:
        prior (`str`): as that of [`predict`].
        model_folder (`str`): where the model is from, for messages.
        config ([`PaCoConfig`]): the model's.

    Returns:
        one positive number a class; `None`: all alike.

    Raises:
        ValueError: the model does not say how frequent its classes were, or the file is not of its classes.
        OSError: there is no such file.
    """
    if prior == "none":
        return None
    if prior == "training":
        if config.class_counts is None:
            raise ValueError(f"{model_folder} does not store the class frequencies in training: give --prior FILE")
        return [max(count, 0.5) for count in config.class_counts]
    frequencies = read_frequencies(prior)
    names = [config.id2label[c] for c in range(config.num_labels)]
    if different := sorted(frequencies.keys() ^ set(names), key=str):
        raise ValueError(
            f"{prior} has other classes than {model_folder} ({different[0]!r} is in only one of the two): estimate it "
            "with this model"
        )
    return [max(frequencies[name], MIN_FREQUENCY) for name in names]


def estimate_file_prior(
    model_folder: str,
    paths: list[str] | ImageFiles,
    resamples: int = 200,
    batch_size: int = 32,
    precision: str = "fp32",
) -> list[dict[str, Any]]:
    """How frequent the classes are among unlabeled image files ([`estimate_prior`]).

    The model's temperature is applied, a prior that it has stored is not.

    Args:
        model_folder (`str`): run folder, checkpoint or Hub id.
        paths (list of `str`, or [`ImageFiles`]): as for [`predict`]; of images that are not strict, what cannot be
            decoded is left out, and their `errors` say what that is.
        resamples (`int`, *optional*, defaults to `200`): bootstrap resamples for the intervals.
        batch_size, precision (*optional*): as those of [`predict`].

    Returns:
        `{"label", "frequency", "low", "high"}` of each class, in the order of the model's.

    Raises:
        ValueError: an image cannot be decoded, of those that may be left out none; or a folder has none.
        OSError: a path or the model does not exist.
    """
    if resamples < 1:
        raise ValueError(f"--resamples must be 1 or more, got {resamples}; the usual number is 200")
    images = paths if isinstance(paths, ImageFiles) else ImageFiles(find_images(paths))
    model, processor = load_for_inference(model_folder, batch_size, precision)
    # EM starts from probabilities for equally frequent classes, whatever the logits are for.
    model.set_prior([1] * model.config.num_labels)
    batches = _image_logits(fast_forward(model, precision), processor, images, batch_size)
    parts = [logits.cpu().double().softmax(-1) for logits in batches]
    images.check_any()
    estimate = estimate_prior(torch.cat(parts).numpy(), resamples=resamples)
    columns = (estimate[key].tolist() for key in ("prior", "low", "high"))
    rows = zip(range(model.config.num_labels), *columns, strict=True)
    return [{"label": model.config.id2label[c], "frequency": f, "low": low, "high": high} for c, f, low, high in rows]
