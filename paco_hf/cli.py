"""The `paco-hf` command. Each verb parses its flags and calls one function; heavy modules load late."""

import argparse
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
  evaluate   score a checkpoint, or the ensemble of several: top-1, many/medium/few, balanced accuracy
  predict    classify image files or folders
  recipes    list the recipes, or show one
  data       prepare, verify or describe a data set
  convert    make a checkpoint from a file of the reference implementation
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


def _add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=["auto", "fp32", "bf16", "fp16"],
        default="fp32",
        help="fp32 gives what pipeline gives; auto: bf16 where the hardware has it, which is faster",
    )


def _boolean(value: str) -> bool:
    from transformers.hf_argparser import string_to_bool

    return bool(string_to_bool(value))


def _evaluate(argv: list[str]) -> None:
    argv = in_processes("evaluate", argv)
    parser = OneLineParser(prog="paco-hf evaluate", description="Score a checkpoint on a test split.")
    parser.add_argument("models", nargs="+", help="run folder or checkpoint; of several the logits are averaged")
    parser.add_argument("--dataset", default="builtin", help="as for train (default: %(default)s)")
    parser.add_argument("--dataset_path", help="as for train")
    parser.add_argument("--test_list", help="list of the images (default: its official name in --dataset_path)")
    parser.add_argument(
        "--streaming",
        type=_boolean,
        nargs="?",
        const=True,
        default=False,
        help="read a prepared folder, or its address, shard by shard",
    )
    parser.add_argument("--image_column", help="column of the images (default: recognised)")
    parser.add_argument("--label_column", help="column of the classes (default: recognised)")
    parser.add_argument("--batch_size", type=int, default=256, help="images at a time (default: %(default)s)")
    _add_precision(parser)
    parser.add_argument("--compile", action="store_true", help="torch.compile: pays for thousands of large images")
    parser.add_argument("--nproc", type=int, metavar="N", help=NPROC_HELP)
    parser.add_argument("--json", action="store_true", help="print the whole result as JSON")
    flags = parser.parse_args(argv)
    quiet()
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.accelerator.is_available())
    check_processes(state.num_processes)
    from .data.loading import load_test
    from .distributed import leave_together
    from .run_folder import summary
    from .scoring import evaluate

    split, class_names = load_test(
        flags.dataset,
        dataset_path=flags.dataset_path,
        image_column=flags.image_column,
        label_column=flags.label_column,
        lists={"test": flags.test_list} if flags.test_list else None,
        streaming=flags.streaming,
    )
    metrics = evaluate(flags.models, split, class_names, flags.batch_size, flags.precision, flags.compile)
    leave_together()
    if state.is_main_process:
        print(json.dumps(metrics, indent=2) if flags.json else summary({"test": metrics}, " + ".join(flags.models)))


def _predict(argv: list[str]) -> None:
    parser = OneLineParser(prog="paco-hf predict", description="Classify image files, or all images in folders.")
    parser.add_argument("model", help="run folder or checkpoint")
    parser.add_argument("images", nargs="+", help="image files or folders")
    parser.add_argument("--top", type=int, default=5, help="classes to list for each image (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=32, help="images at a time (default: %(default)s)")
    _add_precision(parser)
    parser.add_argument("--json", action="store_true", help="print a list of {file, label, score, top}")
    flags = parser.parse_args(argv)
    quiet()
    from .scoring import predict

    results = predict(flags.model, flags.images, flags.top, flags.batch_size, flags.precision)
    if flags.json:
        print(json.dumps(results, indent=2))
        return
    width = max(len(result["file"]) for result in results)
    for result in results:
        print(f"{result['file']:<{width}}  " + "  ".join(f"{t['label']} {t['score']:.3f}" for t in result["top"]))


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
    "evaluate": _evaluate,
    "predict": _predict,
    "recipes": _recipes,
    "data": _elsewhere("cli_data", "data"),
    "convert": _elsewhere("cli_hub", "convert"),
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
