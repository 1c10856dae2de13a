"""Class names as file systems allow them: each is one class, in all that is printed, written and read again."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from user_data import folders

from paco_hf import PaCoForImageClassification
from paco_hf.cli import main
from paco_hf.data.loading import load_data

# A folder is a class: its name is no cell of labels, whatever separators it has.
JOINED = ["a,b", "a", "b", "cat|dog", "cat", "dog", "16 0", "x;y", "A+B"]
ODD = [
    'say "hi"',
    "it's",
    "<b>bold & <script>alert(1)</script>".replace("/", "\u2215"),
    "100% %s {name} {{x}} {% if %} $1 \\n",
    "two\nlines",
    "tab\there",
    "\U0001f98a fox",
    "猫",
    "L" * 200,
    "=1+1",
    "- item: [a](b) | `c` *d* _e_ # f",
    "nan",
    "null",
    "é" * 100,
]
COUNTS = {name: 6 - i % 3 for i, name in enumerate([*JOINED, *ODD])}
TINY = ["--backbone", "test_resnet", "--precision", "fp32", "--per_device_train_batch_size", "16", "--max_steps", "2"]


class Page(HTMLParser):
    """The text of a page, and the elements in it."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.tags = "", set()

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.add(tag)


def test_a_folder_is_one_class_whatever_its_name(tmp_path: Path) -> None:
    folders(tmp_path / "data", dict.fromkeys(JOINED, 2))
    data = load_data(str(tmp_path / "data"))
    assert data.class_names == sorted(JOINED)
    assert data.class_counts == [2] * len(JOINED)
    folders(tmp_path / "split" / "train", dict.fromkeys(JOINED, 2))
    folders(tmp_path / "split" / "test", dict.fromkeys(JOINED[::-1], 1), start=500)
    data = load_data(str(tmp_path / "split"))
    assert [data.class_names[label] for label in data.test.labels] == sorted(JOINED)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("names")
    folders(home / "data", COUNTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert main(["train", "--dataset", "data", *TINY, "--report", "true", "--output_dir", "run"]) == 0
    return home


@pytest.fixture(autouse=True)
def there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


def test_the_model_has_them(home: Path) -> None:
    names = PaCoForImageClassification.from_pretrained("run").config.id2label
    assert sorted(names.values()) == sorted(COUNTS)


def test_report_and_card(home: Path, capsys) -> None:
    assert main(["evaluate", "run"]) == 0
    page = Page()
    page.feed((home / "run" / "evaluation" / "report.html").read_text())
    assert "<b>bold & <script>alert(1)<\u2215script>" in page.text
    text = (home / "run" / "evaluation" / "report.html").read_text()
    assert "<script>alert" not in text
    results = json.loads((home / "run" / "evaluation" / "results.json").read_text())
    assert sorted(results["class_names"]) == sorted(COUNTS)
    card = (home / "run" / "README.md").read_text()
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header)
    assert "<script>" not in body
    assert not [line for line in body.splitlines() if line.startswith("lines")]
    assert main(["card", "run"]) == 0


def test_predictions_and_priors(home: Path, capsys) -> None:
    capsys.readouterr()
    assert main(["predict", "run", "data/a,b", "--json", "--top", str(len(COUNTS))]) == 0
    for result in json.loads(capsys.readouterr().out):
        assert sorted(entry["label"] for entry in result["top"]) == sorted(COUNTS)
    assert main(["predict", "run", "data/a,b/0.png", "--top", str(len(COUNTS))]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert main(["estimate-prior", "run", "data/cat", "--resamples", "3", "--output", "prior.json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(COUNTS) + 1
    assert main(["predict", "run", "data/cat/0.png", "--prior", "prior.json"]) == 0


def test_what_reads_them_again(home: Path, capsys) -> None:
    """An evaluation on other data, prepared shards, features and an exported model."""
    folders(home / "other" / "test", dict.fromkeys(COUNTS, 1), start=5000)
    assert main(["evaluate", "run", "--dataset", "other", "--no_report"]) == 0
    folders(home / "split" / "train", COUNTS)
    shutil.copytree(home / "other" / "test", home / "split" / "test")
    assert main(["data", "prepare", "split", "--out", "out"]) == 0
    assert load_data("out", streaming=True).class_names == sorted(COUNTS)
    assert main(["evaluate", "run", "--dataset", "out", "--no_report"]) == 0
    assert main(["embed", "run", "--split", "train", "--output", "out.safetensors"]) == 0
    assert (
        main(["embed", "run", "--dataset", "other", "--output", "b.safetensors", "--gallery", "out.safetensors"]) == 0
    )
    assert main(["export", "run", "exported", "--to", "timm"]) == 0
    assert sorted(json.loads((home / "exported" / "config.json").read_text())["label_names"]) == sorted(COUNTS)
    assert main(["data", "stats", "data", "--plot", "counts.png"]) == 0
