"""`paco-hf embed`, `index` and `demo`: features of images, and the page in the browser that shows a model."""

import argparse
import json
from pathlib import Path
from typing import Any

from .cli_common import OneLineParser, add_precision, quiet


def _add_data(parser: argparse.ArgumentParser, default_split: str) -> None:
    parser.add_argument("--dataset", help="as for train (default: what the run was trained on)")
    parser.add_argument("--dataset_path", help="as for train")
    parser.add_argument(
        "--split",
        choices=["train", "validation", "test"],
        default=default_split,
        help="train: what the run was trained on, without what it carved (default: %(default)s)",
    )
    parser.add_argument("--image_column", help="column of the images (default: recognised)")
    parser.add_argument("--label_column", help="column of the classes (default: recognised)")
    for split in ("train", "validation", "test"):
        parser.add_argument(f"--{split}_list", metavar="FILE", help="as for train")
        parser.add_argument(f"--{split}_split", metavar="NAME", help="as for train")
    parser.add_argument("--batch_size", type=int, default=256, help="images at a time (default: %(default)s)")
    add_precision(parser)


# Flags of `embed` that mean something for image files.
_OF_FILES = ("model", "images", "output", "batch_size", "precision")


def _load_split(model: str, flags: argparse.Namespace) -> tuple[Any, list[str]]:
    from .origin import load_evaluation

    roles = ("train", "validation", "test")
    return load_evaluation(
        model,
        flags.dataset,
        flags.split,
        dataset_path=flags.dataset_path,
        image_column=flags.image_column,
        label_column=flags.label_column,
        lists={r: file for r in roles if (file := getattr(flags, f"{r}_list"))} or None,
        splits={r: name for r in roles if (name := getattr(flags, f"{r}_split"))} or None,
    )


def embed(argv: list[str]) -> None:
    parser = OneLineParser(
        prog="paco-hf embed",
        description="Write the features of images, and say how well they find images of the same class.",
    )
    parser.add_argument("model", help="run folder, checkpoint or Hub id")
    parser.add_argument("images", nargs="*", help="image files or folders (default: a labelled split)")
    parser.add_argument("--output", required=True, metavar="FILE", help="the .safetensors file to write")
    _add_data(parser, "test")
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
    from .embedding import Embeddings, check_output, embed_files, embed_split
    from .evaluation import GROUPS
    from .metrics import retrieval_precision

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
    split, names = _load_split(flags.model, flags)
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


def index(argv: list[str]) -> None:
    parser = OneLineParser(
        prog="paco-hf index",
        description="Index the training images by their features, for `paco-hf demo` to show the nearest ones.",
    )
    parser.add_argument("model", help="run folder, checkpoint or Hub id")
    _add_data(parser, "train")
    parser.add_argument("--output", metavar="DIR", help="folder of the index (default: index/ in the model's folder)")
    parser.add_argument("--overwrite", action="store_true", help="replace an index that is there")
    flags = parser.parse_args(argv)
    if flags.output is None and not Path(flags.model).is_dir():
        raise ValueError(f"{flags.model} is no folder to put the index into: give --output")
    quiet()
    from .nearest import INDEX_FOLDER, index_split
    from .origin import Origin
    from .run_folder import public_name

    folder = Path(flags.output or Path(flags.model) / INDEX_FOLDER)

    def load() -> tuple[Any, str]:
        split, _ = _load_split(flags.model, flags)
        recipe, name = Origin.read(flags.model).recipe, split.name
        # What it is called is shown on pages: of a folder its own name stays.
        for path in (flags.dataset_path or recipe.get("dataset_path"), flags.dataset or recipe.get("dataset")):
            name = name.replace(str(path), public_name(str(path))) if path else name
        return split, name

    count = index_split(
        flags.model,
        load,
        folder,
        overwrite=flags.overwrite,
        batch_size=flags.batch_size,
        precision=flags.precision,
    )
    print(f"{count:,} images: {folder}")


def demo(argv: list[str]) -> None:
    parser = OneLineParser(prog="paco-hf demo", description="Try a model on a page in the browser.")
    parser.add_argument("model", help="run folder, checkpoint or Hub id")
    parser.add_argument(
        "--examples", nargs="+", metavar="IMAGE", help="image files or folders to offer (default: some of the index)"
    )
    parser.add_argument("--index", metavar="DIR", help="of `paco-hf index` (default: index/ in the model's folder)")
    parser.add_argument("--host", help="address to listen at; 0.0.0.0: any (default: only this computer)")
    parser.add_argument("--port", type=int, help="(default: the first free one from 7860)")
    parser.add_argument("--share", action="store_true", help="also a public address, through a tunnel of Gradio's")
    flags = parser.parse_args(argv)
    if flags.port is not None and not 0 < flags.port < 65536:
        raise ValueError(f"--port must be 1 to 65535, got {flags.port}")
    quiet()
    from .demo import build_demo, launch

    page = build_demo(flags.model, flags.index, flags.examples)
    launch(page, flags.host, flags.port, flags.share)
