"""The figures of README.md and docs/results.md are those that the records in benchmarks/ and model_cards/ give."""

import functools
import json
import re

import pytest
from conftest import ROOT

from benchmarks import comparison, pretrained_table, suspects, unknown
from benchmarks.pretrained_records import read_data, read_records
from paco_hf.metrics import HEADLINE

Rows = dict[str, list[str]]  # pattern of the row's title: its figures
BENCHMARKS = ROOT / "benchmarks"
FIGURE = re.compile(r"(?<![\d.,])-?\d+\.\d+(?: ± \d+\.\d+)?(?![\d.])")
NAMES = {"paco": "PaCo", "balanced_softmax": "balanced softmax", "gpaco": "GPaCo", "ce": "cross-entropy"}
PRETRAINED = {
    "command|`paco-hf train": r"\*\*`paco-hf train`",
    "logistic regression": "logistic regression",
    "nearest class mean": "nearest class mean",
    "best PaCo classifier": "(cosine|linear), PaCo",
    "best cross-entropy classifier": "(cosine|linear), cross-entropy",
    "fine-tuned with balanced softmax": "fine-tuned, balanced softmax",
    "`transformers.Trainer`": "transformers.Trainer",
    "from scratch": ".*from scratch, balanced softmax",
}


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def missing(text: str, rows: Rows) -> list[str]:
    """The rows that no table of a text has: a title that matches, and these figures one after the other."""
    tables = [line for line in text.splitlines() if line.startswith("|")]
    figures = {line: FIGURE.findall(line.replace("**", "")) for line in tables}

    def has(line: str, wanted: list[str]) -> bool:
        return any(figures[line][start : start + len(wanted)] == wanted for start in range(len(figures[line])))

    found = {
        title: any(re.search(title, line) and has(line, wanted) for line in tables) for title, wanted in rows.items()
    }
    return [f"{title}: {', '.join(rows[title])}" for title in rows if not found[title]]


@functools.cache
def pretrained(data: str) -> dict[str, dict[str, str]]:
    """The best row in balanced accuracy of each kind: mean scores of the seeds, by name."""
    folder = BENCHMARKS / "pretrained" / data
    rows = pretrained_table._rows(read_data(folder), read_records(folder))
    found = {}
    for title, pattern in PRETRAINED.items():
        cells = next((cells for cells in rows if re.match(pattern, cells[0])), None)  # the best is the first
        if cells:
            found[title] = dict(zip(HEADLINE, [cell.split(" ±")[0] for cell in cells[1:]], strict=False))
    return found


def equal_time(scores: list[str]) -> Rows:
    rows = {}
    for method, title in NAMES.items():
        found = comparison.scores([f"{method}-seed{seed}" for seed in (0, 1, 2)])
        rows[rf"\|[ *]*{title}[ *]*\|"] = [comparison._spread(found[score]) for score in scores]
    return rows


def labels_found() -> Rows:
    """Of the first suspects, how many are wrong: of all and of rare classes, labels changed in two ways."""
    kinds = [[*(BENCHMARKS / "suspects").glob(f"*-{kind}-?.json")] for kind in ("random", "similar")]
    records = [[json.loads(file.read_text(encoding="utf-8")) for file in files] for files in kinds]
    assert [len(some) for some in records] == [3, 3]
    theirs = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
    methods = {
        "`paco-hf data suspects`": "ours",
        "logistic regression": "logistic_regression",
        **{t: t for t in theirs},
    }
    return {
        title: [
            suspects._mean([(one["cleanlab"] if key in theirs else one)[key][name] for one in some])
            for some in records
            for name in ("precision", "few")
        ]
        for title, key in methods.items()
    }


def unknown_classes() -> Rows:
    records = read_records(BENCHMARKS / "unknown" / "caltech-101-subset").values()
    cosine = [record for record in records if record["classifier"] == "cosine"]
    assert len(cosine) == 3
    return {
        title: [unknown._mean([one["scores"][name][kind]["overall"] for one in cosine]) for kind in ("auroc", "fpr")]
        for name, title in unknown.SCORES.items()
    }


def onnx_forms(model: str) -> Rows:
    forms = json.loads((BENCHMARKS / "serving" / f"{model}.json").read_text(encoding="utf-8"))["forms"]
    rows = {}
    for name, form in forms.items():
        scores = [100 * form["scores"][score] for score in ("accuracy", "many", "medium", "few")]
        figures = [form["bytes"] / 1e6, 1000 * form["cpu_seconds_per_image"], *scores]
        end = rf"{form['changed']['images']} \|$" if "changed" in form else r"\|$"
        rows[f"`{name}`.*{end}"] = [f"{figure:.1f}" for figure in figures]
    return rows


def pretrained_rows(data: str, scores: tuple[str, ...]) -> Rows:
    return {title: [row[score] for score in scores] for title, row in pretrained(data).items()}


TABLES = {
    "methods": ("docs/results.md", lambda: equal_time([*comparison.SCORES])),
    "photos": ("docs/results.md", lambda: pretrained_rows("caltech-101-subset", ("balanced_accuracy", "few"))),
    "plankton": ("docs/results.md", lambda: pretrained_rows("ndsb-plankton", ("balanced_accuracy", "few"))),
    "wrong labels": ("docs/results.md", labels_found),
    "unknown classes": ("docs/results.md", unknown_classes),
    "ONNX, photos": ("docs/results.md", lambda: onnx_forms("caltech-101-subset")),
    "ONNX, built-in images": ("docs/results.md", lambda: onnx_forms("builtin")),
}


@pytest.mark.parametrize("table", TABLES)
def test_tables_are_the_records(table: str) -> None:
    page, rows = TABLES[table]
    assert len(rows()) >= 3
    assert missing(text_of(page), rows()) == []


def published() -> Rows:
    record = json.loads(text_of("model_cards/paco-resnet32-cifar100-lt-100/metrics.json"))["test"]
    return {"PaCo.*400 epochs": [f"{100 * record[name]:.1f}" for name in ("accuracy", "many", "medium", "few")]}


def unknown_rows(text: str) -> list[str]:
    """The rows of the table of results in the README that no record gives."""
    photos = pretrained_rows("caltech-101-subset", ("balanced_accuracy", "many", "medium", "few"))
    records = published() | equal_time(["accuracy", "many", "medium", "few"]) | photos
    section = text.partition("\n## Results\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|") and FIGURE.search(line)]
    assert len(lines) >= 6
    return [
        line
        for line in lines
        if not any(
            re.search(title, line) and FIGURE.findall(line.replace("**", ""))[-4:] == figures
            for title, figures in records.items()
        )
    ]


def test_the_results_in_the_readme_are_the_records() -> None:
    text = text_of("README.md")
    assert unknown_rows(text) == []
    (shown,) = published().values()
    assert shown[0] in text
    for figure in (shown[0], "53.2 ± 0.5", "94.1"):
        assert len(unknown_rows(text.replace(figure, "77.7"))) >= 1, figure


def test_a_figure_of_no_record_is_found() -> None:
    text = text_of("docs/results.md")
    assert missing(text, unknown_classes()) == []
    changed = text.replace("92.8 ± 2.1", "92.9 ± 2.1")
    assert missing(changed, unknown_classes()) == ["maximum probability: 92.8 ± 2.1, 33.7 ± 9.5"]
