"""What the pages about the method say to write is run, and their drawings are those of the script."""

import importlib
import re
import runpy
import shlex
import sys
from pathlib import Path
from unittest import mock

import pytest
import yaml
from user_data import folders

from paco_hf.losses.specs import LOSSES

DOCS = Path(__file__).parents[1] / "docs"
SHORT = ["--backbone", "cifar_resnet20", "--max_steps=2", "--per_device_train_batch_size=8", "--queue_size=32"]


def typed(words: list[str]) -> None:
    """A script, as if it was typed after `python`, in this process."""
    with mock.patch.dict(LOSSES), mock.patch.object(sys, "argv", words), pytest.raises(SystemExit) as end:
        runpy.run_path(words[0], run_name="__main__")
    assert end.value.code == 0


def test_a_loss_is_added_as_the_guide_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blank_figures: None
) -> None:
    """With the smallest of runs; `python docs/code_blocks.py docs/extend.md` executes the whole page."""
    text = (DOCS / "extend.md").read_text(encoding="utf-8")
    scripts = dict(re.findall(r"^cat > (\S+) <<'END'\n(.*?)^END$", text, re.DOTALL | re.MULTILINE))
    for name in ("focal.py", "test_focal.py"):
        (tmp_path / name).write_text(scripts[name])
    data = ["--dataset", str(folders(tmp_path / "photos", {"a": 16, "b": 12, "c": 8}))]
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with mock.patch.dict(LOSSES):
        table = set(LOSSES)
        importlib.import_module("focal")
        assert LOSSES.keys() - table == {"balanced_focal", "multitask_momentum"}
        runpy.run_path("test_focal.py")["test_balanced_focal_loss"]()
    del sys.modules["focal"]
    lines = re.findall(r"^python (focal\.py .*)$", text, re.MULTILINE)
    assert [shlex.split(line)[1] for line in lines] == ["train", "train", "report"]
    for line in lines:
        words = shlex.split(line)
        typed([*words, *data, *SHORT, "--report", "true"] if words[1] == "train" else words)
    assert yaml.safe_load(Path("runs/focal/recipe.yaml").read_text())["loss"] == "balanced_focal"
    assert "trained with balanced focal loss." in Path("runs/focal/README.md").read_text()
    assert "balanced_focal" in Path("comparison.html").read_text()


def test_drawings(tmp_path: Path) -> None:
    module = runpy.run_path(str(DOCS / "drawings.py"))
    page = (DOCS / "how-it-works.md").read_text(encoding="utf-8")
    for drawn in module["write"](tmp_path):
        committed = DOCS / drawn.name
        # Letters are paths, whose words stand in comments; numbers of the paths differ between releases of matplotlib.
        words = [re.findall(r"<!-- (.+?) -->", file.read_text(), re.DOTALL) for file in (drawn, committed)]
        assert words[0], drawn.name
        assert words[0] == words[1], f"{drawn.name} is not what the script draws: python docs/drawings.py"
        assert committed.stat().st_size < 60_000
        loaded = re.findall(r"<text\b|<image\b|href=\"[^#]", committed.read_text())
        assert not loaded, f"{drawn.name}: {loaded}"
        alt = re.search(rf"!\[([^\]]+)\]\({drawn.name}\)", page)
        assert len(alt[1] if alt else "") > 100, f"{drawn.name} stands on the page with a description"
