"""Prepare, verify or describe a data set, or find labels in it that are probably wrong."""

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
    prepare = actions.add_parser("prepare", help="write a data set as parquet shards with a manifest, for streaming")
    add = prepare.add_argument
    add(
        "dataset",
        type=inputs.data_source,
        help="imagenet, imagenet-lt, inat2018, places-lt; or your own, as for train",
    )
    add(
        "--source",
        type=inputs.data_source,
        help="folder of images or parquet, or Hub id (default: the data set's)",
    )
    lists = "lists, files or addresses; the split is train where none is given (default: those that lie in --source)"
    add("--list", nargs="+", default=[], metavar="[SPLIT=]FILE", type=inputs.split_list, help=lists)
    add("--out", required=True, type=inputs.preparation_folder, help="new folder; the same command resumes a stop")
    add_column_flags(prepare)
    add_split_flags(prepare)
    add("--threads", type=inputs.COUNT, help="shards to work on at a time (default: the cores, up to 4)")
    add("--shard_mib", type=inputs.SIZE, default=400, help="images a shard (default: %(default)s MiB)")
    verify = actions.add_parser("verify", help="is this the published selection, is it all there, does it decode?")
    verify.add_argument("target", type=inputs.verifiable, help="prepared folder, list, or a data set as for train")
    verify.add_argument("--dataset", help="whose list it is (default: recognized)")
    add_column_flags(verify)
    add_split_flags(verify)
    stats = actions.add_parser("stats", help="class counts, shots, imbalance factor")
    add = stats.add_argument
    add("target", type=inputs.data_source, help="prepared folder, list, or a data set as for train --dataset")
    add("--dataset_path", type=inputs.dataset_path, help="as for train")
    add_column_flags(stats)
    add_split_flags(stats)
    add("--imbalance_factor", type=inputs.FACTOR, default=100, help="as for train (default: %(default)s)")
    add("--plot", metavar="FILE", type=inputs.figure_output, help="also write a figure (png, svg, pdf)")
    add("--json", action="store_true", help="print the counts as JSON")

    suspects = actions.add_parser("suspects", help="labels that are probably wrong, as a run tells")
    add = suspects.add_argument
    add("model", type=inputs.checkpoint, help="run folder or checkpoint")
    add("--output", required=True, metavar="FILE.csv", type=inputs.table_output, help="the list; a page beside it")
    add("--number", type=inputs.COUNT, help="so many images, worst first (default: those that are suspect)")
    add_data_flags(suspects, None, default="train where the backbone was frozen, else validation")
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
            raise ValueError(f"--list names two lists for {split}: give one for each split, as SPLIT=FILE")
        lists[split] = source
    if flags.dataset == "builtin":
        raise ValueError("the built-in data set needs no preparation: `paco-hf train --dataset builtin` reads it")
    user_data = flags.dataset not in BENCHMARKS
    if user_data and flags.source:
        names = ", ".join(name for name, benchmark in BENCHMARKS.items() if benchmark.path)
        raise ValueError(
            f"--source is for {names}, not for {flags.dataset!r}: to prepare your own data, give only its folder, "
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
    print(f"{flags.out} is complete: paco-hf train {place} --streaming true trains on it")


def _verify(flags: Namespace) -> None:
    from ..data.spec import spec_fields
    from ..data.verification import verify

    right, wrong = verify(flags.target, flags.dataset, **spec_fields(vars(flags)))
    for line in right:
        print(line)
    if wrong:
        raise ValueError(f"{flags.target} differs: " + "; ".join(wrong))


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
        apart = f"their images are told apart in {100 * area:.0f} of 100 pairs, 50 would be by chance"
        print(f"{names[one]!r} and {names[other]!r} are probably one class: {apart}")
    what = "listed" if flags.number else "suspect"
    print(f"{len(outcome.suspects):,} of {len(outcome.names):,} labels of {outcome.split.name} are {what}")
    print(f"{flags.output}, with images: {page}")
