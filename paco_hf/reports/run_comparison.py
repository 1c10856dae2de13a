"""Runs beside each other: mean and standard deviation over seeds, cost, what differs, how training went."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..arguments.defaults import shown_default
from ..losses.specs import LOSSES
from ..metrics import HEADLINE
from ..runs.folder import RunFolder, seed_runs
from ..runs.layout import METRICS_NAME, SEEDS_NAME
from ..utils.hub_names import short
from .paired_runs import agreement, paired_differences

EVALUATION_SCORES = ("worst_10_percent", "ece", "nll", "brier")  # what only `paco-hf evaluate` takes

PRECISION = 0.005  # how far the accuracies of one model in different precisions may be apart

# What tells seeds of one setting apart, or only where and how a run was written down.
_SAME = (
    *("seed", "data_seed", "validation_seed", "output_dir", "run_name", "recipe", "resume", "overwrite", "do_"),
    *("save_", "logging_", "report_to", "dataloader_num_workers", "dataloader_pin", "disable_tqdm", "view_draws"),
    "per_device_eval_batch_size",
)

# What was spent in hours, and what a record calls it in seconds: training, and on a frozen backbone what precedes it.
COSTS = {f"{what}hours": f"{what}seconds" for what in ("", "feature_", "cross_validation_")}

_FIRST = ("loss", "backbone", "learning_rate", "num_train_epochs")  # what a group is called by, if that tells it apart


def compare_runs(folders: Sequence[str | Path]) -> dict[str, Any]:
    """Read finished runs and put those together that differ in the seed alone.

    Args:
        folders (sequence of paths): of runs, and of `train --seeds`, which stand for the runs in them.

    Returns:
        `sections`, one for each set of images that runs were scored on (`test`: `dataset`, `split`, `name`, `images`,
        `selection`), with `groups`: `name`, `settings` (those that differ between groups), `runs`, `scores` (by name
        `mean`, `sd` over seeds, `None` for a single one, and `values`) and `cost` (`hours` of training and those of
        [`COSTS`] before it likewise, `hardware`), `revisions` (of `data` and `weights`: repositories and commits) and
        `agreement` (the share of images for which two seeds predict one class, where that is known); and `paired`,
        what [`paco_hf.reports.paired_runs.paired_differences`] gives;
        `runs`, each with its `folder`, `seed`, `group`, `scores`, `calibrated` (whether its evaluation divides by a
        stored temperature, `None` without one), `hours`, `loss`, `accuracy` and `balanced_accuracy` by epoch, and
        `revisions`, the commits of its data and weights;
        `settings`, by name the value of each group, `None` where its loss has no such setting; and `notes`, what a
        reader must know.

    Raises:
        ValueError: no run, one given twice, a file that cannot be read or holds no scores.
        OSError: a file is missing.
    """
    if not folders:
        raise ValueError("there are no runs to compare: give their folders")
    paths = [path for folder in folders for path in seed_runs(folder)]
    for path in paths:
        if sum(path.resolve() == other.resolve() for other in paths) > 1:
            raise ValueError(f"{path} is passed twice: remove one of them")
    notes: list[str] = []
    runs = [_read_run(RunFolder(path), notes) for path in paths]
    for folder in map(Path, folders):
        if (folder / SEEDS_NAME).is_file():
            _same_settings([run for run in runs if Path(run["folder"]).parent == folder])
    kinds = _distinct((run["settings"], run["test"]) for run in runs)
    groups = [[run for run in runs if (run["settings"], run["test"]) == kind] for kind in kinds]
    settings = _differing([group[0] for group in groups])
    for name, group in zip(_names(groups, settings), groups, strict=True):
        for run in group:
            run["group"] = name
        seeds = [run["seed"] for run in group]
        if len(set(seeds)) < len(seeds):
            notes.append(f"{name}: a seed appears twice, so the standard deviation is not that of as many seeds.")
        if {True, False} <= {run["calibrated"] for run in group}:
            notes.append(
                f"{name}: some runs have a stored temperature and some do not. Their calibration error, log loss and "
                "Brier score are not comparable."
            )
    tests = [group[0]["test"] for group in groups]
    sections = [
        {
            "test": test,
            "groups": [_summary(g, settings) for g in groups if g[0]["test"] == test],
            "paired": paired_differences([g for g in groups if g[0]["test"] == test]),
        }
        for test in _distinct(tests)
    ]
    if len(sections) > 1:
        notes.insert(
            0,
            f"The runs were evaluated on {len(sections)} different sets of images. Each set has its own table; do not "
            "compare scores across tables.",
        )
    if any(test["selection"] is None for test in tests):
        notes.append(
            "Some runs do not record which images they were evaluated on: dataset and number of images were compared."
        )
    if any(test["split"] == "validation" for test in tests):
        notes.append(
            "Runs without a test split are evaluated on the validation images that their model was selected on."
        )
    return {
        "sections": sections,
        "groups": [group[0]["group"] for group in groups],
        "settings": {setting: [_value(group[0], setting) for group in groups] for setting in settings},
        "runs": [{key: value for key, value in run.items() if key != "settings"} for run in runs],
        "notes": notes,
    }


def _same_settings(runs: list[dict[str, Any]]) -> None:
    """Make one group of the seeds of one command, each of which may have chosen settings by its data."""
    for name in {name for run in runs for name in run["settings"]}:
        if len(_distinct(_value(run, name) for run in runs)) > 1:
            for run in runs:
                run["settings"][name] = "chosen by each seed"


def _read_run(run: RunFolder, notes: list[str]) -> dict[str, Any]:
    run.check_finished()
    split, recipe, record = run.scored_split, run.recipe, run.record
    scores = run.metrics.get(split)
    if not isinstance(scores, dict) or "accuracy" not in scores:
        raise ValueError(f"{run.path / METRICS_NAME} holds no test or validation scores: give a run that has")
    data, training = record.get("data", {}), record.get("training", {})
    scored = data.get(split, {})
    test = {
        "dataset": record.get("dataset") or run.settings.get("dataset"),
        "split": split,
        "name": scored.get("name") or split,
        **{key: scored.get(key) for key in ("images", "selection")},
    }
    evaluation, calibrated = _evaluation(run, test, scores["accuracy"], notes)
    spent = {name: training.get(key) for name, key in COSTS.items()}
    return {
        "folder": run.name,
        "name": run.path.resolve().name,
        "seed": recipe.get("seed"),
        "test": test,
        "settings": _settings(run),
        "scores": {name: scores.get(name) for name in HEADLINE} | evaluation,
        "calibrated": calibrated,
        **{name: None if seconds is None else seconds / 3600 for name, seconds in spent.items()},
        **{key: training.get(key) for key in ("hardware", "processes", "precision")},
        "train_images": data.get("train", {}).get("images"),
        "revisions": record.get("revisions") or {},
        "finished": record.get("finished"),
        **{
            key.removeprefix("eval_"): [(e["epoch"], e[key]) for e in run.log if {"epoch", key} <= e.keys()]
            for key in ("loss", "eval_accuracy", "eval_balanced_accuracy")
        },
    }


def _settings(run: RunFolder) -> dict[str, Any]:
    """The settings that make a difference; what a recipe does not name has its default."""
    unused, settings = _unused(run.recipe), run.settings
    named = {name: v for name, v in settings.items() if not name.startswith(_SAME) and name not in unused}
    return {name: value for name, value in named.items() if value != shown_default(name)}


def _unused(settings: dict[str, Any]) -> frozenset[str]:
    """What a recipe names though its loss does not use it."""
    spec = LOSSES.get(str(settings.get("loss", shown_default("loss"))))
    return spec.ignores if spec else frozenset()


def _value(run: dict[str, Any], setting: str) -> Any:
    settings = run["settings"]
    return None if setting in _unused(settings) else settings.get(setting, shown_default(setting))


def _evaluation(
    run: RunFolder, test: dict[str, Any], accuracy: float, notes: list[str]
) -> tuple[dict[str, Any], bool | None]:
    """Scores that only `paco-hf evaluate` takes, if they are of the same images and of this model.

    And whether a stored temperature was applied, `None` where there are no such scores.
    """
    results, path = run.evaluation, run.evaluation_path
    if not results:
        return {}, None
    if results.get("selection") != test["selection"]:
        other = f"{results.get('split')}, {results.get('images')} images"
        notes.append(f"{path} was computed on other images ({other}) and is not used.")
        return {}, None
    metrics = results.get("metrics") or {}
    if abs((metrics.get("accuracy") or {"value": -1})["value"] - accuracy) > PRECISION:
        notes.append(
            f"{path} has another accuracy than {METRICS_NAME}, so it belongs to another model and is not used."
        )
        return {}, None
    calibrated = (results.get("calibration") or {}).get("temperature") is not None
    return {name: metrics[name]["value"] for name in EVALUATION_SCORES if metrics.get(name)}, calibrated


def _distinct(values: Iterable[Any]) -> list[Any]:
    kept: list[Any] = []
    for value in values:
        if value not in kept:
            kept.append(value)
    return kept


def _differing(runs: list[dict[str, Any]]) -> list[str]:
    """Names of the settings that are not the same for all that have them, those first that a group is called by."""
    names = dict.fromkeys((*_FIRST, *(name for run in runs for name in run["settings"])))
    users = {name: [run for run in runs if name not in _unused(run["settings"])] for name in names}
    return [name for name in names if len(_distinct(_value(run, name) for run in users[name])) > 1]


def _names(groups: list[list[dict[str, Any]]], differing: list[str]) -> list[str]:
    """For each group the shortest list of settings that tells it from the others of its test images."""
    chosen = [["loss"] for _ in groups]

    def labels() -> list[str]:
        return [
            ", ".join(f"{'' if k in ('loss', 'backbone') else f'{k} '}{short(str(_value(run, k)))}" for k in keys)
            for (run, *_), keys in zip(groups, chosen, strict=True)
        ]

    for key in differing:
        called = list(zip(labels(), (group[0]["test"] for group in groups), strict=True))
        for i, label in enumerate(called):
            rivals = [groups[j][0] for j, other in enumerate(called) if j != i and other == label]
            if key != "loss" and any(_value(rival, key) != _value(groups[i][0], key) for rival in rivals):
                chosen[i].append(key)
    return labels()


def _spread(values: list[float | None]) -> dict[str, Any] | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    sd = statistics.stdev(known) if len(known) > 1 else None
    return {"mean": statistics.fmean(known), "sd": sd, "values": known}


def _summary(group: list[dict[str, Any]], differing: list[str]) -> dict[str, Any]:
    scores = {name: _spread([run["scores"].get(name) for run in group]) for name in (*HEADLINE, *EVALUATION_SCORES)}
    return {
        "name": group[0]["group"],
        "settings": {name: _value(group[0], name) for name in differing},
        "runs": [run["folder"] for run in group],
        "seeds": [run["seed"] for run in group],
        "scores": scores,
        "cost": {
            **{name: _spread([run[name] for run in group]) for name in COSTS},
            "train_images": _distinct(run["train_images"] for run in group),
            **{key: _distinct(run[key] for run in group) for key in ("hardware", "processes", "precision")},
        },
        "revisions": {
            what: _distinct(run["revisions"][what] for run in group if what in run["revisions"])
            for what in ("data", "weights")
        },
        "agreement": agreement(group),
    }
