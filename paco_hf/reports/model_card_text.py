"""What a model card says beyond its template: from the evidence to its figures and warnings."""

import json
import math
from typing import Any

from ..arguments.defaults import expected_settings
from ..data.image_split import describe_split
from ..data.long_tail import long_tailed_counts
from ..data.published import BENCHMARKS
from ..losses.specs import loss_spec
from ..runs.redaction import public_settings
from .html_page import templates
from .run_summary import Subject

# Of what a run is made of, what a reader wants to know.
_SHOWN = (
    *("loss", "backbone", "backbone_kwargs", "pretrained", "lora_rank", "lora_alpha", "lora_targets", "class_centers"),
    *("classifier", "classifier_scale", "learn_classifier_scale"),
    *("image_size", "query_view", "key_view", "num_train_epochs", "global_batch_size", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "optim", "learning_rate", "head_learning_rate", "epoch_schedule"),
    *("warmup_epochs", "momentum"),
    *("weight_decay", "layer_decay", "trainable_convolutions", "alpha", "beta", "gamma", "temperature"),
    *("label_smoothing_factor", "class_prior", "queue_size", "projection_dim", "key_momentum", "validation_fraction"),
    *("precision", "seed"),
)

NO_LICENSE = "No license is stated for these weights"  # a limit on the card until a license is given


def scored_images(subject: Subject) -> tuple[str, int | None]:
    """Name and number of the images of the scores: of the run's split, or what a conversion or push recorded."""
    split = "test" if subject.metrics.get("test") else "validation"
    recorded = subject.metrics.get("scored", {})
    split_record = {} if recorded else subject.record.get("data", {}).get(split, {})
    name = str(recorded.get("split") or split_record.get("name") or f"the {split} split")
    images = recorded.get("images") or split_record.get("images")
    name = describe_split(name)
    if images:
        name = f"{name[:-1]}, {images} images)" if name.endswith(")") else f"{name} ({images} images)"
    return name, images


def scored_dataset(subject: Subject) -> str | None:
    """Public name of the dataset of the scores: a conversion may be scored on another one than its recipe's."""
    return subject.metrics.get("scored", subject.settings).get("dataset")


def guessing(scores: dict[str, Any], images: int | None) -> str | None:
    """A warning where scores are within two standard errors of chance, as when a checkpoint is read wrongly."""
    classes = len(scores.get("per_class") or [])
    if classes <= 1 or not images:
        return None
    chance = 1 / classes
    if scores["balanced_accuracy"] > chance + 2 * math.sqrt(chance * (1 - chance) / images):
        return None
    return (
        f"{100 * scores['balanced_accuracy']:.1f}% is no better than guessing among {classes} classes. If you "
        "expected a good model, check the order of the classes and the image preprocessing."
    )


def training_counts(subject: Subject) -> list[int] | None:
    """Training images of each class: of the weights, or of a recipe whose long tail is computed."""
    benchmark = subject.benchmark
    if subject.config:
        return subject.config.group_counts
    if benchmark is None or not benchmark.n_max:
        return None
    factor = float(subject.settings.get("imbalance_factor", 100))
    return long_tailed_counts(benchmark.n_max, benchmark.num_classes, factor)


def path_flag(settings: dict[str, Any]) -> str:
    """What a command must say besides the recipe of where the images are."""
    dataset = settings.get("dataset")
    if dataset in BENCHMARKS:
        return "" if BENCHMARKS[dataset].n_max or dataset == "cifar100" else " --dataset_path ROOT"
    return "" if dataset == "builtin" or (dataset and "/" in dataset) else " --dataset FOLDER"


def changes(subject: Subject) -> str:
    """Where a run has other settings than the package's recipe that it follows."""
    if subject.recipe is None or subject.config is None or subject.conversion:
        return ""
    recipe = public_settings(expected_settings(subject.recipe.settings))
    # What a run chooses by itself, and what follows from the number of processes, is no difference.
    chosen = [name for name in ("precision", "torch_compile") if recipe.get(name) == "auto"]
    if recipe.get("global_batch_size") == subject.settings.get("global_batch_size") is not None:
        chosen.append("per_device_train_batch_size")
    recipe = {name: value for name, value in recipe.items() if name not in chosen}
    logs = ("save_", "logging_", "report_to", "eval_strategy")
    bookkeeping = (*logs, "dataloader_", "augment_backend", "per_device_eval_")
    return ", ".join(
        f"`{name}` {value} instead of {recipe[name]}"
        for name, value in subject.settings.items()
        if name in recipe and value != recipe[name] and not name.startswith(bookkeeping)
    )


def shown_settings(subject: Subject) -> list[tuple[str, Any]]:
    """What a reader wants to know of how it was trained; what is off or follows from another setting is left out."""
    settings = subject.settings
    idle: dict[str, Any] = {"class_centers": "random", "pretrained": False, "learn_classifier_scale": False}
    if settings.get("classifier") == "linear":
        idle |= {name: settings.get(name) for name in ("classifier", "classifier_scale")}
    idle |= {"label_smoothing_factor": 0, "gradient_accumulation_steps": 1}
    if subject.loss and not (spec := loss_spec(subject.loss)).contrastive:
        idle |= {name: settings.get(name) for name in spec.ignores - {"class_prior"}}
    if "global_batch_size" in settings:
        idle["per_device_train_batch_size"] = settings.get("per_device_train_batch_size")
    values = {name: settings[name] for name in _SHOWN if settings.get(name) is not None}
    return [
        (name, json.dumps(value) if isinstance(value, dict | bool) else value)
        for name, value in values.items()
        if name not in idle or value != idle[name]
    ]


def cosine_classifier(subject: Subject) -> str | None:
    """What a cosine classifier is, with its scale; `None` of a linear one."""
    source = vars(subject.config) if subject.config else subject.settings
    if source.get("classifier") != "cosine":
        return None
    scale = f"{source['classifier_scale']:g}"
    if source.get("learn_classifier_scale"):
        trained = f"{subject.trained_scale:.4g}, " if subject.trained_scale else ""
        scale = f"{trained}trained from {scale} on"
    return f"cosine: the logits are cosines of features and class centers, times a scale ({scale})"


def limits(subject: Subject, license: str) -> list[str]:
    """What a user of the model must know, a sentence or two each."""
    return (
        templates()
        .get_template("limits.txt")
        .render(subject=subject, license=license, no_license=NO_LICENSE)
        .splitlines()
    )
