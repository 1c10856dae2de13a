"""Add a class to a trained classifier from photos of it, without training."""

from argparse import ArgumentParser, Namespace

from ..arguments.fields import SHARE
from .common import add_data_flags, add_inference_flags, check_data_flags, open_images, report_errors, selected
from .inputs import checkpoint, images, new_folder, number


def add_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=checkpoint, help="run folder or checkpoint (it is not modified)")
    add("images", type=images, nargs="+", help="photos of the class: files, folders, tables or URLs")
    add("--photo_column", help="column with the images, if the photos are in a table (default: detected)")
    add("--name", required=True, help="name of the new class")
    add("--output_dir", required=True, metavar="DIR", type=new_folder, help="new run folder")
    most = (
        "write nothing if the balanced accuracy of the other classes drops by more than this, 0 to 1 "
        "(default: no limit)"
    )
    add("--max_loss", type=number(float, SHARE), help=most)
    default = "test, else validation, else train"
    add_data_flags(parser, None, default=f"split of other classes to measure with: {default}")
    about = "stop at the first photo that cannot be decoded (default: skip it, and exit with status 1)"
    parser.add_argument("--strict", action="store_true", help=about)
    add_inference_flags(parser, 64)


def run(flags: Namespace) -> int:
    check_data_flags(flags)
    from ..data.spec import spec_fields
    from ..workflows.add_class import measure_addition

    photos = open_images(Namespace(**{**vars(flags), "image_column": flags.photo_column}))
    settings = selected(flags, "dataset split batch_size precision")
    addition = measure_addition(flags.run, photos, flags.name, **settings, **spec_fields(vars(flags)))
    print("\n".join(addition.lines()), flush=True)
    if flags.max_loss is not None:
        addition.check_loss(flags.max_loss)
    print(addition.write(flags.output_dir))
    return report_errors("add-class", [*photos.errors.values()], len(photos))
