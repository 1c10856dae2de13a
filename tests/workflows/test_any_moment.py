"""Killed or stopped at random moments and resumed, a run ends with the files and the bits of one that was left alone.

`MOMENTS` says at how many, and `MOMENTS_SEED` repeats those of a failure."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import timm
import torch
from test_resume import SETTINGS, assert_same_end
from test_stop import TINY, ranks
from timm.models import save_for_hf
from user_data import folders

from paco_hf.utils.signals import STATUS

MOMENTS = int(os.environ.get("MOMENTS", "5"))
SEED = int(os.environ.get("MOMENTS_SEED", time.time_ns() % 1_000_000))


class Life:
    """A run of the command."""

    def __init__(self, arguments: list[str], folder: Path, processes: int) -> None:
        self.folder, self.errors, self.since = folder, folder.with_suffix(".errors"), time.time()
        arguments = ["train", *arguments, "--output_dir", str(folder), "--resume"]
        words = [sys.executable, "-m", "paco_hf", *arguments, *(["--nproc", "2"] if processes == 2 else [])]
        with self.errors.open("w") as file:
            self.process = subprocess.Popen(words, stdout=file, stderr=file, text=True)

    @property
    def works(self) -> bool:
        """Whether it has imported what it needs, and has the folder."""
        lock = self.folder / ".lock"
        return (lock.exists() and lock.stat().st_mtime > self.since) or self.process.poll() is not None

    def wait(self, seconds: float = 600) -> bool:
        """Whether it ends within that time."""
        until = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        return self.process.poll() is not None

    def end(self) -> tuple[int, str]:
        assert self.wait(), "it does not end"
        return self.process.poll(), self.errors.read_text()  # type: ignore[return-value]

    def signal(self, number: int, target: str) -> None:
        processes = [psutil.Process(self.process.pid)]
        with contextlib.suppress(psutil.NoSuchProcess, KeyError, AttributeError):
            if target == "all":
                processes += processes[0].children(recursive=True)
            elif target != "command":
                processes = [ranks(self.process)[int(target)]]  # type: ignore[arg-type]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)


def entries(folder: Path) -> list[dict]:
    """The log without times, and without the mean loss, which transformers takes over the steps since a resume."""
    lines = (folder / "log.jsonl").read_text().splitlines()
    other = ("runtime", "per_second", "seconds", "train_loss")
    return [{k: v for k, v in json.loads(line).items() if not k.endswith(other)} for line in lines]


def assert_no_trace(whole: Path, folder: Path) -> None:
    names, others = ({str(path.relative_to(root)) for path in root.rglob("*")} for root in (whole, folder))
    assert names == others
    assert_same_end(whole, folder)
    assert entries(whole) == entries(folder)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("processes", [1, 2])
def test_no_trace(tmp_path: Path, processes: int, number: int) -> None:
    print(f"MOMENTS_SEED={SEED}")
    moments = random.Random(SEED)
    photos = folders(tmp_path / "photos", {"a": 40, "b": 30})
    loader = ["--dataloader_num_workers", "1", "--augment_backend", "pil"] if processes > 1 else []
    arguments = [*SETTINGS, "--dataset", str(photos), *TINY, "--test_fraction", "0.15", "--logging_steps", "1"]
    # A stop is one of the training: that takes most of the time then.
    epochs = "3" if number == signal.SIGKILL else "20"
    arguments += [*loader, "--num_train_epochs", epochs, "--save_steps", "2"]
    arguments += ["--report", "true", "--calibrate", "true"]
    whole = tmp_path / "whole"
    life = Life(arguments, whole, processes)
    while not life.works:
        time.sleep(0.005)
    since = time.time()
    status, errors = life.end()
    assert status == 0, errors
    start, work = since - life.since, time.time() - since
    print(f"{start:.1f} s of start, {work:.1f} s of work")

    done: Counter[str] = Counter()
    lives = 1
    while done.total() < MOMENTS:
        folder = tmp_path / f"life-{lives}"
        life = Life(arguments, folder, processes)
        early, left_alone = moments.random() < 0.1, moments.random() < 0.3
        moment = float("inf") if left_alone else moments.uniform(0, start if early else work)
        target = moments.choice(["command", "all", "0", "1"] if processes > 1 else ["command"])
        while not early and not life.works:
            time.sleep(0.001)
        if not life.wait(moment):
            life.signal(number, target)
            since = time.monotonic()
            status, errors = life.end()
            told = f"{number.name} to {target} {'' if early else 'work + '}{moment:.2f} s: {status}"
            print(told, f"after {time.monotonic() - since:.1f} s:", *errors.splitlines()[-1:])
            assert "Traceback" not in errors, errors
            if "resume from checkpoint-" in errors and number == signal.SIGTERM:
                step = int(errors.split("resume from checkpoint-")[1].split()[0])
                assert status == STATUS
                assert (folder / f"checkpoint-{step}" / "trainer_state.json").exists()
                done["stopped"] += 1
            else:
                done["ended"] += 1
        elif life.end()[0] == 0:
            assert_no_trace(whole, folder)
            lives += 1
        else:
            raise AssertionError(life.end()[1])
    status, errors = Life(arguments, folder, processes).end()
    assert status == 0, errors
    assert_no_trace(whole, folder)
    print(f"{lives} runs, {dict(done)}")
    assert number == signal.SIGKILL or done["stopped"]


@pytest.mark.slow
def test_no_trace_of_a_run_on_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while features are computed or written, or folds trained: begun again, it ends alike."""
    print(f"MOMENTS_SEED={SEED}")
    moments = random.Random(SEED)
    photos = folders(tmp_path / "photos", {"a": 40, "b": 30, "c": 4}, size=(90, 70))
    torch.manual_seed(3)
    save_for_hf(timm.create_model("test_resnet", num_classes=3), str(tmp_path / "timm"), safe_serialization=True)
    arguments = ["--dataset", str(photos), "--backbone", str(tmp_path / "timm"), "--test_fraction", "0.2"]
    arguments += ["--feature_views", "1", "--loss", "paco", "--report", "true"]

    def begin(name: str) -> Life:
        monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / f"{name}-cache"))
        return Life(arguments, tmp_path / name, 1)

    since, life = time.time(), begin("whole")
    assert life.end()[0] == 0, life.end()[1]
    length = time.time() - since
    for number in range(MOMENTS):
        life, moment = begin(f"life-{number}"), moments.uniform(length / 3, length)
        while not life.wait(moment):
            life.signal(signal.SIGKILL, "command")
            print(f"killed after {moment:.2f} of {length:.2f} s")
            life.end()
            life = begin(f"life-{number}")
            moment = 600
        assert life.end()[0] == 0, life.end()[1]
        names, others = (
            {path.name for path in (tmp_path / f"{name}-cache" / "paco_hf" / "features").iterdir()}
            for name in ("whole", f"life-{number}")
        )
        assert names == others
        whole, folder = tmp_path / "whole", tmp_path / f"life-{number}"
        assert {str(path.relative_to(whole)) for path in whole.rglob("*")} == {
            str(path.relative_to(folder)) for path in folder.rglob("*")
        }
        for name in ("model.safetensors", "metrics.json"):
            assert (whole / name).read_bytes() == (folder / name).read_bytes()
        assert entries(whole) == entries(folder)
