"""What the guides say to write is run."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from paco_hf.cli import main
from paco_hf.losses.specs import LOSSES

DOCS = Path(__file__).parents[1] / "docs"
SHORT = ["--backbone", "cifar_resnet20", "--max_steps=2", "--per_device_train_batch_size=16", "--queue_size=32"]


def section(page: str, title: str) -> str:
    text = (DOCS / page).read_text()
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)[1]


def blocks(text: str, language: str = "") -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [content for name, content in fenced if name == language]


def test_a_loss_is_added_as_the_guide_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = section("guide-extend.md", "A loss")
    script, entry, test = blocks(text, "python")
    start = script.index("if __name__")
    (tmp_path / "mine.py").write_text(script[:start] + entry + script[start:])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    table = dict(LOSSES)
    try:
        importlib.import_module("mine")
        assert LOSSES.keys() - table.keys() == {"balanced_focal", "multitask_momentum"}
        scope: dict = {}
        exec(test, scope)
        scope["test_balanced_focal_loss"]()
        assert main(["train", "--loss", "multitask_momentum", *SHORT, "--output_dir", "runs/paco"]) == 0
    finally:
        LOSSES.clear()
        LOSSES.update(table)
        sys.modules.pop("mine", None)
    # As the guide says to type it.
    lines = [line for block in blocks(text) for line in block.splitlines() if line.startswith("python mine.py")]
    assert len(lines) == 2
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        words += SHORT if words[1] == "train" else []
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert yaml.safe_load(Path("runs/focal/recipe.yaml").read_text())["loss"] == "balanced_focal"
    assert "trained with balanced focal loss." in Path("runs/focal/README.md").read_text()
    assert "balanced_focal" in Path("comparison.html").read_text()
