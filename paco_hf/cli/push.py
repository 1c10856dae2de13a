"""Publish a run on the Hub, with its card."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from tempfile import TemporaryDirectory

from ..inference.index_folder import check_included_index
from .common import selected
from .inputs import images, new_folder, repo_name, run_folder


def add_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=run_folder, help="run folder, checkpoint or converted checkpoint")
    add("repo_id", type=repo_name, help="user/name; made where it does not exist")
    add("--private", action="store_true", help="only you can see it")
    add("--revision", help="branch, made where it does not exist (default: main)")
    add("--include_training_state", action="store_true", help="also projector, key encoder and queue, to train on")
    add("--license", help="of the weights, as the Hub calls it (default: the card's, else unknown)")
    add("--space", action="store_true", help="instead: a Space with the model, the page of `demo`")
    add("--examples", nargs="+", metavar="IMAGE", type=images, help="with --space: images to offer on the page")
    index = "with --space: also what `index` made, with small copies of the training images"
    add("--include_index", action="store_true", help=index)
    add("--write_only", metavar="DIR", type=new_folder, help="with --space: write its folder there, and send nothing")


def run(flags: Namespace) -> None:
    if not flags.space and (flags.examples or flags.write_only or flags.include_index):
        raise ValueError("--examples, --include_index and --write_only need --space: give it too, or leave them out")
    if flags.space and (flags.revision or flags.include_training_state or flags.license):
        raise ValueError(
            "--revision, --include_training_state and --license are for a model, not for --space: leave them out, or "
            "push the model"
        )
    if flags.include_index:
        check_included_index(Path(flags.run))
    if flags.space:
        _push_space(flags)
        return
    from ..hub.upload import push

    settings = selected(flags, "private revision include_training_state license")
    print(push(flags.run, flags.repo_id, **settings).repo_url)


def _push_space(flags: Namespace) -> None:
    from ..hub.space import push_space, write_space

    title = flags.repo_id.rpartition("/")[-1]
    with TemporaryDirectory() as scratch:
        target = flags.write_only or Path(scratch) / title
        folder = write_space(flags.run, target, title, flags.examples, flags.include_index)
        if flags.write_only:
            print(f"{folder}: `pip install -r requirements.txt` and `python app.py` in it start the page")
        else:
            print(push_space(folder, flags.repo_id, private=flags.private).repo_url)
