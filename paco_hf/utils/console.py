"""What is printed, and what stays quiet."""

import sys
from typing import Any

import wrapt


def say(main: bool, *lines: str) -> None:
    """Print lines from the `main` process alone."""
    if main:
        print(*lines, sep="\n", end="\n" if lines else "", flush=True)


def quiet() -> None:
    """Progress bars only on a terminal, and no chatter of the libraries about what the user did not ask for.

    It does not import the libraries: what it asks of them is done once they are.
    """

    def quiet_transformers(transformers_logging: Any) -> None:
        transformers_logging.set_verbosity_error()
        # "Loading weights" and "Writing model shards" tell nothing that the run itself does not.
        transformers_logging.disable_progress_bar()

    wrapt.register_post_import_hook(quiet_transformers, "transformers.utils.logging")
    if not sys.stderr.isatty():
        wrapt.register_post_import_hook(lambda datasets: datasets.disable_progress_bars(), "datasets")
