"""Every setting of `transformers.TrainingArguments`: what it does in a PaCo training, or that it is refused."""

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
import torch
from fresh_processes import FreshProcesses
from tiny_trainer import Images, make_model, make_trainer, weights
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments

from paco_hf import PaCoTrainer, PaCoTrainingArguments
from paco_hf.arguments.unsupported import UNSUPPORTED
from paco_hf.losses.specs import LOSSES

DOCS = Path(__file__).parents[2] / "docs" / "training-arguments.md"
EVERY_STEP = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
VALUES = {  # other than true, where the default is none of true and false
    "activation_checkpointing_kwargs": {"use_reentrant": False},
    "deepspeed": "zero2.json",
    "fsdp": "full_shard",
    "fsdp_config": {"transformer_layer_cls_to_wrap": "Block"},
    "gradient_checkpointing_kwargs": {"use_reentrant": False},
    "include_num_input_tokens_seen": "all",
    "label_names": ["target"],
    "length_column_name": "width",
    "liger_kernel_config": {"rope": True},
    "neftune_noise_alpha": 5.0,
    "parallelism_config": {"tp_size": 2},
    "train_sampling_strategy": "group_by_length",
}


NAMES = {field.name for field in dataclasses.fields(TrainingArguments)}
# Settings that some of the allowed releases lack, and deprecated ones that some still have.
LATER = {"activation_checkpointing", "activation_checkpointing_kwargs", "dataloader_in_order"}
LATER |= {"dataloader_multiprocessing_context"}
FORMER = {"logging_dir", "warmup_ratio"}


def test_every_setting_is_documented_with_what_happens() -> None:
    rows = re.findall(r"^\| (`.+?`) \| (.+?) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    fates = [(name, fate) for names, fate in rows for name in re.findall(r"`(\w+)`", names)]
    assert sorted(name for name, _ in fates) == sorted((NAMES | LATER) - FORMER)
    assert {name for name, fate in fates if fate.startswith("refused")} == set(UNSUPPORTED)


@pytest.mark.parametrize("name", [name for name in UNSUPPORTED if name in NAMES])
def test_refused(name: str, tmp_path: Path) -> None:
    default = next(field.default for field in dataclasses.fields(TrainingArguments) if field.name == name)
    value = VALUES.get(name, not default)
    if name == "logging_nan_inf_filter":
        value = True
    with pytest.raises(ValueError, match=f"^{name}=.* is not supported: ..."):
        PaCoTrainingArguments(output_dir=str(tmp_path), **{name: value})


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_wrappers_of_the_launcher_are_refused(variable: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ValueError, match=f"{variable}=true asks for .*, which is not supported"):
        PaCoTrainingArguments(output_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adam_beta2": 0.95}, "adam_beta2 is a setting of Adam, but optim is 'sgd'"),
        ({"epoch_schedule": "cosine", "lr_scheduler_type": "linear"}, "lr_scheduler_type=.* has no effect"),
        ({"epoch_schedule": "cosine", "warmup_steps": 10}, "warmup_steps=10 has no effect"),
        ({"loss": "balanced_softmax", "class_prior": False}, "class_prior=False contradicts loss .* use loss='ce'"),
        ({"warmup_epochs": 3}, "warmup_epochs=3 has no effect with epoch_schedule='none'"),
        ({"epoch_schedule": "mae", "lr_scheduler_kwargs": {"num_cycles": 2}}, "lr_scheduler_kwargs=.* has no effect"),
        ({"accelerator_config": {"split_batches": True}}, "accelerator_config with split_batches=True is not"),
        ({"accelerator_config": "config.json"}, "accelerator_config with even_batches=False is not"),
    ],
)
def test_what_another_setting_makes_idle_is_refused(settings: dict, message: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.json").write_text(json.dumps({"even_batches": False}))
    with pytest.raises(ValueError, match=message):
        PaCoTrainingArguments(output_dir=str(tmp_path), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optim": "rmsprop", "adam_beta1": 0.5}, "adam_beta1=0.5 has no effect with optim='rmsprop'"),
        ({"optim": "adamw_torch", "optim_args": "foo=1"}, "optim_args='foo=1' has no effect with optim='adamw_torch'"),
        ({"optim": "adamw_torch", "optim_target_modules": ["attn"]}, "optim_target_modules=.* has no effect"),
        ({"lr_scheduler_type": "linear", "lr_scheduler_kwargs": {"num_cycles": 2}}, "'linear' with .*num_cycles"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_type 'cosine_with_min_lr' with"),
    ],
)
def test_what_an_optimizer_or_schedule_does_not_take_is_refused(settings: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_grad_norm": -1.0}, "max_grad_norm must be at least 0"),
        ({"include_for_metrics": ["bogus"]}, "include_for_metrics may contain only 'inputs' and 'loss', got 'bogus'"),
        ({"max_steps": 3.5}, "max_steps must be a positive integer"),
        ({"accelerator_config": {"foo": 1}}, "accelerator_config has no setting 'foo'"),
        ({"torch_compile": True, "torch_compile_mode": "bogus"}, "'inductor' with torch_compile_mode 'bogus': "),
        ({"torch_compile": "maybe"}, "torch_compile must be one of auto, true, false"),
        ({"torch_compile": True, "gradient_checkpointing": True}, "gradient_checkpointing with torch_compile is not"),
        ({"torch_compile_backend": "bogus"}, "torch_compile_backend 'bogus' with torch_compile_mode None: "),
    ],
)
def test_values_that_there_are_not(settings: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        PaCoTrainingArguments(output_dir=str(tmp_path), **settings)


# Settings that change how a training is computed, and none of its numbers.
@pytest.mark.parametrize(
    "settings",
    [
        {"torch_empty_cache_steps": 1},
        {"remove_unused_columns": True},
        {"full_determinism": True},
        {"skip_memory_metrics": False},
        {"debug": "underflow_overflow"},
        # Slow as such workers are waited for when they are no longer needed.
        pytest.param(
            {"dataloader_num_workers": 2, "dataloader_persistent_workers": True, "dataloader_prefetch_factor": 1},
            marks=pytest.mark.slow,
        ),
        {"dataloader_num_workers": 2, "dataloader_prefetch_factor": 1},
        pytest.param(
            {"dataloader_num_workers": 1, "dataloader_multiprocessing_context": "fork"},
            marks=pytest.mark.skipif("dataloader_multiprocessing_context" not in NAMES, reason="of later releases"),
        ),
        {"dataloader_pin_memory": False},
        {"eval_accumulation_steps": 1},
        {"accelerator_config": {"non_blocking": True}},
    ],
    ids=lambda settings: "-".join(settings),
)
@pytest.mark.parametrize("loss", ["paco", "ce"])
def test_the_same_numbers(settings: dict, loss: str, tmp_path: Path) -> None:
    assert_same_numbers(settings, loss, tmp_path)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("loss", ["ce"])  # of the others tests/trainer/test_compiled.py
def test_compiled(backend: str, loss: str, with_trainer: FreshProcesses, tmp_path: Path) -> None:
    # In a process of its own: it starts threads of autograd, after which no fork of this one could train.
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import pathlib, test_training_arguments
settings = {{"torch_compile": True, "torch_compile_backend": {backend!r}}}
test_training_arguments.assert_same_numbers(settings, {loss!r}, pathlib.Path({str(tmp_path)!r}))
"""
    with_trainer.run(code)


def assert_same_numbers(settings: dict, loss: str, tmp_path: Path) -> None:
    common = {"loss": loss, "max_steps": 3, "evaluate": 12, "eval_strategy": "steps", "eval_steps": 3}
    plain, other = make_trainer(tmp_path / "a", **common), make_trainer(tmp_path / "b", **common, **settings)
    for trainer in (plain, other):
        trainer.train()
    names = ("loss", "eval_loss", "eval_balanced_accuracy", "eval_accuracy")
    for entry, expected in zip(other.state.log_history, plain.state.log_history, strict=True):
        assert {n: entry[n] for n in names if n in entry} == pytest.approx(
            {n: expected[n] for n in names if n in expected}, rel=1e-5
        )
    for name, tensor in weights(plain).items():
        assert torch.allclose(tensor, weights(other)[name], atol=1e-6), name
    other.save_model(tmp_path / "model")
    assert type(plain.classifier).from_pretrained(tmp_path / "model").config.num_labels == 5


def test_evaluation_at_the_start_and_after_a_delay(tmp_path: Path) -> None:
    settings = {"max_steps": 4, "evaluate": 8, **EVERY_STEP, "logging_first_step": True, "logging_steps": 3}
    trainer = make_trainer(tmp_path, **settings, eval_on_start=True, eval_delay=3)
    trainer.train()
    steps = {name: [e["step"] for e in trainer.state.log_history if name in e] for name in ("eval_loss", "loss")}
    assert steps == {"eval_loss": [0, 3, 4], "loss": [1, 3]}
    assert trainer.state.best_global_step in (3, 4)


def test_the_loss_alone(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=2, evaluate=8, **EVERY_STEP, prediction_loss_only=True)
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert trainer.state.best_metric == min(losses)
    assert not any("eval_accuracy" in entry for entry in trainer.state.log_history)


def test_metrics_get_what_they_ask_for(tmp_path: Path) -> None:
    def metrics(prediction) -> dict[str, float]:
        assert prediction.inputs.shape == (12, 3, 32, 32)
        assert prediction.losses.shape == (12,)
        return {"mine": 0.5}

    args = {"include_for_metrics": ["inputs", "loss"], "metric_for_best_model": "mine"}
    trainer = trainer_with(tmp_path, metrics, evaluate=12, **EVERY_STEP, **args)
    trainer.train()
    assert trainer.state.best_metric == 0.5


def trainer_with(folder: Path, compute_metrics, evaluate: int = 8, callbacks=None, **settings) -> PaCoTrainer:
    settings = {"precision": "fp32", "max_steps": 1, "logging_steps": 1, "per_device_train_batch_size": 8, **settings}
    settings = {"queue_size": 20, "projection_dim": 16, "per_device_eval_batch_size": 8, **settings}
    args = PaCoTrainingArguments(output_dir=str(folder), disable_tqdm=True, learning_rate=0.1, **settings)
    kwargs = {"train_dataset": Images(16), "eval_dataset": Images(evaluate), "callbacks": callbacks}
    return PaCoTrainer(make_model(), args, compute_metrics=compute_metrics, **kwargs)


def early(folder: Path, scores: list[float], **settings) -> PaCoTrainer:
    settings = {"max_steps": 9, "metric_for_best_model": "mine", **EVERY_STEP, **settings}
    values = iter([0.0, *scores])  # the first is that of the trial before the training
    callbacks = [EarlyStoppingCallback(2)]
    return trainer_with(folder, lambda prediction: {"mine": next(values)}, callbacks=callbacks, **settings)


def test_early_stopping_takes_the_best(tmp_path: Path) -> None:
    kept = {}

    class Keep(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs) -> None:
            kept[state.global_step] = model.classifier.weight.detach().clone()

    trainer = early(tmp_path, [0.1, 0.3, 0.2, 0.25, 0.9], load_best_model_at_end=True)
    trainer.add_callback(Keep())
    trainer.train()
    assert (trainer.state.global_step, trainer.state.best_global_step) == (4, 2)
    assert torch.equal(trainer.classifier.classifier.weight, kept[2])


def test_early_stopping_counts_on_after_a_resume(tmp_path: Path) -> None:
    early(tmp_path, [0.3, 0.2], max_steps=2).train()
    trainer = early(tmp_path, [0.1, 0.9], restore_callback_states_from_checkpoint=True)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 3
    assert 0 < trainer.training_time.seconds < 600


def test_checkpoints_of_the_best_alone(tmp_path: Path) -> None:
    trainer = early(tmp_path, [0.3, 0.2, 0.5, 0.4], save_strategy="best", max_steps=4, save_total_limit=None)
    trainer.train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint*")) == ["checkpoint-1", "checkpoint-3"]
    trainer = early(tmp_path, [0.3, 0.2, 0.5, 0.4], save_strategy="best", max_steps=4)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 4


def test_a_rate_that_follows_the_score(tmp_path: Path) -> None:
    settings = {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5}}
    trainer = early(tmp_path, [0.5, 0.4, 0.3, 0.2], **settings, max_steps=3)
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates[-1] < rates[0] == 0.1


def test_settings_reach_the_optimizer(tmp_path: Path) -> None:
    settings = {"optim": "adamw_torch", "adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-6}
    trainer = make_trainer(tmp_path, **settings, learning_rate=0.003, weight_decay=0.02)
    group = trainer.create_optimizer().param_groups[0]
    assert (group["betas"], group["eps"], group["lr"], group["weight_decay"]) == ((0.8, 0.95), 1e-6, 0.003, 0.02)
    trainer = make_trainer(tmp_path, optim="sgd", momentum=0.8, nesterov=True)
    group = trainer.create_optimizer().param_groups[0]
    assert (group["momentum"], group["nesterov"]) == (0.8, True)


def test_label_smoothing_is_of_every_loss(tmp_path: Path) -> None:
    for loss in LOSSES:
        losses = []
        for smoothing in (0.0, 0.2):
            trainer = make_trainer(tmp_path, loss=loss, label_smoothing_factor=smoothing)
            trainer.train()
            losses.append(trainer.state.log_history[0]["loss"])
        assert abs(losses[0] - losses[1]) > 1e-3, loss


def test_gradients_are_clipped(tmp_path: Path) -> None:
    before = weights(make_trainer(tmp_path))
    trainer = make_trainer(tmp_path, max_grad_norm=1e-3, momentum=0, weight_decay=0, learning_rate=1.0)
    trainer.train()
    trained = [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]
    step = math.sqrt(sum(float((weights(trainer)[name] - before[name]).square().sum()) for name in trained))
    assert step == pytest.approx(1e-3, rel=1e-2)


def test_metrics_of_one_batch_at_a_time(tmp_path: Path) -> None:
    counts = []

    def metrics(prediction, compute_result: bool) -> dict[str, float] | None:
        counts.append(len(prediction.label_ids))
        return {"mine": float(sum(counts))} if compute_result else None

    args = {"batch_eval_metrics": True, "metric_for_best_model": "mine", "eval_strategy": "steps", "eval_steps": 1}
    trainer_with(tmp_path, metrics, evaluate=12, **args).train()
    assert counts == [8, 4]
    with pytest.raises(ValueError, match="compute_result"):
        make_trainer(tmp_path, evaluate=12, batch_eval_metrics=True)


@pytest.mark.parametrize("several", [False, True])
def test_the_name_of_a_metric_is_checked_before_training(several: bool, tmp_path: Path) -> None:
    sets = {"near": Images(8), "far": Images(8)} if several else Images(8)
    args = PaCoTrainingArguments(output_dir=str(tmp_path), loss="ce", metric_for_best_model="f1", max_steps=1)
    kwargs = {"train_dataset": Images(128), "eval_dataset": sets}
    shapes = []

    def metrics(prediction) -> dict[str, float]:
        shapes.append(prediction.predictions.shape)
        return {"macro_f1": 0.5}

    trainer = PaCoTrainer(make_model(), args, compute_metrics=metrics, **kwargs)
    known = "near_macro_f1, near_loss, far_macro_f1, far_loss" if several else "macro_f1, loss"
    with pytest.raises(ValueError, match=f"metric_for_best_model must be one of {known} .*got 'f1'"):
        trainer.train()
    assert shapes == [(5, 5)]
    assert not any(tmp_path.iterdir())


def test_metrics_that_cannot_be_tried_are_said(tmp_path: Path, caplog) -> None:
    def metrics(prediction) -> dict[str, float]:
        if len(prediction.label_ids) != 8:
            raise RuntimeError("not the data set's labels")
        return {"mine": 0.5}

    trainer = trainer_with(tmp_path, metrics, metric_for_best_model="mine", **EVERY_STEP)
    with caplog.at_level("WARNING"):
        trainer.train()
    assert "failed in a check with one image per class before training" in caplog.text
    assert trainer.state.best_metric == 0.5
