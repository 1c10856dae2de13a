"""Which parameters are trained, and with which rate and weight decay."""

import pytest
import torch
from tiny_trainer import make_model, make_trainer, weights
from transformers import TrainerCallback

from paco_hf import PaCoConfig, PaCoForContrastiveTraining, PaCoForImageClassification
from paco_hf.trainer.optimizer import freeze_convolutions
from paco_hf.trainer.schedules import mae

BLOCKS, DECAY, RATE = 2, 0.65, 0.1
VIT = {"embed_dim": 32, "depth": BLOCKS, "num_heads": 2, "img_size": 32, "global_pool": "avg"}
LAYERED = {
    "loss": "gpaco",
    "optim": "adamw_torch",
    "layer_decay": DECAY,
    "decay_all_parameters": False,
    "weight_decay": 0.05,
    "learning_rate": RATE,
}


def make_vit(**kwargs) -> PaCoForImageClassification:
    torch.manual_seed(0)
    config = PaCoConfig(
        backbone="vit_tiny_patch16_224",
        backbone_kwargs={**VIT, **kwargs},
        num_labels=5,
        image_size=32,
        class_counts=[9, 7, 5, 3, 2],
    )
    return PaCoForImageClassification(config)


def layer_by_mae(name: str) -> int:
    """MAE's `get_layer_id_for_vit` on our names."""
    name = name.removeprefix("paco.backbone.")
    if name in ("cls_token", "pos_embed") or name.startswith("patch_embed"):
        return 0
    if name.startswith("blocks"):
        return int(name.split(".")[1]) + 1
    return BLOCKS + 1


@pytest.mark.parametrize("loss", ["gpaco", "paco", "ce"])
def test_layer_decay_is_maes(tmp_path, loss: str) -> None:
    trainer = make_trainer(tmp_path, make_vit(), **{**LAYERED, "loss": loss})
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, torch.optim.AdamW)
    found = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert id(parameter) not in found
            found[id(parameter)] = (group["lr"], group["weight_decay"])
    trained = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert found.keys() == {id(p) for p in trained.values()}
    assert ("projector.0.weight" in trained) == (loss != "ce")
    for name, parameter in trained.items():
        spared = parameter.ndim <= 1 or name.endswith(("pos_embed", "cls_token"))
        rate = RATE * DECAY ** (BLOCKS + 1 - layer_by_mae(name))
        assert found[id(parameter)] == (pytest.approx(rate, rel=1e-12), 0.0 if spared else 0.05), name
    assert optimizer.param_groups[0]["lr"] == RATE


def test_layer_decay_spares_nothing_where_all_are_to_decay(tmp_path) -> None:
    trainer = make_trainer(tmp_path, make_vit(), **{**LAYERED, "decay_all_parameters": True})
    assert {group["weight_decay"] for group in trainer.create_optimizer().param_groups} == {0.05}


class Rates(TrainerCallback):
    def __init__(self) -> None:
        self.by_step: list[list[float]] = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs) -> None:
        self.by_step.append([group["lr"] for group in optimizer.param_groups])


def test_the_schedule_scales_every_layer(tmp_path) -> None:
    recorder = Rates()
    schedule = {"epoch_schedule": "mae", "warmup_epochs": 1, "min_learning_rate": 0.01}
    trainer = make_trainer(
        tmp_path,
        make_vit(),
        images=32,
        max_steps=-1,
        num_train_epochs=3,
        gradient_accumulation_steps=2,
        callbacks=[recorder],
        **LAYERED,
        **schedule,
    )
    trainer.train()
    scales = [group["lr_scale"] for group in trainer.optimizer.param_groups]
    assert len(recorder.by_step) == 6
    for step, got in enumerate(recorder.by_step):
        rate = RATE * mae(step / 2, 3, 1, 0.1)
        assert got == pytest.approx([rate * scale for scale in scales], rel=1e-12)
    logged = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert logged == pytest.approx([RATE * mae(step / 2, 3, 1, 0.1) for step in range(6)])


def test_layer_decay_resumes(tmp_path) -> None:
    settings = {**LAYERED, "epoch_schedule": "mae", "warmup_epochs": 1, "save_strategy": "steps", "save_steps": 2}
    whole = make_trainer(tmp_path, make_vit(), max_steps=4, save_total_limit=None, **settings)
    whole.train()
    second = make_trainer(tmp_path, make_vit(), max_steps=4, **settings)
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(second)[name]), name


def test_layer_decay_needs_layers(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"layer_decay 0.5 needs a backbone that knows its layers.*'cifar_resnet20'"):
        make_trainer(tmp_path, make_model("cifar_resnet20"), layer_decay=0.5)
    with pytest.raises(ValueError, match=r"layer_decay must be above 0 and at most 1, got 1.5"):
        make_trainer(tmp_path, layer_decay=1.5)


def test_layer_decay_of_a_resnet(tmp_path) -> None:
    trainer = make_trainer(tmp_path, make_model("resnet18"), layer_decay=0.5, trainable_convolutions="layer4.1")
    rates = {id(p): group["lr"] for group in trainer.create_optimizer().param_groups for p in group["params"]}
    assert len(rates) == sum(p.requires_grad for p in trainer.model.parameters())
    backbone = trainer.model.paco.backbone
    # Stem, eight blocks, and what stands on top.
    assert rates[id(trainer.model.classifier.weight)] == 0.1
    assert rates[id(backbone.layer4[1].conv2.weight)] == pytest.approx(0.1 / 2)
    assert rates[id(backbone.bn1.weight)] == pytest.approx(0.1 / 2**9)


def test_places_trains_what_the_reference_trains() -> None:
    model = PaCoForImageClassification(PaCoConfig(backbone="resnet152", num_labels=365))
    model = PaCoForContrastiveTraining.from_classifier(model, queue_size=8)
    freeze_convolutions(model.paco.backbone, "layer4.2")
    trained = [p for p in model.parameters() if p.requires_grad]
    assert (len(trained), sum(p.numel() for p in trained)) == (321, 9_818_477)


def test_frozen_convolutions_stay_and_batch_norm_moves(tmp_path) -> None:
    trainer = make_trainer(tmp_path, make_model("resnet18"), trainable_convolutions="layer4.1", max_steps=2)
    before = weights(trainer)
    trainer.train()
    after = weights(trainer)
    for name in before:
        if not name.startswith("paco.backbone.") or name.endswith("num_batches_tracked"):
            continue
        module = trainer.model.get_submodule(name.rpartition(".")[0])
        frozen = isinstance(module, torch.nn.Conv2d) and ".layer4.1." not in name
        assert torch.equal(before[name], after[name]) == frozen, name
    # Part of a name is no part of the backbone.
    for prefix in ("layer4.", "layer", "layer5", "bn1", ""):
        with pytest.raises(ValueError, match=f"trainable_convolutions '{prefix}' names no part of the backbone"):
            make_trainer(tmp_path, make_model("resnet18"), trainable_convolutions=prefix)
