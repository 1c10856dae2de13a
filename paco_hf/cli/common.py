"""What the verbs of the command line share."""

import argparse
from pathlib import Path
from typing import Any, NoReturn


class OneLineParser(argparse.ArgumentParser):
    """argparse, but a bad argument is one line, like every other bad input."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (--help lists the arguments)")


def add_precision(parser: argparse.ArgumentParser) -> None:
    """The flag for the precision of inference."""
    parser.add_argument(
        "--precision",
        choices=["auto", "fp32", "bf16", "fp16"],
        default="fp32",
        help="fp32 gives what pipeline gives; auto: bf16 where the hardware has it, which is faster",
    )


def add_data_flags(parser: argparse.ArgumentParser, default_split: str) -> None:
    parser.add_argument("--dataset", help="as for train (default: what the run was trained on)")
    parser.add_argument("--dataset_path", help="as for train")
    parser.add_argument(
        "--split",
        choices=["train", "validation", "test"],
        default=default_split,
        help="train: what the run was trained on, without what it carved (default: %(default)s)",
    )
    parser.add_argument("--image_column", help="column of the images (default: recognised)")
    parser.add_argument("--label_column", help="column of the classes (default: recognised)")
    for split in ("train", "validation", "test"):
        parser.add_argument(f"--{split}_list", metavar="FILE", help="as for train")
        parser.add_argument(f"--{split}_split", metavar="NAME", help="as for train")
    parser.add_argument("--batch_size", type=int, default=256, help="images at a time (default: %(default)s)")
    add_precision(parser)


def load_split(model: str, flags: argparse.Namespace) -> tuple[Any, list[str]]:
    from ..workflows.evaluation_data import load_evaluation

    roles = ("train", "validation", "test")
    return load_evaluation(
        model,
        flags.dataset,
        flags.split,
        dataset_path=flags.dataset_path,
        image_column=flags.image_column,
        label_column=flags.label_column,
        lists={r: file for r in roles if (file := getattr(flags, f"{r}_list"))} or None,
        splits={r: name for r in roles if (name := getattr(flags, f"{r}_split"))} or None,
    )


def check_output(file: str | None) -> None:
    """`ValueError` where a file cannot be written there, before there is work that would be lost."""
    if file is None:
        return
    path = Path(file)
    if path.is_dir():
        raise ValueError(f"--output {file} is a folder: give the name of a file in it")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"--output {file} cannot be written: there is no folder {path.parent}")
