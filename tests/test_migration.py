"""The pages on rows and on the authors' code say what the package does: recipes, flags, records, figures."""

import argparse
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import comparison, new_class, tta
from paco_hf.arguments.parser import parse_run
from paco_hf.arguments.recipes import overview, recipe_names
from paco_hf.arguments.settings import run_settings
from paco_hf.cli import main

ROOT = Path(__file__).parents[1]
INTERVAL = r"([-+]\d+\.\d) \(([-+]\d+\.\d) to ([-+]\d+\.\d)\)"


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)[1]


def table(text: str) -> list[list[str]]:
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


MIGRATION = page("coming-from-the-reference.md")


def test_the_translated_command_is_the_recipe() -> None:
    blocks = re.findall(r"```bash\n(.*?)```", section(MIGRATION, "Translate a command"), re.DOTALL)
    [command] = [block for block in blocks if "--imbalance_factor" in block]
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:2] == ["paco-hf", "train"]
    recipe = ["--recipe", "paco-resnet32-cifar100-lt-100", "--output_dir", "runs/NAME"]
    assert run_settings(*parse_run(words[2:])) == run_settings(*parse_run(recipe))


def test_every_row_has_its_script() -> None:
    named = set()
    for cell in (row[1] for row in table(section(MIGRATION, "Scripts and recipes"))):
        first = ""
        for name in re.findall(r"`([\w-]+)`", cell):
            # `-50` stands for the recipe before it with another imbalance factor.
            first = first.rsplit("-", 1)[0] + name if name.startswith("-") else name
            named.add(first)
    assert {entry["name"] for entry in overview() if entry["row"]} <= named
    assert named <= {*recipe_names()}


def flag_rows() -> list[list[str]]:
    """Of all tables that say which flag here stands for one of theirs."""
    tables = re.findall(r"^\| reference \| here \|.*\n(?:\|.*\n)+", MIGRATION, re.MULTILINE)
    return [row for text in tables for row in table(text) if re.search("`-", row[0])]


# What every command of theirs has, or most of them.
PAIRS = {
    "--moco-t": "--temperature",
    "--moco-k": "--queue_size",
    "--moco-m": "--key_momentum",
    "--moco-dim": "--projection_dim",
    "--imb-factor": "--imbalance_factor",
    "--lr": "--learning_rate",
    "--epochs": "--num_train_epochs",
    "--wd": "--weight_decay",
    "-b": "--global_batch_size",
    "--batch-size": "--global_batch_size",
    "--arch": "--backbone",
    "--data": "--dataset_path",
    "--workers": "--dataloader_num_workers",
    "--alpha": "--alpha",
    "--beta": "--beta",
    "--gamma": "--gamma",
    "--clip_grad": "--max_grad_norm",
    "--input_size": "--image_size",
    "--smooth": "--label_smoothing_factor",
}


def test_their_flags_are_those_here() -> None:
    pairs: dict[str, str] = {}
    for theirs, ours, *_ in flag_rows():
        flags, here = (re.findall(r"`(--?[a-z][\w-]*)", cell) for cell in (theirs, ours))
        # Several on both sides stand in the same order.
        pairs |= dict(zip(flags, here if len(here) == len(flags) else here[:1] * len(flags), strict=False))
    assert {flag: pairs.get(flag) for flag in PAIRS} == PAIRS


def test_flags_of_this_package_exist(capsys: pytest.CaptureFixture) -> None:
    assert main(["train", "--help_all"]) == 0
    known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    here = [row[1] for row in flag_rows()]
    flags = {flag for cell in here for flag in re.findall(r"--[\w-]+", cell)}
    assert len(flags) > 30
    assert flags <= known
    assert all(re.match(r"none$|part of|`(--\w|paco-hf )", cell) for cell in here)


def test_views_exist() -> None:
    from paco_hf.data.augmentation.transforms import view_operations

    rows = table(section(MIGRATION, "Views"))
    names = {name.strip("`").replace("nN", "n2").replace("mM", "m10") for row in rows for name in row[1:]}
    assert len(names) > 6
    for name in names:
        assert view_operations(name, 32)


def test_the_first_figure_is_the_records() -> None:
    record = json.loads((ROOT / "model_cards/paco-resnet32-cifar100-lt-100/metrics.json").read_text())["test"]
    shown = [f"{100 * record[name]:.2f}" for name in ("accuracy", "many", "medium", "few")]
    assert f"| **{shown[0]}** | {' | '.join(shown[1:])} |" in page("results.md")


def test_records_and_commands_of_the_results_exist() -> None:
    text = page("results.md")
    places = set(re.findall(r"`((?:benchmarks|model_cards|tests)/[\w./-]+)`", text))
    assert len(places) > 15
    assert not [place for place in places if not (ROOT / place).exists()]
    modules = set(re.findall(r"python -m (benchmarks\.\w+)", text))
    assert len(modules) > 9
    assert not [name for name in modules if not (ROOT / f"{name.replace('.', '/')}.py").exists()]


def test_the_comparison_is_its_records(capsys: pytest.CaptureFixture) -> None:
    comparison.table(argparse.Namespace(seeds=[0, 1, 2]))
    measured, differences = re.split(r"\n\| PaCo minus", capsys.readouterr().out.split("| method |")[1])
    text = page("results.md")
    figures = re.findall(r"\d+\.\d ± \d+\.\d|(?:\d+\.\d\d, ){2}\d+\.\d\d", measured)
    # The page has no plus inside the intervals.
    intervals = [f"{mean} ({low} to {high})" for mean, low, high in re.findall(INTERVAL, differences)]
    assert (len(figures), len(intervals)) == (24, 16)
    intervals = [re.sub(r"(\(|to )\+", r"\1", interval) for interval in intervals]
    assert not [figure for figure in figures + intervals if figure not in text]


@pytest.mark.parametrize("measured", [tta.table, new_class.table])
def test_the_tables_are_those_of_the_records(measured: Callable[[], str]) -> None:
    text = page("results.md")
    rows = measured().splitlines()[2:]
    assert rows
    assert not [row for row in rows if row not in text]
