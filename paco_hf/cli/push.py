"""Push a run to the Hub, with its model card."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..data.spec import spec_fields
from ..inference.index_folder import check_included_index
from .common import add_data_flags, check_data_flags, selected
from .inputs import images, new_folder, repo_name, run_folder


def add_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=run_folder, help="run folder, checkpoint or converted checkpoint")
    add("repo_id", type=repo_name, help="user/name; created if it does not exist")
    form = "push in timm format, which timm and transformers load without remote code and without paco_hf"
    add("--to", choices=["timm"], help=f"{form} (default: with code)")
    add("--private", action="store_true", help="make the repository private")
    add("--revision", help="branch, created if it does not exist (default: main)")
    add(
        "--include_training_state",
        action="store_true",
        help=("also push projector, key encoder and queue, to continue training"),
    )
    add(
        "--include_predictions",
        action="store_true",
        help=("also push the per-image results of `evaluate`, with file names"),
    )
    add(
        "--license",
        help=("license of the weights, as an identifier of the Hub (default: that of the card, else unknown)"),
    )
    add("--space", action="store_true", help="push a Space instead: the model with the page of `demo`")
    add("--examples", nargs="+", metavar="IMAGE", type=images, help="with --space: example images for the page")
    index = "with --space: also push the index from `index`, with thumbnails of the training images"
    add("--include_index", action="store_true", help=index)
    add("--write_only", metavar="DIR", type=new_folder, help="write the files to this folder, and push nothing")
    add_data_flags(parser, None, default="validation, else train")
    parser.epilog = (
        "--dataset, --split and the like are only for --to timm of a cosine classifier, to fit the temperature "
        "of the linear one."
    )


def run(flags: Namespace) -> None:
    fields = spec_fields(vars(flags))
    check_data_flags(flags)
    _check_form(flags, any([flags.dataset, flags.split, *fields.values()]))
    if flags.include_index:
        check_included_index(Path(flags.run))
    name = flags.repo_id if "/" in flags.repo_id or flags.space else f"USER/{flags.repo_id}"
    if not flags.write_only:
        from ..hub.upload import owned_name

        name = owned_name(flags.repo_id)  # before there is work that would be lost
    data = {**selected(flags, "dataset split"), **fields}
    with TemporaryDirectory() as scratch:
        target = Path(flags.write_only or Path(scratch) / name.rpartition("/")[-1])
        lines = _write_space(flags, target, data) if flags.space else _write_model(flags, target, name, data)
        print("\n".join(lines), end="\n" if lines else "")
        if flags.write_only:
            use = "start the page with `pip install -r requirements.txt` and `python app.py` in it"
            print(f"{target}: {use if flags.space else f'what a push to {name} sends'}")
        else:
            print(_send(flags, target, name))


def _check_form(flags: Namespace, has_images: bool) -> None:
    """`ValueError` where flags do not go together."""
    if not flags.space and (flags.examples or flags.include_index):
        raise ValueError("--examples and --include_index need --space: add it, or remove them")
    for_models = ("revision", "include_training_state", "include_predictions", "license")
    if flags.space and any(getattr(flags, name) for name in for_models):
        *names, last = (f"--{name}" for name in for_models)
        raise ValueError(
            f"{', '.join(names)} and {last} are for a model, not for --space: remove them, or push the model"
        )
    if flags.write_only and (flags.private or flags.revision):
        raise ValueError("--write_only pushes nothing, so --private and --revision have no effect: remove them")
    if flags.to and (flags.include_training_state or flags.include_predictions or flags.include_index):
        raise ValueError(
            "--include_training_state, --include_predictions and --include_index are not part of the timm "
            "format: remove them, or --to timm"
        )
    if has_images and not flags.to:
        raise ValueError("--dataset, --split and the like are only for --to timm: remove them")


def _write_model(flags: Namespace, folder: Path, name: str, data: dict[str, Any]) -> list[str]:
    if flags.to:
        from ..workflows.timm_form import write_timm_model

        return write_timm_model(flags.run, folder, name, flags.license, **data).lines
    from ..hub.upload import write_model

    write_model(flags.run, folder, name, **selected(flags, "include_training_state include_predictions license"))
    return []


def _write_space(flags: Namespace, folder: Path, data: dict[str, Any]) -> list[str]:
    title = flags.repo_id.rpartition("/")[-1]
    if flags.to:
        from ..workflows.timm_form import write_timm_space

        return write_timm_space(flags.run, folder, title, flags.examples, **data).lines
    from ..hub.space import write_space

    write_space(flags.run, folder, title, flags.examples, flags.include_index)
    return []


def _send(flags: Namespace, folder: Path, name: str) -> str:
    """Publish a folder; gives its address."""
    if flags.space:
        from ..hub.space import push_space

        return str(push_space(folder, name, private=flags.private).repo_url)
    from ..hub.upload import send_model

    sent = send_model(folder, name, name=flags.run, private=flags.private, revision=flags.revision)
    return str(sent.repo_url)
