"""`paco-hf estimate-prior`."""

import json
from pathlib import Path

from ..utils.console import quiet
from .common import add_inference_flags, check_checkpoint_folder, check_output, verb_parser


def run(argv: list[str]) -> None:
    parser = verb_parser(
        "estimate-prior", "Estimate how frequent the classes are among unlabeled images, to adapt a model to them."
    )
    parser.add_argument("model", help="run folder or checkpoint")
    parser.add_argument("images", nargs="+", help="image files or folders, as they come where the model is used")
    parser.add_argument("--output", metavar="FILE", help="write it as JSON: `predict --prior FILE` takes it")
    parser.add_argument(
        "--store", action="store_true", help="store it in the model's config.json: pipeline follows it"
    )
    parser.add_argument("--resamples", type=int, default=200, help="for the ranges (default: %(default)s)")
    add_inference_flags(parser, 32)
    parser.add_argument("--json", action="store_true", help="print a list of {label, frequency, low, high}")
    flags = parser.parse_args(argv)
    quiet()
    check_output(flags.output)
    if flags.store:
        check_checkpoint_folder("--store", flags.model)
    from ..evaluation.prior_estimation import MIN_FREQUENCY
    from ..inference.prediction import estimate_prior_of_files
    from ..utils.files import write_json
    from ..workflows.calibrate import update_config

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
