"""Ctrl-C while the command starts: a line, and no traceback of what was being imported."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

_IMPORTING = "<frozen importlib._bootstrap>"
_MOMENT = 0.05  # seconds after which what ignored an interrupt is over
_heard = threading.Event()


def guard_start() -> None:
    """Where this process is the `paco-hf` command, let SIGINT end it with a line, from its first import on."""
    # While runpy imports the package for `python -m paco_hf`, the first argument is `-m`.
    by_name = sys.argv[:1] == ["-m"] and "paco_hf" in sys.orig_argv
    started = by_name or os.path.basename(sys.argv[0]).removesuffix(".exe") == "paco-hf"
    if started and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


@contextmanager
def raise_interrupts() -> Iterator[None]:
    """In the block, let SIGINT end the command in this way only in the middle of an import; else it is a
    `KeyboardInterrupt`, also in a program of the user's.

    Where that is raised in what swallows it, it comes again: a moment later where Python ignores all errors, as in a
    `__del__`, and from [`check_interrupt`] where a library catches them.
    """
    process, before, hook = os.getpid(), signal.getsignal(signal.SIGINT), sys.unraisablehook
    main, is_command = threading.main_thread(), before is _end

    def end_or_raise(number: int, frame: Any) -> None:
        outer = frame
        if os.getpid() == process:  # a forked worker is ended by the one that it works for
            _heard.set()
            while is_command and outer is not None:
                if outer.f_code.co_filename == _IMPORTING:
                    _end()
                outer = outer.f_back
        signal.default_int_handler(number, frame)

    def raise_again(ignored: Any) -> None:
        if ignored.exc_type is KeyboardInterrupt and main.ident:
            # On Windows the main thread hears what any thread raises.
            to_main = hasattr(signal, "pthread_kill") and partial(signal.pthread_kill, main.ident)
            threading.Timer(_MOMENT, to_main or signal.raise_signal, (signal.SIGINT,)).start()
        else:
            hook(ignored)

    if before not in (_end, signal.default_int_handler) or threading.current_thread() is not main:
        yield
        return
    signal.signal(signal.SIGINT, end_or_raise)
    sys.unraisablehook = raise_again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, before)
        _heard.clear()


def check_interrupt() -> None:
    """`KeyboardInterrupt` where there was one before in this block of [`raise_interrupts`], whatever became of it."""
    if _heard.is_set():
        raise KeyboardInterrupt


def _end(*_: Any) -> None:
    if os.environ.get("RANK", "0") == "0":
        os.write(2, f"{' '.join(['paco-hf', *sys.argv[1:2]])}: stopped\n".encode(errors="replace"))
    os._exit(130)
