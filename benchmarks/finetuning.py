"""Where the time of a fine-tuning step goes, and how it compares with another checkout of the package.

`python -m benchmarks.finetuning profile --dataset FOLDER --backbones NAME ...` profiles two steps of `paco-hf train`;
`python -m benchmarks.finetuning pairs --dataset FOLDER --backbone NAME --before CHECKOUT` compares two checkouts.
"""

import argparse
import contextlib
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import TrainerCallback

from paco_hf.utils.files import write_json

from .machine import describe

ROOT = Path(__file__).resolve().parent.parent
VIEWS, KEYS = "views", "key encoder"
# The first that the name of an operation contains.
KINDS = {
    "conv": "convolution",
    "batch_norm": "BatchNorm",
    "attention": "attention",
    "layer_norm": "other norms",
    "mm": "linear",
    "sgd": "optimizer",
    "lerp": "optimizer",
    "hardtanh": "activation",
    "clamp": "activation",
    "relu": "activation",
    "threshold": "activation",
    "silu": "activation",
    "gelu": "activation",
    "copy_": "copies and casts",
}
COLUMNS = (*dict.fromkeys(KINDS.values()), KEYS, VIEWS, "other")
# What a side of a pair runs: a turn of as many steps as a line of its input says, then a line of seconds a step.
SIDE = """
import os, sys, time
from transformers import TrainerCallback
try:
    from paco_hf.arguments.parser import parse_run
    from paco_hf.workflows.train import train
except ImportError:
    from paco_hf.run_args import parse_run
    from paco_hf.workflow import train

class Turns(TrainerCallback):
    left = 1
    def on_step_end(self, args, state, control, **kwargs):
        self.left -= 1
        if not self.left:
            if state.global_step > 1:
                wall, cpu = time.perf_counter() - self.start[0], time.process_time() - self.start[1]
                print("turn", wall / self.steps, cpu / self.steps, file=out, flush=True)
            else:
                print("ready", file=out, flush=True)
            line = sys.stdin.readline()
            if not line.strip():
                os._exit(0)
            self.left = self.steps = int(line)
            self.start = time.perf_counter(), time.process_time()

out, sys.stdout = sys.stdout, sys.stderr
train(*parse_run(sys.argv[1:]), [Turns()])
"""


class _ProfiledError(Exception):
    """The steps are profiled: the rest of the training is of no interest."""


class _Profile(TrainerCallback):
    """Profiles the third and the fourth step, from the end of the one before."""

    def __init__(self) -> None:
        self.profiler = profile(activities=[ProfilerActivity.CPU])
        self.usage: list[tuple[float, float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            self.profiler.start()  # which takes a second, and is no part of a step
        if state.global_step in (2, 4):
            used = resource.getrusage(resource.RUSAGE_SELF)
            self.usage.append((used.ru_utime, used.ru_stime))
        if state.global_step == 4:
            self.profiler.stop()
            raise _ProfiledError


def _named(function: Any, name: str) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        with record_function(name):
            return function(*args, **kwargs)

    return call


def kind_of(event: Any) -> str:
    """The column of the table that an event of the profiler belongs to."""
    parent = event
    while parent is not None:
        if parent.name in (VIEWS, KEYS):
            return str(parent.name)
        parent = parent.cpu_parent
    return next((kind for part, kind in KINDS.items() if part in event.name), "other")


def flags_of(arguments: argparse.Namespace, backbone: str, folder: str) -> list[str]:
    """Those of `paco-hf train`, but for precision and size."""
    fixed = {"loss": "paco", "inspect": "false", "eval_strategy": "no", "save_strategy": "no", "report": "false"}
    fixed |= {"dataset": arguments.dataset, "backbone": backbone, "output_dir": folder, "dataloader_num_workers": "0"}
    fixed |= {"per_device_train_batch_size": str(arguments.batch_size), "overwrite": "true", "calibrate": "false"}
    return [part for name, value in fixed.items() for part in (f"--{name}", value)]


def profile_step(flags: list[str]) -> dict[str, Any]:
    """Processor seconds of a step, shares of its parts, and how much of the processor time is the system's."""
    from paco_hf.arguments.parser import parse_run
    from paco_hf.data.torch_datasets import ViewsDataset
    from paco_hf.models.modeling_contrastive import PaCoForContrastiveTraining
    from paco_hf.workflows.train import train

    callback = _Profile()
    parts = ((ViewsDataset, "__getitems__", VIEWS), (PaCoForContrastiveTraining, "_encode_keys", KEYS))
    before = [getattr(owner, name) for owner, name, _ in parts]
    for owner, name, label in parts:
        setattr(owner, name, _named(getattr(owner, name), label))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            train(*parse_run(flags), [callback])
    except _ProfiledError:
        pass
    finally:
        for (owner, name, _), function in zip(parts, before, strict=True):
            setattr(owner, name, function)
    seconds: dict[str, float] = defaultdict(float)
    for event in callback.profiler.events():
        seconds[kind_of(event)] += event.self_cpu_time_total / 1e6
    total = sum(seconds.values())
    user, system = (b - a for a, b in zip(*callback.usage, strict=True))
    shares = {column: seconds[column] / total for column in COLUMNS}
    return {"cpu_s": (user + system) / 2, "shares": shares, "system_share": system / (user + system)}


def profiles(arguments: argparse.Namespace) -> dict[str, Any]:
    """A profile of each backbone, size and precision, printed as a table."""
    print(f"| backbone | pixels | precision | CPU s a step | {' | '.join(COLUMNS)} | system |")
    print(f"|---|---|---|---|{'---|' * (len(COLUMNS) + 1)}")
    rows = []
    for backbone, size, precision in itertools.product(arguments.backbones, arguments.sizes, arguments.precisions):
        with tempfile.TemporaryDirectory() as folder:
            flags = [*flags_of(arguments, backbone, folder), "--image_size", str(size), "--precision", precision]
            row = profile_step([*flags, "--max_steps", "5"])
        rows.append({"backbone": Path(backbone).name, "size": size, "precision": precision, **row})
        shares = " | ".join(f"{100 * share:.0f}" for share in (*row["shares"].values(), row["system_share"]))
        print(f"| {Path(backbone).name} | {size} | {precision} | {row['cpu_s']:.2f} | {shares} |", flush=True)
    return {"rows": rows}


def _start(checkout: str, flags: list[str], threads: int) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(Path(checkout).resolve()), "OMP_NUM_THREADS": str(threads)}
    start = partial(subprocess.Popen, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    # Elsewhere than in a checkout, whose package would come first.
    return start([sys.executable, "-c", SIDE, *flags], stderr=subprocess.DEVNULL, cwd=tempfile.gettempdir())


def pairs(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a step of two checkouts, which take turns; the ratio is that of the medians."""
    times: dict[str, list[list[float]]] = {"before": [], "after": []}
    with tempfile.TemporaryDirectory() as folder:
        sides = {}
        for name in times:
            flags = flags_of(arguments, arguments.backbone, f"{folder}/{name}")
            flags += ["--image_size", str(arguments.size), "--precision", arguments.precision, "--max_steps", "10000"]
            sides[name] = _start(getattr(arguments, name), flags, arguments.threads)
            if sides[name].stdout.readline() != "ready\n":
                raise SystemExit(f"the side {name!r} does not train")
        for turn in range(arguments.turns + 1):
            for name, side in sides.items():
                side.stdin.write(f"{arguments.steps}\n")
                side.stdin.flush()
                _, *seconds = side.stdout.readline().split()
                if turn:
                    times[name].append([float(value) for value in seconds])
        for side in sides.values():
            side.communicate("\n")
    result: dict[str, Any] = {"times": times}
    for index, clock in enumerate(("wall", "cpu")):
        before, after = (statistics.median(turn[index] for turn in turns) for turns in times.values())
        result[clock] = {"before_s": before, "after_s": after, "ratio": before / after}
        print(f"{clock}: {before:.3f} s before, {after:.3f} s after, {before / after:.2f} times the images a second")
    return result


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["profile", "pairs"])
    parser.add_argument("--dataset", required=True, help="as for paco-hf train")
    parser.add_argument("--backbones", nargs="+", metavar="NAME", default=["resnet50"], help="of profile")
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 224], help="of profile (default: 128 224)")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], help="of profile (default: fp32 bf16)")
    parser.add_argument("--before", metavar="CHECKOUT", help="of pairs: an earlier one")
    parser.add_argument("--after", metavar="CHECKOUT", default=str(ROOT), help="of pairs (default: this one)")
    parser.add_argument("--backbone", default="resnet50", help="of pairs")
    parser.add_argument("--size", type=int, default=128, help="of pairs (default: 128)")
    parser.add_argument("--precision", default="bf16", help="of pairs (default: bf16)")
    parser.add_argument("--turns", type=int, default=8, help="of each side of pairs (default: 8)")
    parser.add_argument("--steps", type=int, default=1, help="of a turn (default: 1)")
    parser.add_argument("--batch_size", type=int, default=64, help="(default: 64)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="(default: one a core)")
    parser.add_argument("--output", default="finetuning.json", metavar="PATH", help="JSON (default: finetuning.json)")
    arguments = parser.parse_args(argv)
    if arguments.step == "pairs" and not arguments.before:
        parser.error("pairs needs --before CHECKOUT")
    return arguments


def main(argv: list[str] | None = None) -> None:
    """The command.

    Args:
        argv (list of `str`, *optional*): its arguments, without the name of the command.
    """
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    start, machine = time.monotonic(), describe()
    measured = (pairs if arguments.step == "pairs" else profiles)(arguments)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True, capture_output=True)
    # Without the folders of this computer.
    used = ("sizes", "precisions") if arguments.step == "profile" else ("size", "precision", "turns", "steps")
    settings = {name: getattr(arguments, name) for name in (*used, "batch_size", "threads")}
    if arguments.step == "pairs":
        settings["backbone"] = Path(arguments.backbone).name
    settings |= {"commit": commit.stdout.strip(), "seconds": round(time.monotonic() - start)}
    write_json(Path(arguments.output), {"machine": machine, "settings": settings, **measured})
    print(json.dumps(settings))


if __name__ == "__main__":
    main()
