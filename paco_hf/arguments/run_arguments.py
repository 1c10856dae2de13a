"""What a run is besides its training arguments: data, model, and how to treat its folder."""

from dataclasses import dataclass

from .data_arguments import DataArguments
from .fields import AT_LEAST_1, arg
from .model_arguments import ModelArguments


@dataclass
class RecipeArguments:
    """The recipe, which the flags change."""

    recipe: str | None = arg(
        None, "name of a recipe of the package, or a YAML file; flags win over it (on builtin a default one)"
    )


@dataclass
class WorkflowArguments:
    """The flags of what is done around the training; a field's help says what it does."""

    global_batch_size: int | None = arg(
        None,
        "training images of an optimizer step, over all processes: what --learning_rate is for; sets "
        "--per_device_train_batch_size where that is not given",
        AT_LEAST_1,
    )
    scale_learning_rate: bool = arg(
        True, "where the batch is not the recipe's, scale the recipe's learning rate in proportion"
    )
    calibrate: bool | None = arg(
        None,
        "store a temperature fitted on the validation split (default: for own data with at least 100 images there)",
    )
    report: bool = arg(True, "in the end write the model card and, on the test split, evaluation/report.html")
    resume: bool = arg(False, "go on from the last complete checkpoint in --output_dir (or start, if none)")
    overwrite: bool = arg(False, "replace an earlier run in --output_dir")
    dry_run: bool = arg(False, "check everything, print what would be done, and stop")


# In the order of the help.
RUN_TABLES = (RecipeArguments, DataArguments, ModelArguments, WorkflowArguments)


@dataclass
class RunArguments(WorkflowArguments, ModelArguments, DataArguments, RecipeArguments):
    """Data, backbone and views of a run, and how to treat its folder: the flags of [`RUN_TABLES`].

    Args:
        automatic (`frozenset` of `str`, *optional*): training settings to choose from the size of the data. This and
            `notes` are no flags: [`paco_hf.arguments.parser.parse_run`] sets them.
        notes (`tuple` of `str`, *optional*): what the parser made of the training settings, for the user to read.

    Raises:
        ValueError: a value out of range, or two that contradict each other.
    """

    automatic: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        DataArguments.__post_init__(self)
        ModelArguments.__post_init__(self)
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite contradict each other: give one of them")
        if self.streaming and self.class_centers == "means":
            raise ValueError(
                "--class_centers means reads all images first, --streaming once: give a file of embeddings"
            )
