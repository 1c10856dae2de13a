"""Features: through transformers, as a file, as class centers; and how well they find images of a class."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from safetensors.torch import save_file
from tiny_trainer import make_model
from transformers import AutoImageProcessor, AutoModel, pipeline
from user_data import folders, noise

from paco_hf.cli import main
from paco_hf.inference.features import Embeddings, embed_files
from paco_hf.metrics import retrieval_precision
from paco_hf.trainer.class_centers import start_from_centers

PUBLISHED = ROOT / "model_cards" / "paco-resnet32-cifar100-lt-100"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(3):
        noise(i, (40 + i, 33)).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


def test_feature_extraction_is_that_of_transformers(pictures: list[Path]) -> None:
    ours = embed_files(str(PUBLISHED), pictures).features
    model, processor = AutoModel.from_pretrained(PUBLISHED), AutoImageProcessor.from_pretrained(PUBLISHED)
    images = [Image.open(file) for file in pictures]
    with torch.no_grad():
        pooled = model(**processor(images, return_tensors="pt")).pooler_output
    assert ours.shape == (3, 64)
    assert np.allclose(ours, pooled.numpy(), atol=1e-5)
    extract = pipeline("image-feature-extraction", model=str(PUBLISHED), pool=True)
    assert np.allclose(ours[1], extract(str(pictures[1]))[0], atol=1e-5)


def test_file(tmp_path: Path, pictures: list[Path], capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "features.safetensors"
    assert main(["embed", str(PUBLISHED), *map(str, pictures), "--output", str(file)]) == 0
    assert "features of 3 images, width 64" in capsys.readouterr().out
    stored = Embeddings.load(file)
    assert stored.files == [str(picture) for picture in pictures]
    assert stored.labels is None
    assert np.array_equal(stored.features, embed_files(str(PUBLISHED), pictures).features)


def test_split_and_gallery(paco_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    seen, asked = (str(tmp_path / f"{split}.safetensors") for split in ("train", "test"))
    assert main(["embed", str(paco_run), "--split", "train", "--output", seen]) == 0
    capsys.readouterr()
    assert main(["embed", str(paco_run), "--output", asked, "--gallery", seen, "--neighbors", "3", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    train, test = Embeddings.load(seen), Embeddings.load(asked)
    record = json.loads((paco_run / "run.json").read_text())["data"]
    # What was carved for validation is not what was trained on.
    assert len(train.labels) == record["train"]["images"] < record["train"]["images"] + record["validation"]["images"]
    counts = json.loads((paco_run / "config.json").read_text())["selection_counts"]
    wanted = retrieval_precision(
        test.features, test.labels, counts, k=3, gallery=train.features, gallery_labels=train.labels
    )
    assert scores == wanted
    assert 0 < scores["precision"] < 1
    assert main(["embed", str(paco_run), "--output", asked, "--gallery", seen]) == 0
    out = capsys.readouterr().out
    assert "many " in out
    assert "few " in out
    assert "of builtin test, width 96" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--output", "features.pt"], "must be a file ending in .safetensors"),
        (["--output", "no/where.safetensors"], "there is no folder no"),
        (
            [str(PUBLISHED / "prior.png"), "--dataset", "builtin", "--output", "a.safetensors"],
            "use --dataset instead of files",
        ),
        ([str(PUBLISHED / "prior.png"), "--json", "--output", "a.safetensors"], "--json needs labeled data"),
        (["--neighbors", "0", "--output", "a.safetensors"], "--neighbors must be at least 1"),
        (
            ["--gallery", "nothing.safetensors", "--output", "a.safetensors"],
            "nothing.safetensors does not exist: pass a file",
        ),
    ],
)
def test_refusals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, argv: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["embed", str(PUBLISHED), *argv]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_damaged_files(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"nothing")
    with pytest.raises(OSError, match="cannot be read"):
        Embeddings.load(file)
    save_file({"features": torch.ones(3, 2, dtype=torch.bfloat16)}, file)
    assert Embeddings.load(file).features.dtype == np.float32
    save_file({"features": torch.ones(3, 2)}, file, {"class_names": "[1"})
    with pytest.raises(OSError, match="cannot be read"):
        Embeddings.load(file)
    for features, labels in ((torch.ones(0, 2), None), (torch.ones(3), None), (torch.ones(3, 2), torch.ones(3) / 2)):
        save_file({"features": features} | ({} if labels is None else {"labels": labels}), file)
        with pytest.raises(ValueError, match=r"x\.safetensors (must contain|has)"):
            Embeddings.load(file)
    save_file({"features": torch.ones(3, 2), "labels": torch.zeros(2, dtype=torch.long)}, file)
    with pytest.raises(ValueError, match="3 features, but labels of shape"):
        Embeddings.load(file)
    save_file({"features": torch.full((3, 2), torch.nan)}, file)
    with pytest.raises(ValueError, match="finite"):
        Embeddings.load(file)


# ---- retrieval


def brute_force(embeddings, labels, k, gallery=None, gallery_labels=None) -> list[float | None]:
    """Image by image, as the docstring says."""
    own = gallery is None
    gallery, gallery_labels = (embeddings, labels) if own else (gallery, gallery_labels)
    found = []
    for i, (row, label) in enumerate(zip(embeddings, labels, strict=True)):
        others = [j for j in range(len(gallery)) if not (own and i == j)]
        cosine = [row @ gallery[j] / np.linalg.norm(row) / np.linalg.norm(gallery[j]) for j in others]
        order = [others[j] for j in np.argsort(-np.asarray(cosine), kind="stable")]
        available = sum(gallery_labels[j] == label for j in others)
        n = min(k, available)
        found.append(sum(gallery_labels[j] == label for j in order[:n]) / n if n else None)
    return found


@pytest.mark.parametrize("k", [1, 4, 50])
def test_retrieval_precision_is_brute_force(k: int) -> None:
    generator = np.random.default_rng(0)
    counts = [200, 50, 20, 5, 1]
    labels = np.array([0] * 9 + [1] * 6 + [2] * 5 + [3] * 3 + [4])
    rows = generator.normal(size=(len(labels), 7)) + 2 * np.eye(7)[labels]
    scores = retrieval_precision(rows, labels, counts, k=k)
    each = brute_force(rows, labels, k)
    assert each[-1] is None
    assert scores["images"] == len(labels) - 1
    assert scores["per_class"][4] is None
    assert scores["precision"] == pytest.approx(np.mean(each[:-1]))
    of_class = [np.mean([e for e, label in zip(each, labels, strict=True) if label == c]) for c in range(4)]
    assert scores["per_class"][:4] == pytest.approx(of_class)
    assert scores["balanced_precision"] == pytest.approx(np.mean(of_class))
    assert scores["many"] == pytest.approx(of_class[0])
    assert scores["medium"] == pytest.approx(np.mean(of_class[1:3]))
    assert scores["few"] == pytest.approx(of_class[3])


def test_retrieval_from_a_gallery() -> None:
    generator = np.random.default_rng(1)
    labels, seen = generator.integers(0, 3, 30), generator.integers(0, 3, 40)
    rows, gallery = generator.normal(size=(30, 4)), generator.normal(size=(40, 4))
    scores = retrieval_precision(rows, labels, [30, 30, 30], k=5, gallery=gallery, gallery_labels=seen)
    assert scores["precision"] == pytest.approx(np.mean(brute_force(rows, labels, 5, gallery, seen)))
    assert scores["many"] is scores["few"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be"),
        ({"labels": [0, 1]}, "as many labels"),
        ({"labels": [0, 1, 5]}, "must be in 0..1"),
        ({"gallery": np.ones((2, 2))}, "belong together"),
        ({"labels": [0, 1, 1], "gallery": np.ones((1, 3)), "gallery_labels": [0]}, "gallery must be"),
        ({"gallery": np.ones((1, 2)), "gallery_labels": [1], "labels": [0, 0, 0]}, "no image has another image"),
    ],
)
def test_retrieval_refuses(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        retrieval_precision(**{"embeddings": np.ones((3, 2)), "labels": [0, 1, 1], "class_counts": [2, 2], **change})


# ---- class centers


def separable(classes: int = 5, width: int = 32) -> Embeddings:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), [9, 7, 5, 3, 2])
    middles = 20 * generator.normal(size=(classes, width)) + 100
    return Embeddings((middles[labels] + generator.normal(size=(len(labels), width))).astype(np.float32), labels)


def test_centers_tell_by_the_nearest_mean() -> None:
    model, embeddings = make_model(), separable()
    text = start_from_centers(model, embeddings, "some")
    assert "the means of 26 embeddings" in text
    rows = torch.from_numpy(embeddings.features)
    means = torch.stack([rows[torch.from_numpy(embeddings.labels == c)].mean(0) for c in range(5)])
    probes = 20 * torch.randn(200, 32, generator=torch.Generator().manual_seed(1)) + 100
    assert torch.equal(model.classifier(probes).argmax(1), torch.cdist(probes, means).argmin(1))
    # Between classes the logits are those of Gaussians, to one factor.
    logits, distances = model.classifier(probes), torch.cdist(probes, means) ** 2
    ratio = (logits[:, :1] - logits)[:, 1:] / (distances - distances[:, :1])[:, 1:]
    assert ratio.std() / ratio.mean() < 1e-2


def test_centers_may_be_given() -> None:
    model, centers = make_model(), np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)
    start_from_centers(model, Embeddings(centers), "given")
    logits = model.classifier(torch.from_numpy(centers)).detach()
    assert logits.argmax(1).tolist() == list(range(5))
    assert logits.std().item() == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.ones((26, 7), np.float32)}, "width 7, but 'vit_tiny_patch16_224' has width 32"),
        ({"labels": None}, "26 rows without labels, but there are 5 classes"),
        ({"labels": np.zeros(26, np.int64)}, "none of class 1"),
        ({"class_names": ["a", "b", "c", "d", "e"]}, "different classes than the data, the first is 'a'"),
        ({"class_names": ["a"] * 5, "labels": None}, "different classes than the data, the first is 'a'"),
    ],
)
def test_centers_refuse(change: dict, message: str) -> None:
    fields = {**vars(separable()), **change}
    with pytest.raises(ValueError, match=message):
        start_from_centers(make_model(), Embeddings(**fields), "it")


def test_training_starts_from_centers(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    # Dark and light ones: a backbone that knows nothing tells them apart.
    root = folders(tmp_path / "data", {"a": 12, "b": 8})
    for file in root.rglob("*.png"):
        image = np.asarray(Image.open(file)) // 4 + (160 if file.parent.name == "a" else 0)
        Image.fromarray(image.astype(np.uint8)).save(file)
    argv = ["train", "--dataset", str(root), "--backbone", "test_resnet", "--loss", "ce", "--learning_rate", "0"]
    argv += [
        "--weight_decay",
        "0",
        "--freeze_backbone",
        "true",
        "--max_steps",
        "1",
        "--per_device_train_batch_size",
        "4",
        "--calibrate",
        "false",
    ]
    assert main([*argv, "--class_centers", "means", "--output_dir", str(tmp_path / "means")]) == 0
    assert "class centers: the means of " in capsys.readouterr().out
    test = json.loads((tmp_path / "means" / "metrics.json").read_text())["test"]
    assert test["accuracy"] == 1.0
    pytest.importorskip("faiss")
    assert main(["index", str(tmp_path / "means")]) == 0
    assert json.loads((tmp_path / "means" / "index" / "index.json").read_text())["data"] == "data train"
    # From a file the same.
    file = str(tmp_path / "train.safetensors")
    assert main(["embed", str(tmp_path / "means"), "--split", "train", "--output", file]) == 0
    assert main([*argv, "--class_centers", file, "--output_dir", str(tmp_path / "file")]) == 0
    out = capsys.readouterr().out
    assert "(train.safetensors)" in out
    save_file({"features": torch.ones(2, 7)}, tmp_path / "narrow.safetensors")
    flags = [*argv, "--class_centers", str(tmp_path / "narrow.safetensors"), "--dry_run", "true"]
    assert main([*flags, "--output_dir", str(tmp_path / "dry")]) == 2
    assert "width 7" in capsys.readouterr().err
    assert "class_centers: train.safetensors" not in (tmp_path / "file" / "recipe.yaml").read_text()
    for name in ("means", "file"):
        assert json.loads((tmp_path / name / "metrics.json").read_text())["test"]["accuracy"] == 1.0
