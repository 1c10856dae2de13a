"""What predict, embed and estimate-prior take as images: the same as training, without labels."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from datasets import ClassLabel
from user_data import complaint, folders, noise, parquet, table

from paco_hf.cli import main
from paco_hf.inference.features import Embeddings, embed_files
from paco_hf.inference.prediction import predict
from paco_hf.inference.unlabeled import find_images

PUBLISHED = str(ROOT / "model_cards" / "paco-resnet32-cifar100-lt-100")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return folders(tmp_path / "photos", {"cat": 2, "dog": 1})


def test_hidden_files_litter_and_other_kinds_are_passed_over_and_named(photos: Path, capsys) -> None:
    (photos / "cat" / "._0.png").write_bytes(b"x")
    (photos / ".ipynb_checkpoints").mkdir()
    noise(7).save(photos / ".ipynb_checkpoints" / "x.png")
    (photos / "__MACOSX").mkdir()
    noise(7).save(photos / "__MACOSX" / "x.png")
    (photos / "cat" / "phone.heic").write_bytes(b"x")
    (photos / "cat" / "gone.png").symlink_to("nowhere")
    os.mkfifo(photos / "cat" / "pipe.png")
    for verb in ("predict", "estimate-prior"):
        assert main([verb, PUBLISHED, str(photos), "--json"]) == 0
        err = capsys.readouterr().err
        for name in ("._0.png", "__MACOSX", "cat/phone.heic", "cat/gone.png", "cat/pipe.png"):
            assert name in err, (verb, name)
    assert main(["embed", PUBLISHED, str(photos), "--output", str(photos / "e.safetensors")]) == 0
    assert "cat/phone.heic" in capsys.readouterr().err
    files = Embeddings.load(photos / "e.safetensors").files
    assert [Path(file).name for file in files] == ["0.png", "1.png", "0.png"]


def test_tables_and_parquet_are_classified_as_files_are(photos: Path, tmp_path: Path) -> None:
    files = sorted(map(str, photos.rglob("*.png")))
    expected = [{key: entry[key] for key in ("label", "top")} for entry in predict(PUBLISHED, files)]
    (tmp_path / "list.csv").write_text("id,path\n" + "".join(f"{i},{f}\n" for i, f in enumerate(files)))
    encoded = [{"bytes": Path(file).read_bytes(), "path": None} for file in files]
    shard = parquet(tmp_path / "shard" / "train.parquet", [0, 1, 1], ClassLabel(names=["a", "b"]), encoded)
    for source, names in (
        (photos, files),
        (tmp_path / "list.csv", files),
        (shard, [f"{shard}#{row}" for row in range(3)]),
        (shard.parent, [f"{shard.parent}#{row}" for row in range(3)]),
    ):
        entries = predict(PUBLISHED, [str(source)])
        assert [entry["file"] for entry in entries] == names
        for entry, other in zip(entries, expected, strict=True):
            assert entry["label"] == other["label"]
    assert embed_files(PUBLISHED, [shard]).features.shape == (3, 64)
    assert len(find_images([files[0], photos, shard])) == 7


def test_a_damaged_row_is_an_entry_with_its_error(tmp_path: Path, capsys) -> None:
    images = [{"bytes": b"no image", "path": None}, None]
    good = table(tmp_path, ["x"]).parent / "images" / "all0.png"
    shard = parquet(
        tmp_path / "s.parquet",
        [0, 1, 1],
        ClassLabel(names=["a", "b"]),
        [*images, {"bytes": good.read_bytes(), "path": None}],
    )
    assert main(["predict", PUBLISHED, str(shard), "--json"]) == 1
    entries = json.loads(capsys.readouterr().out)
    assert [entry["label"] is None for entry in entries] == [True, True, False]
    assert "s.parquet#1 is empty" in entries[1]["error"]


def test_what_is_no_image_is_refused_before_libraries_load(tmp_path: Path, capsys) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "notes.txt").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.png").symlink_to("nowhere")
    for path, message in (
        ("none", "has no image files"),
        ("pipe", "is a pipe"),
        ("link.png", "is a broken link"),
        ("gone.png", "does not exist"),
        ("gone.csv", "does not exist"),
    ):
        assert message in complaint(capsys, "predict", PUBLISHED, str(tmp_path / path)), path


def test_images_in_folders_are_found_without_datasets(photos: Path) -> None:
    code = (
        "import sys; from paco_hf.inference.unlabeled import find_images;"
        f"assert len(find_images([{str(photos)!r}])) == 3;"
        "print([name for name in ('datasets', 'pandas', 'torch', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_home_is_filled_in(photos: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("HOME", str(photos.parent))
    assert main(["predict", PUBLISHED, "~/photos", "$HOME/photos/cat/0.png", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 4


@pytest.mark.parametrize("paths", ["photos", b"photos", Path("photos"), 5, None, [5], [None], [b"photos"]])
def test_what_is_no_list_of_paths_is_refused(paths: object) -> None:
    with pytest.raises(TypeError, match=r"^paths must be .*, got "):
        find_images(paths)


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_path_is_not_the_current_folder(empty: str) -> None:
    with pytest.raises(ValueError, match=rf"^paths contains an empty path, '{empty}'"):
        find_images([empty])
