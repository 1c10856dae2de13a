"""`paco-hf index`."""

from pathlib import Path

from ..utils.console import quiet
from .common import add_data_flags, add_inference_flags, load_split, verb_parser


def run(argv: list[str]) -> None:
    parser = verb_parser(
        "index", "Index the training images by features, for `paco-hf demo` to show the nearest ones."
    )
    parser.add_argument("model", help="run folder, checkpoint or Hub id")
    add_data_flags(parser, "train")
    add_inference_flags(parser, 256)
    parser.add_argument("--output", metavar="DIR", help="folder of the index (default: index/ in the model's folder)")
    parser.add_argument("--overwrite", action="store_true", help="replace an index that is there")
    flags = parser.parse_args(argv)
    if flags.output is None and not Path(flags.model).is_dir():
        raise ValueError(f"{flags.model} is no folder to put the index into: give --output")
    quiet()
    from ..inference.image_index import INDEX_FOLDER, index_split

    folder = Path(flags.output or Path(flags.model) / INDEX_FOLDER)

    count = index_split(
        flags.model,
        lambda: load_split(flags.model, flags)[0],
        folder,
        overwrite=flags.overwrite,
        batch_size=flags.batch_size,
        precision=flags.precision,
    )
    print(f"{count:,} images: {folder}")
