"""From a checkpoint, or several, to logits and scores of labeled images."""

import copy
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from ..data.images import Images
from ..metrics import headline
from ..models.configuration_paco import PaCoConfig
from ..models.modeling_paco import PaCoForImageClassification
from ..utils.main_process import computed_once, rows_in_first
from ..utils.memory import keep_freed_memory
from .batches import image_batches
from .feature_cache import stored_features
from .forward import check_inference, check_tta, fast_forward
from .load_model import load_classifier, load_processor

# What checkpoints must have in common for their logits to be averaged, as messages name it.
_AVERAGED = {"id2label": "classes", "group_counts": "class counts", "balanced_logits": "balanced_logits"}


def score(
    model_folders: str | Path | Sequence[str | Path],
    images: Images,
    batch_size: int = 256,
    precision: str = "fp32",
    compile: bool = False,
    *,
    class_names: Sequence[str] = (),
) -> dict[str, Any]:
    """Long-tailed accuracy of a checkpoint on labeled images, over all processes; of several, that of their ensemble.

    It is that of the balanced logits: a temperature or inference prior in the configuration is left aside. The logits
    of several checkpoints are averaged (GPaCo's ensemble rows), each with its own image processor. A checkpoint
    without class counts has no groups: many, medium and few are `None`.

    Args:
        model_folders (path, or sequence of paths): run folders, checkpoints or Hub ids.
        images ([`Images`]): with their labels.
        batch_size (`int`, *optional*, defaults to `256`): images a batch.
        precision, compile (*optional*): those of [`paco_hf.inference.forward.fast_forward`]; in float32 the scores are
            those of `pipeline`.
        class_names (sequence of `str`, *optional*): of the images; they must be those of the checkpoints.

    Returns:
        the keys of [`paco_hf.metrics.long_tailed_accuracy`].

    Raises:
        ValueError: a checkpoint has fewer classes than the images, or classes with other names or in another order;
            checkpoints of other classes.
    """
    logits, labels, config = balanced_logits(model_folders, images, class_names, batch_size, precision, compile)
    return computed_once(lambda: headline(logits.argmax(axis=1), labels, config))


def balanced_logits(
    model_folders: str | Path | Sequence[str | Path],
    images: Images,
    class_names: Sequence[str] = (),
    batch_size: int = 256,
    precision: str = "fp32",
    compile: bool = False,
    *,
    tta: str = "none",
) -> tuple[np.ndarray, np.ndarray, PaCoConfig]:
    """Logits of a checkpoint, or the mean of those of several, in the first process: all compute their share.

    Args:
        model_folders, images, class_names, batch_size, precision, compile: as those of [`score`].
        tta (`str`, *optional*, defaults to `"none"`): of [`paco_hf.inference.forward.fast_forward`].

    Returns:
        logits `(N, C)` in float32, without temperature and inference prior (in other processes `(0, C)`: what is made
        of them is for [`paco_hf.utils.main_process.computed_once`]); labels `(N,)`; the configuration of the first
        checkpoint, as stored.
    """
    check_inference(precision, batch_size)
    check_tta(tta)
    models = _load(model_folders)
    folder, model = next(iter(models.items()))
    config, labels, name = copy.deepcopy(model.config), images.split.labels, images.split.name
    for label, class_name in enumerate(class_names):
        # A class whose name is its number, in the data or as transformers puts it, has none.
        expected = config.id2label.get(label, class_name)
        if class_name not in (expected, str(label)) and expected != f"LABEL_{label}":
            raise ValueError(
                f"class {label} is {class_name!r} in {name}, but {expected!r} in {folder}: pass data with the "
                "classes it was trained on"
            )
    if max(labels) >= config.num_labels:
        last = config.num_labels - 1
        raise ValueError(
            f"{name} has label {max(labels)}, but {folder} has {last + 1} classes, 0 to {last}: pass data with "
            "the classes of the model"
        )
    state = PartialState(cpu=not torch.accelerator.is_available())
    keep_freed_memory()
    for model in models.values():
        model.config.temperature = model.config.inference_prior = model.config.abstention = None
    processors = [load_processor(folder) for folder in models]
    # Those that are kept are of images as they are.
    stored = [
        None if tta != "none" else stored_features(one.to(state.device).paco, processor, images, precision)
        for one, processor in zip(models.values(), processors, strict=True)
    ]
    forwards = [fast_forward(model.to(state.device), precision, compile, tta) for model in models.values()]
    logits = np.empty((len(labels) if state.is_main_process else 0, config.num_labels), dtype=np.float32)
    for starts, rows, views in _shared_batches(images, processors, batch_size, stored, state):
        outputs = [forward(pixels) for forward, pixels in zip(forwards, views, strict=True)]
        part = torch.stack(outputs).mean(0) if outputs else torch.empty(0, config.num_labels, device=state.device)
        for start, scores in zip(starts, rows_in_first(part, rows), strict=False):
            logits[start : start + len(scores)] = scores.cpu().numpy()
    return logits, np.asarray(labels), config


def _shared_batches(
    images: Images, processors: list[Any], size: int, stored: list[np.ndarray | None], state: PartialState
) -> Iterator[tuple[list[int], list[int], Sequence[Tensor]]]:
    """Batches of this process, as many as the process with most has: a process has neighbors, which are read together.

    Args:
        images ([`Images`]): of all processes.
        processors (list of image processors): of the models.
        size (`int`): images a batch.
        stored (list of arrays `(N, F)`, *optional*): features of the images by model, in place of pixels.
        state (`PartialState`): of the processes.

    Yields:
        of each process the first row and the number of its images, and of this one what the models take, which is
        nothing where it has no image left.
    """
    total, world = len(images.split.labels), state.num_processes
    ends = [total * rank // world for rank in range(world + 1)]
    first, last = ends[state.process_index : state.process_index + 2]
    kept = [torch.from_numpy(features)[first:last].float() for features in stored if features is not None]
    batches: Any = zip(*(features.split(size) for features in kept), strict=True)
    if len(kept) < len(stored):
        title, show = f"evaluating {images.split.name}", state.is_main_process
        batches = image_batches(images, processors, size, title, rows=range(first, last), show=show)
    batches = iter(batches if first < last else ())
    for offset in range(0, max(end - start for start, end in pairwise(ends)), size):
        rows = [min(max(end - start - offset, 0), size) for start, end in pairwise(ends)]
        yield [start + offset for start in ends[:-1]], rows, next(batches) if rows[state.process_index] else ()
    next(batches, None)  # so that the bar of progress ends


def _load(model_folders: str | Path | Sequence[str | Path]) -> dict[str, PaCoForImageClassification]:
    """The checkpoints by folder; they must have the same classes and groups."""
    folders = [model_folders] if isinstance(model_folders, str | Path) else list(model_folders)
    models = {os.path.normpath(folder): load_classifier(folder) for folder in folders}
    if len(models) < len(folders):
        raise ValueError(f"a checkpoint is passed twice, {', '.join(map(str, folders))}: remove one of them")
    first, *others = models
    for other in others:
        for field, name in _AVERAGED.items():
            if getattr(models[first].config, field) != getattr(models[other].config, field):
                raise ValueError(
                    f"{first} and {other} differ in their {name}, so their logits cannot be averaged: evaluate "
                    "them separately"
                )
    return models
