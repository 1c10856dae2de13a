"""Convert a checkpoint of the reference implementation to this package."""

import json
import sys
from argparse import ArgumentParser, Namespace

from ..data.spec import DataSpec, spec_fields
from .common import add_column_flags, selected
from .inputs import COUNT, data_source, dataset_path, json_options, list_file, new_folder, single_recipe, source_file


def add_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("source", type=source_file, help="file, URL, or hf://user/name[@revision]/file")
    add("out", type=new_folder, help="new folder")
    add(
        "--recipe",
        type=single_recipe,
        help=("recipe that the checkpoint must match (default: the only one that matches, if any)"),
    )
    add("--training_state", action="store_true", help="also convert projector, key encoder and queue")
    add("--backbone", help="timm model, for a ViT of unusual size (default: detected)")
    add("--backbone_kwargs", type=json_options, help="JSON object of arguments of timm.create_model")
    add(
        "--dataset",
        type=data_source,
        help=("also evaluate it on this dataset: as for train, or a folder of class folders"),
    )
    add("--dataset_path", type=dataset_path, help="as for train")
    add(
        "--train_list",
        type=list_file,
        help=("as for train; gives the class counts for many-, medium- and few-shot accuracy"),
    )
    add("--test_list", type=list_file, help="as for train")
    add_column_flags(parser)
    add("--batch_size", type=COUNT, default=64, help="evaluation batch size (default: %(default)s)")
    add("--json", action="store_true", help="print the whole result as JSON")


def run(flags: Namespace) -> None:
    fields = spec_fields(vars(flags))
    if not flags.dataset and fields:
        raise ValueError("--dataset_path, lists, columns and splits need --dataset: add it, or remove them")
    spec = DataSpec(flags.dataset, **fields) if flags.dataset else None
    from ..conversion.from_reference import convert
    from ..runs.record import summary

    settings = selected(flags, "recipe training_state backbone backbone_kwargs batch_size")
    record = convert(flags.source, flags.out, evaluation=spec, **settings)
    if flags.json:
        print(json.dumps(record, indent=2))
        return
    print(f"{flags.out}: {record['method']}, {record['backbone']}, {record['num_labels']} classes")
    if not record["recipe"]:
        several = record["agrees_with"]
        print(f"matches {', '.join(several)}: select one with --recipe" if several else "it matches no recipe")
    elif not flags.recipe:
        print(f"recipe: {record['recipe']}, the only one that it matches")
    for key, reason in record["dropped"].items():
        print(f"not converted: {key}, {reason}")
    scores = record["metrics"]
    print(
        summary({"test": scores}, flags.out)
        if scores
        else ("not evaluated: check the conversion by evaluating it with --dataset")
    )
    if record["warning"]:
        print(f"warning: {record['warning']}", file=sys.stderr)
