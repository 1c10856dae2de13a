"""`paco-hf convert`, `export`, `card` and `push`: models from elsewhere, and to elsewhere."""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from .cli_common import OneLineParser, quiet


def convert(argv: list[str]) -> None:
    parser = OneLineParser(
        prog="paco-hf convert", description="Make a checkpoint of this package from a file of the reference."
    )
    parser.add_argument("source", help="file, http(s) address, or hf://user/name[@revision]/file")
    parser.add_argument("out", help="new folder")
    parser.add_argument("--recipe", help="recipe it is of: it must agree (default: the only one that does, if any)")
    parser.add_argument("--training_state", action="store_true", help="keep projector, key encoder and queue")
    parser.add_argument("--backbone", help="timm name, for a ViT of unusual size (default: recognised)")
    parser.add_argument("--backbone_kwargs", help="JSON object of keyword arguments of timm.create_model")
    parser.add_argument("--dataset", help="also score it on these images: as for train, or a folder of class folders")
    parser.add_argument("--dataset_path", help="as for train")
    parser.add_argument("--train_list", help="as for train: gives the class counts, for many, medium and few")
    parser.add_argument("--test_list", help="as for train")
    parser.add_argument("--image_column", help="column of the images (default: recognised)")
    parser.add_argument("--label_column", help="column of the classes (default: recognised)")
    parser.add_argument("--batch_size", type=int, default=64, help="images to score at a time (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the whole result as JSON")
    flags = parser.parse_args(argv)
    if flags.batch_size < 1:
        raise ValueError(f"--batch_size must be at least 1, got {flags.batch_size}")
    lists = {"train": flags.train_list, "test": flags.test_list}
    columns = ("dataset_path", "image_column", "label_column")
    evaluation = {"dataset": flags.dataset, **{name: getattr(flags, name) for name in columns}}
    evaluation["lists"] = {split: file for split, file in lists.items() if file}
    if not flags.dataset and any(value for value in evaluation.values()):
        raise ValueError("--dataset_path, the lists and the columns go with --dataset: give it too")
    quiet()
    from .conversion import convert
    from .run_args import json_object
    from .run_folder import summary

    record = convert(
        flags.source,
        flags.out,
        recipe=flags.recipe,
        training_state=flags.training_state,
        backbone=flags.backbone,
        backbone_kwargs=json_object(flags.backbone_kwargs),
        evaluation=evaluation if flags.dataset else None,
        batch_size=flags.batch_size,
    )
    if flags.json:
        print(json.dumps(record, indent=2))
        return
    print(f"{flags.out}: {record['method']}, {record['backbone']}, {record['num_labels']} classes")
    if not record["recipe"]:
        several = record["agrees_with"]
        print(f"agrees with {', '.join(several)}: --recipe says which" if several else "it is of no recipe")
    elif not flags.recipe:
        print(f"taken for {record['recipe']}, the only recipe that it agrees with")
    for key, reason in record["dropped"].items():
        print(f"left out: {key}, {reason}")
    if record["metrics"] is None:
        print("not scored: --dataset scores it, as a check that it works")
    else:
        print(summary({"test": record["metrics"]}, flags.out))
    if record["warning"]:
        print(f"warning: {record['warning']}", file=sys.stderr)


def export(argv: list[str]) -> None:
    parser = OneLineParser(
        prog="paco-hf export", description="Write a checkpoint that others load without this package."
    )
    parser.add_argument("model", help="run folder, checkpoint or Hub id")
    parser.add_argument("out", help="new folder")
    parser.add_argument("--to", choices=["timm", "onnx"], required=True, help="timm's own format, or ONNX")
    parser.add_argument("--prior_input", action="store_true", help="onnx: a second input, the class frequencies")
    flags = parser.parse_args(argv)
    if flags.prior_input and flags.to != "onnx":
        raise ValueError("--prior_input goes with --to onnx")
    quiet()
    from transformers import AutoImageProcessor

    from .export import export_onnx, export_timm
    from .scoring import load_classifier

    model = load_classifier(flags.model)
    processor = AutoImageProcessor.from_pretrained(flags.model)
    if flags.to == "timm":
        export_timm(model, flags.out, image_processor=processor)
        print(f'{flags.out}: timm.create_model("local-dir:{flags.out}", pretrained=True) loads it')
        return
    made = export_onnx(model, flags.out, image_processor=processor, prior_input=flags.prior_input)
    size = "dynamic" if made.dynamic_size else f"fixed ({made.fixed_because})"
    print(f"{made.file}: batch dynamic, image size {size}; differs from the model by {made.difference:.1e}, relative")


def card(argv: list[str]) -> None:
    parser = OneLineParser(prog="paco-hf card", description="Write the model card (README.md) of a run or a recipe.")
    parser.add_argument("run", nargs="?", help="run folder or converted checkpoint")
    parser.add_argument("--repo_id", help="user/name on the Hub, for the examples in the card")
    parser.add_argument("--license", default="unknown", help="of the weights, as the Hub calls it (default: unknown)")
    parser.add_argument("--recipe", help="recipe that the run follows, where it does not say so itself")
    parser.add_argument("--baselines", nargs="+", default=[], metavar="RUN", help="runs to show the scores of beside")
    parser.add_argument("--recipes", metavar="DIR", help="instead: a card for each recipe, DIR/<recipe>/README.md")
    flags = parser.parse_args(argv)
    if (flags.run is None) == (flags.recipes is None):
        raise ValueError("give a run folder, or --recipes DIR (not both)")
    quiet()
    from .cards import recipe_cards, write_card
    from .run_folder import write_text

    if flags.recipes:
        cards = dict(recipe_cards(flags.recipes))
        for path, text in cards.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
        print(f"{len(cards)} cards in {flags.recipes}")
        return
    if not Path(flags.run).is_dir():
        raise OSError(f"{flags.run} is not a folder")
    written = write_card(
        flags.run, repo_id=flags.repo_id, license=flags.license, recipe=flags.recipe, baselines=flags.baselines
    )
    print(written)


def _push_space(flags: argparse.Namespace) -> None:
    from .space import push_space, write_space

    title = flags.repo_id.rpartition("/")[-1]
    if flags.write_only:
        folder = write_space(flags.run, flags.write_only, title, flags.examples, flags.include_index)
        print(f"{folder}: `pip install -r requirements.txt` and `python app.py` in it start the page")
        return
    with TemporaryDirectory() as scratch:
        folder = write_space(flags.run, Path(scratch) / title, title, flags.examples, flags.include_index)
        print(push_space(folder, flags.repo_id, private=flags.private).repo_url)


def push(argv: list[str]) -> None:
    parser = OneLineParser(prog="paco-hf push", description="Publish a run on the Hub, with its card.")
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
    from .hub import push

    info = push(
        flags.run,
        flags.repo_id,
        private=flags.private,
        revision=flags.revision,
        include_training_state=flags.include_training_state,
        license=flags.license,
    )
    print(info.repo_url)
