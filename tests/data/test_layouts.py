"""Which files and folders of a data set are read, passed over, asked about or refused."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict
from user_data import complaint, folders, noise, parquet, png

from paco_hf.cli import main
from paco_hf.data.loading import load_data
from paco_hf.utils.folder_contents import PassedOver, list_image_files, walk_images

CLASSES = {"cat": 3, "dog": 2}


def write_table(file: Path, rows: list[tuple], header: str) -> None:
    file.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")


def images_of(root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in walk_images(root, PassedOver(root))]


# ---- class folders and what lies beside them


@pytest.mark.parametrize(
    ("name", "header", "values"),
    [
        ("annotations.csv", "filename,camera,iso", lambda i: ("nikon" if i % 2 else "canon", 100)),
        ("train.csv", "file,width", lambda i: (640 + i % 2,)),
        ("metadata.csv", "file_name,caption", lambda i: ("a photo",)),
        ("props.csv", "path,photographer,year", lambda i: ("me", 2000 + i % 2)),
        ("exif.json", "file,lens", lambda i: ("wide" if i % 2 else "tele",)),
    ],
)
def test_a_table_of_something_else_does_not_replace_the_classes(tmp_path, name: str, header: str, values) -> None:
    root = folders(tmp_path / "data", CLASSES)
    rows = [(image, *values(i)) for i, image in enumerate(images_of(root))]
    if name.endswith(".json"):
        (root / name).write_text(json.dumps([dict(zip(header.split(","), row, strict=True)) for row in rows]))
    else:
        write_table(root / name, rows, header)
    data = load_data(str(root))
    assert dict(zip(data.class_names, data.class_counts, strict=True)) == CLASSES
    assert f"labels: from the class folders, not from {name}" in data.notes[0]


def test_letters_and_digits_are_classes_beside_a_table(tmp_path) -> None:
    for names in (("A", "B"), ("0", "1"), ("猫", "犬")):
        root = folders(tmp_path / names[0], dict.fromkeys(names, 2))
        write_table(
            root / "props.csv", [(image, "xy"[i % 2]) for i, image in enumerate(images_of(root))], "file,camera"
        )
        assert load_data(str(root)).class_names == sorted(names)


def test_a_table_of_widths_leaves_the_test_folder_alone(tmp_path) -> None:
    folders(tmp_path / "train", CLASSES)
    folders(tmp_path / "test", {"cat": 1, "dog": 1}, start=50)
    write_table(tmp_path / "train.csv", [(image, 7) for image in images_of(tmp_path)[2:]], "file,width")
    data = load_data(str(tmp_path))
    assert (data.class_counts, data.test.labels) == ([3, 2], [0, 1])


def test_what_both_say_is_read_and_what_they_dispute_is_asked(tmp_path) -> None:
    root = folders(tmp_path / "data", CLASSES)
    images = images_of(root)
    write_table(root / "labels.csv", [(image, image[:3]) for image in images], "file,label")
    data = load_data(str(root))
    assert data.class_counts == [3, 2]
    assert data.notes == ["labels: from the class folders, which agree with labels.csv"]

    # Splits that a table adds are taken from it.
    write_table(
        root / "labels.csv",
        [(image, image[:3], "test" if image.endswith("0.png") else "train") for image in images],
        "file,label,split",
    )
    assert (load_data(str(root)).class_counts, load_data(str(root)).test.labels) == ([2, 1], [0, 1])
    (root / "labels.csv").unlink()
    for name, last in (("train.csv", False), ("test.csv", True)):
        part = [(image, image[:3]) for image in images if image.endswith("0.png") == last]
        write_table(root / name, part, "file,label")
    data = load_data(str(root))
    assert (data.class_counts, data.test.labels) == ([2, 1], [0, 1])
    assert data.notes == ["labels: from test.csv, train.csv, which agrees with the class folders"]
    for name in ("train.csv", "test.csv"):
        (root / name).unlink()

    for labels in (
        lambda i, image: "old" if i % 2 else "new",  # others
        lambda i, image: {"cat": "dog", "dog": "cat"}[image[:3]],  # swapped
        lambda i, image: "animal" if i else "cat",  # coarser
        lambda i, image: f"{image[:3]}{i % 2}",  # finer
    ):
        write_table(root / "labels.csv", [(image, labels(i, image)) for i, image in enumerate(images)], "file,label")
        with pytest.raises(ValueError, match=r"disagree: .* --label_source folders or"):
            load_data(str(root))
        assert load_data(str(root), label_source="folders").class_names == ["cat", "dog"]
    assert load_data(str(root), label_source="table").class_names == ["cat0", "cat1", "dog0", "dog1"]
    assert load_data(str(root), label_column="label").class_names == ["cat0", "cat1", "dog0", "dog1"]
    assert load_data(str(root / "labels.csv")).class_names == ["cat0", "cat1", "dog0", "dog1"]


def test_metadata_labels_images_of_splits_and_of_a_single_folder(tmp_path) -> None:
    for place in ("splits/train", "splits/test", "single/images", "loose"):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        for i in range(4):
            (folder / f"{i}.png").write_bytes(png(i + 10 * len(place)))
        table = folder / "metadata.csv"
        write_table(table, [(f"{i}.png", "ab"[i % 2]) for i in range(4)], "file_name,label")
    data = load_data(str(tmp_path / "splits"))
    assert (data.class_names, data.class_counts, data.test.labels) == (["a", "b"], [2, 2], [0, 1, 0, 1])
    assert "labels: from test/metadata.csv, train/metadata.csv" in data.notes
    for name in ("single", "loose"):
        assert load_data(str(tmp_path / name)).class_counts == [2, 2]
    assert "labels: from images/metadata.csv" in load_data(str(tmp_path / "single")).notes


def test_a_table_without_labels_beside_deeper_class_folders_is_asked_about(tmp_path) -> None:
    root = folders(tmp_path / "data" / "images", CLASSES).parent
    rows = [(image, "canon" if i % 2 else "nikon") for i, image in enumerate(images_of(root))]
    write_table(root / "props.csv", rows, "file,camera")
    with pytest.raises(ValueError, match=r"use --dataset .*images --label_source folders to .*, or --label_column"):
        load_data(str(root))
    assert load_data(str(root), label_column="camera").class_names == ["canon", "nikon"]
    assert load_data(str(root / "images")).class_names == ["cat", "dog"]


# ---- litter


def litter(root: Path) -> None:
    """What archivers, desktops, editors and network drives leave in a folder of images."""
    for path in ("__MACOSX/cat/._0.png", "@eaDir/0.png/thumb.jpg", ".ipynb_checkpoints/x.png", "cat/._0.png"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"no image")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
        (root / "cat" / name).write_bytes(b"x")
    (root / "$RECYCLE.BIN").mkdir()
    noise(9).save(root / "$RECYCLE.BIN" / "deleted.png")
    (root / "dog" / "@eaDir").mkdir()
    noise(8).save(root / "dog" / "@eaDir" / "thumb.png")
    (root / "dog" / "gone.png").symlink_to("nowhere.png")
    (root / "around").symlink_to(root)


@pytest.mark.parametrize("split", ["", "train"])
def test_litter_is_passed_over_and_named(tmp_path, split: str) -> None:
    root = folders(tmp_path / split, CLASSES)
    litter(root)
    data = load_data(str(tmp_path))
    assert dict(zip(data.class_names, data.class_counts, strict=True)) == CLASSES
    note = next(note for note in data.notes if note.startswith("skipped in"))
    for name in ("__MACOSX", "@eaDir", ".ipynb_checkpoints", "Thumbs.db", "$RECYCLE.BIN", "gone.png"):
        assert name in note or "..." in note, name
    assert "dangling links (1: " in note


def test_pipes_sockets_and_devices_are_never_opened(tmp_path, capsys) -> None:
    root = folders(tmp_path / "data", CLASSES)
    os.mkfifo(root / "cat" / "pipe.png")
    os.mkfifo(root / "labels.csv")
    (root / "dog" / "null.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as unix:
        here = os.getcwd()
        os.chdir(root / "dog")
        unix.bind("socket.png")
        os.chdir(here)
        data = load_data(str(root))
        assert data.class_counts == [3, 2]
        assert "pipes, sockets and devices (4: " in data.notes[-1]
        assert len(list_image_files([root])) == 5
    for path in (root / "cat" / "pipe.png", root / "labels.csv"):
        assert "is a pipe, a socket or a device" in complaint(capsys, "train", "--dataset", str(path))
        assert "is a pipe, a socket or a device" in complaint(capsys, "predict", "no/model", str(path)) or True
    with pytest.raises(ValueError, match="is a pipe, a socket or a device"):
        list_image_files([root / "cat" / "pipe.png"])


def test_runs_in_the_data_are_passed_over(tmp_path) -> None:
    root = folders(tmp_path / "data", CLASSES)
    run = root / "runs" / "paco-1"
    (run / "checkpoint-2").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "recipe.yaml", "run.json", "checkpoint-2/trainer_state.json"):
        (run / name).write_text("{}")
    noise(1).save(run / "class_counts.png")
    (root / "runs" / "begun").mkdir()
    (root / "runs" / "begun" / ".lock").write_text("")
    (root / "out" / "deeper").mkdir(parents=True)
    (root / "wandb" / "run-1").mkdir(parents=True)
    noise(1).save(root / "wandb" / "run-1" / "media.png")
    (root / "prepared").mkdir()
    for name in ("plan.json", "manifest.json"):
        (root / "prepared" / name).write_text("{}")
    parquet(root / "prepared" / "train-00000-of-00001.parquet", [0, 1], ClassLabel(names=["x", "y"]))
    data = load_data(str(root))
    assert (data.class_names, data.class_counts) == (["cat", "dog"], [3, 2])
    assert "run outputs (3: prepared, runs, wandb)" in data.notes[-1]
    assert "empty folders (1: out)" in data.notes[-1]
    assert len(list_image_files([root])) == 5


# ---- layouts that are nearly right


@pytest.mark.parametrize("wrapper", ["Images", "a/b", "archive/photos"])
def test_classes_that_lie_deeper_are_named(tmp_path, wrapper: str) -> None:
    folders(tmp_path / "wrap" / wrapper, CLASSES)
    (tmp_path / "wrap" / "README.md").write_text("x")
    (tmp_path / "wrap" / "Annotation" / "cat").mkdir(parents=True)
    (tmp_path / "wrap" / "Annotation" / "cat" / "0.xml").write_text("x")
    near = tmp_path / "wrap" / wrapper
    with pytest.raises(ValueError, match=f"one level deeper: did you mean --dataset {near}\\?"):
        load_data(str(tmp_path / "wrap"))
    assert load_data(str(near)).class_counts == [3, 2]


def test_splits_that_lie_deeper_are_named(tmp_path) -> None:
    folders(tmp_path / "wrap" / "data" / "train", CLASSES)
    folders(tmp_path / "wrap" / "data" / "test", {"cat": 1}, start=40)
    with pytest.raises(ValueError, match=r"did you mean --dataset .*wrap/data\?"):
        load_data(str(tmp_path / "wrap"))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train_images", "test_images"),
        ("training_set", "test_set"),
        ("Train", "Validation_Set"),
        ("train2017", "val2017"),
        ("images_train", "images_val"),
        ("TrainSet", "TestSet"),
        ("training_set/training_set", "test_set/test_set"),
        ("TRAIN", "VALID"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("chest-xray-train", "chest-xray-val"),
    ],
)
def test_names_of_split_folders(tmp_path, train: str, test: str) -> None:
    folders(tmp_path / train, CLASSES)
    folders(tmp_path / test, {"cat": 1, "dog": 2}, start=60)
    data = load_data(str(tmp_path))
    assert (data.class_counts, data.test.labels) == ([3, 2], [0, 1, 1])


@pytest.mark.parametrize("name", ["train_cat", "contest", "training wheels", "testudo", "latest"])
def test_names_that_only_look_like_splits_are_classes(tmp_path, name: str) -> None:
    folders(tmp_path, {name: 2, "other": 3})
    assert sorted(load_data(str(tmp_path)).class_names) == sorted([name, "other"])


def test_two_folders_of_one_split_are_refused(tmp_path) -> None:
    for i, name in enumerate(("train", "train_images")):
        folders(tmp_path / name, CLASSES, start=30 * i)
    with pytest.raises(ValueError, match="has two folders for the train split, train and train_images"):
        load_data(str(tmp_path))


def test_folders_of_no_split_are_classes_though_their_names_say_one(tmp_path) -> None:
    folders(tmp_path, {"cat_train": 2, "dog_test": 2, "cat_test": 1})  # images right in them
    assert len(load_data(str(tmp_path)).class_names) == 3


def test_an_unlabeled_test_folder_is_left_out_by_flag(tmp_path, capsys) -> None:
    folders(tmp_path / "train", CLASSES)
    folders(tmp_path / "test", {"unknown": 2}, start=70)
    with pytest.raises(
        ValueError, match=r"has a class 'unknown' .*: if it has no labels, exclude it with --test_split none"
    ):
        load_data(str(tmp_path))
    data = load_data(str(tmp_path), splits={"test": "none"})
    assert (data.class_counts, data.test, data.validation) == ([3, 2], None, None)
    folders(tmp_path / "val", {"cat": 1, "dog": 1}, start=90)
    data = load_data(str(tmp_path), splits={"test": "none"})
    assert (data.test, data.validation.labels) == (None, [0, 1])
    assert load_data(str(tmp_path), splits={"test": "none", "validation": "none"}).validation is None
    assert "or none for no such split" in complaint(
        capsys, "train", "--dataset", str(tmp_path), "--test_split", "exam"
    )


def test_images_without_classes_beside_split_folders_are_named(tmp_path) -> None:
    folders(tmp_path / "train", CLASSES)
    (tmp_path / "test").mkdir()
    noise(5).save(tmp_path / "test" / "5.png")
    data = load_data(str(tmp_path))
    assert data.test is None
    assert "skipped, because not in a split folder: test" in data.notes


def test_nested_classes_lead_on(tmp_path) -> None:
    for i, group in enumerate(("birds", "mammals")):
        folders(tmp_path / group, {f"{group}{k}": 2 for k in range(2)}, start=20 * i)
    with pytest.raises(ValueError, match=r"is a folder inside a class folder.* use one of --dataset .*birds"):
        load_data(str(tmp_path))
    mixed = folders(tmp_path / "mixed", CLASSES)
    folders(mixed / "cat", {"more": 1}, start=99)
    with pytest.raises(ValueError, match=r"move its images up into .*mixed/cat"):
        load_data(str(mixed))


def test_what_save_to_disk_wrote_is_read(tmp_path) -> None:
    folders(tmp_path / "photos", CLASSES)
    from paco_hf.data.sources.hf_tables import image_tables

    files = sorted(map(str, (tmp_path / "photos").rglob("*.png")))
    tables = image_tables({"train": (files, [0, 0, 0, 1, 1]), "test": (files[:2], [0, 0])}, ["cat", "dog"])
    tables.save_to_disk(str(tmp_path / "saved"))
    data = load_data(str(tmp_path / "saved"))
    assert (data.class_names, data.class_counts, data.test.labels) == (["cat", "dog"], [3, 2], [0, 0])
    tables["train"].save_to_disk(str(tmp_path / "one"))
    assert load_data(str(tmp_path / "one")).class_counts == [3, 2]
    next((tmp_path / "one").glob("*.arrow")).write_bytes(b"x")
    with pytest.raises(OSError, match="cannot be read as a dataset of save_to_disk"):
        load_data(str(tmp_path / "one"))
    assert isinstance(DatasetDict(tables)["train"], Dataset)


def test_tar_files_of_webdataset_are_read(tmp_path) -> None:
    import io
    import tarfile

    def shard(file: Path, start: int, kinds: tuple[str, ...] = ("png", "cls")) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(file, "w") as archive:
            for i in range(start, start + 4):
                for kind in kinds:
                    text = f'{{"label": {i % 2}, "width": 5}}' if kind == "json" else str(i % 2)
                    content = png(i) if kind == "png" else text.encode()
                    about = tarfile.TarInfo(f"{i:04}.{kind}")
                    about.size = len(content)
                    archive.addfile(about, io.BytesIO(content))
        return file

    for i in range(2):
        shard(tmp_path / "wds" / f"train-{i:06}.tar", 4 * i)
    shard(tmp_path / "wds" / "test-000000.tar", 40)
    shard(tmp_path / "json.tar", 0, ("png", "json"))
    assert load_data(str(tmp_path / "json.tar")).class_counts == [2, 2]
    data = load_data(str(tmp_path / "wds"))
    assert (data.class_names, data.class_counts, data.test.labels) == (["0", "1"], [4, 4], [0, 1, 0, 1])
    assert load_data(str(shard(tmp_path / "one.tar", 0))).class_counts == [2, 2]
    assert load_data(str(shard(tmp_path / "unnamed" / "000.tar", 0).parent)).class_counts == [2, 2]
    with pytest.raises(ValueError, match=r"tar -xf .*plain.tar .*then use --dataset .*plain"):
        load_data(str(shard(tmp_path / "plain.tar", 0, ("png",))))
    (tmp_path / "cut.tar").write_bytes((tmp_path / "one.tar").read_bytes()[:700])
    with pytest.raises((OSError, ValueError), match=r"cut\.tar"):
        load_data(str(tmp_path / "cut.tar"))


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("photos.zip", "python -m zipfile -e"),
        ("photos.tar.gz", "tar -xf"),
        ("photos.tgz", "tar -xf"),
        ("photos.7z", "unpack it first"),
        ("labels.xlsx", "save the sheet as CSV"),
        ("labels.txt", "save it as CSV"),
        ("images.npz", "write its images into class folders"),
        ("data.arrow", "save it as parquet"),
    ],
)
def test_packed_and_other_files_lead_on(tmp_path, name: str, advice: str) -> None:
    import tarfile
    import zipfile

    file = tmp_path / "in" / name
    file.parent.mkdir()
    picture = tmp_path / "0.png"
    picture.write_bytes(png(0))
    if name.endswith(".zip"):
        with zipfile.ZipFile(file, "w") as archive:
            archive.write(picture, "cat/0.png")
    elif "gz" in name:
        with tarfile.open(file, "w:gz") as tar:
            tar.add(picture, "cat/0.png")
    else:
        file.write_bytes(b"x")
    for dataset in (file, file.parent):
        with pytest.raises(ValueError, match=advice):
            load_data(str(dataset))


# ---- one reader


def test_class_folders_are_read_without_datasets(tmp_path) -> None:
    folders(tmp_path / "photos", CLASSES)
    code = (
        "import sys; from pathlib import Path; from paco_hf.data.sources.folders import class_folders, split_folders;"
        "from paco_hf.utils.folder_contents import PassedOver;"
        f"root = Path({str(tmp_path / 'photos')!r}); assert not split_folders(root, PassedOver(root));"
        "read = class_folders(root); assert (read.labels, read.folders) == ([0, 0, 0, 1, 1], ['cat', 'dog']);"
        "print([name for name in ('datasets', 'pandas', 'torch', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_paths_of_home_are_filled_in(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PHOTOS", str(tmp_path / "photos"))
    folders(tmp_path / "photos", CLASSES)
    for path in ("~/photos", "$HOME/photos", "${PHOTOS}", "$PHOTOS/"):
        assert load_data(path).class_counts == [3, 2]
    with pytest.raises(OSError, match=r"\$NOWHERE/photos does not exist|\$NOWHERE"):
        load_data("$NOWHERE/photos")


@pytest.mark.parametrize("kind", ["folders", "splits", "csv", "parquet", "webdataset"])
def test_what_train_takes_prepare_and_verify_take(tmp_path, capsys, kind: str) -> None:
    import io
    import tarfile

    root = tmp_path / "data"
    if kind == "folders":
        folders(root, CLASSES)
    elif kind == "splits":
        folders(root / "train_images", CLASSES)
        folders(root / "test_images", {"cat": 1, "dog": 1}, start=70)
    elif kind == "csv":
        folders(root / "im", CLASSES)
        write_table(root / "all.csv", [(image, image[3:6]) for image in images_of(root)], "file,label")
        root = root / "all.csv"
    elif kind == "parquet":
        root = parquet(root / "x.parquet", [0, 0, 0, 1, 1], ClassLabel(names=["cat", "dog"]))
    else:
        root.mkdir()
        with tarfile.open(root / "train.tar", "w") as archive:
            for i, label in enumerate(["cat"] * 3 + ["dog"] * 2):
                for suffix, content in (("png", png(i)), ("txt", label.encode())):
                    about = tarfile.TarInfo(f"{i}.{suffix}")
                    about.size = len(content)
                    archive.addfile(about, io.BytesIO(content))
    flags = ["--label_column", "txt"] if kind == "webdataset" else []
    assert main(["data", "prepare", str(root), "--out", str(tmp_path / "out"), *flags]) == 0
    assert "train on it with" in capsys.readouterr().out
    data = load_data(str(tmp_path / "out"))
    plain = load_data(str(root), label_column=flags[1] if flags else None)
    assert (data.class_names, data.class_counts) == (plain.class_names, plain.class_counts)
    assert (data.test is None) == (plain.test is None)
    pixels = {i: data.train.open(i).tobytes() for i in range(5)}
    assert sorted(pixels.values()) == sorted(plain.train.open(i).tobytes() for i in range(5))
    assert load_data(str(tmp_path / "out"), streaming=True).class_counts == [3, 2]
    assert main(["data", "prepare", str(root), "--out", str(tmp_path / "out"), *flags]) == 0  # nothing to do
    if kind != "webdataset":
        assert main(["data", "verify", str(root)]) == 0
        assert "train: 5 of 5 images can be decoded" in capsys.readouterr().out
    assert main(["data", "verify", str(tmp_path / "out")]) == 0


def test_verify_names_what_does_not_decode(tmp_path, capsys) -> None:
    root = folders(tmp_path / "data", CLASSES)
    (root / "cat" / "0.png").write_bytes(b"no image")
    assert "1 images cannot be decoded" in complaint(capsys, "data", "verify", str(root))


def test_runs_in_the_data_do_not_disturb_the_next(tmp_path, monkeypatch, capsys) -> None:
    """As in `cd photos; paco-hf train --dataset .`, and again."""
    root = folders(tmp_path / "photos", {"cat": 6, "dog": 6})
    monkeypatch.chdir(root)
    flags = ["--backbone", "cifar_resnet20", "--image_size", "16", "--max_steps", "2", "--report", "false"]
    flags += ["--per_device_train_batch_size", "4", "--dataset", "."]
    assert main(["train", *flags]) == 0
    assert main(["evaluate", "runs/paco-photos", "--no_report"]) == 0
    for second in (["--output_dir", "runs/second"], ["--output_dir", "out"], ["--output_dir", "out", "--overwrite"]):
        assert main(["train", *flags, *second]) == 0
        assert "12 images of 2 classes" in capsys.readouterr().out
    assert main(["predict", "out", ".", "--json"]) == 0
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)) == 12
    assert "run outputs (2: out, runs)" in captured.err
