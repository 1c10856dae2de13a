"""A folder, a table or a Hub id of one's own, from nothing to a scored model; odd images, labels and splits."""

import io
import json
import os
import shutil
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from hub import Hub
from PIL import Image
from safetensors.torch import load
from test_cli import complaint
from timm.models import save_for_hf

from paco_hf.cli import main
from paco_hf.data import survey as survey_module
from paco_hf.data.carve import carved_again, check_source, divide, public_manifest, report, source_of
from paco_hf.data.loading import load_data
from paco_hf.data.splits import Images, open_image
from paco_hf.data.survey import survey
from paco_hf.modeling_paco import PaCoForImageClassification
from paco_hf.origin import check_same_test, load_evaluation
from paco_hf.run_args import parse_run
from paco_hf.scoring import score
from paco_hf.suggestions import suggested_settings

SPECIES = {"Rosa canina, L.": 9, "Ñandú": 6, "猫": 4, "a/b": 2}  # images of each class
SHORT = ["--backbone", "cifar_resnet20", "--max_steps", "2"]


@pytest.fixture(autouse=True)
def surveys(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("surveys")
    monkeypatch.setattr(survey_module, "_folder", lambda: folder)
    return folder


def noise(seed: int, size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    noise(seed).save(buffer, "PNG")
    return buffer.getvalue()


def folders(root: Path, counts: dict[str, int], start: int = 0, size: tuple[int, int] = (16, 16)) -> Path:
    """Class folders of images that all differ."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            start += 1
            noise(start, size).save(root / name / f"{i}.png")
    return root


def labels_of(counts: dict[str, int]) -> list[str]:
    return [name for name, count in counts.items() for _ in range(count)]


def table(
    root: Path, labels: list[Any], name: str = "all.csv", columns: tuple[str, str] = ("file", "species")
) -> Path:
    """A CSV beside a folder of images that all differ."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    lines = [",".join(columns)]
    for i, label in enumerate(labels):
        file = root / "images" / f"{Path(name).stem}{i}.png"
        file.write_bytes(png(1000 + i + 100 * len(name)))
        quoted = f'"{label}"' if isinstance(label, str) else str(label)
        lines.append(f"images/{file.name},{quoted}")
    (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root / name


def parquet(file: Path, labels: list[Any], feature: Any, images: list[Any] | None = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = {"image": images or [{"bytes": png(i), "path": None} for i in range(len(labels))], "label": labels}
    Dataset.from_dict(rows, features=Features({"image": ImageFeature(), "label": feature})).to_parquet(file)
    return file


def printed(capsys: pytest.CaptureFixture, *argv: str) -> str:
    capsys.readouterr()
    assert main(["train", *argv]) == 0
    return capsys.readouterr().out


# ---- one command


@pytest.mark.parametrize("form", ["folder", "csv", "parquet"])
def test_from_nothing_to_a_scored_model(form: str, tmp_path, capsys) -> None:
    if form == "folder":
        source = folders(tmp_path / "photos", {name.replace("/", "-"): count for name, count in SPECIES.items()})
    elif form == "csv":
        source = table(tmp_path / "photos", labels_of(SPECIES))
    else:
        source = parquet(tmp_path / "photos" / "data-0.parquet", labels_of(SPECIES), Value("string")).parent
    run = tmp_path / "run"
    out = printed(capsys, "--dataset", str(source), *SHORT, "--output_dir", str(run))
    names = sorted(name.replace("/", "-") if form == "folder" else name for name in SPECIES)
    assert "21 images of 4 classes: 13 to train on, 3 for validation (carved), 5 for the test (carved)" in out
    assert "imbalance factor 4.5 (9 to 2 images a class, of which 6 to 1 to train on)" in out
    assert "1 class has no image to validate with" in out
    config = json.loads((run / "config.json").read_text())
    assert [config["id2label"][str(c)] for c in range(4)] == names
    metrics = json.loads((run / "metrics.json").read_text())
    split, class_names = load_evaluation(run)
    assert class_names == names
    assert sorted(np.bincount(split.labels)) == [1, 1, 1, 2]
    assert score(run, Images(split)) == metrics["test"]
    assert score(run, Images(load_evaluation(run, split="validation")[0])) == metrics["validation"]
    manifest = json.loads((run / "splits.json").read_text())
    assert manifest["class_names"] == names
    assert str(tmp_path) not in (run / "splits.json").read_text()
    rows = [manifest["splits"][name]["rows"] for name in ("train", "validation", "test")]
    assert sorted(chain(*rows)) == list(range(21))
    if form != "parquet":
        root = tmp_path / "photos" / ("images" if form == "csv" else "")
        assert all((root / file).is_file() for file in manifest["splits"]["test"]["files"])


def test_from_the_hub(tmp_path) -> None:
    parquet(tmp_path / "data" / "train-00000-of-00001.parquet", labels_of(SPECIES), Value("string"))
    code = f"""
import json, sys
from huggingface_hub import HfApi
HfApi().create_repo("ada/flowers", repo_type="dataset")
HfApi().upload_folder(repo_id="ada/flowers", folder_path={str(tmp_path / "data")!r}, repo_type="dataset")
import timm
from timm.models import push_to_hf_hub
push_to_hf_hub(timm.create_model("test_resnet", num_classes=3), "ada/mine", safe_serialization=True)
from paco_hf.cli import main
command = ["train", "--dataset", "ada/flowers", "--max_steps", "2", "--backbone"]
assert main([*command, "cifar_resnet20", "--output_dir", {str(tmp_path / "run")!r}]) == 0
assert main([*command, "hf://ada/mine", "--freeze_backbone", "true", "--output_dir", {str(tmp_path / "hub")!r}]) == 0
from paco_hf.origin import load_evaluation
from paco_hf.hub import push
push({str(tmp_path / "run")!r}, "ada/model")
print("scored", load_evaluation("ada/model")[0].rows, load_evaluation("ada/model", {str(tmp_path / "data")!r})[0].rows)
"""
    with Hub({"token-ada": "ada"}) as hub:
        environment = hub.environment("token-ada", tmp_path / "home") | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
        )
    assert done.returncode == 0, done.stderr
    assert "columns: image 'image', label 'label'; splits: train 'train'" in done.stdout
    rows = json.loads((tmp_path / "run" / "splits.json").read_text())["splits"]["test"]["rows"]
    assert f"scored {rows} {rows}" in done.stdout
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test"]["accuracy"] is not None
    assert json.loads((tmp_path / "run" / "run.json").read_text())["dataset"] == "ada/flowers"
    # The backbone of the Hub is in the checkpoint, which loads without it.
    model = PaCoForImageClassification.from_pretrained(tmp_path / "hub")
    assert model.config.backbone == "test_resnet"
    theirs = load(hub.files("ada/mine")["model.safetensors"])
    state = model.paco.backbone.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in theirs.items() if not name.startswith("fc."))


# ---- columns, splits, labels


def test_columns_and_splits_are_inferred(tmp_path) -> None:
    folders(tmp_path / "tree" / "training", {"cat": 3, "dog": 2})
    folders(tmp_path / "tree" / "valid", {"dog": 1, "cat": 1}, start=50)
    data = load_data(str(tmp_path / "tree"))
    assert data.described == "classes: the folders; splits: train 'training', test 'valid'"
    assert (data.class_names, data.class_counts, data.test.labels, data.validation) == (
        ["cat", "dog"],
        [3, 2],
        [0, 1],
        None,
    )
    data = load_data(str(tmp_path / "tree"), splits={"validation": "valid"})
    assert (data.test, data.validation.labels) == (None, [0, 1])
    with pytest.raises(ValueError, match=r"no split 'dev' for --test_split: choose one of 'training', 'valid'"):
        load_data(str(tmp_path / "tree"), splits={"test": "dev"})

    for name in ("train.csv", "dev.csv", "test.csv"):
        table(tmp_path / "tables", ["cat", "dog", "cat"], name)
    data = load_data(str(tmp_path / "tables"))
    assert data.described == (
        "columns: image 'file', label 'species'; splits: train 'train', validation 'dev', test 'test'"
    )
    assert [len(s.labels) for s in (data.train, data.validation, data.test)] == [3, 3, 3]
    assert Images(data.test)[0].size == (16, 16)

    # Any other column with repeated values is the label; columns that could both be are not guessed.
    lines = [{"pic": f"images/train{i}.png", "id": i, "kind": "ab"[i % 2]} for i in range(3)]
    (tmp_path / "tables" / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = load_data(str(tmp_path / "tables" / "x.jsonl"))
    assert data.described == "columns: image 'pic', label 'kind' (not used: 'id'); splits: train 'train'"
    lines = [line | {"who": "me"} for line in lines]
    (tmp_path / "tables" / "y.json").write_text(json.dumps(lines))
    with pytest.raises(ValueError, match=r"cannot tell the label column .*pic, id, kind, who\): set --label_column"):
        load_data(str(tmp_path / "tables" / "y.json"))
    assert load_data(str(tmp_path / "tables" / "y.json"), label_column="kind").class_names == ["a", "b"]
    with pytest.raises(ValueError, match="set --image_column"):
        load_data(str(tmp_path / "tables" / "y.json"), image_column="id")

    folders(tmp_path / "single", {"test": 2, "train": 3})
    assert load_data(str(tmp_path / "single")).class_names == ["test", "train"]
    meta = tmp_path / "meta" / "train"
    table(meta, ["x", "y"], "metadata.csv", ("file_name", "label"))
    assert load_data(str(tmp_path / "meta")).class_names == ["x", "y"]


def test_parquet_of_other_libraries(tmp_path) -> None:
    """Plain bytes, dictionaries without Hugging Face's metadata, and paths."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    noise(5).save(tmp_path / "5.png")
    for name, column in (
        ("bytes", pa.array([png(1), png(2)])),
        ("struct", pa.array([{"bytes": png(1), "path": "a"}, {"bytes": png(2), "path": None}])),
        ("paths", pa.array(["5.png", str(tmp_path / "5.png")])),
    ):
        pq.write_table(pa.table({"image": column, "label": ["u", "v"]}), tmp_path / f"{name}.parquet")
        data = load_data(str(tmp_path / f"{name}.parquet"))
        expected = noise(5 if name == "paths" else 2)
        assert np.array_equal(np.asarray(data.train.open(1)), np.asarray(expected)), name


def test_labels(tmp_path) -> None:
    def load(labels: list[Any], feature: Any) -> Any:
        number = len(list(tmp_path.iterdir()))
        return load_data(str(parquet(tmp_path / f"{number}.parquet", labels, feature)))

    numbers = load([10, 1, 2, 1], Value("int64"))
    assert (numbers.class_names, numbers.train.labels) == (["1", "2", "10"], [2, 0, 1, 0])
    assert "3 whole numbers from 1 to 10" in numbers.notes[0]
    plain = load([1, 0, 1], Value("int32"))
    assert (plain.class_names, plain.notes) == (["0", "1"], [])
    assert load([True, False], Value("bool")).class_names == ["False", "True"]
    assert load([0.0, 1.0], Value("float32")).train.labels == [0, 1]
    assert load([" x", "x ", "X"], Value("string")).class_names == ["X", "x"]
    assert "'X' and 'x'" in load([" x", "x ", "X"], Value("string")).notes[0]
    assert load(["e\u0301", "\u00e9", "z"], Value("string")).class_names == ["z", "\u00e9"]
    dropped = load([2, 0, 2], ClassLabel(names=["c", "b", "a"]))
    assert (dropped.class_names, dropped.train.labels) == (["c", "a"], [1, 0, 1])
    assert "1 of the 3 classes have no training image and are left out, such as 'b'" in dropped.notes[0]
    assert load(["None", "NA", "null"], Value("string")).class_names == ["NA", "None", "null"]
    for labels, feature, message in (
        (
            ["a", None, "", "b"],
            Value("string"),
            "2 of the 4 rows of .* have no label in 'label', the first being row 1",
        ),
        ([0.5, 1.0], Value("float64"), "holds 0.5, which is no class"),
        ([0, -1, 1], Value("int64"), "label -1 of row 1"),
        ([["a"], ["b"]], [Value("string")], "must hold one class an image"),
        (["a", "a"], Value("string"), r"one class only \('a'\): a classifier needs at least two"),
    ):
        with pytest.raises(ValueError, match=message):
            load(labels, feature)
    for values, names in (
        (["NA", "None", "x,y"], ["NA", "None", "x,y"]),
        (["01", "1", "2"], ["01", "1", "2"]),
        ([3, 1, 2], ["1", "2", "3"]),
        (["1.0", "0.0"], ["0", "1"]),
    ):
        assert load_data(str(table(tmp_path / "csv", values))).class_names == names
    # Whether labels are numbers is seen in the training split.
    table(tmp_path / "kinds", [1, 2, "x"], "train.csv")
    table(tmp_path / "kinds", [2, 1], "test.csv")
    kinds = load_data(str(tmp_path / "kinds"))
    assert (kinds.class_names, kinds.test.labels) == (["1", "2", "x"], [1, 0])
    with pytest.raises(ValueError, match=r"holds 0\.5"):
        load_data(str(table(tmp_path / "csv", ["0.5", "1.5"])))


def test_a_class_twice_is_named(tmp_path) -> None:
    import pyarrow.parquet as pq

    file = parquet(tmp_path / "train.parquet", [0, 1], ClassLabel(names=["cat", "dog"]))
    content = pq.read_table(file)
    metadata = {b"huggingface": content.schema.metadata[b"huggingface"].replace(b'"dog"', b'"cat"')}
    pq.write_table(content.replace_schema_metadata(metadata), file)
    with pytest.raises(ValueError, match=r"'label' of .* has the class 'cat' twice"):
        load_data(str(file))
    with pytest.raises(ValueError, match=r"'label' of .* has the class 'cat' twice"):
        load_data(str(parquet(tmp_path / "space.parquet", [0, 1], ClassLabel(names=["cat", "cat "]))))
    folders(tmp_path / "photos", {"cat": 1, "cat ": 1, "Cat": 1})
    data = load_data(str(tmp_path / "photos"))
    assert (data.class_names, data.class_counts) == (["Cat", "cat"], [1, 2])
    assert "more than one folder for the class 'cat'" in data.notes[0]
    assert "differ in case only" in data.notes[1]


def test_splits_without_labels_or_with_other_classes(tmp_path) -> None:
    feature = ClassLabel(names=["cat", "dog"])
    parquet(tmp_path / "a" / "train.parquet", [0, 1, 1], feature)
    parquet(tmp_path / "a" / "test.parquet", [-1, -1], feature)
    data = load_data(str(tmp_path / "a"))
    assert data.test is None
    assert "the split 'test' has no labels" in data.notes[0]
    parquet(tmp_path / "b" / "train.parquet", ["cat", "dog"], Value("string"))
    parquet(tmp_path / "b" / "test.parquet", ["cat", "elk"], Value("string"))
    table(tmp_path / "c", ["cat", "dog"], "train.csv")
    (tmp_path / "c" / "test.csv").write_text("file\nimages/train0.png\n")
    data = load_data(str(tmp_path / "c"))
    assert (data.test, data.notes) == (None, ["the split 'test' has no column 'species', so it is left out"])
    with pytest.raises(ValueError, match=r"'test' of .* has a class 'elk' that its train split has not"):
        load_data(str(tmp_path / "b"))


# ---- images


def test_odd_images(tmp_path) -> None:
    ramp = np.tile(np.linspace(0, 65535, 16).astype(np.uint16), (8, 1))
    eight = (ramp // 256).astype(np.uint8)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    Image.fromarray(ramp).save(tmp_path / "deep.tif")
    Image.fromarray(ramp.astype(">u2")).save(tmp_path / "big.tif")
    Image.fromarray(ramp.astype(np.int32)).save(tmp_path / "int.tif")
    Image.fromarray(eight.astype(np.int32)).save(tmp_path / "small-int.tif")
    Image.fromarray(ramp.astype(np.float32) / 65535).save(tmp_path / "unit.tif")
    Image.fromarray(eight.astype(np.float32)).save(tmp_path / "float.tif")
    for file in tmp_path.iterdir():
        with Image.open(file) as image:
            assert image.mode in ("I;16", "I;16B", "I", "F"), file
        found = np.asarray(open_image(file, file.name)).astype(int)
        assert found.shape == (8, 16, 3)
        assert np.abs(found - eight[..., None]).max() <= 1, file
        assert len(np.unique(found)) == 16, file

    colour = Image.new("RGB", (16, 8), (200, 30, 90))
    colour.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    assert np.abs(np.asarray(open_image(tmp_path / "cmyk.jpg", "")).astype(int) - [200, 30, 90]).max() < 12
    clear = colour.convert("RGBA")
    clear.putalpha(0)
    clear.save(tmp_path / "clear.png")
    assert np.array_equal(np.asarray(open_image(tmp_path / "clear.png", "")), np.asarray(colour))
    colour.convert("P").save(tmp_path / "palette.png", transparency=0)
    assert open_image(tmp_path / "palette.png", "").mode == "RGB"
    Image.new("LA", (16, 8), (77, 3)).save(tmp_path / "la.png")
    assert open_image(tmp_path / "la.png", "").getpixel((0, 0)) == (77, 77, 77)
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(3, (24, 8)).save(tmp_path / "turned.png", exif=exif)
    turned = np.asarray(noise(3, (24, 8)).rotate(-90, expand=True))
    assert np.array_equal(np.asarray(open_image(tmp_path / "turned.png", "")), turned)
    buffer = io.BytesIO()
    noise(4, (64, 64)).save(buffer, "JPEG")
    for content in (buffer.getvalue()[:-900], b"", b"<html>"):
        with pytest.raises(ValueError, match="shown here cannot be decoded"):
            open_image(io.BytesIO(content), "shown here")


# ---- the survey


def test_survey_counts_what_cannot_be_decoded_and_remembers(tmp_path, capsys, surveys) -> None:
    root = folders(tmp_path / "photos", {"cat": 8, "dog": 8})
    (root / "cat" / "3.png").write_bytes(b"no image")
    (root / "dog" / "5.png").write_bytes((root / "dog" / "5.png").read_bytes()[:200])
    argv = ["--dataset", str(root), *SHORT, "--output_dir", str(tmp_path / "run")]
    line = complaint(capsys, "train", *argv)
    assert "2 of the 16 images cannot be decoded" in line
    assert "cat/3.png" in line
    assert "dog/5.png" in line
    assert "--skip_undecodable true" in line
    assert not (tmp_path / "run").exists()
    out = printed(capsys, *argv, "--skip_undecodable", "true")
    assert "14 of 16 images decode (as surveyed before): 16 x 16 pixels" in out
    assert "note: left out as not decodable: 2 images, such as: " in out
    manifest = json.loads((tmp_path / "run" / "splits.json").read_text())
    rows = [manifest["splits"][name]["rows"] for name in ("train", "validation", "test")]
    assert sorted(chain(*rows)) == [row for row in range(16) if row not in (3, 13)]
    assert "not decodable: 2 images" in json.loads((tmp_path / "run" / "run.json").read_text())["notes"][0]
    assert (
        score(tmp_path / "run", Images(load_evaluation(tmp_path / "run")[0]))
        == json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    )
    test = folders(tmp_path / "two" / "test", {"cat": 2, "dog": 2}, start=60)
    folders(tmp_path / "two" / "train", {"cat": 4, "dog": 4}, start=70)
    (test / "cat" / "0.png").write_bytes(b"no image")
    two = ["--dataset", str(tmp_path / "two"), *SHORT, "--output_dir", str(tmp_path / "second")]
    printed(capsys, *two, "--skip_undecodable", "true")
    assert len(load_evaluation(tmp_path / "second")[0].labels) == 3
    # A file that changed is looked at again.
    (root / "cat" / "3.png").write_bytes(png(777))
    assert "cannot be decoded" in complaint(capsys, "train", *argv, "--overwrite")
    (root / "dog" / "5.png").write_bytes(png(778))
    assert "all 16 images decode: " in printed(capsys, *argv, "--dry_run")
    assert "all 16 images decode (as surveyed before)" in printed(capsys, *argv, "--dry_run")
    assert "images decode" not in printed(capsys, *argv, "--dry_run", "--inspect", "false")
    for file in surveys.iterdir():
        file.write_text("{")
    assert "all 16 images decode: " in printed(capsys, *argv, "--dry_run")
    for i in range(8):
        (root / "cat" / f"{i}.png").write_bytes(b"no image")
    assert "no training image of the class 'cat' can be decoded" in complaint(
        capsys, "train", *argv, "--overwrite", "--skip_undecodable", "true"
    )


def test_survey_of_parquet_is_remembered(tmp_path) -> None:
    file = parquet(tmp_path / "train.parquet", labels_of({"a": 3, "b": 2}), Value("string"))
    assert survey(load_data(str(file))).lines == ["all 5 images decode: 16 x 16 pixels", "no exact duplicates"]
    assert survey(load_data(str(file))).lines[0] == "all 5 images decode (as surveyed before): 16 x 16 pixels"


def test_exact_duplicates_across_splits_are_a_leak(tmp_path, capsys) -> None:
    folders(tmp_path / "photos" / "train", {"cat": 6, "dog": 6})
    folders(tmp_path / "photos" / "test", {"cat": 2, "dog": 2}, start=100)
    # The same pixels in another file format, and a copy under another label.
    with Image.open(tmp_path / "photos" / "train" / "cat" / "0.png") as image:
        image.save(tmp_path / "photos" / "test" / "cat" / "0.png", "BMP")
    copy = (tmp_path / "photos" / "train" / "cat" / "1.png").read_bytes()
    (tmp_path / "photos" / "train" / "dog" / "1.png").write_bytes(copy)
    argv = ["--dataset", str(tmp_path / "photos"), *SHORT, "--output_dir", str(tmp_path / "run")]
    out = printed(capsys, *argv)
    assert "2 exact duplicates, 1 across splits" in out
    assert "WARNING: the test split has 1 image exactly as in train, so scores on it say too much; such as " in out
    assert "WARNING: there is 1 image with more than one label, such as " in out
    notes = json.loads((tmp_path / "run" / "run.json").read_text())["notes"]
    assert "such as test/cat/0.png, which is train/cat/0.png" in notes[0]
    assert str(tmp_path) not in notes[0]


# ---- the carve


def test_carve(tmp_path) -> None:
    data = load_data(str(folders(tmp_path, {"a": 20, "b": 3, "c": 2, "d": 1})))
    division = divide(data, 0, 0.1, 0.2)

    def counts(split: Any) -> list[int]:
        return np.bincount(split.labels, minlength=4).tolist()

    parts = (division.trained, division.validation, division.data.test)
    assert [counts(part) for part in parts] == [[14, 1, 1, 1], [2, 1, 0, 0], [4, 1, 1, 0]]
    assert division.data.class_counts == [16, 2, 1, 1]
    rows = [part.rows for part in parts]
    assert sorted(chain(*rows)) == list(range(26))
    assert [
        part.rows for part in (lambda d: (d.trained, d.validation, d.data.test))(divide(data, 0, 0.1, 0.2))
    ] == rows
    other = divide(data, 1, 0.1, 0.2)
    assert (other.data.test.rows, other.validation.rows != rows[1]) == (rows[2], True)
    assert divide(data, 0, 0.1, 0.2, split_seed=1).data.test.rows != rows[2]
    again = carved_again(data.train, division.manifest, "test")
    assert (again.rows, again.labels) == (rows[2], parts[2].labels)
    assert divide(data, 0, 0.1, 0.0).data.test is None
    assert divide(data, 0, 0.0, 0.2).validation is None
    assert counts(divide(data, 0, 0.0, 0.2).data.test) == [4, 1, 1, 0]
    assert divide(data, 0, 0.0, 0.0).manifest is None
    twins = np.zeros(26, dtype=bool)
    twins[:18] = twins[24] = True
    pinned = divide(data, 0, 0.1, 0.2, twins)
    assert counts(pinned.data.test) == [2, 1, 1, 0]
    assert not twins[pinned.data.test.rows].any()
    assert pinned.validation is None or not twins[pinned.validation.rows].any()
    with pytest.raises(ValueError, match="test_fraction must be"):
        divide(data, 0, 0.1, 1.0)


def test_a_carve_never_leaks(tmp_path) -> None:
    root = folders(tmp_path / "photos", {"a": 8, "b": 8})
    for i in range(6):
        (root / "a" / f"copy{i}.png").write_bytes((root / "a" / f"{i}.png").read_bytes())
    data = load_data(str(root))
    division = divide(data, 0, 0.2, 0.4, survey(data).twins)
    kept = {np.asarray(division.trained.open(i)).tobytes() for i in range(len(division.trained.labels))}
    for part in (division.validation, division.data.test):
        assert len(part.labels) > 0
        assert not any(np.asarray(part.open(i)).tobytes() in kept for i in range(len(part.labels)))


def test_evaluation_takes_the_carve_of_the_run(tmp_path) -> None:
    root = folders(tmp_path / "photos", {"a": 9, "b": 6})
    run = tmp_path / "run"
    assert main(["train", "--dataset", str(root), *SHORT, "--output_dir", str(run)]) == 0
    carved = json.loads((run / "splits.json").read_text())["splits"]
    for dataset in (None, str(root), os.path.relpath(root)):
        split, names = load_evaluation(run, dataset)
        assert (split.rows, names) == (carved["test"]["rows"], ["a", "b"])
    assert load_evaluation(run, split="validation")[0].rows == carved["validation"]["rows"]
    root.rename(tmp_path / "moved")
    assert load_evaluation(run, str(tmp_path / "moved"))[0].rows == carved["test"]["rows"]
    # Another data set has its own split; of a part of the classes it is read by name.
    other = folders(tmp_path / "other" / "test", {"b": 2}, start=90).parent
    split, names = load_evaluation(run, str(other))
    assert (split.labels, names) == ([1, 1], ["a", "b"])
    (tmp_path / "moved" / "a" / "0.png").unlink()
    with pytest.raises(ValueError, match="test split was carved from: it has 14 images instead of 15"):
        load_evaluation(run, str(tmp_path / "moved"))
    noise(0).save(tmp_path / "moved" / "b" / "new.png")
    with pytest.raises(ValueError, match="it has other labels, or another order"):
        load_evaluation(run, str(tmp_path / "moved"))
    checkpoint = next(run.glob("checkpoint-*"))
    moved = folders(tmp_path / "again", {"a": 9, "b": 6})
    assert load_evaluation(checkpoint, str(moved))[0].rows == carved["test"]["rows"]
    assert load_evaluation(checkpoint, str(moved), "validation")[0].rows == carved["validation"]["rows"]
    assert "files" not in json.dumps(public_manifest(json.loads((run / "splits.json").read_text())))
    # A renamed file may be an image to train on.
    (moved / "a" / "0.png").rename(moved / "a" / "zero.png")
    with pytest.raises(ValueError, match="it has other or renamed images, or another order"):
        load_evaluation(run, str(moved))
    # Other images without splits are a test.
    (tmp_path / "new" / "b").mkdir(parents=True)
    for i in range(3):
        noise(500 + i).save(tmp_path / "new" / "b" / f"new{i}.png")
    split, names = load_evaluation(run, str(tmp_path / "new"))
    assert (split.labels, names, split.name, split.note) == (
        [1] * 3,
        ["a", "b"],
        f"{tmp_path / 'new'}, all images",
        "",
    )
    with pytest.raises(ValueError, match=r"has no recipe\.yaml that names its data: give --dataset"):
        load_evaluation(tmp_path)
    with pytest.raises(ValueError, match="split must be test or validation"):
        load_evaluation(run, split="train")


def test_images_of_the_training_are_no_test(tmp_path) -> None:
    root = folders(tmp_path / "photos", {"a": 9, "b": 6})
    argv = ["train", "--dataset", str(root), *SHORT, "--test_fraction", "0"]
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert main([*argv, "--output_dir", str(run)]) == 0
    assert main([*argv, "--validation_fraction", "0", "--output_dir", str(whole)]) == 0
    assert not (whole / "splits.json").exists()
    root.rename(tmp_path / "moved")
    for folder in (run, whole, next(whole.glob("checkpoint-*"))):
        with pytest.raises(
            ValueError, match="has no test split, and the run carved none: all its images were trained"
        ):
            load_evaluation(folder, str(tmp_path / "moved"))
    (tmp_path / "moved").rename(root)
    (whole / "run.json").unlink()
    with pytest.raises(ValueError, match="has no test split, and the run carved none"):
        load_evaluation(whole)
    # Nothing is known of a lone checkpoint.
    shutil.copytree(next(whole.glob("checkpoint-*")), tmp_path / "lone")
    split, _ = load_evaluation(tmp_path / "lone", str(root))
    assert (len(split.labels), split.name) == (15, f"{root}, all images")
    assert "does not say what it was trained on" in split.note


def test_runs_that_carved_other_images_are_no_ensemble(tmp_path) -> None:
    data = load_data(str(folders(tmp_path / "photos", {"a": 20, "b": 10})))
    for name, seeds in {"one": (0, 0), "two": (1, 0), "three": (0, 5), "none": None}.items():
        run = tmp_path / name
        run.mkdir()
        (run / "recipe.yaml").write_text(yaml.safe_dump({"dataset": str(tmp_path / "photos")}))
        if seeds:
            manifest = divide(data, seeds[0], 0.1, 0.2, split_seed=seeds[1]).manifest
            (run / "splits.json").write_text(json.dumps(manifest))
    one, two, three, none = (tmp_path / name for name in ("one", "two", "three", "none"))
    check_same_test([one, two])
    for pair, split in (([one, three], "test"), ([one, none], "test"), ([one, two], "validation")):
        with pytest.raises(ValueError, match=f"{pair[0]} and {pair[1]} carved different images for their {split}"):
            check_same_test(pair, split)
    check_same_test([one, three], scored=data.train)
    with pytest.raises(ValueError, match="carved different images"):
        check_same_test([one, three], scored=load_evaluation(one)[0])


def test_resume_notices_renamed_files_and_another_carve(tmp_path) -> None:
    root = folders(tmp_path / "photos", {"a": 8, "b": 8})
    before = divide(load_data(str(root)), 0, 0.1, 0.2).manifest
    check_source(before, divide(load_data(str(root)), 0, 0.1, 0.2).manifest)
    with pytest.raises(ValueError, match="other images would be carved for the test"):
        check_source(before, divide(load_data(str(root)), 0, 0.1, 0.2, split_seed=1).manifest)
    (root / "a" / "0.png").rename(root / "a" / "zero.png")
    with pytest.raises(ValueError, match=r"has changed since .* other or renamed images"):
        check_source(before, divide(load_data(str(root)), 0, 0.1, 0.2).manifest)


def test_images_without_files_are_known_by_their_sizes(tmp_path) -> None:
    images = [{"bytes": png(i), "path": None} for i in range(6)]
    data = load_data(str(parquet(tmp_path / "a.parquet", list("xyxyxy"), Value("string"), images)))
    images[2] = {"bytes": png(2) + b"more", "path": None}
    other = load_data(str(parquet(tmp_path / "b.parquet", list("xyxyxy"), Value("string"), images)))
    one, two = source_of(data.train), source_of(other.train)
    assert one["selection"] == two["selection"]
    assert one["content"] != two["content"]
    assert source_of(load_data(str(tmp_path / "a.parquet")).train) == one


def test_carves_that_find_no_image_are_a_warning(tmp_path) -> None:
    data = load_data(str(folders(tmp_path / "photos", {"a": 1, "b": 1})))
    divide(data, 0, 0.1, 0.2)
    assert data.notes == []
    assert [warning[:34] for warning in data.warnings] == [
        "no test split can be carved, so no",
        "no validation split can be carved,",
    ]


def test_classes_without_test_images_are_named(tmp_path) -> None:
    folders(tmp_path / "train", {"a": 5, "b": 5, "c": 5})
    folders(tmp_path / "test", {"a": 1, "c": 1}, start=50)
    division = divide(load_data(str(tmp_path)), 0, 0.1)
    assert report(division, [])[2:] == ["1 class has no image to test with: 'b'"]
    assert "imbalance factor 1 (5 to 5 images a class, of which 4 to 4 to train on)" in report(division, [])[1]


def test_what_is_kept_of_a_run_names_no_folder_of_the_computer(tmp_path) -> None:
    root = folders(tmp_path / "photos", {"a": 8, "b": 8})
    (root / "a" / "0.png").write_bytes(b"no image")
    (root / "a" / "notes.txt").write_text("x")
    lines = ["file,label", *(f"{file},{file.parent.name}" for file in sorted(root.glob("*/*.png")))]
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "all.csv").write_text("\n".join(lines))
    for name, dataset, shown in (
        ("x", f"{root}{os.sep}", "(a/0.png)"),
        ("y", tmp_path / "table" / "all.csv", "(0.png)"),
    ):
        run = tmp_path / name
        argv = ["train", "--dataset", str(dataset), *SHORT, "--skip_undecodable", "true", "--output_dir", str(run)]
        assert main(argv) == 0
        for file in ("run.json", "splits.json"):
            assert str(tmp_path) not in (run / file).read_text()
        assert shown in (run / "run.json").read_text()


# ---- tables


def test_a_table_beside_folders_of_images(tmp_path) -> None:
    table(tmp_path / "a", ["x", "y", "x"], "labels.csv")
    data = load_data(str(tmp_path / "a"))
    assert (data.class_names, data.notes) == (["x", "y"], [])
    content = (tmp_path / "a" / "labels.csv").read_text().replace("images/", "")
    (tmp_path / "a" / "labels.csv").write_text(content)
    assert load_data(str(tmp_path / "a")).class_names == ["x", "y"]
    folders(tmp_path / "b", {"cat": 2, "dog": 2})
    (tmp_path / "b" / "labels.csv").write_text("file,label\nelsewhere.png,x\n")
    data = load_data(str(tmp_path / "b"))
    assert data.class_names == ["cat", "dog"]
    assert data.notes == [
        "the classes are those of the folders, not those of labels.csv beside them: no column of labels.csv names "
        "images in the folder"
    ]


def test_a_column_names_the_splits(tmp_path) -> None:
    file = table(tmp_path, ["x", "y", "x", "y", "x", "y"])
    names = ["train", "train", "Val", "val", "test", "test"]
    lines = [
        f"{line},{name},{i},n" for i, (line, name) in enumerate(zip(file.read_text().split()[1:], names, strict=True))
    ]
    file.write_text("\n".join(["file,species,split,id,by", *lines]))
    data = load_data(str(file))
    assert data.described == (
        "columns: image 'file', label 'species', split 'split' (not used: 'id', 'by'); splits: train 'train', "
        "validation 'validation', test 'test'"
    )
    assert [split.files[0][-8:] for split in (data.train, data.validation, data.test)] == [
        "all0.png",
        "all2.png",
        "all4.png",
    ]
    assert Images(data.test)[0].size == (16, 16)
    file.write_text(file.read_text().replace(",test,", ",other,"))
    assert len(load_data(str(file)).train.labels) == 6


def test_validation_of_a_run_on_the_builtin_images(tmp_path) -> None:
    assert main(["train", *SHORT, "--output_dir", str(tmp_path)]) == 0
    split, names = load_evaluation(tmp_path, split="validation")
    record = json.loads((tmp_path / "run.json").read_text())["data"]["validation"]
    assert (len(split.labels), len(names)) == (record["images"], 20)
    assert score(tmp_path, Images(split)) == json.loads((tmp_path / "metrics.json").read_text())["validation"]
    assert len(load_evaluation(tmp_path)[0].labels) == 2000


def test_resume_gives_the_same_splits(tmp_path, capsys) -> None:
    root = folders(tmp_path / "photos", {"a": 12, "b": 12})
    argv = ["--dataset", str(root), "--backbone", "cifar_resnet20", "--num_train_epochs", "2"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    printed(capsys, *argv, "--output_dir", str(whole))
    printed(capsys, *argv, "--output_dir", str(parts), "--save_total_limit", "5")
    last = max(parts.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    shutil.rmtree(last)
    for file in parts.iterdir():
        if file.is_file() and not file.name.startswith(("recipe", "selected")):
            file.unlink()
    out = printed(capsys, *argv, "--output_dir", str(parts), "--save_total_limit", "5", "--resume")
    assert "resuming from" in out
    assert "with changed settings" not in out
    assert (parts / "splits.json").read_bytes() == (whole / "splits.json").read_bytes()
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    noise(4000).save(root / "b" / "new.png")
    (whole / "metrics.json").rename(tmp_path / "aside.json")
    line = complaint(capsys, "train", *argv, "--output_dir", str(whole), "--resume")
    assert "the data has changed since the run was started (it has 25 images instead of 24)" in line
    (tmp_path / "aside.json").rename(whole / "metrics.json")
    (root / "b" / "new.png").unlink()
    # Settings that were chosen for the data are no change of settings.
    assert "is finished; nothing to resume" in printed(capsys, *argv, "--output_dir", str(whole), "--resume")
    # The recipe that it left makes it again.
    printed(capsys, "--recipe", str(whole / "recipe.yaml"), "--output_dir", str(tmp_path / "again"))
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert "made with other settings" in complaint(
        capsys, "train", *argv, "--output_dir", str(whole), "--resume", "--queue_size", "16"
    )


# ---- backbones


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A timm model as timm's `save_for_hf` writes it, with a data configuration of its own."""
    folder = tmp_path_factory.mktemp("timm") / "mine"
    torch.manual_seed(3)
    model = timm.create_model("test_resnet", num_classes=7, pretrained=False)
    model.pretrained_cfg |= {
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
        "interpolation": "bicubic",
        "crop_pct": 0.8,
        "input_size": (3, 96, 96),
    }
    save_for_hf(model, str(folder), safe_serialization=True)
    return folder


def test_local_backbone_brings_its_weights_and_its_data_configuration(saved: Path, tmp_path, capsys) -> None:
    root = folders(tmp_path / "photos", {"a": 6, "b": 6}, size=(110, 100))
    argv = ["--dataset", str(root), "--backbone", str(saved), "--output_dir", str(tmp_path / "run")]
    out = printed(capsys, *argv, "--max_steps", "1", "--learning_rate", "0", "--weight_decay", "0")
    assert "96 x 96 pixels, from images of a shorter side of 120 (bicubic)" in out
    assert "mean 0.100, 0.200, 0.300, std 0.400, 0.500, 0.600" in out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["backbone"], config["image_size"]) == ("test_resnet", 96)
    assert str(saved) not in json.dumps(config)
    processor = json.loads((tmp_path / "run" / "preprocessor_config.json").read_text())
    assert (processor["size"], processor["resample"]) == ({"shortest_edge": 120}, 3)
    theirs = timm.create_model(f"local-dir:{saved}", pretrained=True, num_classes=0).state_dict()
    ours = PaCoForImageClassification.from_pretrained(tmp_path / "run").paco.backbone.state_dict()
    assert all(
        torch.equal(ours[name], tensor)
        for name, tensor in theirs.items()
        if "running" not in name[-12:] and "num_" not in name
    )
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert (recipe["backbone"], recipe["eval_interpolation"]) == (str(saved), "bicubic")
    flags = ["--image_size", "80", "--eval_interpolation", "bilinear", "--dry_run"]
    assert "80 x 80 pixels, from images of a shorter side of 100 (bilinear)" in printed(capsys, *argv, *flags)


def test_backbones_that_are_not_there(saved: Path, tmp_path, capsys) -> None:
    root = folders(tmp_path / "photos", {"a": 3, "b": 3})
    (tmp_path / "empty").mkdir()
    (tmp_path / "weightless").mkdir()
    (tmp_path / "weightless" / "config.json").write_text((saved / "config.json").read_text())
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text('{"model_type": "paco"}')
    (tmp_path / "foreign" / "model.safetensors").write_bytes(b"")
    for backbone, message in (
        (str(tmp_path / "none"), "is no folder, and no model of timm's"),
        (str(tmp_path / "empty"), "lacks config.json"),
        (str(tmp_path / "weightless"), "lacks weights (model.safetensors or pytorch_model.bin)"),
        (str(tmp_path / "foreign"), "is not timm's"),
        ("hf://nobody/nothing", "'hf://nobody/nothing' cannot be had from the Hub"),
        ("resnet5O", "unknown backbone 'resnet5O': did you mean"),
    ):
        argv = ["--dataset", str(root), "--backbone", backbone, "--output_dir", str(tmp_path / "run")]
        assert message in complaint(capsys, "train", *argv)


@pytest.mark.parametrize("loss", ["paco", "gpaco", "ce"])
def test_frozen_backbone_stays_as_it_is(loss: str, tmp_path, capsys) -> None:
    root = folders(tmp_path / "photos", {"a": 12, "b": 12})
    argv = ["--dataset", str(root), "--backbone", "cifar_resnet20", "--freeze_backbone", "true", "--loss", loss]
    argv += ["--save_total_limit", "5", "--save_steps", "1", "--max_steps", "4", "--output_dir", str(tmp_path / "run")]
    printed(capsys, *argv)
    first, last = (load_all(tmp_path / "run" / f"checkpoint-{step}") for step in (1, 4))
    moved = {key for key in first if not torch.equal(first[key], last[key])}
    trained = {key for key in first if key.startswith(("classifier.", "projector."))}
    follows = {key for key in first if key.startswith("key_encoder.projector.")}
    backbone = {key for key in first if "backbone." in key}
    assert trained <= moved
    assert moved - follows - {"queue.features", "queue.labels", "queue.pointer"} == trained
    assert not moved & backbone
    assert any("running_mean" in key for key in backbone)
    for key in backbone:
        if key.startswith("key_encoder."):
            assert torch.equal(last[key], last[key.removeprefix("key_encoder.")]), key
    assert all(not last[key].any() for key in backbone if "running_mean" in key)
    (tmp_path / "run" / "metrics.json").unlink()
    for step in (3, 4):
        shutil.rmtree(tmp_path / "run" / f"checkpoint-{step}")
    printed(capsys, *argv, "--resume")
    again = load_all(tmp_path / "run" / "checkpoint-4")
    assert again.keys() == last.keys()
    assert all(torch.equal(last[key], value) for key, value in again.items())


def load_all(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    state = folder / "paco_training_state.safetensors"
    return tensors | (load_file(state) if state.is_file() else {})


# ---- settings for the size of the data


def test_suggested_settings() -> None:
    recipe = suggested_settings(10_847, 32, False)
    assert (recipe["queue_size"], recipe["projection_dim"], recipe["alpha"], recipe["temperature"]) == (
        1024,
        32,
        0.01,
        0.05,
    )
    assert (recipe["batch"], recipe["num_train_epochs"], recipe["learning_rate"]) == (128, 100, 0.1)
    large = suggested_settings(115_846, 224, False)
    assert (large["queue_size"], large["projection_dim"], large["alpha"], large["temperature"]) == (
        8192,
        128,
        0.05,
        0.2,
    )
    assert large["key_momentum"] == 0.999
    few = suggested_settings(600, 224, True)
    assert (few["batch"], few["num_train_epochs"], few["learning_rate"]) == (32, 60, 0.005)
    assert (few["queue_size"], few["key_momentum"], few["warmup_epochs"]) == (256, 0.99, 6)
    assert [suggested_settings(n, 224, True)["batch"] for n in (5, 20, 100, 999, 1000, 5000)] == [
        5,
        8,
        25,
        32,
        64,
        128,
    ]
    assert suggested_settings(600, 224, False)["num_train_epochs"] == 200
    assert suggested_settings(600, 224, False, batch=64)["learning_rate"] == 0.05
    assert suggested_settings(600, 224, False, epochs=50)["warmup_epochs"] == 5
    assert "queue_size" not in suggested_settings(600, 224, False, "ce")
    assert "alpha" not in suggested_settings(600, 224, False, "multitask")


def test_what_is_chosen_is_said_and_flags_win(tmp_path, capsys) -> None:
    root = folders(tmp_path / "photos", {"a": 40, "b": 20})
    argv = ["--dataset", str(root), "--backbone", "cifar_resnet20", "--dry_run"]
    out = printed(capsys, *argv, "--queue_size", "100", "--learning_rate", "0.3")
    line = next(line for line in out.splitlines() if line.startswith("chosen for 43 training images of 2 classes: "))
    assert "num_train_epochs 200" in line
    assert "per_device_train_batch_size 10" in line
    assert "queue_size" not in line
    settings = yaml.safe_load(out[out.index("dataset: ") :])
    assert (settings["queue_size"], settings["learning_rate"], settings["num_train_epochs"]) == (100, 0.3, 200)
    assert (settings["epoch_schedule"], settings["warmup_epochs"], settings["temperature"]) == ("cosine", 20, 0.05)
    out = printed(capsys, *argv, "--recipe", "paco-resnet32-builtin")
    assert "chosen for 4" not in out
    run, args = parse_run(["--dataset", str(root), "--optim", "adamw_torch", "--warmup_steps", "3"])
    assert not run.undecided & {"learning_rate", "epoch_schedule", "warmup_epochs"}
    assert (run.eval_interpolation, args.epoch_schedule) == (None, "none")
    assert parse_run(["--dataset", "builtin"])[0].eval_interpolation == "bilinear"
    assert not parse_run(["--dataset", "cifar100-lt"])[0].undecided


# ---- wrong input


def test_wrong_input_is_one_clear_line(tmp_path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "classless").mkdir()
    noise(1).save(tmp_path / "classless" / "1.png")
    (tmp_path / "imageless" / "cat").mkdir(parents=True)
    (tmp_path / "imageless" / "cat" / "a.heic").write_text("x")
    folders(tmp_path / "one", {"cat": 3})
    folders(tmp_path / "deep" / "animals", {"cat": 2})
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "void.csv").write_text("")
    (tmp_path / "header.csv").write_text("file,label\n")
    (tmp_path / "latin.csv").write_bytes("file,label\na.png,Ñandú\n".encode("latin-1"))
    (tmp_path / "ragged.csv").write_text("file,label\na.png,x,y,z\nb.png,x\n")
    (tmp_path / "web.csv").write_text("file,label\nhttps://x.org/a.png,x\nhttps://x.org/b.png,y\n")
    (tmp_path / "gone.csv").write_text("file,label\n" + "".join(f"{i}.png,{'xy'[i % 2]}\n" for i in range(7)))
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    (tmp_path / "bad.jsonl").write_text('{"file": "a.png", "label": "x"}\n{oops\n')
    out = ["--output_dir", str(tmp_path / "out")]
    for dataset, message in (
        ("empty", "is empty: put the images of each class in a folder of its own"),
        ("classless", "has 1 images but no folders of classes"),
        ("imageless", "has no images in its class folders"),
        ("one", "has one class only ('cat'): a classifier needs at least two"),
        ("deep", "is a folder in the folder of a class"),
        ("notes.txt", "is neither a folder nor a table"),
        ("nothing.csv", "does not exist"),
        ("void.csv", "is empty: its first line should name its columns"),
        ("header.csv", "has no rows"),
        ("latin.csv", "is not UTF-8"),
        ("ragged.csv", "ragged.csv"),
        ("web.csv", "has addresses of images, such as https://x.org/a.png: download them"),
        ("gone.csv", "7 of the 7 images of"),
        ("cut.parquet", "is truncated or no parquet file"),
        ("bad.jsonl", "line 2 of"),
    ):
        assert message in complaint(capsys, "train", "--dataset", str(tmp_path / dataset), *out), dataset
    assert "'0.png', '1.png', '2.png', ..." in complaint(
        capsys, "train", "--dataset", str(tmp_path / "gone.csv"), *out
    )
    assert "names a split of your own data" in complaint(capsys, "train", "--test_split", "x", *out)
    assert "test_fraction must be at least 0" in complaint(capsys, "train", "--test_fraction", "1", *out)
    assert not (tmp_path / "out").exists()


def test_ten_thousand_classes(tmp_path, capsys) -> None:
    for i in range(4):
        noise(i).save(tmp_path / f"{i}.png")
    lines = [f"{(c + k) % 4}.png,species {c:05}" for c in range(10_000) for k in range(1 + c % 4)]
    (tmp_path / "all.csv").write_text("file,species\n" + "\n".join(lines))
    started = time.monotonic()
    out = printed(capsys, "--dataset", str(tmp_path / "all.csv"), "--dry_run", "--backbone", "cifar_resnet20")
    assert "25000 images of 10000 classes" in out
    assert "no test split can be carved" in out
    assert time.monotonic() - started < 30
    first = report(divide(load_data(str(tmp_path / "all.csv")), 0, 0.1, 0.2), [])[0]
    assert "12500 to train on, 5000 for validation (carved), 7500 for the test (carved)" in first
    assert time.monotonic() - started < 40


def test_class_counts_of_own_data(tmp_path, capsys) -> None:
    assert main(["data", "stats", str(table(tmp_path, ["x", "y", "y"])), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"train": [1, 2]}
    assert main(["data", "stats", str(folders(tmp_path / "photos", {"a": 2, "b": 1}))]) == 0
    assert "3 images, 2 classes, 2 to 1 a class" in capsys.readouterr().out


def test_manifest_knows_the_source(tmp_path) -> None:
    data = load_data(str(folders(tmp_path, {"a": 5, "b": 5})))
    source = source_of(data.train)
    data.train = data.train.select(list(range(1, 10)), data.train.name)
    manifest = divide(data, 0, 0.1, 0.2, source=source).manifest
    assert (manifest["source"]["images"], manifest["splits"]["train"]["images"]) == (10, 5)


def test_pretrained_backbones_see_images_of_their_own_size(saved: Path, tmp_path, capsys) -> None:
    argv = ["--dataset", str(folders(tmp_path / "photos", {"a": 4, "b": 4})), "--dry_run"]
    assert "input of test_resnet: 16 x 16" in printed(capsys, *argv, "--backbone", "test_resnet")
    out = printed(capsys, *argv, "--backbone", str(saved))
    assert "96 x 96 pixels" in out
    assert "views: regular, sim" in out
