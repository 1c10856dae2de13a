"""Whatever ends a command is one line: what is known to go wrong, what nobody foresaw, and Ctrl-C while it starts."""

import io
import json
import os
import platform
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow
import pytest
import safetensors
import torch
import yaml
from conftest import ROOT
from user_data import complaint

from paco_hf.cli import main

MODULE = sys.modules["paco_hf.cli.main"]


def deepest(depth: int = 0) -> int:
    return deepest(depth + 1)


def encode(text: str) -> bytes:
    return text.encode("ascii")


def generate() -> None:
    raise datasets.exceptions.DatasetGenerationError("cannot generate") from OSError("disk on fire")


def lose_worker() -> None:
    raise RuntimeError("DataLoader worker (pid 5) is killed by signal: Bus error. It is possible that it is out.")


def failing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, error: object) -> tuple[int, str]:
    """Status and line of a command in which something happens."""

    def run(*_: object) -> None:
        if callable(error) and not isinstance(error, type):
            error()
        raise error

    monkeypatch.setattr(MODULE, "_run", run)
    capsys.readouterr()
    status = main(["train"])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("paco-hf train: ")
    return status, lines[0].removeprefix("paco-hf train: ")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (lambda: torch.zeros(2) @ torch.zeros(3), "inconsistent tensor size"),
        (lambda: torch.empty(10**15), "allocate 4000000000000000 bytes): use a smaller --per_device_train_batch"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.0 GiB. GPU 0"),
            "Tried to allocate 2.0 GiB",
        ),
        (
            lose_worker,
            "killed by signal: Bus error): if it ran out of memory or shared memory (/dev/shm), provide more",
        ),
        (lambda: safetensors.deserialize(b"damaged!"), "eader"),
        (generate, "cannot generate: disk on fire"),
        (lambda: pyarrow.array([1], "no type"), "No type"),
        (lambda: pyarrow.array([1]).take(pyarrow.array([5])), "out of bounds"),
        (lambda: yaml.safe_load("a: [\n"), "while parsing a flow node"),
        (lambda: zlib.decompress(b"x"), "Error -5"),
        (lambda: json.loads("{\n"), "Expecting property name"),
        (lambda: b"\xff".decode(), "can't decode byte 0xff"),
        (lambda: encode("ä"), "can't encode character"),
        (deepest, "recursion"),
        (MemoryError(), "out of memory (MemoryError)"),
        (MemoryError("Unable to allocate 3.55 PiB for an array"), "Unable to allocate 3.55 PiB"),
        (PermissionError(13, "Permission denied", "/x"), "Permission denied: '/x'"),
        (ValueError("two\nlines"), "two lines"),
        (lambda: os.stat("x\0"), "a path contains a null character"),
        (lambda: os.stat("x" * 300), f"{'x' * 40}... is too long (300 characters): use a shorter path"),
        (EOFError(), "EOFError"),
    ],
)
def test_what_is_known_to_go_wrong_is_one_line(error, message, monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    status, line = failing(monkeypatch, capsys, error)
    assert status == 2
    assert message in line


def test_what_nobody_foresaw_leaves_a_file_for_a_report(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", "/proc/none")
    monkeypatch.setenv("HF_TOKEN", "the secret")
    monkeypatch.setattr(sys, "argv", ["paco-hf", "train", "--hub_token", "hf_abcdefghij", "--dataset", "my data"])
    status, line = failing(monkeypatch, capsys, KeyError("nobody knows the secret of https://me:pass@host"))
    (file,) = tmp_path.iterdir()
    assert status == 1
    assert line.startswith('unexpected KeyError: "nobody ') or line.startswith("unexpected KeyError: 'nobody ")
    assert line.endswith(f"(traceback and versions for a bug report: {file})")
    text = file.read_text()
    assert "Traceback (most recent call last)" in text
    assert "paco-hf train --hub_token *** --dataset 'my data'" in text
    for name in ("paco-hf ", "torch ", "transformers ", "datasets ", "timm ", "python 3.", platform.system()):
        assert f"\n{name}" in text
    for secret in ("the secret", "hf_abcdefghij", "me:pass"):
        assert secret not in text
    assert (file.stat().st_mode & 0o777) == 0o600


@pytest.mark.parametrize("place", ["/proc/none", "."])
def test_without_a_place_there_is_no_file(place: str, monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", os.path.abspath(place))  # where all else is read-only, it is the folder
    status, line = failing(monkeypatch, capsys, AssertionError())
    assert status == 1
    assert line == "unexpected AssertionError (set PACO_HF_DEBUG=1 to show the traceback for a bug report)"
    assert not list(tmp_path.iterdir())


def test_debugging_shows_the_traceback(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("PACO_HF_DEBUG", "1")
    monkeypatch.setattr(MODULE, "_run", lambda *_: {}["x"])
    with pytest.raises(KeyError):
        main(["train"])
    assert not list(tmp_path.iterdir())


def test_of_many_processes_the_first_tells_first(monkeypatch, capsys) -> None:
    waits: list[float] = []
    monkeypatch.setattr(MODULE.time, "sleep", waits.append)
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        failing(monkeypatch, capsys, KeyError("x"))
    assert waits == [5]


HELP = [["--help"], ["--version"], ["train", "--help"], ["predict", "--help"]]


@pytest.mark.parametrize("argv", [*HELP, []])
def test_output_that_cannot_be_written_is_one_line(argv: list[str], monkeypatch, capsys) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(" ".join(["paco-hf", *argv[:1]]) + ": the disk is full: free disk space")


@pytest.mark.parametrize("argv", HELP)
def test_a_reader_that_is_gone_ends_the_command_quietly(argv: list[str], monkeypatch, capsys) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(argv) == 141
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("argv", [*HELP[:3], ["recipes"], ["unknown"], ["train", "--unknown"]])
def test_closed_standard_streams_change_no_status(argv: list[str], monkeypatch, capsys) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    status = main(argv)
    command = [sys.executable, "-m", "paco_hf", *argv]
    closed = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command])
    assert closed.returncode == status


def test_a_standard_error_that_cannot_be_written_leaves_the_status(monkeypatch) -> None:
    with open("/dev/full", "w", buffering=1) as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert main(["train", "--unknown"]) == 2


def test_a_character_that_the_output_cannot_show_is_escaped(monkeypatch) -> None:
    output = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(MODULE, "_run", lambda *_: print("dä"))
    main(["predict"])
    assert output.buffer.getvalue() == b"d\\xe4\n"


@pytest.mark.parametrize("argv", [["report", "x" * 300], ["predict", "x" * 300, "images"]])
def test_a_path_that_is_too_long_is_refused_with_its_flag(argv: list[str], capsys) -> None:
    assert "... is too long (" in complaint(capsys, *argv)


@pytest.mark.parametrize("argv", [["recipes"], ["train", "--dry_run"], ["predict", "model", "images"]])
def test_a_deleted_working_folder_is_named(argv: list[str], monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    message = "the working directory has been deleted: change to an existing one with cd"
    assert complaint(capsys, *argv) == f"paco-hf {argv[0]}: {message}"


# A module that is looked for in every process: it raises the signal once another is.
HOOK = """
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background ignores

class Interrupt:
    def find_spec(self, name, path, target=None):
        if name == os.environ["AT"]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
"""
SCRIPT = "import sys\nfrom paco_hf.cli.main import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
MOMENTS = (
    "lazy_loader",
    "wrapt",
    "yaml",
    "paco_hf.cli",
    "paco_hf.cli.launcher",
    "paco_hf.cli.train",
    "torch",
    "numpy",
)


@pytest.mark.parametrize("moment", ["lazy_loader", *MOMENTS, "transformers", "paco_hf.workflows.train"])
@pytest.mark.parametrize("start", ["module", "script"])
def test_an_interrupt_while_the_command_starts_is_quiet(start: str, moment: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    (tmp_path / "paco-hf").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "AT": moment}
    command = ["-m", "paco_hf"] if start == "module" else [str(tmp_path / "paco-hf")]
    command = [sys.executable, *command, "train", "--dataset", str(tmp_path), "--output_dir", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    lines = [line for line in done.stderr.splitlines() if "loading PyTorch" not in line]
    assert (done.returncode, lines) == (130, ["paco-hf train: stopped"])


def test_a_program_of_the_user_is_interrupted_as_ever(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "AT": "wrapt"}
    done = subprocess.run(
        [sys.executable, "-c", "import paco_hf"], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")


class Swallowing:
    """Is interrupted where Python ignores all errors."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.fixture
def default_interrupt() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background ignores
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_python_ignores_comes_again(default_interrupt, monkeypatch, capsys) -> None:
    def run(*_: object) -> int:
        Swallowing()
        time.sleep(60)
        return 0

    hook, since = sys.unraisablehook, time.monotonic()
    monkeypatch.setattr(MODULE, "_run", run)
    assert main(["predict"]) == 130
    assert time.monotonic() - since < 30
    assert capsys.readouterr().err == "paco-hf predict: stopped\n"
    assert sys.unraisablehook is hook
