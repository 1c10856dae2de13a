"""Classify image files, or all images in folders."""

import json
from argparse import ArgumentParser, Namespace

from .common import add_inference_flags
from .inputs import COUNT, checkpoint, images, prior


def add_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=checkpoint, help="run folder or checkpoint")
    add("images", type=images, nargs="+", help="image files or folders")
    add("--top", type=COUNT, default=5, help="classes to list for each image (default: %(default)s)")
    add_inference_flags(parser, 32)
    priors = (
        "how frequent the classes are among these images: a file of estimate-prior; training: as there; none: "
        "all alike (default: what is stored in the model)"
    )
    add("--prior", metavar="FILE|training|none", type=prior, help=priors)
    add("--json", action="store_true", help="print a list of {file, label, score, top}")


def run(flags: Namespace) -> None:
    from ..inference.prediction import predict

    results = predict(flags.model, flags.images, flags.top, flags.batch_size, flags.precision, flags.prior)
    if flags.json:
        print(json.dumps(results, indent=2))
        return
    from ..utils.text import one_line

    width = max(len(result["file"]) for result in results)
    for result in results:
        print(
            f"{result['file']:<{width}}  "
            + "  ".join(f"{one_line(t['label'])} {t['score']:.3f}" for t in result["top"])
        )
