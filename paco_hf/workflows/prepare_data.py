"""The data of a run: loaded, checked and split."""

from ..arguments.arguments import RunArguments
from ..arguments.training_args import PaCoTrainingArguments
from ..data.image_checks import ImageChecks, check_images
from ..data.image_split import ImageSplit
from ..data.images import ImageData, LabeledImages
from ..data.loading import load_data
from ..data.samplers import LANES
from ..data.spec import DataSpec
from ..data.split_manifest import describe_source
from ..data.splitting import TEST_FRACTION, Division, divide, report
from ..utils.console import say


def load_run_data(run: RunArguments, args: PaCoTrainingArguments) -> Division:
    """The data, looked at and divided, and what the user should know of it before training."""
    main = args.process_index == 0
    with args.main_process_first(local=False):
        window = max(run.shuffle_buffer, LANES * args.per_device_train_batch_size)
        data = load_data(DataSpec.from_settings(vars(run), window=window))
        if data.description:
            say(main, data.description)
        # A stream is read once, in training.
        inspect = data.user_data if run.inspect is None else run.inspect
        inspect = inspect and isinstance(data.train, LabeledImages)
        source = describe_source(data.train, data.user_data) if inspect else None
        checks = check_images(data, run.skip_undecodable) if inspect else ImageChecks()
    if run.skip_undecodable and not inspect:
        raise ValueError("--skip_undecodable leaves out what --inspect finds: give --inspect true, or leave it out")
    if data.user_data and data.test is None and run.test_fraction is None:
        run.test_fraction = TEST_FRACTION
    if data.test is not None and run.test_fraction:
        data.notes.append("there is a test split, so --test_fraction carves none")
    test_fraction = (run.test_fraction or 0.0) if data.user_data else 0.0
    division = divide(
        data,
        args.seed,
        run.validation_fraction,
        test_fraction,
        checks.duplicates,
        source=source,
        split_seed=run.split_seed,
    )
    data = division.data
    if data.user_data:
        lines = report(division, checks.lines)
    else:
        lines = [describe_data(data, division.trained, division.validation), *checks.lines]
    lines += [f"WARNING: {warning}" for warning in data.warnings] + [f"note: {note}" for note in data.notes]
    say(main, "\n".join(lines))
    return division


def describe_data(data: ImageData, trained: ImageSplit, validation: ImageSplit | None) -> str:
    counts = data.class_counts
    parts = [
        f"{data.train.name}: {len(counts)} classes, {max(counts)} to {min(counts)} images a class; "
        f"{len(trained.labels)} to train on"
    ]
    for split, purpose in ((validation, "validation"), (data.test, "the test")):
        parts.append(f"{len(split.labels)} for {purpose} ({split.name})" if split else f"none for {purpose}")
    return ", ".join(parts)
