"""The command line of `paco-hf train`: flags, over the recipe, over the defaults."""

import argparse
import dataclasses
import json
import os
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from ..data.published import BENCHMARKS
from ..data.spec import is_published
from ..losses.specs import DEFAULT_LOSS, loss_spec
from ..utils.files import expand, portable_name
from .auto_settings import CHOSEN_FOR_FEATURES, CHOSEN_FOR_FINE_TUNING, PRETRAINED_LOSS, SUGGESTED
from .hints import check_flags, meant_name, unknown_argument
from .recipes import Recipe, kind_name, read_recipe, recipe_names
from .run_arguments import RUN_TABLES, RunArguments
from .settings import run_settings
from .train_help import DESCRIPTION, HELP_ALL, USAGE
from .training_args import PaCoTrainingArguments
from .unsupported import check_views

_STEPWISE = {"lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"}
_KINDS: dict[Any, str] = {str: "text", int: "an integer", float: "a number"}
_SGD_FLAGS = {"momentum", "nesterov"}


def checked_recipe(recipe: str) -> Recipe:
    """[`read_recipe`], whose settings must all exist.

    Raises:
        ValueError: what [`read_recipe`] raises, and a setting that does not exist.
    """
    result = read_recipe(recipe)
    known = {f.name for table in (*RUN_TABLES, PaCoTrainingArguments) for f in dataclasses.fields(table) if f.init}
    known -= {"recipe", "automatic", "notes"}
    for name in result.settings:
        if name not in known:
            near = meant_name(str(name), known)
            hint = f"did you mean {near}?" if near else "`paco-hf train --help` lists them"
            raise ValueError(f"recipe {recipe!r} has an unknown setting {name!r}: {hint}")
    # A key without a value leaves the setting as it is.
    settings = {name: value for name, value in result.settings.items() if value not in (None, "")}
    return dataclasses.replace(result, settings=settings)


class RunParser(HfArgumentParser):
    """The flags of `train`: those of [`RunArguments`], the method's, and transformers' own.

    They have no defaults here, so that a parsed namespace holds what was passed, and nothing else: the argument
    classes fill in the rest.

    Args:
        prog (`str`): what the help calls the program.
    """

    def __init__(self, prog: str) -> None:
        self.flags: dict[str, argparse.Action] = {}
        super().__init__(
            [*RUN_TABLES, PaCoTrainingArguments],
            prog=prog,
            usage=USAGE.format(prog=prog),
            description=DESCRIPTION,
            allow_abbrev=False,
            formatter_class=argparse.HelpFormatter,
        )
        self.add_argument("--help_all", action="help", help=HELP_ALL)

    def add_argument(self, *options: Any, **kwargs: Any) -> argparse.Action:
        """As argparse's, without the default."""
        name, text = options[0].removeprefix("--"), kwargs.get("help")
        if name.startswith("no_"):
            text = argparse.SUPPRESS
        elif text and "%" in text.replace("%%", ""):
            text = text.replace("%", "%%")
        action = super().add_argument(*options, **{**kwargs, "help": text, "default": argparse.SUPPRESS})
        if "true" in (action.choices or ()):
            action.type = _truth
        self.flags |= dict.fromkeys(options, action)
        return action

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (--help lists the arguments)")

    def parse_flags(self, argv: list[str]) -> dict[str, Any]:
        """The values of the flags in `argv`, by the name of the setting."""
        check_flags(argv)
        values, unknown = self.parse_known_args(argv)
        if unknown:
            raise unknown_argument(unknown[0], [*self.flags, "--nproc", "--seeds"], "train")
        return vars(values)

    def convert(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings of a recipe after the conversions and checks that the values of flags pass."""
        self.set_defaults(**{name: self._as_default(name, value) for name, value in settings.items()})
        return vars(self.parse_args([]))

    def _as_default(self, name: str, value: Any) -> Any:
        """A recipe's value as text, which argparse converts where it is a default."""
        action = self.flags[f"--{name}"]
        if isinstance(value, list) and action.nargs == "+":
            return [str(entry) for entry in value]
        if isinstance(value, dict) and name.endswith(("_kwargs", "_config")):
            try:
                return json.dumps(value)
            except (TypeError, ValueError, RecursionError) as error:
                raise ValueError(f"{name} must be a mapping of text to plain values: {error}") from error
        if action.type is str and isinstance(value, bool):
            read = "true, as YAML reads yes and on" if value else "false, as YAML reads no and off"
            raise ValueError(f"{name} of the recipe must be text, got {read}: put the value in quotes")
        if not isinstance(value, str | int | float):
            kind = _KINDS.get(action.type, "true or false" if action.choices is None else "one of its choices")
            advice = ": put it in quotes" if isinstance(value, date) else ""
            raise ValueError(f"{name} of the recipe must be {kind}, got {kind_name(value)}{advice}")
        # Choices may have words that YAML reads as these.
        return str(value).lower() if isinstance(value, bool) else str(value)


def _truth(text: str) -> Any:
    """A choice, among them true and false as flags that have only these spell them."""
    with suppress(argparse.ArgumentTypeError):
        return str(string_to_bool(text)).lower()
    return text


def parse_run(argv: list[str], prog: str = "paco-hf train") -> tuple[RunArguments, PaCoTrainingArguments]:
    """Flags, over the recipe, over the defaults.

    Raises:
        ValueError: an unknown flag or setting, or a value out of range.
    """
    parser = RunParser(prog)
    flags = parser.parse_flags(argv)
    recipe = flags.get("recipe") or _default_recipe(flags)
    settings = parser.convert(_trainable_settings(recipe)) if recipe else {}
    values = {**settings, **_implied(flags, settings), **flags, "recipe": recipe}
    values |= {name: expand(values[name]) for name in _PATHS if values.get(name)}
    published = is_published(values.get("dataset", RunArguments.dataset))
    if published and values.get("eval_interpolation") is None:
        values["eval_interpolation"] = "bilinear"
    run = RunArguments(**_fields(RunArguments, values))
    args = PaCoTrainingArguments(**_fields(PaCoTrainingArguments, values))
    _check(run, args, flags, published)
    run, args = _fit_batch(run, args, flags, settings.get("global_batch_size"))
    if not published and recipe is None:
        run = dataclasses.replace(run, automatic=_automatic(args, flags))
    return run, args


# Where `~` and `$HOME` are filled in.
_PATHS = (
    *("dataset", "dataset_path", "train_list", "validation_list", "test_list", "output_dir", "resume_from_checkpoint"),
    *("backbone", "pretrained_file", "class_centers"),
)


def _fields(table: type, values: dict[str, Any]) -> dict[str, Any]:
    return {field.name: values[field.name] for field in dataclasses.fields(table) if field.name in values}


def _default_recipe(flags: dict[str, Any]) -> str | None:
    if flags.get("dataset", "builtin") != "builtin":
        return None
    name = f"{flags.get('loss', DEFAULT_LOSS)}-resnet32-builtin"
    return name if name in recipe_names() else f"{DEFAULT_LOSS}-resnet32-builtin"


def _trainable_settings(recipe: str) -> dict[str, Any]:
    content = checked_recipe(recipe)
    if content.ensemble:
        raise ValueError(
            f"recipe {recipe!r} is an ensemble: train its members, {' and '.join(content.ensemble)}, then "
            "evaluate them together with `paco-hf evaluate FOLDER FOLDER ...`"
        )
    return content.settings


def _implied(flags: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that follow from flags, over the recipe's."""
    chosen = {"loss": DEFAULT_LOSS, "dataset": "builtin"} | settings | flags
    implied: dict[str, Any] = {}
    if "output_dir" not in settings:
        # The loss on a pretrained backbone may follow from the data.
        backbone = chosen.get("backbone") or ""
        pretrained = chosen.get("pretrained") or chosen.get("pretrained_file") or "://" in backbone
        follows = "loss" not in settings | flags and (pretrained or (Path(expand(backbone)).is_dir() and backbone))
        method = [] if follows and not is_published(chosen["dataset"]) else [chosen["loss"]]
        name = Path(os.path.abspath(expand(chosen["dataset"]))).name or "data"  # also of `.` and `..`
        implied["output_dir"] = str(Path("runs") / portable_name("-".join([*method, name])))
    # A recipe's revision is of what the recipe names.
    named = {"dataset_revision": ("dataset", "dataset_path"), "backbone_revision": ("backbone", "pretrained_file")}
    implied |= {name: None for name, others in named.items() if name in settings and flags.keys() & {*others}}
    if flags.keys() & _STEPWISE or flags.get("epoch_schedule") == "none":
        # The warm-up of the recipe's schedule goes with it.
        implied |= {"epoch_schedule": "none", "warmup_epochs": PaCoTrainingArguments.warmup_epochs}
    elif "warmup_epochs" in flags and settings.get("epoch_schedule", "none") == "none":
        implied["epoch_schedule"] = "cosine"  # the schedule without a name has its warm-up in steps
    if flags.get("freeze_backbone") is True:  # a recipe's settings of a backbone that is trained
        implied |= {name: None for name in ("layer_decay", "head_learning_rate") if name in settings}
        if settings.get("head_learning_rate") is not None:
            implied["learning_rate"] = settings["head_learning_rate"]
    elif flags.get("freeze_backbone") is False and settings.get("freeze_backbone"):
        implied |= {"cross_validation": "none", "feature_views": 0}
    if flags.get("augment_backend", "tensor") != "tensor" or flags.get("freeze_backbone") is True:
        implied["view_draws"] = None  # a recipe's are of views that tensor makes
    if flags.get("classifier") == "linear":  # a recipe's scale is of its cosine classifier
        names = ("classifier_scale", "learn_classifier_scale")
        implied |= {name: getattr(RunArguments, name) for name in names}
    # A number of steps for saving or logging means that.
    for event in ("save", "logging", "eval"):
        if f"{event}_steps" in (flags if f"{event}_strategy" in settings else settings | flags):
            implied[f"{event}_strategy"] = "steps"
    return implied


def _check(run: RunArguments, args: PaCoTrainingArguments, flags: dict[str, Any], published: bool) -> None:
    """Refuse flags that are of other data, of images that are not drawn anew, or of a view that is not seen."""
    carves = [name for name in ("test_fraction", "test_min_images") if getattr(run, name) is not None]
    if published and carves:
        raise ValueError(
            f"--{carves[0]} splits test images off from your own data, but {run.dataset} has a test split: remove "
            "the flag"
        )
    selected = run.dataset in BENCHMARKS and BENCHMARKS[run.dataset].n_max
    if not selected and (tail := sorted(flags.keys() & {"imbalance_factor", "imbalance_kind"})):
        raise ValueError(
            f"--{tail[0]} sets the class counts of the CIFAR-LT benchmarks and has no effect on {run.dataset}: "
            "remove the flag"
        )
    if args.remove_unused_columns:
        raise ValueError(
            "--remove_unused_columns true would remove the images before the views are made: remove the flag"
        )
    if flags.get("augment_backend") == "tensor" and run.on_features:
        raise ValueError(
            "--augment_backend tensor has no effect on a frozen backbone, whose features are computed before "
            "training: remove the flag"
        )
    if "view_draws" in flags and (run.on_features or run.augment_backend == "pil"):
        made = "on a frozen backbone, whose" if run.on_features else "with --augment_backend pil, whose"
        raise ValueError(
            f"--view_draws {flags['view_draws']} has no effect {made} views depend only on the image: remove the flag"
        )
    if args.torch_compile is True and "torch_compile" in flags and run.on_features:
        raise ValueError(
            "--torch_compile has no effect on a frozen backbone, whose features are computed before training: "
            "remove the flag"
        )
    check_views(run, args, {name: flags[name] for name in ("query_view", "key_view") if name in flags})


def _automatic(args: PaCoTrainingArguments, flags: dict[str, Any]) -> frozenset[str]:
    """The settings that are to follow the size of a dataset of one's own, because the user chose none."""
    stepwise = not flags.keys().isdisjoint(_STEPWISE)
    implied = {
        # A setting of losses that contrast speaks for one, as does one that the usual loss contradicts.
        "loss": not flags.keys().isdisjoint({*loss_spec(PRETRAINED_LOSS).ignores, "key_view"})
        or flags.get("class_prior") is False,
        "class_centers": "classifier_init_std" in flags,
        "precision": not flags.keys().isdisjoint({"bf16", "fp16"}),
        "classifier_scale": flags.get("classifier") == "linear" or "learn_classifier_scale" in flags,
        "save_strategy": "save_steps" in flags,
        "per_device_train_batch_size": "global_batch_size" in flags,
        "epoch_schedule": stepwise or "warmup_epochs" in flags,
        "warmup_epochs": stepwise or "epoch_schedule" in flags,
        "num_train_epochs": args.max_steps > 0,
        "optim": not flags.keys().isdisjoint(_SGD_FLAGS),
        "head_learning_rate": "layer_decay" in flags,
    }
    names = (*SUGGESTED, *CHOSEN_FOR_FEATURES, *CHOSEN_FOR_FINE_TUNING)
    return frozenset(name for name in names if name not in flags and not implied.get(name))


def _fit_batch(
    run: RunArguments, args: PaCoTrainingArguments, flags: dict[str, Any], recipe_batch: Any
) -> tuple[RunArguments, PaCoTrainingArguments]:
    """The batch of a process from the global one, and the learning rate for what the global one becomes.

    `global_batch_size` then is the actual one, so that the resolved recipe has nothing left to scale.
    """
    if run.global_batch_size is None:
        return run, args
    parts = args.world_size * args.gradient_accumulation_steps
    per_process = args.per_device_train_batch_size
    if "per_device_train_batch_size" not in flags:
        per_process = max(1, round(run.global_batch_size / parts))
    intended, batch = int(recipe_batch or run.global_batch_size), per_process * parts
    rates, notes = {}, list(run.notes)
    if batch != intended and run.scale_learning_rate:
        full = {name: getattr(args, name) for name in ("learning_rate", "head_learning_rate") if name not in flags}
        rates = {name: rate * batch / intended for name, rate in full.items() if rate is not None}
        scaled = ", ".join(f"{name.replace('_', ' ')} {full[name]:g} -> {rate:g}" for name, rate in rates.items())
        if scaled:
            notes.append(
                f"batch size {batch} instead of the recipe's {intended}: {scaled} (--scale_learning_rate false "
                "keeps the recipe's)"
            )
    run = dataclasses.replace(run, global_batch_size=batch, notes=tuple(notes))
    return run, args.changed(per_device_train_batch_size=per_process, **rates)


def resolved_recipe(recipe: str) -> dict[str, Any]:
    """What a recipe is about, and every setting of a run of it, defaults included, as a recipe again.

    What depends on the hardware stays as it is in the recipe; what depends on the images is left out.

    Raises:
        ValueError: no such recipe, or a value out of range.
    """
    content = checked_recipe(recipe)
    if content.ensemble:
        return content.metadata
    settings = run_settings(*parse_run(["--recipe", recipe, "--precision", "fp32"]))
    for name, default in (("precision", "auto"), ("dataloader_pin_memory", True)):
        settings[name] = content.settings.get(name, default)
    return {**content.metadata, **settings}
