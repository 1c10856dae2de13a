"""A folder that a run trains in is its own: every other command that writes there is refused in one line."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from interrupted_runs import Fork
from patience import run as ended
from patience import wait_until
from user_data import complaint, folders, printed

from paco_hf.cli import main
from paco_hf.utils.locks import LOCK_NAME

TINY = ["--dataset", "data", "--backbone", "test_resnet", "--precision", "fp32", "--per_device_train_batch_size", "8"]
TINY += ["--report", "false", "--save_strategy", "steps", "--save_steps", "2", "--save_total_limit", "50"]
TRAIN = ["train", *TINY, "--output_dir", "run"]
ENDLESS = [*TRAIN, "--max_steps", "999999", "--resume"]
SECOND = [
    TRAIN,
    [*TRAIN, "--overwrite"],
    [*TRAIN, "--resume"],
    ["evaluate", "run", "--calibrate"],
    ["evaluate", "run"],
    ["estimate-prior", "run", "data", "--store"],
    ["card", "run"],
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("finished")
    folders(home / "data", {"cat": 20, "dog": 16})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert main([*TRAIN, "--max_steps", "2"]) == 0
    return home


@pytest.fixture
def home(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(finished, tmp_path / "home")
    (tmp_path / "home" / "run" / "metrics.json").unlink()  # it is to be lengthened
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def has_begun() -> bool:
    return any(path.name not in ("checkpoint-2", "checkpoint.partial") for path in Path("run").glob("checkpoint*"))


@pytest.fixture
def training(home: Path) -> Iterator[Fork]:
    """A process that lengthens the finished run, so that there is something for each command to be about."""
    process = Fork(main, ENDLESS)
    try:
        wait_until(has_begun, process)
        yield process
    finally:
        process.kill()
        process.communicate()


def contents(folder: Path) -> dict[str, bytes]:
    """Of the files that a training leaves as they are until its end."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in (".md", ".safetensors")}


def test_every_second_owner_is_refused(home: Path, training: Fork, capsys) -> None:
    before = contents(home / "run")
    by = f"a training, process {training.pid} on {socket.gethostname()}, for 0 min: wait for it, or "
    for argv in SECOND:
        line = complaint(capsys, *argv)
        assert line.startswith(f"paco-hf {argv[0]}: run is in use: {by}"), argv
    assert contents(home / "run") == before
    assert not (home / "run" / "evaluation").exists()
    # A checkpoint of it, however it is named, is in the folder too; to read is free, and so is to write elsewhere.
    assert " is in use: " in complaint(capsys, "evaluate", str(home / "run" / "checkpoint-2" / ".."), "--calibrate")
    assert " is in use: " in complaint(capsys, "evaluate", "run/checkpoint-2", "--calibrate")
    (home / "link").symlink_to("run")
    assert " is in use: " in complaint(capsys, "card", "link")
    assert main(["evaluate", "run", "--no_report"]) == 0
    assert main(["predict", "run", "data/cat/0.png"]) == 0
    assert main(["evaluate", "run", "--output_dir", "elsewhere"]) == 0
    assert training.poll() is None


def test_what_is_in_use_is_refused_before_the_work(home: Path, training: Fork, monkeypatch, capsys) -> None:
    monkeypatch.setattr("paco_hf.inference.prediction.estimate_file_prior", lambda *a, **k: pytest.fail("it looked"))
    complaint(capsys, "estimate-prior", "run", "data", "--store")


def test_after_sigkill_the_folder_is_free(home: Path, training: Fork, capsys) -> None:
    training.kill()
    training.communicate()
    assert (home / "run" / LOCK_NAME).exists()
    printed(capsys, *ENDLESS[1:-3], "--max_steps", "2", "--overwrite")
    assert not (home / "run" / LOCK_NAME).exists()


@pytest.mark.slow
def test_process_count_one_run_hold_it_together(home: Path) -> None:
    """The first of them holds it to the end; when all are killed, it is free."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "paco_hf"]
    start = [*TRAIN, "--max_steps", "999999", "--overwrite", "--nproc", "2"]
    log = (home / "errors").open("w")
    run = subprocess.Popen([*command, *start], env=environment, stdout=subprocess.DEVNULL, stderr=log)
    children: list[psutil.Process] = []
    try:
        wait_until(has_begun, run)
        children = psutil.Process(run.pid).children(recursive=True)
        for nproc in ("1", "2"):  # a second command of several processes does not wait for itself either
            second = ended([*command, *TRAIN, "--overwrite", "--nproc", nproc], env=environment)
            pattern = r"paco-hf train: run is in use: a training, process (\d+) on .*, for \d+ min: .*"
            found = re.fullmatch(pattern, second.stderr.strip())
            assert second.returncode == 2
            assert found, second.stderr
            assert int(found[1]) in {child.pid for child in children}
        run.send_signal(signal.SIGKILL)
        run.wait()
        psutil.wait_procs(children, timeout=120)
        steps = 2 + max(int(path.name.split("-")[1]) for path in (home / "run").glob("checkpoint-*"))
        resume = [*TRAIN, "--max_steps", str(steps), "--resume", "--nproc", "2"]
        resumed = ended([*command, *resume], env=environment)
        assert resumed.returncode == 0, resumed.stderr
        assert not (home / "run" / LOCK_NAME).exists()
    finally:
        run.kill()
        for child in children:
            if child.is_running():
                child.kill()
