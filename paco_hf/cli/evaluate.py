"""`paco-hf evaluate`."""

import argparse
import json
import sys

from ..utils.console import quiet
from .common import add_data_flags, add_inference_flags, verb_parser
from .launcher import NPROC_HELP, check_processes, in_processes


def _boolean(value: str) -> bool:
    from transformers.hf_argparser import string_to_bool

    return bool(string_to_bool(value))


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = verb_parser(
        "evaluate", "Score a checkpoint on a test split, and write results.json and a report to look at."
    )
    parser.add_argument("models", nargs="+", help="run folder or checkpoint; of several the logits are averaged")
    add_data_flags(parser, "test", ("test", "validation"))
    parser.add_argument(
        "--streaming",
        type=_boolean,
        nargs="?",
        const=True,
        default=False,
        help="read a prepared folder, or its address, shard by shard",
    )
    add_inference_flags(parser, 256)
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
    return flags


def run(argv: list[str]) -> None:
    flags = _parse(in_processes("evaluate", argv))
    quiet()
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.accelerator.is_available())
    check_processes(state.num_processes)
    from ..data.spec import spec_fields
    from ..runs.record import summary
    from ..utils.distributed import leave_together
    from ..workflows.evaluate import evaluate_runs

    results, written, notes = evaluate_runs(
        flags.models,
        dataset=flags.dataset,
        split=flags.split,
        data_fields=spec_fields(vars(flags)),
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
