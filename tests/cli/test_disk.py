"""A disk that is full or read-only is one line, leaves nothing that is taken for whole, and a training resumes."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from user_data import complaint, folders, printed

from paco_hf.cli import main
from paco_hf.utils import files, tensors

TINY = ["--backbone", "test_resnet", "--precision", "fp32", "--per_device_train_batch_size", "8", "--report", "false"]
STEPS = ["--save_strategy", "steps", "--save_steps", "2", "--eval_strategy", "no"]
WRITER = "[enforce fail at inline_container.cc:664] . unexpected pos 496320 vs 496208"
SERIALIZER = "Error while serializing: I/O error: No space left on device (os error 28)"


def no_space(file: object) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))


def break_torch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch, "save", lambda *a, **k: (_ for _ in ()).throw(RuntimeError(WRITER)))


def break_selection(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tensors, "save_file", lambda *a, **k: (_ for _ in ()).throw(SafetensorError(SERIALIZER)))


def break_text(patch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def full(path: Path, text: str, *args, **kwargs) -> int:
        if "metrics" in path.name or "report" in path.name:
            write(path, text[:5])
            raise no_space(path)
        return write(path, text, *args, **kwargs)

    patch.setattr(Path, "write_text", full)


@pytest.mark.parametrize("breaks", [break_torch, break_selection, break_text])
def test_training_on_a_full_disk_resumes(breaks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    folders(tmp_path / "data", {"cat": 20, "dog": 16})
    argv = ["--dataset", "data", *TINY, *STEPS, "--max_steps", "4", "--output_dir"]
    if breaks is break_selection:
        argv = ["--eval_strategy", "epoch", *(a for a in argv if a not in ("--eval_strategy", "no"))]
    with monkeypatch.context() as patch:
        breaks(patch)
        line = complaint(capsys, "train", *argv, "run")
    assert line.startswith("paco-hf train: the disk is full")
    assert line.endswith("free disk space, then resume from the last complete checkpoint with --resume")
    assert not [path for path in (tmp_path / "run").rglob("*") if "partial" in path.name]
    assert not (tmp_path / "run" / "metrics.json").exists()
    printed(capsys, *argv, "run", "--resume")
    printed(capsys, *argv, "undisturbed")
    ended = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "undisturbed")]
    assert ended[0] == ended[1]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded", "x.json"), "the disk is full (x.json)"),
        (OSError(errno.EROFS, "Read-only file system", "x.json"), "the disk is read-only (x.json)"),
        (ValueError("No space left on device"), "the disk is full"),
    ],
)
def test_errors_of_the_disk(error: Exception, message: str) -> None:
    with pytest.raises(OSError, match="make space") as raised, files.disk_errors("make space"):
        raise RuntimeError("while saving") from error
    assert str(raised.value) == f"{message}: make space"
    with pytest.raises(KeyError), files.disk_errors("make space"):
        raise KeyError("of something else")


def test_too_little_space_is_said_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    folders(tmp_path / "data", {"cat": 20, "dog": 16})
    usage = shutil.disk_usage(tmp_path)._replace(free=500_000)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage)
    line = complaint(capsys, "train", "--dataset", "data", *TINY, *STEPS, "--max_steps", "4", "--output_dir", "run")
    assert "the disk of run has 0 MB left, but a run with this model needs" in line
    assert not (tmp_path / "run").exists()
    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "disk_usage", lambda folder: usage._replace(free=10**9))
        printed(capsys, "--dataset", "data", *TINY, *STEPS, "--max_steps", "2", "--output_dir", "run")
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    argv = ["train", "--dataset", "data", *TINY, *STEPS, "--max_steps", "4", "--output_dir", "run", "--overwrite"]
    assert "the disk of run has 0 MB left" in complaint(capsys, *argv)
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == before


def test_verbs_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from paco_hf.cli import data

    def full(flags: object) -> None:
        raise no_space("counts.png")

    monkeypatch.setattr(data, "run", full)
    assert main(["data", "stats", "builtin"]) == 2
    error = capsys.readouterr().err
    assert error == "paco-hf data: the disk is full (counts.png): free disk space, then run the command again\n"


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="mounting needs root")
def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    folders(tmp_path / "data", {"cat": 20, "dog": 16})
    small = tmp_path / "small"
    small.mkdir()
    argv = ["--dataset", "data", *TINY, *STEPS, "--max_steps", "6", "--save_total_limit", "3", "--output_dir"]
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(small)]).returncode:
        pytest.skip("no mounts here")
    try:
        line = complaint(capsys, "train", *argv, "small/run")
        assert "the disk is full" in line
        subprocess.run(["mount", "-o", "remount,size=100m", str(small)], check=True)
        printed(capsys, *argv, "small/run", "--resume")
        printed(capsys, *argv, "undisturbed")
        whole = (tmp_path / "undisturbed" / "model.safetensors").read_bytes()
        assert (small / "run" / "model.safetensors").read_bytes() == whole
    finally:
        subprocess.run(["umount", str(small)], check=True)
