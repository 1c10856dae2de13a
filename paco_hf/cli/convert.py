"""`paco-hf convert`."""

import json
import sys

from ..utils.console import quiet
from .common import add_column_flags, verb_parser


def run(argv: list[str]) -> None:
    parser = verb_parser("convert", "Make a checkpoint of this package from a file of the reference.")
    parser.add_argument("source", help="file, http(s) address, or hf://user/name[@revision]/file")
    parser.add_argument("out", help="new folder")
    parser.add_argument("--recipe", help="recipe it is of: it must agree (default: the only one that does, if any)")
    parser.add_argument("--training_state", action="store_true", help="keep projector, key encoder and queue")
    parser.add_argument("--backbone", help="timm name, for a ViT of unusual size (default: recognized)")
    parser.add_argument("--backbone_kwargs", help="JSON object of keyword arguments of timm.create_model")
    parser.add_argument("--dataset", help="also score it on these images: as for train, or a folder of class folders")
    parser.add_argument("--dataset_path", help="as for train")
    parser.add_argument("--train_list", help="as for train: gives the class counts, for many, medium and few")
    parser.add_argument("--test_list", help="as for train")
    add_column_flags(parser)
    parser.add_argument("--batch_size", type=int, default=64, help="images to score at a time (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the whole result as JSON")
    flags = parser.parse_args(argv)
    if flags.batch_size < 1:
        raise ValueError(f"--batch_size must be at least 1, got {flags.batch_size}")
    from ..data.spec import DataSpec, spec_fields

    fields = spec_fields(vars(flags))
    if not flags.dataset and fields:
        raise ValueError("--dataset_path, the lists and the columns go with --dataset: give it too")
    quiet()
    from ..arguments.model_arguments import json_object
    from ..conversion.from_reference import convert
    from ..runs.record import summary

    record = convert(
        flags.source,
        flags.out,
        recipe=flags.recipe,
        training_state=flags.training_state,
        backbone=flags.backbone,
        backbone_kwargs=json_object(flags.backbone_kwargs),
        evaluation=DataSpec(flags.dataset, **fields) if flags.dataset else None,
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
