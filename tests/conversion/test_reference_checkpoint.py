"""Reference checkpoints: recognized, loaded to the last key, and training on from there as the reference does."""

import argparse
import re

import pytest
import timm
import torch
from conftest import doubled, golden, golden_path, seeded_images, weight_by_rule
from reference_checkpoints import FULL_SIZE, full_size_state, outputs

from paco_hf import paco_loss
from paco_hf.conversion.reference_checkpoint import (
    _RESNET_PREFIXES,
    _translate,
    load_reference_checkpoint,
)

TINY_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 4}


def initial_state(variant: str) -> dict[str, torch.Tensor]:
    tensors, _ = golden(f"moco_steps_cifar_r32_{variant}.safetensors")
    state = {key.removeprefix("initial."): t for key, t in tensors.items() if key.startswith("initial.")}
    if variant == "paco":
        state |= {
            f"encoder_k.{key.removeprefix('encoder_q.')}": t
            for key, t in state.items()
            if key.startswith("encoder_q.")
        }
    return state


@pytest.mark.parametrize("variant", ["paco", "gpaco"])
def test_training_steps_equal_the_reference(variant: str) -> None:
    tensors, metadata = golden(f"moco_steps_cifar_r32_{variant}.safetensors")
    model = load_reference_checkpoint(doubled(initial_state(variant))).train()
    assert (model.spec.name, model.config.backbone) == (variant, "cifar_resnet32")
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-4)
    for step in range(int(metadata["steps"])):
        out = model(
            pixel_values=tensors["view1"][step].double(),
            key_pixel_values=tensors["view2"][step].double(),
            labels=tensors["labels"][step],
        )
        loss = paco_loss(
            out.features,
            out.feature_labels,
            out.logits,
            class_counts=tensors["class_counts"],
            alpha=0.01,
            temperature=0.05,
            eps=1e-12,
        )
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            for name, weight in (("encoder_q.conv1", model.paco.backbone.conv1), ("linear", model.classifier)):
                assert (weight.weight.grad - tensors[f"step0.grad.{name}.weight"]).abs().max() < 1e-9
        optimizer.step()
        assert loss.item() == pytest.approx(tensors["loss"][step].item(), rel=1e-9)
        assert torch.equal(out.feature_labels, tensors[f"step{step}.targets"])
        assert (out.features[:16] - tensors[f"step{step}.features"]).abs().max() < 1e-9
        assert (out.logits - tensors[f"step{step}.logits"]).abs().max() < 1e-9
        assert (model.queue.features - tensors[f"step{step}.queue"]).abs().max() < 1e-9
        assert torch.equal(model.queue.labels, tensors[f"step{step}.queue_labels"])
        assert torch.equal(model.queue.pointer, tensors[f"step{step}.queue_ptr"])
        if step < 4:  # what is stored is the key encoder before the update that follows the last step
            model.update_key_encoder()
    final = {
        key.removeprefix("final."): t
        for key, t in tensors.items()
        if key.startswith("final.") and "linear_k" not in key
    }
    assert len(final) > 20
    state = model.state_dict()
    for key, tensor in final.items():
        assert (state[_translate(key, _RESNET_PREFIXES)].to(tensor.dtype) - tensor).abs().max() <= 1e-7, key


def test_vit_training_steps_equal_the_reference() -> None:
    tensors, metadata = golden("vit_tiny_gpaco_steps.safetensors")
    shapes = {
        key: tuple(tensor.shape)
        for key, tensor in timm.create_model("vit_base_patch16_224", num_classes=10, global_pool="avg", **TINY_VIT)
        .state_dict()
        .items()
    }
    shapes |= {f"mlp.{i}.weight": (64, 64) for i in (0, 2)} | {f"mlp.{i}.bias": (64,) for i in (0, 2)}
    shapes |= {
        "mlp.4.weight": (128, 64),
        "mlp.4.bias": (128,),
        "queue": (8192, 128),
        "queue_l": (8192,),
        "queue_ptr": (1,),
    }
    state = doubled({key: weight_by_rule(key, shape, 10) for key, shape in shapes.items()})
    checksum = sum(tensor.sum().item() for tensor in state.values() if tensor.is_floating_point())
    assert checksum == pytest.approx(tensors["weight_checksum"].item(), abs=1e-8)

    model = load_reference_checkpoint(state, backbone="vit_base_patch16_224", backbone_kwargs=TINY_VIT).train()
    assert model.projector_type == "mlp3-gelu"
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    seed = int(metadata["image_seed"])
    for step in range(2):
        views = [seeded_images(seed + 2 * step + view, (4, 3, 32, 32)).double() for view in (0, 1)]
        labels = tensors[f"step{step}.labels"]
        out = model(pixel_values=views[0], key_pixel_values=views[1], labels=labels)
        loss = paco_loss(out.features, out.feature_labels, out.logits, alpha=0.2, label_smoothing=0.1, eps=1e-12)
        optimizer.zero_grad()
        loss.backward()
        assert loss.item() == pytest.approx(tensors[f"step{step}.loss"].item(), rel=1e-9)
        gradient = model.paco.backbone.cls_token.grad
        assert (gradient - tensors[f"step{step}.grad.cls_token"]).abs().max() < 1e-9
        assert (model.classifier.weight.grad - tensors[f"step{step}.grad.head.weight"]).abs().max() < 1e-9
        assert (model.queue.features[:16] - tensors[f"step{step}.queue_head"]).abs().max() < 1e-9
        assert torch.equal(model.queue.labels[:16], tensors[f"step{step}.queue_labels_head"])
        assert torch.equal(model.queue.pointer, tensors[f"step{step}.queue_ptr"])
        optimizer.step()


@pytest.mark.parametrize(
    "name", ["convert_cifar_r32", "convert_cifar_r32_gpaco", "convert_resnet_tiny", "convert_resnet_tiny_gpaco"]
)
def test_converted_checkpoint_gives_the_reference_outputs(name: str) -> None:
    path = golden_path(f"{name}.pth")
    expected, metadata = golden(f"{name}_expected.safetensors")
    model = load_reference_checkpoint(path)
    assert model.spec.name == metadata["variant"]
    for key, value in outputs(model, expected["images"]).items():
        assert torch.allclose(value, expected[key], rtol=1e-5, atol=1e-5)
    state = torch.load(path, weights_only=True)["state_dict"]
    for key, value in outputs(load_reference_checkpoint(doubled(state)), expected["images"]).items():
        assert (value - expected[f"{key}_f64"]).abs().max() < 1e-6
    if model.spec.name == "paco":
        assert set(model.dropped_keys) == {"linear_k.weight", "linear_k.bias"}


def test_custom_width_is_recognized() -> None:
    model = load_reference_checkpoint(golden_path("convert_resnet_tiny.pth"))
    wanted = {"layers": [1, 2, 1, 1], "channels": [8, 16, 32, 64], "cardinality": 4, "base_width": 16}
    assert (model.config.backbone, model.config.backbone_kwargs) == ("resnet50", wanted)
    given = load_reference_checkpoint(
        golden_path("convert_resnet_tiny.pth"), backbone="resnet50", backbone_kwargs=wanted
    )
    assert torch.equal(given.classifier.weight, model.classifier.weight)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_architectures(name: str) -> None:
    state, tensors, metadata = full_size_state(name)
    images = seeded_images(int(metadata["image_seed"]), tuple(int(n) for n in metadata["image_shape"].split("x")))
    model = load_reference_checkpoint(doubled(state))
    assert model.config.backbone == {"vit_base_patch16": "vit_base_patch16_224"}.get(
        metadata["arch"], metadata["arch"]
    )
    for key, value in outputs(model, images).items():
        assert (value - tensors[f"{key}_f64"]).abs().max() < 1e-6
    for key, value in outputs(load_reference_checkpoint(state), images).items():
        assert torch.allclose(
            value.double(), tensors[f"{key}_f64"], rtol=1e-5, atol=1e-5 * tensors[f"{key}_f64"].abs().max().item()
        )


def small_state() -> dict[str, torch.Tensor]:
    return {f"module.{key}": tensor for key, tensor in initial_state("paco").items()}


def test_half_precision_becomes_float32() -> None:
    state = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in small_state().items()}
    assert load_reference_checkpoint(state).dtype == torch.float32


def test_file_stripped_of_its_key_encoder_loads_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    state = {key: tensor for key, tensor in small_state().items() if "encoder_k" not in key}
    model = load_reference_checkpoint(state)
    assert "has no key encoder" in caplog.text
    for key, query in zip(model.key_encoder["paco"].parameters(), model.paco.parameters(), strict=True):
        assert torch.equal(key, query)


@pytest.mark.parametrize(
    "key",
    [
        "linear.bias",
        "queue",
        "queue_l",
        "queue_ptr",
        "encoder_q.fc.0.weight",
        "encoder_q.fc.1.running_mean",
        "encoder_q.layer2.1.bn1.bias",
        "encoder_k.layer1.0.conv1.weight",
        "encoder_k.fc.3.bias",
    ],
)
def test_missing_key_is_named_as_the_file_names_it(key: str) -> None:
    state = {name: tensor for name, tensor in small_state().items() if name != f"module.{key}"}
    with pytest.raises(ValueError, match=rf"(is missing \d+ keys, the first is|has no key) {re.escape(key)}$"):
        load_reference_checkpoint(state)


def test_refusals_name_the_key() -> None:
    state = small_state()
    for change, message in (
        ({"module.surprise": torch.zeros(1)}, "unknown key: surprise"),
        ({"module.encoder_q.layer1.0.conv9.weight": torch.zeros(1)}, r"layer1\.0\.conv9\.weight"),
        ({"module.encoder_q.fc.7.weight": torch.zeros(1)}, r"a paco model does not have: encoder_q\.fc\.7\.weight"),
        ({"module.linear.bias": torch.zeros(11)}, r"linear\.bias has shape"),
        ({"module.linear.bias": torch.zeros(10, dtype=torch.long)}, r"linear\.bias has dtype"),
        ({"module.linear.weight": torch.zeros(3)}, r"linear\.weight should have 2 dimensions"),
        ({"module.linear.weight": torch.zeros(0, 64)}, r"linear\.weight or queue is empty"),
        ({"module.linear.weight": "text"}, r"module\.linear\.weight"),
        ({"module.linear.weight": torch.zeros(10, 64).to_sparse()}, r"module\.linear\.weight must be a dense tensor"),
        ({"queue": torch.ones(64, 32)}, "queue twice"),
        ({"module.queue_ptr": torch.tensor([999])}, "queue_ptr is 999"),
    ):
        with pytest.raises(ValueError, match=message):
            load_reference_checkpoint({**state, **change})
    for arguments, message in (
        ({"backbone": "cifar_resnet32", "backbone_kwargs": {"in_chans": 1}}, r"encoder_q\.conv1\.weight.*expects"),
        ({"backbone": "cifar_resnet20"}, r"does not have: encoder_q\.layer1\.3"),
        ({"backbone": "cifar_resnet99"}, "unknown backbone"),
        ({"backbone": "cifar_resnet32", "backbone_kwargs": {"wings": 2}}, "cannot be built"),
        ({"backbone": 3}, "name of a timm model"),
        ({"backbone_kwargs": [1]}, "must be a dictionary"),
    ):
        with pytest.raises(ValueError, match=message):
            load_reference_checkpoint(state, **arguments)


def test_what_is_no_checkpoint_is_refused(tmp_path) -> None:
    for source, message in (
        ({}, "no state dict"),
        ({"fc.weight": torch.zeros(1)}, "which has encoder_q"),
        (
            {"patch_embed.proj.weight": torch.zeros(60, 3, 8, 8), "pos_embed": torch.zeros(1, 17, 60)},
            "number of heads",
        ),
        (None, "a path or a state dict"),
        ([1], "a path or a state dict"),
    ):
        with pytest.raises(ValueError, match=message):
            load_reference_checkpoint(source)
    with pytest.raises(OSError, match="does not exist"):
        load_reference_checkpoint(tmp_path / "none.pth")
    content = golden_path("convert_resnet_tiny.pth").read_bytes()
    torch.save({"a": torch.zeros(500)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    old = (tmp_path / "old.pth").read_bytes()
    for cut in (content[:5000], old[:200], old[:300], b".", b""):
        (tmp_path / "cut.pth").write_bytes(cut)
        with pytest.raises((OSError, ValueError), match=r"cut\.pth"):
            load_reference_checkpoint(tmp_path / "cut.pth")


def test_only_weights_and_an_argparse_namespace_are_unpickled(tmp_path) -> None:
    shapes = {"cls_token": (1, 1, 192)}
    torch.save(
        {"model": {k: torch.zeros(s) for k, s in shapes.items()}, "args": argparse.Namespace(lr=1)},
        tmp_path / "vit.pth",
    )
    with pytest.raises(ValueError, match="which has encoder_q"):  # it was read, and found wanting
        load_reference_checkpoint(tmp_path / "vit.pth")
    torch.save({"model": {}, "args": pytest.ExitCode.OK}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="more than weights"):
        load_reference_checkpoint(tmp_path / "evil.pth")
