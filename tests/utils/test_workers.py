"""Batches of worker processes travel through shared memory: there are as many workers as it has room for, and one that
has none ends instead of the run waiting for it."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from torch.utils.data import DataLoader
from user_data import folders, printed

from paco_hf.cli import main
from paco_hf.utils.signals import Termination, end_with_lost_batch
from paco_hf.utils.workers import fitting_workers

FREE = "paco_hf.utils.workers.free_shared_memory"
SMALL = [
    "--backbone",
    "cifar_resnet20",
    "--image_size",
    "16",
    "--per_device_train_batch_size",
    "8",
    "--max_steps",
    "2",
]
SMALL += ["--per_device_train_batch_size", "8", "--per_device_eval_batch_size", "8"]
SMALL += ["--validation_fraction", "0", "--augment_backend", "pil"]
BATCHES = 3 * 8 * 3 * 16 * 16 * 4  # two views to train on and one to score, of 8 images each


@pytest.mark.parametrize(
    ("free", "fitting"), [(None, 4), (10**9, 4), (10, 4), (9, 3), (6, 2), (5, 1), (4, 1), (3, 0), (0, 0)]
)
def test_as_many_as_there_is_room_for(free: int | None, fitting: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FREE, lambda: free)
    workers, note = fitting_workers(4, 1)
    assert workers == fitting
    assert ("docker run --shm-size" in note) == (fitting < 4)
    assert fitting_workers(0, 10**9) == (0, "")


def test_processes_share_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    monkeypatch.setattr("paco_hf.utils.workers._SHARED", Path("/"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert fitting_workers(4, 1)[0] == 1


@pytest.mark.usefixtures("no_rehearsal")
@pytest.mark.parametrize(("room", "fitting"), [(0, 0), (4, 1), (9, 3)])
def test_a_run_says_that_it_has_fewer(room: int, fitting: int, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(FREE, lambda: room * BATCHES)
    data = str(folders(tmp_path / "data", {"a": 12, "b": 12}))
    out = printed(capsys, "--dataset", data, *SMALL, "--dataloader_num_workers", "4", "--dry_run")
    assert f"note: {fitting} worker processes (--dataloader_num_workers) instead of 4, because shared memory" in out
    assert f"dataloader_num_workers: {fitting}\n" in out


@pytest.mark.usefixtures("no_rehearsal")
def test_a_stream_has_as_many_as_divide_it(stream: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(FREE, lambda: 9 * BATCHES)
    command = ["--dataset", str(stream), "--streaming", "true", *SMALL, "--dataloader_num_workers", "4", "--dry_run"]
    assert "dataloader_num_workers: 2\n" in printed(capsys, *command, "--output_dir", str(tmp_path / "run"))


def test_scoring_a_stream_says_so_too(stream: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("paco_hf.inference.batches.available_cores", lambda: 2)
    monkeypatch.setattr(FREE, lambda: 0)
    run, data = str(tmp_path / "run"), ["--dataset", str(stream)]
    printed(capsys, *data, "--streaming", "true", *SMALL, "--dataloader_num_workers", "0", "--output_dir", run)
    assert main(["evaluate", run, *data, "--streaming", "--no_report", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["accuracy"] >= 0
    assert err.startswith("note: 0 worker processes instead of 2, because shared memory (/dev/shm, 0 MB free)")


def unsendable(_: object) -> object:
    return lambda: None


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_cannot_hand_over_a_batch_ends(workers: int, capfd: pytest.CaptureFixture) -> None:
    settings = {"num_workers": workers, "collate_fn": unsendable, "timeout": 60}
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        list(DataLoader(torch.arange(8), 2, worker_init_fn=end_with_lost_batch, **settings))
    assert "Traceback" not in capfd.readouterr().err


def test_an_error_need_not_wait_for_workers() -> None:
    with Termination(0, 1):
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
        worker.start()
        start = time.monotonic()
    assert time.monotonic() - start < 30
    worker.kill()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="a mount namespace needs root")
@pytest.mark.parametrize("size", ["64k", "1m", "8m"])
def test_a_small_mount(size: str, tmp_path: Path) -> None:
    data = folders(tmp_path / "data", {"a": 12, "b": 12}, size=(32, 32))
    options = ["--backbone", "resnet10t", "--image_size", "224", "--max_steps", "2", "--dataloader_num_workers", "2"]
    options += ["--per_device_train_batch_size", "16", "--augment_backend", "pil", "--report", "false"]
    train = [sys.executable, "-m", "paco_hf", "train", "--dataset", str(data), *options]
    script = f'mount -t tmpfs -o size={size} tmpfs /dev/shm || exit 77; exec "$@"'
    command = ["unshare", "-m", "bash", "-c", script, "bash", *train, "--output_dir", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    if (done.returncode in (1, 77) and "unshare" in done.stderr + done.stdout) or done.returncode == 77:
        pytest.skip("nothing can be mounted here")
    assert done.returncode == 0, done.stderr
    assert "as shared memory (/dev/shm" in done.stdout
    assert "Traceback" not in done.stderr
