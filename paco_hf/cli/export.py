"""Write a checkpoint that others load without this package."""

from argparse import ArgumentParser, Namespace

from .inputs import checkpoint, new_folder


def add_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=checkpoint, help="run folder, checkpoint or Hub id")
    add("out", type=new_folder, help="new folder")
    add("--to", choices=["timm", "onnx"], required=True, help="timm's own format, or ONNX")
    add("--prior_input", action="store_true", help="onnx: a second input, the class frequencies")


def run(flags: Namespace) -> None:
    if flags.prior_input and flags.to != "onnx":
        raise ValueError("--prior_input goes with --to onnx")
    from transformers import AutoImageProcessor

    from ..conversion import export_onnx, export_timm
    from ..inference.load_model import load_classifier

    model = load_classifier(flags.model)
    processor = AutoImageProcessor.from_pretrained(flags.model)
    if flags.to == "timm":
        export_timm(model, flags.out, image_processor=processor)
        print(f'{flags.out}: timm.create_model("local-dir:{flags.out}", pretrained=True) loads it')
        return
    made = export_onnx(model, flags.out, image_processor=processor, prior_input=flags.prior_input)
    size = "dynamic" if made.dynamic_size else f"fixed ({made.fixed_because})"
    print(f"{made.file}: batch dynamic, image size {size}; differs from the model by {made.difference:.1e}, relative")
