"""`paco-hf convert`: the reference's files become checkpoints, to the last key; others are refused and run nothing."""

import argparse
import functools
import http.server
import json
import os
import threading
import zlib
from pathlib import Path

import pytest
import torch
from conftest import FULL_GOLDENS, golden, golden_path, seeded_images
from miniature import picture
from reference_checkpoints import FULL_SIZE, full_size_state, outputs
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from paco_hf import PaCoForContrastiveTraining
from paco_hf.cli import main
from paco_hf.conversion.reference_checkpoint import load_reference_checkpoint
from paco_hf.data.published import INAT_MEAN, INAT_STD

TINY = "convert_resnet_tiny"  # 12 classes
# Of each listing, a recipe that it is of.
LISTINGS = {
    "gpaco_cifar100_resnet32": None,
    "gpaco_cifar100_resnet50": "gpaco-resnet50-cifar100",
    "gpaco_full_resnet50_imagenet": "gpaco-resnet50-imagenet",
    "gpaco_lt_resnet152_inat18": "gpaco-resnet152-inat2018",
    "gpaco_lt_resnet152_placeslt": "gpaco-resnet152-places-lt",
    "gpaco_lt_resnet50_imagenetlt": "gpaco-resnet50-imagenet-lt",
    "gpaco_lt_resnet50_inat18": "gpaco-resnet50-inat2018",
    "gpaco_lt_resnext101_32x4d_imagenetlt": "multitask-resnext101-imagenet-lt",
    "gpaco_lt_resnext50_32x4d_imagenetlt": "gpaco-resnext50-imagenet-lt",
    "gpaco_mae_vit_base": "gpaco-vit-base-imagenet",
    "gpaco_mae_vit_large": "gpaco-vit-large-imagenet",
    "paco_cifar100_resnet32": "paco-resnet32-cifar100-lt-100",
    "paco_full_resnet101_imagenet": "paco-resnet101-imagenet",
    "paco_full_resnet200_imagenet": "paco-resnet200-imagenet",
    "paco_full_resnet50_imagenet": "paco-resnet50-imagenet",
    "paco_lt_resnet152_inat18": "paco-resnet152-inat2018",
    "paco_lt_resnet152_placeslt": "paco-resnet152-places-lt",
    "paco_lt_resnet50_imagenetlt": "paco-resnet50-imagenet-lt",
    "paco_lt_resnet50_inat18": "paco-resnet50-inat2018",
    "paco_lt_resnext101_32x4d_imagenetlt": "paco-resnext101-imagenet-lt",
    "paco_lt_resnext50_32x4d_imagenetlt": "paco-resnext50-imagenet-lt",
}


def convert(*arguments: object) -> int:
    return main(["convert", *map(str, arguments)])


def refused(capsys: pytest.CaptureFixture[str], out: Path, *arguments: object) -> str:
    """The message of a conversion that is refused and leaves nothing behind."""
    before = sorted(out.parent.iterdir())
    assert convert(*arguments, out) == 2
    assert sorted(out.parent.iterdir()) == before
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


# ---- the goldens, through the command


@pytest.mark.parametrize("name", ["convert_cifar_r32", "convert_cifar_r32_gpaco", TINY, f"{TINY}_gpaco"])
def test_command_gives_the_reference_outputs(name: str, tmp_path: Path) -> None:
    expected, metadata = golden(f"{name}_expected.safetensors")
    assert convert(golden_path(f"{name}.pth"), tmp_path / "out", "--training_state") == 0
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        logits = model(expected["images"]).logits
    assert torch.allclose(logits, expected["logits"], rtol=1e-5, atol=1e-5)
    trained = PaCoForContrastiveTraining.from_pretrained(tmp_path / "out")
    assert trained.spec.name == metadata["variant"]
    direct = load_reference_checkpoint(golden_path(f"{name}.pth"))
    for key, tensor in direct.state_dict().items():
        assert torch.equal(trained.state_dict()[key], tensor), key
    for key, value in outputs(trained, expected["images"]).items():
        assert torch.allclose(value, expected[key], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_SIZE)
def test_command_on_full_size_architectures(name: str, tmp_path: Path) -> None:
    state, tensors, metadata = full_size_state(name)
    key = "model" if "vit" in name else "state_dict"
    torch.save({key: state, "epoch": 1}, tmp_path / "file.pth")
    assert convert(tmp_path / "file.pth", tmp_path / "out") == 0
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    images = seeded_images(int(metadata["image_seed"]), tuple(int(n) for n in metadata["image_shape"].split("x")))
    with torch.no_grad():
        logits = model(images).logits.double()
    expected = tensors["logits_f64"]
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


# ---- synthetic checkpoints of every listing


def value_of(key: str) -> float:
    return 0.1 + zlib.crc32(key.encode()) % 1000 / 1000


def synthetic(listing: dict, path: Path) -> None:
    """A file with the listing's keys, shapes and types; a tensor repeats one number, which tells its key."""
    state = {}
    for name, (shape, dtype) in listing["state_dict"].items():
        kind = getattr(torch, dtype)
        value = 0 if name.endswith("queue_ptr") else value_of(name) if kind.is_floating_point else 1
        # Expanded: a small file, whatever the shape.
        state[name] = torch.tensor(value, dtype=kind).expand(shape)
    beside = {
        "epoch": 399,
        "arch": listing["arch"],
        "acc": torch.tensor([57.0]),
        "best_acc": 0,
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "scaler": {"scale": 2.0},
        "args": argparse.Namespace(lr=1.0, model=listing["arch"]),
    }
    keys = listing["top_level_keys"]
    torch.save({key: state if key in ("state_dict", "model") else beside[key] for key in keys}, path)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if "resnet32" in name else [pytest.mark.slow]) for name in LISTINGS],
)
def test_every_listing_converts(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listing = json.loads(golden_path(f"checkpoint_{name}.json").read_text())
    synthetic(listing, tmp_path / "file.pth.tar")
    recipe = LISTINGS[name]
    assert (
        convert(tmp_path / "file.pth.tar", tmp_path / "out", "--json", *(["--recipe", recipe] if recipe else [])) == 0
    )
    record = json.loads(capsys.readouterr().out)
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert record["num_labels"] == model.config.num_labels == listing["num_classes"]
    assert record["recipe"] == recipe
    prefix, vit = listing["key_prefix"], "vit" in name
    head = f"{prefix}head.weight" if vit else f"{prefix}linear.weight"
    assert model.classifier.weight.unique().item() == pytest.approx(value_of(head))
    for own, tensor in model.paco.backbone.state_dict().items():
        theirs = f"{prefix}{'' if vit else 'encoder_q.'}{own}"
        theirs = theirs.replace(".downsample.", ".shortcut.") if "shortcut" in listing["arch"] else theirs
        wanted = value_of(theirs) if tensor.is_floating_point() else 1
        assert tensor.unique().item() == pytest.approx(wanted), own
    beside = {key for key in listing["top_level_keys"] if key not in ("state_dict", "model")}
    linear_k = {key.removeprefix(prefix) for key in listing["state_dict"] if "linear_k" in key}
    groups = {"projector", "queue"} | (
        {"key_encoder"} if any("encoder_k" in key for key in listing["state_dict"]) else set()
    )
    assert {key.split(".*")[0] for key in record["dropped"]} == beside | linear_k | groups
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    if "inat18" in name:
        assert (tuple(processor.image_mean), tuple(processor.image_std)) == (INAT_MEAN, INAT_STD)
    assert processor.crop_size.height == (32 if "cifar" in name else 224)
    if "imagenet" in name or vit:
        assert model.config.id2label[0] == "tench, Tinca tinca"


def test_all_listings_are_tested() -> None:
    if not FULL_GOLDENS.is_dir():
        pytest.skip("only in the full set of goldens")
    found = {path.stem.removeprefix("checkpoint_") for path in FULL_GOLDENS.glob("checkpoint_*.json")}
    assert found == set(LISTINGS)


def test_recipe_is_taken_where_one_alone_agrees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listing = json.loads(golden_path("checkpoint_paco_lt_resnet50_inat18.json").read_text())
    synthetic(listing, tmp_path / "file.pth")
    assert convert(tmp_path / "file.pth", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "recipe: paco-resnet50-inat2018, the only one that it matches" in printed
    assert "recipe `paco-resnet50-inat2018`" not in printed
    card = (tmp_path / "out" / "README.md").read_text()
    assert "73.2" in card
    assert "Not measured" in card
    message = refused(capsys, tmp_path / "other", tmp_path / "file.pth", "--recipe", "gpaco-resnet152-inat2018")
    assert "method is paco, but gpaco in the recipe" in message
    assert "backbone is resnet50, but resnet152 in the recipe" in message
    message = refused(capsys, tmp_path / "other", tmp_path / "file.pth", "--recipe", "paco-resnet50-imagenet-lt")
    assert "classes is 8142, but 1000 in the recipe" in message
    message = refused(capsys, tmp_path / "other", tmp_path / "file.pth", "--recipe", "gpaco-ensemble-imagenet-lt")
    assert "convert its members one at a time" in message


# ---- scoring


def folder_of_images(root: Path, classes: int = 12, tail: bool = True) -> Path:
    for split, images in (("train", 3), ("test", 2)):
        for label in range(classes):
            (root / split / f"class{label:02}").mkdir(parents=True)
            for i in range(images + (label if tail and split == "train" else 0)):
                picture(100 * label + i, (40, 32)).save(root / split / f"class{label:02}" / f"{i}.png")
    return root


def test_scores_are_measured_or_absent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = folder_of_images(tmp_path / "images")
    assert convert(golden_path(f"{TINY}.pth"), tmp_path / "out", "--dataset", images, "--json") == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| **PaCo** | {100 * metrics['accuracy']:.1f} |" in card
    assert "images test (24 images)" in card
    assert str(tmp_path) not in card + (tmp_path / "out" / "metrics.json").read_text()
    # The same as the command that scores checkpoints, and as the pipeline.
    assert main(["evaluate", str(tmp_path / "out"), "--dataset", str(images), "--json", "--no_report"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert {name: again[name] for name in metrics} == metrics
    classify = pipeline("image-classification", model=str(tmp_path / "out"), top_k=1)
    files = sorted(str(file) for file in (images / "test").rglob("*.png"))
    right = [rows[0]["label"] == Path(file).parent.name for file, rows in zip(files, classify(files), strict=True)]
    assert metrics["accuracy"] == sum(right) / len(right)
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert model.config.class_counts == [3 + label for label in range(12)]
    assert metrics["many"] is None
    assert metrics["few"] is not None

    assert convert(golden_path(f"{TINY}.pth"), tmp_path / "unscored") == 0
    card = (tmp_path / "unscored" / "README.md").read_text()
    assert "**Not measured.**" in card
    assert "model-index" not in card
    assert not (tmp_path / "unscored" / "metrics.json").exists()
    fewer = folder_of_images(tmp_path / "fewer", classes=4)
    message = refused(capsys, tmp_path / "no", golden_path(f"{TINY}.pth"), "--dataset", fewer)
    assert "12 classes, but the evaluation images have 4" in message


def test_scores_at_chance_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = torch.load(golden_path(f"{TINY}.pth"), weights_only=True)["state_dict"]
    state["module.linear.bias"][3] = 1e6  # always the same class
    torch.save({"state_dict": state}, tmp_path / "file.pth")
    images = folder_of_images(tmp_path / "images")
    assert convert(tmp_path / "file.pth", tmp_path / "out", "--dataset", images) == 0
    assert "8.3% is no better than guessing among 12 classes" in capsys.readouterr().err
    assert "no better than guessing" in (tmp_path / "out" / "README.md").read_text()


def test_what_was_scored_is_not_taken_for_the_recipes_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listing = json.loads(golden_path("checkpoint_paco_cifar100_resnet32.json").read_text())
    synthetic(listing, tmp_path / "file.pth")
    images = folder_of_images(tmp_path / "images", classes=100, tail=False)
    flags = ["--recipe", "paco-resnet32-cifar100-lt-100", "--dataset", images]
    assert convert(tmp_path / "file.pth", tmp_path / "out", *flags) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "images test (200 images)" in card
    assert "type: uoft-cs/cifar100" not in card
    assert "training images of 100 classes" not in card  # nobody knows how many it had
    assert not (tmp_path / "out" / ".eval_results").exists()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["class_counts"] is None


# ---- what is refused


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_malicious_files_run_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marker = tmp_path / "executed"
    content = torch.load(golden_path(f"{TINY}.pth"), weights_only=True)
    for name, beside in (("args", Evil(marker)), ("state_dict", {**content["state_dict"], "x": Evil(marker)})):
        for zipped in (True, False):
            torch.save({**content, name: beside}, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
            message = refused(capsys, tmp_path / "out", tmp_path / "evil.pth")
            assert "contains more than weights" in message
            assert "system" in message
            assert not marker.exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)  # what it would have done
    assert marker.exists()


def test_damaged_and_foreign_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = torch.load(golden_path(f"{TINY}.pth"), weights_only=True)
    raw = golden_path(f"{TINY}.pth").read_bytes()
    state = content["state_dict"]

    def message(saved: object) -> str:
        if isinstance(saved, bytes):
            (tmp_path / "file.pth").write_bytes(saved)
        else:
            torch.save(saved, tmp_path / "file.pth")
        return refused(capsys, tmp_path / "out", tmp_path / "file.pth")

    assert "file.pth" in message(raw[: len(raw) // 2])
    assert "file.pth" in message(b"\0" * 1000)
    assert "is a web page" in message(b"\n<!DOCTYPE html><html>Google Drive</html>")
    renamed = {key.replace("layer1.0.conv1", "layer1.0.conv7"): tensor for key, tensor in state.items()}
    assert "layer1.0.conv7" in message({"state_dict": renamed})
    headless = {key.replace("module.linear.", "module.fc."): tensor for key, tensor in state.items()}
    assert "fc.weight" in message({"state_dict": headless})
    broken = {**state, "module.linear.bias": torch.full((12,), torch.nan)}
    assert "linear.bias has values that are not finite" in message({"state_dict": broken})
    assert "unknown entry besides its weights: ema" in message({**content, "ema": {"weight": torch.zeros(3)}})
    assert "unknown entry besides its weights: extra" in message({**content, "extra": torch.zeros(3)})
    assert "does not exist" in refused(capsys, tmp_path / "out", tmp_path / "none.pth")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert convert(golden_path(f"{TINY}.pth"), tmp_path / "full") == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert convert(golden_path(f"{TINY}.pth"), tmp_path / "full" / "file" / "out") == 2
    assert "is a file" in capsys.readouterr().err
    assert "neither a file nor a known URL" in refused(capsys, tmp_path / "out", "file:///x.pth")
    assert "is not the URL of a file" in refused(capsys, tmp_path / "out", "hf://user/name")
    assert "need --dataset" in refused(
        capsys, tmp_path / "out", golden_path(f"{TINY}.pth"), "--dataset_path", tmp_path
    )


# ---- addresses


class Broken(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/page"):
            self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n<html>choose a file</html>")
            return None
        if not self.path.startswith("/broken"):
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self.wfile.write(b"x" * 5000)

    def log_message(self, *arguments: object) -> None:
        pass


def test_addresses(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    handler = functools.partial(Broken, directory=golden_path(f"{TINY}.pth").parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        (tmp_path / "outs").mkdir()
        assert convert(f"{address}/{TINY}.pth", tmp_path / "outs" / "a", "--json") == 0
        assert json.loads(capsys.readouterr().out)["source"] == f"{address}/{TINY}.pth"
        message = refused(capsys, tmp_path / "outs" / "b", f"{address}/broken.pth")
        assert "stopped after 5000 of 100000 bytes" in message
        assert "is a web page" in refused(capsys, tmp_path / "outs" / "b", f"{address}/page")
        assert len(list((tmp_path / "cache").rglob("*.*"))) == 1  # what was no checkpoint is not kept
        assert "404" in refused(capsys, tmp_path / "outs" / "b", f"{address}/none.pth")
        server.shutdown()
    # From the cache, where there is no server any more.
    assert convert(f"{address}/{TINY}.pth", tmp_path / "outs" / "c") == 0
    assert "cannot be downloaded" in refused(capsys, tmp_path / "outs" / "b", f"{address}/other.pth")
