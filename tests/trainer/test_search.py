"""`model_init`, and searches over settings with Optuna."""

from pathlib import Path

import pytest
import torch
from tiny_trainer import Images, make_model, weights

from paco_hf import PaCoTrainer, PaCoTrainingArguments


def trainer_of(folder: Path, loss: str = "paco", **settings) -> PaCoTrainer:
    settings = {"max_steps": 4, "queue_size": 20, "projection_dim": 16, "per_device_train_batch_size": 8, **settings}
    settings = {"precision": "fp32", "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "no", **settings}
    args = PaCoTrainingArguments(output_dir=str(folder), loss=loss, disable_tqdm=True, **settings)
    return PaCoTrainer(args=args, model_init=lambda: make_model(), train_dataset=Images(32), eval_dataset=Images(16))


@pytest.mark.parametrize("loss", ["paco", "ce"])
def test_a_second_training_starts_anew(loss: str, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, loss)
    trainer.train()
    first = weights(trainer)
    trainer.train()
    assert all(torch.equal(value, first[name]) for name, value in weights(trainer).items())


@pytest.mark.parametrize("save_strategy", ["no", "steps"])
def test_the_best_settings_of_a_search_train_exactly_these(save_strategy: str, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    saves = {"save_strategy": save_strategy, "save_steps": 2}
    trainer = trainer_of(tmp_path / "search", **saves)
    best = trainer.hyperparameter_search(
        direction="maximize",
        n_trials=3,
        hp_space=lambda trial: {
            "learning_rate": trial.suggest_float("learning_rate", 1e-3, 1.0, log=True),
            "temperature": trial.suggest_categorical("temperature", [0.05, 0.2]),
            "loss": trial.suggest_categorical("loss", ["paco", "balanced_softmax"]),
        },
        compute_objective=lambda metrics: -metrics["eval_loss"],
    )
    assert best.hyperparameters.keys() == {"learning_rate", "temperature", "loss"}
    again = trainer_of(tmp_path / "again", **saves, **best.hyperparameters)
    again.train()
    assert -again.evaluate()["eval_loss"] == best.objective
    if save_strategy == "steps":
        folders = sorted(path.parent.name for path in (tmp_path / "search").glob("run-*/checkpoint-4"))
        assert folders == ["run-0", "run-1", "run-2"]
