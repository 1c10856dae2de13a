"""Classify image files, or all images in folders."""

import json
from argparse import ArgumentParser, Namespace

from .common import add_inference_flags, add_unlabeled_flags, open_images, report_errors, selected
from .inputs import COUNT, checkpoint, prior


def add_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=checkpoint, help="run folder or checkpoint")
    add_unlabeled_flags(parser)
    add("--top", type=COUNT, default=5, help="classes to list for each image (default: %(default)s)")
    add_inference_flags(parser, 32)
    priors = (
        "how frequent the classes are among these images: a file of estimate-prior; training: as there; none: "
        "all alike (default: what is stored in the model)"
    )
    add("--prior", metavar="FILE|training|none", type=prior, help=priors)
    add("--json", action="store_true", help="print a list of {file, label, score, top}")


def run(flags: Namespace) -> int:
    from ..inference.prediction import predict
    from ..utils.text import one_line

    settings = selected(flags, "top batch_size precision prior")
    results = predict(flags.model, open_images(flags), **settings)
    if flags.json:
        print(json.dumps(results, indent=2))
    else:
        names = [one_line(result["file"]) for result in results]
        width = max(map(len, names))
        for name, result in zip(names, results, strict=True):
            best = "  ".join(f"{one_line(t['label'])} {t['score']:.3f}" for t in result["top"])
            print(f"{name:<{width}}  {best or 'error: ' + result['error'].removeprefix(f'{name} ')}")
    errors = {i: result["error"] for i, result in enumerate(results) if "error" in result}
    return report_errors("predict", errors, len(results))
