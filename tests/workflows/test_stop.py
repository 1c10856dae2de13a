"""SIGTERM ends a training after a complete checkpoint, and the resumed run ends as one that was left alone."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import torch.distributed as dist
from accelerate.data_loader import DataLoaderShard
from interrupted_runs import Fork
from patience import ended, wait_until
from test_resume import SETTINGS, assert_same_end
from transformers import TrainerCallback
from user_data import folders

from paco_hf.arguments.parser import parse_run
from paco_hf.cli import main
from paco_hf.trainer import paco_trainer
from paco_hf.utils import signals
from paco_hf.utils.signals import STATUS, Stopped, Termination
from paco_hf.workflows.train import train

TINY = ["--backbone", "cifar_resnet20", "--per_device_train_batch_size", "8", "--num_train_epochs", "2"]


class SignalAt(TrainerCallback):
    """SIGTERM at the start of a step, heard before its end."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step + 1 == self.step:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, list[str]]:
    """A run of two epochs of three steps that is left alone, and what it is started with."""
    folder = tmp_path_factory.mktemp("stop")
    photos = folders(folder / "photos", {"a": 24, "b": 16})
    command = [*SETTINGS, "--dataset", str(photos), *TINY, "--output_dir"]
    assert main(["train", *command, str(folder / "whole")]) == 0
    return folder / "whole", command


# In an epoch, at an epoch's end, which is validated first, and at the end of the training.
@pytest.mark.parametrize("share", [1 / 4, 1 / 2, 1])
def test_stopped_and_resumed_is_bit_identical(whole, tmp_path: Path, share: float) -> None:
    folder, command = whole
    last = max(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))
    step, stopped = int(share * last), tmp_path / "stopped"
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(
        Stopped, match=rf"stopped by SIGTERM after step {step}; resume from checkpoint-{step} with --resume$"
    ):
        train(*parse_run([*command, str(stopped)]), [SignalAt(step)])
    assert signal.getsignal(signal.SIGTERM) == handler
    assert not (stopped / "metrics.json").exists()
    assert main(["train", *command, str(stopped), "--resume"]) == 0
    assert_same_end(folder, stopped)


def test_stopped_where_no_checkpoint_is_asked_for(whole, tmp_path: Path, monkeypatch, capsys) -> None:
    folder, command = whole
    command = [*command[:-1], "--save_strategy", "no", "--save_steps", "500", "--output_dir", str(tmp_path / "run")]

    def stopping(run, args) -> None:
        train(run, args, [SignalAt(1)])

    with monkeypatch.context() as patch:
        patch.setattr("paco_hf.workflows.train.train", stopping)
        assert main(["train", *command]) == STATUS == 143
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "paco-hf train: stopped by SIGTERM after step 1; resume from checkpoint-1 with --resume"
    assert main(["train", *command, "--resume"]) == 0
    for name in ("model.safetensors", "metrics.json"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("moment", ["on_step_begin", "on_prediction_step"])
def test_an_interrupt_that_a_library_swallows_ends_the_training(whole, moment: str, tmp_path: Path, capsys) -> None:
    steps = []

    def interrupt(callback: TrainerCallback, args, state, control, **kwargs) -> None:
        steps.append(state.global_step)
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    def interrupted(run, args) -> None:
        train(run, args, [type("Interrupted", (TrainerCallback,), {moment: interrupt})()])

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background ignores
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("paco_hf.workflows.train.train", interrupted)
            assert main(["train", *whole[1], str(tmp_path / "run")]) == 130
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(steps) <= 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[-1] == "paco-hf train: stopped; resume from the last checkpoint with --resume"
    assert main(["train", *whole[1], str(tmp_path / "run"), "--resume"]) == 0  # it is forgotten


def waiting(world: int = 1, signaled: int = 0) -> None:
    with Termination(0, world) as termination:
        for _ in range(signaled):
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.1)
        assert termination.requested
        # As in a collective: Python runs no handler meanwhile.
        sys.exit(0) if world == 1 else lock_forever()


def lock_forever() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


@pytest.mark.parametrize(("world", "signaled", "status"), [(1, 1, -signal.SIGTERM), (1, 2, STATUS), (2, 1, STATUS)])
def test_ends_without_a_checkpoint(world: int, signaled: int, status: int, monkeypatch) -> None:
    """One signal that no step answers, a second one, and one while another process is gone."""
    monkeypatch.setattr(signals, "_SILENCE", timedelta(seconds=1))
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    store.add("paco_hf/alive/1", 1)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    fork = Fork(waiting, world, signaled)
    fork.process.join(60)
    assert fork.process.exitcode == status


@pytest.mark.parametrize(("seconds", "status"), [(60, -signal.SIGTERM), (0, STATUS)])
def test_under_torchrun_signals_of_one_moment_are_one(seconds: float, status: int, monkeypatch) -> None:
    """What a whole job is sent comes once more from torchrun's agent; a user's second signal comes later."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr(signals, "_ECHO", seconds)
    fork = Fork(waiting, 1, 2)
    fork.process.join(60)
    assert fork.process.exitcode == status


def test_a_worker_outlives_one_signal() -> None:
    def work() -> None:
        signals.start_worker(None, 0)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    fork = Fork(work)
    fork.process.join(60)
    assert fork.process.exitcode == -signal.SIGTERM


def test_a_worker_that_starts_outlives_one_signal(monkeypatch) -> None:
    """And its process hears nothing of a signal to a worker that has not come to `start_worker`."""

    def start(function: None, worker: int) -> None:
        signal.raise_signal(signal.SIGTERM)
        signals.start_worker(function, worker)

    def work() -> None:
        with Termination(0, 1) as termination:
            loader = paco_trainer._outliving_signals(DataLoaderShard(range(4), num_workers=1))
            assert len(list(loader.base_dataloader)) == 4
            assert not termination.requested

    monkeypatch.setattr(paco_trainer, "start_worker", start)
    fork = Fork(work)
    fork.process.join(60)
    assert fork.process.exitcode == 0


def test_a_worker_that_does_not_come_to_life_is_started_anew(tmp_path: Path, monkeypatch) -> None:
    born = tmp_path / "born"

    def wait_forever() -> None:
        if not born.exists():
            born.touch()
            lock_forever()

    def work() -> None:
        os.register_at_fork(after_in_child=wait_forever)
        loader = paco_trainer._outliving_signals(DataLoaderShard(range(4), num_workers=1))
        assert len(list(loader.base_dataloader)) == 4

    monkeypatch.setattr(signals, "_BIRTH", 0.5)
    fork = Fork(work)
    fork.process.join(60)
    assert fork.process.exitcode == 0
    assert born.exists()


def started(folder: Path, command: list[str], *extra: str) -> subprocess.Popen:
    words = [sys.executable, "-m", "paco_hf", "train", *command, str(folder), *extra]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def stepping(folder: Path) -> bool:
    return (folder / "log.jsonl").exists() and bool((folder / "log.jsonl").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("target", ["command", "a process"])
def test_two_processes_agree(whole, tmp_path: Path, target: str) -> None:
    loader = ["--dataloader_num_workers", "1", "--augment_backend", "pil"]
    command = [*whole[1][:-1], *loader, "--nproc", "2", "--logging_steps", "1", "--num_train_epochs", "9"]
    run = started(tmp_path / "run", [*command, "--output_dir"])
    wait_until(lambda: stepping(tmp_path / "run"), run)
    ranks(run)[1].send_signal(signal.SIGTERM) if target == "a process" else run.send_signal(signal.SIGTERM)
    _, errors = ended(run)
    assert run.returncode == STATUS, errors
    checkpoint = tmp_path / "run" / errors.split("; resume from ")[1].split()[0]
    assert {path.name for path in checkpoint.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_no_checkpoint_where_a_process_is_gone(whole, tmp_path: Path, number: int) -> None:
    command = [*whole[1][:-1], "--nproc", "2", "--logging_steps", "1", "--save_strategy", "no", "--save_steps", "500"]
    run = started(tmp_path / "run", [*command, "--num_train_epochs", "99", "--output_dir"])
    wait_until(lambda: stepping(tmp_path / "run"), run)
    survivor, other = ranks(run)
    other.send_signal(number)
    if number == signal.SIGSTOP:  # it does not answer, and closes no connection
        survivor.send_signal(signal.SIGTERM)
    since = time.monotonic()
    survivor.wait(60)
    assert time.monotonic() - since < 10
    with contextlib.suppress(psutil.NoSuchProcess):
        other.kill()
    ended(run)
    assert not list((tmp_path / "run").glob("checkpoint*"))


def ranks(run: subprocess.Popen) -> list[psutil.Process]:
    processes = psutil.Process(run.pid).children()
    by_rank = {process.environ().get("RANK"): process for process in processes}
    return [by_rank["0"], by_rank["1"]]
