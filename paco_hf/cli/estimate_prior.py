"""Estimate the class frequencies of unlabeled images, to adapt a model to them."""

import json
import sys
from argparse import ArgumentParser, Namespace
from contextlib import nullcontext
from pathlib import Path

from .common import (
    add_inference_flags,
    add_model_flag,
    add_unlabeled_flags,
    check_checkpoint_folder,
    open_images,
    report_errors,
    selected,
)
from .inputs import COUNT, output_file


def add_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add_model_flag(parser)
    add_unlabeled_flags(parser, " from where the model is deployed")
    add("--output", metavar="FILE", type=output_file, help="write the estimate as JSON, for `predict --prior FILE`")
    add("--store", action="store_true", help="store the estimate in the model's config.json, where pipeline uses it")
    add("--resamples", type=COUNT, default=200, help="bootstrap resamples for the intervals (default: %(default)s)")
    add_inference_flags(parser, 32)
    add("--json", action="store_true", help="print a list of {label, frequency, low, high}")


def run(flags: Namespace) -> int:
    if flags.store:
        check_checkpoint_folder("--store", flags.model)
    from ..evaluation.prior_estimation import MIN_FREQUENCY
    from ..inference.prediction import estimate_file_prior
    from ..runs.folder import RunFolder
    from ..utils.files import write_json
    from ..utils.locks import sole_owner
    from ..utils.text import one_line
    from ..workflows.calibrate import update_config

    # Before the images are looked at: what is in use is refused at once.
    home = sole_owner(RunFolder(flags.model).home, "storing class frequencies", "use a copy of the run")
    with home if flags.store else nullcontext():
        files = open_images(flags)
        classes = estimate_file_prior(flags.model, files, **selected(flags, "resamples batch_size precision"))
        if flags.output:
            write_json(Path(flags.output), {"model": Path(flags.model).resolve().name, "classes": classes})
        if flags.store:
            void = update_config(
                flags.model, inference_prior=[max(entry["frequency"], MIN_FREQUENCY) for entry in classes]
            )
            if void:
                print(f"note: {void}", file=sys.stderr)
    status = report_errors("estimate-prior", [*files.errors.values()], len(files))
    if flags.json:
        print(json.dumps(classes, indent=2))
        return status
    width = max(len(one_line(entry["label"])) for entry in classes)
    for entry in sorted(classes, key=lambda entry: -entry["frequency"]):
        name, interval = one_line(entry["label"]), f"({entry['low']:.1%} to {entry['high']:.1%})"
        print(f"{name:<{width}}  {entry['frequency']:6.1%}  {interval}")
    if flags.store:
        print(f"stored in {flags.model}/config.json; undo with `model.set_prior(None)`")
    else:
        print(
            "the model is unchanged: use --store to store this estimate in it, or --output FILE for `predict "
            "--prior FILE`"
        )
    return status
