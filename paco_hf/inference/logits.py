"""From a checkpoint, or several, to scores on a data set and to predictions for image files."""

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm
from transformers import AutoImageProcessor

from ..data.images import Images
from ..data.torch_datasets import EvaluationDataset, ImageCollator
from ..metrics import headline
from ..models.configuration_paco import PaCoConfig
from ..models.modeling_paco import PaCoForImageClassification
from ..utils.distributed import gather_rows
from ..utils.hardware import available_cores
from ..utils.memory import keep_freed_memory
from .forward import check_inference, fast_forward
from .load_model import load_classifier


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
    `compile` are those of [`paco_hf.inference.forward.fast_forward`]; in float32 the scores are those of `pipeline`. A
    checkpoint without class counts has no groups: many, medium and few are `None`.

    Raises:
        ValueError: a checkpoint has fewer classes than the images; checkpoints of other classes.
    """
    models = _load(model_folders)
    logits, labels = _all_logits(models, images, batch_size, precision, compile)
    return headline(logits.argmax(axis=1), labels, next(iter(models.values())).config)


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
    return headline(logits.argmax(axis=1), labels, config)


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
            ("class counts", lambda c: c.group_counts),
            ("balanced_logits", lambda c: c.balanced_logits),
        )
        for name, of in compared:
            if of(models[first].config) != of(models[other].config):
                raise ValueError(f"{first} and {other} have other {name}, so their logits cannot be averaged")
    return models


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
        num_workers=0 if images.decoded is not None else available_cores(),
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
