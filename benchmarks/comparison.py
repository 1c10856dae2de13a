"""Four methods on CIFAR-100-LT (imbalance factor 100), each with the wall-clock of 55 epochs of PaCo.

```
python -m benchmarks.comparison time  --dataset_path ROOT    # seconds of a step of each method: how many epochs fit
python -m benchmarks.comparison tune  --dataset_path ROOT    # the trials of each method on a validation split
python -m benchmarks.comparison train --dataset_path ROOT    # the chosen settings, all training images, seeds 0 1 2
python -m benchmarks.comparison precision --dataset_path ROOT    # PaCo in bf16 and in fp32, short, seeds 0 1 2
python -m benchmarks.comparison table                        # what docs/results.md shows
```

`tune` and `train` can be stopped at any time and go on with the same command. What a run said (settings, log, scores,
time) is copied to `benchmarks/comparison/` once it is finished; checkpoints stay in `--folder`.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import yaml
from transformers import TrainerCallback

from paco_hf.arguments.parser import parse_run
from paco_hf.runs.redaction import public_settings
from paco_hf.utils.files import as_yaml, write_json, write_text
from paco_hf.utils.hardware import available_cores
from paco_hf.workflows.train import train as run

RECORDS = Path(__file__).parent / "comparison"
METHODS = ("paco", "gpaco", "balanced_softmax", "ce")
BUDGET = 55  # epochs of PaCo
TRIAL_BUDGET = 18
STEPS_NAME = "step_seconds.json"
STEPS_TIMED = 40
ROUNDS_TIMED = 2
LAST = 3  # validations at the end of a trial that are averaged
COMMON = {
    "dataset": "cifar100-lt",
    "imbalance_factor": 100,
    "backbone": "cifar_resnet32",
    "query_view": "cifar_reg",
    "key_view": "cifar_light",
    "per_device_train_batch_size": 128,
    "weight_decay": 5e-4,
    "alpha": 0.01,
    "temperature": 0.05,
    "queue_size": 1024,
    "projection_dim": 32,
    "key_momentum": 0.99,
    "precision": "bf16",
}
# As many trials for each method: four learning rates, then another setting beside the best of them.
RATES = (0.05, 0.1, 0.2, 0.4)
ALTERNATIVE = {
    "paco": {"key_view": "cifar_sim"},
    "gpaco": {"key_view": "cifar_sim"},
    "balanced_softmax": {"weight_decay": 1e-3},
    "ce": {"weight_decay": 1e-3},
}


def train_all(jobs: dict[str, tuple[dict[str, Any], dict[str, int]]], flags: argparse.Namespace) -> None:
    """Run `{name: (settings, seeds by record)}`, `flags.jobs` at a time, each with its share of the cores."""
    number = min(flags.jobs, len(jobs))
    threads = max(1, available_cores() // number)
    with ThreadPoolExecutor(number) as pool:
        list(pool.map(lambda name: _train(name, *jobs[name], flags, threads), jobs))


def _train(
    name: str, settings: dict[str, Any], records: dict[str, int], flags: argparse.Namespace, threads: int
) -> None:
    records = {record: seed for record, seed in records.items() if not (RECORDS / record / "run.json").is_file()}
    if not records:
        return
    runs = Path(flags.folder) / name
    runs.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "paco_hf", "train", "--output_dir", str(runs), "--resume"]
    command += ["--seeds", *map(str, records.values())]
    settings = {**COMMON, "dataset_path": flags.dataset_path, **settings}
    command += [part for key, value in settings.items() if value is not None for part in (f"--{key}", str(value))]
    with open(f"{runs}.log", "a", encoding="utf-8") as log:
        result = subprocess.run(
            command, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, stdout=log, stderr=subprocess.STDOUT
        )
    if result.returncode:
        raise SystemExit(f"{name} failed: {log.name} says why")
    for record, seed in records.items():
        _keep(record, runs / f"seed-{seed}")


def _keep(name: str, folder: Path) -> None:
    (RECORDS / name).mkdir(parents=True, exist_ok=True)
    settings = public_settings(yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8")))
    write_text(RECORDS / name / "recipe.yaml", as_yaml(settings))
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    if name.startswith("tune/"):  # what the test split says of a trial must not be looked at
        metrics["test"] = None
    write_json(RECORDS / name / "metrics.json", metrics)
    shutil.copy(folder / "log.jsonl", RECORDS / name / "log.jsonl")
    shutil.copy(folder / "run.json", RECORDS / name / "run.json")  # the last: it tells a finished one
    print(f"{name}: {read(name, 'run.json')['training']['seconds']:.0f} s", flush=True)


def read(name: str, file: str) -> dict[str, Any]:
    """A file of a record."""
    return json.loads((RECORDS / name / file).read_text(encoding="utf-8"))


class _StepTimes(TrainerCallback):
    """Seconds of each optimizer step, from its begin to its end, and on to the next one: data and views included."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.stamps.append(time.perf_counter())


def _timed(method: str, dataset_path: str | None) -> list[float]:
    settings = {**COMMON, "loss": method, "dataset_path": dataset_path, "max_steps": STEPS_TIMED}
    settings |= {"validation_fraction": 0, "save_strategy": "no", "learning_rate": 0.05, "disable_tqdm": True}
    times = _StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        flags = [part for key, value in settings.items() if value is not None for part in (f"--{key}", str(value))]
        run(*parse_run([*flags, "--output_dir", folder]), callbacks=[times])
    return np.diff(times.stamps).tolist()


def time_steps(flags: argparse.Namespace) -> None:
    """Each method in turns, `flags.jobs` at a time as in training, without validation and checkpoints."""
    os.environ["OMP_NUM_THREADS"] = str(max(1, available_cores() // flags.jobs))
    seconds: dict[str, list[list[float]]] = {method: [] for method in METHODS}
    for turn in range(ROUNDS_TIMED):
        # Neighbors change, so that none always has the heavy one beside it.
        order = METHODS[turn % len(METHODS) :] + METHODS[: turn % len(METHODS)]
        with ProcessPoolExecutor(flags.jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
            for method, steps in zip(order, pool.map(_timed, order, [flags.dataset_path] * len(order)), strict=True):
                seconds[method].append([round(step, 4) for step in steps])
    RECORDS.mkdir(exist_ok=True)
    write_json(RECORDS / STEPS_NAME, seconds)
    print({method: round(step, 4) for method, step in step_seconds().items()}, epochs(BUDGET))


def step_seconds() -> dict[str, float]:
    """Seconds of a step of each method: the 10 % quantile, as what disturbs a step only makes it longer.

    Cross-entropy and balanced softmax do the same work, so their times are pooled.
    """
    seconds = {method: np.concatenate(turns) for method, turns in read(".", STEPS_NAME).items()}
    seconds["ce"] = seconds["balanced_softmax"] = np.concatenate([seconds["ce"], seconds["balanced_softmax"]])
    return {method: float(np.quantile(seconds[method], 0.1)) for method in METHODS}


def epochs(budget: int) -> dict[str, int]:
    """Epochs of each method in the time of `budget` epochs of PaCo."""
    step = step_seconds()
    return {method: round(budget * step["paco"] / step[method]) for method in METHODS}


def schedule(method: str, budget: int) -> dict[str, Any]:
    """A complete cosine schedule with a tenth of warm-up."""
    own = epochs(budget)[method]
    return {"loss": method, "num_train_epochs": own, "epoch_schedule": "cosine", "warmup_epochs": round(own / 11)}


def trials(method: str) -> dict[str, dict[str, Any]]:
    """The trials of a method; the last one follows from the others."""
    named = {f"tune/{method}-lr{rate}": {"learning_rate": rate} for rate in RATES}
    if all((RECORDS / name / "run.json").is_file() for name in named):
        best = max(named, key=trial_score)
        named[f"{best}-alternative"] = {**named[best], **ALTERNATIVE[method]}
    return named


def trial_score(name: str) -> float:
    """Balanced accuracy on the validation split, the mean of the last epochs."""
    scores = list(read(name, "metrics.json")["validation_balanced_accuracy_by_step"].values())
    return statistics.fmean(scores[-LAST:])


def tune(flags: argparse.Namespace) -> None:
    """All trials, at `TRIAL_BUDGET`, with a fifth of the training images as validation."""
    for _ in range(2):  # the alternative follows from the others
        named = {
            name: ({**schedule(method, TRIAL_BUDGET), "validation_fraction": 0.2, **settings}, {name: 0})
            for method in METHODS
            for name, settings in trials(method).items()
        }
        train_all(named, flags)
    print("\n".join(f"{name}: {100 * trial_score(name):.1f}" for method in METHODS for name in trials(method)))


def train(flags: argparse.Namespace) -> None:
    """The best trial's settings of each method at `BUDGET`; the last epoch is scored, once."""
    jobs = {}
    for method in METHODS:
        named = trials(method)
        settings = {**schedule(method, BUDGET), "validation_fraction": 0, **named[max(named, key=trial_score)]}
        jobs[method] = settings, {f"{method}-seed{seed}": seed for seed in flags.seeds}
    train_all(jobs, flags)


def precision(flags: argparse.Namespace) -> None:
    """PaCo's chosen settings at `TRIAL_BUDGET` on all training images, in bf16 and in float32."""
    named, jobs = trials("paco"), {}
    settings = {**schedule("paco", TRIAL_BUDGET), "validation_fraction": 0, **named[max(named, key=trial_score)]}
    for kind in ("bf16", "fp32"):
        name = f"precision/{kind}"
        jobs[name] = {**settings, "precision": kind}, {f"{name}-seed{seed}": seed for seed in flags.seeds}
    train_all(jobs, flags)


SCORES = {"accuracy": "top-1", "many": "many", "medium": "medium", "few": "few", "worst": "worst tenth"}


def scores(names: list[str]) -> dict[str, np.ndarray]:
    """Test scores in percent of the runs, by score."""
    found: dict[str, list[float]] = {key: [] for key in SCORES}
    for name in names:
        test = read(name, "metrics.json")["test"]
        per_class = sorted(test["per_class"])
        test["worst"] = statistics.fmean(per_class[: len(per_class) // 10])
        for key, values in found.items():
            values.append(100 * test[key])
    return {key: np.asarray(values) for key, values in found.items()}


def table(flags: argparse.Namespace) -> None:
    """The trials, the runs, and the differences to PaCo with 95 % intervals (Welch)."""
    print("| trial | validation, balanced |\n|---|---|")
    for method in METHODS:
        for name in trials(method):
            print(f"| {name.removeprefix('tune/')} | {100 * trial_score(name):.1f} |")
    done = {
        method: [f"{method}-seed{seed}" for seed in flags.seeds if (RECORDS / f"{method}-seed{seed}").is_dir()]
        for method in METHODS
    }
    all_scores = {method: scores(names) for method, names in done.items() if names}
    head = " | ".join(["method", "epochs", "minutes", *SCORES.values(), "top-1 of each seed"])
    print(f"\n| {head} |\n|{'---|' * (len(SCORES) + 4)}")
    for method, found in all_scores.items():
        own = read(done[method][0], "run.json")
        steps = epochs(BUDGET)[method] * (own["data"]["train"]["images"] // COMMON["per_device_train_batch_size"])
        # What the runs recorded has in it whatever else the machine did.
        minutes = steps * step_seconds()[method] / 60
        cells = [*(_spread(values) for values in found.values()), ", ".join(f"{v:.2f}" for v in found["accuracy"])]
        print(f"| {method} | {epochs(BUDGET)[method]} | {minutes:.0f} | {' | '.join(cells)} |")
    print(f"\n| PaCo minus | {' | '.join(SCORES.values())} |\n|---|{'---|' * len(SCORES)}")
    for method in [method for method in all_scores if method != "paco"]:
        cells = [_difference(all_scores["paco"][key], all_scores[method][key]) for key in SCORES]
        print(f"| {method} | {' | '.join(cells)} |")
    kinds = {
        kind: [n for seed in flags.seeds if (RECORDS / (n := f"precision/{kind}-seed{seed}")).is_dir()]
        for kind in ("bf16", "fp32")
    }
    if all(len(names) > 1 for names in kinds.values()):
        bf16, fp32 = (scores(names)["accuracy"] for names in kinds.values())
        print(f"\nbf16 {_spread(bf16)}, fp32 {_spread(fp32)}, bf16 minus fp32 {_difference(bf16, fp32)}")


def _spread(values: np.ndarray) -> str:
    return f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else "")


def _difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    difference = ours.mean() - theirs.mean()
    if min(len(ours), len(theirs)) < 2:
        return f"{difference:+.1f}"
    interval = scipy.stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    return f"{difference:+.1f} ({interval.low:+.1f} to {interval.high:+.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.comparison", description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=["time", "tune", "train", "precision", "table"])
    parser.add_argument("--dataset_path", help="folder of CIFAR-100's parquet files (default: from the Hub)")
    parser.add_argument("--folder", default="runs/comparison", help="for run folders (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=available_cores(), help="runs at a time (default: one a core)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    flags = parser.parse_args()
    steps = {"time": time_steps, "tune": tune, "train": train, "precision": precision, "table": table}
    steps[flags.step](flags)


if __name__ == "__main__":
    main()
