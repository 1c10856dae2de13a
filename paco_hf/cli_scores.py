"""`paco-hf evaluate`, `predict`, `report` and `estimate-prior`."""

import json
import sys
from pathlib import Path

from .cli_common import OneLineParser, add_precision, quiet
from .launch import NPROC_HELP, check_processes, in_processes

_PRIOR_HELP = (
    "how frequent the classes are among these images: a file of estimate-prior; training: as there; none: all alike "
    "(default: what is stored in the model)"
)


def _boolean(value: str) -> bool:
    from transformers.hf_argparser import string_to_bool

    return bool(string_to_bool(value))


def _check_output(file: str | None) -> None:
    """`ValueError` where a file cannot be written there, before there is work that would be lost."""
    if file is None:
        return
    path = Path(file)
    if path.is_dir():
        raise ValueError(f"--output {file} is a folder: give the name of a file in it")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"--output {file} cannot be written: there is no folder {path.parent}")


def evaluate(argv: list[str]) -> None:
    argv = in_processes("evaluate", argv)
    parser = OneLineParser(
        prog="paco-hf evaluate",
        description="Score a checkpoint on a test split, and write results.json and a report to look at.",
    )
    parser.add_argument("models", nargs="+", help="run folder or checkpoint; of several the logits are averaged")
    parser.add_argument("--dataset", help="as for train (default: what the run was trained on, else builtin)")
    parser.add_argument("--dataset_path", help="as for train")
    parser.add_argument("--split", choices=["test", "validation"], default="test", help="(default: %(default)s)")
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
    for role in ("train", "validation", "test"):
        parser.add_argument(f"--{role}_split", metavar="NAME", help="as for train")
    parser.add_argument("--batch_size", type=int, default=256, help="images at a time (default: %(default)s)")
    add_precision(parser)
    parser.add_argument("--compile", action="store_true", help="torch.compile: pays for thousands of large images")
    parser.add_argument("--nproc", type=int, metavar="N", help=NPROC_HELP)
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="first fit a temperature on the validation split and store it in the run's config.json",
    )
    parser.add_argument("--output_dir", help="for results and report (default: evaluation/ in the model's folder)")
    parser.add_argument("--no_report", action="store_true", help="print the scores, write nothing")
    parser.add_argument("--json", action="store_true", help="print scores and intervals as JSON")
    flags = parser.parse_args(argv)
    if flags.calibrate and len(flags.models) > 1:
        raise ValueError("--calibrate stores a temperature in a checkpoint: give one checkpoint, not several")
    if flags.calibrate and flags.split == "validation":
        raise ValueError("--calibrate fits on the validation split: scored there, the result would flatter")
    quiet()
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.accelerator.is_available())
    check_processes(state.num_processes)
    from .assessment import evaluate_runs
    from .distributed import leave_together
    from .run_folder import summary

    results, written, notes = evaluate_runs(
        flags.models,
        dataset=flags.dataset,
        split=flags.split,
        source={
            "dataset_path": flags.dataset_path,
            "image_column": flags.image_column,
            "label_column": flags.label_column,
            "lists": {"test": flags.test_list} if flags.test_list else None,
            "splits": {r: n for r in ("train", "validation", "test") if (n := getattr(flags, f"{r}_split"))} or None,
            "streaming": flags.streaming,
        },
        inference={"batch_size": flags.batch_size, "precision": flags.precision, "compile": flags.compile},
        calibrate=flags.calibrate,
        report=not flags.no_report,
        output_dir=flags.output_dir,
    )
    leave_together()
    if not state.is_main_process:
        return
    scores = results["scores"]
    if flags.json:
        more = {"intervals": results["metrics"], "temperature": results["calibration"]["temperature"]}
        print(json.dumps({**scores, **more, "report": written and str(written)}, indent=2))
        print("\n".join(notes), file=sys.stderr)
        return
    print("\n".join([summary({flags.split: scores}, " + ".join(flags.models)), *notes]))
    if written:
        print(f"report: {written}")


def predict(argv: list[str]) -> None:
    parser = OneLineParser(prog="paco-hf predict", description="Classify image files, or all images in folders.")
    parser.add_argument("model", help="run folder or checkpoint")
    parser.add_argument("images", nargs="+", help="image files or folders")
    parser.add_argument("--top", type=int, default=5, help="classes to list for each image (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=32, help="images at a time (default: %(default)s)")
    add_precision(parser)
    parser.add_argument("--prior", metavar="FILE|training|none", help=_PRIOR_HELP)
    parser.add_argument("--json", action="store_true", help="print a list of {file, label, score, top}")
    flags = parser.parse_args(argv)
    quiet()
    from .scoring import predict

    results = predict(flags.model, flags.images, flags.top, flags.batch_size, flags.precision, flags.prior)
    if flags.json:
        print(json.dumps(results, indent=2))
        return
    width = max(len(result["file"]) for result in results)
    for result in results:
        print(f"{result['file']:<{width}}  " + "  ".join(f"{t['label']} {t['score']:.3f}" for t in result["top"]))


def report(argv: list[str]) -> None:
    parser = OneLineParser(
        prog="paco-hf report",
        description="Compare runs: mean and standard deviation over seeds, cost, training curves.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--output", default="comparison.html", help="the page to write (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON, write nothing")
    flags = parser.parse_args(argv)
    _check_output(flags.output)
    from .report import compare_runs, comparison_text, write_comparison

    comparison = compare_runs(flags.runs)
    if flags.json:
        print(json.dumps(comparison, indent=2))
        return
    print(comparison_text(comparison))
    print(f"report: {write_comparison(comparison, Path(flags.output))}")


def estimate_prior(argv: list[str]) -> None:
    parser = OneLineParser(
        prog="paco-hf estimate-prior",
        description="Estimate how frequent the classes are among unlabelled images, to adapt a model to them.",
    )
    parser.add_argument("model", help="run folder or checkpoint")
    parser.add_argument("images", nargs="+", help="image files or folders, as they come where the model is used")
    parser.add_argument("--output", metavar="FILE", help="write it as JSON: `predict --prior FILE` takes it")
    parser.add_argument(
        "--store", action="store_true", help="store it in the model's config.json: pipeline follows it"
    )
    parser.add_argument("--resamples", type=int, default=200, help="for the ranges (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=32, help="images at a time (default: %(default)s)")
    add_precision(parser)
    parser.add_argument("--json", action="store_true", help="print a list of {label, frequency, low, high}")
    flags = parser.parse_args(argv)
    quiet()
    _check_output(flags.output)
    if flags.store and not (Path(flags.model) / "config.json").is_file():
        raise ValueError(f"--store changes a checkpoint's config.json, but {flags.model} is no local folder of one")
    from .assessment import update_config
    from .calibration import MIN_FREQUENCY
    from .run_folder import write_json
    from .scoring import estimate_prior_of_files

    classes = estimate_prior_of_files(flags.model, flags.images, flags.resamples, flags.batch_size, flags.precision)
    if flags.output:
        write_json(Path(flags.output), {"model": Path(flags.model).resolve().name, "classes": classes})
    if flags.store:
        update_config(flags.model, inference_prior=[max(entry["frequency"], MIN_FREQUENCY) for entry in classes])
    if flags.json:
        print(json.dumps(classes, indent=2))
        return
    width = max(len(entry["label"]) for entry in classes)
    for entry in sorted(classes, key=lambda entry: -entry["frequency"]):
        print(f"{entry['label']:<{width}}  {entry['frequency']:6.1%}  ({entry['low']:.1%} to {entry['high']:.1%})")
    if flags.store:
        print(f"stored in {flags.model}/config.json; `model.set_prior(None)` undoes it")
    else:
        print("the model is as it was: --store stores this in it, --output FILE writes it for `predict --prior FILE`")
