"""The command line of `paco-hf train`: flags, over the recipe, over the defaults."""

import argparse
import dataclasses
import difflib
import json
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser, TrainingArguments

from ..data.published import BENCHMARKS
from ..losses.specs import DEFAULT_LOSS
from .arguments import RunArguments
from .auto_settings import SUGGESTED
from .recipes import Recipe, read_recipe, recipe_names
from .resolve import resolved
from .training_args import COMMON_TRAINING_FLAGS, PaCoTrainingArguments


def checked_recipe(recipe: str) -> Recipe:
    """[`read_recipe`], whose settings must all exist.

    Raises:
        ValueError: what [`read_recipe`] raises, and a setting that does not exist.
    """
    result = read_recipe(recipe)
    known = {f.name for cls in (RunArguments, PaCoTrainingArguments) for f in dataclasses.fields(cls)}
    for name in result.settings:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            raise ValueError(
                f"recipe {recipe!r} has an unknown setting {name!r}" + (f": did you mean {near[0]}?" if near else "")
            )
    return result


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (--help lists the arguments)")


def build_parser(prog: str, show_all: bool = False) -> HfArgumentParser:
    """The flags of `train`: those of [`RunArguments`], the method's, and transformers' own."""
    parser = _Parser(
        [RunArguments, PaCoTrainingArguments],
        prog=prog,
        usage=f"{prog} [--flag value ...]",
        description="Train a classifier on long-tailed images with PaCo, GPaCo or a baseline, and score it.",
        epilog="All other flags of transformers.TrainingArguments work too: --help_all lists them.",
        allow_abbrev=False,
        formatter_class=argparse.HelpFormatter,
    )
    parser.add_argument("--help_all", action="help", help="also list every flag of transformers.TrainingArguments")
    inherited = {f.name for f in dataclasses.fields(TrainingArguments)}
    for action in parser._actions:
        if (action.dest in inherited and action.dest not in COMMON_TRAINING_FLAGS and not show_all) or any(
            option.startswith("--no_") for option in action.option_strings
        ):
            action.help = argparse.SUPPRESS
        elif action.help and "%" in action.help.replace("%%", ""):
            action.help = action.help.replace("%", "%%")
    return parser


def parse_run(argv: list[str], prog: str = "paco-hf train") -> tuple[RunArguments, PaCoTrainingArguments]:
    """Flags, over the recipe, over the defaults.

    Raises:
        ValueError: an unknown flag or setting, or a value out of range.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name, default in (("recipe", None), ("dataset", None), ("loss", None)):
        first.add_argument(f"--{name}", default=default)
    early, _ = first.parse_known_args(argv)
    recipe = early.recipe
    if recipe is None and early.dataset in (None, "builtin"):
        name = f"{early.loss or DEFAULT_LOSS}-resnet32-builtin"
        recipe = name if name in recipe_names() else f"{DEFAULT_LOSS}-resnet32-builtin"
    parser = build_parser(prog, show_all="--help_all" in argv)
    book = checked_recipe(recipe) if recipe else Recipe("")
    if book.ensemble:
        raise ValueError(
            f"recipe {recipe!r} is an ensemble: train its members, {' and '.join(book.ensemble)}, then score them "
            "together: `paco-hf evaluate FOLDER FOLDER ...`"
        )
    settings = book.settings
    # As text, so that a recipe's values pass the same conversions and checks as those of flags.
    text = {n: json.dumps(v) if isinstance(v, dict) else v if v is None else str(v) for n, v in settings.items()}
    parser.set_defaults(**text, recipe=recipe)
    given = {arg.split("=")[0].removeprefix("--").replace("-", "_") for arg in argv if arg.startswith("--")}
    if "output_dir" not in given:
        loss, dataset = (
            early.loss or settings.get("loss", DEFAULT_LOSS),
            early.dataset or settings.get("dataset", "builtin"),
        )
        parser.set_defaults(output_dir=str(Path("runs") / f"{loss}-{Path(dataset).name}"))
    if "epoch_schedule" not in given and given & {"lr_scheduler_type", "warmup_steps", "warmup_ratio"}:
        parser.set_defaults(epoch_schedule="none")
    # A number of steps given for saving or logging means that.
    for event in ("save", "logging", "eval"):
        if f"{event}_steps" in given and f"{event}_strategy" not in given:
            parser.set_defaults(**{f"{event}_strategy": "steps"})
    run, args, rest = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True, look_for_args_file=False)
    if args.seed < 0:
        raise ValueError(f"seed must not be negative, got {args.seed}")
    if rest:
        flags = [option for action in parser._actions for option in action.option_strings]
        near = difflib.get_close_matches(rest[0], flags, n=1)
        raise ValueError(f"unknown argument {rest[0]!r}" + (f": did you mean {near[0]}?" if near else "; see --help"))
    _fit_batch(run, args, given, settings.get("global_batch_size"))
    known = run.dataset == "builtin" or run.dataset in BENCHMARKS
    if known and run.test_fraction is not None:
        raise ValueError(f"--test_fraction carves from your own data; {run.dataset} has a test split: leave it out")
    selected = run.dataset in BENCHMARKS and BENCHMARKS[run.dataset].n_max
    if not selected and (of_selection := sorted(given & {"imbalance_factor", "imbalance_kind"})):
        raise ValueError(
            f"--{of_selection[0]} makes the long tail of cifar*-lt; {run.dataset} has its own: leave it out"
        )
    if known and run.eval_interpolation is None:
        run.eval_interpolation = "bilinear"
    if not known and recipe is None:
        run.undecided = _left_open(args, given)
    return run, args


def _left_open(args: PaCoTrainingArguments, given: set[str]) -> set[str]:
    """The settings that are to follow the size of a data set of one's own, because the user chose none."""
    chosen = set(given)
    if "global_batch_size" in given:
        chosen.add("per_device_train_batch_size")
    if given & {"lr_scheduler_type", "warmup_steps", "warmup_ratio"}:
        chosen |= {"epoch_schedule", "warmup_epochs"}
    if "epoch_schedule" in given:
        chosen.add("warmup_epochs")
    if args.max_steps > 0:
        chosen.add("num_train_epochs")
    if args.optim != "sgd":
        # The rates that are known are those of SGD.
        chosen.add("learning_rate")
    return set(SUGGESTED) - chosen


def _fit_batch(run: RunArguments, args: PaCoTrainingArguments, given: set[str], recipe_batch: Any) -> None:
    """The batch of a process from the global one, and the learning rate for what the global one becomes.

    `run.global_batch_size` then holds the actual one, so that the resolved recipe has nothing left to scale.
    """
    if run.global_batch_size is None:
        return
    parts = args.world_size * args.gradient_accumulation_steps
    if "per_device_train_batch_size" not in given:
        args.per_device_train_batch_size = max(1, round(run.global_batch_size / parts))
    meant = int(recipe_batch or run.global_batch_size)
    run.global_batch_size = args.per_device_train_batch_size * parts
    if run.global_batch_size == meant or not run.scale_learning_rate or "learning_rate" in given:
        return
    before, factor = args.learning_rate, run.global_batch_size / meant
    args.learning_rate *= factor
    run.batch_note = (
        f"batch {run.global_batch_size} instead of the recipe's {meant}: learning rate {before:g} -> "
        f"{args.learning_rate:g} (--scale_learning_rate false keeps it)"
    )


def resolved_recipe(recipe: str) -> dict[str, Any]:
    """What a recipe is about, and every setting of a run of it, defaults included, as a recipe again.

    What depends on the hardware stays as it is in the recipe; what depends on the images is left out.

    Raises:
        ValueError: no such recipe, or a value out of range.
    """
    book = checked_recipe(recipe)
    if book.ensemble:
        return book.metadata
    settings = resolved(*parse_run(["--recipe", recipe, "--precision", "fp32"]))
    for name, default in (("precision", "auto"), ("dataloader_pin_memory", True)):
        settings[name] = book.settings.get(name, default)
    return {**book.metadata, **settings}
