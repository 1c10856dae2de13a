"""Evaluate a checkpoint on a test split, and write results.json and an HTML report."""

import json
import sys
from argparse import ArgumentParser, Namespace

from .common import add_data_flags, add_inference_flags, add_model_flag, add_tta_flag, selected
from .inputs import abstention_target, unknown_score
from .launcher import NPROC_HELP, check_processes


def add_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    about = "run folder, checkpoint or Hub id; pass several to evaluate their ensemble (averaged logits)"
    add_model_flag(parser, "models", nargs="+", help=about)
    add_data_flags(parser, "test", ("test", "validation"))
    streaming = "stream a prepared folder or URL shard by shard"
    add("--streaming", type=_boolean, nargs="?", const=True, default=False, help=streaming)
    add_inference_flags(parser, 256)
    add_tta_flag(parser)
    add("--compile", action="store_true", help="torch.compile; worth it for thousands of large images")
    add("--nproc", type=int, metavar="N", help=NPROC_HELP)
    calibrate = "first fit a temperature on the validation split and store it in the run's config.json"
    add("--calibrate", action="store_true", help=calibrate)
    abstain = "also fit and store thresholds to abstain: precision=SHARE, coverage=SHARE or none"
    add("--abstain", metavar="TARGET", type=abstention_target, help=abstain)
    unknown = (
        "also fit and store thresholds to reject images of unknown classes: max_logit, energy (=SHARE of known "
        "images to accept) or none"
    )
    add("--unknown", metavar="SCORE", type=unknown_score, help=unknown)
    add("--output_dir", help="folder for results and report (default: evaluation/ in the model's folder)")
    add("--no_report", dest="report", action="store_false", help="print the scores, write nothing")
    add("--json", action="store_true", help="print scores and intervals as JSON")


def run(flags: Namespace) -> None:
    asked = [flag for flag in ("calibrate", "abstain", "unknown") if getattr(flags, flag)]
    if asked and len(flags.models) > 1:
        what = "a temperature" if flags.calibrate else "thresholds"
        raise ValueError(f"--{asked[0]} stores {what} in a checkpoint: pass one checkpoint, not several")
    if flags.split == "validation" and (fitted := [flag for flag in asked if getattr(flags, flag) != "none"]):
        raise ValueError(
            f"--{fitted[0]} fits on the validation split, whose scores would then be too high: use --split test, "
            f"or remove --{fitted[0]}"
        )
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.accelerator.is_available())
    check_processes(state.num_processes)
    from ..data.spec import spec_fields
    from ..runs.record import summary
    from ..utils.distributed import leave_together
    from ..workflows.abstain import StoredChanges
    from ..workflows.evaluate import evaluate_runs

    results, written, notes = evaluate_runs(
        flags.models,
        data_fields=spec_fields(vars(flags)),
        inference=selected(flags, "batch_size precision compile tta"),
        changes=StoredChanges(flags.calibrate, flags.abstain, flags.unknown),
        **selected(flags, "dataset split report output_dir"),
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
    print("\n".join([results["summary"], summary({flags.split: scores}, " + ".join(flags.models)), *notes]))
    if written:
        print(f"report: {written}")


def _boolean(value: str) -> bool:
    from transformers.hf_argparser import string_to_bool

    return bool(string_to_bool(value))
