"""`paco-hf embed`, `index` and `demo`: features of images, and the page in the browser that shows a model."""

import json
from typing import Any

from ..utils.console import quiet
from .common import OneLineParser, add_data_flags, load_split

# Flags of `embed` that mean something for image files.
_OF_FILES = ("model", "images", "output", "batch_size", "precision")


def run(argv: list[str]) -> None:
    parser = OneLineParser(
        prog="paco-hf embed",
        description="Write the features of images, and say how well they find images of the same class.",
    )
    parser.add_argument("model", help="run folder, checkpoint or Hub id")
    parser.add_argument("images", nargs="*", help="image files or folders (default: a labelled split)")
    parser.add_argument("--output", required=True, metavar="FILE", help="the .safetensors file to write")
    add_data_flags(parser, "test")
    parser.add_argument("--gallery", metavar="FILE", help="what is searched: another such file (default: this one)")
    parser.add_argument("--neighbours", type=int, default=10, help="to judge retrieval by (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the retrieval precision as JSON")
    flags = parser.parse_args(argv)
    if flags.neighbours < 1:
        raise ValueError(f"--neighbours must be at least 1, got {flags.neighbours}")
    of_labelled = {name: value for name, value in vars(flags).items() if name not in _OF_FILES}
    if flags.images and (given := [name for name, value in of_labelled.items() if value != parser.get_default(name)]):
        raise ValueError(
            f"--{given[0]} is of labelled data, and image files have no labels to judge retrieval by: give files, or "
            "--dataset"
        )
    quiet()
    from ..inference.features import Embeddings, check_output, embed_files, embed_split
    from ..metrics import GROUPS, retrieval_precision

    check_output(flags.output)
    if flags.images:
        embeddings = embed_files(flags.model, flags.images, flags.batch_size, flags.precision)
        embeddings.save(flags.output)
        print(f"features of {len(embeddings.features):,} images, width {embeddings.features.shape[1]}: {flags.output}")
        return
    searched: dict[str, Any] = {}
    if flags.gallery:
        gallery = Embeddings.load(flags.gallery)
        if gallery.labels is None:
            raise ValueError(f"{flags.gallery} has no labels: make it with --dataset, or of the run's own data")
        searched = {"gallery": gallery.features, "gallery_labels": gallery.labels}
    split, names = load_split(flags.model, flags)
    if flags.gallery and gallery.class_names and gallery.class_names != names:
        raise ValueError(f"{flags.gallery} is of other classes than {split.name}")
    embeddings, counts = embed_split(flags.model, split, names, flags.batch_size, flags.precision)
    embeddings.save(flags.output)
    if flags.gallery and gallery.features.shape[1] != embeddings.features.shape[1]:
        raise ValueError(
            f"{flags.gallery} has features of width {gallery.features.shape[1]}, this model of "
            f"{embeddings.features.shape[1]}: make it with the same model ({flags.output} is written)"
        )
    scores = retrieval_precision(
        embeddings.features, embeddings.labels, counts or [0] * len(names), k=flags.neighbours, **searched
    )
    if not counts:
        scores = {key: value for key, value in scores.items() if key not in GROUPS}
    if flags.json:
        print(json.dumps(scores, indent=2))
        return
    print(f"features of {len(embeddings.features):,} images of {split.name}, width {embeddings.features.shape[1]}")
    shown = {name: scores[name] for name in ("precision", "balanced_precision", *GROUPS) if name in scores}
    cells = ", ".join(
        f"{name.replace('_', ' ')} {'-' if value is None else f'{100 * value:.1f}'}" for name, value in shown.items()
    )
    among = f" among those of {flags.gallery}" if flags.gallery else ""
    print(f"of the {flags.neighbours} nearest{among} are of the same class, in percent: {cells}\n{flags.output}")
