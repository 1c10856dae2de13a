"""Low-rank adapters: what moves and what does not, merging, checkpoints without the base, resuming, refusals."""

import json
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file
from tiny_trainer import make_model, make_trainer
from transformers import AutoModelForImageClassification, pipeline
from user_data import folders

from paco_hf import PaCoConfig, PaCoForContrastiveTraining, PaCoForImageClassification
from paco_hf.cli import main
from paco_hf.conversion.to_onnx import export_onnx
from paco_hf.inference.load_model import load_classifier
from paco_hf.models.lora import (
    ADAPTER_NAME,
    add_adapter,
    base_digest,
    choose_targets,
    describe_training,
    has_adapter,
    load_adapter,
    merged_tensors,
    save_adapter,
    save_merged,
)
from paco_hf.trainer.optimizer import freeze_convolutions

TINY = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 3}
LOSSES = ["paco", "gpaco", "multitask", "balanced_softmax", "ce"]
# Not imported where the tests are only collected, which each process does.
pytestmark = pytest.mark.skipif(find_spec("peft") is None, reason="needs peft")


def adapted(**settings) -> PaCoForImageClassification:
    model = make_model()
    add_adapter(model, 2, **settings)
    return model


def disturb(model: torch.nn.Module) -> None:
    """Factors that do something: `B` starts at zero."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=generator)


def bits(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("loss", LOSSES)
def test_only_adapter_classifier_and_projector_move(tmp_path: Path, loss: str) -> None:
    model = adapted()
    trainer = make_trainer(tmp_path, model, loss=loss, max_steps=3, weight_decay=0.1, key_momentum=0.9)
    before, digest = bits(trainer.model), base_digest(model)
    trainer.train()
    after = trainer.model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    wanted = {n for n in before if ".lora_" in n or n.startswith(("classifier.", "projector."))}
    wanted |= {n for n in before if n.startswith("key_encoder.projector.")}
    wanted |= {n for n in before if n.startswith("queue.")} if trainer.args.spec.contrastive else set()
    assert moved == wanted
    assert base_digest(model) == digest


def test_key_encoder_has_the_base_once() -> None:
    model = PaCoForContrastiveTraining.from_classifier(adapted(), queue_size=8, projection_dim=4)
    own = dict(model.paco.named_parameters())
    for name, parameter in model.key_encoder["paco"].named_parameters():
        assert (parameter is own[name]) == (".lora_" not in name)
    keys, queries = model.key_and_query_parameters()
    assert len(keys) == len(queries) == sum(".lora_" in name for name in own) + len(list(model.projector.parameters()))
    # And moving it leaves the base alone, whatever the rounding.
    before = base_digest(model.to_classifier())
    model.update_key_encoder()
    assert base_digest(model.to_classifier()) == before


def test_outputs_start_where_they_were_and_merge(tmp_path: Path) -> None:
    torch.manual_seed(3)
    images = torch.randn(4, 3, 32, 32)
    model = make_model().eval()
    plain = model(images).logits
    add_adapter(model, 2)
    assert torch.equal(model(images).logits, plain)
    disturb(model)
    logits = model(images).logits
    assert (logits - plain).abs().max() > 0.01
    base = base_digest(model)
    save_merged(model, tmp_path)
    assert base_digest(model) == base
    merged = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert (merged(images).logits - logits).abs().max() < 1e-5
    assert set(merged_tensors(model)) == set(make_model().state_dict())


@pytest.mark.parametrize("depth", [2, 12])  # of many layers peft shortens the names
def test_peft_loads_the_adapter(tmp_path: Path, depth: int) -> None:
    from peft import PeftModel

    def deep() -> PaCoForImageClassification:
        torch.manual_seed(0)
        kwargs = {**TINY, "depth": depth}
        config = PaCoConfig(backbone="vit_tiny_patch16_224", backbone_kwargs=kwargs, num_labels=5, image_size=32)
        return PaCoForImageClassification(config)

    model = deep().eval()
    add_adapter(model, 2)
    disturb(model)
    with torch.no_grad():
        model.classifier.weight.mul_(1.5)
    save_adapter(model, tmp_path)
    names = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert len(names) == 4 * depth
    assert f"on {4 * depth} linear layers (qkv, proj, fc1, fc2)" in describe_training(model)
    images = torch.randn(2, 3, 32, 32)
    loaded = PeftModel.from_pretrained(deep(), tmp_path).eval()
    assert torch.allclose(loaded(images).logits, model(images).logits, atol=1e-6)
    again = deep()
    add_adapter(again, 2)
    load_adapter(again, tmp_path)
    assert torch.equal(again.eval()(images).logits, model(images).logits)


@pytest.mark.parametrize(
    ("backbone", "kwargs", "targets"),
    [
        ("vit_tiny_patch16_224", TINY, ["qkv", "proj", "fc1", "fc2"]),
        ("deit3_small_patch16_224", TINY, ["qkv", "proj", "fc1", "fc2"]),
        # Its query, key and value are computed from the weights of `qkv`, which is never called.
        ("beit_base_patch16_224", TINY, ["proj", "fc1", "fc2"]),
        ("eva02_tiny_patch14_224", {**TINY, "patch_size": 8}, None),
        ("swin_tiny_patch4_window7_224", {"img_size": 32, "window_size": 4, "embed_dim": 12, "depths": [1, 1]}, None),
        ("mobilevit_xxs", {}, None),
    ],
)
def test_backbones(backbone: str, kwargs: dict, targets: list[str] | None) -> None:
    torch.manual_seed(0)
    size = 64 if backbone.startswith("mobilevit") else 32
    if backbone.startswith("swin"):
        kwargs = {**kwargs, "num_heads": [1, 2]}
    model = PaCoForImageClassification(
        PaCoConfig(backbone=backbone, backbone_kwargs=kwargs, num_labels=5, image_size=size, class_counts=[1] * 5)
    )
    chosen = add_adapter(model, 2)
    assert targets is None or list(chosen) == targets
    model.train()
    model(torch.randn(2, 3, size, size), labels=torch.tensor([0, 1])).loss.backward()
    factors = {n: p for n, p in model.named_parameters() if ".lora_B." in n}
    assert len(factors) == sum(map(len, chosen.values())) > 0
    # Every adapter has a part in what the model says.
    assert all(parameter.grad.abs().max() > 0 for parameter in factors.values())
    assert all(parameter.grad is None for n, parameter in model.paco.named_parameters() if ".lora_" not in n)


def test_batch_norm_of_the_base_does_not_move(tmp_path: Path) -> None:
    model = make_model("mobilevit_xxs")
    add_adapter(model, 2)
    digest = base_digest(model)
    make_trainer(tmp_path, model, loss="gpaco", max_steps=2).train()
    assert base_digest(model) == digest
    make_trainer(tmp_path, model, loss="ce", max_steps=2, gradient_checkpointing=True).train()
    assert base_digest(model) == digest


def test_description_counts_parameters() -> None:
    model = adapted(alpha=6, targets=["qkv"])
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in model.parameters())
    text = describe_training(model, optimizer_slots=2)
    assert text.startswith("LoRA of rank 2 (alpha 6) on ")
    assert "(qkv)" in text
    assert f"trains {trained:,} of {everything:,} parameters" in text
    assert f"{12 * trained / 2**20:,.1f} MB, {12 * everything / 2**20:,.1f} MB" in text


def flags(folder: Path, *more: str) -> list[str]:
    command = ["--backbone", "vit_tiny_patch16_224", "--backbone_kwargs", json.dumps(TINY), "--lora_rank", "2"]
    command += ["--per_device_train_batch_size", "32", "--queue_size", "64", "--max_steps", "4", "--save_steps", "2"]
    command += ["--eval_strategy", "steps", "--eval_steps", "2", "--save_total_limit", "5", "--precision", "fp32"]
    return ["train", *command, "--output_dir", str(folder), *more]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    counts = {"ant": 60, "bee": 40, "cat": 30, "dog": 20, "elk": 20}
    return str(folders(tmp_path_factory.mktemp("photos"), counts, size=(32, 32)))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights of the backbone, as if it was pretrained."""
    torch.manual_seed(7)
    config = PaCoConfig(backbone="vit_tiny_patch16_224", backbone_kwargs=TINY, num_labels=5, image_size=32)
    file = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(PaCoForImageClassification(config).paco.backbone.state_dict(), file)
    return file


def test_memory_is_of_the_optimizer(photos: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    said = []
    for optim in ("sgd", "adamw_torch"):
        more = [
            "--dataset",
            photos,
            "--optim",
            optim,
            "--learning_rate",
            "0.01",
            "--max_steps",
            "1",
            "--save_strategy",
            "no",
        ]
        assert main(flags(tmp_path / optim, *more)) == 0
        out = capsys.readouterr().out
        assert "peak memory of training" in out
        said.append(float(re.search(r"take [\d.]+ MB, ([\d.]+) MB when training all", out)[1]))
    assert said[1] == pytest.approx(1.5 * said[0], abs=0.1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, photos: str, weights: Path) -> Path:
    folder = tmp_path_factory.mktemp("lora") / "run"
    assert main(flags(folder, "--dataset", photos, "--pretrained_file", str(weights), "--class_centers", "means")) == 0
    return folder


def everything(folder: Path) -> dict[str, torch.Tensor]:
    files = ["model.safetensors", f"adapter/{ADAPTER_NAME}"]
    files += [f"checkpoint-4/{name}" for name in (ADAPTER_NAME, "paco_training_state.safetensors")]
    tensors = {f"{file} {k}": v for file in files for k, v in load_file(folder / file).items()}
    state = torch.load(folder / "checkpoint-4" / "optimizer.pt", weights_only=True)["state"]
    return tensors | {f"momentum {i}": s["momentum_buffer"] for i, s in state.items()}


def test_resumed_run_has_the_same_bits(run: Path, photos: str, weights: Path, tmp_path: Path) -> None:
    before = weights.read_bytes()
    resumed = tmp_path / "run"
    shutil.copytree(run, resumed)
    for leftover in ("checkpoint-4", "adapter"):
        shutil.rmtree(resumed / leftover)
    for leftover in ("metrics.json", "model.safetensors", "selected-4.safetensors"):
        (resumed / leftover).unlink(missing_ok=True)
    more = ["--dataset", photos, "--pretrained_file", str(weights), "--class_centers", "means", "--resume"]
    assert main(flags(resumed, *more)) == 0
    wanted, found = everything(run), everything(resumed)
    assert wanted.keys() == found.keys()
    assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []
    assert weights.read_bytes() == before


def test_checkpoints_hold_no_weight_of_the_base(run: Path, weights: Path) -> None:
    base = load_file(weights)
    for checkpoint in run.glob("checkpoint-*"):
        assert not (checkpoint / "model.safetensors").exists()
        for file in checkpoint.glob("*.safetensors"):
            for name, tensor in load_file(file).items():
                assert not any(tensor.shape == b.shape and torch.equal(tensor, b) for b in base.values()), name
    selected = next(run.glob("selected-*.safetensors"))
    assert all(".lora_" in name or name.startswith("classifier.") for name in load_file(selected))


def test_run_folder_loads_without_peft(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    file = ROOT / "model_cards" / "paco-resnet32-cifar100-lt-100" / "class_counts.png"
    answers = pipeline("image-classification", model=str(run))(str(file))
    model = AutoModelForImageClassification.from_pretrained(run)
    assert not has_adapter(model)
    assert [answer["label"] in model.config.label2id for answer in answers] == [True] * 5


def test_training_state_stays_with_the_base(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["push", str(run), "ada/x", "--include_training_state"]) == 2
    assert "remove --include_training_state" in capsys.readouterr().err


def test_frozen_training_state_loads(tmp_path: Path) -> None:
    model = make_model()
    model.paco.requires_grad_(False)
    trainer = make_trainer(tmp_path, model, loss="paco", max_steps=2, save_strategy="steps", save_steps=2)
    trainer.train()
    checkpoint = tmp_path / "checkpoint-2"
    stored = load_file(checkpoint / "paco_training_state.safetensors")
    assert not any(name.startswith("key_encoder.paco.backbone.blocks") for name in stored)
    loaded = PaCoForContrastiveTraining.from_pretrained(checkpoint)
    wanted, found = trainer.model.state_dict(), loaded.state_dict()
    assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []
    # One that has everything twice, as before frozen weights were shared, is read as well.
    save_file(
        {k: v.contiguous() for k, v in wanted.items() if k.startswith(("projector.", "key_", "queue."))},
        checkpoint / "paco_training_state.safetensors",
        metadata={"format": "pt"},
    )
    trainer.model.load_training_state(checkpoint)


def test_other_base_is_refused(run: Path, photos: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    resumed = tmp_path / "run"
    shutil.copytree(run, resumed)
    (resumed / "metrics.json").unlink()
    assert main(flags(resumed, "--dataset", photos, "--resume")) == 2
    assert "was trained with different backbone weights" in capsys.readouterr().err
    assert main(["evaluate", str(run / "checkpoint-2")]) == 2
    assert "contains only LoRA adapters" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--lora_targets", "query"],
            "'query' is not a linear layer that can be adapted: choose from qkv, proj, fc1, fc2",
        ),
        (["--freeze_backbone", "true"], "use only one"),
        (["--lora_rank", "0"], "lora_rank must be at least 1"),
        (["--trainable_convolutions", "layer4"], "--lora_rank trains no weights of the backbone"),
    ],
)
def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture, more: list[str], message: str) -> None:
    assert main(flags(tmp_path / "run", *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--backbone", "resnet18"],
            "'resnet18' has none: --trainable_convolutions layer4 trains its last convolutions",
        ),
        (["--backbone", "regnety_004"], "'regnety_004' has none: --trainable_convolutions s4 trains"),
        (
            [],
            "--lora_rank adapts linear layers, and the default backbones are ResNets without any: choose a --backbone",
        ),
        (["--backbone", "convnext_tiny", "--lora_targets", "fc1,dense"], "'dense' is not a linear layer that can be"),
        (["--backbone", "beit_base_patch16_224", "--lora_targets", "qkv"], "'qkv' is not a linear layer that can be"),
    ],
)
def test_backbones_without_such_layers_are_refused_before_images_are_read(
    photos: str, tmp_path: Path, capsys: pytest.CaptureFixture, more: list[str], message: str
) -> None:
    capsys.readouterr()
    out = ["--output_dir", str(tmp_path / "run")]
    assert main(["train", "--dataset", photos, "--lora_rank", "8", *more, *out]) == 2
    printed, complaint = capsys.readouterr()
    assert message in complaint
    assert len(complaint.strip().splitlines()) == 1
    assert "images of 5 classes" not in printed


def test_convnext_has_such_layers(photos: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    small = json.dumps({"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]})
    more = ["--backbone", "convnext_tiny", "--backbone_kwargs", small, "--dataset", photos, "--max_steps", "1"]
    assert main(flags(tmp_path / "run", *more, "--save_strategy", "no")) == 0
    assert "on 8 linear layers (fc1, fc2)" in capsys.readouterr().out


@pytest.mark.parametrize("backbone", ["vgg11", "densenet121"])
def test_what_is_advised_instead_works(backbone: str) -> None:
    with torch.device("meta"):
        model = PaCoForImageClassification(PaCoConfig(backbone=backbone, num_labels=2))
    with pytest.raises(ValueError, match="--trainable_convolutions") as refusal:
        choose_targets(model)
    named = re.search(r"--trainable_convolutions (\S+) ", str(refusal.value))[1]
    freeze_convolutions(model.paco.backbone, named)
    trained = [name for name, p in model.paco.backbone.named_parameters() if p.requires_grad and p.ndim == 4]
    assert 0 < 2 * len(trained) < sum(p.ndim == 4 for p in model.parameters())


def test_refusals_without_rank_or_peft(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["train", "--lora_alpha", "4", "--output_dir", str(tmp_path / "a")]) == 2
    assert "have no effect without --lora_rank" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "peft", None)
    assert main(flags(tmp_path / "b")) == 2
    assert "pip install 'paco-hf[lora]'" in capsys.readouterr().err


def test_targets_of_convolutions_are_none() -> None:
    with pytest.raises(ValueError, match="adapts linear layers"):
        choose_targets(make_model("cifar_resnet20"))


@pytest.fixture(scope="module")
def cosine_run(tmp_path_factory: pytest.TempPathFactory, photos: str, weights: Path) -> tuple[Path, list[str]]:
    """A run of adapters below a cosine classifier, and the flags that it was made with."""
    folder = tmp_path_factory.mktemp("cosine") / "run"
    more = ["--dataset", photos, "--pretrained_file", str(weights), "--classifier", "cosine"]
    more += ["--classifier_scale", "12", "--learn_classifier_scale", "true", "--class_centers", "means"]
    assert main(flags(folder, *more)) == 0
    return folder, more


def test_adapters_below_a_cosine_classifier(cosine_run: tuple[Path, list[str]], tmp_path: Path) -> None:
    run, _ = cosine_run
    model = load_classifier(run).eval()
    assert (model.config.classifier, has_adapter(model)) == ("cosine", False)
    before, after = (load_file(run / f"checkpoint-{step}" / ADAPTER_NAME) for step in (2, 4))
    for name in ("weight", "scale"):
        key = f"base_model.model.classifier.{name}"
        assert not torch.equal(before[key], after[key])
    assert model.classifier.scale.item() != 12
    selected = next(run.glob("selected-*.safetensors"))
    assert {"classifier.weight", "classifier.scale"} <= load_file(selected).keys()
    assert export_onnx(model, tmp_path / "onnx").difference < 1e-4
    assert main(["evaluate", str(run), "--no_report"]) == 0


def test_adapters_below_a_cosine_classifier_load_in_peft(cosine_run: tuple[Path, list[str]], weights: Path) -> None:
    from peft import PeftModel

    model = load_classifier(cosine_run[0]).eval()
    base = PaCoForImageClassification(model.config)
    base.paco.backbone.load_state_dict(load_file(weights))
    loaded = PeftModel.from_pretrained(base, cosine_run[0] / "adapter").eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(loaded(images).logits, model(images).logits, atol=1e-4)


def test_adapters_below_a_cosine_classifier_resume(cosine_run: tuple[Path, list[str]], tmp_path: Path) -> None:
    run, more = cosine_run
    resumed = tmp_path / "run"
    shutil.copytree(run, resumed)
    shutil.rmtree(resumed / "checkpoint-4")
    (resumed / "metrics.json").unlink()
    (resumed / "model.safetensors").unlink()
    assert main(flags(resumed, *more, "--resume")) == 0
    wanted, found = everything(run), everything(resumed)
    assert wanted.keys() == found.keys()
    assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []
