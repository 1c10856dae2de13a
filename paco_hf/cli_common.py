"""What the verbs of the command line share."""

import argparse
import sys
from typing import NoReturn


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


def quiet() -> None:
    """Progress bars only on a terminal, and no chatter of the libraries about what the user did not ask for."""
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    # "Loading weights" and "Writing model shards" tell nothing that the run itself does not.
    transformers.logging.disable_progress_bar()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
