"""What `report_to` hands to trackers, under which name, and what is refused before the work."""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

import pytest
from tiny_trainer import make_model, make_trainer
from user_data import complaint, folders, printed

from paco_hf import PaCoTrainingArguments
from paco_hf.trainer.validation import check_packages

SETTINGS = {
    "report_to": "tensorboard",
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
}


def scalars(folder: Path) -> dict[str, list[int]]:
    """The steps of each curve in a folder of TensorBoard."""
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    curves = module.EventAccumulator(str(folder)).Reload()
    return {name: [event.step for event in curves.Scalars(name)] for name in curves.Tags()["scalars"]}


def test_loss_parts_and_scores_of_the_groups_reach_tensorboard(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("tensorboard")
    model = make_model(class_counts=[500, 200, 50, 5, 2])
    for start in (0, 2):
        monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / f"from {start}"))
        trainer = make_trainer(tmp_path, model, evaluate=10, **SETTINGS, max_steps=start + 2)
        trainer.train(resume_from_checkpoint=start > 0)
        curves = scalars(tmp_path / f"from {start}")
        for name in ("loss", "class_loss", "contrast_loss", "positives_per_anchor", "queue_fill", "learning_rate"):
            assert curves[f"train/{name}"] == [start + 1, start + 2]
        for name in ("accuracy", "balanced_accuracy", "many", "medium", "few"):
            assert curves[f"eval/{name}"] == [start + 2]


def test_a_run_logs_once_and_a_dry_run_nothing(tmp_path: Path, monkeypatch, capsys) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    data = folders(tmp_path / "data", {"a": 30, "b": 8})
    argv = ["--dataset", str(data), "--backbone", "cifar_resnet20", "--max_steps", "2", "--report_to"]
    argv += ["tensorboard", "--output_dir", "run"]
    printed(capsys, *argv, "--dry_run")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    printed(capsys, *argv)
    (folder,) = (tmp_path / "run" / "runs").iterdir()
    assert {"train/class_loss", "eval/few"} <= scalars(folder).keys()


def test_a_run_is_named_after_its_folder(tmp_path: Path) -> None:
    assert make_trainer(tmp_path / "rare").args.run_name.startswith("rare 2")
    assert make_trainer(tmp_path / "rare", run_name="mine").args.run_name == "mine"


def test_nobody_logged_in_is_one_line_before_the_work(tmp_path: Path, monkeypatch, capsys) -> None:
    def login() -> None:
        raise wandb.Error("No API key configured. Use `wandb login` to log in.\nAnd more")

    wandb: Any = module_from_spec(ModuleSpec("wandb", None))
    wandb.run, wandb.login, wandb.Error = None, login, type("Error", (Exception,), {})
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    line = complaint(capsys, "train", "--dataset", "builtin", "--report_to", "wandb")
    assert line == (
        "paco-hf train: report_to 'wandb': No API key configured. Use `wandb login` to log in; or set "
        "WANDB_MODE=offline to sync it later"
    )
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_packages(PaCoTrainingArguments(output_dir=str(tmp_path), report_to="wandb", use_cpu=True))
