"""What evaluations of a trainer get and give: logits for the user, class ids for the package's own metrics; and what
a trainer cannot take."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_trainer import Images, make_model
from torch.utils.data import SequentialSampler
from transformers import ResNetConfig, ResNetForImageClassification, TrainingArguments

from paco_hf import PaCoForContrastiveTraining, PaCoTrainer, PaCoTrainingArguments

EVERY = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}


def trainer_of(folder: Path, settings: dict | None = None, **kwargs) -> PaCoTrainer:
    settings = {"max_steps": 2, "precision": "fp32", "per_device_train_batch_size": 8, **EVERY, **(settings or {})}
    args = PaCoTrainingArguments(output_dir=str(folder), disable_tqdm=True, **{"loss": "ce", **settings})
    kwargs = {"train_dataset": Images(16), "eval_dataset": Images(11), **kwargs}
    return PaCoTrainer(make_model(), args, **kwargs)


@pytest.mark.parametrize("later", [False, True], ids=["passed", "set later"])
def test_metrics_of_the_user_get_logits(later: bool, tmp_path: Path) -> None:
    shapes = []

    def metrics(prediction) -> dict[str, float]:
        shapes.append(prediction.predictions.shape)
        return {"mine": float((prediction.predictions.argmax(axis=1) == prediction.label_ids).mean())}

    kwargs = {} if later else {"compute_metrics": metrics}
    trainer = trainer_of(tmp_path, {"metric_for_best_model": "loss" if later else "mine"}, **kwargs)
    own = trainer_of(tmp_path).evaluate()["eval_accuracy"]
    trainer.compute_metrics = metrics
    assert trainer.evaluate()["eval_mine"] == pytest.approx(own)
    if not later:
        trainer.train()
        assert trainer.state.best_metric == max(e["eval_mine"] for e in trainer.state.log_history if "eval_mine" in e)
    assert set(shapes) - {(5, 5)} == {(11, 5)}  # an image of each class before the training


def test_predict_gives_logits_and_the_metrics(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    scores = trainer.evaluate()
    output = trainer.predict(Images(11))
    assert output.predictions.shape == (11, 5)
    assert output.metrics["test_accuracy"] == scores["eval_accuracy"]
    assert np.mean(output.predictions.argmax(-1) == output.label_ids) == pytest.approx(scores["eval_accuracy"])


def test_the_package_s_metrics_gather_class_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    monkeypatch.setattr(
        "paco_hf.trainer.paco_trainer.validation_scores",
        lambda predictions, references, config: shapes.append(predictions.shape) or {"balanced_accuracy": 0.5},
    )
    trainer = trainer_of(tmp_path)
    shapes.clear()
    trainer.train()
    assert set(shapes) == {(11,)}


def test_several_data_sets_are_evaluated_by_name(tmp_path: Path) -> None:
    sets = {"here": Images(11), "there": Images(7)}
    trainer = trainer_of(tmp_path, {"metric_for_best_model": "eval_there_balanced_accuracy"}, eval_dataset=sets)
    trainer.train()
    logged = {key for entry in trainer.state.log_history for key in entry}
    assert {"eval_here_accuracy", "eval_there_accuracy"} <= logged
    values = [e["eval_there_balanced_accuracy"] for e in trainer.state.log_history if "eval_there_accuracy" in e]
    assert trainer.state.best_metric == max(values)
    assert trainer.state.best_global_step == 1 + values.index(max(values))
    with pytest.raises(ValueError, match=r"metric_for_best_model must be one of here_accuracy, .* got 'balanced_acc"):
        trainer_of(tmp_path / "other", eval_dataset=sets)


def test_without_metrics_the_loss_selects(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, compute_metrics=None)
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert trainer.state.best_metric == min(losses)
    assert not any("accuracy" in key for entry in trainer.state.log_history for key in entry)
    assert (tmp_path / f"selected-{1 + losses.index(min(losses))}.safetensors").is_file()


class Wrong(Images):
    def __getitem__(self, index: int) -> dict:
        return {**super().__getitem__(index), "labels": 9 if index == 3 else -1 if index == 12 else 0}


@pytest.mark.parametrize("loss", ["ce", "paco", "balanced_softmax"])
def test_labels_of_no_class_are_refused(loss: str, tmp_path: Path) -> None:
    settings = {"eval_strategy": "no", "save_strategy": "no", "loss": loss}
    with pytest.raises(ValueError, match=r"a label is (9|-1), but the model has 5 classes, 0 to 4: renumber"):
        trainer_of(tmp_path, settings, train_dataset=Wrong(16)).train()
    with pytest.raises(ValueError, match=r"a label is (9|-1), but"):
        trainer_of(tmp_path, settings).evaluate(Wrong(16))


def test_what_other_trainers_take_is_refused(tmp_path: Path) -> None:
    resnet = ResNetForImageClassification(ResNetConfig(depths=[1], hidden_sizes=[8], embedding_size=8))
    with pytest.raises(ValueError, match="the model is a ResNetForImageClassification, but a PaCoTrainer trains"):
        PaCoTrainer(resnet, PaCoTrainingArguments(output_dir=str(tmp_path)), train_dataset=Images(16))
    with pytest.raises(ValueError, match="args are TrainingArguments, but a PaCoTrainer needs PaCoTrainingArguments"):
        PaCoTrainer(make_model(), TrainingArguments(output_dir=str(tmp_path)), train_dataset=Images(16))
    with pytest.raises(ValueError, match=r"train_sampler is a SequentialSampler without set_epoch\(epoch\)"):
        trainer_of(tmp_path, train_sampler=SequentialSampler(range(16)))


def test_without_metrics_of_several_data_sets(tmp_path: Path) -> None:
    sets = {"here": Images(11), "there": Images(7)}
    trainer = trainer_of(tmp_path / "a", compute_metrics=None, eval_dataset=sets)
    trainer.train()
    assert trainer.args.metric_for_best_model == "here_loss"
    trainer = trainer_of(
        tmp_path / "b", {"metric_for_best_model": "there_loss"}, compute_metrics=None, eval_dataset=sets
    )
    trainer.train()
    losses = [entry["eval_there_loss"] for entry in trainer.state.log_history if "eval_there_loss" in entry]
    assert trainer.state.best_metric == min(losses)
    with pytest.raises(ValueError, match="must be one of loss for these classes, got 'accuracy'"):
        trainer_of(tmp_path / "c", {"metric_for_best_model": "accuracy"}, compute_metrics=None)


def test_a_loss_of_the_caller_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="compute_loss_func would not be called"):
        trainer_of(tmp_path, compute_loss_func=lambda *_: 0)


def test_an_optimizer_that_lacks_what_is_trained_is_refused(tmp_path: Path) -> None:
    model = make_model()
    args = PaCoTrainingArguments(output_dir=str(tmp_path), loss="paco", queue_size=8, precision="fp32")
    optimizers = (torch.optim.SGD(model.parameters(), lr=0.1), None)
    with pytest.raises(
        ValueError, match="the optimizer is missing 6 of the trained parameters, the first is projector"
    ):
        PaCoTrainer(model, args, train_dataset=Images(128), optimizers=optimizers)
    training = PaCoForContrastiveTraining.from_classifier(model, "paco", queue_size=8)
    optimizers = (torch.optim.SGD([p for p in training.parameters() if p.requires_grad], lr=0.1), None)
    assert PaCoTrainer(training, args, train_dataset=Images(128), optimizers=optimizers)
