"""What a run is besides its training arguments: data, model, and how to treat its folder."""

from dataclasses import dataclass
from typing import Annotated

from .data_arguments import DataArguments
from .fields import AT_LEAST_1, argument_table
from .model_arguments import ModelArguments


@argument_table
class RecipeArguments:
    """The recipe, which the flags change.

    Args:
        recipe (`str`, *optional*): name of a recipe of the package, or a YAML file; flags win over it (on builtin a
            default one)
    """

    recipe: str | None = None


@argument_table
class WorkflowArguments:
    """The flags of what is done around the training.

    Args:
        global_batch_size (`int`, *optional*): training images of an optimizer step, over all processes: what
            --learning_rate is for; sets --per_device_train_batch_size where that is not given
        scale_learning_rate (`bool`, *optional*, defaults to `True`): where the batch is not the recipe's, scale the
            recipe's learning rate in proportion
        calibrate (`bool`, *optional*): store a temperature fitted on the validation split (default: for own data with
            at least 100 images there)
        report (`bool`, *optional*, defaults to `True`): in the end write the model card and, on the test split,
            evaluation/report.html
        resume (`bool`, *optional*, defaults to `False`): go on from the last complete checkpoint in --output_dir (or
            start, if none)
        overwrite (`bool`, *optional*, defaults to `False`): replace an earlier run in --output_dir
        dry_run (`bool`, *optional*, defaults to `False`): check everything, print what would be done, and stop
    """

    global_batch_size: Annotated[int | None, AT_LEAST_1] = None
    scale_learning_rate: bool = True
    calibrate: bool | None = None
    report: bool = True
    resume: bool = False
    overwrite: bool = False
    dry_run: bool = False


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
