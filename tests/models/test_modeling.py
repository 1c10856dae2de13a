"""Models over timm backbones: timm's initialization, the Auto classes, saving and loading, key encoder and queue."""

import json
from pathlib import Path

import pytest
import timm
import torch
from fresh_processes import FreshProcesses
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, BitImageProcessor
from transformers.utils import logging as transformers_logging

from paco_hf import PaCoConfig, PaCoForContrastiveTraining, PaCoForImageClassification, PaCoModel
from paco_hf.inference.forward import fast_forward
from paco_hf.models.feature_queue import FeatureQueue

BACKBONES = [
    ("resnet18", {}, 64),
    pytest.param("resnext50_32x4d", {}, 64, marks=pytest.mark.slow),
    ("convnext_atto", {}, 64),
    ("vit_tiny_patch16_224", {"img_size": 64, "depth": 2}, 64),
    ("swin_tiny_patch4_window7_224", {"img_size": 56, "depths": (1, 1, 1, 1)}, 56),
    ("eva02_tiny_patch14_224", {"img_size": 56, "depth": 2}, 56),
    ("cifar_resnet32", {}, 32),
    pytest.param("cifar_resnet50", {}, 32, marks=pytest.mark.slow),
]


def tiny(num_labels: int = 5, **fields) -> PaCoForImageClassification:
    torch.manual_seed(0)
    return PaCoForImageClassification(
        PaCoConfig(backbone="cifar_resnet20", num_labels=num_labels, image_size=32, **fields)
    )


@pytest.mark.parametrize(("name", "kwargs", "size"), BACKBONES)
def test_any_timm_backbone_keeps_its_initialization_and_survives_a_round_trip(name, kwargs, size, tmp_path) -> None:
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=0, **kwargs)
    torch.manual_seed(0)
    model = PaCoForImageClassification(PaCoConfig(backbone=name, backbone_kwargs=kwargs, num_labels=5)).eval()
    own = model.paco.backbone.state_dict()
    assert all(torch.equal(tensor, own[key]) for key, tensor in plain.state_dict().items())

    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        logits, features = model(images).logits, model.paco(images).pooler_output
        assert torch.equal(features, plain.eval()(images))
        model.save_pretrained(tmp_path)
        loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
        assert isinstance(loaded, PaCoForImageClassification)
        # Non-persistent buffers (rotary tables, relative positions) are in no file, and must be right all the same.
        assert torch.equal(loaded(images).logits, logits)
        assert torch.equal(AutoModel.from_pretrained(tmp_path)(images).pooler_output, features)


@pytest.mark.parametrize(
    ("name", "depth"), [("cifar_resnet20", 20), ("cifar_resnet32", 32), ("cifar_resnet44", 44), ("cifar_resnet56", 56)]
)
def test_cifar_resnets(name: str, depth: int) -> None:
    model = timm.create_model(name, num_classes=10)
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == depth - 1
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert model.forward_features(torch.randn(1, 3, 32, 32)).shape == (1, 64, 8, 8)
    # Kaiming normal with fan in.
    weight = model.layer3[1].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    model.reset_classifier(3)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 3)


def test_head_is_initialized_as_linear() -> None:
    model = tiny(num_labels=500)
    bound = 1 / 64**0.5
    assert model.classifier.weight.abs().max() <= bound
    assert model.classifier.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_zero_init_last_is_a_choice() -> None:
    gammas = []
    for kwargs in ({}, {"zero_init_last": False}):
        model = PaCoModel(PaCoConfig(backbone="resnet50", backbone_kwargs=kwargs))
        gammas.append(model.backbone.layer1[0].bn3.weight.detach().mean().item())
    assert gammas == [0.0, 1.0]


def test_pretrained_weights_survive(tmp_path) -> None:
    source = timm.create_model("resnet18", num_classes=0)
    torch.nn.init.constant_(source.layer1[0].bn2.weight, 0.25)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    overlay = {"pretrained_cfg_overlay": {"file": str(tmp_path / "weights.safetensors"), "num_classes": 0}}
    model = PaCoForImageClassification.from_timm("resnet18", pretrained=True, num_labels=3, backbone_kwargs=overlay)
    assert torch.equal(model.paco.backbone.conv1.weight, source.conv1.weight)
    assert (model.paco.backbone.layer1[0].bn2.weight == 0.25).all()


def test_new_number_of_classes_gives_a_fresh_head(tmp_path) -> None:
    tiny().save_pretrained(tmp_path)
    model = PaCoForImageClassification.from_pretrained(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    assert model.classifier.weight.shape == (7, 64)
    assert 0 < model.classifier.weight.abs().max() <= 1 / 8


@pytest.mark.parametrize(
    "labels",
    [{"num_labels": 7}, {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}],
    ids=["number", "names"],
)
def test_a_new_head_has_no_counts_of_the_old_one(labels: dict, tmp_path: Path, caplog) -> None:
    counts = {"class_counts": [8, 4, 2], "selection_counts": [9, 5, 3], "inference_prior": [0.5, 0.3, 0.2]}
    tiny(num_labels=3, temperature=0.5, **counts).save_pretrained(tmp_path / "old")
    load = AutoModelForImageClassification.from_pretrained
    transformers_logging.get_logger().addHandler(caplog.handler)
    try:
        model = load(tmp_path / "old", ignore_mismatched_sizes=True, **labels)
    finally:
        transformers_logging.get_logger().removeHandler(caplog.handler)
    assert "class_counts, selection_counts, inference_prior of the checkpoint are for 3 classes" in caplog.text
    size = model.config.num_labels
    assert [getattr(model.config, name) for name in (*counts, "temperature")] == [None] * 4
    model.save_pretrained(tmp_path / "new")
    again = load(tmp_path / "new")
    assert again.config.num_labels == size == len(again.classifier.weight)
    assert torch.equal(again.classifier.weight, model.classifier.weight)
    # As many classes are the same head.
    assert load(tmp_path / "old", num_labels=3).config.class_counts == [8, 4, 2]
    # What is passed is checked as ever.
    with pytest.raises(ValueError, match="class_counts has 2 entries, but the model has"):
        load(tmp_path / "old", num_labels=7, class_counts=[1, 2], ignore_mismatched_sizes=True)


def test_names_and_ids_of_classes_follow_each_other(tmp_path: Path) -> None:
    tiny(num_labels=2, class_counts=[2, 1]).save_pretrained(tmp_path)
    by_id = AutoConfig.from_pretrained(tmp_path, id2label={0: "x", 1: "y"})
    by_name = AutoConfig.from_pretrained(tmp_path, label2id={"x": 0, "y": 1, "z": 2})
    assert by_id.label2id == {"x": 0, "y": 1}
    assert (by_name.id2label, by_name.class_counts) == ({0: "x", 1: "y", 2: "z"}, None)


PLAIN_TRAINER = """
import sys
sys.modules["paco_hf"] = None  # as where the package is not installed
import torch
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments

def load(folder, **labels):
    return AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True, **labels)

model = load("old", ignore_mismatched_sizes=True, num_labels=7)
images = [{"pixel_values": torch.randn(3, 32, 32), "labels": i % 7} for i in range(8)]
args = TrainingArguments("run", max_steps=2, save_steps=2, eval_strategy="steps", eval_steps=2, use_cpu=True)
trainer = Trainer(model, args, train_dataset=images, eval_dataset=images)
trainer.train()
trainer.save_model("new")
again, pixels = load("new").eval(), torch.ones(1, 3, 32, 32)
assert (again.config.num_labels, again.config.class_counts) == (7, None)
assert torch.allclose(again(pixels).logits, trainer.model.eval()(pixels).logits, atol=1e-5)
model = load("old", ignore_mismatched_sizes=True, num_labels=7)
trainer = Trainer(model, args, train_dataset=images, eval_dataset=images)
trainer.train(resume_from_checkpoint=True)
print(trainer.state.global_step, type(again).__module__.split(".")[0])
"""


def test_a_new_head_in_a_plain_trainer_without_the_package(with_torch: FreshProcesses, tmp_path: Path) -> None:
    tiny(class_counts=[5, 4, 3, 2, 1], temperature=0.5).save_pretrained(tmp_path / "old")
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    [printed] = with_torch.run(PLAIN_TRAINER, environments=[environment], folder=tmp_path)
    assert printed.splitlines()[-1] == "2 transformers_modules"


def test_file_that_lacks_backbone_weights_is_refused(tmp_path) -> None:
    tiny().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["paco.backbone.conv1.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"is missing 1 weights.*conv1\.weight"):
        PaCoForImageClassification.from_pretrained(tmp_path)


def test_config_is_validated() -> None:
    with pytest.raises(ValueError, match=r"did you mean.*resnet50"):
        PaCoForImageClassification(PaCoConfig(backbone="resnet5O"))
    with pytest.raises(ValueError, match="cannot be built with the arguments"):
        PaCoForImageClassification(PaCoConfig(backbone="cifar_resnet20", backbone_kwargs={"wings": 2}))
    for fields, message in (
        ({"class_counts": [1, 2]}, "2 entries, but the model has 3 classes"),
        ({"selection_counts": [1, 2]}, "selection_counts has 2"),
        ({"class_counts": [1, 2, -3]}, "counts of 0 or more"),
        ({"class_counts": "abc"}, "a list, an array or a tensor"),
        ({"class_counts": [[1, 2, 3]]}, "class_counts must be a list"),
        ({"class_counts": [1.5, 2, 3]}, "class_counts must contain integers"),
        ({"class_counts": [None] * 3}, "class_counts must be a list"),
        ({"image_size": -3}, "image_size must be"),
        ({"backbone_kwargs": [1]}, "backbone_kwargs must be"),
        ({"temperature": "x"}, "temperature must be"),
        ({"inference_prior": [0.5, 0.5, 0]}, "positive"),
        ({"temperature": 0.0}, "temperature must be a positive number"),
    ):
        with pytest.raises(ValueError, match=message):
            PaCoConfig(num_labels=3, **fields)
    assert PaCoConfig(num_labels=2, class_counts=torch.tensor([4, 1])).class_counts == [4, 1]


def test_changed_number_of_classes_takes_other_counts(tmp_path) -> None:
    tiny(class_counts=[5, 4, 3, 2, 1]).save_pretrained(tmp_path)
    fresh = PaCoForImageClassification.from_pretrained(
        tmp_path, num_labels=7, class_counts=None, ignore_mismatched_sizes=True
    )
    assert fresh.classifier.out_features == 7
    counted = AutoConfig.from_pretrained(tmp_path, num_labels=2, class_counts=[3, 1])
    assert counted.class_counts == [3, 1]


def test_truncated_weights_are_an_os_error_with_the_folder(tmp_path) -> None:
    tiny().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(OSError, match=rf"{tmp_path.name} cannot be read"):
        PaCoForImageClassification.from_pretrained(tmp_path)


def test_prior_and_temperature_adjust_the_logits() -> None:
    model, images = tiny(3).eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        raw = model(images).logits
        model.config.temperature, model.config.inference_prior = 2.0, [6.0, 3.0, 1.0]
        adjusted = model(images).logits
    assert torch.allclose(adjusted, raw / 2 + torch.tensor([0.6, 0.3, 0.1]).log(), atol=1e-6)


def test_loss_of_the_classifier_is_cross_entropy() -> None:
    model, images, labels = tiny().eval(), torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    out = model(images, labels=labels)
    assert out.loss.item() == pytest.approx(torch.nn.functional.cross_entropy(out.logits, labels).item())
    assert isinstance(model(images, labels=labels, return_dict=False), tuple)


@pytest.mark.parametrize(("name", "kwargs", "size"), BACKBONES)
def test_hidden_states_are_given_or_refused(name: str, kwargs: dict, size: int) -> None:
    config = PaCoConfig(backbone=name, backbone_kwargs=kwargs, num_labels=5)
    model, images = PaCoForImageClassification(config).eval(), torch.randn(2, 3, size, size)
    if name == "cifar_resnet32":
        with pytest.raises(ValueError, match=f"not supported by the backbone '{name}'"):
            model(images, output_hidden_states=True)
        return
    with torch.no_grad():
        plain, output = model(images), model(images, output_hidden_states=True)
        expected = model.paco.backbone.forward_intermediates(images, intermediates_only=True)
    assert plain.hidden_states is None
    assert torch.allclose(output.logits, plain.logits, atol=1e-6)
    assert len(output.hidden_states) == len(expected) > 1
    assert all(torch.equal(state, given) for state, given in zip(output.hidden_states, expected, strict=True))
    model.config.output_hidden_states = True
    assert len(model(images).hidden_states) == len(expected)
    assert len(model.paco(images).hidden_states) == len(expected)
    assert model(images, output_hidden_states=False).hidden_states is None


def test_attentions_are_refused() -> None:
    with pytest.raises(ValueError, match="output_attentions=True is not supported"):
        tiny()(torch.randn(1, 3, 32, 32), output_attentions=True)


def test_tuples_where_the_configuration_asks_for_them(tmp_path: Path) -> None:
    tiny(return_dict=False).save_pretrained(tmp_path)
    model, images, labels = PaCoForImageClassification.from_pretrained(tmp_path), torch.randn(2, 3, 32, 32), [1, 2]
    loss, logits = model(images, labels=torch.tensor(labels))
    assert logits.shape == (2, 5)
    assert torch.equal(model(images, labels=torch.tensor(labels), return_dict=True).loss, loss)
    assert isinstance(model.paco(images), tuple)
    training = PaCoForContrastiveTraining.from_classifier(model, "paco", projection_dim=8, queue_size=4)
    views = {"pixel_values": images, "key_pixel_values": images, "labels": torch.tensor(labels)}
    assert isinstance(training(**views), tuple)
    assert fast_forward(model)(images).shape == (2, 5)


# ---- training model


@pytest.mark.parametrize(("variant", "rows"), [("paco", 4), ("gpaco", 8), ("multitask", 8)])
def test_two_views(variant: str, rows: int) -> None:
    model = PaCoForContrastiveTraining.from_classifier(
        tiny(), variant=variant, projection_dim=16, queue_size=10
    ).train()
    query, key, labels = torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    before = {name: tensor.clone() for name, tensor in model.queue.state_dict().items()}
    out = model(pixel_values=query, key_pixel_values=key, labels=labels)
    assert out.logits.shape == (rows, 5)
    assert out.features.shape == (18, 16)
    assert torch.equal(out.feature_labels, torch.cat([labels, labels, before["labels"]]))
    assert torch.equal(out.features[8:], before["features"])
    assert torch.allclose(out.features[:8].norm(dim=1), torch.ones(8), atol=1e-6)
    assert torch.equal(model.queue.features[:4], out.features[4:8].detach())
    assert torch.equal(model.queue.labels[:4], labels)
    assert model.queue.pointer.item() == 4
    gradient = torch.autograd.grad(
        out.features[4:8].sum(), model.classifier.weight, allow_unused=True, retain_graph=True
    )
    assert gradient == (None,)
    assert (model.key_encoder is None) == (variant != "paco")

    model.eval()
    pointer = model.queue.pointer.clone()
    model(pixel_values=query, key_pixel_values=key, labels=labels)
    assert torch.equal(model.queue.pointer, pointer)
    assert set(model(pixel_values=query).keys()) == {"logits"}
    assert "loss" in model(pixel_values=query, labels=labels)


def test_single_view_variant() -> None:
    model = PaCoForContrastiveTraining.from_classifier(
        tiny(), variant="gpaco_single", projection_dim=16, queue_size=10
    )
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    out = model.train()(pixel_values=images, labels=labels)
    assert out.logits.shape == (4, 5)
    assert out.features.shape == (14, 16)
    assert torch.equal(model.queue.features[:4], out.features[:4].detach())
    with pytest.raises(ValueError, match="takes one view"):
        model(pixel_values=images, key_pixel_values=images, labels=labels)
    assert set(model.eval()(pixel_values=images).keys()) == {"logits"}


def test_projectors() -> None:
    kinds = {
        variant: [
            type(layer).__name__
            for layer in PaCoForContrastiveTraining.from_classifier(tiny(), variant=variant).projector
        ]
        for variant in ("paco", "gpaco")
    }
    assert kinds["paco"] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert kinds["gpaco"] == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    vit = PaCoForImageClassification(PaCoConfig(backbone="vit_tiny_patch16_224", backbone_kwargs={"depth": 1}))
    projector = PaCoForContrastiveTraining.from_classifier(vit, variant="gpaco").projector
    assert [type(layer).__name__ for layer in projector] == ["Linear", "GELU", "Linear", "GELU", "Linear"]


def test_key_encoder_follows_by_its_momentum() -> None:
    model = PaCoForContrastiveTraining.from_classifier(tiny(), key_momentum=0.9, queue_size=4, projection_dim=8)
    assert not any(p.requires_grad for p in model.key_encoder.parameters())
    key = model.key_encoder["paco"].backbone.conv1.weight
    start = key.clone()
    with torch.no_grad():
        model.paco.backbone.conv1.weight.add_(1.0)
        model.projector[0].bias.add_(2.0)
    projector = model.key_encoder["projector"][0].bias.clone()
    statistics = model.key_encoder["paco"].backbone.bn1.running_mean.clone()
    model.paco.backbone.bn1.running_mean.add_(5)
    model.update_key_encoder()
    assert torch.allclose(key, start + 0.1, atol=1e-6)
    assert torch.allclose(model.key_encoder["projector"][0].bias, projector + 0.2, atol=1e-6)
    assert torch.equal(model.key_encoder["paco"].backbone.bn1.running_mean, statistics)
    model.key_momentum = 0.0
    model.update_key_encoder()
    assert torch.equal(key, model.paco.backbone.conv1.weight)
    PaCoForContrastiveTraining.from_classifier(tiny(), variant="gpaco").update_key_encoder()


def test_weights_are_shared_with_the_classifier() -> None:
    classifier = tiny()
    model = PaCoForContrastiveTraining.from_classifier(classifier)
    assert model.classifier is classifier.classifier
    assert model.to_classifier().paco.backbone.conv1.weight is classifier.paco.backbone.conv1.weight
    head = classifier.classifier.weight.clone()
    assert torch.equal(model.to_classifier().classifier.weight, head)
    inference = set(classifier.state_dict())
    assert inference == {
        key for key in model.state_dict() if not key.startswith(("projector.", "key_encoder.", "queue."))
    }


def test_training_checkpoint_is_a_classifier_and_comes_back_whole(tmp_path) -> None:
    model = PaCoForContrastiveTraining.from_classifier(
        tiny(), queue_size=6, projection_dim=8, key_momentum=0.5
    ).train()
    model(pixel_values=torch.randn(4, 3, 32, 32), key_pixel_values=torch.randn(4, 3, 32, 32), labels=torch.arange(4))
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["PaCoForImageClassification"]
    classifier, info = AutoModelForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    again = PaCoForContrastiveTraining.from_pretrained(tmp_path)
    assert again.key_momentum == 0.5
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key
    other = PaCoForContrastiveTraining.from_classifier(classifier, queue_size=7, projection_dim=8)
    with pytest.raises(
        ValueError, match=r"does not match this model .*, the first difference is queue\.features: train with"
    ):
        other.load_training_state(tmp_path)
    state = tmp_path / "paco_training_state.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(OSError, match="truncated"):
        PaCoForContrastiveTraining.from_pretrained(tmp_path)
    state.unlink()
    with pytest.raises(OSError, match="the folder is not a training checkpoint"):
        PaCoForContrastiveTraining.from_pretrained(tmp_path)


def test_double_model_has_a_double_queue_and_autocast_a_float32_one() -> None:
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    model = PaCoForContrastiveTraining.from_classifier(tiny(), queue_size=6).double().train()
    assert (
        model(pixel_values=images.double(), key_pixel_values=images.double(), labels=labels).features.dtype
        == torch.float64
    )
    model = PaCoForContrastiveTraining.from_classifier(tiny(), queue_size=6).train()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(pixel_values=images, key_pixel_values=images, labels=labels)
    assert out.features.dtype == model.queue.features.dtype == torch.float32
    assert out.logits.dtype == torch.bfloat16


def test_training_settings_are_validated() -> None:
    for settings, message in (
        ({"variant": "moco"}, "variant must be one of"),
        ({"projector": "mlp9"}, "projector must be one of"),
        ({"queue_size": -1}, "queue_size"),
        ({"key_momentum": 1.5}, "key_momentum"),
    ):
        with pytest.raises(ValueError, match=message):
            PaCoForContrastiveTraining.from_classifier(tiny(), **settings)
    with pytest.raises(ValueError, match="need labels"):
        PaCoForContrastiveTraining.from_classifier(tiny())(
            torch.randn(2, 3, 32, 32), key_pixel_values=torch.randn(2, 3, 32, 32)
        )


# ---- queue


def test_queue_starts_as_the_references() -> None:
    queue = FeatureQueue(1024, 32, num_classes=10, seed=3)
    assert torch.allclose(queue.features.norm(dim=0), torch.ones(32), atol=1e-5)
    assert queue.features.norm(dim=1).mean().item() == pytest.approx((32 / 1024) ** 0.5, rel=0.05)
    assert set(queue.labels.tolist()) == set(range(10))
    same, other = FeatureQueue(1024, 32, 10, seed=3), FeatureQueue(1024, 32, 10, seed=4)
    assert torch.equal(queue.features, same.features)
    assert not torch.equal(queue.features, other.features)


@pytest.mark.parametrize(
    ("size", "batches"), [(10, [4, 4, 4, 4]), (7, [3, 3, 1, 6]), (4, [9, 2, 4, 5]), (0, [3, 3]), (1, [2, 1])]
)
def test_queue_takes_any_batch(size: int, batches: list[int]) -> None:
    queue = FeatureQueue(size, 2, num_classes=5)
    written = 0
    for batch in batches:
        rows = torch.arange(written, written + batch).float()[:, None].repeat(1, 2) + 100
        queue.enqueue(rows, torch.arange(written, written + batch))
        written += batch
        if size == 0:
            assert queue.features.shape == (0, 2)
            continue
        assert queue.pointer.item() == written % size
        for age in range(min(written, size)):
            row = written - 1 - age
            assert queue.labels[row % size].item() == row
            assert queue.features[row % size].tolist() == [row + 100, row + 100]


# ---- package


def test_auto_classes_and_pipeline(tmp_path) -> None:
    from PIL import Image
    from transformers import pipeline

    model = tiny(id2label={i: f"class {i}" for i in range(5)}).eval()
    model.save_pretrained(tmp_path)
    BitImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), PaCoConfig)
    assert isinstance(AutoImageProcessor.from_pretrained(tmp_path), BitImageProcessor)
    image = Image.new("RGB", (48, 40), (200, 30, 60))
    result = pipeline("image-classification", model=str(tmp_path))(image, top_k=5)
    with torch.no_grad():
        logits = model(AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt")["pixel_values"]).logits
    assert result[0]["label"] == f"class {logits.argmax().item()}"
    assert result[0]["score"] == pytest.approx(logits.softmax(-1).max().item(), abs=1e-6)


def test_calibration_and_prior_are_saved(tmp_path) -> None:
    prior = {"temperature": 1.5, "inference_prior": [0.5, 0.3, 0.2]}
    model = PaCoForImageClassification(PaCoConfig(backbone="cifar_resnet20", num_labels=3, image_size=32, **prior))
    model.save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert (again.config.temperature, again.config.inference_prior) == (1.5, [0.5, 0.3, 0.2])
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(images).logits, model.eval()(images).logits)


def test_gradient_checkpointing_counts_a_batch_once_in_a_loop_of_ones_own() -> None:
    def train(checkpointing: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        kwargs = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
        model = PaCoForImageClassification(PaCoConfig(backbone="resnet18", backbone_kwargs=kwargs, num_labels=3))
        if checkpointing:
            model.gradient_checkpointing_enable()
            model.gradient_checkpointing_enable()
        model.train()
        batches = [torch.randn(4, 3, 64, 64) for _ in range(4)]
        labels = torch.tensor([0, 1, 2, 0])
        # Two losses before either backward pass, then a backward pass that fails and is left.
        first, second = (model(images, labels=labels).loss for images in batches[:2])
        second.backward()
        first.backward()
        loss = model(batches[2], labels=labels).loss
        hook = model.paco.backbone.layer2[0].conv1.weight.register_hook(lambda gradient: gradient.no_such_name)
        with pytest.raises(AttributeError):
            loss.backward()
        hook.remove()
        model(batches[3], labels=labels).loss.backward()
        assert all(module.momentum == 0.1 for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))
        gradients = {f"gradient of {name}": p.grad for name, p in model.paco.backbone.layer1.named_parameters()}
        return dict(model.named_buffers()) | gradients

    plain, saving = train(False), train(True)
    assert plain["paco.backbone.bn1.num_batches_tracked"] == 4
    assert [name for name in plain if not torch.equal(plain[name], saving[name])] == []
