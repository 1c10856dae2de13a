"""A run folder reads alike whole, as a checkpoint, and with files that are missing or damaged."""

import json
import re
from pathlib import Path

import pytest
import yaml

from paco_hf.arguments.run_arguments import RunArguments
from paco_hf.arguments.training_args import PaCoTrainingArguments
from paco_hf.runs.folder import RunFolder
from paco_hf.runs.output_folder import changed_settings, clear_run, open_folder
from paco_hf.utils.files import is_changed, replacing, write_json, write_signed, write_text


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    for step in (4, 10):
        (folder / f"checkpoint-{step}").mkdir(parents=True)
        write_json(folder / f"checkpoint-{step}" / "trainer_state.json", {"global_step": step})
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
    mine = {
        "notes.txt": "mine",
        "adapter/notes.txt": "mine",
        "evaluation/thesis.txt": "mine",
        "evaluation_2024/results.json": "{}",
        "checkpoint-4/extra.txt": "mine",
        "checkpoint-7/other_tool.bin": "mine",
        "checkpoint-best/model.safetensors": "mine",
    }
    for name, content in mine.items():
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text(content)
    for name in ("metrics.json.123.partial", "adapter/adapter_model.safetensors", "checkpoint-8/trainer_state.json"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("{")
    card = run / "README.md"
    card.write_text("mine")
    assert write_signed(card, "# A card\n") == run / "README.kept.md"
    clear_run(run)
    assert not (run / "checkpoint-10").exists()
    left = sorted(str(file.relative_to(run)) for file in run.rglob("*") if file.is_file())
    assert left == sorted([*mine, "README.kept.md", "emissions.csv"])


def test_a_card_that_was_changed_is_kept(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    assert write_signed(card, "one\n") is None
    assert write_signed(card, "two\n") is None
    for number, changed in enumerate((card.read_text() + "mine", "mine alone", card.read_text().replace("two", "2"))):
        card.write_text(changed)
        kept = write_signed(card, "three\n")
        assert kept == tmp_path / f"README.kept{number or ''}.md"
        assert kept.read_text() == changed
        assert not is_changed(card)
    assert card.read_text().startswith("three\n\n<!-- as paco-hf wrote it: ")


RECIPE = "loss: paco\ndataset: builtin\nbackbone: resnet18\nlearning_rate: 0.1\n"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"README.md": "mine", "config.json": "{}"}, r"is not empty and has no run \(README.md, config.json\)"),
        ({"recipe.yaml": "soup: 1\n", "log.jsonl": "{}"}, "has no run"),
        ({"recipe.yaml": RECIPE}, r"has no run \(recipe.yaml\)"),
        ({"log.jsonl": "{}\n"}, "has no run"),
        ({f"file{i}": "" for i in range(9)}, "and 4 more"),
        ({"recipe.yaml": RECIPE, "log.jsonl": ""}, None),
        ({"log.jsonl": "", ".lock": "{}"}, None),
    ],
)
@pytest.mark.parametrize("flag", ["overwrite", "resume"])
def test_a_folder_is_only_replaced_where_it_is_a_run(files, message, flag, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    run, args = RunArguments(**{flag: True}), PaCoTrainingArguments(output_dir=str(tmp_path))
    if message is None:
        assert open_folder(tmp_path, run, args) is None
        return
    with pytest.raises(ValueError, match=message):
        open_folder(tmp_path, run, args)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


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
