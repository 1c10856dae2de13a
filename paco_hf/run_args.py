"""What a run is besides its training arguments, and how flags, recipe and defaults become one whole."""

import argparse
import dataclasses
import difflib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from transformers import HfArgumentParser, TrainingArguments

from .data.benchmarks import BENCHMARKS
from .recipe_book import Recipe, read_recipe, recipe_names
from .suggestions import SUGGESTED
from .training_args import PaCoTrainingArguments

# Of transformers' own flags, those that `--help` shows; `--help_all` shows the rest.
_COMMON = {
    "output_dir",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
    "weight_decay",
    "max_grad_norm",
    "label_smoothing_factor",
    "seed",
    "eval_strategy",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "logging_strategy",
    "logging_steps",
    "dataloader_num_workers",
    "dataloader_drop_last",
    "metric_for_best_model",
    "report_to",
    "push_to_hub",
    "hub_model_id",
    "hub_private_repo",
}
# Not part of what a run computes, so not part of its saved recipe.
_NOT_IN_RECIPE = {
    "recipe",
    "resume",
    "overwrite",
    "dry_run",
    "report",
    "output_dir",
    "logging_dir",
    "run_name",
    "disable_tqdm",
    "push_to_hub",
    "hub_model_id",
    "hub_private_repo",
    "hub_strategy",
    "hub_revision",
    "hub_token",
    # What it scales is in the recipe as scaled.
    "scale_learning_rate",
    "local_rank",
}


@dataclass
class RunArguments:
    """Data, backbone and views of a run, and how to treat its folder."""

    recipe: str | None = field(
        default=None,
        metadata={
            "help": "name of a recipe of the package, or a YAML file; flags win over it (on builtin a default one)"
        },
    )
    dataset: str = field(
        default="builtin",
        metadata={
            "help": "builtin; imagenet, imagenet-lt, inat2018, places-lt, cifar100-lt, cifar10-lt, cifar100; a folder "
            "of class folders, parquet or tables; a CSV, TSV, JSON or parquet file; or the id of a data set on the Hub"
        },
    )
    dataset_path: str | None = field(
        default=None,
        metadata={
            "help": "where a named data set lies: a folder of `paco-hf data prepare`, the official folders, parquet"
        },
    )
    train_list: str | None = field(
        default=None, metadata={"help": "list of the training images (default: its official name in --dataset_path)"}
    )
    validation_list: str | None = field(default=None, metadata={"help": "likewise of the validation images"})
    test_list: str | None = field(default=None, metadata={"help": "likewise of the test images"})
    streaming: bool = field(
        default=False,
        metadata={"help": "read a prepared folder, or its address, shard by shard, shuffled in a buffer"},
    )
    shuffle_buffer: int = field(
        default=4096, metadata={"help": "encoded images of a process to shuffle among one another when streaming"}
    )
    image_column: str | None = field(default=None, metadata={"help": "column of the images (default: recognised)"})
    label_column: str | None = field(default=None, metadata={"help": "column of the classes (default: recognised)"})
    train_split: str | None = field(
        default=None, metadata={"help": "what your own data calls the split to train on (default: recognised)"}
    )
    validation_split: str | None = field(default=None, metadata={"help": "likewise the validation split"})
    test_split: str | None = field(default=None, metadata={"help": "likewise the test split"})
    inspect: bool | None = field(
        default=None,
        metadata={"help": "decode every image before training and look for duplicates, once (default: your own data)"},
    )
    skip_undecodable: bool = field(
        default=False, metadata={"help": "leave out images of your own data that cannot be decoded"}
    )
    imbalance_factor: float = field(
        default=100, metadata={"help": "images of the most : least frequent class, for cifar*-lt"}
    )
    imbalance_kind: Literal["exp", "step", "pareto"] = field(
        default="exp", metadata={"help": "shape of the tail, for cifar*-lt"}
    )
    validation_fraction: float = field(
        default=0.1,
        metadata={
            "help": "share of the training images carved to select the model; 0: train on all, report the last epoch"
        },
    )
    test_fraction: float | None = field(
        default=None,
        metadata={
            "help": "share of each class carved for the test where your own data has none (default: 0.2; 0: none)"
        },
    )
    split_seed: int = field(
        default=0,
        metadata={"help": "of the test carve, which does not follow --seed"},
    )
    backbone: str | None = field(
        default=None,
        metadata={
            "help": "any timm model, a folder that timm saved, or hf://user/name (default: cifar_resnet32 for small "
            "images, else resnet50)"
        },
    )
    backbone_kwargs: str | None = field(
        default=None, metadata={"help": "JSON object of keyword arguments of timm.create_model"}
    )
    pretrained: bool = field(default=False, metadata={"help": "start from timm's pretrained weights"})
    pretrained_file: str | None = field(
        default=None, metadata={"help": "start from a local file of the backbone's weights: safetensors or PyTorch's"}
    )
    freeze_backbone: bool = field(
        default=False, metadata={"help": "train classifier and projector on the backbone as it is"}
    )
    lora_rank: int | None = field(
        default=None,
        metadata={
            "help": "train low-rank adapters of this rank beside the backbone's linear layers, not its weights (peft)"
        },
    )
    lora_alpha: float | None = field(
        default=None, metadata={"help": "scale of the adapters, times 1 / rank (default: twice the rank)"}
    )
    lora_targets: str | None = field(
        default=None,
        metadata={"help": "linear layers to adapt, such as qkv,proj (default: all; they are printed)"},
    )
    class_centers: str = field(
        default="random",
        metadata={
            "help": "what the class centres start as: random; means: of the training images' features; or a file of "
            "`paco-hf embed`, whose class means, or rows (one a class), are taken"
        },
    )
    classifier_init_std: float | None = field(
        default=None,
        metadata={"help": "standard deviation of the new classifier's weights (default: PyTorch's uniform)"},
    )
    image_size: int | None = field(
        default=None, metadata={"help": "side in pixels (default: the data set's or the backbone's)"}
    )
    eval_interpolation: Literal["bilinear", "bicubic"] | None = field(
        default=None,
        metadata={"help": "how evaluation images are resized (default: bilinear; on your own data the backbone's)"},
    )
    query_view: str | None = field(
        default=None,
        metadata={"help": ("augmentation of the query view (default: cifar_reg for small images, else regular)")},
    )
    key_view: str | None = field(
        default=None, metadata={"help": "augmentation of the key view (default: cifar_sim for small images, else sim)"}
    )
    augment_backend: Literal["auto", "pil", "tensor"] = field(
        default="auto",
        metadata={
            "help": "pil: views an image at a time, in the data loader; tensor: a batch at a time, on the device, for "
            "images of one size that are kept in memory; auto: tensor for small images where it can be"
        },
    )
    global_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "training images of an optimizer step, over all processes: what --learning_rate is for; sets "
            "--per_device_train_batch_size where that is not given"
        },
    )
    scale_learning_rate: bool = field(
        default=True,
        metadata={"help": "where the batch is not the recipe's, scale the recipe's learning rate in proportion"},
    )
    calibrate: bool | None = field(
        default=None,
        metadata={
            "help": "store a temperature fitted on the validation split (default: for own data with at least 100 "
            "images there)"
        },
    )
    report: bool = field(
        default=True,
        metadata={"help": "in the end write the model card and, on the test split, evaluation/report.html"},
    )
    resume: bool = field(
        default=False, metadata={"help": "go on from the last complete checkpoint in --output_dir (or start, if none)"}
    )
    overwrite: bool = field(default=False, metadata={"help": "replace an earlier run in --output_dir"})
    dry_run: bool = field(default=False, metadata={"help": "check everything, print what would be done, and stop"})

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite contradict each other: give one of them")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must be at least 0 and below 1, got {self.validation_fraction}")
        if self.shuffle_buffer < 1:
            raise ValueError(f"shuffle_buffer must be at least 1, got {self.shuffle_buffer}")
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size must be at least 1, got {self.image_size}")
        if self.augment_backend not in ("auto", "pil", "tensor"):
            raise ValueError(f"augment_backend must be auto, pil or tensor, got {self.augment_backend!r}")
        if self.global_batch_size is not None and self.global_batch_size < 1:
            raise ValueError(f"global_batch_size must be at least 1, got {self.global_batch_size}")
        if self.classifier_init_std is not None and not self.classifier_init_std > 0:
            raise ValueError(f"classifier_init_std must be positive, got {self.classifier_init_std}")
        if self.lora_rank is None and (self.lora_alpha is not None or self.lora_targets):
            raise ValueError("--lora_alpha and --lora_targets are of adapters: give --lora_rank too, such as 8")
        if self.lora_rank is not None and (self.lora_rank < 1 or not (self.lora_alpha or 1) > 0):
            raise ValueError(
                f"lora_rank must be at least 1 and lora_alpha positive, got {self.lora_rank} and {self.lora_alpha}"
            )
        if self.lora_rank is not None and self.freeze_backbone:
            raise ValueError("--lora_rank trains adapters of the backbone, --freeze_backbone nothing of it: give one")
        if self.class_centers != "random" and self.classifier_init_std is not None:
            raise ValueError("--class_centers and --classifier_init_std both set the classifier: give one")
        if self.class_centers not in ("random", "means") and not Path(self.class_centers).is_file():
            raise ValueError(
                f"class_centers must be random, means or a file of embeddings, got {self.class_centers!r}, no file"
            )
        if self.split_seed < 0:
            raise ValueError(f"split_seed must not be negative, got {self.split_seed}")
        if self.skip_undecodable and self.inspect is False:
            raise ValueError("--skip_undecodable leaves out what --inspect finds: leave out --inspect false")
        if self.test_fraction is not None and not 0 <= self.test_fraction < 1:
            raise ValueError(f"test_fraction must be at least 0 and below 1, got {self.test_fraction}")
        if self.eval_interpolation not in (None, "bilinear", "bicubic"):
            raise ValueError(f"eval_interpolation must be bilinear or bicubic, got {self.eval_interpolation!r}")
        if self.pretrained_file is not None and not Path(self.pretrained_file).is_file():
            raise ValueError(f"pretrained_file {self.pretrained_file!r} does not exist, or is no file")
        # Filled up once the images are known; `backbone_kwargs` stays as it was given.
        self.backbone_options: dict[str, Any] = dict(json_object(self.backbone_kwargs))
        # What [`parse_run`] did to the learning rate, for the user to read.
        self.batch_note: str | None = None
        # Settings that are to be chosen from the size of the data.
        self.undecided: set[str] = set()

    @property
    def lists(self) -> dict[str, str]:
        """The list files that were given, by split."""
        given = {"train": self.train_list, "validation": self.validation_list, "test": self.test_list}
        return {split: source for split, source in given.items() if source}

    @property
    def splits(self) -> dict[str, str]:
        """The names of splits that were given, by role."""
        given = {"train": self.train_split, "validation": self.validation_split, "test": self.test_split}
        return {role: name for role, name in given.items() if name}


def json_object(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"backbone_kwargs must be a JSON object, got {value!r} ({error})") from error
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"backbone_kwargs must be a JSON object, got {value!r}")
    return value or {}


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
        if (action.dest in inherited and action.dest not in _COMMON and not show_all) or any(
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
        name = f"{early.loss or 'paco'}-resnet32-builtin"
        recipe = name if name in recipe_names() else "paco-resnet32-builtin"
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
        loss, dataset = early.loss or settings.get("loss", "paco"), early.dataset or settings.get("dataset", "builtin")
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


def resolved(run: RunArguments, args: PaCoTrainingArguments) -> dict[str, Any]:
    """The settings that make the run what it is, as a recipe: the method's, and transformers' where changed."""
    settings = {f.name: getattr(run, f.name) for f in dataclasses.fields(RunArguments)}
    inherited = {f.name: f for f in dataclasses.fields(TrainingArguments)}
    for f in dataclasses.fields(PaCoTrainingArguments):
        value = getattr(args, f.name)
        value = getattr(value, "value", value)
        changed = f.name in _COMMON or f.name not in inherited or value != inherited[f.name].default
        if f.init and changed and isinstance(value, bool | int | float | str | None):
            settings[f.name] = value
    settings["backbone_kwargs"] = json_object(run.backbone_kwargs) or None
    # Chosen once the images are known, as the backbone and the views are.
    settings["augment_backend"] = None if run.augment_backend == "auto" else run.augment_backend
    # bf16 and fp16 say what `precision` was resolved to.
    settings["precision"] = args.resolved_precision
    for name in ("bf16", "fp16", "use_cpu"):
        settings.pop(name, None)
    left_out = _NOT_IN_RECIPE | run.undecided
    return {name: value for name, value in settings.items() if name not in left_out and value is not None}
