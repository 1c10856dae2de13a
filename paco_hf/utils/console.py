"""What is printed, and what stays quiet."""

import sys


def say(main: bool, text: str) -> None:
    if main:
        print(text, flush=True)


def quiet() -> None:
    """Progress bars only on a terminal, and no chatter of the libraries about what the user did not ask for."""
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    # "Loading weights" and "Writing model shards" tell nothing that the run itself does not.
    transformers.logging.disable_progress_bar()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
