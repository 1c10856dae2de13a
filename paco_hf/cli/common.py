"""What the verbs of the command line share."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..arguments.hints import check_flags, unknown_argument
from ..data.spec import ROLES, DataSpec, spec_fields
from ..utils.hub_names import join_revision, split_revision
from ..utils.text import describe_errors
from .inputs import COUNT, checkpoint, data_source, dataset_path, images, list_file


class OneLineParser(argparse.ArgumentParser):
    """argparse, but a bad argument is one line, like every other bad input, and an unknown one says what was meant."""

    words: Sequence[str] = ()  # of the command, which a verb may look at before they are parsed
    models = ""  # the argument of the models whose revision `--revision` is

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's.

        Raises:
            ValueError: there is an unknown one, or one without a value.
        """
        self.words = args or []
        check_flags(self.words)
        values, unknown = super().parse_known_args(args, namespace)
        self._refuse(unknown)
        if self.models and values.revision:
            models = getattr(values, self.models)
            revised = with_revision(models, values.revision) if isinstance(models, str) else None
            setattr(values, self.models, revised or [with_revision(model, values.revision) for model in models])
        return values, unknown

    def print_help(self, file: Any = None) -> None:
        """As argparse's, but an error of the stream is one.

        Args:
            file (file, *optional*): to print to; standard output where `None`.
        """
        print(self.format_help(), end="", file=file)

    def _refuse(self, unknown: Sequence[str]) -> None:
        if unknown:
            raise unknown_argument(unknown[0], self._option_string_actions, self.prog.rpartition(" ")[2])

    def error(self, message: str) -> NoReturn:
        if "are required" in message:  # perhaps what stands there under another name
            flags = [word for word in self.words if re.match(r"--?[a-zA-Z]", word)]
            known = tuple(self._option_string_actions)
            self._refuse([w for w in flags if not any(name.startswith(w.partition("=")[0]) for name in known)])
        message = re.sub(r"^argument (--\w+):(?= must )", r"\1", message)
        raise ValueError(f"{message} (--help lists the arguments)")


def selected(flags: argparse.Namespace, names: str) -> dict[str, Any]:
    """The values of the flags that `names` lists, with blanks between, by name."""
    return {name: getattr(flags, name) for name in names.split()}


def add_model_flag(parser: argparse.ArgumentParser, name: str = "model", **options: Any) -> None:
    """The argument of a checkpoint, or of several, and the flag for the revision on the Hub.

    Args:
        parser (`argparse.ArgumentParser`): of the verb.
        name (`str`, *optional*, defaults to `"model"`): of the argument.
        options: of the argument.
    """
    about = "run folder, checkpoint or Hub id, user/name[@revision]"
    parser.add_argument(name, type=checkpoint, **{"help": about, **options})
    parser.add_argument("--revision", help="branch, tag or commit of a model on the Hub")
    if isinstance(parser, OneLineParser):
        parser.models = name


def with_revision(model: str, revision: str) -> str:
    """`user/name@revision`.

    Args:
        model (`str`): a Hub id.
        revision (`str`): of `--revision`.

    Raises:
        ValueError: the model is a local folder, or has another revision already.
    """
    if Path(model).exists():
        raise ValueError(
            f"--revision {revision} is for models on the Hub, but {model} is a local folder: remove the flag, or "
            "write user/name@revision"
        )
    plain, named = split_revision(model)
    if named not in (None, revision):
        raise ValueError(f"{model} and --revision {revision} name two revisions: use only one of them")
    return join_revision(plain, revision)


def add_column_flags(parser: argparse.ArgumentParser) -> None:
    """The flags for the columns of a table of images."""
    _add_image_column_flag(parser)
    parser.add_argument("--label_column", help="column with the classes (default: detected)")
    about = "source of the labels if there are both class folders and a table"
    parser.add_argument("--label_source", choices=["folders", "table"], help=about)


def _add_image_column_flag(parser: argparse.ArgumentParser) -> None:
    """The flag for the column of the images in a table."""
    parser.add_argument("--image_column", help="column with the images (default: detected)")


def add_split_flags(parser: argparse.ArgumentParser) -> None:
    """The flags for the names of splits."""
    for role in ROLES:
        parser.add_argument(f"--{role}_split", metavar="NAME", help="as for train")


def add_inference_flags(parser: argparse.ArgumentParser, batch_size: int) -> None:
    """The flags for how images go through a model."""
    about = "batch size (default: %(default)s)"
    parser.add_argument("--batch_size", type=COUNT, default=batch_size, help=about)
    formats = ["auto", "fp32", "bf16", "fp16"]
    about = (
        "fp32: same results as pipeline; auto: bf16, which is faster, if the hardware has it (default: %(default)s)"
    )
    parser.add_argument("--precision", choices=formats, default="fp32", help=about)
    about = "maximum pixels of an image (default: the run's, else 179 million)"
    parser.add_argument("--max_image_pixels", metavar="N", type=COUNT, help=about)


def add_tta_flag(parser: argparse.ArgumentParser) -> None:
    """The flag for test-time augmentation."""
    about = "flip: average the logits of an image and its mirror image, at twice the time (default: %(default)s)"
    parser.add_argument("--tta", choices=["none", "flip"], default="none", help=about)


def add_unlabeled_flags(parser: argparse.ArgumentParser, purpose: str = "", labeled_too: bool = False) -> None:
    """The flags for images without labels; [`open_images`] reads them, and [`report_errors`] what was wrong with them.

    Args:
        parser (`argparse.ArgumentParser`): of the verb.
        purpose (`str`, *optional*): what the help adds to what they are.
        labeled_too (`bool`, *optional*, defaults to `False`): they may be left out, as there are the flags of
            [`add_data_flags`].
    """
    about = f"image files, folders, tables, URLs or datasets on the Hub{purpose}"
    parser.add_argument("images", type=images, nargs="*" if labeled_too else "+", help=about)
    if not labeled_too:
        _add_image_column_flag(parser)
    about = "stop at the first image that cannot be decoded (default: skip it, and exit with status 1)"
    parser.add_argument("--strict", action="store_true", help=about)


def open_images(flags: argparse.Namespace, split: str | None = None) -> Any:
    """The images that the flags of [`add_unlabeled_flags`] mean, of data with splits those of `split`, where it is not
    `None`; what the user should know goes to standard error."""
    from ..inference.batches import ImageFiles
    from ..inference.unlabeled import find_images
    from ..utils.images import allow_image_pixels

    allow_image_pixels(flags.max_image_pixels)
    unlabeled = find_images(flags.images, flags.image_column, split)
    for note in unlabeled.notes:
        print(f"note: {note}", file=sys.stderr)
    return ImageFiles(unlabeled, flags.strict)


def report_errors(verb: str, errors: Sequence[str], files: int, count: int | None = None) -> int:
    """Say in a line how many of the image files could not be decoded. Returns the status to exit with.

    Args:
        verb (`str`): that saw them.
        errors (sequence of `str`): a message for each, or for the first alone.
        files (`int`): how many there are.
        count (`int`, *optional*): of the errors, where these are not all (default: their number).
    """
    if not errors:
        return 0
    described = describe_errors(len(errors) if count is None else count, errors[0], files)
    print(f"paco-hf {verb}: {described} (--strict stops at the first)", file=sys.stderr)
    return 1


def add_data_flags(
    parser: argparse.ArgumentParser, default_split: str | None, splits: Sequence[str] = ROLES, default: str = ""
) -> None:
    """The flags for the labeled images that a model is applied to; [`load_split`] reads them.

    Args:
        parser (`argparse.ArgumentParser`): of the verb.
        default_split (`str`, *optional*): the value of `--split` where it is not given.
        splits (sequence of `str`, *optional*): its possible values.
        default (`str`, *optional*): what the help calls the default (default: its value).
    """
    parser.add_argument("--dataset", type=data_source, help="as for train (default: the dataset of the run)")
    parser.add_argument("--dataset_path", type=dataset_path, help="as for train")
    trained = "; train: the training images of the run, without the images split off" if "train" in splits else ""
    about = f"split of the data (default: {default or '%(default)s'}{trained})"
    parser.add_argument("--split", choices=splits, default=default_split, help=about)
    add_column_flags(parser)
    add_split_flags(parser)
    for role in ROLES:
        parser.add_argument(f"--{role}_list", metavar="FILE", type=list_file, help="as for train")


def load_split(model: str, flags: argparse.Namespace) -> Any:
    """The images that the flags of [`add_data_flags`] mean."""
    from ..workflows.evaluation_data import load_evaluation

    split = load_evaluation(model, flags.dataset, flags.split, **spec_fields(vars(flags)))
    if split.note:
        print(split.note, file=sys.stderr)
    return split


def check_data_flags(flags: argparse.Namespace) -> None:
    """`ValueError` where flags of [`add_data_flags`] do not go together, as far as they tell without the run's."""
    if flags.dataset:
        DataSpec(flags.dataset, **spec_fields(vars(flags)))


def check_checkpoint_folder(flag: str, model: str) -> None:
    """`ValueError` where `flag` would change the `config.json` of a checkpoint that is not in a local folder."""
    if not (Path(model) / "config.json").is_file():
        raise ValueError(f"{flag} changes config.json, but {model} is not a local checkpoint: pass a run folder")
