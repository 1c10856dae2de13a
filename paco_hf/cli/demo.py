"""`paco-hf demo`."""

from ..utils.console import quiet
from .common import verb_parser


def run(argv: list[str]) -> None:
    parser = verb_parser("demo", "Try a model on a page in the browser.")
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
    from ..webapp.app import build_demo, launch

    page = build_demo(flags.model, flags.index, flags.examples)
    launch(page, flags.host, flags.port, flags.share)
