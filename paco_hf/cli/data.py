"""Prepare, verify or describe a dataset, or find labels in it that are probably wrong."""

import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from . import inputs
from .common import (
    OneLineParser,
    add_column_flags,
    add_data_flags,
    add_inference_flags,
    add_split_flags,
    check_data_flags,
    selected,
)


def add_flags(parser: ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, parser_class=OneLineParser, metavar="ACTION")
    prepare = actions.add_parser("prepare", help="convert a dataset to parquet shards with a manifest, for streaming")
    add = prepare.add_argument
    add(
        "dataset",
        type=inputs.data_source,
        help="imagenet, imagenet-lt, inat2018, places-lt; or your own data, as for train",
    )
    add(
        "--source",
        type=inputs.data_source,
        help="folder of images or parquet files, or Hub id (default: the dataset's repository)",
    )
    lists = "image lists, files or URLs; a list without SPLIT is for train (default: the lists in --source)"
    add("--list", nargs="+", default=[], metavar="[SPLIT=]FILE", type=inputs.split_list, help=lists)
    add(
        "--out",
        required=True,
        type=inputs.preparation_folder,
        help=("new folder; after an interruption, the same command resumes"),
    )
    add_column_flags(prepare)
    add_split_flags(prepare)
    add("--threads", type=inputs.COUNT, help="shards to write in parallel (default: number of cores, up to 4)")
    add("--shard_mib", type=inputs.SIZE, default=400, help="size of a shard in MiB (default: %(default)s)")
    verify = actions.add_parser(
        "verify",
        help=("check a list or dataset against the published version, for completeness and for damaged images"),
    )
    verify.add_argument("target", type=inputs.verifiable, help="prepared folder, list, or a dataset as for train")
    verify.add_argument("--dataset", help="dataset of the list (default: detected)")
    add_column_flags(verify)
    add_split_flags(verify)
    stats = actions.add_parser("stats", help="print class counts, many/medium/few-shot classes and imbalance factor")
    add = stats.add_argument
    add("target", type=inputs.data_source, help="prepared folder, list, or a dataset as for train --dataset")
    add("--dataset_path", type=inputs.dataset_path, help="as for train")
    add_column_flags(stats)
    add_split_flags(stats)
    add("--imbalance_factor", type=inputs.FACTOR, default=100, help="as for train (default: %(default)s)")
    add("--plot", metavar="FILE", type=inputs.figure_output, help="also write a figure (png, svg, pdf)")
    add("--json", action="store_true", help="print the counts as JSON")

    suspects = actions.add_parser("suspects", help="find labels that are probably wrong, using a trained run")
    add = suspects.add_argument
    add("model", type=inputs.checkpoint, help="run folder or checkpoint")
    add(
        "--output",
        required=True,
        metavar="FILE.csv",
        type=inputs.table_output,
        help=("output file; a page with the images is written next to it"),
    )
    add("--number", type=inputs.COUNT, help="number of images to list, most suspicious first (default: all suspects)")
    add_data_flags(suspects, None, default="train if the backbone was frozen, else validation")
    add_inference_flags(suspects, 256)


def run(flags: Namespace) -> None:
    {"prepare": _prepare, "verify": _verify, "stats": _stats, "suspects": _suspects}[flags.action](flags)


def _prepare(flags: Namespace) -> None:
    from ..data.published import BENCHMARKS
    from ..data.spec import public_name, spec_fields
    from ..utils.hub_names import split_revision

    lists: dict[str, str] = {}
    for split, source in flags.list:
        if split in lists:
            raise ValueError(f"--list has two lists for {split}: pass one per split, as SPLIT=FILE")
        lists[split] = source
    if flags.dataset == "builtin":
        raise ValueError("the built-in dataset needs no preparation: use `paco-hf train --dataset builtin`")
    user_data = flags.dataset not in BENCHMARKS
    if user_data and flags.source:
        names = ", ".join(name for name, benchmark in BENCHMARKS.items() if benchmark.path)
        raise ValueError(
            f"--source is for {names}, not for {flags.dataset!r}: to prepare your own data, pass only its folder, "
            "file or Hub id"
        )
    name, source = flags.dataset, flags.source
    if user_data:
        name, source = public_name(split_revision(flags.dataset)[0]), flags.dataset
    fields = spec_fields(vars(flags))
    from ..data.streaming.prepare import prepare
    from ..data.verification import describe_counts

    manifest = prepare(
        name, source, flags.out, lists, threads=flags.threads, shard_bytes=int(flags.shard_mib * 2**20), **fields
    )
    for split, content in manifest.splits.items():
        print(describe_counts(split, content["class_counts"]))
    place = f"--dataset {flags.out}" if user_data else f"--dataset {name} --dataset_path {flags.out}"
    print(f"{flags.out} is complete: train on it with paco-hf train {place} --streaming true")


def _verify(flags: Namespace) -> None:
    from ..data.spec import spec_fields
    from ..data.verification import verify

    right, wrong = verify(flags.target, flags.dataset, **spec_fields(vars(flags)))
    for line in right:
        print(line)
    if wrong:
        raise ValueError(f"{flags.target} failed verification: " + "; ".join(wrong))


def _stats(flags: Namespace) -> None:
    from ..data.spec import spec_fields
    from ..data.verification import describe_counts, split_counts

    counts = split_counts(flags.target, **spec_fields(vars(flags)))
    print(json.dumps(counts) if flags.json else "\n".join(describe_counts(*item) for item in counts.items()))
    if flags.plot:
        from ..reports.plots import plot_counts

        plot_counts(counts, flags.plot)


def _suspects(flags: Namespace) -> None:
    from ..data.spec import spec_fields

    check_data_flags(flags)
    from ..workflows.suspects import suspect_labels, write_suspects

    settings = selected(flags, "dataset split number batch_size precision")
    outcome = suspect_labels(flags.model, data_fields=spec_fields(vars(flags)), **settings)
    page = write_suspects(outcome, Path(flags.output))
    for note in outcome.notes:
        print(f"note: {note}", file=sys.stderr)
    names = outcome.predictions.class_names
    for one, other, area in outcome.same_classes:
        apart = f"the model distinguishes their images in {100 * area:.0f} of 100 pairs (50 is chance)"
        print(f"{names[one]!r} and {names[other]!r} are probably one class: {apart}")
    count, what = len(outcome.suspects), "listed" if flags.number else "suspect"
    verb, end = "is" if count == 1 else "are", "" if count or outcome.same_classes else ": nothing to do"
    print(f"{count:,} of {len(outcome.names):,} labels of {outcome.split.name} {verb} {what}{end}")
    print(f"list: {flags.output}, page with images: {page}")
