"""A folder has one owner at a time."""

import json
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path

import pytest

from paco_hf.utils.locks import LOCK_NAME, sole_owner


def held(folder: Path, use: str = "a training") -> sole_owner:
    return sole_owner(folder, use, "give another --output_dir")


def test_the_second_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    with held(tmp_path):
        owner = json.loads((tmp_path / LOCK_NAME).read_text())
        owner["since"] -= 3 * 3600
        (tmp_path / LOCK_NAME).write_text(json.dumps(owner))
        message = f"{tmp_path} is in use: a training, process {os.getpid()} on {owner['host']}, for 3 h: wait for it"
        with pytest.raises(OSError, match=f"^{re.escape(message)}, or give another"), held(tmp_path, "a card"):
            raise AssertionError
    with held(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def hold(folder: Path) -> None:
    with held(folder):
        (folder / "held").touch()
        time.sleep(60)


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path,))
    process.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with pytest.raises(OSError, match=f"process {process.pid} on"), held(tmp_path):
        raise AssertionError
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with held(tmp_path):
        assert (tmp_path / LOCK_NAME).exists()


def test_what_comes_to_nothing_leaves_no_folder(tmp_path: Path) -> None:
    def fails(name: str) -> None:
        with sole_owner(tmp_path / "a" / "b", "x", "y", traces=("plan",)):
            (tmp_path / "a" / "b" / name).touch()
            raise ValueError("nothing came of it")

    with pytest.raises(ValueError, match="nothing came"):
        fails("plan")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="nothing came"):
        fails("something")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["something"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=r"is a file: give a folder|cannot be written"), held(folder):
            raise AssertionError
