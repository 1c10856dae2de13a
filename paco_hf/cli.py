"""The `paco-hf` command. Each verb parses its flags and calls one function; heavy modules load late."""

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module

from .cli_common import OneLineParser, quiet
from .launch import HELP_FLAGS, NPROC_HELP, check_processes, in_processes, is_first_process

_ABOUT = """\
usage: paco-hf VERB [...]

Train and use image classifiers on long-tailed data (PaCo, GPaCo).

verbs:
  train      train a model, select it on a validation split, score it on the test split
  evaluate   score a checkpoint, or the ensemble of several, and write a report; calibrate it
  predict    classify image files or folders
  report     compare runs: means over seeds, cost, training curves
  estimate-prior
             how frequent the classes are among unlabelled images
  recipes    list the recipes, or show one
  data       prepare, verify or describe a data set
  convert    make a checkpoint from a file of the reference implementation
  embed      write the features of images
  index      index the training images by their features, for demo
  demo       try a model on a page in the browser
  export     write a checkpoint for timm, or as ONNX
  card       write the model card of a run
  push       publish a run on the Hub

`paco-hf VERB --help` says more.
"""


def _train(argv: list[str]) -> None:
    argv = in_processes("train", argv)
    from .run_args import build_parser, parse_run

    if HELP_FLAGS & set(argv):
        parser = build_parser("paco-hf train", show_all="--help_all" in argv)
        # For the help alone: it is no setting of the run, so the run's parser does not have it.
        parser.add_argument("--nproc", type=int, metavar="N", help=NPROC_HELP)
        parser.print_help()
        return
    run, args = parse_run(argv)
    check_processes(args.world_size)
    quiet()
    from .distributed import leave_together
    from .workflow import train

    train(run, args)
    leave_together()


def _recipes(argv: list[str]) -> None:
    parser = OneLineParser(prog="paco-hf recipes", description="List the recipes, or show one with all its settings.")
    parser.add_argument("action", nargs="?", choices=["list", "show"], default="list")
    parser.add_argument("name", nargs="?", help="of the recipe to show, or a YAML file; `train --recipe` takes both")
    parser.add_argument("--json", action="store_true", help="print JSON")
    flags = parser.parse_args(argv)
    if flags.action == "list":
        from .recipe_book import overview, table

        entries = overview()
        print(json.dumps(entries, indent=2) if flags.json else table(entries))
        return
    if flags.name is None:
        raise ValueError("paco-hf recipes show NAME: which one? `paco-hf recipes` lists the names")
    from .recipe_book import as_text
    from .run_args import resolved_recipe

    content = resolved_recipe(flags.name)
    print(json.dumps(content, indent=2) if flags.json else as_text(content).rstrip())


def _elsewhere(module: str, verb: str) -> Callable[[list[str]], None]:
    def run(argv: list[str]) -> None:
        getattr(import_module(f".{module}", __package__), verb)(argv)

    return run


_VERBS: dict[str, Callable[[list[str]], None]] = {
    "train": _train,
    "evaluate": _elsewhere("cli_scores", "evaluate"),
    "predict": _elsewhere("cli_scores", "predict"),
    "report": _elsewhere("cli_scores", "report"),
    "estimate-prior": _elsewhere("cli_scores", "estimate_prior"),
    "recipes": _recipes,
    "data": _elsewhere("cli_data", "data"),
    "convert": _elsewhere("cli_hub", "convert"),
    "embed": _elsewhere("cli_features", "embed"),
    "index": _elsewhere("cli_features", "index"),
    "demo": _elsewhere("cli_features", "demo"),
    "export": _elsewhere("cli_hub", "export"),
    "card": _elsewhere("cli_hub", "card"),
    "push": _elsewhere("cli_hub", "push"),
}


def main(argv: list[str] | None = None) -> int:
    """Run a verb. Bad input: one line on standard error, status 2; `PACO_HF_DEBUG=1` shows the traceback."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(_ABOUT, end="")
        return 0 if argv else 2
    if argv[0] == "--version":
        from importlib.metadata import version

        print(version("paco-hf"))
        return 0
    verb = _VERBS.get(argv[0])
    if verb is None:
        print(f"paco-hf: unknown verb {argv[0]!r}: choose one of {', '.join(_VERBS)}", file=sys.stderr)
        return 2
    try:
        verb(argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at exit
        return 141
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        if os.environ.get("PACO_HF_DEBUG"):
            raise
        if not is_first_process():
            # Most errors befall all processes alike: once the first has told, the launcher ends the others.
            time.sleep(5)
        # An error of a data loader's worker comes with the worker's whole traceback; its last line is the message.
        message = str(error).strip()
        message = message.splitlines()[-1] if "Original Traceback" in message else message
        print(f"paco-hf {argv[0]}: {' '.join(message.split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if is_first_process():
            advice = "; --resume goes on from the last checkpoint" if argv[0] == "train" else ""
            print(f"paco-hf {argv[0]}: stopped{advice}", file=sys.stderr)
        return 130
    return 0
