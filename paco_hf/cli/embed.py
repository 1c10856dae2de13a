"""Write the features of images to a file, and measure how well they retrieve images of the same class."""

import argparse
import json
from typing import Any

from .common import (
    add_data_flags,
    add_inference_flags,
    add_model_flag,
    add_unlabeled_flags,
    check_data_flags,
    load_split,
    open_images,
    report_errors,
    selected,
)
from .inputs import COUNT, embeddings, embeddings_output

# The flags that mean something for image files.
_FILE_FLAGS = (
    "model",
    "revision",
    "images",
    "output",
    "batch_size",
    "precision",
    "max_image_pixels",
    "image_column",
    "strict",
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_model_flag(parser)
    add_unlabeled_flags(parser, " (default: a labeled split)", labeled_too=True)
    add("--output", required=True, metavar="FILE", type=embeddings_output, help="output file, .safetensors")
    add_data_flags(parser, "test")
    add_inference_flags(parser, 256)
    add(
        "--gallery",
        metavar="FILE",
        type=embeddings,
        help=("search in another file from `embed` (default: in this one)"),
    )
    add(
        "--neighbors",
        type=COUNT,
        default=10,
        help=("number of neighbors for the retrieval precision (default: %(default)s)"),
    )
    add(
        "--neighbours",
        type=COUNT,
        dest="neighbors",
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )
    add("--json", action="store_true", help="print the retrieval precision as JSON")


def run(flags: argparse.Namespace) -> int:
    defaults = argparse.ArgumentParser()
    add_flags(defaults)
    changed = [name for name, value in vars(flags).items() if value != defaults.get_default(name)]
    if flags.images and (unused := [name for name in changed if name not in _FILE_FLAGS]):
        raise ValueError(
            f"--{unused[0]} needs labeled data, and image files have no labels: remove the flag, or use --dataset "
            "instead of files"
        )
    check_data_flags(flags)
    from ..inference.features import Embeddings, embed_files, embed_split
    from ..metrics import GROUPS, retrieval_precision

    if flags.images:
        made = embed_files(flags.model, open_images(flags), **selected(flags, "batch_size precision"))
        made.save(flags.output)
        print(f"features of {len(made.features):,} images, width {made.features.shape[1]}: {flags.output}")
        errors = [*(made.errors or {}).values()]
        return report_errors("embed", errors, len(made.features) + len(errors))
    searched: dict[str, Any] = {}
    gallery = Embeddings.load(flags.gallery) if flags.gallery else None
    if gallery:
        if gallery.labels is None:
            raise ValueError(
                f"{flags.gallery} has no labels to measure retrieval with: create it from labeled data, with "
                "--dataset or the dataset of the run"
            )
        searched = {"gallery": gallery.features, "gallery_labels": gallery.labels}
    split = load_split(flags.model, flags)
    names = split.class_names
    if gallery and gallery.class_names and gallery.class_names != names:
        raise ValueError(f"{flags.gallery} has different classes than {split.name}: create both from the same dataset")
    made, counts = embed_split(flags.model, split, names, flags.batch_size, flags.precision)
    made.save(flags.output)
    width = made.features.shape[1]
    if gallery and gallery.features.shape[1] != width:
        raise ValueError(
            f"{flags.gallery} has features of width {gallery.features.shape[1]}, but this model's have width "
            f"{width}: create it with the same model ({flags.output} is written)"
        )
    searched["k"] = flags.neighbors
    scores = retrieval_precision(made.features, made.labels, counts or [0] * len(names), **searched)
    if not counts:
        scores = {key: value for key, value in scores.items() if key not in GROUPS}
    if flags.json:
        print(json.dumps(scores, indent=2))
        return 0
    print(f"features of {len(made.features):,} images of {split.name}, width {width}")
    shown = {name: scores[name] for name in ("precision", "balanced_precision", *GROUPS) if name in scores}
    cells = ", ".join(
        f"{name.replace('_', ' ')} {'-' if value is None else f'{100 * value:.1f}'}" for name, value in shown.items()
    )
    among = f" in {flags.gallery}" if flags.gallery else ""
    print(f"percentage of the {flags.neighbors} nearest neighbors{among} with the same class: {cells}\n{flags.output}")
    return 0
