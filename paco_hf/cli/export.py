"""`paco-hf export`."""

from ..utils.console import quiet
from .common import verb_parser


def run(argv: list[str]) -> None:
    parser = verb_parser("export", "Write a checkpoint that others load without this package.")
    parser.add_argument("model", help="run folder, checkpoint or Hub id")
    parser.add_argument("out", help="new folder")
    parser.add_argument("--to", choices=["timm", "onnx"], required=True, help="timm's own format, or ONNX")
    parser.add_argument("--prior_input", action="store_true", help="onnx: a second input, the class frequencies")
    flags = parser.parse_args(argv)
    if flags.prior_input and flags.to != "onnx":
        raise ValueError("--prior_input goes with --to onnx")
    quiet()
    from transformers import AutoImageProcessor

    from ..conversion.to_onnx import export_onnx
    from ..conversion.to_timm import export_timm
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
