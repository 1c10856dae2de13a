"""A folder has one owner at a time."""

import errno
import json
import multiprocessing
import os
import re
import socket
import time
from pathlib import Path

import pytest
from filelock import FileLock

from paco_hf.utils import locks
from paco_hf.utils.locks import LOCK_NAME, SILENCE, sole_owner


def held(folder: Path, use: str = "a training") -> sole_owner:
    return sole_owner(folder, use, "use another --output_dir")


def test_the_second_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    with held(tmp_path):
        owner = json.loads((tmp_path / LOCK_NAME).read_text())
        owner["since"] -= 3 * 3600
        (tmp_path / LOCK_NAME).write_text(json.dumps(owner))
        message = f"{tmp_path} is in use: a training, process {os.getpid()} on {owner['host']}, for 3 h: wait for it"
        with pytest.raises(OSError, match=f"^{re.escape(message)}, or use another"), held(tmp_path, "a card"):
            raise AssertionError
    with held(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def hold(folder: Path) -> None:
    with held(folder):
        (folder / "held").touch()
        time.sleep(60)


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=hold, args=(tmp_path,))
    process.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with pytest.raises(OSError, match=f"process {process.pid} on"), held(tmp_path):
        raise AssertionError
    process.kill()
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
        with pytest.raises(OSError, match=r"is a file: pass a folder|cannot be written"), held(folder):
            raise AssertionError


def leave(folder: Path, host: str, pid: int = 77, silent: float = 0.0, hours: int = 5) -> Path:
    """The file of an owner that did not release its lock."""
    file = folder / LOCK_NAME
    now = time.time()
    file.write_text(json.dumps({"use": "a training", "host": host, "pid": pid, "since": now - hours * 3600}))
    os.utime(file, (now - silent, now - silent))
    return file


def ended_process() -> int:
    process = multiprocessing.get_context("spawn").Process(target=int)
    process.start()
    process.join()
    return process.pid


def test_on_another_computer_signs_of_life_count(tmp_path: Path, capsys) -> None:
    file = leave(tmp_path, "node7", silent=70)
    text = file.read_text()
    message = f"{tmp_path} is in use: a training, process 77 on node7, for 5 h, last seen 1 min ago: wait for it, or "
    message += f"use another --output_dir; if that process has exited, remove {file}"
    for _ in range(2):  # the refused one leaves it as it is, and no lock of its own
        with pytest.raises(OSError, match=f"^{re.escape(message)}$"), held(tmp_path):
            raise AssertionError
        assert file.read_text() == text
    leave(tmp_path, "node7", silent=SILENCE + 60)
    with held(tmp_path):
        assert json.loads(file.read_text())["host"] == socket.gethostname()
    said = (
        f"{tmp_path} was in use: a training, process 77 on node7, for 5 h, last seen 6 min ago: assumed to have exited"
    )
    assert capsys.readouterr().err.strip() == said
    assert not file.exists()
    # As the message says.
    leave(tmp_path, "node7").unlink()
    with held(tmp_path):
        pass


def test_of_clocks_that_differ_no_age_is_negative(tmp_path: Path) -> None:
    leave(tmp_path, "node7", silent=-900, hours=-1)
    with pytest.raises(OSError, match=r"on node7, for 0 min, last seen 0 min ago"), held(tmp_path):
        raise AssertionError


def test_an_owner_shows_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT", 0.01)
    with held(tmp_path):
        file = tmp_path / LOCK_NAME
        os.utime(file, (0, 0))
        deadline = time.monotonic() + 60
        while time.time() - file.stat().st_mtime > 30:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"use": "a training"}'])
def test_a_damaged_lock_of_nobody_is_taken(text: str, tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_text(text)
    with held(tmp_path):
        pass


@pytest.mark.parametrize(
    "error",
    [
        NotImplementedError("no flock"),
        *(OSError(n, os.strerror(n)) for n in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)),
    ],
)
def test_file_systems_without_locks(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def refuse(lock: FileLock) -> None:
        raise error

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with held(tmp_path):
        with pytest.raises(OSError, match=rf"is in use: a training, process {os.getpid()} on "), held(tmp_path, "b"):
            raise AssertionError
        assert (tmp_path / LOCK_NAME).exists()
    assert not (tmp_path / LOCK_NAME).exists()
    leave(tmp_path, socket.gethostname(), ended_process())
    with held(tmp_path):
        pass
    leave(tmp_path, "node7")
    with pytest.raises(OSError, match="process 77 on node7"), held(tmp_path):
        raise AssertionError
    assert not capsys.readouterr().err
