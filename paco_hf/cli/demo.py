"""Try a model on a page in the browser."""

from argparse import ArgumentParser, Namespace

from ..arguments.fields import Range
from .common import add_model_flag
from .inputs import images, index_folder, number

_PORTS: Range = "1 to 65535", lambda port: 0 < port < 65536


def add_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add_model_flag(parser)
    offered = "image files or folders to show as examples (default: from the index)"
    add("--examples", nargs="+", metavar="IMAGE", type=images, help=offered)
    add(
        "--index",
        metavar="DIR",
        type=index_folder,
        help=("folder from `paco-hf index` (default: index/ in the model's folder)"),
    )
    add("--host", help="address to listen on; 0.0.0.0: all interfaces (default: only this machine)")
    add("--port", type=number(int, _PORTS), help="port to listen on (default: the first free one from 7860)")
    add("--share", action="store_true", help="also create a public URL, through a Gradio tunnel")


def run(flags: Namespace) -> None:
    from ..webapp.app import build_demo, launch

    page = build_demo(flags.model, flags.index, flags.examples)
    launch(page, flags.host, flags.port, flags.share)
