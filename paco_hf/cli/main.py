"""The `paco-hf` command. Each verb parses its flags and calls one function; heavy modules load late."""

import os
import sys
import time
from importlib import import_module

from .launcher import is_first_process

_ABOUT = """\
usage: paco-hf VERB [...]

Train and use image classifiers on long-tailed data (PaCo, GPaCo).

verbs:
  train      train a model, select it on a validation split, score it on the test split
  evaluate   score a checkpoint, or the ensemble of several, and write a report; calibrate it
  predict    classify image files or folders
  report     compare runs: means over seeds, cost, training curves
  estimate-prior
             how frequent the classes are among unlabeled images
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

_VERBS = (
    *("train", "evaluate", "predict", "report", "estimate-prior", "recipes", "data", "convert", "embed", "index"),
    *("demo", "export", "card", "push"),
)


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
    if argv[0] not in _VERBS:
        print(f"paco-hf: unknown verb {argv[0]!r}: choose one of {', '.join(_VERBS)}", file=sys.stderr)
        return 2
    try:
        import_module(f".{argv[0].replace('-', '_')}", __package__).run(argv[1:])
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
