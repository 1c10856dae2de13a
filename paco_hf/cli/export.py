"""Export a checkpoint to a format that loads without this package."""

from argparse import ArgumentParser, Namespace
from typing import Any

from ..data.spec import ROLES, spec_fields
from .common import add_data_flags, add_model_flag, check_data_flags, selected
from .inputs import new_folder

# What `--dataset` and the like are for.
_IMAGES = "--to timm of a cosine classifier (to fit a linear one) and for --forms (to evaluate them)"


def add_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add_model_flag(parser)
    add("out", type=new_folder, help="new folder")
    formats = "timm format (a cosine classifier is converted to a linear one with the same top-1) or ONNX"
    add("--to", choices=["timm", "onnx"], required=True, help=formats)
    add("--prior_input", action="store_true", help="onnx: add a second input for the class frequencies")
    forms = (
        "onnx: write files in these precisions in the layout of the Hub (onnx/model.onnx, model_fp16.onnx, "
        "model_quantized.onnx), and compare their accuracy and speed"
    )
    add("--forms", nargs="+", choices=["fp32", "fp16", "int8"], help=forms)
    kinds = (
        "int8: static quantizes activations with fixed ranges, dynamic only matrix products (default: depends on "
        "the backbone)"
    )
    add("--int8", choices=["static", "dynamic"], help=kinds)
    split = "split that calibrates static int8 (default: train)"
    add("--calibration_split", choices=ROLES, help=split)
    default = "timm: validation, else train; --forms: test, else validation"
    add_data_flags(parser, None, default=default)
    parser.epilog = f"--dataset, --split and the like are only for {_IMAGES}."


def run(flags: Namespace) -> None:
    fields = spec_fields(vars(flags))
    check_data_flags(flags)
    _check(flags, any([flags.dataset, flags.split, *fields.values()]))
    if flags.to == "timm":
        _export_timm(flags, fields)
    elif flags.forms:
        _export_forms(flags, fields)
    else:
        _export_onnx(flags)


def _check(flags: Namespace, has_images: bool) -> None:
    """`ValueError` where flags do not go together."""
    if flags.to != "onnx":
        for name in ("prior_input", "forms", "int8", "calibration_split"):
            if getattr(flags, name):
                raise ValueError(f"--{name} is for --to onnx, got --to {flags.to}: remove the flag")
    elif flags.forms:
        if flags.prior_input:
            raise ValueError("--forms does not support class frequencies as an input: remove --prior_input or --forms")
        if (flags.int8 or flags.calibration_split) and "int8" not in flags.forms:
            raise ValueError("--int8 and --calibration_split are for --forms int8: remove them, or add int8")
        if flags.int8 == "dynamic" and flags.calibration_split:
            raise ValueError("--calibration_split is for static int8, but --int8 is dynamic: remove one of them")
    elif flags.int8 or flags.calibration_split:
        raise ValueError("--int8 and --calibration_split are for --forms int8: add it, or remove them")
    elif has_images:
        raise ValueError(f"--dataset, --split and the like are only for {_IMAGES}: remove them")


def _export_timm(flags: Namespace, fields: dict[str, Any]) -> None:
    from ..workflows.timm_form import write_timm

    form = write_timm(flags.model, flags.out, **selected(flags, "dataset split"), **fields)
    print("\n".join(form.lines), end="\n" if form.lines else "")
    print(f'{flags.out}: timm.create_model("local-dir:{flags.out}", pretrained=True) loads it')


def _export_forms(flags: Namespace, fields: dict[str, Any]) -> None:
    from ..workflows.onnx_forms import FORMS_NAME, write_onnx_forms

    split = flags.calibration_split or "train"
    settings = {**selected(flags, "int8 dataset split"), "calibration_split": split, **fields}
    made = write_onnx_forms(flags.model, flags.out, flags.forms, **settings)
    print("\n".join(made.lines))
    print(f"{flags.out}: {FORMS_NAME} has these results and the images with a different prediction")


def _export_onnx(flags: Namespace) -> None:
    from ..conversion import export_onnx
    from ..inference.load_model import load_classifier, load_processor

    model, processor = load_classifier(flags.model), load_processor(flags.model)
    if model.config.abstention is not None:
        print("note: the abstention thresholds of the model are only in the metadata of the file")
    made = export_onnx(model, flags.out, image_processor=processor, prior_input=flags.prior_input)
    size = "dynamic" if made.dynamic_size else f"fixed ({made.fixed_because})"
    print(
        f"{made.file}: dynamic batch size, image size {size}; relative difference from the model {made.difference:.1e}"
    )
