"""The script of one file: its block of dependencies, that it trains, evaluates, and says what is wrong in a line."""

import json
import os
import re
import runpy
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from user_data import folders

SCRIPT = ROOT / "examples" / "train_on_folder.py"
# As PEP 723 gives it.
BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
SMALL = ["--from_scratch", "--backbone", "cifar_resnet20", "--max_steps", "2", "--queue_size", "32"]


def block() -> dict:
    (found,) = [match for match in BLOCK.finditer(SCRIPT.read_text()) if match["type"] == "script"]
    lines = found["content"].splitlines(keepends=True)
    return tomllib.loads("".join(line[2:] if line.startswith("# ") else line[1:] for line in lines))


def test_its_block_agrees_with_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = block()
    assert declared.keys() == {"requires-python", "dependencies"}
    assert declared["requires-python"] == project["requires-python"]
    (requirement,) = map(Requirement, declared["dependencies"])
    assert requirement.name == project["name"]
    assert requirement.specifier.contains(project["version"])
    assert requirement.extras == set()


def run(capsys: pytest.CaptureFixture, *words: str) -> tuple[int, str, str]:
    with mock.patch.object(sys, "argv", [str(SCRIPT), *words]), pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    printed = capsys.readouterr()
    return end.value.code, printed.out, printed.err


def test_it_trains_and_names_the_worst_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, blank_figures: None
) -> None:
    monkeypatch.chdir(tmp_path)
    folders(tmp_path / "photos", {"a": 16, "b": 12, "c": 8})
    status, out, _ = run(capsys, "photos", *SMALL)
    assert status == 0
    assert re.search(r"\n +test +[\d.]+", out)
    worst = re.findall(r"^least recognized: ([abc]), accuracy ([\d.]+)%$", out, re.MULTILINE)
    assert sorted(name for name, _ in worst) == ["a", "b", "c"]
    assert [float(score) for _, score in worst] == sorted(float(score) for _, score in worst)
    assert Path("runs/folder/model.safetensors").is_file()

    # The run is there already.
    status, _, errors = run(capsys, "photos", *SMALL)
    assert status == 2
    assert errors.count("\n") == 1
    assert "--overwrite" in errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent", *SMALL], "absent"),
        (["photos", *SMALL, "--push", "ada/photos"], "hf auth login"),
        (["photos", *SMALL, "--max_step", "3"], "did you mean --max_steps"),
    ],
)
def test_what_is_wrong_is_one_line_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "nobody"))
    folders(tmp_path / "photos", {"a": 6, "b": 5})
    status, _, errors = run(capsys, *words)
    assert status == 2
    (line,) = [line for line in errors.splitlines() if "loading" not in line]
    assert message in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_pip_installs_what_its_block_declares_and_it_runs(tmp_path: Path) -> None:
    def run(*command: object) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run([str(c) for c in command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "wheels", ROOT)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    declared = block()["dependencies"]
    # The package from the wheel. Its dependencies are this environment's, of the versions that it asks for.
    run(python, "-m", "pip", "install", "--no-index", "--no-deps", "--find-links", tmp_path / "wheels", *declared)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    code = "import importlib.metadata as m, json; print(json.dumps(m.requires('paco-hf')))"
    required = json.loads(run(python, "-c", code))
    for requirement in map(Requirement, required):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            assert requirement.specifier.contains(version(requirement.name), prereleases=True), requirement
    assert Path(run(python, "-c", "import paco_hf; print(paco_hf.__file__)").strip()).is_relative_to(site)
    folders(tmp_path / "photos", {"a": 16, "b": 12, "c": 8})
    assert "least recognized: " in run(python, SCRIPT, "photos", *SMALL)
