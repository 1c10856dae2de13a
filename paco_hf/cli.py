"""The `paco-hf` command. Each verb parses its flags and calls one function; heavy modules load late."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


class OneLineParser(argparse.ArgumentParser):
    """argparse, but a bad argument is one line, like every other bad input."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (--help lists the arguments)")


_ABOUT = """\
usage: paco-hf VERB [...]

Train and use image classifiers on long-tailed data (PaCo, GPaCo).

verbs:
  train      train a model, select it on a validation split, score it on the test split
  evaluate   score a checkpoint: top-1, many/medium/few, balanced accuracy
  predict    classify image files or folders
  recipes    list the recipes, or show one

`paco-hf VERB --help` says more.
"""


def _quiet() -> None:
    """Progress bars only on a terminal, and no chatter of the libraries about what the user did not ask for."""
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    # "Loading weights" and "Writing model shards" tell nothing that the run itself does not.
    transformers.logging.disable_progress_bar()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()


def _train(argv: list[str]) -> None:
    from .run_args import parse_run

    run, args = parse_run(argv)
    _quiet()
    from .workflow import train

    train(run, args)


def _add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=["auto", "fp32", "bf16", "fp16"],
        default="fp32",
        help="fp32 gives what pipeline gives; auto: bf16 where the hardware has it, which is faster",
    )


def _evaluate(argv: list[str]) -> None:
    parser = OneLineParser(prog="paco-hf evaluate", description="Score a checkpoint on a test split.")
    parser.add_argument("model", help="run folder or checkpoint")
    parser.add_argument("--dataset", default="builtin", help="as for train (default: %(default)s)")
    parser.add_argument("--dataset_path", help="local folder of parquet for a CIFAR benchmark")
    parser.add_argument("--image_column", help="column of the images (default: recognised)")
    parser.add_argument("--label_column", help="column of the classes (default: recognised)")
    parser.add_argument("--batch_size", type=int, default=256, help="images at a time (default: %(default)s)")
    _add_precision(parser)
    parser.add_argument("--compile", action="store_true", help="torch.compile: pays for thousands of large images")
    parser.add_argument("--json", action="store_true", help="print the whole result as JSON")
    flags = parser.parse_args(argv)
    _quiet()
    from .data.benchmarks import load_test
    from .run_folder import summary
    from .workflow import evaluate

    split, class_names = load_test(
        flags.dataset,
        dataset_path=flags.dataset_path,
        image_column=flags.image_column,
        label_column=flags.label_column,
    )
    metrics = evaluate(flags.model, split, class_names, flags.batch_size, flags.precision, flags.compile)
    print(json.dumps(metrics, indent=2) if flags.json else summary({"test": metrics}, flags.model))


def _predict(argv: list[str]) -> None:
    parser = OneLineParser(prog="paco-hf predict", description="Classify image files, or all images in folders.")
    parser.add_argument("model", help="run folder or checkpoint")
    parser.add_argument("images", nargs="+", help="image files or folders")
    parser.add_argument("--top", type=int, default=5, help="classes to list for each image (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=32, help="images at a time (default: %(default)s)")
    _add_precision(parser)
    parser.add_argument("--json", action="store_true", help="print a list of {file, label, score, top}")
    flags = parser.parse_args(argv)
    _quiet()
    from .workflow import predict

    results = predict(flags.model, flags.images, flags.top, flags.batch_size, flags.precision)
    if flags.json:
        print(json.dumps(results, indent=2))
        return
    width = max(len(result["file"]) for result in results)
    for result in results:
        print(f"{result['file']:<{width}}  " + "  ".join(f"{t['label']} {t['score']:.3f}" for t in result["top"]))


def _recipes(argv: list[str]) -> None:
    parser = OneLineParser(prog="paco-hf recipes", description="List the recipes, or show one.")
    parser.add_argument("action", nargs="?", choices=["list", "show"], default="list")
    parser.add_argument("name", nargs="?", help="of the recipe to show")
    flags = parser.parse_args(argv)
    from .run_args import RECIPES, read_recipe, recipe_names

    if flags.action == "list":
        for name in recipe_names():
            print(name)
        return
    if flags.name is None:
        raise ValueError("paco-hf recipes show NAME: which one? `paco-hf recipes` lists the names")
    read_recipe(flags.name)
    packaged = RECIPES / f"{flags.name}.yaml"
    print((packaged if packaged.is_file() else Path(flags.name)).read_text(encoding="utf-8"), end="")


_VERBS: dict[str, Callable[[list[str]], None]] = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "recipes": _recipes,
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
        # An error of a data loader's worker comes with the worker's whole traceback; its last line is the message.
        message = str(error).strip()
        message = message.splitlines()[-1] if "Original Traceback" in message else message
        print(f"paco-hf {argv[0]}: {' '.join(message.split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"paco-hf {argv[0]}: stopped; --resume goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0
