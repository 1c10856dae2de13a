"""Make a checkpoint of this package from a file of the reference."""

import json
import sys
from argparse import ArgumentParser, Namespace

from ..data.spec import DataSpec, spec_fields
from .common import add_column_flags, selected
from .inputs import COUNT, data_source, dataset_path, json_options, list_file, new_folder, single_recipe, source_file


def add_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("source", type=source_file, help="file, http(s) address, or hf://user/name[@revision]/file")
    add("out", type=new_folder, help="new folder")
    add("--recipe", type=single_recipe, help="what it is of: it must agree (default: the only one that does, if any)")
    add("--training_state", action="store_true", help="keep projector, key encoder and queue")
    add("--backbone", help="timm name, for a ViT of unusual size (default: recognized)")
    add("--backbone_kwargs", type=json_options, help="JSON object of keyword arguments of timm.create_model")
    add("--dataset", type=data_source, help="also score it on these: as for train, or a folder of class folders")
    add("--dataset_path", type=dataset_path, help="as for train")
    add("--train_list", type=list_file, help="as for train: gives the class counts, for many, medium and few")
    add("--test_list", type=list_file, help="as for train")
    add_column_flags(parser)
    add("--batch_size", type=COUNT, default=64, help="images to score at a time (default: %(default)s)")
    add("--json", action="store_true", help="print the whole result as JSON")


def run(flags: Namespace) -> None:
    fields = spec_fields(vars(flags))
    if not flags.dataset and fields:
        raise ValueError("--dataset_path, lists, columns and splits need --dataset: give it too, or leave them out")
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
        print(f"agrees with {', '.join(several)}: --recipe says which" if several else "it is of no recipe")
    elif not flags.recipe:
        print(f"taken for {record['recipe']}, the only recipe that it agrees with")
    for key, reason in record["dropped"].items():
        print(f"left out: {key}, {reason}")
    scores = record["metrics"]
    print(
        summary({"test": scores}, flags.out) if scores else "not scored: --dataset scores it, as a check that it works"
    )
    if record["warning"]:
        print(f"warning: {record['warning']}", file=sys.stderr)
