"""The same run with several seeds, and their comparison: what a difference in one run is worth."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ..arguments.method_choice import choose_method
from ..arguments.run_arguments import RunArguments
from ..arguments.settings import run_settings
from ..arguments.training_args import PaCoTrainingArguments
from ..metrics import HEADLINE, TITLES
from ..reports.comparison_report import comparison_text, write_comparison
from ..reports.run_comparison import compare_runs
from ..runs.folder import RunFolder
from ..runs.layout import COMPARISON_NAME, SEEDS_NAME
from ..runs.output_folder import changed_settings, open_folder
from ..utils.console import say
from ..utils.distributed import entered_once
from ..utils.files import write_json
from ..utils.locks import LOCK_NAMES, sole_owner
from ..utils.text import repeated
from .pins import pin_run
from .prepare_data import load_checked, split_data
from .train import check_settings, train

_SETTINGS = ("validation_seed", "backbone_revision")  # that all seeds share, and a run may have to find out
# What may go wrong in one run and not in the next.
_FAILURES = (ValueError, OSError, ArithmeticError, RuntimeError, MemoryError)


def train_seeds(
    run: RunArguments, args: PaCoTrainingArguments, seeds: Sequence[int], callbacks: Sequence[TrainerCallback] = ()
) -> dict[str, Any] | None:
    """Train a run with each of several seeds, one after the other, and compare them.

    The runs lie in `seed-N` below `args.output_dir`, each as [`paco_hf.workflows.train.train`] leaves it; beside them
    `seeds.json` and a page, `comparison.html`. All have the same commits of data and weights, the same test images
    and, unless `run.validation_seed` says otherwise, the same validation images. With `run.resume` those that are
    finished stay as they are, one that was stopped goes on, and the others start; runs of other seeds that lie there
    are compared with them, and decide what all share.

    Args:
        run (`RunArguments`): of each run; its `resume`, `overwrite` and `dry_run` are for all of them.
        args (`PaCoTrainingArguments`): likewise; its `seed` makes no difference.
        seeds (sequence of `int`): at least one.
        callbacks (sequence of `transformers.TrainerCallback`, *optional*): for the trainer of each run.

    Returns:
        what `seeds.json` holds; `None` for a dry run, which is one of the first seed.

    Raises:
        ValueError, OSError: bad seeds, settings or data, found before training starts; or runs failed after that,
            of which the others are kept.
        Stopped: SIGTERM came; the run can be resumed.
    """
    folder, main = Path(args.output_dir), args.process_index == 0
    with entered_once(sole_owner(folder, "a multi-seed training", "use another --output_dir")):
        run = share_settings(run, args, seeds)
        failures: dict[int, str] = {}
        for number, seed in enumerate(seeds, 1):
            one = seed_arguments(args, seed)
            say(main, f"seed {seed}, run {number} of {len(seeds)}: {one.output_dir}")
            try:
                train(run, one, callbacks)
            except _FAILURES as error:
                # Before the first step it is of the settings or the data, which are those of all runs.
                if args.world_size > 1 or run.dry_run or not RunFolder(one.output_dir).started:
                    raise
                failures[seed] = " ".join(str(error).split())
                say(main, f"seed {seed} failed: {failures[seed]}")
            if run.dry_run:
                say(main, f"each of the seeds {', '.join(map(str, seeds))} is a run like this")
                return None
            recipe = RunFolder(one.output_dir).recipe
            run = dataclasses.replace(run, **{name: recipe.get(name, getattr(run, name)) for name in _SETTINGS})
        return finish_seeds(folder, seeds, failures, run.report) if main else None


def share_settings(run: RunArguments, args: PaCoTrainingArguments, seeds: Sequence[int]) -> RunArguments:
    """The arguments with what all seeds share, after a look at what would keep one of them from starting.

    Args:
        run (`RunArguments`): of each run.
        args (`PaCoTrainingArguments`): whose `output_dir` is the folder of them all.
        seeds (sequence of `int`): of the runs.

    Raises:
        ValueError: bad seeds, settings that do not go with several, or a folder that holds something else, such as
            runs of other seeds that are not resumed, or have other settings.
        OSError: as [`paco_hf.workflows.pins.pin_run`].
    """
    check_seeds(seeds, args)
    folder = Path(args.output_dir)
    names = {seed_folder(folder, seed).name for seed in seeds}
    inside = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    known = {*names, *LOCK_NAMES, SEEDS_NAME, COMPARISON_NAME}
    if others := [name for name in inside if name not in known and not name.startswith("seed-")]:
        raise ValueError(
            f"--output_dir {folder} contains other files than runs of several seeds ({', '.join(others[:5])}): "
            "use another folder"
        )
    runs = [seed_arguments(args, seed) for seed in seeds]
    earlier = [seed for seed in begun_seeds(folder) if seed not in seeds]
    if earlier and not run.resume:
        raise ValueError(
            f"--output_dir {folder} already has runs of other seeds ({', '.join(map(str, earlier))}): add to them "
            "with --resume and the same settings, or use another folder"
        )
    begun = [seed_arguments(args, seed) for seed in begun_seeds(folder)] if run.resume else []
    recipe: Mapping[str, Any] = RunFolder(begun[0].output_dir).recipe if begun else {}
    drawn = run.validation_seed or recipe.get("validation_seed") or str(seeds[0])
    run = pin_run(dataclasses.replace(run, validation_seed=drawn), (begun or runs)[0])
    for one in (seed_arguments(args, seed) for seed in earlier):
        if changed := changed_settings(Path(one.output_dir), run_settings(run, one), only_named=True):
            raise ValueError(
                f"{one.output_dir} was trained with different settings ({changed}), so it is not another seed of "
                "this run: use the same settings, or another --output_dir"
            )
    for one in runs:
        open_folder(Path(one.output_dir), run, one)
    return run


def look_once(run: RunArguments, args: PaCoTrainingArguments, seeds: Sequence[int]) -> None:
    """Check settings and data as each run will: what is seen of the images is stored, for runs side by side.

    Args:
        run (`RunArguments`): of [`share_settings`].
        args (`PaCoTrainingArguments`): of each run.
        seeds (sequence of `int`): of the runs; where all are finished there is nothing to look at.

    Raises:
        ValueError, OSError: bad settings or data.
    """
    for one in (seed_arguments(args, seed) for seed in seeds):
        if open_folder(Path(one.output_dir), run, one) is None:
            backbone = check_settings(run, one)
            checks = load_checked(run, one)
            split_data(*choose_method(run, one, checks.data, backbone)[:2], checks)
            return


def check_seeds(seeds: Sequence[int], args: PaCoTrainingArguments) -> None:
    """Refuse seeds that are none, and settings that are of one run.

    Args:
        seeds (sequence of `int`): of the runs.
        args (`PaCoTrainingArguments`): of each run.

    Raises:
        ValueError: a message that names them.
    """
    if not seeds or any(not 0 <= seed < 2**32 for seed in seeds):
        raise ValueError(f"--seeds must be integers from 0 to 2^32 - 1, got {[*seeds]}")
    if (twice := repeated(seeds)) is not None:
        raise ValueError(f"--seeds has {twice} twice, which would be the same run: remove one of them")
    if args.push_to_hub:
        raise ValueError(
            f"--push_to_hub pushes one run, but --seeds trains {len(seeds)}: remove the flag, and push the run "
            f"you choose with `paco-hf push {seed_folder(Path(args.output_dir), seeds[0])} user/name`"
        )
    if args.resume_from_checkpoint:
        raise ValueError(
            "--resume_from_checkpoint is the checkpoint of one run: use --resume, which resumes all of them"
        )


def seed_folder(folder: Path, seed: int) -> Path:
    """Where the run of a seed lies."""
    return folder / f"seed-{seed}"


def begun_seeds(folder: Path) -> list[int]:
    """The seeds whose runs lie in a folder, finished or not."""
    numbers = {int(path.name[5:]) for path in folder.glob("seed-*") if re.fullmatch(r"seed-\d+", path.name)}
    return sorted(seed for seed in numbers if RunFolder(seed_folder(folder, seed)).recipe)


def seed_arguments(args: PaCoTrainingArguments, seed: int) -> PaCoTrainingArguments:
    """The arguments of the run of a seed."""
    name = {"run_name": f"{args.run_name}-seed-{seed}"} if args.run_name else {}
    return args.changed(seed=seed, output_dir=str(seed_folder(Path(args.output_dir), seed)), **name)


def finish_seeds(folder: Path, seeds: Sequence[int], failures: Mapping[int, str], page: bool) -> dict[str, Any]:
    """Compare what is finished, and write `seeds.json` and the page.

    Args:
        folder (`Path`): of the runs.
        seeds (sequence of `int`): of the command; those of other runs in the folder come before them.
        failures (mapping of `int` to `str`): what is wrong with those that failed.
        page (`bool`): whether to write the page.

    Returns:
        what `seeds.json` holds.

    Raises:
        ValueError: runs failed; what is finished is written.
    """
    seeds = [*(seed for seed in begun_seeds(folder) if seed not in seeds), *seeds]
    runs = [RunFolder(seed_folder(folder, seed)) for seed in seeds]
    record: dict[str, Any] = {"seeds": [*seeds], "runs": []}
    for seed, one in zip(seeds, runs, strict=True):
        scores = one.metrics.get(one.scored_split) or {}
        entry: dict[str, Any] = {"seed": seed, "folder": one.path.name, "finished": bool(one.metrics)}
        entry |= {"split": one.scored_split, **{name: scores.get(name) for name in HEADLINE}} if scores else {}
        record["runs"].append(entry | ({"error": failures[seed]} if seed in failures else {}))
        shown = [f"{TITLES[name].short} {100 * scores[name]:.1f}" for name in HEADLINE if scores.get(name) is not None]
        other = "finished without scores" if one.metrics else "not finished"
        state = "failed: " + failures[seed] if seed in failures else ", ".join(shown) or other
        print(f"seed {seed}: {state}")
    write_json(folder / SEEDS_NAME, record)  # with it the folder is known as that of these runs
    if any("split" in entry for entry in record["runs"]):
        comparison = compare_runs([folder])
        record |= {name: comparison[name] for name in ("sections", "notes")}
        write_json(folder / SEEDS_NAME, record)
        print(comparison_text(comparison))
        if page:
            print(f"report: {write_comparison(comparison, folder / COMPARISON_NAME)}")
    if failures:
        done = ", ".join(str(entry["seed"]) for entry in record["runs"] if entry["finished"]) or "none"
        raise ValueError(
            f"{len(failures)} of {len(seeds)} runs failed, the first with seed {next(iter(failures))} "
            f"({next(iter(failures.values()))}); finished: {done}: run the same command with --resume to continue "
            "the others"
        )
    return record
