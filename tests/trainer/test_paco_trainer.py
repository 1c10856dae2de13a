"""The trainer: what moves and by how much, accumulation, schedules, checkpoints, selection, and its refusals."""

import json
import shutil

import numpy as np
import pytest
import torch
from distributed_worker import Images
from tiny_trainer import COUNTS, make_model, make_trainer, weights
from torch.optim import SGD
from transformers import TrainerCallback

from paco_hf import (
    PaCoConfig,
    PaCoForContrastiveTraining,
    PaCoForImageClassification,
    PaCoTrainer,
    PaCoTrainingArguments,
    paco_loss,
)
from paco_hf.data.torch_datasets import WholeImages
from paco_hf.losses.specs import LOSSES
from paco_hf.trainer.schedules import EPOCH_SCHEDULES


@pytest.mark.parametrize("loss", LOSSES)
def test_every_parameter_moves(tmp_path, loss: str) -> None:
    trainer = make_trainer(tmp_path, loss=loss, max_steps=2, weight_decay=0.0)
    before = weights(trainer)
    trainer.train()
    after = weights(trainer)
    for name, parameter in trainer.model.named_parameters():
        if name.endswith("cls_token") or name.endswith("patch_embed.proj.bias"):
            continue
        if parameter.requires_grad or name.startswith("key_encoder"):
            assert not torch.equal(before[name], after[name]), name
    entry = next(e for e in trainer.state.log_history if "loss" in e)
    if trainer.args.spec.contrastive:
        assert entry["loss"] == pytest.approx(entry["class_loss"] + entry["contrast_loss"], rel=1e-4)
        assert entry["positives_per_anchor"] > 0
        assert entry["queue_fill"] == pytest.approx(8 / 20)
        assert not torch.equal(before["queue.features"], after["queue.features"])


@pytest.mark.parametrize("loss", ["ce", "balanced_softmax"])
def test_accumulation_does_not_change_a_plain_loss(tmp_path, loss: str) -> None:
    results = []
    for name, batch, accumulation in (("whole", 16, 1), ("parts", 4, 4)):
        trainer = make_trainer(
            tmp_path / name, loss=loss, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation
        )
        trainer.train()
        logged = next(e["loss"] for e in trainer.state.log_history if "loss" in e)
        results.append((weights(trainer), logged))
    assert results[0][1] == pytest.approx(results[1][1], abs=1e-6)
    for name, tensor in results[0][0].items():
        assert (tensor - results[1][0][name]).abs().max() < 1e-6, name


def test_accumulation_that_is_scaled_twice_is_refused(tmp_path, monkeypatch) -> None:
    """As by transformers 5.3.0 to 5.5.0, which let accelerate divide the loss, too."""
    monkeypatch.setattr("accelerate.Accelerator.gradient_accumulation_steps", 2)
    with pytest.raises(ImportError, match=r"transformers \S+ divides the loss of accumulated batches twice: install"):
        make_trainer(tmp_path, gradient_accumulation_steps=2)


class Batches(TrainerCallback):
    """Keeps the gradients of the optimizer step, and the key encoder around it."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs) -> None:
        self.gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        self.key_before = [p.clone() for p in model.key_encoder.parameters()]


def test_accumulated_paco_is_the_mean_over_micro_batches(tmp_path) -> None:
    recorder = Batches()
    trainer = make_trainer(
        tmp_path,
        loss="paco",
        per_device_train_batch_size=4,
        gradient_accumulation_steps=3,
        queue_size=10,
        key_momentum=0.9,
        images=12,
        callbacks=[recorder],
    )
    by_hand = PaCoForContrastiveTraining.from_classifier(
        make_model(), queue_size=10, projection_dim=16, key_momentum=0.9
    )
    by_hand.load_state_dict(trainer.model.state_dict())
    start = [p.clone() for p in by_hand.key_encoder.parameters()]
    trainer.get_train_dataloader()
    order = [int(i) for i in trainer.train_sampler]
    trainer.train()

    data, losses = Images(12), []
    by_hand.train()
    for micro in range(3):
        rows = order[4 * micro : 4 * micro + 4]
        query, key = data.views[0, rows], data.views[1, rows]
        out = by_hand(pixel_values=query, key_pixel_values=key, labels=data.labels[rows])
        loss = paco_loss(out.features, out.feature_labels, out.logits, class_counts=COUNTS, temperature=0.1)
        (loss / 3).backward()
        losses.append(loss.item())
    logged = next(e["loss"] for e in trainer.state.log_history if "loss" in e)
    assert logged == pytest.approx(sum(losses) / 3, rel=1e-5)
    for name, parameter in by_hand.named_parameters():
        if parameter.grad is not None:
            error = (parameter.grad - recorder.gradients[name]).abs().max()
            assert error <= 1e-5 * parameter.grad.abs().max().clamp(min=1), name
    for name, tensor in by_hand.queue.state_dict().items():
        assert torch.allclose(tensor, trainer.model.queue.state_dict()[name], atol=1e-6)
    # All three micro-batches saw the key encoder as it was; it then moved once, from the updated weights.
    assert all(torch.equal(a, b) for a, b in zip(start, recorder.key_before, strict=True))
    query = [*trainer.model.paco.parameters(), *trainer.model.projector.parameters()]
    for old, new, target in zip(start, trainer.model.key_encoder.parameters(), query, strict=True):
        assert torch.allclose(new, 0.9 * old + 0.1 * target, atol=1e-6)


@pytest.mark.parametrize(("queue_size", "images"), [(5, 19), (0, 19), (1000, 16)])
def test_ragged_batches_and_any_queue(tmp_path, queue_size: int, images: int) -> None:
    for loss in ("paco", "gpaco"):
        trainer = make_trainer(
            tmp_path / loss, loss=loss, queue_size=queue_size, images=images, dataloader_drop_last=False, max_steps=6
        )
        trainer.train()
        per_epoch = -(-images // 8)
        seen = (6 // per_epoch) * images + (6 % per_epoch) * 8
        assert trainer.model.queue.pointer.item() == (seen % queue_size if queue_size else 0)
        assert all(torch.isfinite(tensor).all() for tensor in weights(trainer).values())


def test_ragged_evaluation_is_complete_though_training_drops(tmp_path) -> None:
    trainer = make_trainer(tmp_path, loss="ce", images=19, evaluate=13)
    assert trainer.args.dataloader_drop_last
    assert len(trainer.get_train_dataloader()) == 2
    assert len(trainer.predict(Images(13)).predictions) == 13


# ---- optimizer and schedule


def test_weight_decay_is_on_everything_or_spares_norms_and_biases(tmp_path) -> None:
    everything = make_trainer(tmp_path / "a", make_model("cifar_resnet20"), weight_decay=0.1)
    optimizer = everything.create_optimizer()
    assert isinstance(optimizer, SGD)
    assert [g["weight_decay"] for g in optimizer.param_groups if g["params"]] == [0.1]
    assert optimizer.param_groups[0]["momentum"] == 0.9
    assert len(optimizer.param_groups[0]["params"]) == sum(p.requires_grad for p in everything.model.parameters())
    usual = make_trainer(tmp_path / "b", make_model("cifar_resnet20"), weight_decay=0.1, decay_all_parameters=False)
    spared = usual.create_optimizer().param_groups[1]
    assert spared["weight_decay"] == 0.0
    assert all(p.ndim == 1 for p in spared["params"])
    assert len(spared["params"]) > 10


def test_the_trainer_sets_the_rate_once_an_epoch(tmp_path) -> None:
    trainer = make_trainer(
        tmp_path, loss="ce", max_steps=-1, num_train_epochs=4, epoch_schedule="cosine", warmup_epochs=2, images=24
    )
    trainer.train()
    rates = [e["learning_rate"] for e in trainer.state.log_history if "learning_rate" in e]
    expected = [0.1 * EPOCH_SCHEDULES["cosine"](epoch, 4, 2) for epoch in range(4) for _ in range(3)]
    assert rates == pytest.approx(expected, rel=1e-12)


# ---- checkpoints and selection


def test_checkpoints_are_classifiers_and_old_ones_go(tmp_path) -> None:
    trainer = make_trainer(
        tmp_path,
        evaluate=8,
        max_steps=6,
        save_strategy="steps",
        save_steps=2,
        save_total_limit=2,
        eval_strategy="epoch",
    )
    trainer.train()
    assert sorted(p.name for p in tmp_path.glob("checkpoint*")) == ["checkpoint-4", "checkpoint-6"]
    checkpoint = tmp_path / "checkpoint-6"
    loaded = PaCoForImageClassification.from_pretrained(checkpoint)
    assert torch.equal(loaded.classifier.weight, trainer.classifier.classifier.weight)
    assert json.loads((checkpoint / "config.json").read_text())["class_counts"] == COUNTS
    assert (checkpoint / "paco_training_state.safetensors").is_file()
    whole = PaCoForContrastiveTraining.from_pretrained(checkpoint)
    assert torch.equal(whole.queue.features, trainer.model.queue.features)
    trainer.save_model(str(tmp_path / "final"))
    assert not (tmp_path / "final" / "paco_training_state.safetensors").exists()
    assert PaCoForImageClassification.from_pretrained(tmp_path / "final")


def test_the_selected_weights_are_those_of_the_best_score(tmp_path) -> None:
    trainer = make_trainer(
        tmp_path, evaluate=8, max_steps=6, save_strategy="steps", save_steps=2, eval_strategy="steps", eval_steps=2
    )
    scores, kept = iter([0.0, 0.2, 0.6, 0.4]), {}  # the first before the training

    def score_of(prediction) -> dict:
        score = next(scores)
        kept[score] = weights(trainer)
        return {"balanced_accuracy": score}

    trainer.compute_metrics = score_of
    trainer.train()
    assert len(kept) == 4
    last = weights(trainer)
    assert trainer.load_selected() == 4
    selected = weights(trainer)
    assert torch.equal(selected["classifier.weight"], kept[0.6]["classifier.weight"])
    assert not torch.equal(selected["classifier.weight"], last["classifier.weight"])
    assert [p.name for p in tmp_path.glob("selected-*")] == ["selected-4.safetensors"]


@pytest.mark.parametrize(
    ("settings", "balanced"),
    [({"loss": "paco"}, True), ({"loss": "ce"}, False), ({"loss": "gpaco", "class_prior": False}, False)],
)
def test_a_checkpoint_says_what_its_logits_are_for(tmp_path, settings: dict, balanced: bool) -> None:
    trainer = make_trainer(tmp_path / "run", **settings)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    config = PaCoConfig.from_pretrained(tmp_path / "model")
    assert (config.balanced_logits, config.logit_counts) == (balanced, None if balanced else COUNTS)


def test_log_file_holds_the_history(tmp_path) -> None:
    trainer = make_trainer(tmp_path, max_steps=3)
    trainer.train()
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert entries == trainer.state.log_history


# ---- precision and refusals


def test_bf16_keeps_queue_and_loss_in_float32(tmp_path) -> None:
    trainer = make_trainer(tmp_path, make_model("cifar_resnet20"), precision="bf16")
    trainer.train()
    assert trainer.model.queue.features.dtype == torch.float32
    assert trainer.model.paco.backbone.conv1.weight.dtype == torch.float32
    assert trainer.model.paco.backbone.conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_fp16_on_a_cpu_is_refused(tmp_path) -> None:
    if torch.accelerator.is_available():
        pytest.skip("there is an accelerator")
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        PaCoTrainingArguments(output_dir=str(tmp_path), precision="fp16")


def test_loss_that_is_not_finite_stops_the_run(tmp_path) -> None:
    trainer = make_trainer(tmp_path, loss="ce", max_steps=50, learning_rate=1e30)
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at step \d+.*learning_rate"):
        trainer.train()


def test_refusals(tmp_path) -> None:
    with pytest.raises(ValueError, match="loss must be one of"):
        PaCoTrainingArguments(output_dir=str(tmp_path), loss="focal")
    with pytest.raises(ValueError, match="temperature must be positive"):
        PaCoTrainingArguments(output_dir=str(tmp_path), temperature=0.0)
    for loss in ("paco", "balanced_softmax"):
        with pytest.raises(ValueError, match="set class_counts"):
            make_trainer(tmp_path, make_model(class_counts=None), loss=loss)
    make_trainer(tmp_path, make_model(class_counts=None), loss="paco", class_prior=False)
    with pytest.raises(ValueError, match="class 3 has no training image"):
        make_trainer(tmp_path, make_model(class_counts=[4, 3, 2, 0, 1]))
    with pytest.raises(ValueError, match="balanced logits"):
        make_trainer(tmp_path, make_model(temperature=2.0))
    with pytest.raises(ValueError, match="created for the loss 'gpaco', but loss is 'paco'"):
        make_trainer(tmp_path, PaCoForContrastiveTraining.from_classifier(make_model(), variant="gpaco"), loss="paco")
    with pytest.raises(ValueError, match="4 images, fewer than one batch of 8"):
        make_trainer(tmp_path, images=4)
    with pytest.raises(ValueError, match="has a single image, which the projector's BatchNorm cannot handle"):
        make_trainer(tmp_path, images=17, dataloader_drop_last=False)
    make_trainer(tmp_path, images=17, dataloader_drop_last=False, loss="gpaco")
    whole = WholeImages(np.zeros((16, 8, 8, 3), np.uint8), [0] * 16)
    args = PaCoTrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=8)
    with pytest.raises(ValueError, match="also pass batched_views"):
        PaCoTrainer(make_model(), args, train_dataset=whole)
    one_view = make_trainer(tmp_path)
    one_view.train_dataset = [{k: v for k, v in item.items() if k != "key_pixel_values"} for item in Images(16)]
    with pytest.raises(ValueError, match="contrasts two views"):
        one_view.train()


def test_metric_for_selection_is_checked_before_training(tmp_path) -> None:
    for name in ("few", "foo"):
        model = make_model(class_counts=[500, 400, 300, 200, 150])
        with pytest.raises(ValueError, match=f"metric_for_best_model must be one of .*got '{name}'"):
            make_trainer(tmp_path, model, evaluate=8, metric_for_best_model=name, eval_strategy="epoch")
    no_counts = make_trainer(
        tmp_path, make_model(class_counts=None), loss="ce", evaluate=8, eval_strategy="epoch", max_steps=2
    )
    no_counts.train()
    assert no_counts.state.best_metric is not None


def test_schedule_ends_with_max_steps(tmp_path) -> None:
    trainer = make_trainer(
        tmp_path, loss="ce", max_steps=8, num_train_epochs=100, epoch_schedule="cosine", warmup_epochs=0
    )
    trainer.train()
    rates = [e["learning_rate"] for e in trainer.state.log_history if "learning_rate" in e]
    assert rates == pytest.approx([0.1 * EPOCH_SCHEDULES["cosine"](step // 2, 4, 0) for step in range(8)])


def test_resuming_from_the_last_step_adds_none(tmp_path) -> None:
    settings = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1}
    first = make_trainer(tmp_path, **settings)
    first.train()
    second = make_trainer(tmp_path, **settings)
    second.train(resume_from_checkpoint=True)
    assert second.state.global_step == 3
    assert all(torch.equal(tensor, weights(second)[name]) for name, tensor in weights(first).items())


def test_best_model_is_loaded_at_the_end_where_asked(tmp_path) -> None:
    trainer = make_trainer(
        tmp_path,
        evaluate=8,
        max_steps=4,
        save_strategy="steps",
        save_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
    )
    scores, kept = iter([0.0, 0.6, 0.4]), []  # the first before the training

    def score_of(prediction) -> dict:
        kept.append(weights(trainer))
        return {"balanced_accuracy": next(scores)}

    trainer.compute_metrics = score_of
    trainer.train()
    assert torch.equal(weights(trainer)["classifier.weight"], kept[1]["classifier.weight"])


def test_gradient_checkpointing(tmp_path) -> None:
    plain, saving = (
        make_trainer(tmp_path / str(on), make_model("resnet18"), gradient_checkpointing=on) for on in (False, True)
    )
    for trainer in (plain, saving):
        trainer.train()
    assert saving.model.paco.backbone.grad_checkpointing
    for name, tensor in plain.model.paco.backbone.named_parameters():
        assert torch.allclose(tensor, saving.model.paco.backbone.get_parameter(name), atol=1e-5), name
    # Layers are computed twice, but a batch enters the running statistics once.
    for name, tensor in plain.model.paco.backbone.named_buffers():
        assert torch.allclose(tensor, saving.model.paco.backbone.get_buffer(name), atol=1e-5), name
    assert plain.model.paco.backbone.bn1.num_batches_tracked == 1
    with pytest.raises(ValueError, match="'cifar_resnet20' has no gradient checkpointing"):
        make_trainer(tmp_path, make_model("cifar_resnet20"), gradient_checkpointing=True).train()


def test_weights_that_are_not_finite_are_not_saved(tmp_path) -> None:
    trainer = make_trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=1)
    trainer.train()
    with torch.no_grad():
        trainer.classifier.classifier.weight[0, 0] = float("nan")
    trainer.state.global_step = 3
    with pytest.raises(FloatingPointError, match="not finite at step 3"):
        trainer._save_checkpoint(trainer.model, None)
    assert [p.name for p in tmp_path.glob("checkpoint*")] == ["checkpoint-2"]


def test_a_checkpoint_of_other_processes_is_resumed_from_where_it_is_complete(tmp_path) -> None:
    trainer = make_trainer(tmp_path, max_steps=1, save_strategy="steps", save_steps=1)
    trainer.train()
    folder = tmp_path / "checkpoint-1"
    shutil.copyfile(folder / "rng_state.pth", folder / "rng_state_1.pth")
    state = (folder / "rng_state.pth").rename(folder / "rng_state_0.pth")
    resumed = make_trainer(tmp_path, max_steps=2)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 2
    state.unlink()
    with pytest.raises(OSError, match=r"has no rng_state_0\.pth"):
        make_trainer(tmp_path, max_steps=2).train(resume_from_checkpoint=True)


def test_out_of_range_arguments(tmp_path) -> None:
    for settings in (
        {"gradient_accumulation_steps": 0},
        {"label_smoothing_factor": 2.0},
        {"warmup_epochs": -1},
        {"num_train_epochs": 0},
        {"queue_size": -1},
        {"key_momentum": 1.5},
        {"precision": "fp32", "bf16": True},
    ):
        name = next(iter(settings))
        with pytest.raises(ValueError, match=name):
            PaCoTrainingArguments(output_dir=str(tmp_path), **settings)
