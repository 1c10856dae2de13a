"""Exported checkpoints give the model's logits where this package is not: in timm, in transformers, in onnxruntime."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import nn

from paco_hf import PaCoForContrastiveTraining, PaCoForImageClassification
from paco_hf.cli import main
from paco_hf.conversion import export_common, to_onnx, to_timm
from paco_hf.conversion.export_common import preprocessing_settings
from paco_hf.conversion.to_onnx import export_onnx
from paco_hf.conversion.to_timm import export_timm
from paco_hf.models.image_processing import build_processor

NAMES = ["newt", "auk", "ibis", "yak", "eel"]
NARROW = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "zero_init_last": False}
TINY_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "global_pool": "avg"}
BACKBONES = {
    "resnet": ("resnet50", NARROW, 64),
    "tagged": ("resnet50.a1_in1k", NARROW, 72),
    "resnext": ("resnet50", {**NARROW, "cardinality": 4, "base_width": 8}, 64),
    "vit": ("vit_tiny_patch16_224", TINY_VIT, 32),
    "cifar": ("cifar_resnet20", {}, 32),
    "mixer": ("mixer_s32_224", {"img_size": 64}, 64),
}
LOADED_BY_TRANSFORMERS = """
import sys, numpy, torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
found = {}
for folder in sys.argv[2:]:
    image = Image.open(folder + ".png")
    pixels = AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits = AutoModelForImageClassification.from_pretrained(folder)(pixels).logits
    scores = pipeline("image-classification", model=folder)(image, function_to_apply="none", top_k=5)
    found[folder + "/pixels"], found[folder + "/logits"] = pixels, logits
    found[folder + "/labels"] = [entry["label"] for entry in scores]
    found[folder + "/scores"] = [entry["score"] for entry in scores]
numpy.savez(sys.argv[1], **found)
"""
ABSENT = "assert not [name for name in sys.modules if name.startswith('paco_hf')]"


def build(kind: str, more_kwargs: dict | None = None, **config) -> PaCoForImageClassification:
    torch.manual_seed(0)
    backbone, kwargs, size = BACKBONES[kind]
    config = {"image_size": size, "id2label": dict(enumerate(NAMES)), **config}
    kwargs = {**kwargs, **(more_kwargs or {})}
    model = PaCoForImageClassification.from_timm(backbone, backbone_kwargs=kwargs, **config).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def images_of(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def photo(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.RandomState(0).randint(0, 256, (height, width, 3), dtype=np.uint8))


@torch.no_grad()
def distance(model, images: torch.Tensor, logits) -> float:
    """Relative to the largest logit."""
    expected = model(images).logits
    return float((expected - torch.as_tensor(logits)).abs().max() / expected.abs().max())


def run_onnx(file: Path, images: torch.Tensor, **more: torch.Tensor) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(None, {"pixel_values": images.numpy(), **{k: v.numpy() for k, v in more.items()}})[0]


def native_logits(folder: Path, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(images)


@pytest.mark.parametrize("kind", ["resnet", "tagged", "resnext", "vit"])
def test_timm_gives_the_logits(tmp_path, kind):
    model = build(kind, temperature=1.7, inference_prior=[5, 4, 3, 2, 1])
    size = model.config.image_size
    folder = export_timm(model, tmp_path / "new" / "folder")
    images = images_of(2, 3, size, size)
    assert distance(model, images, native_logits(folder, images)) < 1e-5
    model.config.temperature = None
    assert distance(model, images, native_logits(folder, images)) > 1e-2
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == BACKBONES[kind][0].split(".")[0]
    assert config["label_names"] == NAMES
    assert "tag" not in config["pretrained_cfg"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def in_this_process(folder: Path, *arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["-c", *map(str, arguments)])
        exec(LOADED_BY_TRANSFORMERS, {})


def without_the_package(folder: Path, *arguments: object) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    code = LOADED_BY_TRANSFORMERS + ABSENT
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=folder, env=environment, check=True)


@pytest.mark.parametrize("load", [in_this_process, pytest.param(without_the_package, marks=pytest.mark.slow)])
def test_transformers_gives_the_logits(tmp_path, load):
    expected = {}
    for kind in ("resnext", "vit"):
        model, folder = build(kind, temperature=0.5), tmp_path / kind
        processor = build_processor(model.config.image_size, [0.5, 0.4, 0.3], [0.2, 0.3, 0.25], "bicubic")
        export_timm(model, folder, image_processor=processor)
        image = photo(131, 90)
        image.save(f"{folder}.png")
        pixels = processor(image, return_tensors="pt")["pixel_values"]
        expected[folder] = (model, pixels)
    load(tmp_path, tmp_path / "found.npz", *expected)
    for folder in expected:
        # Nothing that it needs is ours.
        assert "paco" not in (folder / "config.json").read_text().lower()
        assert "paco" not in (folder / "preprocessor_config.json").read_text().lower()
    found = np.load(tmp_path / "found.npz")
    for folder, (model, pixels) in expected.items():
        assert np.array_equal(found[f"{folder}/pixels"], pixels.numpy())
        assert distance(model, pixels, found[f"{folder}/logits"]) < 1e-5
        by_name = dict(zip(found[f"{folder}/labels"], found[f"{folder}/scores"], strict=True))
        assert distance(model, pixels, [[by_name[name] for name in NAMES]]) < 1e-5


@pytest.mark.parametrize(("size", "edge"), [(64, 93), (32, 32), (49, 50), (96, 136)])
def test_timm_transform_differs_by_a_rounding_at_most(tmp_path, size, edge):
    processor = build_processor(size, [0.5, 0.4, 0.3], [0.2, 0.3, 0.25])
    processor.size = {"shortest_edge": edge}
    folder = export_timm(build("resnet", image_size=size), tmp_path / "x", image_processor=processor)
    data = resolve_data_config({}, model=timm.create_model(f"local-dir:{folder}"))
    assert math.floor(size / data["crop_pct"]) == edge
    image = photo(200, 143)
    ours = processor(image, return_tensors="pt")["pixel_values"][0]
    levels = (create_transform(**data)(image) - ours).abs() * torch.tensor([0.2, 0.3, 0.25])[:, None, None] * 255
    assert levels.max() < 1.01
    # torchvision 0.22, the oldest, rounds more of them otherwise.
    assert (levels > 0.5).float().mean() < (0.2 if torchvision.__version__.startswith("0.22.") else 0.05)


def test_padding_goes_to_onnx_and_not_to_timm(tmp_path):
    processor = build_processor(64, [0.5, 0.4, 0.3], [0.2, 0.3, 0.25], fit="pad")
    assert preprocessing_settings(processor)["pad_to_square"] == "median color of the border"
    with pytest.raises(ValueError, match=r"--image_fit crop.*you must pad the images"):
        export_timm(build("resnet", image_size=64), tmp_path / "x", image_processor=processor)
    assert not (tmp_path / "x").exists()


def test_what_is_exported_stays_as_it_was(tmp_path):
    model = build("resnet").to(torch.bfloat16).train()
    model.paco.backbone.conv1.weight.requires_grad = False
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    folder = export_timm(model, tmp_path / "x")
    assert model.training
    assert [key for key, p in model.named_parameters() if not p.requires_grad] == ["paco.backbone.conv1.weight"]
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) and before[key].dtype == after[key].dtype for key in before)
    images = images_of(2, 3, 64, 64)
    assert distance(model.float().eval(), images, native_logits(folder, images)) < 1e-5


def test_a_training_model_exports_its_classifier(tmp_path):
    model = build("resnet")
    training_model = PaCoForContrastiveTraining.from_classifier(model, queue_size=8, projection_dim=4)
    folder = export_timm(training_model, tmp_path / "x")
    images = images_of(2, 3, 64, 64)
    assert distance(model, images, native_logits(folder, images)) < 1e-5


def test_hub_names_need_no_network(tmp_path, monkeypatch):
    config = {"input_size": (3, 80, 80), "fixed_input_size": False}
    with monkeypatch.context() as hub:
        hub.setattr(
            "timm.models._factory.load_model_config_from_hf", lambda *a, **k: (config, "resnet50", dict(NARROW))
        )
        model = PaCoForImageClassification.from_timm("hf-hub:someone/narrow", num_labels=5, image_size=64).eval()
    folder = export_timm(model, tmp_path / "x")
    images = images_of(2, 3, 64, 64)
    assert distance(model, images, native_logits(folder, images)) < 1e-5


def test_routes_that_remain(tmp_path):
    remaining = r"import paco_hf.*trust_remote_code=True.*paco-hf export --to onnx"
    with pytest.raises(ValueError, match=f"timm itself has no 'cifar_resnet20'.*{remaining}"):
        export_timm(build("cifar"), tmp_path / "x")
    distilled = PaCoForImageClassification.from_timm(
        "deit_tiny_distilled_patch16_224", backbone_kwargs={"depth": 1}, num_labels=5
    )
    with pytest.raises(ValueError, match=f"one linear layer.*a tuple.*{remaining}"):
        export_timm(distilled, tmp_path / "x")
    shared = PaCoForImageClassification.from_timm("coat_lite_tiny", num_labels=5)
    with pytest.raises(ValueError, match=f"cannot save this model.*share memory.*{remaining}"):
        export_timm(shared, tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("exporter", [export_timm, export_onnx])
def test_refusals_leave_nothing(tmp_path, monkeypatch, exporter):
    model = build("resnet")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ValueError, match="full exists and is not an empty folder"):
        exporter(model, tmp_path / "full")
    with pytest.raises(ValueError, match="full/file exists"):
        exporter(model, tmp_path / "full" / "file")
    processor = build_processor(64, [0.5] * 3, [0.5] * 3)
    processor.do_center_crop = False
    with pytest.raises(ValueError, match="must resize the shortest edge"):
        exporter(model, tmp_path / "x", image_processor=processor)
    with pytest.raises(ValueError, match="does not accept images of 224 x 224 pixels"):
        exporter(build("vit", image_size=224), tmp_path / "x")
    with monkeypatch.context() as patch:
        patch.setattr(to_timm, "TIMM_TOLERANCE", -1)
        patch.setattr(torch.onnx, "export", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(
            ValueError, match=r"loaded by timm differs by|cannot be exported to ONNX: division by zero"
        ):
            exporter(model, tmp_path / "new" / "x")
    with torch.no_grad():
        model.classifier.weight[0, 0] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        exporter(model, tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["file"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["resnet", "cifar", "vit"])
def test_onnx_gives_the_logits(tmp_path, capfd, kind):
    import onnx

    shallow = {"depth": 1} if kind == "vit" else {}
    model = build(kind, shallow, temperature=1.7, inference_prior=[5, 4, 3, 2, 1], class_counts=[9, 7, 5, 3, 1])
    size = model.config.image_size
    processor = build_processor(size, [0.5, 0.4, 0.3], [0.2, 0.3, 0.25])
    (tmp_path / "x").mkdir()
    result = export_onnx(model, tmp_path / "x", image_processor=processor)
    assert "".join(capfd.readouterr()) == ""
    assert (result.file, result.dynamic_size, result.fixed_because) == (tmp_path / "x" / "model.onnx", True, None)
    assert 0 < result.difference < 1e-5
    for batch in (1, 3):
        images = images_of(batch, 3, size, size)
        assert distance(model, images, run_onnx(result.file, images)) < 1e-5

    images = images_of(2, 3, size + 16, size + 40)
    if kind == "vit":
        fixed, model = model, build("vit", {**shallow, "dynamic_img_size": True})
        model.load_state_dict(fixed.state_dict())
        model.config = fixed.config
    assert distance(model, images, run_onnx(result.file, images)) < 1e-5

    loaded = onnx.load(result.file)
    assert loaded.producer_name == "paco_hf"
    metadata = {entry.key: json.loads(entry.value) for entry in loaded.metadata_props}
    assert metadata["id2label"] == {str(i): name for i, name in enumerate(NAMES)}
    assert metadata["backbone"]["name"] == BACKBONES[kind][0]
    assert metadata["class_counts"] == [9, 7, 5, 3, 1]
    assert metadata["preprocessing"] == {
        "shortest_edge": size,
        "resample": "bilinear",
        "crop_size": size,
        "rescale_factor": 1 / 255,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.25],
    }
    assert b"site-packages" not in result.file.read_bytes()
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["model.onnx", "preprocessor_config.json"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["resnext", "vit"])
def test_onnx_takes_a_prior(tmp_path, kind):
    model = build(kind, {"depth": 1} if kind == "vit" else None, temperature=0.5)
    file = export_onnx(model, tmp_path / "x", prior_input=True).file
    size = model.config.image_size
    images, prior = images_of(3, 3, size, size), torch.tensor([50.0, 20, 1, 9, 0.5])
    logits = run_onnx(file, images, prior=prior)
    assert distance(model, images, logits) > 1e-2
    model.config.inference_prior = prior.tolist()
    assert distance(model, images, logits) < 1e-5
    with pytest.raises(ValueError, match="has an inference_prior: call"):
        export_onnx(model, tmp_path / "y", prior_input=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "dynamic_size", "reason"),
    [
        ("mixer", True, "the backbone accepts only one image size (Input width (128) doesn't match model (64).)"),
        ("cifar", False, "as requested"),
    ],
)
def test_onnx_says_that_the_size_is_fixed(tmp_path, kind, dynamic_size, reason):
    model = build(kind)
    size = model.config.image_size
    result = export_onnx(model, tmp_path / "x", dynamic_size=dynamic_size)
    assert not result.dynamic_size
    assert reason in str(result.fixed_because)
    images = images_of(2, 3, size, size)
    assert distance(model, images, run_onnx(result.file, images)) < 1e-5
    with pytest.raises(Exception, match="invalid dimensions"):
        run_onnx(result.file, images_of(2, 3, size, 2 * size))


@pytest.mark.slow
def test_onnx_that_differs_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(export_common, "largest_difference", lambda expected, actual: math.nan)
    with pytest.raises(ValueError, match="onnxruntime differs from the model by nan"):
        export_onnx(build("mixer"), tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_onnx_limits(tmp_path, monkeypatch):
    model = build("resnet")
    with monkeypatch.context() as patch:
        patch.setattr(to_onnx, "_PROTOBUF_LIMIT", 1000)
        with pytest.raises(ValueError, match="an ONNX file is limited to 2 GiB"):
            export_onnx(model, tmp_path / "x")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"needs onnxscript: pip install 'paco-hf\[onnx\]'"):
        export_onnx(model, tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet50", "resnext50_32x4d", "vit_base_patch16_224", "cifar_resnet32"])
def test_full_width(tmp_path, backbone):
    torch.manual_seed(0)
    size = 32 if backbone == "cifar_resnet32" else 224
    kwargs = {"zero_init_last": False} if "50" in backbone else {}
    model = PaCoForImageClassification.from_timm(
        backbone, backbone_kwargs=kwargs, num_labels=1000, image_size=size
    ).eval()
    images = images_of(2, 3, size, size)
    if size == 224:
        folder = export_timm(model, tmp_path / "timm")
        assert distance(model, images, native_logits(folder, images)) < 1e-5
    result = export_onnx(model, tmp_path / "onnx")
    print(backbone, result)
    assert result.dynamic_size
    assert result.difference < 1e-5
    assert distance(model, images, run_onnx(result.file, images)) < 1e-5


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnxruntime

    model = build("vit", {"depth": 1}, temperature=0.5)
    model.save_pretrained(tmp_path / "run")
    build_processor(32, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)).save_pretrained(tmp_path / "run")
    capsys.readouterr()
    run, out = str(tmp_path / "run"), tmp_path / "out"
    assert main(["export", run, str(out / "timm"), "--to", "timm"]) == 0
    assert f"local-dir:{out / 'timm'}" in capsys.readouterr().out
    assert timm.create_model(f"local-dir:{out / 'timm'}", pretrained=True).num_classes == 5
    assert main(["export", run, str(out / "onnx"), "--to", "onnx", "--prior_input"]) == 0
    # The exporter of torch 2.7 resizes position embeddings otherwise than the model, which the command notices.
    size = "fixed (onnxruntime differs from the model" if torch.__version__.startswith("2.7.") else "dynamic"
    assert f"dynamic batch size, image size {size}" in capsys.readouterr().out.replace(
        "dif...el", "differs from the model"
    )
    session = onnxruntime.InferenceSession(out / "onnx" / "model.onnx")
    assert [given.name for given in session.get_inputs()] == ["pixel_values", "prior"]
    images, prior = images_of(3, 3, 32, 32), torch.tensor([50.0, 20, 1, 9, 0.5])
    logits = run_onnx(out / "onnx" / "model.onnx", images, prior=prior)
    assert distance(model, images, logits) > 1e-2
    model.config.inference_prior = prior.tolist()
    assert distance(model, images, logits) < 1e-5
    with pytest.raises(ValueError, match="has an inference_prior: call"):
        export_onnx(model, tmp_path / "y", prior_input=True)
    photo(40, 32).save(tmp_path / "photo.png")
    frequencies = [{"label": name, "frequency": f} for name, f in zip(NAMES, prior.tolist(), strict=True)]
    (tmp_path / "prior.json").write_text(json.dumps({"classes": frequencies}))
    model.config.save_pretrained(tmp_path / "run")
    capsys.readouterr()
    answers = []
    for source in ([run], ["--onnx", str(out / "onnx" / "model.onnx"), "--prior", str(tmp_path / "prior.json")]):
        assert main(["predict", *source, str(tmp_path / "photo.png"), "--json"]) == 0
        (entry,) = json.loads(capsys.readouterr().out)
        answers.append({best["label"]: best["score"] for best in entry["top"]})
    assert answers[1] == pytest.approx(answers[0], abs=1e-5)
    for arguments, message in (
        ([run, str(out / "onnx"), "--to", "onnx"], "not an empty folder"),
        ([run, str(out / "new"), "--to", "timm", "--prior_input"], "--prior_input is for --to onnx, got --to timm"),
        ([run, str(out / "new"), "--to", "tensorrt"], "invalid choice"),
        (
            [str(tmp_path / "none"), str(out / "new"), "--to", "timm"],
            "is neither a local folder nor a Hub id: pass a run folder",
        ),
    ):
        assert main(["export", *arguments]) == 2
        assert message in capsys.readouterr().err
