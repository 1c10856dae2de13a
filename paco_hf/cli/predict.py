"""`paco-hf predict`."""

import json

from ..utils.console import quiet
from .common import add_inference_flags, verb_parser


def run(argv: list[str]) -> None:
    parser = verb_parser("predict", "Classify image files, or all images in folders.")
    parser.add_argument("model", help="run folder or checkpoint")
    parser.add_argument("images", nargs="+", help="image files or folders")
    parser.add_argument("--top", type=int, default=5, help="classes to list for each image (default: %(default)s)")
    add_inference_flags(parser, 32)
    parser.add_argument(
        "--prior",
        metavar="FILE|training|none",
        help="how frequent the classes are among these images: a file of estimate-prior; training: as there; none: "
        "all alike (default: what is stored in the model)",
    )
    parser.add_argument("--json", action="store_true", help="print a list of {file, label, score, top}")
    flags = parser.parse_args(argv)
    quiet()
    from ..inference.prediction import predict

    results = predict(flags.model, flags.images, flags.top, flags.batch_size, flags.precision, flags.prior)
    if flags.json:
        print(json.dumps(results, indent=2))
        return
    width = max(len(result["file"]) for result in results)
    for result in results:
        print(f"{result['file']:<{width}}  " + "  ".join(f"{t['label']} {t['score']:.3f}" for t in result["top"]))
