"""Image files classified, and their class frequencies."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..evaluation.prior_estimation import MIN_FREQUENCY, estimate_prior
from ..evaluation.priors import read_frequencies
from ..models.configuration_paco import PaCoConfig
from ..models.modeling_paco import PaCoForImageClassification
from ..utils.memory import keep_freed_memory
from .abstention import abstained_rows, marked
from .batches import ImageFiles, decoded_batches, image_batches
from .forward import check_tta, fast_forward
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
    tta: str = "none",
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
        tta (`str`, *optional*, defaults to `"none"`): of [`paco_hf.inference.forward.fast_forward`].

    Returns:
        one `{"file", "label", "score", "top"}` an image, `top` being a list of `{"label", "score"}`, best first; and
        `"abstained": True` where the configuration's `abstention` would have the model not answer. Of an image that
        cannot be decoded label and score are `None`, `top` is empty, and `error` says what is wrong.

    Raises:
        ValueError: with `strict` an image cannot be decoded; a folder has none, or the prior is not this model's.
        OSError: a path or the model does not exist.
    """
    images = paths if isinstance(paths, ImageFiles) else ImageFiles(find_images(paths), strict)
    check_tta(tta)
    model, processor = load_for_prediction(model_folder, top, batch_size, precision, prior)
    forward = fast_forward(model, precision, tta=tta)
    return classify(forward, model.config, processor, images, top=top, batch_size=batch_size)


def check_top(top: int) -> None:
    """`ValueError` where fewer than one class is to be listed."""
    if top < 1:
        raise ValueError(f"--top must be at least 1, got {top}")


def load_for_prediction(
    model_folder: str, top: int, batch_size: int, precision: str, prior: str | None
) -> tuple[PaCoForImageClassification, Any]:
    """A checkpoint that follows the class frequencies asked for, and its image processor.

    Args:
        model_folder, top, batch_size, precision, prior: as those of [`predict`].

    Raises:
        ValueError, OSError: as [`predict`].
    """
    check_top(top)
    model, processor = load_for_inference(model_folder, batch_size, precision)
    if prior is not None:
        model.set_prior(read_prior(prior, model_folder, model.config))
    return model, processor


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
    images = files if isinstance(files, ImageFiles) else ImageFiles(files, strict)
    batches = classify_batches(forward, config, processor, images, top=top, batch_size=batch_size)
    return [entry for batch in batches for entry in batch.entries]


class ClassifiedBatch(NamedTuple):
    """What [`classify_batches`] yields.

    Args:
        rows (sequence of `int`): the indices of the images.
        entries (list of `dict`): of each, as [`predict`] returns it.
        logits (`(B, C)`): of those that could be decoded.
        features (`(B, F)`, *optional*): likewise.
    """

    rows: Sequence[int]
    entries: list[dict[str, Any]]
    logits: Tensor
    features: Tensor | None


def classify_batches(
    forward: Callable[[Tensor], Tensor],
    config: PaCoConfig,
    processor: Any,
    images: ImageFiles,
    *,
    top: int,
    batch_size: int,
    encode: Callable[[Tensor], Tensor] | None = None,
    rows: Sequence[int] | None = None,
    show: bool = True,
) -> Iterator[ClassifiedBatch]:
    """[`classify`], batch by batch: nothing is kept of those before.

    Args:
        forward, config, processor, top, batch_size: as those of [`classify`].
        images ([`ImageFiles`]): the images.
        encode (callable, *optional*): images to features `(B, F)`, which `forward` then takes.
        rows (sequence of `int`, *optional*): those images alone.
        show (`bool`, *optional*, defaults to `True`): whether there is a progress bar.
    """
    keep_freed_memory()
    names = [config.id2label[c] for c in range(config.num_labels)]
    for batch in decoded_batches(images, [processor], batch_size, "classifying", rows=rows, show=show):
        features, logits = None, torch.empty(0, len(names))
        if batch.pixels:
            features = encode(batch.pixels[0]) if encode else None
            logits = forward(batch.pixels[0] if features is None else features)
        rankings = zip(_rankings(logits, names, top), abstained_rows(logits, config), strict=True)
        files = ((images.names[row], batch.errors.get(row)) for row in batch.rows)
        entries = [_entry(file, *(([], False) if error else next(rankings)), error) for file, error in files]
        yield ClassifiedBatch(batch.rows, entries, logits, features)


def _rankings(logits: Tensor, names: Sequence[str], top: int) -> list[list[dict[str, Any]]]:
    scores, labels = logits.softmax(-1).topk(min(top, len(names)))
    pairs = zip(scores.tolist(), labels.tolist(), strict=True)
    return [[{"label": names[c], "score": s} for s, c in zip(*pair, strict=True)] for pair in pairs]


def _entry(file: str, ranks: list[dict[str, Any]], abstained: bool, error: str | None) -> dict[str, Any]:
    if error:
        return {"file": file, "label": None, "score": None, "top": [], "error": error}
    return marked({"file": file, **ranks[0], "top": ranks}, abstained)


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
            raise ValueError(f"{model_folder} does not store the class frequencies in training: use --prior FILE")
        return [max(count, 0.5) for count in config.class_counts]
    frequencies = read_frequencies(prior)
    names = [config.id2label[c] for c in range(config.num_labels)]
    if different := sorted(frequencies.keys() ^ set(names), key=str):
        raise ValueError(
            f"{prior} has different classes than {model_folder} ({different[0]!r} is in only one of the two): "
            "estimate it with this model"
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
        raise ValueError(f"--resamples must be at least 1, such as 200, got {resamples}")
    images = paths if isinstance(paths, ImageFiles) else ImageFiles(find_images(paths))
    model, processor = load_for_inference(model_folder, batch_size, precision)
    # EM starts from probabilities for equally frequent classes, whatever the logits are for.
    model.set_prior([1] * model.config.num_labels)
    forward = fast_forward(model, precision)
    batches = image_batches(images, [processor], batch_size, "classifying")
    parts = [forward(pixels).cpu().double().softmax(-1) for (pixels,) in batches]
    images.check_any()
    estimate = estimate_prior(torch.cat(parts).numpy(), resamples=resamples)
    columns = (estimate[key].tolist() for key in ("prior", "low", "high"))
    rows = zip(range(model.config.num_labels), *columns, strict=True)
    return [{"label": model.config.id2label[c], "frequency": f, "low": low, "high": high} for c, f, low, high in rows]
