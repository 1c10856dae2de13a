"""The `paco-hf` command. Each verb has a module: its docstring is the help, and heavy modules load late."""

import os
import re
import sys
import time
from contextlib import nullcontext, suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType

from ..arguments.hints import meant_name
from ..utils.console import PRINTED_ONCE, announce_loading, drop_unwritten, open_streams, quiet
from ..utils.files import disk_errors
from ..utils.interrupts import raise_interrupts
from ..utils.signals import STATUS, Stopped, is_lost
from ..utils.versions import system_lines
from .common import OneLineParser
from .failures import LOST_STATUS, explain, explain_loss, how_to_go_on, how_to_try_again
from .launcher import HELP_FLAGS, in_processes, is_first_process, is_launched, split_number

_USAGE = (Path(__file__).parents[1] / "templates" / "usage.txt").read_text(encoding="utf-8")
_PARALLEL = ("train", "evaluate", "predict")  # verbs with --nproc
_VERBS = re.findall(r"^  ([a-z-]+)", _USAGE, re.MULTILINE)


def main(argv: list[str] | None = None) -> int:
    """Run a verb. Bad input: one line on standard error, status 2. An error that nobody foresaw: a line that names a
    file with the traceback, status 1. `PACO_HF_DEBUG=1` shows the traceback."""
    argv = sys.argv[1:] if argv is None else argv
    verb = argv[0] if argv else ""
    open_streams()
    try:
        return _status(argv, verb)
    finally:
        drop_unwritten()


def _status(argv: list[str], verb: str) -> int:
    resumable = how_to_go_on(argv)
    again = how_to_try_again(argv)
    try:
        with raise_interrupts(), disk_errors(f"free disk space, then {again}"):
            try:
                status = _run(*argv)
            except SystemExit:  # of a verb's --help
                sys.stdout.flush()
                raise
            sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has enough
        return 141
    except Stopped as stop:
        if is_first_process():
            _complain(verb, str(stop))
        else:
            time.sleep(1)  # once a process has ended, the launcher ends the others: the first tells before
        return STATUS
    except KeyboardInterrupt:
        if is_first_process():
            _complain(verb, f"stopped; {resumable}" if resumable else "stopped")
        return 130
    except Exception as error:
        if os.environ.get("PACO_HF_DEBUG"):
            raise
        if PRINTED_ONCE in getattr(error, "__notes__", ()):
            return 2
        if is_lost(error):
            if is_launched():  # the command that started all says which has ended, and how
                time.sleep(2)
            elif message := explain_loss(again):
                _complain(verb, message)
            return LOST_STATUS
        if not is_first_process():
            # Most errors befall all processes alike: once the first has told, the launcher ends the others.
            time.sleep(5)
        message, status = explain(error, verb, again)
        _complain(verb, message)
        return status


def _complain(verb: str, message: str) -> None:
    with suppress(OSError):  # where standard error cannot be written, the status is left
        print(f"{f'paco-hf {verb}'.rstrip()}: {message}", file=sys.stderr)


def _run(verb: str = "", *argv: str) -> int:
    if verb in ("", "-h", "--help"):
        print(_USAGE, end="")
        return 0 if verb else 2
    if verb == "--version":
        print("\n".join(system_lines()))
        return 0
    if verb not in _VERBS:
        near = meant_name(verb.lower().replace("_", "-"), _VERBS, "verbs")
        hint = f"did you mean {near}?" if near else f"choose one of {', '.join(_VERBS)}"
        print(f"paco-hf: unknown verb {verb!r}: {hint}", file=sys.stderr)
        return 2
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise OSError("the working directory has been deleted: change to an existing one with cd") from error
    if verb in _PARALLEL:
        split_number(list(argv))  # refuses what is no number before the line of loading
    module = import_module(f".{verb.replace('-', '_')}", __package__)
    is_quiet = not is_first_process() or is_launched() or HELP_FLAGS & set(argv)
    with nullcontext() if is_quiet else announce_loading(f"paco-hf {verb}", at_once=verb == "train"):
        return _run_verb(module, verb, list(argv))


def _run_verb(module: ModuleType, verb: str, argv: list[str]) -> int:
    rest = in_processes(verb, argv) if verb in _PARALLEL else argv
    if verb == "train":  # its settings are those of recipes, which have a parser of their own
        module.run(rest)
        return 0
    parser = OneLineParser(prog=f"paco-hf {verb}", description=module.__doc__)
    parser.words = rest
    module.add_flags(parser)
    flags = parser.parse_args(rest)
    quiet()
    return module.run(flags) or 0
