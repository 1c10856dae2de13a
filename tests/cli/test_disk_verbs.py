"""Every command that writes, on a disk that is full or read-only: one line, nothing half written, and again."""

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
from datasets.exceptions import DatasetGenerationError
from safetensors import SafetensorError
from user_data import complaint, folders, parquet

from paco_hf.cli import main

TINY = ["--dataset", "data", "--backbone", "test_resnet", "--precision", "fp32", "--per_device_train_batch_size", "8"]
TINY += ["--report", "false", "--save_strategy", "steps", "--save_steps", "2"]
SERIALIZER = "Error while serializing: I/O error: No space left on device (os error 28)"
Injection = Callable[[pytest.MonkeyPatch], None]


def full(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")


def after(calls: int, function: Callable) -> Callable:
    """The disk is full at a later call."""
    left = iter(range(calls))
    return lambda *a, **k: function(*a, **k) if next(left, None) is not None else full()


def in_file(part: str) -> Injection:
    """Half of a file of this name can be written."""

    def breaks(patch: pytest.MonkeyPatch) -> None:
        for name in ("write_text", "write_bytes"):
            write = getattr(Path, name)

            def half(path: Path, content: Any, *a: Any, write: Callable = write, **k: Any) -> Any:
                if part in path.name:
                    write(path, content[: len(content) // 2], *a, **k)
                    full()
                return write(path, content, *a, **k)

            patch.setattr(Path, name, half)

    return breaks


def in_tensors(place: str) -> Injection:
    """A library's writer of safetensors has written half a file."""

    def half(tensors: Any, file: Any, *a: Any, **k: Any) -> None:
        path = Path(file)
        (path / "model.safetensors" if path.is_dir() else path).write_bytes(b"half")
        raise SafetensorError(SERIALIZER)

    return lambda patch: patch.setattr(place, half)


def in_library(place: str, calls: int = 0) -> Injection:
    def breaks(patch: pytest.MonkeyPatch) -> None:
        module, _, name = place.rpartition(".")
        owner: Any = {"pq": pq, "writer": pq.ParquetWriter, "shutil": shutil}[module]
        patch.setattr(owner, name, after(calls, getattr(owner, name)))

    return breaks


# What is run, where the disk is full, and what it writes.
CASES = {
    "embed": ("embed run --output out.safetensors", in_tensors("paco_hf.utils.tensors.save_file")),
    "embed files": ("embed run data --output out.safetensors", in_tensors("paco_hf.utils.tensors.save_file")),
    "results": ("evaluate run", in_file("results.json")),
    "page": ("evaluate run", in_file("report.html")),
    "figure": ("evaluate run", in_file("reliability.png")),
    "elsewhere": ("evaluate run --output_dir out/deep", in_file("report.html")),
    "calibrate": ("evaluate run --calibrate --no_report", in_file("config.json")),
    "prior": ("estimate-prior run data --store --resamples 3", in_file("config.json")),
    "prior file": ("estimate-prior run data --output out.json --resamples 3", in_file("out.json")),
    "card": ("card run", in_file("README.md")),
    "figure of a card": ("card run", in_file("counts.png")),
    "comparison": ("report run other --output out.html", in_file("out.html")),
    "timm": ("export run out --to timm", in_tensors("paco_hf.conversion.to_timm.save_for_hf")),
    "index": ("index run --output out", in_library("pq.write_table")),
    "space": ("push run ada/space --space --write_only out", in_library("shutil.copytree")),
    "shards": ("data prepare split --out out --threads 1", in_library("writer.write_table", 1)),
    "labels": ("data prepare split --out out", in_file("manifest.json")),
    "plot": ("data stats data --plot out.png", in_file("out.png")),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("finished")
    folders(home / "data", {"cat": 20, "dog": 16})
    for split in ("train", "test"):
        shutil.copytree(home / "data", home / "split" / split)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert main(["train", *TINY, "--max_steps", "2", "--output_dir", "run"]) == 0
    shutil.copytree(home / "run", home / "other")
    return home


@pytest.fixture
def homes(finished: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two copies: on a disk that is full for a time, and undisturbed."""
    made = tmp_path / "full" / "home", tmp_path / "well" / "home"
    for home in made:
        shutil.copytree(finished, home)
    return made


def files(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("blank_figures_as_files")
def test_on_a_full_disk(name: str, homes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    words, breaks = CASES[name]
    argv = words.split()
    monkeypatch.chdir(homes[1])
    before = files(homes[1])
    assert main(argv) == 0
    whole = files(homes[1])
    assert whole != before
    monkeypatch.chdir(homes[0])
    with monkeypatch.context() as patch:
        breaks(patch)
        line = complaint(capsys, *argv)
    assert line.startswith(f"paco-hf {argv[0]}: ")
    assert "the disk is full" in line or "No space left on device: complete shards are kept" in line
    left = files(homes[0])
    # Every file is as before, or as it would be; what a preparation has for itself says that it is not done.
    plan = {path: text for path, text in left.items() if path not in ("out/plan.json",)}
    changed = [path for path, content in plan.items() if content not in (before.get(path), whole.get(path))]
    assert not changed
    assert not [path for path in left if "partial" in path or path.endswith(".lock")]
    assert not (homes[0] / "out" / "manifest.json").exists()
    assert main(argv) == 0
    again = files(homes[0])
    assert again.keys() == whole.keys()
    homely = {path: content.replace(str(homes[0]).encode(), str(homes[1]).encode()) for path, content in again.items()}
    for state in ("out/plan.json", "out/vectors.faiss"):
        homely.pop(state, None), whole.pop(state, None)
    assert [path for path in whole if homely[path] != whole[path]] == []


@pytest.fixture
def blank_figures_as_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures that are written as they are, but show nothing."""
    from matplotlib.figure import Figure

    def save(self: Any, file: Any, **options: Any) -> None:
        file.write("<svg></svg>" if options.get("format") == "svg" else b"a figure")

    monkeypatch.setattr(Figure, "savefig", save)


def test_a_lock_that_cannot_be_written_leaves_nothing(homes, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(homes[0])
    before = files(homes[0])
    with monkeypatch.context() as patch:
        in_file(".lock")(patch)
        assert "the disk is full" in complaint(capsys, "train", *TINY, "--output_dir", "new/deep")
        assert "the disk is full" in complaint(capsys, "card", "run")
    assert files(homes[0]) == before
    assert not (homes[0] / "new").exists()


def test_surveys_that_cannot_be_stored_stop_nothing(homes, monkeypatch: pytest.MonkeyPatch, surveys: Path) -> None:
    monkeypatch.chdir(homes[0])
    with monkeypatch.context() as patch:
        patch.setattr("paco_hf.data.image_survey.write_text", full)
        assert main(["train", *TINY, "--max_steps", "2", "--output_dir", "new"]) == 0
    assert not list(surveys.iterdir())
    assert (homes[0] / "new" / "metrics.json").is_file()


def test_a_cache_of_rows_that_is_full_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    file = parquet(tmp_path / "train.parquet", [0, 1] * 8, datasets.ClassLabel(names=["cat", "dog"]))

    def breaks(*a: Any, **k: Any) -> None:
        try:
            full()
        except OSError as error:
            raise DatasetGenerationError("An error occurred while generating the dataset") from error

    monkeypatch.setattr(datasets.Dataset, "from_parquet", breaks)
    line = complaint(capsys, "data", "stats", str(file))
    cache = datasets.config.HF_DATASETS_CACHE
    assert line == (
        f"paco-hf data: the disk is full (somewhere): free space in {cache}, where rows are cached, or set "
        "HF_DATASETS_CACHE to another folder"
    )


@pytest.fixture
def read_only(homes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which nothing can be made, whoever asks."""
    home = homes[0]
    monkeypatch.chdir(home)
    access, opened, mkdir = os.access, os.open, os.mkdir
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def refused(path: Any, *a: Any) -> bool:
        return "locked" in str(Path(path).absolute())

    def guard(function: Callable, path: Any, *a: Any, **k: Any) -> Any:
        if refused(path) and (function is mkdir or a[0] & writes):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return function(path, *a, **k)

    (home / "locked").mkdir()
    shutil.move(home / "run", home / "locked" / "run")
    monkeypatch.setattr(os, "access", lambda path, mode, **k: access(path, mode, **k) and not refused(path))
    monkeypatch.setattr(os, "mkdir", partial(guard, mkdir))
    monkeypatch.setattr(os, "open", partial(guard, opened))
    return home / "locked"


READ_ONLY = [
    "train --output_dir locked/run --overwrite",
    "train --output_dir locked/new",
    "evaluate locked/run",
    "evaluate locked/run --output_dir locked/out",
    "evaluate locked/run --calibrate --no_report",
    "estimate-prior locked/run data --store",
    "estimate-prior locked/run data --output locked/out.json",
    "embed locked/run --output locked/out.safetensors",
    "export locked/run locked/out --to timm",
    "index locked/run",
    "card locked/run",
    "report locked/run other --output locked/out.html",
    "data prepare split --out locked/out",
    "data stats data --plot locked/out.png",
    "push locked/run ada/space --space --write_only locked/out",
]


@pytest.mark.parametrize("words", READ_ONLY)
def test_on_a_read_only_disk_it_is_said_before_the_work(words: str, read_only: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("paco_hf.inference.load_model.load_classifier", lambda *a, **k: pytest.fail("it works"))
    before = files(read_only)
    argv = words.split()
    line = complaint(capsys, *argv, *(TINY if argv[0] == "train" else []))
    assert "read-only" in line.lower(), line
    assert "locked" in line
    advice = "use another folder|use another --out|use a copy of the run|set --output_dir to another folder"
    assert re.search(f": ({advice})", line), line
    assert files(read_only) == before


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="mounting needs root")
def test_on_a_mount_that_is_read_only(homes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    home = homes[0]
    monkeypatch.chdir(home)
    (home / "locked").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=50m", "tmpfs", "locked"]).returncode:
        pytest.skip("no mounts here")
    try:
        shutil.copytree("run", "locked/run")
        subprocess.run(["mount", "-o", "remount,ro", "locked"], check=True)
        for words in READ_ONLY:
            argv = words.split()
            line = complaint(capsys, *argv, *(TINY if argv[0] == "train" else []))
            assert "read-only" in line.lower(), line
        assert main(["evaluate", "locked/run", "--no_report"]) == 0
    finally:
        subprocess.run(["umount", str(home / "locked")], check=True)
