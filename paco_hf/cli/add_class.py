"""Add a class to a trained classifier from photos of it, without training."""

from argparse import ArgumentParser, Namespace

from ..arguments.fields import SHARE
from .common import add_data_flags, add_inference_flags, check_data_flags, open_images, report_errors, selected
from .inputs import checkpoint, images, new_folder, number


def add_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=checkpoint, help="run folder or checkpoint, which stays as it is")
    add("images", type=images, nargs="+", help="photos of the class: files, folders, tables, addresses")
    add("--photo_column", help="of a table of photos the column of the images (default: recognized)")
    add("--name", required=True, help="of the class, which the run does not know")
    add("--output_dir", required=True, metavar="DIR", type=new_folder, help="new run folder")
    most = "write nothing where the other classes lose more balanced accuracy than this, 0 to 1 (default: any loss)"
    add("--max_loss", type=number(float, SHARE), help=most)
    default = "test, where there is none validation, else train"
    add_data_flags(parser, None, default=f"to measure with: {default}")
    about = "stop at the first photo that cannot be decoded (default: leave it out, and exit with status 1)"
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
