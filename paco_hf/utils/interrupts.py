"""Ctrl-C while the command starts: a line, and no traceback of what was being imported."""

import os
import signal
import sys
from typing import Any

_IMPORTING = "<frozen importlib._bootstrap>"


def guard_start() -> None:
    """Where this process is the `paco-hf` command, let SIGINT end it with a line, from its first import on."""
    # While runpy imports the package for `python -m paco_hf`, the first argument is `-m`.
    by_name = sys.argv[:1] == ["-m"] and "paco_hf" in sys.orig_argv
    started = by_name or os.path.basename(sys.argv[0]).removesuffix(".exe") == "paco-hf"
    if started and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def guard_imports() -> None:
    """From here on, let SIGINT end the command in this way only in the middle of an import; else it is a
    `KeyboardInterrupt`. In a program of the user's nothing changes."""
    process = os.getpid()

    def end_or_raise(number: int, frame: Any) -> None:
        outer = frame
        while outer is not None and os.getpid() == process:  # a forked worker is ended by the one that it works for
            if outer.f_code.co_filename == _IMPORTING:
                _end()
            outer = outer.f_back
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, end_or_raise)


def _end(*_: Any) -> None:
    if os.environ.get("RANK", "0") == "0":
        os.write(2, f"{' '.join(['paco-hf', *sys.argv[1:2]])}: stopped\n".encode(errors="replace"))
    os._exit(130)
