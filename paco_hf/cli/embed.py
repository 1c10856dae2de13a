"""Write the features of images, and say how well they find images of the same class."""

import argparse
import json
from pathlib import Path
from typing import Any

from ..utils.files import check_output
from .common import add_data_flags, add_inference_flags, load_split
from .inputs import checkpoint, existing_path

# The flags that mean something for image files.
_FILE_FLAGS = ("model", "images", "output", "batch_size", "precision")


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=checkpoint, help="run folder, checkpoint or Hub id")
    add("images", type=existing_path, nargs="*", help="image files or folders (default: a labeled split)")
    add("--output", required=True, metavar="FILE", help="the .safetensors file to write")
    add_data_flags(parser, "test")
    add_inference_flags(parser, 256)
    add("--gallery", metavar="FILE", type=_embeddings, help="what is searched: another such file (default: this one)")
    add("--neighbors", type=int, default=10, help="to judge retrieval by (default: %(default)s)")
    add("--neighbours", type=int, dest="neighbors", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    add("--json", action="store_true", help="print the retrieval precision as JSON")


def run(flags: argparse.Namespace) -> None:
    if flags.neighbors < 1:
        raise ValueError(f"--neighbors must be at least 1, got {flags.neighbors}")
    defaults = argparse.ArgumentParser()
    add_flags(defaults)
    changed = [name for name, value in vars(flags).items() if value != defaults.get_default(name)]
    if flags.images and (unused := [name for name in changed if name not in _FILE_FLAGS]):
        raise ValueError(
            f"--{unused[0]} is of labeled data, and image files have no labels to judge retrieval by: give files, or "
            "--dataset"
        )
    check_output(flags.output, ".safetensors")
    from ..inference.features import Embeddings, embed_files, embed_split
    from ..metrics import GROUPS, retrieval_precision

    if flags.images:
        embeddings = embed_files(flags.model, flags.images, flags.batch_size, flags.precision)
        embeddings.save(flags.output)
        print(f"features of {len(embeddings.features):,} images, width {embeddings.features.shape[1]}: {flags.output}")
        return
    searched: dict[str, Any] = {}
    gallery = Embeddings.load(flags.gallery) if flags.gallery else None
    if gallery:
        if gallery.labels is None:
            raise ValueError(f"{flags.gallery} has no labels: make it with --dataset, or of the run's own data")
        searched = {"gallery": gallery.features, "gallery_labels": gallery.labels}
    split = load_split(flags.model, flags)
    names = split.class_names
    if gallery and gallery.class_names and gallery.class_names != names:
        raise ValueError(f"{flags.gallery} is of other classes than {split.name}")
    embeddings, counts = embed_split(flags.model, split, names, flags.batch_size, flags.precision)
    embeddings.save(flags.output)
    width = embeddings.features.shape[1]
    if gallery and gallery.features.shape[1] != width:
        raise ValueError(
            f"{flags.gallery} has features of width {gallery.features.shape[1]}, this model of {width}: make it with "
            f"the same model ({flags.output} is written)"
        )
    searched["k"] = flags.neighbors
    scores = retrieval_precision(embeddings.features, embeddings.labels, counts or [0] * len(names), **searched)
    if not counts:
        scores = {key: value for key, value in scores.items() if key not in GROUPS}
    if flags.json:
        print(json.dumps(scores, indent=2))
        return
    print(f"features of {len(embeddings.features):,} images of {split.name}, width {width}")
    shown = {name: scores[name] for name in ("precision", "balanced_precision", *GROUPS) if name in scores}
    cells = ", ".join(
        f"{name.replace('_', ' ')} {'-' if value is None else f'{100 * value:.1f}'}" for name, value in shown.items()
    )
    among = f" among those of {flags.gallery}" if flags.gallery else ""
    print(f"of the {flags.neighbors} nearest{among} are of the same class, in percent: {cells}\n{flags.output}")


def _embeddings(text: str) -> str:
    if not Path(text).is_file():
        raise OSError(f"there is no file {text!r} of embeddings: `paco-hf embed` writes one")
    return text
