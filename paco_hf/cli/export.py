"""Write a checkpoint that others load without this package."""

from argparse import ArgumentParser, Namespace

from .common import add_data_flags, check_data_flags, selected
from .inputs import checkpoint, new_folder

# What `--dataset` and the like are for.
_FITTED = "the export of a cosine classifier to timm"


def add_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=checkpoint, help="run folder, checkpoint or Hub id")
    add("out", type=new_folder, help="new folder")
    formats = "timm's own format, in which a cosine classifier is a linear one of the same top-1; or ONNX"
    add("--to", choices=["timm", "onnx"], required=True, help=formats)
    add("--prior_input", action="store_true", help="onnx: a second input, the class frequencies")
    add_data_flags(parser, None, default="validation, where there is none train")
    parser.epilog = (
        f"--dataset, --split and the like are only for {_FITTED}: the images that its temperature is fitted on."
    )


def run(flags: Namespace) -> None:
    if flags.prior_input and flags.to != "onnx":
        raise ValueError(f"--prior_input is for --to onnx, got --to {flags.to}: leave it out")
    from ..data.spec import spec_fields

    fields = spec_fields(vars(flags))
    check_data_flags(flags)
    has_images = any([flags.dataset, flags.split, *fields.values()])
    if has_images and flags.to != "timm":
        raise ValueError(f"--dataset, --split and the like are only for {_FITTED}: leave them out")

    from ..conversion import export_onnx, export_timm
    from ..inference.load_model import load_classifier, load_processor
    from ..workflows.linear_export import linear_copy

    model = load_classifier(flags.model)
    processor = load_processor(flags.model)
    if has_images and model.config.classifier != "cosine":
        raise ValueError(
            f"--dataset, --split and the like are only for {_FITTED}, and {flags.model} has a linear one: leave them "
            "out"
        )
    if flags.to == "timm":
        if model.config.classifier == "cosine":
            model, lines = linear_copy(model, flags.model, **selected(flags, "dataset split"), **fields)
            print("\n".join(lines))
        export_timm(model, flags.out, image_processor=processor)
        print(f'{flags.out}: timm.create_model("local-dir:{flags.out}", pretrained=True) loads it')
        return
    made = export_onnx(model, flags.out, image_processor=processor, prior_input=flags.prior_input)
    size = "dynamic" if made.dynamic_size else f"fixed ({made.fixed_because})"
    print(f"{made.file}: batch dynamic, image size {size}; differs from the model by {made.difference:.1e}, relative")
