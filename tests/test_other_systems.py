"""What other systems have otherwise, as far as it can be had here: ways to start processes, names of files, and what
Windows lacks or refuses (`windows_rules.py`)."""

import ast
import json
import multiprocessing
import ntpath
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from conftest import HERE, ROOT
from fresh_processes import FreshProcesses
from torch.utils.data import DataLoader
from user_data import folders

from paco_hf.data.split_manifest import relative_names
from paco_hf.utils import files
from paco_hf.utils.files import portable_name, relative_name
from paco_hf.utils.hardware import cpu_name, hardware_precision
from paco_hf.utils.signals import start_worker

METHODS = multiprocessing.get_all_start_methods()  # Linux has all three, macOS and Windows use spawn
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what is open, and what the CPU has")


def child(*words: object, home: Path, flags: tuple[str, ...] = (), timeout: float = 1200) -> str:
    """What a script of the tests prints in a process with caches of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(home), "HF_DATASETS_CACHE": str(home / "d")}
    command = [sys.executable, *flags, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
    assert done.returncode == 0, done.stderr[-5000:] + done.stdout[-2000:]
    return done.stdout.strip().splitlines()[-1]


# ---- processes


@pytest.mark.parametrize("method", METHODS)
def test_workers_live_however_they_are_started(method: str) -> None:
    settings = {"num_workers": 1, "multiprocessing_context": method, "timeout": 120}
    loader = DataLoader(torch.arange(4), 2, worker_init_fn=partial(start_worker, None), **settings)
    assert torch.cat(list(loader)).tolist() == [0, 1, 2, 3]


KEPT = """
import os, sys, time
from functools import partial
import psutil, torch
from torch.utils.data import DataLoader
from paco_hf.utils.signals import start_worker

if __name__ == "__main__":
    settings = {"num_workers": 2, "multiprocessing_context": sys.argv[1], "prefetch_factor": 1}
    batches = iter(DataLoader(torch.arange(100), 2, worker_init_fn=partial(start_worker, None), **settings))
    next(batches)
    print(*[child.pid for child in psutil.Process().children(recursive=True)], flush=True)
    time.sleep(300)
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_workers_end_with_the_process_that_they_work_for(method: str, tmp_path: Path) -> None:
    (tmp_path / "kept.py").write_text(KEPT)
    command = [sys.executable, str(tmp_path / "kept.py"), method]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        processes = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(processes) >= 2
    assert psutil.wait_procs(processes, timeout=30)[1] == []


@pytest.mark.slow
def test_results_do_not_depend_on_how_processes_are_started(tmp_path: Path) -> None:
    """Preparing, training on files, streams and features, and scoring, with two workers."""
    folders(tmp_path / "images", {"a": 24, "b": 12, "c": 8})
    results = {}
    for method in METHODS:
        (tmp_path / method).mkdir()
        answer = child(HERE / "start_methods.py", method, tmp_path / method, home=tmp_path / f"{method}-home")
        results[method] = json.loads(answer)
    assert len(results["spawn"]) == 6
    assert all(result == results["spawn"] for result in results.values())


# ---- names


def test_stored_names_have_slashes_on_every_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert relative_name("a/b c/é\\.png", "a") == "b c/é\\.png"  # a backslash is a letter here
    windows = SimpleNamespace(path=ntpath, sep="\\")
    monkeypatch.setattr(files, "os", windows)
    monkeypatch.setattr("paco_hf.data.image_split.os", windows)
    assert relative_name(r"C:\data\a\b c\é.png", r"C:\data") == "a/b c/é.png"
    assert relative_names([r"C:\data\a\x\1.png", r"C:\data\a\2.png", r"C:\data\b/3.png"]) == [
        "a/x/1.png",
        "a/2.png",
        "b/3.png",
    ]


@pytest.mark.parametrize(
    ("name", "portable"),
    [
        ("paco-name:config", "paco-name-config"),
        ("table.csv?key=1", "table.csv-key=1"),
        ("con", "con-"),
        ("Com1.txt", "Com1-.txt"),
        ("console", "console"),
        ("ends. ", "ends"),
        ("Föto 日本.v2", "Föto 日本.v2"),
    ],
)
def test_names_that_every_system_can_have(name: str, portable: str) -> None:
    assert portable_name(name) == portable


def test_every_text_file_has_its_encoding() -> None:
    """Where none is named it is that of the computer, such as cp1252."""
    scripts = [script for folder in ("paco_hf", "training", "benchmarks") for script in (ROOT / folder).rglob("*.py")]
    calls = [
        (script.name, node)
        for script in scripts
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)
    ]
    places = [
        f"{name}:{node.lineno} {ast.unparse(node)}"
        for name, node in calls
        if ast.unparse(node.func).rpartition(".")[2] in ("read_text", "write_text", "open")
        and re.search(r"(read|write)_text\(|^open\(|\.open\((mode=)?['\"][rwax]['\"]", ast.unparse(node))
        and not re.search(r"encoding=|utf-8|, ['\"][rwax+]*b|dir_fd|^(write|read)_text\(", ast.unparse(node))
    ]
    assert not places


# ---- Windows

LOCKED = """
import sys
from pathlib import Path
from windows_rules import enforce, import_libraries, import_package
from filelock import FileLock

import_libraries()
root = Path({root!r})
enforce(root)
import_package()
from paco_hf.utils.locks import LOCK_NAME, sole_owner

with sole_owner(root / "held", "a training", "give another"):
    (root / "held" / "result").write_text("")
    try:
        with sole_owner(root / "held", "a card", "wait"):
            raise AssertionError
    except OSError as error:
        assert "is in use: a training, process" in str(error), error
assert not (root / "held" / LOCK_NAME).exists()
for refused in (
    lambda: (root / "a:b").write_text(""),
    lambda: (root / "held" / "con").mkdir(),
    lambda: (root / "held").rename(root / "other"),
    lambda: (root / "held" / "link").symlink_to(root),
    lambda: (root / "held" / "result").unlink(),
):
    with (root / "held" / "result").open("rb"):
        try:
            refused()
        except OSError:
            continue
    raise AssertionError("the rules are not in force")
"""


@LINUX
def test_every_module_is_imported_and_a_lock_holds_without_posix(with_torch: FreshProcesses, tmp_path: Path) -> None:
    with_torch.run(LOCKED.format(root=str(tmp_path)))


@LINUX
@pytest.mark.slow
def test_a_round_trip_without_posix_in_folders_of_other_letters(tmp_path: Path) -> None:
    root = tmp_path / "Föto sätze" / "日本 \u2010 test"
    images = folders(root / "images", {"é 猫 🐈": 24, "b c": 12, "Ñ": 8}, size=(32, 32))
    (images / "b c" / "1.png").rename(images / "b c" / "größe 日本 🐈.png")
    flags = ("-X", "warn_default_encoding")
    answers = json.loads(child(HERE / "windows_rules.py", images, root, home=root / "home", flags=flags))
    assert {answer["file"] for answer in answers} == {str(file) for file in images.rglob("*.png")}
    assert {answer["label"] for answer in answers} <= {"é 猫 🐈", "b c", "Ñ"}
    splits = json.loads((root / "run" / "splits.json").read_text(encoding="utf-8"))
    assert "b c/größe 日本 🐈.png" in {name for split in splits["splits"].values() for name in split["files"]}
    assert "é 猫 🐈" in (root / "run" / "evaluation" / "report.html").read_text(encoding="utf-8")


# ---- hardware


@LINUX
def test_precision_is_what_torch_knows_of_the_cpu() -> None:
    assert cpu_name()
    if hasattr(torch.cpu, "get_capabilities"):
        known = torch.cpu.get_capabilities()
        assert (hardware_precision(use_cpu=True) == "bf16") == any(map(known.get, ("avx512_bf16", "amx_bf16", "bf16")))
