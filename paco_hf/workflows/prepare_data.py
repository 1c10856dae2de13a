"""The data of a run: loaded, checked and split; decoded when it is first read."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..arguments.run_arguments import RunArguments
from ..arguments.training_args import PaCoTrainingArguments
from ..data.exclusion import excluded_rows
from ..data.image_checks import ImageChecks, check_images
from ..data.images import ImageData, Images, LabeledImages
from ..data.loading import load_data
from ..data.spec import ROLES, DataSpec
from ..data.splitting import TEST_FRACTION, Division, default_test, divide, report
from ..data.streaming.manifest import LANES
from ..runs.folder import RunFolder
from ..runs.resume_points import resume_points
from ..utils.console import say


@dataclass(frozen=True)
class RunData:
    """The splits of a run, and their images, ready to read.

    Args:
        run (`RunArguments`): those of the run, with the share that was split off for the test where there was none.
        division (`Division`): the splits.
        pixels (`dict`): a hash of the decoded images of each split by role, where they were inspected.
    """

    run: RunArguments
    division: Division
    pixels: dict[str, str]

    @cached_property
    def images(self) -> dict[str, Images]:
        """The images of `train`, and of `validation` and `test` where there are any. All are decoded, or sampled, at
        once: an image that cannot be decoded should not end a finished run."""
        splits = self.division.trained, self.division.validation, self.division.data.test
        return {role: Images(split) for role, split in zip(ROLES, splits, strict=True) if split}

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, by class id."""
        return self.division.data.class_names


def load_checked(run: RunArguments, args: PaCoTrainingArguments) -> ImageChecks:
    """Load the data and check its images.

    Raises:
        ValueError, OSError: data that cannot be read or trained on.
    """
    main = args.process_index == 0
    with args.main_process_first(local=False):
        window = max(run.shuffle_buffer, LANES * args.per_device_train_batch_size)
        data = load_data(DataSpec.from_settings(vars(run), window=window))
        if data.description:
            say(main, data.description)
        # A stream is read once, in training.
        inspect = data.user_data if run.inspect is None else run.inspect
        inspect = inspect and isinstance(data.train, LabeledImages)
        if run.skip_undecodable and not inspect:
            raise ValueError(
                "--skip_undecodable leaves out what --inspect finds: give --inspect true, or leave it out"
            )
        return check_images(data, run.skip_undecodable) if inspect else ImageChecks(data)


def split_data(run: RunArguments, args: PaCoTrainingArguments, checks: ImageChecks) -> RunData:
    """Split the data, and say what the user should know of it before training.

    Args:
        run (`RunArguments`): with what is split off.
        args (`PaCoTrainingArguments`): with the seed.
        checks ([`ImageChecks`]): of [`load_checked`].

    Raises:
        ValueError: a share out of range.
    """
    data = checks.data
    if data.user_data and data.test is None:
        run = _with_test(run, args, data, checks.duplicates)
    elif run.test_fraction or run.test_min_images:
        data.notes.append("there is a test split, so --test_fraction and --test_min_images carve none")
    fraction = (run.test_fraction or 0.0) if data.user_data else 0.0
    excluded = excluded_rows(data, run.exclude_list) if run.exclude_list else {}
    if count := sum(map(len, excluded.values())):
        data.notes.append(f"left out by {run.exclude_list}: {count} image{'s' * (count != 1)}")
    division = divide(
        data,
        args.seed,
        run.validation_fraction,
        fraction,
        checks.duplicates,
        source=checks.source,
        split_seed=run.split_seed,
        test_min_images=run.test_min_images or 0,
        excluded=excluded if count else None,
    )
    say(args.process_index == 0, "\n".join(_describe(division, checks.lines)))
    return RunData(run, division, checks.pixels)


def _with_test(run: RunArguments, args: PaCoTrainingArguments, data: ImageData, duplicates: Any) -> RunArguments:
    """The run with what is split off for the test: what the user asks for, what the run that is resumed split off, or
    what the classes can bear."""
    if run.test_fraction is not None:
        return run
    if run.test_min_images is not None:
        return replace(run, test_fraction=TEST_FRACTION)
    points = resume_points(Path(args.output_dir), run, args)
    before = RunFolder(points[0]).manifest if points else {}
    if ((before.get("splits") or {}).get("test") or {}).get("carved"):
        fraction, minimum = before["test_fraction"], before.get("test_min_images")
    else:
        fraction, minimum = default_test(data, duplicates)
    return replace(run, test_fraction=fraction, test_min_images=minimum or None)


def _describe(division: Division, lines: list[str]) -> list[str]:
    data = division.data
    head = report(division, lines) if data.user_data else [_describe_published(data, division), *lines]
    return head + [f"WARNING: {warning}" for warning in data.warnings] + [f"note: {note}" for note in data.notes]


def _describe_published(data: ImageData, division: Division) -> str:
    counts = data.class_counts
    parts = [
        f"{data.train.name}: {len(counts)} classes, {max(counts)} to {min(counts)} images a class; "
        f"{len(division.trained.labels)} to train on"
    ]
    for split, purpose in ((division.validation, "validation"), (data.test, "the test")):
        parts.append(f"{len(split.labels)} for {purpose} ({split.name})" if split else f"none for {purpose}")
    return ", ".join(parts)
