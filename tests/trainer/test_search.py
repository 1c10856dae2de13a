"""`model_init`, and searches over settings with Optuna."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_trainer import Images as RandomImages
from tiny_trainer import make_model, weights
from transformers import BitImageProcessor

from paco_hf import PaCoForImageClassification, PaCoTrainer, PaCoTrainingArguments
from paco_hf.data import class_counts
from paco_hf.data.augmentation.batched_transforms import BatchedView, BatchedViews
from paco_hf.data.images import Images
from paco_hf.data.loading import load_data
from paco_hf.data.long_tail import stratified_split
from paco_hf.data.torch_datasets import EvaluationDataset, ImageCollator, WholeImages


def trainer_of(folder: Path, loss: str = "paco", **settings) -> PaCoTrainer:
    settings = {"max_steps": 4, "queue_size": 20, "projection_dim": 16, "per_device_train_batch_size": 8, **settings}
    settings = {"precision": "fp32", "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "no", **settings}
    args = PaCoTrainingArguments(output_dir=str(folder), loss=loss, disable_tqdm=True, **settings)
    return PaCoTrainer(
        args=args, model_init=lambda: make_model(), train_dataset=RandomImages(32), eval_dataset=RandomImages(16)
    )


@pytest.mark.parametrize("loss", ["paco", "ce"])
def test_a_second_training_starts_anew(loss: str, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, loss)
    trainer.train()
    first = weights(trainer)
    trainer.train()
    assert all(torch.equal(value, first[name]) for name, value in weights(trainer).items())


@pytest.mark.parametrize("save_strategy", [pytest.param("no", marks=pytest.mark.slow), "steps"])
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


@pytest.mark.slow
def test_a_search_on_the_builtin_set(tmp_path: Path) -> None:
    """As the parts of a run are put together for a search: three trials, then a run with the best settings."""
    pytest.importorskip("optuna")
    data = load_data()
    trained, validation = stratified_split(data.train.labels, 0.1, seed=0)
    labels, counts = np.array(data.train.labels), class_counts(np.array(data.train.labels)[trained], 20)
    pixels = Images(data.train).pixels()
    processor = BitImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False, do_convert_rgb=True)

    def model() -> PaCoForImageClassification:
        return PaCoForImageClassification.from_timm(
            "cifar_resnet20", num_labels=20, class_counts=counts, image_size=32
        )

    def trainer_in(folder: Path, **settings) -> PaCoTrainer:
        settings = {"loss": "paco", "queue_size": 256, "num_train_epochs": 2, "precision": "fp32", **settings}
        return PaCoTrainer(
            args=PaCoTrainingArguments(output_dir=str(folder), disable_tqdm=True, **settings),
            model_init=model,
            train_dataset=WholeImages(pixels[trained], labels[trained]),
            eval_dataset=EvaluationDataset([data.train.open(i) for i in validation], labels[validation]),
            data_collator=ImageCollator(processor),
            batched_views=BatchedViews(
                [BatchedView(name, 32) for name in ("cifar_rand", "cifar_sim")],
                processor.image_mean,
                processor.image_std,
            ),
        )

    def space(trial) -> dict:
        return {
            "learning_rate": trial.suggest_float("learning_rate", 0.01, 0.3, log=True),
            "temperature": trial.suggest_float("temperature", 0.05, 0.3),
            "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [64, 128]),
        }

    best = trainer_in(tmp_path / "search").hyperparameter_search(
        space, lambda metrics: metrics["eval_balanced_accuracy"], n_trials=3, direction="maximize"
    )
    again = trainer_in(tmp_path / "again", **best.hyperparameters)
    again.train()
    assert again.evaluate()["eval_balanced_accuracy"] == best.objective > 0.05
    assert {name: getattr(again.args, name) for name in best.hyperparameters} == best.hyperparameters
