"""Model cards say what was measured, and what others report, and nothing else; those of the recipes are up to date."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import ROOT
from huggingface_hub import ModelCard, parse_eval_result_entries
from tiny_trainer import make_model

from paco_hf.arguments.recipes import read_recipe, recipe_names
from paco_hf.cli import main
from paco_hf.data.long_tail import long_tailed_counts
from paco_hf.models.image_processing import build_processor
from paco_hf.reports.model_card import recipe_card, recipe_cards, write_card
from paco_hf.reports.model_card_text import guessing
from paco_hf.reports.plots import COUNTS_NAME, CURVE_NAME, FREQUENCY_NAME
from paco_hf.runs.redaction import public_name, public_settings
from paco_hf.trainer.callbacks import TrainingTime
from paco_hf.utils.versions import versions

MODEL_CARDS = ROOT / "model_cards"


@pytest.fixture(scope="module")
def runs(paco_run: Path, ce_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of PaCo, and one of the baseline."""
    root = tmp_path_factory.mktemp("runs")
    made = {"paco": paco_run, "ce": ce_run}
    return {loss: Path(shutil.copytree(run, root / loss)) for loss, run in made.items()}


def test_card_of_a_run(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--baselines", str(runs["ce"]), "--license", "mit", "--repo_id", "ada/rare"]
    assert main(["card", str(runs["paco"]), *flags]) == 0
    path = Path(capsys.readouterr().out.strip())
    card = ModelCard.load(path)
    data = card.data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "image-classification", "mit")
    metrics = {loss: json.loads((run / "metrics.json").read_text()) for loss, run in runs.items()}
    record = json.loads((runs["paco"] / "run.json").read_text())
    for result in data.eval_results:
        key = {"top-1 accuracy": "accuracy", "balanced accuracy": "balanced_accuracy"}.get(
            result.metric_name, result.metric_name.split("-")[0]
        )
        assert result.metric_value == round(metrics["paco"][result.dataset_split][key], 6)
    assert {result.dataset_split for result in data.eval_results} == {"test", "validation"}
    for name, loss in (("**PaCo**", "paco"), ("cross-entropy", "ce")):
        cells = [f"{100 * metrics[loss]['test'][k]:.1f}" for k in ("accuracy", "many", "medium", "few")]
        assert f"| {name} | {' | '.join(cells)} |" in card.text
    assert "The logits are *balanced*" in card.text
    plain = " ".join(write_card(runs["ce"], into=path.parent.parent).read_text().split())
    assert "The logits are those of a training without class prior" in plain
    for part in (
        'pipeline("image-classification", model="ada/rare")',
        "trust_remote_code=True",
        "paco-hf predict ada/rare",
        "builtin test (2000 images)",
        "250 to 5 per class; 5 classes with many",
        record["data"]["train"]["selection"],
        "](class_counts.png)",
        "`queue_size` 64 instead of 512",
        record["training"]["hardware"],
        *(f"{name} {version}" for name, version in versions().items()),
        "s of training on ",
    ):
        assert part in card.text, part
    assert "Reported, not measured" not in card.text
    assert "No measured" not in card.text
    for name in (COUNTS_NAME, CURVE_NAME, FREQUENCY_NAME):
        assert (runs["paco"] / name).read_bytes().startswith(b"\x89PNG")
        assert f"]({name})" in card.text
    assert str(runs["paco"].parent) not in card.content
    # The recipe that lies beside is the run's.
    assert yaml.safe_load((runs["paco"] / "recipe.yaml").read_text())["queue_size"] == 64


def test_results_in_the_hubs_format(runs: dict[str, Path], tmp_path: Path, blank_figures: None) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for file in runs["paco"].iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    row = read_recipe("paco-resnet32-cifar100-lt-100")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(row.settings))
    record = {**json.loads((folder / "run.json").read_text()), "dataset": "cifar100-lt"}
    (folder / "run.json").write_text(json.dumps(record))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "backbone": "cifar_resnet32"}))
    write_card(folder, recipe=row.name)
    (entry,) = parse_eval_result_entries(yaml.safe_load((folder / ".eval_results" / "paco_hf.yaml").read_text()))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (entry.dataset_id, entry.value) == ("uoft-cs/cifar100", round(metrics["test"]["accuracy"], 6))
    assert entry.date == json.loads((folder / "run.json").read_text())["finished"]
    card = ModelCard.load(folder / "README.md")
    assert card.data.datasets == "uoft-cs/cifar100"
    # Both stand there, and it is said which is which.
    assert f"Reported by others: top-1 **{row.reported['top1']}**" in card.text
    # What others measured on other hardware is added where it is known.
    (folder / "emissions.csv").write_text("timestamp,emissions\na,0.25\nb,0.5\n")
    (folder / "metrics.json").unlink()
    text = write_card(folder, recipe=row.name).read_text()
    assert "0.75 kg CO2" in text
    assert "**Not measured.**" in text
    assert "model-index" not in text


def test_evidence_of_something_else_is_refused(runs: dict[str, Path], tmp_path: Path, blank_figures: None) -> None:
    with pytest.raises(ValueError, match="does not follow paco-resnet50-imagenet-lt: its dataset is builtin"):
        write_card(runs["paco"], recipe="paco-resnet50-imagenet-lt", into=tmp_path)
    other = tmp_path / "other"
    shutil.copytree(runs["ce"], other)
    text = write_card(runs["paco"], baselines=[runs["ce"], other], into=tmp_path).read_text()
    assert "| cross-entropy | " in text
    assert "| cross-entropy (other) | " in text
    record = json.loads((other / "run.json").read_text())
    record["data"]["test"]["selection"] = "of other images"
    (other / "run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="was scored on other images"):
        write_card(runs["paco"], baselines=[other], into=tmp_path)


def test_a_checkpoint_is_of_its_run(runs: dict[str, Path], tmp_path: Path, blank_figures: None) -> None:
    checkpoint = next(runs["ce"].glob("checkpoint-*"))
    text = write_card(checkpoint, into=tmp_path).read_text()
    assert "| method | cross-entropy |" in text
    assert "**Not measured.**" in text
    alone = tmp_path / "alone"
    shutil.copytree(checkpoint, alone)
    text = write_card(alone).read_text()
    assert "| method | not known |" in text
    assert "PaCo" not in text.split("## How to use it")[0]


def test_without_a_test_split_the_card_says_so(runs: dict[str, Path], tmp_path: Path, blank_figures: None) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs["paco"], folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps({**metrics, "test": None}))
    text = write_card(folder).read_text()
    assert "There was no test split" in text
    assert "evaluated once, at the end" not in text


def test_chance_depends_on_the_images() -> None:
    scores = {"per_class": [0.7, 0.74], "balanced_accuracy": 0.72}
    assert guessing(scores, 1000) is None
    assert guessing({**scores, "balanced_accuracy": 0.52}, 1000) is not None
    assert guessing({**scores, "balanced_accuracy": 0.52}, 100_000) is None


def test_a_card_needs_a_model(tmp_path: Path, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ([str(tmp_path)], "has no finished model"),
        ([str(tmp_path / "none")], "none does not exist: pass a run folder"),
        ([str(runs["paco"]), "--baselines", str(tmp_path)], "has no test scores"),
        ([str(runs["paco"]), "--recipe", "paco-resnet"], "did you mean"),
        ([], "pass either a run folder or --recipes"),
    ):
        assert main(["card", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_cards_of_the_recipes_are_up_to_date() -> None:
    stale = [path.parent.name for path, text in recipe_cards(MODEL_CARDS) if not _same(path, text)]
    assert not stale, f"make cards renders the cards of {', '.join(stale)} anew"
    assert {path.name for path in MODEL_CARDS.iterdir()} == set(recipe_names())


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", recipe_names())
def test_card_of_a_recipe_shows_nothing_as_measured(name: str) -> None:
    card = recipe_card(name)
    assert "**No measured weights.**" in card.text
    assert not card.data.eval_results
    assert "Measured:" not in card.text
    recipe = read_recipe(name)
    figures = re.findall(r"top-1 \*\*([\d.]+)\*\* \((.+?)\)\.", card.text)
    assert figures == ([(str(recipe.reported["top1"]), recipe.reported["source"])] if recipe.reported else [])
    for key in ("learning_rate", "num_train_epochs", "temperature"):
        if key in recipe.settings and recipe.settings["loss"] not in ("ce", "balanced_softmax"):
            value = recipe.settings[key]
            assert f"| `{key}` | {float(value) if key == 'num_train_epochs' else value} |" in card.text


def test_counts_of_a_recipes_data() -> None:
    counts = long_tailed_counts(500, 100, 50)
    assert f"{sum(counts)} training images of 100 classes" in recipe_card("paco-resnet32-cifar100-lt-50").text
    card = recipe_card("paco-resnet50-imagenet-lt").text
    assert "115846 training images of 1000 classes" in card
    assert "(published statistics)" in card


def test_paths_are_nobodys_business(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert public_name(str(tmp_path / "birds")) == "birds"
    assert public_name("../data/birds") == "birds"
    monkeypatch.chdir(tmp_path)
    Path("data/birds").mkdir(parents=True)
    assert public_name("data/birds") == "birds"
    assert public_name("ada/birds") == "ada/birds"
    assert public_name("cifar100-lt") == "cifar100-lt"
    settings = {"dataset": "/home/ada/birds", "train_list": "/home/ada/list", "pretrained_file": "x", "seed": 1}
    assert public_settings(settings) == {"dataset": "birds", "seed": 1}
    # What looks like a Hub id may have been a path: the run knew.
    assert public_settings({"dataset": "data/birds"}) == {"dataset": "birds"}
    assert public_settings({"dataset": "ada/birds"}, "ada/birds") == {"dataset": "ada/birds"}


def test_training_time_counts_what_came_before_a_resume() -> None:
    state = SimpleNamespace(global_step=0, stateful_callbacks={})
    time = TrainingTime()
    time.on_train_begin(None, state, None)
    assert time.seconds < 5
    state.global_step, state.stateful_callbacks = 7, {"TrainingTime": {"attributes": {"seconds": 100.0}}}
    time.on_train_begin(None, state, None)
    assert 100 <= time.seconds < 105
    state.stateful_callbacks = {}
    time.on_train_begin(None, state, None)
    assert time.seconds != time.seconds  # of a checkpoint without a record: not known


@pytest.mark.parametrize(
    ("fields", "stored", "shown"),
    [
        ({"classifier_scale": 16.0}, torch.float32, "(16) |"),
        ({"classifier_scale": 16.0, "learn_classifier_scale": True}, torch.float32, "(20.25, trained from 16 on) |"),
        ({"classifier_scale": 16.0, "learn_classifier_scale": True}, torch.bfloat16, "(trained from 16 on) |"),
    ],
)
def test_card_of_a_cosine_classifier(
    fields: dict, stored: torch.dtype, shown: str, tmp_path: Path, blank_figures: None
) -> None:
    model = make_model("resnet18", classifier="cosine", **fields)
    model.classifier.scale.data.fill_(20.25)
    model.to(stored).save_pretrained(tmp_path)
    card = write_card(tmp_path).read_text()
    row = "| classifier | cosine: the logits are cosines of features and class centers, times a scale "
    assert row + shown in card
    assert "--to timm --dataset FOLDER    # a linear classifier of the same top-1" in card


def test_card_says_what_came_before_training(runs: dict[str, Path], tmp_path: Path, blank_figures: None) -> None:
    run = Path(shutil.copytree(runs["ce"], tmp_path / "run"))
    record = json.loads((run / "run.json").read_text())
    record["training"] |= {"seconds": 4.2, "feature_seconds": 90.0, "cross_validation_seconds": 7200}
    (run / "run.json").write_text(json.dumps(record))
    expected = (
        "4.2 seconds of training, after 1.5 minutes for the features of the images and 2.0 hours of cross-validation"
    )
    assert expected + " on " in write_card(run).read_text()


def test_card_of_a_model_that_pads_proposes_what_is_possible(tmp_path: Path, blank_figures: None) -> None:
    make_model("resnet18").save_pretrained(tmp_path)
    for fit, possible in (("crop", True), ("pad", False)):
        build_processor(32, [0.5] * 3, [0.5] * 3, fit=fit).save_pretrained(tmp_path)
        card = write_card(tmp_path).read_text()
        assert ("--to timm" in card) is possible
        assert ("brings four files of code" in card) is possible  # and else five
        assert "OUT --to onnx" in card


def test_card_of_a_linear_classifier_has_no_such_row(
    runs: dict[str, Path], tmp_path: Path, blank_figures: None
) -> None:
    card = write_card(runs["paco"], into=tmp_path).read_text()
    assert "cosine:" not in card
    assert "`classifier" not in card
