"""Make a checkpoint of this package from a file of the reference."""

import json
import sys
from argparse import ArgumentParser, Namespace

from .common import add_column_flags, selected
from .inputs import data_source, source_file


def add_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("source", type=source_file, help="file, http(s) address, or hf://user/name[@revision]/file")
    add("out", help="new folder")
    add("--recipe", help="recipe it is of: it must agree (default: the only one that does, if any)")
    add("--training_state", action="store_true", help="keep projector, key encoder and queue")
    add("--backbone", help="timm name, for a ViT of unusual size (default: recognized)")
    add("--backbone_kwargs", help="JSON object of keyword arguments of timm.create_model")
    add(
        "--dataset", type=data_source, help="also score it on these images: as for train, or a folder of class folders"
    )
    add("--dataset_path", help="as for train")
    add("--train_list", help="as for train: gives the class counts, for many, medium and few")
    add("--test_list", help="as for train")
    add_column_flags(parser)
    add("--batch_size", type=int, default=64, help="images to score at a time (default: %(default)s)")
    add("--json", action="store_true", help="print the whole result as JSON")


def run(flags: Namespace) -> None:
    if flags.batch_size < 1:
        raise ValueError(f"--batch_size must be at least 1, got {flags.batch_size}")
    from ..data.spec import DataSpec, spec_fields

    fields = spec_fields(vars(flags))
    if not flags.dataset and fields:
        raise ValueError("--dataset_path, the lists and the columns go with --dataset: give it too")
    from ..arguments.run_arguments import json_object
    from ..conversion.from_reference import convert
    from ..runs.record import summary

    flags.backbone_kwargs = json_object(flags.backbone_kwargs)
    settings = selected(flags, "recipe training_state backbone backbone_kwargs batch_size")
    spec = DataSpec(flags.dataset, **fields) if flags.dataset else None
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
