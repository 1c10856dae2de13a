"""What the guides say to write is run."""

import importlib
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import yaml
from user_data import folders

from paco_hf.cli import main
from paco_hf.losses.specs import LOSSES

DOCS = Path(__file__).parents[1] / "docs"
SHORT = ["--backbone", "cifar_resnet20", "--max_steps=2", "--per_device_train_batch_size=8", "--queue_size=32"]


def section(page: str, title: str) -> str:
    text = (DOCS / page).read_text()
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)[1]


def blocks(text: str, language: str = "") -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [content for name, content in fenced if name == language]


def typed(words: list[str]) -> None:
    """A script, as if it was typed after `python`, in this process."""
    with mock.patch.dict(LOSSES), mock.patch.object(sys, "argv", words), pytest.raises(SystemExit) as end:
        runpy.run_path(words[0], run_name="__main__")
    assert end.value.code == 0


def typed_anew(words: list[str]) -> None:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("run", [typed, pytest.param(typed_anew, marks=pytest.mark.slow)])
def test_a_loss_is_added_as_the_guide_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blank_figures: None, run: Callable[[list[str]], None]
) -> None:
    text = section("guide-extend.md", "A loss")
    script, entry, test = blocks(text, "python")
    start = script.index("if __name__")
    (tmp_path / "mine.py").write_text(script[:start] + entry + script[start:])
    data = ["--dataset", str(folders(tmp_path / "photos", {"a": 16, "b": 12, "c": 8}))]
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    table = set(LOSSES)
    with mock.patch.dict(LOSSES):
        importlib.import_module("mine")
        assert LOSSES.keys() - table == {"balanced_focal", "multitask_momentum"}
        scope: dict = {}
        exec(test, scope)
        scope["test_balanced_focal_loss"]()
        assert main(["train", "--loss", "multitask_momentum", *data, *SHORT, "--output_dir", "runs/paco"]) == 0
    del sys.modules["mine"]
    # As the guide says to type it.
    lines = [line for block in blocks(text) for line in block.splitlines() if line.startswith("python mine.py")]
    assert len(lines) == 2
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        run([*words, *data, *SHORT, "--report", "true"] if words[1] == "train" else words)
    assert yaml.safe_load(Path("runs/focal/recipe.yaml").read_text())["loss"] == "balanced_focal"
    assert "trained with balanced focal loss." in Path("runs/focal/README.md").read_text()
    assert "balanced_focal" in Path("comparison.html").read_text()
