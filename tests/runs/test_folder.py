"""A run folder reads alike whole, as a checkpoint, and with files that are missing or damaged."""

import json
import re
from pathlib import Path

import pytest
import yaml

from paco_hf.runs.folder import RunFolder
from paco_hf.runs.output_folder import changed_settings, clear_run
from paco_hf.utils.files import replacing, write_json, write_text


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "checkpoint-4").mkdir(parents=True)
    (folder / "checkpoint-10").mkdir()
    (folder / "evaluation").mkdir()
    recipe = {"dataset": "/data/birds", "dataset_path": "/data", "loss": "ce", "seed": 3}
    write_text(folder / "recipe.yaml", yaml.safe_dump(recipe))
    write_json(folder / "run.json", {"dataset": "birds", "training": {"seconds": 2}})
    write_json(folder / "metrics.json", {"test": None, "validation": {"accuracy": 0.5}})
    write_json(folder / "splits.json", {"splits": {}})
    write_json(folder / "evaluation" / "results.json", {"images": 7})
    write_text(folder / "log.jsonl", '{"loss": 1.5}\n{"eval_accuracy": 0.5}\n')
    write_text(folder / "emissions.csv", "timestamp,emissions\na,0.25\nb,0.5\n")
    return folder


def test_everything_that_a_run_left(run: Path) -> None:
    read = RunFolder(run)
    assert read.recipe["dataset"] == "/data/birds"
    assert read.settings == {"dataset": "birds", "loss": "ce", "seed": 3}
    assert (read.record["training"], read.scored_split) == ({"seconds": 2}, "validation")
    assert read.log == [{"loss": 1.5}, {"eval_accuracy": 0.5}]
    assert (read.manifest, read.evaluation, read.emissions) == ({"splits": {}}, {"images": 7}, 0.75)
    assert [path.name for path in read.checkpoints] == ["checkpoint-4", "checkpoint-10"]
    assert (read.conversion, read.config) == ({}, {})
    read.check_finished()
    with pytest.raises(ValueError, match="no finished model"):
        read.check_model()
    # Read once: what changes later is for a new object.
    write_json(run / "metrics.json", {"test": {"accuracy": 1.0}})
    assert (read.scored_split, RunFolder(run).scored_split) == ("validation", "test")


def test_a_checkpoint_has_the_recipe_of_its_run_and_no_scores(run: Path) -> None:
    checkpoint = RunFolder(run / "checkpoint-10")
    assert checkpoint.home == run.resolve()
    assert (checkpoint.recipe["loss"], checkpoint.metrics, checkpoint.evaluation) == ("ce", {}, {})
    (run / "recipe.yaml").unlink()
    assert RunFolder(run / "checkpoint-10").home == run / "checkpoint-10"


@pytest.mark.parametrize(
    ("name", "attribute"),
    [
        ("recipe.yaml", "recipe"),
        ("run.json", "record"),
        ("metrics.json", "metrics"),
        ("splits.json", "manifest"),
        ("log.jsonl", "log"),
        ("config.json", "config"),
        ("conversion.json", "conversion"),
        ("evaluation/results.json", "evaluation"),
    ],
)
def test_a_damaged_file_is_named(run: Path, name: str, attribute: str) -> None:
    for content in (b"{", b"[1]\n", b"\xff\xfe"):
        (run / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{re.escape(str(run / name))} is damaged"):
            getattr(RunFolder(run), attribute)
    (run / name).unlink()
    assert not getattr(RunFolder(run), attribute)


def test_a_finished_run_has_all_files(run: Path) -> None:
    (run / "log.jsonl").unlink()
    with pytest.raises(OSError, match=re.escape(f"{run / 'log.jsonl'} is missing")):
        RunFolder(run).check_finished()


def test_changed_settings_know_defaults(run: Path) -> None:
    assert changed_settings(run, {"dataset": "/data/birds", "dataset_path": "/data", "loss": "ce", "seed": 3}) == ""
    assert changed_settings(run, {"loss": "paco", "queue_size": 8}, only_named=True) == (
        "loss ce -> paco, queue_size 8192 -> 8"
    )


def test_what_was_not_written_by_a_run_stays(run: Path) -> None:
    (run / "notes.txt").write_text("mine")
    (run / "metrics.json.123.partial").write_text("{")
    clear_run(run)
    assert sorted(path.name for path in run.iterdir()) == ["emissions.csv", "notes.txt"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    write_json(path, {"a": 1})

    def interrupted() -> None:
        with replacing(path) as unfinished:
            unfinished.write_text("{")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
