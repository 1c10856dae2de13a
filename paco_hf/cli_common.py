"""What the verbs of the command line share."""

import argparse
import sys
from typing import NoReturn


class OneLineParser(argparse.ArgumentParser):
    """argparse, but a bad argument is one line, like every other bad input."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (--help lists the arguments)")


def quiet() -> None:
    """Progress bars only on a terminal, and no chatter of the libraries about what the user did not ask for."""
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    # "Loading weights" and "Writing model shards" tell nothing that the run itself does not.
    transformers.logging.disable_progress_bar()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
