"""What a folder, a table or a Hub id of one's own is read as: columns, splits, labels, odd images, wrong input."""

import io
import json
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Value
from PIL import Image
from user_data import complaint, folders, noise, parquet, png, printed, table

from paco_hf.cli import main
from paco_hf.data.image_checks import check_images
from paco_hf.data.images import Images
from paco_hf.data.loading import load_data
from paco_hf.data.splitting import divide, report
from paco_hf.utils.images import open_image

# ---- columns, splits, labels


def test_columns_and_splits_are_inferred(tmp_path) -> None:
    folders(tmp_path / "tree" / "training", {"cat": 3, "dog": 2})
    folders(tmp_path / "tree" / "valid", {"dog": 1, "cat": 1}, start=50)
    data = load_data(str(tmp_path / "tree"))
    assert data.description == "labels: from the class folders; splits: train 'training', test 'valid'"
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
    assert data.description == (
        "columns: image 'file', label 'species'; splits: train 'train', validation 'dev', test 'test'"
    )
    assert [len(s.labels) for s in (data.train, data.validation, data.test)] == [3, 3, 3]
    assert Images(data.test)[0].size == (16, 16)

    # Any other column with repeated values is the label; columns that could both be are not guessed.
    lines = [{"pic": f"images/train{i}.png", "id": i, "kind": "ab"[i % 2]} for i in range(3)]
    (tmp_path / "tables" / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = load_data(str(tmp_path / "tables" / "x.jsonl"))
    assert data.description == "columns: image 'pic', label 'kind' (not used: 'id'); splits: train 'train'"
    lines = [line | {"who": "me"} for line in lines]
    (tmp_path / "tables" / "y.json").write_text(json.dumps(lines))
    with pytest.raises(ValueError, match=r"cannot detect the label column .*pic, id, kind, who\): set --label_column"):
        load_data(str(tmp_path / "tables" / "y.json"))
    assert load_data(str(tmp_path / "tables" / "y.json"), label_column="kind").class_names == ["a", "b"]
    with pytest.raises(ValueError, match="set --image_column"):
        load_data(str(tmp_path / "tables" / "y.json"), image_column="id")

    folders(tmp_path / "single", {"test": 2, "train": 3})
    with pytest.raises(ValueError, match=r"test/, train/ of .* hold images without class folders"):
        load_data(str(tmp_path / "single"))
    assert load_data(str(tmp_path / "single"), label_source="folders").class_names == ["test", "train"]
    folders(tmp_path / "vehicles", {"car": 2, "train": 3})
    assert load_data(str(tmp_path / "vehicles")).class_names == ["car", "train"]
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
    assert "3 integers from 1 to 10" in numbers.notes[0]
    plain = load([1, 0, 1], Value("int32"))
    assert (plain.class_names, plain.notes) == (["0", "1"], [])
    assert load([True, False], Value("bool")).class_names == ["False", "True"]
    assert load([0.0, 1.0], Value("float32")).train.labels == [0, 1]
    assert load([" x", "x ", "X"], Value("string")).class_names == ["X", "x"]
    assert "'X' and 'x'" in load([" x", "x ", "X"], Value("string")).notes[-1]
    assert load(["e\u0301", "\u00e9", "z"], Value("string")).class_names == ["z", "\u00e9"]
    dropped = load([2, 0, 2], ClassLabel(names=["c", "b", "a"]))
    assert (dropped.class_names, dropped.train.labels) == (["c", "a"], [1, 0, 1])
    assert "1 of the 3 classes have no training images and are excluded, such as 'b'" in dropped.notes[0]
    assert load(["None", "NA", "null"], Value("string")).class_names == ["NA", "None", "null"]
    for labels, feature, message in (
        (
            ["a", None, "", "b"],
            Value("string"),
            "2 of the 4 rows of .* have no label in 'label', the first is row 1",
        ),
        ([0.5, 1.0], Value("float64"), "contains 0.5, which is not a class"),
        ([0, -1, 1], Value("int64"), "label -1 of row 1"),
        ([["a"], ["b"]], [Value("string")], "must contain one class per image"),
        (["a", "a"], Value("string"), r"only one class \('a'\): a classifier needs at least two"),
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
    with pytest.raises(ValueError, match=r"contains 0\.5"):
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
    assert "several folders for the class 'cat'" in data.notes[0]
    assert "differ only in case" in data.notes[1]


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
    assert data.test is None
    assert "the split 'test' has no column 'species' and is skipped" in data.notes
    with pytest.raises(ValueError, match=r"'test' of .* has a class 'elk' that is not in its train split"):
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

    color = Image.new("RGB", (16, 8), (200, 30, 90))
    color.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    assert np.abs(np.asarray(open_image(tmp_path / "cmyk.jpg", "")).astype(int) - [200, 30, 90]).max() < 12
    clear = color.convert("RGBA")
    clear.putalpha(0)
    clear.save(tmp_path / "clear.png")
    assert np.array_equal(np.asarray(open_image(tmp_path / "clear.png", "")), np.asarray(color))
    color.convert("P").save(tmp_path / "palette.png", transparency=0)
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


# ---- tables


def test_a_table_beside_folders_of_images(tmp_path) -> None:
    table(tmp_path / "a", ["x", "y", "x"], "labels.csv")
    data = load_data(str(tmp_path / "a"))
    assert (data.class_names, data.notes) == (["x", "y"], ["labels: from labels.csv"])
    content = (tmp_path / "a" / "labels.csv").read_text().replace("images/", "")
    (tmp_path / "a" / "labels.csv").write_text(content)
    assert load_data(str(tmp_path / "a")).class_names == ["x", "y"]
    folders(tmp_path / "b", {"cat": 2, "dog": 2})
    (tmp_path / "b" / "labels.csv").write_text("file,label\nelsewhere.png,x\n")
    data = load_data(str(tmp_path / "b"))
    assert data.class_names == ["cat", "dog"]
    assert data.notes == [
        "labels: from the class folders, not from labels.csv: no column of labels.csv contains names of "
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
    assert data.description == (
        "columns: image 'file', label 'species', split 'split' (not used: 'id', 'by'); splits: train 'train', "
        "validation 'validation', test 'test'"
    )
    assert [split.files[0][-8:] for split in (data.train, data.validation, data.test)] == [
        "all0.png",
        "all2.png",
        "all4.png",
    ]
    assert Images(data.test)[0].size == (16, 16)
    # What has no usual name is left out, unless a flag names it; it is not trained on.
    file.write_text(file.read_text().replace(",test,", ",holdout,"))
    data = load_data(str(file))
    assert (len(data.train.labels), data.description[-21:]) == (2, "; not used: 'holdout'")
    assert load_data(str(file), splits={"test": "holdout"}).test.files[0].endswith("all4.png")
    assert load_data(str(file), splits={"train": "holdout"}).train.files[0].endswith("all4.png")
    file.write_text(file.read_text().replace(",holdout,4", ",,4"))
    with pytest.raises(ValueError, match=r"1 of the 6 rows have no split in the column 'split', .* is row 4"):
        load_data(str(file))
    file.write_text(file.read_text().replace(",split,", ",notes,"))
    assert len(load_data(str(file)).train.labels) == 6


def test_names_of_files_that_say_no_split(tmp_path) -> None:
    # "test" is in these names, but is no word of them.
    for name in ("labels_latest.csv", "contest.csv"):
        assert len(load_data(str(table(tmp_path, ["x", "y"], name))).train.labels) == 2
    for name, labels in (("trainset.csv", ["x", "y"]), ("test_data.csv", ["x"]), ("holdout.csv", ["y"])):
        table(tmp_path / "more", labels, name)
    data = load_data(str(tmp_path / "more"))
    assert (len(data.train.labels), len(data.test.labels)) == (2, 1)
    assert data.notes[0] == "not read: holdout.csv (no split in its name)"


def test_kinds_of_files(tmp_path, capsys) -> None:
    root = folders(tmp_path / "photos", {"a": 2, "b": 1})
    for suffix in ("jfif", "JPE", "avif", "jp2", "pgm", "tga"):
        noise(1).convert("L" if suffix == "pgm" else "RGB").save(root / "b" / f"1.{suffix}")
    (root / "b" / "notes.txt").write_text("x")
    (root / "b" / "phone.heic").write_text("x")
    data = load_data(str(root))
    assert data.class_counts == [2, 7]
    assert data.notes == [
        "1 HEIC image skipped in the class folders of photos, such as b/phone.heic: save it as JPEG or PNG",
        "1 file skipped in the class folders of photos, not images (.txt)",
    ]
    check_images(data)  # all of them decode
    # Neither a file of something else nor a folder of texts makes another data set of it.
    pq.write_table(pa.table({"embedding": [[0.5, 1.0]]}), root / "embeddings.parquet")
    (root / "docs").mkdir()
    (root / "docs" / "about.md").write_text("x")
    data = load_data(str(root))
    assert data.class_counts == [2, 7]
    assert any("labels: from the class folders, not from embeddings.parquet" in note for note in data.notes)


# ---- wrong input


def test_wrong_input_is_one_clear_line(tmp_path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "classless").mkdir()
    noise(1).save(tmp_path / "classless" / "1.png")
    (tmp_path / "imageless" / "cat").mkdir(parents=True)
    (tmp_path / "imageless" / "cat" / "a.heic").write_text("x")
    (tmp_path / "wordless" / "cat").mkdir(parents=True)
    (tmp_path / "wordless" / "cat" / "a.txt").write_text("x")
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
    (tmp_path / "headless.csv").write_text("0.png,x\n1.png,y\n")
    lines = [f"{i}.png\t" + '"' * (i in (1, 4)) + "xy"[i % 2] for i in range(6)]
    (tmp_path / "open.tsv").write_text("\n".join(["file\tlabel", *lines]))
    (tmp_path / "infinite.json").write_text(json.dumps([{"file": "a.png", "label": v} for v in (0.0, 1.0, np.inf)]))
    (tmp_path / "twice.csv").write_text("file,label,label \na.png,x,y\n")
    (tmp_path / "bad.jsonl").write_text('{"file": "a.png", "label": "x"}\n{oops\n')
    out = ["--output_dir", str(tmp_path / "out")]
    for dataset, message in (
        ("empty", "is empty: put the images of each class in a separate folder"),
        ("classless", "has 1 images but no class folders"),
        ("imageless", "images of the class 'cat' of imageless are in an unsupported format (.heic)"),
        ("wordless", "has no images in its class folders"),
        ("one", "has only one class ('cat'): a classifier needs at least two"),
        ("deep", "is a folder inside a class folder"),
        ("notes.txt", "is neither a folder nor a table"),
        ("nothing.csv", "does not exist"),
        ("void.csv", "is empty: its first line must contain the column names"),
        ("header.csv", "has no rows"),
        ("latin.csv", "is not UTF-8"),
        ("ragged.csv", "ragged.csv"),
        ("web.csv", "contains URLs of images, such as https://x.org/a.png: download the images"),
        ("gone.csv", "7 of the 7 images of"),
        ("cut.parquet", "is truncated or not a parquet file"),
        ("bad.jsonl", "line 2 of"),
        ("headless.csv", "must contain the column names, but contains the image '0.png'"),
        ("open.tsv", "has a label with line breaks or tabs"),
        ("infinite.json", "contains inf, which is not a class"),
        ("twice.csv", "has two columns 'label'"),
    ):
        assert message in complaint(capsys, "train", "--dataset", str(tmp_path / dataset), *out), dataset
    assert "'0.png', '1.png', '2.png', ..." in complaint(
        capsys, "train", "--dataset", str(tmp_path / "gone.csv"), *out
    )
    assert "selects a split of your own data" in complaint(capsys, "train", "--test_split", "x", *out)
    for flags, message in (
        (["--test_fraction", "1"], "test_fraction must be at least 0"),
        (["--test_fraction", "0.1"], "builtin has a test split: remove the flag"),
        (["--test_min_images", "3"], "--test_min_images splits test images off from your own data, but builtin has"),
        (["--test_min_images", "0"], "test_min_images must be at least 1, got 0"),
        (["--seed", "-1"], "seed must be at least 0, got -1"),
        (["--split_seed", "-1"], "split_seed must be at least 0, got -1"),
        (["--skip_undecodable", "true"], "use --inspect full, or remove the flag"),
        (["--skip_undecodable", "true", "--inspect", "false"], "but --inspect is none"),
        (["--imbalance_factor", "10"], "has no effect on builtin: remove the flag"),
        (["--dataset", ""], "--dataset is empty"),
    ):
        assert message in complaint(capsys, "train", *flags, *out), flags
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("classes", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_thousands_of_classes(tmp_path, capsys, no_rehearsal, classes: int) -> None:
    for i in range(4):
        noise(i).save(tmp_path / f"{i}.png")
    lines = [f"{(c + k) % 4}.png,species {c:05}" for c in range(classes) for k in range(1 + c % 4)]
    (tmp_path / "all.csv").write_text("file,species\n" + "\n".join(lines))
    # Of processor time, which other processes do not lengthen.
    started = time.process_time()
    out = printed(capsys, "--dataset", str(tmp_path / "all.csv"), "--dry_run", "--backbone", "cifar_resnet20")
    images = 5 * classes // 2
    assert f"{images} images of {classes} classes" in out
    assert f"only 0 of {classes} classes have 5 or more images with one without an exact copy, fewer than half" in out
    assert time.process_time() - started < 3 + 27 * classes / 10_000
    first = report(divide(load_data(str(tmp_path / "all.csv")), 0, 0.1, 0.2), [])[0]
    parts = (
        f"{images // 2} for training, {images // 5} for validation (split off), {3 * images // 10} for "
        "testing (split off)"
    )
    assert parts in first
    assert time.process_time() - started < 4 + 36 * classes / 10_000


def test_class_counts_of_own_data(tmp_path, capsys) -> None:
    assert main(["data", "stats", str(table(tmp_path, ["x", "y", "y"])), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"train": [1, 2]}
    assert main(["data", "stats", str(folders(tmp_path / "photos", {"a": 2, "b": 1}))]) == 0
    assert "3 images, 2 classes, 2 to 1 images per class" in capsys.readouterr().out
