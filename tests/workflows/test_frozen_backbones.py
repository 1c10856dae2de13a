"""Runs on a pretrained backbone that stays as it is: features once, settings by cross-validation, all images."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from transformers import AutoImageProcessor, pipeline
from user_data import complaint, folders, printed

from paco_hf.cli import main
from paco_hf.data.images import Images
from paco_hf.data.loading import load_data
from paco_hf.data.spec import DataSpec
from paco_hf.inference import feature_cache
from paco_hf.inference.feature_cache import cached_features, stored_features
from paco_hf.models.image_processing import build_processor
from paco_hf.models.modeling_paco import PaCoForImageClassification
from paco_hf.utils.tensors import tensors_digest

COUNTS = {"a": 12, "b": 6, "c": 3, "d": 1}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights, as timm saves one."""
    folder = tmp_path_factory.mktemp("timm") / "pretrained"
    torch.manual_seed(3)
    model = timm.create_model("test_resnet", num_classes=7, pretrained=False)
    model.pretrained_cfg |= {"input_size": (3, 128, 128), "interpolation": "bilinear", "crop_pct": 0.875}
    save_for_hf(model, str(folder), safe_serialization=True)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "paco_hf" / "features"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return folders(tmp_path / "photos", COUNTS, size=(60, 48))


def flags(photos: Path, weights: Path, run: Path, *more: str) -> list[str]:
    return ["--dataset", str(photos), "--backbone", str(weights), "--output_dir", str(run), *more]


SHORT = ("--test_fraction", "0", "--num_train_epochs", "2", "--image_size", "64", "--image_fit", "crop")


def test_what_a_pretrained_backbone_gets_without_a_word(photos: Path, weights: Path, tmp_path: Path, capsys) -> None:
    out = printed(capsys, *flags(photos, weights, tmp_path / "run", *SHORT[:4], "--report", "true"))
    assert "the pretrained backbone is frozen" in out
    assert "--freeze_backbone false fine-tunes it" in out
    assert "balanced_softmax on cpu" in out
    assert "(lower is better) of nearest class means on 21 images" in out
    assert "padded" in out
    assert "cross-validation, 5 folds" in out
    assert "1 class has one image, which is used for training only: the scores do not cover it" in out
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    chosen = {"freeze_backbone": True, "loss": "balanced_softmax", "classifier": "cosine", "class_centers": "means"}
    assert chosen.items() <= recipe.items()
    assert recipe["cross_validation"] == "5"
    assert recipe["validation_fraction"] == 0
    assert "warmup_epochs" not in recipe  # of a schedule that it does not have
    assert "warmup_epochs" not in out
    assert recipe["image_size"] in (96, 128)
    assert recipe["image_fit"] in ("crop", "pad")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["class_counts"] == list(COUNTS.values())  # all images are trained on
    assert config["image_size"] == recipe["image_size"]
    assert "no temperature calibration after training: 21 held-out images, fewer than 100" in out
    assert config.get("temperature") is None
    record = json.loads((tmp_path / "run" / "run.json").read_text())["training"]
    assert record["feature_seconds"] >= 0
    assert record["cross_validation_seconds"] > 0
    assert " of cross-validation on " in (tmp_path / "run" / "README.md").read_text()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test"] is None
    assert 0 <= metrics["validation"]["balanced_accuracy"] <= 1
    results = json.loads((tmp_path / "run" / "evaluation-validation" / "results.json").read_text())
    assert results["images"] == 21  # all but the one that is alone
    assert results["metrics"]["balanced_accuracy"]["low"] <= metrics["validation"]["balanced_accuracy"]
    theirs = load_file(weights / "model.safetensors")
    ours = PaCoForImageClassification.from_pretrained(tmp_path / "run").paco.backbone.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items() if name in ours)
    answer = pipeline("image-classification", model=str(tmp_path / "run"))(str(next((photos / "a").iterdir())))
    assert {entry["label"] for entry in answer} <= set(COUNTS)


def test_the_same_command_gives_the_same_weights(photos: Path, weights: Path, tmp_path: Path, capsys) -> None:
    states = []
    for name in ("one", "two"):
        out = printed(capsys, *flags(photos, weights, tmp_path / name, *SHORT, "--report", "false"))
        states.append(load_file(tmp_path / name / "model.safetensors"))
    assert "features of 22 train images: read from the cache" in out
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            ["--freeze_backbone", "false"],
            {"freeze_backbone": False, "loss": "balanced_softmax", "classifier": "cosine"},
        ),
        (["--head_learning_rate", "0.1"], {"freeze_backbone": False, "head_learning_rate": 0.1}),
        (["--loss", "paco"], {"freeze_backbone": True, "loss": "paco", "classifier": "cosine"}),
        (["--alpha", "0.05"], {"freeze_backbone": True, "loss": "paco", "alpha": 0.05}),
        (["--class_prior", "false"], {"freeze_backbone": True, "loss": "paco", "class_prior": False}),
        (["--query_view", "regular"], {"freeze_backbone": False, "loss": "balanced_softmax"}),
        (["--key_view", "sim"], {"freeze_backbone": False, "loss": "paco"}),
        (["--layer_decay", "0.7"], {"freeze_backbone": False, "layer_decay": 0.7}),
        (["--bf16", "true"], {"freeze_backbone": True, "precision": "bf16"}),
        (["--classifier", "linear"], {"freeze_backbone": True, "classifier": "linear", "cross_validation": "5"}),
        (["--cross_validation", "none"], {"cross_validation": "none", "validation_fraction": 0.1}),
        (["--validation_fraction", "0.3"], {"cross_validation": "none", "validation_fraction": 0.3}),
        (["--cross_validation", "3"], {"cross_validation": "3", "validation_fraction": 0.0}),
        (["--image_size", "96"], {"image_size": 96}),
        (["--image_fit", "pad"], {"image_fit": "pad"}),
        (["--warmup_epochs", "3"], {"freeze_backbone": True, "warmup_epochs": 3, "epoch_schedule": "cosine"}),
        (["--class_centers", "random"], {"class_centers": "random", "freeze_backbone": True}),
    ],
)
def test_flags_win(
    more: list[str], expected: dict, photos: Path, weights: Path, tmp_path: Path, capsys, no_rehearsal
) -> None:
    out = printed(capsys, *flags(photos, weights, tmp_path / "run", "--dry_run", *more))
    recipe = yaml.safe_load(out[out.index("\nrecipe: ") if "\nrecipe: " in out else out.index("\ndataset: ") :])
    assert {name: recipe.get(name) for name in expected} == expected
    trained, flag = (
        "the pretrained backbone is fine-tuned (",
        more[0] if expected.get("freeze_backbone") is False else "",
    )
    assert (f"{trained}{flag})" in out) == bool(flag and flag != "--freeze_backbone")


def test_an_accelerator_trains_a_backbone_on_many_images(photos, weights, tmp_path, monkeypatch) -> None:
    from paco_hf.arguments import method_choice
    from paco_hf.arguments.parser import parse_run
    from paco_hf.models.pretrained_backbones import find_backbone

    data = load_data(DataSpec(str(photos)))
    run, args = parse_run(flags(photos, weights, tmp_path / "run"))
    backbone = find_backbone(str(weights))
    on_gpu = args.changed(use_cpu=False)
    monkeypatch.setattr(type(args), "device", property(lambda self: torch.device("cuda")))
    assert method_choice.choose_method(run, on_gpu, data, backbone)[0].freeze_backbone
    monkeypatch.setattr(method_choice, "MANY_IMAGES", 10)
    run, _, notes = method_choice.choose_method(run, on_gpu, data, backbone)
    assert (run.freeze_backbone, run.classifier, run.class_centers) == (False, "cosine", "means")
    assert "the pretrained backbone is fine-tuned (22 images on cuda)" in notes[0]
    chosen = "class_centers means, classifier cosine, loss balanced_softmax"
    assert notes[1].startswith(f"defaults for a pretrained backbone: {chosen} (flags override them)")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--cross_validation", "3", "--freeze_backbone", "false"],
            "cannot be combined with a trainable backbone (freeze it with --freeze_backbone true)",
        ),
        (["--cross_validation", "1"], "at least 2, got '1'"),
        (["--loss", "ce", "--key_view", "sim"], "--key_view sim has no effect with --loss ce"),
        (
            ["--freeze_backbone", "true", "--layer_decay", "0.7"],
            "layer_decay 0.7 needs a trainable backbone",
        ),
        (
            ["--freeze_backbone", "true", "--augment_backend", "tensor"],
            "--augment_backend tensor has no effect on a frozen backbone",
        ),
        (["--optim", "adamw_torch", "--learning_rate", "1e-3", "--momentum", "0.5"], "momentum is a setting of SGD"),
        (
            ["--cross_validation", "23", "--test_fraction", "0"],
            "needs at least 23 images, got 22: use at most 22 folds",
        ),
        (
            ["--cross_validation", "3", "--validation_fraction", "0.2"],
            "cannot be combined with --validation_fraction 0.2",
        ),
        (["--freeze_backbone", "true", "--head_learning_rate", "0.1"], "set learning_rate to 0.1 instead"),
        (["--feature_views", "2", "--freeze_backbone", "false"], "--feature_views 2 needs a frozen backbone"),
        (["--key_view", "sim", "--freeze_backbone", "true"], "--key_view sim has no effect on a frozen backbone"),
    ],
)
def test_what_contradicts_is_refused(more, message, photos, weights, tmp_path, capsys) -> None:
    assert message in complaint(capsys, "train", *flags(photos, weights, tmp_path / "run", *more))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("loss", ["balanced_softmax", "ce", "paco", "gpaco", "gpaco_single"])
@pytest.mark.parametrize("classifier", ["linear", "cosine"])
def test_every_loss_and_classifier(loss: str, classifier: str, photos: Path, weights: Path, tmp_path, capsys) -> None:
    more = (*SHORT, "--loss", loss, "--classifier", classifier, "--report", "false", "--cross_validation", "2")
    out = printed(capsys, *flags(photos, weights, tmp_path / "run", *more))
    assert "cross-validation, 2 folds" in out
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_views_are_computed_once(photos: Path, weights: Path, tmp_path: Path, capsys) -> None:
    more = (*SHORT, "--loss", "paco", "--feature_views", "2", "--report", "false", "--cross_validation", "2")
    out = printed(capsys, *flags(photos, weights, tmp_path / "run", *more))
    assert "features of augmented views, 2 of 2: computed in" in out
    again = printed(capsys, *flags(photos, weights, tmp_path / "again", *more, "--loss", "balanced_softmax"))
    assert "features of augmented views, 2 of 2: computed in" in again  # of one view an image
    out = printed(capsys, *flags(photos, weights, tmp_path / "third", *more, "--learning_rate", "0.01"))
    assert "features of augmented views, 2 of 2: read from the cache" in out
    out = printed(capsys, *flags(photos, weights, tmp_path / "fourth", *more, "--seed", "1"))
    assert "features of augmented views, 2 of 2: computed in" in out


def test_a_recipe_names_the_views_that_are_drawn(photos: Path, weights: Path, tmp_path: Path, capsys) -> None:
    for name, more, drawn in (("plain", (), None), ("drawn", ("--feature_views", "1"), "cifar_reg")):
        printed(capsys, *flags(photos, weights, tmp_path / name, *SHORT, "--report", "false", *more))
        recipe = tmp_path / name / "recipe.yaml"
        assert yaml.safe_load(recipe.read_text()).get("query_view") == drawn
        again = tmp_path / f"{name}-again"
        printed(capsys, "--recipe", str(recipe), "--output_dir", str(again), "--report", "false")
        assert yaml.safe_load((again / "recipe.yaml").read_text()) == yaml.safe_load(recipe.read_text())


@pytest.mark.parametrize(
    ("counts", "more", "reason"),
    [
        ({"a": 1, "b": 1}, (), "because of a dataset with one image per class"),
        ({"a": 9, "b": 8}, ("--validation_fraction", "0.2"), "because of --validation_fraction 0.2"),
    ],
)
def test_without_folds_the_run_says_why(counts, more, reason, weights, tmp_path, capsys) -> None:
    photos = folders(tmp_path / "photos", counts, size=(60, 48))
    out = printed(capsys, *flags(photos, weights, tmp_path / "run", *SHORT, "--report", "false", *more))
    assert f"cross-validation, which chooses input size and settings, is off {reason}" in out
    assert (tmp_path / "run" / "metrics.json").is_file()


@pytest.mark.parametrize("copies", [False, True])
def test_classes_of_one_image_once_some_are_taken_or_are_copies(copies: bool, weights, tmp_path, capsys) -> None:
    photos = folders(tmp_path / "photos", {"a": 2, "b": 2}, size=(60, 48))
    for folder in photos.iterdir() if copies else ():
        one, other = sorted(folder.iterdir())
        other.write_bytes(one.read_bytes())
    argv = flags(photos, weights, tmp_path / "run", "--report", "false", "--test_fraction", "0" if copies else "0.5")
    out = printed(capsys, *argv)
    assert (
        "cross-validation, which chooses input size and settings, is off because no class has two different images"
        in out
    )
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert recipe["cross_validation"] == "none"
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_the_command_of_a_finished_run_has_nothing_to_resume(photos, weights, tmp_path, capsys, monkeypatch) -> None:
    # As on a CPU with instructions for 16 bits, which a run on features leaves unused.
    monkeypatch.setattr("paco_hf.arguments.training_args.hardware_precision", lambda use_cpu: "bf16")
    argv = flags(photos, weights, tmp_path / "run", *SHORT, "--report", "false")
    assert "training with loss balanced_softmax on cpu, precision fp32" in printed(capsys, *argv)
    assert "is already finished: nothing to resume" in printed(capsys, *argv, "--resume")


def test_a_recipe_on_the_other_road(photos, weights, tmp_path, capsys) -> None:
    short = ("--image_size", "64", "--max_steps", "1", "--report", "false")
    tuned, frozen = (flags(photos, weights, tmp_path / name) for name in ("tuned", "frozen"))
    printed(capsys, *tuned, *short, "--freeze_backbone", "false", "--head_learning_rate", "0.07")
    printed(capsys, *frozen, *short)
    for name, frozen_now in (("tuned", "true"), ("frozen", "false")):
        argv = flags(
            photos, weights, tmp_path / f"{name}-{frozen_now}", "--recipe", str(tmp_path / name / "recipe.yaml")
        )
        printed(capsys, *argv, "--freeze_backbone", frozen_now)
    recipe = yaml.safe_load((tmp_path / "tuned-true" / "recipe.yaml").read_text())
    assert (recipe["learning_rate"], "head_learning_rate" in recipe) == (0.07, False)
    recipe = yaml.safe_load((tmp_path / "frozen-false" / "recipe.yaml").read_text())
    assert recipe["cross_validation"] == "none"


def test_a_validation_split_stands_in_for_folds(weights, tmp_path, capsys) -> None:
    photos = folders(tmp_path / "photos" / "train", {"a": 9, "b": 8}, size=(60, 48)).parent
    folders(photos / "validation", {"a": 3, "b": 3}, start=50, size=(60, 48))
    folders(photos / "test", {"a": 3, "b": 3}, start=80, size=(60, 48))
    argv = flags(photos, weights, tmp_path / "run", *SHORT, "--report", "false")
    assert "because of a validation split" in printed(capsys, *argv)
    out = printed(capsys, *argv, "--overwrite", "--cross_validation", "3")
    assert "the validation split (6 images) is not used: cross-validation replaces it" in out


# ---- the cache


def stored(photos: Path) -> tuple:
    torch.manual_seed(0)
    model = PaCoForImageClassification.from_timm("test_resnet", num_labels=2).paco
    return model, build_processor(64, [0.5] * 3, [0.5] * 3), Images(load_data(DataSpec(str(photos))).train)


def test_features_are_kept_by_weights_images_and_input(photos: Path) -> None:
    model, processor, images = stored(photos)
    features, how = cached_features(model, processor, images, 8)
    assert how == "computed"
    assert stored_features(model, processor, images) is None
    cached_features(model, processor, images, 8, keep=True)
    again, how = cached_features(model, processor, images, 8)
    assert how == "read from the cache"
    assert np.array_equal(features, again)
    assert stored_features(model, build_processor(96, [0.5] * 3, [0.5] * 3), images) is None
    assert stored_features(model, processor, images, "bf16") is None
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    assert stored_features(model, processor, images) is None


def test_an_image_that_changed_is_seen(photos: Path) -> None:
    model, processor, images = stored(photos)
    cached_features(model, processor, images, 8, keep=True)
    file = next((photos / "a").iterdir())
    Image.new("RGB", (61, 48), "red").save(file)
    changed = Images(load_data(DataSpec(str(photos))).train)
    assert stored_features(model, processor, changed) is None


def test_the_cache_is_bounded(photos: Path, cache: Path, monkeypatch) -> None:
    model, _, images = stored(photos)
    processors = [build_processor(size, [0.5] * 3, [0.5] * 3) for size in (64, 80, 96)]
    for processor in processors[:2]:
        assert cached_features(model, processor, images, 8, keep=True)[1] == "computed"
    first, second = sorted(cache.iterdir(), key=lambda file: file.stat().st_mtime_ns)
    for age, file in enumerate((second, first), 1):
        os.utime(file, (1e9 - age, 1e9 - age))
    assert stored_features(model, processors[0], images) is not None  # so that the second is unused longest
    writing = cache / "other.safetensors.77.partial"
    writing.write_bytes(bytes(10_000))
    monkeypatch.setattr(feature_cache, "_CACHE", 2.5 * first.stat().st_size)
    how = cached_features(model, processors[2], images, 8, keep=True)[1]
    assert how == f"computed (removed the 1 least recently used from {cache}, which is full)"
    assert first.exists()
    assert writing.exists()
    assert not second.exists()
    os.utime(writing, (1e9, 1e9))  # killed, long ago
    monkeypatch.setattr(feature_cache, "_CACHE", 0)
    cached_features(model, processors[1], images, 8, keep=True)
    assert stored_features(model, processors[1], images) is not None  # what was kept last stays, however large
    assert not writing.exists()


@pytest.mark.parametrize("damage", ["nan", "wide", "zeros", "whole"])
def test_features_that_cannot_be_are_computed_anew(damage: str, photos: Path, cache: Path) -> None:
    model, processor, images = stored(photos)
    features, _ = cached_features(model, processor, images, 8, keep=True)
    (file,) = cache.iterdir()
    other = torch.from_numpy(features.copy())
    if damage == "nan":
        other[3, 2] = float("nan")
    elif damage == "wide":  # as wide as those of another backbone
        other = torch.cat([other, other], dim=1)
    if damage == "zeros":  # what was not written when the power went
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    else:
        save_file({"features": other}, file, {"digest": tensors_digest({"features": other})})
    again, how = cached_features(model, processor, images, 8, keep=True)
    assert how == ("read from the cache" if damage == "whole" else "computed")
    assert np.array_equal(features, again)


@pytest.mark.parametrize("damage", ["truncated", "empty", "other"])
def test_a_damaged_file_is_computed_anew(damage: str, photos: Path, cache: Path) -> None:
    model, processor, images = stored(photos)
    features, _ = cached_features(model, processor, images, 8, keep=True)
    (file,) = cache.iterdir()
    content = {"truncated": file.read_bytes()[:-8], "empty": b"", "other": b"not safetensors"}[damage]
    file.write_bytes(content)
    again, how = cached_features(model, processor, images, 8, keep=True)
    assert how == "computed"
    assert np.array_equal(features, again)
    assert cached_features(model, processor, images, 8)[1] == "read from the cache"


def test_a_write_that_is_killed_leaves_nothing_to_be_read(photos: Path, cache: Path, monkeypatch) -> None:
    model, processor, images = stored(photos)

    def killed(tensors, path, metadata) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("paco_hf.utils.tensors.save_file", killed)
        with pytest.raises(KeyboardInterrupt):
            cached_features(model, processor, images, 8, keep=True)
    assert stored_features(model, processor, images) is None
    assert cached_features(model, processor, images, 8, keep=True)[1] == "computed"


def test_a_full_disk_is_one_line(photos: Path, weights: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    def full(*args, **kwargs) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(feature_cache, "save_tensors", full)
    out = printed(capsys, *flags(photos, weights, tmp_path / "run", *SHORT, "--report", "false"))
    assert out.count("but not cached") == 1
    assert "the disk is full: they will be computed again next time" in out
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_sixteen_bits_predict_alike(photos: Path, weights: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    answers = []
    for name, whole in (("32", 1e9), ("16", 0)):
        monkeypatch.setattr(feature_cache, "_WHOLE", whole)
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / name))
        printed(capsys, *flags(photos, weights, tmp_path / f"run{name}", *SHORT, "--report", "false"))
        (file,) = (tmp_path / name / "paco_hf" / "features").iterdir()
        assert load_file(file)["features"].dtype == (torch.float16 if whole == 0 else torch.float32)
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "none"))
        capsys.readouterr()
        assert main(["predict", str(tmp_path / f"run{name}"), str(photos / "a"), "--json", "--top", "4"]) == 0
        answers.append([entry["top"] for entry in json.loads(capsys.readouterr().out)])
    for one, other in zip(*answers, strict=True):
        assert [entry["label"] for entry in one] == [entry["label"] for entry in other]
        assert np.allclose([e["score"] for e in one], [e["score"] for e in other], atol=2e-3)


def test_evaluate_embed_and_index_read_what_the_run_kept(photos, weights, tmp_path, monkeypatch, capsys) -> None:
    run = tmp_path / "run"
    photos = folders(tmp_path / "more" / "train", COUNTS, size=(60, 48)).parent
    folders(photos / "test", COUNTS, start=100, size=(60, 48))
    printed(capsys, *flags(photos, weights, run, *SHORT[2:], "--report", "false", "--calibrate", "true"))
    assert json.loads((run / "config.json").read_text())["temperature"]

    def decoded(*args, **kwargs):
        raise AssertionError("an image is read")

    monkeypatch.setattr("paco_hf.inference.logits.image_batches", decoded)
    monkeypatch.setattr(feature_cache, "extract_features", decoded)
    before = json.loads((run / "metrics.json").read_text())["test"]
    assert main(["evaluate", str(run), "--no_report", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["balanced_accuracy"] == pytest.approx(before["balanced_accuracy"])
    for split in ("test", "train"):
        assert main(["embed", str(run), "--split", split, "--output", str(tmp_path / f"{split}.safetensors")]) == 0
    pytest.importorskip("faiss")
    monkeypatch.setattr("paco_hf.inference.features.extract_features", decoded)
    assert main(["index", str(run)]) == 0


# ---- the input


def test_padding_is_chosen_where_the_border_tells(weights: Path, tmp_path: Path, capsys) -> None:
    """Wide images, gray in the middle: what is cropped is all alike."""
    rng = np.random.default_rng(0)
    for name, color in (("red", (220, 20, 20)), ("green", (20, 220, 20)), ("blue", (20, 20, 220))):
        (tmp_path / "wide" / name).mkdir(parents=True)
        for i in range(8):
            pixels = np.full((50, 150, 3), 128) + rng.integers(-20, 20, (50, 150, 3))
            pixels[:, :40] = color
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "wide" / name / f"{i}.png")
    out = printed(capsys, *flags(tmp_path / "wide", weights, tmp_path / "run", *SHORT[:4], "--report", "false"))
    assert "input 96 x 96 pixels, padded" in out
    processor = AutoImageProcessor.from_pretrained(tmp_path / "run")
    assert type(processor).__name__ == "PaCoImageProcessor"
    assert processor.size["shortest_edge"] == 96
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["image_fit"] == "pad"


# ---- training on features is training on images


@pytest.mark.parametrize("loss", ["balanced_softmax", "paco"])
def test_features_train_as_images_do(loss: str, photos: Path, weights: Path, tmp_path: Path) -> None:
    from paco_hf.arguments.training_args import PaCoTrainingArguments
    from paco_hf.data.torch_datasets import FeatureDataset
    from paco_hf.trainer.paco_trainer import PaCoTrainer

    images = Images(load_data(DataSpec(str(photos))).train)
    processor = build_processor(64, [0.5] * 3, [0.5] * 3)
    pixels = processor([images[i] for i in range(len(images))], return_tensors="pt")["pixel_values"]
    labels = list(images.split.labels)

    class Plain(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, index) -> dict:
            row = int(index)
            return {"pixel_values": pixels[row], "key_pixel_values": pixels[row], "labels": labels[row]}

    weights_of = []
    for on_features in (False, True):
        torch.manual_seed(0)
        model = PaCoForImageClassification.from_timm(
            "test_resnet",
            pretrained_file=str(weights / "model.safetensors"),
            num_labels=4,
            class_counts=list(COUNTS.values()),
            classifier="cosine",
        )
        model.paco.backbone.requires_grad_(False)
        settings = {"per_device_train_batch_size": 8, "num_train_epochs": 3, "precision": "fp32", "queue_size": 32}
        args = PaCoTrainingArguments(
            output_dir=str(tmp_path / str(on_features)), loss=loss, save_strategy="no", learning_rate=0.1, **settings
        )
        dataset = Plain()
        if on_features:
            features, _ = cached_features(model.paco, processor, images, 8)
            dataset = FeatureDataset([features[None]], labels, args.spec.views)
        trainer = PaCoTrainer(model, args, train_dataset=dataset, eval_dataset=dataset)
        trainer.train()
        weights_of.append(trainer.classifier.classifier.weight.detach().clone())
    assert not torch.allclose(weights_of[0], torch.zeros_like(weights_of[0]))
    assert torch.allclose(*weights_of, atol=1e-5)


def test_a_run_on_features_resumes_exactly(photos: Path, weights: Path, tmp_path: Path, capsys) -> None:
    more = (*SHORT, "--report", "false", "--save_steps", "1", "--save_total_limit", "9", "--loss", "paco")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    printed(capsys, *flags(photos, weights, whole, *more))
    printed(capsys, *flags(photos, weights, cut, *more))
    for name in ("metrics.json", "run.json", "model.safetensors"):
        (cut / name).unlink()
    last = max(cut.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    for file in last.iterdir():
        file.unlink()
    out = printed(capsys, *flags(photos, weights, cut, *more, "--resume"))
    assert "resuming from" in out
    assert "changed settings" not in out
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, cut))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_dry_run_computes_no_features(photos: Path, weights: Path, tmp_path: Path, cache: Path, capsys) -> None:
    out = printed(capsys, *flags(photos, weights, tmp_path / "run", "--dry_run"))
    assert "on this machine" in out
    assert "epochs of" in out
    assert not cache.exists()
    assert not (tmp_path / "run").exists()
