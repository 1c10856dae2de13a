"""Between this package's checkpoints and those of others: the reference's files in, timm and ONNX out."""

import hashlib
import http.client
import os
import shutil
import tempfile
import urllib.request
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from tqdm.auto import tqdm

from ..arguments.parser import checked_recipe
from ..arguments.recipes import Recipe, check_single, recipe_names
from ..data.image_lists import imagenet_class_names
from ..data.image_split import ImageSplit
from ..data.images import Images
from ..data.published import BENCHMARKS, CIFAR_MEAN, CIFAR_STD, IMAGENET_MEAN, IMAGENET_STD
from ..data.spec import DataSpec, public_name
from ..losses.specs import DEFAULT_LOSS, loss_spec
from ..models.image_processing import build_processor
from ..models.modeling_contrastive import PaCoForContrastiveTraining
from ..reports.model_card import write_card
from ..reports.model_card_text import guessing
from ..runs.layout import CONVERSION_NAME, METRICS_NAME
from ..utils.files import check_source, hub_file_parts, new_folder, write_json
from .reference_checkpoint import load_reference_checkpoint

_STATE_REASON = "training state; keep it with --training_state"


def convert(
    source: str,
    out: str | os.PathLike,
    *,
    recipe: str | None = None,
    training_state: bool = False,
    backbone: str | None = None,
    backbone_kwargs: dict[str, Any] | None = None,
    evaluation: DataSpec | None = None,
    batch_size: int = 64,
) -> dict[str, Any]:
    """Make a checkpoint of this package from one of the reference: `paco-hf convert`.

    Args:
        source (`str`): a file, an `http(s)` address, or `hf://user/name[@revision]/path/in/repository`.
        out (path): new folder. It is complete or does not exist.
        recipe (`str`, *optional*): what the checkpoint is of: it must agree, and says how images are prepared and,
            where they are known, what the classes are called. Where exactly one recipe of the package agrees, it is
            taken.
        training_state (`bool`, *optional*, defaults to `False`): keep projector, key encoder and queue.
        backbone, backbone_kwargs (*optional*): as for [`load_reference_checkpoint`].
        evaluation (`DataSpec`, *optional*): labeled images to score the result on. Their
            training split, where there is one, gives the class counts.
        batch_size (`int`, *optional*, defaults to `64`): images at a time of that evaluation.

    Returns:
        what `conversion.json` in `out` holds; `metrics`, the scores of the evaluation, and a `warning` where they are
        no better than guessing, else `None`.

    Raises:
        ValueError: no such checkpoint, a key that is not accounted for, a recipe that does not agree.
        OSError: the source cannot be had or read; `out` cannot be written.
    """
    with new_folder(out) as folder:
        wanted = check_single(checked_recipe(recipe)) if recipe else None
        file = _fetch(source)
        model = _load(source, file, backbone, backbone_kwargs)
        recipes = _matching_recipes(wanted, model, source)
        if wanted:
            # GPaCo's files do not say which of its variants they are of.
            model.spec = loss_spec(wanted.settings.get("loss", DEFAULT_LOSS))
        images = _load_images(evaluation, recipes) if evaluation else None
        processor = _processor(recipes, model)
        _name_classes(model, recipes, images)
        record = {
            "source": _public_source(source),
            "sha256": _sha256(file),
            "method": model.spec.reference,
            "backbone": model.config.backbone,
            "num_labels": model.config.num_labels,
            "recipe": recipes[0].name if len(recipes) == 1 else None,
            "agrees_with": [entry.name for entry in recipes],
            "training_state": training_state,
            "dropped": _dropped(model, training_state),
        }
        (model if training_state else model.to_classifier()).save_pretrained(folder)
        processor.save_pretrained(folder)
        write_json(folder / CONVERSION_NAME, record)
        metrics = warning = None
        if images:
            metrics = _score(folder, images[0], batch_size)
            warning = guessing(metrics, len(images[0].labels))
        write_card(folder, title=Path(out).resolve().name)
    return {**record, "metrics": metrics, "warning": warning}


def _load(source: str, file: Path, backbone: str | None, kwargs: dict[str, Any] | None) -> PaCoForContrastiveTraining:
    try:
        return load_reference_checkpoint(file, backbone=backbone, backbone_kwargs=kwargs)
    except (OSError, ValueError):
        if source.startswith(("http://", "https://")):
            file.unlink(missing_ok=True)  # what was fetched is not what the address should hold
        raise


def _matching_recipes(wanted: Recipe | None, model: PaCoForContrastiveTraining, source: str) -> list[Recipe]:
    """The recipe that the user names, which must agree with the checkpoint; else all of the package's that agree."""
    if wanted is None:
        return [recipe for recipe in map(checked_recipe, recipe_names()) if not _disagreements(recipe, model)]
    if against := _disagreements(wanted, model):
        raise ValueError(f"{source} does not match the recipe {wanted.name!r}: {'; '.join(against)}")
    return [wanted]


def _dropped(model: PaCoForContrastiveTraining, training_state: bool) -> dict[str, str]:
    """What of the file the checkpoint does not have, with the reason."""
    dropped = {**model.dropped_keys, **model.dropped_entries}
    if not training_state:
        kinds = Counter(key.split(".")[0] for key in model.training_tensors())
        dropped |= {f"{kind}.* ({count} tensors)": _STATE_REASON for kind, count in kinds.items()}
    return dropped


def _score(folder: Path, split: ImageSplit, batch_size: int) -> dict[str, Any]:
    """Score the written checkpoint, and write `metrics.json`."""
    from ..inference.logits import score

    metrics = score(str(folder), Images(split), batch_size, class_names=split.class_names)
    about = {"dataset": public_name(split.dataset), "split": split.public_name, "images": len(split.labels)}
    write_json(folder / METRICS_NAME, {"test": metrics, "validation": None, "scored": about})
    return metrics


def _benchmark(recipe: Recipe) -> Any:
    return BENCHMARKS.get(str(recipe.settings.get("dataset")))


def _disagreements(recipe: Recipe, model: PaCoForContrastiveTraining) -> list[str]:
    """Where a checkpoint is not what a recipe makes, as text; empty where it may be."""
    settings, config = recipe.settings, model.config
    reference = loss_spec(settings.get("loss", DEFAULT_LOSS)).reference
    if recipe.ensemble or reference is None:
        return ["the recipe is not for a single contrastive model"]
    benchmark = _benchmark(recipe)
    classes = 20 if settings.get("dataset") == "builtin" else benchmark.num_classes if benchmark else config.num_labels
    pairs = {
        "method": (model.spec.reference, reference),
        "backbone": (config.backbone, str(settings.get("backbone")).split(".")[0]),
        "image size": (config.image_size, settings.get("image_size", config.image_size)),
        "classes": (config.num_labels, classes),
        "queue length": (len(model.queue.labels), settings.get("queue_size", 8192)),
        "projection": (model.queue.features.shape[1], settings.get("projection_dim", 128)),
    }
    return [f"{name} is {has}, but {wants} in the recipe" for name, (has, wants) in pairs.items() if has != wants]


def _processor(recipes: list[Recipe], model: PaCoForContrastiveTraining) -> Any:
    """How the recipes that agree prepare images; where they differ or there is none, as their kind of image is."""
    ways = {
        (benchmark.mean, benchmark.std, recipe.settings.get("eval_interpolation", "bilinear"))
        for recipe in recipes
        if (benchmark := _benchmark(recipe))
    }
    small = model.config.backbone.startswith("cifar_")
    usual = (CIFAR_MEAN, CIFAR_STD) if small else (IMAGENET_MEAN, IMAGENET_STD)
    return build_processor(model.config.image_size, *(ways.pop() if len(ways) == 1 else usual))


def _load_images(spec: DataSpec, recipes: list[Recipe]) -> tuple[ImageSplit, list[int] | None]:
    """What is to be scored and, where the recipes that agree leave no doubt, the training images of each class."""
    from ..data.loading import load_scored

    names = ("imbalance_factor", "imbalance_kind")
    selections = {tuple(recipe.settings.get(name) for name in names) for recipe in recipes}
    sure = len(selections) == 1
    if sure:
        known = zip(names, *selections, strict=True)
        spec = replace(spec, **{name: value for name, value in known if value is not None})
    split, counts = load_scored(spec)
    benchmark = spec.benchmark
    selected = benchmark is not None and benchmark.n_max is not None  # by a factor that a recipe alone tells
    other = bool(recipes) and {recipe.settings.get("dataset") for recipe in recipes} != {spec.dataset}
    return split, None if other or (selected and not sure) else counts


def _name_classes(
    model: PaCoForContrastiveTraining, recipes: list[Recipe], images: tuple[ImageSplit, list[int] | None] | None
) -> None:
    """Names and counts of the classes: the data's, else ImageNet's names where all recipes that agree are of it."""
    config, names, counts = model.config, None, None
    if images:
        names, counts = images[0].class_names, images[1]
        if len(names) != config.num_labels:
            raise ValueError(
                f"the checkpoint has {config.num_labels} classes, but the evaluation images have {len(names)}: "
                "use images of the classes it was trained on, in the same order"
            )
    elif recipes and all(str(recipe.settings.get("dataset")).startswith("imagenet") for recipe in recipes):
        names = imagenet_class_names()
    if names and not all(name.isdigit() for name in names):
        config.id2label = dict(enumerate(names))
        config.label2id = {name: label for label, name in enumerate(names)}
    config.class_counts = config.selection_counts = counts


def _fetch(source: str) -> Path:
    """The local file of a source, downloaded into the libraries' caches where it is elsewhere."""
    check_source(source)
    if source.startswith("hf://"):
        from ..hub.errors import hub_file

        return hub_file(*hub_file_parts(source))
    if "://" not in source:
        return Path(source)
    # Many checkpoints are called the same, so the address is a part of the cached file's name.
    name = f"{hashlib.sha256(source.encode()).hexdigest()[:16]}-{Path(urlsplit(source).path).name or 'checkpoint'}"
    file = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
            partial = Path(scratch) / name
            try:
                with urllib.request.urlopen(source, timeout=30) as answer, partial.open("wb") as target:
                    total = int(answer.headers.get("Content-Length", 0))
                    with tqdm.wrapattr(answer, "read", total or None, desc=name[17:], disable=None) as reader:
                        shutil.copyfileobj(reader, target)
            except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
                raise OSError(
                    f"{source} cannot be downloaded ({error}): check the URL, or download it elsewhere and pass "
                    "the file"
                ) from error
            if total and partial.stat().st_size != total:
                raise OSError(
                    f"the download of {source} stopped after {partial.stat().st_size} of {total} bytes: try again"
                )
            partial.replace(file)
    return file


def _public_source(source: str) -> str:
    """A source as it may be told: without a folder of this computer, or a password or token of an address."""
    if "://" not in source:
        return Path(source).name
    parts = urlsplit(source)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
