"""`paco-hf push`."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from ..utils.console import quiet
from .common import verb_parser


def _push_space(flags: argparse.Namespace) -> None:
    from ..hub.space import push_space, write_space

    title = flags.repo_id.rpartition("/")[-1]
    if flags.write_only:
        folder = write_space(flags.run, flags.write_only, title, flags.examples, flags.include_index)
        print(f"{folder}: `pip install -r requirements.txt` and `python app.py` in it start the page")
        return
    with TemporaryDirectory() as scratch:
        folder = write_space(flags.run, Path(scratch) / title, title, flags.examples, flags.include_index)
        print(push_space(folder, flags.repo_id, private=flags.private).repo_url)


def run(argv: list[str]) -> None:
    parser = verb_parser("push", "Publish a run on the Hub, with its card.")
    parser.add_argument("run", help="run folder, checkpoint or converted checkpoint")
    parser.add_argument("repo_id", help="user/name; made where it does not exist")
    parser.add_argument("--private", action="store_true", help="only you can see it")
    parser.add_argument("--revision", help="branch, made where it does not exist (default: main)")
    parser.add_argument(
        "--include_training_state", action="store_true", help="also projector, key encoder and queue, to train on"
    )
    parser.add_argument("--license", help="of the weights, as the Hub calls it (default: the card's, else unknown)")
    parser.add_argument("--space", action="store_true", help="instead: a Space with the model, the page of `demo`")
    parser.add_argument("--examples", nargs="+", metavar="IMAGE", help="with --space: images to offer on the page")
    parser.add_argument(
        "--include_index",
        action="store_true",
        help="with --space: also what `index` made, with small copies of the training images",
    )
    parser.add_argument("--write_only", metavar="DIR", help="with --space: write its folder there, and send nothing")
    flags = parser.parse_args(argv)
    if not Path(flags.run).is_dir():
        raise OSError(f"{flags.run} is not a folder")
    if not flags.space and (flags.examples or flags.write_only or flags.include_index):
        raise ValueError("--examples, --include_index and --write_only go with --space")
    if flags.space and (flags.revision or flags.include_training_state or flags.license):
        raise ValueError("a Space has no --revision, --include_training_state or --license: push the model for these")
    quiet()
    if flags.space:
        _push_space(flags)
        return
    from ..hub.upload import push

    info = push(
        flags.run,
        flags.repo_id,
        private=flags.private,
        revision=flags.revision,
        include_training_state=flags.include_training_state,
        license=flags.license,
    )
    print(info.repo_url)
