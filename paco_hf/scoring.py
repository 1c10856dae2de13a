"""From a checkpoint, or several, to scores on a data set and to predictions for image files."""

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
from .configuration_paco import PaCoConfig
from .data.splits import IMAGE_SUFFIXES, Images, open_image
from .data.views import EvaluationDataset, ImageCollator
from .distributed import gather_rows, own_cores
from .inference import check_inference, fast_forward, inference_device
from .metrics import long_tailed_accuracy
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
    return _score(_load(model_folders), images, batch_size, precision, compile)


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
    check_inference(precision, batch_size)
    models = _load(model_folders)
    folder, model = next(iter(models.items()))
    own = model.config.id2label
    for label, name in enumerate(class_names):
        named = not name.isdigit() and not str(own.get(label, name)).startswith("LABEL_")
        if named and label in own and own[label] != name:
            raise ValueError(
                f"class {label} is {name!r} in {split.name}, but {own[label]!r} in {folder}: not the classes "
                "it was trained on"
            )
    return _score(models, Images(split), batch_size, precision, compile)


def _load(model_folders: str | Path | Sequence[str | Path]) -> dict[str, PaCoForImageClassification]:
    """The checkpoints by folder; they must have the same classes and groups."""
    folders = [model_folders] if isinstance(model_folders, str | Path) else list(model_folders)
    models = {os.path.normpath(folder): load_classifier(folder) for folder in folders}
    if len(models) < len(folders):
        raise ValueError(f"a checkpoint is given twice: {', '.join(map(str, folders))}")
    first, *others = models
    for other in others:
        for name, of in (("classes", lambda c: c.id2label), ("class counts", _group_counts)):
            if of(models[first].config) != of(models[other].config):
                raise ValueError(f"{first} and {other} have other {name}, so their logits cannot be averaged")
    return models


def _group_counts(config: PaCoConfig) -> list[int] | None:
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


def _score(
    models: dict[str, PaCoForImageClassification], images: Images, batch_size: int, precision: str, compile: bool
) -> dict[str, Any]:
    labels, name = images.split.labels, images.split.name
    folder, model = next(iter(models.items()))
    counts = _group_counts(model.config)
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
    predicted = [torch.empty(0, dtype=torch.long, device=state.device)]
    for views in progress:
        logits = [forward(pixels) for forward, pixels in zip(forwards, views, strict=True)]
        predicted.append(torch.stack(logits).mean(0).argmax(1))
    predictions = torch.cat(gather_rows(torch.cat(predicted))).cpu()
    rows = torch.cat(gather_rows(torch.tensor(list(own), dtype=torch.long, device=state.device))).cpu()
    result = long_tailed_accuracy(predictions.numpy(), np.asarray(labels)[rows.numpy()], counts or [0] * classes)
    # Without counts no class belongs to a group.
    return result if counts else {**result, "many": None, "medium": None, "few": None}


def predict(
    model_folder: str, paths: list[str], top: int = 5, batch_size: int = 32, precision: str = "fp32"
) -> list[dict[str, Any]]:
    """Classify image files and folders of them, in the precision of [`paco_hf.inference.fast_forward`].

    Returns:
        one `{"file", "label", "score", "top"}` an image, `top` being a list of `{"label", "score"}`, best first.

    Raises:
        ValueError: an image cannot be decoded, or a folder has none.
        OSError: a path or the model does not exist.
    """
    if top < 1:
        raise ValueError(f"--top must be at least 1, got {top}")
    check_inference(precision, batch_size)
    keep_freed_memory()
    files = [file for path in paths for file in _image_files(Path(path))]
    model = load_classifier(model_folder).to(inference_device())
    processor = AutoImageProcessor.from_pretrained(model_folder)
    return classify(fast_forward(model, precision), model.config, processor, files, top, batch_size)


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
    progress = tqdm(
        total=len(files), desc="classifying", unit=" images", disable=None if len(files) > batch_size else True
    )
    for start in range(0, len(files), batch_size):
        batch = files[start : start + batch_size]
        pixels = processor([open_image(file, str(file)) for file in batch], return_tensors="pt")["pixel_values"]
        scores, labels = forward(pixels).softmax(-1).topk(min(top, config.num_labels))
        for file, row_scores, row_labels in zip(batch, scores.tolist(), labels.tolist(), strict=True):
            ranked = [{"label": config.id2label[c], "score": s} for c, s in zip(row_labels, row_scores, strict=True)]
            results.append({"file": str(file), **ranked[0], "top": ranked})
        progress.update(len(batch))
    progress.close()
    return results


def load_classifier(model: str | Path) -> PaCoForImageClassification:
    """A checkpoint, of a folder or from the Hub; `OSError` where it is neither."""
    try:
        return PaCoForImageClassification.from_pretrained(model)
    except OSError as error:
        if Path(model).is_dir():
            raise
        raise OSError(
            f"{str(model)!r} is no local folder, and cannot be loaded from the Hub ({str(error).splitlines()[0]})"
        ) from error


def _image_files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise ValueError(f"the folder {path} has no image files")
        yield from files
    elif path.is_file():
        yield path
    else:
        raise OSError(f"{path} does not exist")
