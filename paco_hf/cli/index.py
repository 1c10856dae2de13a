"""Index the training images by features, for `paco-hf demo` to show the nearest ones."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ..inference.index_folder import INDEX_FOLDER, check_new_index
from .common import add_data_flags, add_inference_flags, add_model_flag, check_data_flags, load_split, selected


def add_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add_model_flag(parser)
    add_data_flags(parser, "train")
    add_inference_flags(parser, 256)
    add("--output", metavar="DIR", help="folder of the index (default: index/ in the model's folder)")
    add("--overwrite", action="store_true", help="replace an existing index")


def run(flags: Namespace) -> None:
    if flags.output is None and not Path(flags.model).is_dir():
        raise ValueError(f"{flags.model} is not a local folder for the index: set --output DIR")
    folder = Path(flags.output or Path(flags.model) / INDEX_FOLDER)
    check_new_index(folder, flags.overwrite)
    check_data_flags(flags)
    from ..inference.image_index import index_split

    settings = selected(flags, "overwrite batch_size precision")
    count = index_split(flags.model, lambda: load_split(flags.model, flags), folder, **settings)
    print(f"{count:,} images: {folder}")
