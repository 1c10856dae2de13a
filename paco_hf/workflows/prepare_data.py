"""The data of a run: loaded, checked and split."""

from typing import Any

from ..arguments.arguments import RunArguments
from ..arguments.training_args import PaCoTrainingArguments
from ..data.image_checks import Survey, survey
from ..data.images import ImageData, LabelledImages
from ..data.loading import load_data
from ..data.samplers import LANES
from ..data.split_manifest import source_of
from ..data.splitting import TEST_FRACTION, Division, divide, report
from ..utils.console import say


def load_run_data(run: RunArguments, args: PaCoTrainingArguments) -> Division:
    """The data, looked at and divided, and what the user should know of it before training."""
    main = args.process_index == 0
    with args.main_process_first(local=False):
        data = load_data(
            run.dataset,
            dataset_path=run.dataset_path,
            image_column=run.image_column,
            label_column=run.label_column,
            imbalance_factor=run.imbalance_factor,
            imbalance_kind=run.imbalance_kind,
            lists=run.lists,
            splits=run.splits,
            streaming=run.streaming,
            window=max(run.shuffle_buffer, LANES * args.per_device_train_batch_size),
        )
        if data.described:
            say(main, data.described)
        # A stream is read once, in training.
        look = (data.own if run.inspect is None else run.inspect) and isinstance(data.train, LabelledImages)
        source = source_of(data.train, data.own) if look else None
        seen = survey(data, run.skip_undecodable) if look else Survey()
    if run.skip_undecodable and not look:
        raise ValueError("--skip_undecodable leaves out what --inspect finds: give --inspect true, or leave it out")
    if data.own and data.test is None and run.test_fraction is None:
        run.test_fraction = TEST_FRACTION
    if data.test is not None and run.test_fraction:
        data.notes.append("there is a test split, so --test_fraction carves none")
    test_fraction = (run.test_fraction or 0.0) if data.own else 0.0
    division = divide(
        data, args.seed, run.validation_fraction, test_fraction, seen.twins, source, split_seed=run.split_seed
    )
    data = division.data
    if data.own:
        lines = report(division, seen.lines)
    else:
        lines = [describe_data(data, division.trained, division.validation), *seen.lines]
    lines += [f"WARNING: {warning}" for warning in data.warnings] + [f"note: {note}" for note in data.notes]
    say(main, "\n".join(lines))
    return division


def describe_data(data: ImageData, trained: Any, validation: Any) -> str:
    counts = data.class_counts
    parts = [
        f"{data.train.name}: {len(counts)} classes, {max(counts)} to {min(counts)} images a class; "
        f"{len(trained.labels)} to train on"
    ]
    for split, purpose in ((validation, "validation"), (data.test, "the test")):
        parts.append(f"{len(split.labels)} for {purpose} ({split.name})" if split else f"none for {purpose}")
    return ", ".join(parts)
