"""Try a model on a page in the browser."""

from argparse import ArgumentParser, Namespace

from .inputs import checkpoint, existing_path, run_folder


def add_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=checkpoint, help="run folder, checkpoint or Hub id")
    offered = "image files or folders to offer (default: some of the index)"
    add("--examples", nargs="+", metavar="IMAGE", type=existing_path, help=offered)
    add("--index", metavar="DIR", type=run_folder, help="of `paco-hf index` (default: index/ in the model's folder)")
    add("--host", help="address to listen at; 0.0.0.0: any (default: only this computer)")
    add("--port", type=int, help="(default: the first free one from 7860)")
    add("--share", action="store_true", help="also a public address, through a tunnel of Gradio's")


def run(flags: Namespace) -> None:
    if flags.port is not None and not 0 < flags.port < 65536:
        raise ValueError(f"--port must be 1 to 65535, got {flags.port}")
    from ..webapp.app import build_demo, launch

    page = build_demo(flags.model, flags.index, flags.examples)
    launch(page, flags.host, flags.port, flags.share)
