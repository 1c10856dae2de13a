"""The text of a model card, part by part: from the evidence to Markdown."""

import json
import math
from typing import Any

from ..arguments.parser import resolved_recipe
from ..data.long_tail import long_tailed_counts
from ..data.published import BENCHMARKS
from ..losses.specs import loss_spec
from ..metrics import FEW_SHOT, HEADLINE, MANY_SHOT, TITLES, shots
from ..runs.layout import RECIPE_NAME
from ..runs.redaction import public_settings
from .run_summary import Subject

# Of what a run is made of, what a reader wants to know.
_SHOWN = (
    *("loss", "backbone", "backbone_kwargs", "pretrained", "lora_rank", "lora_alpha", "lora_targets", "class_centers"),
    *("image_size", "query_view", "key_view", "num_train_epochs", "global_batch_size", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "optim", "learning_rate", "epoch_schedule", "warmup_epochs", "momentum"),
    *("weight_decay", "layer_decay", "trainable_convolutions", "alpha", "beta", "gamma", "temperature"),
    *("label_smoothing_factor", "class_prior", "queue_size", "projection_dim", "key_momentum", "validation_fraction"),
    *("precision", "seed"),
)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def evaluation(subject: Subject) -> list[str]:
    """What an evaluation adds to the scores: how sure they are, and how far the probabilities can be trusted."""
    results = subject.evaluation
    if not results:
        return []

    def between(name: str) -> str:
        metric = results["metrics"][name]
        return f"{_percent(metric['value'])} ({_percent(metric['low'])} to {_percent(metric['high'])})"

    scores = ", ".join(f"{TITLES[name].short} {between(name)}" for name in ("accuracy", "balanced_accuracy"))
    scores += f", {TITLES['worst_10_percent'].long} {between('worst_10_percent')}"
    calibration = results["calibration"]
    lines = [
        f"With {results['confidence']['level']:.0%} intervals ({results['confidence']['method']}): {scores}.",
        f"Expected calibration error {between('ece')}"
        + (
            f", with the stored temperature of {calibration['temperature']:.3g} (without it "
            f"{_percent(calibration['uncalibrated']['overall']['ece'])})."
            if calibration["temperature"] is not None
            else "; no temperature is stored."
        ),
    ]
    if results["priors"]:
        ends = [row for row in results["priors"]["rows"] if row["ratio"] == max(results["priors"]["ratios"])]
        shifts = " and ".join(
            f"{row['direction']} {row['ratio']}:1 {_percent(row['accuracy'])} ({_percent(row['adapted'])} with the "
            "prior given to the model)"
            for row in ends
        )
        lines.append(f"Top-1 where the classes are not equally frequent: {shifts}; `model.set_prior` gives it one.")
    return lines


def about(subject: Subject) -> str:
    if subject.recipe and subject.config is None:
        return str(subject.recipe.about or "").strip()
    what = f"An image classifier with {subject.config.num_labels} classes" if subject.config else "Image classifiers"
    if subject.loss is None:
        return f"{what}. How it was trained is not known."
    spec = loss_spec(subject.loss)
    return f"{what}, {spec.description.format(title=spec.title)}."


def facts(subject: Subject, backbone: str) -> list[tuple[str, str]]:
    config, settings, benchmark = subject.config, subject.settings, subject.benchmark
    facts = [
        ("method", subject.method or "not known"),
        ("data set", f"`{settings.get('dataset', 'not known')}`"),
    ]
    if subject.recipe and subject.recipe.ensemble:
        facts.append(("ensemble of", ", ".join(f"`{name}`" for name in subject.recipe.ensemble)))
    if backbone:
        facts.append(("backbone", f"`{backbone}`"))
    size = config.image_size if config else settings.get("image_size") or (benchmark and benchmark.image_size)
    if size:
        facts.append(("image size", f"{size} x {size}"))
    classes = config.num_labels if config else benchmark and benchmark.num_classes
    if classes:
        facts.append(("classes", str(classes)))
    if subject.recipe and subject.recipe.row:
        facts.append(("row of the reference", subject.recipe.row))
    return facts


def result_rows(subject: Subject) -> list[list[str]]:
    if not subject.scores:
        return []
    named = {f"**{subject.method or subject.title}**": subject.scores, **subject.baselines}
    return [[name, *(_percent(scores[key]) for key in HEADLINE)] for name, scores in named.items()]


def _scored(subject: Subject) -> dict[str, Any]:
    """Name and number of the images of the scores: of the run's split, or what a conversion or push recorded."""
    split = "test" if subject.metrics.get("test") else "validation"
    recorded = subject.metrics.get("scored", {})
    of_run = {} if recorded else subject.record.get("data", {}).get(split, {})
    name = recorded.get("split") or of_run.get("name") or f"the {split} split"
    return {"name": name, "images": recorded.get("images") or of_run.get("images")}


def images_scored(subject: Subject) -> int | None:
    return _scored(subject)["images"]


def scored_images(subject: Subject) -> str:
    scored = _scored(subject)
    return f"{scored['name']} ({scored['images']} images)" if scored["images"] else str(scored["name"])


def scored_dataset(subject: Subject) -> str | None:
    """Public name of the data set of the scores: a conversion may be scored on another one than its recipe's."""
    if "scored" in subject.metrics:
        return subject.metrics["scored"].get("dataset")
    return subject.settings.get("dataset")


def selection(subject: Subject) -> str:
    metrics = subject.metrics
    if "last_step" not in metrics:
        when = "after the conversion" if subject.conversion else "when it was published"
        return f"These images were scored once, {when}."
    if metrics.get("validation_balanced_accuracy_by_step"):
        how = f"The model is that of step {metrics['selected_step']}, selected on a validation split"
    else:
        how = f"The model is that of the last step, {metrics['last_step']}; nothing was selected"
    if not metrics.get("test"):
        return f"{how}. There was no test split: these are the figures of the validation split, and so optimistic."
    return f"{how}; the test split was scored once, at the end."


def guessing(scores: dict[str, Any], images: int | None) -> str | None:
    """A warning where scores are within two standard errors of chance, as when a checkpoint is read wrongly."""
    classes = len(scores.get("per_class") or [])
    if classes <= 1 or not images:
        return None
    chance = 1 / classes
    if scores["balanced_accuracy"] > chance + 2 * math.sqrt(chance * (1 - chance) / images):
        return None
    return (
        f"{100 * scores['balanced_accuracy']:.1f}% is no better than guessing among {classes} classes. Of a model "
        "that should be good, the order of the classes or the preparation of the images is not that of its training."
    )


def training_data(subject: Subject) -> str:
    config, benchmark, dataset = subject.config, subject.benchmark, subject.settings.get("dataset")
    counts = config.group_counts if config else None
    if subject.conversion and counts:
        dataset = scored_dataset(subject)
    if not counts and benchmark and benchmark.n_max and not config:
        factor = float(subject.settings.get("imbalance_factor", 100))
        counts = long_tailed_counts(benchmark.n_max, benchmark.num_classes, factor)
    lines = []
    if counts:
        many, medium, few = shots(counts)
        lines.append(
            f"`{dataset or 'the training split'}`: {sum(counts)} training images of {len(counts)} classes, "
            f"{max(counts)} to {min(counts)} a class; {many} classes with many (> {MANY_SHOT}), {medium} with "
            f"medium ({FEW_SHOT} to {MANY_SHOT}), {few} with few (< {FEW_SHOT}) images."
        )
    elif benchmark and (published := benchmark.canonical.get("train")):
        groups = f"; many/medium/few: {'/'.join(map(str, published.shots))} classes" if published.shots else ""
        lines.append(
            f"`{dataset}`: {published.images} training images of {benchmark.num_classes} classes, {published.most} to "
            f"{published.fewest} a class{groups} (published statistics)."
        )
    data = subject.record.get("data", {})
    for split in ("train", "validation", "test"):
        if data.get(split):
            lines.append(
                f"{split}: {data[split]['images']} images, {data[split]['name']} (SHA-256 of the selection "
                f"`{data[split]['selection']}`)."
            )
    return "\n\n".join(lines)


def command(subject: Subject) -> str | None:
    book = subject.recipe
    if book and book.ensemble:
        runs = " ".join(f"runs/{name}" for name in book.ensemble)
        return f"paco-hf evaluate {runs} --dataset {subject.settings['dataset']} --dataset_path ROOT"
    if subject.conversion:
        return None
    recipe = book.name if book else RECIPE_NAME
    return f"paco-hf train --recipe {recipe}{path_flag(subject.settings)} --output_dir OUT"


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
    recipe = public_settings(resolved_recipe(subject.recipe.name))
    if recipe.get("precision") == "auto":
        recipe.pop("precision")
    bookkeeping = ("save_", "logging_", "eval_strategy", "report_to", "dataloader_", "augment_backend")
    return ", ".join(
        f"`{name}` {value} instead of {recipe[name]}"
        for name, value in subject.settings.items()
        if name in recipe and value != recipe[name] and not name.startswith(bookkeeping)
    )


def shown_settings(subject: Subject) -> list[tuple[str, Any]]:
    """What a reader wants to know of how it was trained; what is off or follows from another setting is left out."""
    settings = subject.settings
    idle: dict[str, Any] = {"class_centers": "random", "pretrained": False}
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


def cost(subject: Subject) -> str:
    training = subject.record.get("training", {})
    if not training:
        advice = " `docs/reproducing.md` has an estimate for the row." if subject.recipe and subject.recipe.row else ""
        return f"Not measured.{advice}"
    seconds = training["seconds"]
    if seconds is None:
        time = "Training time is not known (it was resumed from a checkpoint without a record of it)"
    else:
        time = (
            f"{seconds / 3600:.1f} hours of training" if seconds >= 3600 else f"{seconds / 60:.1f} minutes of training"
        )
    processes = f" in {training['processes']} processes" if training["processes"] > 1 else ""
    emissions = f"{subject.emissions:.3g} kg CO2 equivalent" if subject.emissions else "not measured"
    return f"{time} on {training['hardware']}{processes}, {training['precision']}. Emissions: {emissions}."


def limits(subject: Subject, license: str) -> list[str]:
    config, scores = subject.config, subject.scores
    calibrated = config is not None and config.temperature is not None
    limits = ["It knows its classes alone: any image gets one of them, however little it looks like it."]
    if not calibrated:
        limits.append("Its probabilities are not calibrated.")
    if config and scores and "worst_class" in scores:
        worst = scores["worst_class"]
        name = config.id2label[worst["class"]]
        limits.append(
            f"Accuracy differs from class to class; the worst is {name!r} with {_percent(worst['accuracy'])}%."
        )
    if scores and subject.record:
        limits.append("One run of one seed: repeat it with others before you call a small difference one.")
    if config and str(config.id2label[0]).startswith("LABEL_"):
        limits.append("What its classes are called is not known; they have numbers.")
    if subject.conversion:
        limits.append("The reference selected its weights on the evaluation set; its figures are optimistic.")
    if not scores:
        limits.append(
            f"No accuracy of {'these weights' if config else 'weights of this recipe'} has been measured here."
        )
    if license == "unknown":
        limits.append("Nobody has stated a licence for these weights; that of the training images may bind them.")
    limits.append("What is rare or absent in the training images (places, people, cameras) will be recognised badly.")
    return limits
