"""What is printed, and what stays quiet."""

import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from typing import Any

import wrapt

PRINTED_ONCE = "printed by the first process"  # a note on an error of all processes


def open_streams() -> None:
    """Have standard streams that take whatever is printed: one that is closed, as a daemon's may be, becomes the null
    device, and a character that standard output cannot show is escaped."""
    for name in ("stdin", "stdout", "stderr"):  # in the order of their numbers, of which `open` takes the first free
        if getattr(sys, name) is None:
            null = open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8")  # noqa: SIM115 - it stays open
            setattr(sys, name, null)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def drop_unwritten() -> None:
    """Send what a standard stream cannot write, as its pipe or disk is gone or full, to the null device, so that
    Python does not fail to flush it at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def say(main: bool, *lines: str) -> None:
    """Print lines from the `main` process alone."""
    if main:
        print(*lines, sep="\n", end="\n" if lines else "", flush=True)


def quiet() -> None:
    """Progress bars only on a terminal, and no chatter of the libraries about what the user did not ask for.

    It does not import the libraries: what it asks of them is done once they are.
    """
    warnings.filterwarnings("ignore", module="PIL")  # such as of metadata that it does not need

    def quiet_transformers(transformers_logging: Any) -> None:
        transformers_logging.set_verbosity_error()
        # "Loading weights" and "Writing model shards" tell nothing that the run itself does not.
        transformers_logging.disable_progress_bar()

    wrapt.register_post_import_hook(quiet_transformers, "transformers.utils.logging")
    if not sys.stderr.isatty():
        wrapt.register_post_import_hook(lambda datasets: datasets.disable_progress_bars(), "datasets")


# Libraries that take seconds to import.
_HEAVY = {"torch": "PyTorch", "transformers": "transformers", "timm": "timm", "datasets": "datasets"}


@contextmanager
def announce_loading(program: str, at_once: bool = False) -> Iterator[None]:
    """Say, in one line, that libraries load, before the first in the block that takes seconds; on a terminal.

    Args:
        program (`str`): that loads them.
        at_once (`bool`, *optional*, defaults to `False`): say it now, and also where there is no terminal: a run
            prints from the first second on.
    """
    line, loaded = _LoadingLine(program), not _HEAVY.keys().isdisjoint(sys.modules)
    if at_once and not loaded:
        say(True, f"{program}: loading PyTorch and transformers ...")
    elif sys.stderr.isatty() and not loaded:
        sys.meta_path.insert(0, line)
    try:
        yield
    finally:
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not line]


class _LoadingLine(MetaPathFinder):
    """Finds no module; the first time that a heavy one is looked for it prints the line."""

    def __init__(self, program: str) -> None:
        self.program = program

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname in _HEAVY and self in sys.meta_path:
            sys.meta_path.remove(self)
            print(f"{self.program}: loading {_HEAVY[fullname]} ...", file=sys.stderr, flush=True)
