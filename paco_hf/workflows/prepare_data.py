"""The data of a run: loaded, checked and split; decoded when it is first read."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from ..arguments.run_arguments import RunArguments
from ..arguments.training_args import PaCoTrainingArguments
from ..data.exclusion import excluded_rows
from ..data.image_checks import (
    ImageChecks,
    automatic_inspection,
    check_images,
    check_scored,
    describe_effort,
    survey,
)
from ..data.image_survey import FULL, note_damaged
from ..data.images import ImageData, Images, LabeledImages
from ..data.loading import load_data
from ..data.spec import ROLES, DataSpec
from ..data.splitting import TEST_FRACTION, Division, default_test, divide, report
from ..data.streaming.manifest import LANES
from ..runs.folder import RunFolder
from ..runs.resume_points import resume_points
from ..utils.console import say
from ..utils.distributed import gather_objects
from ..utils.main_process import computed_once, first_then_others
from ..utils.text import examples


@dataclass(frozen=True)
class RunData:
    """The splits of a run, and their images, ready to read.

    Args:
        run (`RunArguments`): those of the run, with the share that was split off for the test where there was none.
        division (`Division`): the splits.
        pixels (`dict`): hashes of the images of each split by role, where they were inspected, as
            [`ImageChecks`] has them.
    """

    run: RunArguments
    division: Division
    pixels: dict[str, dict[str, str]]

    @cached_property
    def images(self) -> dict[str, Images]:
        """The images of `train`, and of `validation` and `test` where there are any. All that are kept in memory are
        decoded at once. Only of those to train on damaged ones are left out, where they have not been decoded before;
        a benchmark's have to be whole."""
        tolerant = self.division.data.user_data and self.run.inspect != FULL and not self.run.strict
        splits = self.division.trained, self.division.validation, self.division.data.test
        roles = zip(ROLES, splits, strict=True)
        return {role: Images(split, role == "train" and tolerant) for role, split in roles if split}

    def damaged(self) -> list[int]:
        """The rows of images to train on that turned out damaged so far; every process asks."""
        images, damaged = self.images["train"], set[int]()
        for rows in gather_objects(images.damaged()):
            damaged.update(rows)
        # Where features are kept, an earlier run met them.
        unread = self.run.on_features and self.run.inspect != FULL
        if isinstance(images.split, LabeledImages) and (damaged or unread):
            damaged = note_damaged(images.split, damaged)
        return sorted(damaged)

    def note_damaged(self) -> list[str]:
        """Which images were left out as they turned out damaged in training; every process asks.

        Returns:
            a note, which those of the data then have as well; none where there was no such image.
        """
        images, damaged = self.images["train"], self.damaged()
        if not damaged:
            return []
        count = f"{len(damaged)} images" if len(damaged) > 1 else "1 image"
        every = images.split.image_names()
        names = [every[index] for index in damaged]
        note = (
            f"damaged training images replaced with others of their classes: {count} of {len(images)} "
            f"({examples(names, 5)})"
        )
        self.division.data.notes.append(note)
        return [f"WARNING: {note}"]

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, by class id."""
        return self.division.data.class_names


def load_checked(run: RunArguments, args: PaCoTrainingArguments) -> ImageChecks:
    """Load the data and check its images: rank 0 looks at them, for all.

    Raises:
        ValueError, OSError: data that cannot be read or trained on.
    """
    main = args.process_index == 0
    window = max(run.shuffle_buffer, LANES * args.per_device_train_batch_size)
    spec = DataSpec.from_settings(vars(run), window=window)
    data = first_then_others(lambda: load_data(spec))
    if data.description:
        say(main, data.description)
    inspect = _inspection(run, args, data)
    if run.skip_undecodable and inspect == "none":
        raise ValueError(
            "--skip_undecodable excludes the images that --inspect finds: use --inspect full, or remove the flag"
        )
    say(main, *describe_effort(data, inspect, automatic=run.inspect is None))
    if inspect == "none":
        return ImageChecks(data)
    return check_images(data, run.skip_undecodable, computed_once(lambda: survey(data, inspect)))


def _inspection(run: RunArguments, args: PaCoTrainingArguments, data: ImageData) -> str:
    """How images are looked at: as the user says, as the run that is resumed looked at them, or by how many there are;
    what is split off follows which are found to be copies."""
    if not isinstance(data.train, LabeledImages):  # a stream is read once, in training
        return "none"
    if run.inspect is not None:
        return run.inspect
    if not data.user_data:
        return "none"
    if points := resume_points(Path(args.output_dir), run, args):
        before = RunFolder(points[0]).recipe.get("inspect", "full")  # a run of before there was a choice decoded all
        return RunArguments(inspect=before).inspect or "full"
    return automatic_inspection(data)


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
        data.notes.append("the data has a test split, so --test_fraction and --test_min_images have no effect")
    fraction = (run.test_fraction or 0.0) if data.user_data else 0.0
    excluded = excluded_rows(data, run.exclude_list) if run.exclude_list else {}
    if count := sum(map(len, excluded.values())):
        data.notes.append(f"excluded by {run.exclude_list}: {count} image{'s' * (count != 1)}")
    division = divide(
        data,
        run.validation_draw(args.seed),
        run.validation_fraction,
        fraction,
        checks.duplicates,
        source=checks.source,
        split_seed=run.split_seed,
        test_min_images=run.test_min_images or 0,
        excluded=excluded if count else None,
    )
    say(args.process_index == 0, "\n".join(_describe(division, checks.lines)))
    computed_once(lambda: check_scored(checks, [division.validation, division.data.test]))
    return RunData(replace(run, inspect=cast(Any, checks.inspect)), division, checks.pixels)


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
        f"{data.train.name}: {len(counts)} classes, {max(counts)} to {min(counts)} images per class; "
        f"{len(division.trained.labels)} for training"
    ]
    for split, purpose in ((division.validation, "validation"), (data.test, "testing")):
        parts.append(f"{len(split.labels)} for {purpose} ({split.name})" if split else f"none for {purpose}")
    return ", ".join(parts)
