"""Which parameters are trained, and with which rate and weight decay."""

import copy

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
    with pytest.raises(ValueError, match=r"layer_decay 0.5 needs a backbone with layer groups.*'cifar_resnet20'"):
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
        with pytest.raises(
            ValueError, match=f"trainable_convolutions '{prefix}' matches no convolutions of the backbone"
        ):
            make_trainer(tmp_path, make_model("resnet18"), trainable_convolutions=prefix)


# ---- a rate of the head


def rates_of(trainer) -> dict[str, tuple[float, float]]:
    """Rate and weight decay of each trained parameter, which all are in one group."""
    groups = trainer.create_optimizer().param_groups
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    trained = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert sum(len(group["params"]) for group in groups) == len(found) == len(trained)
    return {name: found[id(p)] for name, p in trained.items()}


@pytest.mark.parametrize("decay_all", [True, False])
@pytest.mark.parametrize("loss", ["paco", "ce"])
def test_classifier_and_projector_have_a_rate_of_their_own(tmp_path, loss: str, decay_all: bool) -> None:
    model = make_model("resnet18", classifier="cosine", learn_classifier_scale=True)
    settings = {"loss": loss, "weight_decay": 0.3, "decay_all_parameters": decay_all}
    plain = rates_of(make_trainer(tmp_path, copy.deepcopy(model), **settings))
    trainer = make_trainer(tmp_path, model, head_learning_rate=0.7, **settings)
    rates = rates_of(trainer)
    assert ("projector.0.weight" in rates) == (loss == "paco")
    for name, (rate, weight_decay) in rates.items():
        assert rate == (0.7 if name.startswith(("classifier.", "projector.")) else RATE), name
        assert weight_decay == plain[name][1], name
    assert rates["classifier.scale"] == (0.7, 0.0)
    assert trainer.optimizer.param_groups[0]["lr"] == RATE


def test_the_head_lies_on_top_of_layers(tmp_path) -> None:
    layers = rates_of(make_trainer(tmp_path, make_vit(), **LAYERED))
    trainer = make_trainer(tmp_path, make_vit(), head_learning_rate=0.7, **LAYERED)
    rates = rates_of(trainer)
    for name, (rate, weight_decay) in layers.items():
        own = 0.7 if name.startswith(("classifier.", "projector.")) else rate
        assert rates[name] == (own, weight_decay), name
    assert rates["paco.backbone.fc_norm.weight"][0] == RATE
    assert trainer.optimizer.param_groups[0]["lr"] == 0.7


@pytest.mark.parametrize("layers", [{}, {"layer_decay": 0.5}])
@pytest.mark.parametrize(
    "schedule", [{"epoch_schedule": "cosine", "warmup_epochs": 1}, {"lr_scheduler_type": "linear"}]
)
def test_schedules_scale_the_head_too_and_it_resumes(tmp_path, layers: dict, schedule: dict) -> None:
    recorder = Rates()
    settings = {"head_learning_rate": 0.7, **layers, **schedule, "max_steps": 6, "save_strategy": "steps"}
    settings |= {"save_steps": 3, "save_total_limit": None, "weight_decay": 0.1}
    whole = make_trainer(tmp_path, make_vit(), callbacks=[recorder], **settings)
    whole.train()
    starts = [group["initial_lr"] for group in whole.optimizer.param_groups]
    assert {RATE if not layers else RATE * 0.5, 0.7} <= set(starts)
    shares = [[rate / start for rate, start in zip(step, starts, strict=True)] for step in recorder.by_step]
    assert all(share == pytest.approx([share[0]] * len(starts)) for share in shares)
    assert len({round(share[0], 6) for share in shares}) > 1
    resumed = make_trainer(tmp_path, make_vit(), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name]), name


def test_a_rate_of_the_head_needs_a_backbone_that_is_trained(tmp_path) -> None:
    model = make_model("resnet18")
    model.paco.backbone.requires_grad_(False)
    with pytest.raises(
        ValueError, match=r"head_learning_rate 0.7 needs .* backbone is frozen: set learning_rate to 0.7"
    ):
        make_trainer(tmp_path, model, head_learning_rate=0.7)
    with pytest.raises(ValueError, match="head_learning_rate must be at least 0, got -1"):
        make_trainer(tmp_path, head_learning_rate=-1)
