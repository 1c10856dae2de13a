"""The `paco-hf` command. Each verb has a module: its docstring is the help, and heavy modules load late."""

import os
import re
import sys
import time
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from types import ModuleType

from ..arguments.hints import meant_name
from ..utils.console import PRINTED_ONCE, announce_loading, quiet
from ..utils.files import disk_errors
from ..utils.signals import STATUS, Stopped
from .common import OneLineParser
from .launcher import HELP_FLAGS, in_processes, is_first_process, is_launched, split_number

_USAGE = (Path(__file__).parents[1] / "templates" / "usage.txt").read_text(encoding="utf-8")
_VERBS = re.findall(r"^  ([a-z-]+)", _USAGE, re.MULTILINE)


def main(argv: list[str] | None = None) -> int:
    """Run a verb. Bad input: one line on standard error, status 2; `PACO_HF_DEBUG=1` shows the traceback."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return 0 if argv else 2
    if argv[0] == "--version":
        from importlib.metadata import version

        print(version("paco-hf"))
        return 0
    if argv[0] not in _VERBS:
        near = meant_name(argv[0].lower().replace("_", "-"), _VERBS, "verbs")
        hint = f"did you mean {near}?" if near else f"choose one of {', '.join(_VERBS)}"
        print(f"paco-hf: unknown verb {argv[0]!r}: {hint}", file=sys.stderr)
        return 2
    again = "--resume goes on from the last complete checkpoint" if argv[0] == "train" else "run the command again"
    try:
        with disk_errors(f"make space, and {again}"):
            _run(*argv)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at exit
        return 141
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        if os.environ.get("PACO_HF_DEBUG"):
            raise
        if PRINTED_ONCE in getattr(error, "__notes__", ()):
            return 2
        if not is_first_process():
            # Most errors befall all processes alike: once the first has told, the launcher ends the others.
            time.sleep(5)
        # An error of a data loader's worker comes with the worker's whole traceback; its last line is the message.
        message = str(error).strip()
        message = message.splitlines()[-1] if "Original Traceback" in message else message
        print(f"paco-hf {argv[0]}: {' '.join(message.split())}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if os.environ.get("PACO_HF_DEBUG") or not _is_lost_process(error):
            raise
        print(f"paco-hf {argv[0]}: another process of it is gone; {again}", file=sys.stderr)
        return 1
    except Stopped as stop:
        if is_first_process():
            print(f"paco-hf {argv[0]}: {stop}", file=sys.stderr)
        else:
            time.sleep(1)  # once a process has ended, the launcher ends the others: the first tells before
        return STATUS
    except KeyboardInterrupt:
        if is_first_process():
            advice = "; --resume goes on from the last checkpoint" if argv[0] == "train" else ""
            print(f"paco-hf {argv[0]}: stopped{advice}", file=sys.stderr)
        return 130
    return 0


def _is_lost_process(error: RuntimeError) -> bool:
    """Whether a collective failed, as it does where another process was killed, which its launcher tells."""
    # NCCL's are of a type of their own; gloo's name the file of its sources.
    return type(error).__name__.startswith("Dist") or "/gloo/" in str(error)


def _run(verb: str, *argv: str) -> None:
    if verb in ("train", "evaluate"):
        split_number(list(argv))  # refuses what is no number before the line of loading
    module = import_module(f".{verb.replace('-', '_')}", __package__)
    is_quiet = not is_first_process() or is_launched() or HELP_FLAGS & set(argv)
    with nullcontext() if is_quiet else announce_loading(f"paco-hf {verb}", at_once=verb == "train"):
        _run_verb(module, verb, list(argv))


def _run_verb(module: ModuleType, verb: str, argv: list[str]) -> None:
    rest = in_processes(verb, argv) if verb in ("train", "evaluate") else argv
    if verb == "train":  # its settings are those of recipes, which have a parser of their own
        module.run(rest)
        return
    parser = OneLineParser(prog=f"paco-hf {verb}", description=module.__doc__)
    module.add_flags(parser)
    flags = parser.parse_args(rest)
    quiet()
    module.run(flags)
