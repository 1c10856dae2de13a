"""`paco-hf train --seeds`: one run after the other or, where there are several GPUs, one on each."""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..utils.hardware import usable_cores
from ..utils.signals import Stopped
from .launcher import NPROC_HELP, is_launched, mark_launcher, world_size

SEEDS_HELP = "train one run per seed in OUTPUT_DIR/seed-N, and compare them (in parallel if there are several GPUs)"
_POLL = 0.2  # seconds
_GRACE = 600  # seconds for the runs to write a checkpoint


def add_seeds_flag(parser: Any) -> None:
    """The flags of `train` that are no settings of a run, for its help.

    Args:
        parser (`argparse.ArgumentParser`): that prints it.
    """
    parser.add_argument("--nproc", type=int, metavar="N", help=NPROC_HELP)
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help=SEEDS_HELP)


def split_seeds(argv: list[str]) -> tuple[list[int], list[str]]:
    """The numbers that `--seeds` gives, none without it, and the other arguments.

    Raises:
        ValueError: what follows it are no whole numbers, or there is `--seed`, too.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--seeds", nargs="*", action="extend")
    known, rest = parser.parse_known_args(argv)
    if known.seeds is None:
        return [], argv
    words = [number for word in known.seeds for number in word.replace(",", " ").split()]
    if not words or not all(word.isdecimal() for word in words):
        raise ValueError(f"--seeds must be integers of at least 0, such as --seeds 0 1 2, got {' '.join(words)!r}")
    if any(word.partition("=")[0] == "--seed" for word in rest):
        raise ValueError("--seeds and --seed both set the seed: use only one of them")
    return [int(word) for word in words], rest


def run_seeds(argv: list[str], seeds: Sequence[int], run: Any, args: Any) -> None:
    """Train all seeds.

    Args:
        argv (list of `str`): the other flags of the command.
        seeds (sequence of `int`): of the runs.
        run (`RunArguments`): that the flags are.
        args (`PaCoTrainingArguments`): likewise.

    Raises:
        ValueError, OSError, Stopped: as [`paco_hf.workflows.seeds.train_seeds`].
    """
    from ..workflows.seeds import train_seeds

    devices = [] if is_launched() or world_size() or run.dry_run else visible_devices(args)[: len(seeds)]
    if len(devices) > 1:
        train_side_by_side(argv, seeds, run, args, devices)
    else:
        train_seeds(run, args, seeds)


def visible_devices(args: Any) -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` calls each GPU that a run with these arguments may use."""
    import torch

    number = torch.cuda.device_count() if torch.cuda.is_available() and not args.use_cpu else 0
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:number] if named else [*map(str, range(number))]


def train_side_by_side(argv: list[str], seeds: Sequence[int], run: Any, args: Any, devices: Sequence[str]) -> None:
    """Train seeds in processes of their own, one on each device, and compare them.

    Args:
        argv (list of `str`): the other flags of the command.
        seeds (sequence of `int`): of the runs.
        run (`RunArguments`): that the flags are.
        args (`PaCoTrainingArguments`): likewise.
        devices (sequence of `str`): what `CUDA_VISIBLE_DEVICES` calls each.

    Raises:
        ValueError, OSError: bad settings or data, before any starts; or runs failed, and what is finished is compared.
        Stopped: SIGTERM came, and the runs stopped with checkpoints.
    """
    from ..utils.locks import sole_owner
    from ..workflows.seeds import finish_seeds, look_once, seed_arguments, share_settings

    folder = Path(args.output_dir)
    with sole_owner(folder, "a multi-seed training", "use another --output_dir"):
        run = share_settings(run, args, seeds)
        look_once(run, args, seeds)
        shared = ["validation_seed", "dataset_revision", "backbone_revision"]
        # A flag or a recipe may have the name with the revision that the commit stands for.
        shared += [name for name in ("dataset", "backbone") if getattr(run, f"{name}_revision")]
        flags = [word for name in shared if (value := getattr(run, name)) for word in (f"--{name}", value)]
        commands = {}
        for seed in seeds:
            one = seed_arguments(args, seed)
            name = ["--run_name", one.run_name] if args.run_name else []
            commands[seed] = [*argv, *flags, *name, "--seed", str(seed), "--output_dir", one.output_dir]
        mark_launcher()
        statuses = _run_all(commands, folder, list(devices))
        failures = {seed: _last_line(folder / f"seed-{seed}.log") for seed, status in statuses.items() if status}
        finish_seeds(folder, seeds, failures, run.report)


def _run_all(commands: dict[int, list[str]], folder: Path, devices: list[str]) -> dict[int, int]:
    """Run commands, each as soon as a device is free; the status of each."""
    waiting, statuses, heard = list(commands), dict[int, int](), list[int]()
    running: dict[int, _Started] = {}
    parallel = len(devices)
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        while (waiting and not heard) or running:
            while waiting and devices and not heard:
                seed = waiting.pop(0)
                running[seed] = _Started.start(commands[seed], folder / f"seed-{seed}.log", devices.pop(0), parallel)
                print(f"seed {seed}: started, log in {folder}/seed-{seed}.log", flush=True)
            for seed, one in list(running.items()):
                one.forward(heard)
                if one.process.poll() is None:
                    continue
                statuses[seed] = one.process.returncode
                devices.append(running.pop(seed).device)
                print(f"seed {seed}: {'ended without a result' if statuses[seed] else 'finished'}", flush=True)
            time.sleep(_POLL)
    except BaseException as error:  # an interrupt above all
        for one in running.values():
            one.process.send_signal(signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM)
        for one in running.values():
            one.process.wait(timeout=_GRACE)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if heard:
        raise Stopped("stopped by SIGTERM; resume the unfinished runs with --resume")
    return statuses


@dataclass
class _Started:
    process: "subprocess.Popen[bytes]"
    device: str
    forwarded: int = 0  # signals

    @classmethod
    def start(cls, flags: list[str], file: Path, device: str, parallel: int) -> "_Started":
        # Its share of the cores, and of the memory that workers use, beside so many others.
        share = {"OMP_NUM_THREADS": str(max(usable_cores() // parallel, 1)), "LOCAL_WORLD_SIZE": str(parallel)}
        environment = {**share, **os.environ, "CUDA_VISIBLE_DEVICES": device, "PYTHONUNBUFFERED": "1"}
        words = [sys.executable, "-m", "paco_hf", "train", *flags]
        with open(file, "ab") as log:
            # In a session of its own it hears of a Ctrl-C once: from here.
            options: dict[str, Any] = {"stdout": log, "stderr": subprocess.STDOUT, "start_new_session": True}
            return cls(subprocess.Popen(words, env=environment, **options), device)

    def forward(self, signals: Sequence[int]) -> None:
        for number in signals[self.forwarded :]:
            self.process.send_signal(number)
            self.forwarded += 1


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("paco-hf train: ") if lines else "exited without a message"
