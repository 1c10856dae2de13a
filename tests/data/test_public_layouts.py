"""Layouts and tables as public data sets, competitions and other programs have them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel
from user_data import folders, parquet, png

from paco_hf.data.loading import load_data
from paco_hf.inference.unlabeled import find_images

CLASSES = {"cat": 3, "dog": 3}


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(sum(map(ord, name))))
    return root


def csv(file: Path, header: str, rows: list[str]) -> None:
    file.write_text("\n".join([header, *rows]) + "\n")


def read(root: Path, **fields) -> dict[str, list[str]]:
    """The classes of the images of each split."""
    splits = load_data(str(root), **fields).splits
    return {role: [split.class_names[label] for label in split.labels] for role, split in splits.items()}


# ---- what would be silently wrong


def test_shards_with_classes_in_another_order_are_refused(tmp_path) -> None:
    parquet(tmp_path / "train-00000-of-00002.parquet", [0, 0, 1], ClassLabel(names=["cat", "dog"]))
    for names in (["dog", "cat"], ["cat", "dog", "eel"]):
        parquet(tmp_path / "train-00001-of-00002.parquet", [0, 0, 1], ClassLabel(names=names))
        with pytest.raises(ValueError, match="for the same split, but differ in the column 'label'"):
            load_data(str(tmp_path))
    table = pq.read_table(tmp_path / "train-00000-of-00002.parquet").append_column("x", pa.array([1, 2, 3]))
    pq.write_table(table, tmp_path / "train-00001-of-00002.parquet")
    with pytest.raises(ValueError, match=r"differ in the column 'x' \(missing, int64\)"):
        load_data(str(tmp_path))


def test_configurations_of_a_data_set_are_not_merged(tmp_path) -> None:
    for name, classes in (("a", ["cat", "dog"]), ("b", ["red", "blue"])):
        parquet(tmp_path / name / "train-00000-of-00001.parquet", [0, 1, 1], ClassLabel(names=classes))
    with pytest.raises(ValueError, match=r"parquet files of the train split in .*a and in .*b: pass one of these"):
        load_data(str(tmp_path))


@pytest.mark.parametrize(
    "names", [("HAM10000_images_part_1", "HAM10000_images_part_2"), ("partA", "partB"), ("fold1", "fold2")]
)
def test_halves_of_the_images_are_no_classes(tmp_path, names: tuple[str, str]) -> None:
    make(tmp_path, *(f"{names[i % 2]}/ISIC_{i}.jpg" for i in range(6)))
    csv(tmp_path / "meta.csv", "lesion,image_id,dx,sex", [f"L{i},ISIC_{i},{'ab'[i % 3 == 0]},m" for i in range(6)])
    with pytest.raises(ValueError, match="--label_column"):
        load_data(str(tmp_path))
    assert read(tmp_path, label_column="dx") == {"train": ["b", "a", "a", "b", "a", "a"]}


def test_a_missing_image_is_not_taken_from_another_split(tmp_path) -> None:
    make(tmp_path, *(f"train/{i}.jpg" for i in range(5)), "test/5.jpg")
    csv(tmp_path / "train.csv", "file,label", [f"{i}.jpg,{'ab'[i % 2]}" for i in range(6)])
    with pytest.raises(ValueError, match=r"1 of the 6 images of .* are not in .*: '5\.jpg'"):
        load_data(str(tmp_path))


def test_parquet_of_something_else_does_not_replace_a_table(tmp_path) -> None:
    make(tmp_path, *(f"images/{i}.jpg" for i in range(4)))
    csv(tmp_path / "train.csv", "file,label", [f"images/{i}.jpg,{'ab'[i % 2]}" for i in range(4)])
    clusters = pa.table({"file": [f"images/{i}.jpg" for i in range(4)], "cluster": [0, 0, 0, 1]})
    pq.write_table(clusters, tmp_path / "embeddings.parquet")
    assert read(tmp_path) == {"train": ["a", "b", "a", "b"]}
    assert "not read: embeddings.parquet (no split in its name)" in load_data(str(tmp_path)).notes


def test_a_test_that_tables_add_is_read(tmp_path) -> None:
    """As GTSRB has it: class folders to train on, a table for the test."""
    folders(tmp_path / "Train", {"0": 2, "1": 2})
    make(tmp_path, "Test/000.png", "Test/001.png")
    csv(tmp_path / "Train.csv", "Width,ClassId,Path", [f"9,{c},Train/{c}/{i}.png" for c in (0, 1) for i in (0, 1)])
    csv(tmp_path / "Test.csv", "Width,ClassId,Path", ["9,1,Test/000.png", "9,0,Test/001.png"])
    assert read(tmp_path) == {"train": ["0", "0", "1", "1"], "test": ["1", "0"]}
    (tmp_path / "Train.csv").unlink()
    assert any("WARNING: Test.csv has images of the test split" in note for note in load_data(str(tmp_path)).notes)


@pytest.mark.parametrize("kind", ["column", "files"])
def test_splits_of_tables_beside_class_folders(tmp_path, kind: str) -> None:
    folders(tmp_path, CLASSES)
    images = [f"{name}/{i}.png" for name in CLASSES for i in range(3)]
    if kind == "column":
        csv(
            tmp_path / "about.csv",
            "file,split",
            [f"{file},{'test' if file[4] == '2' else 'train'}" for file in images],
        )
    else:
        csv(tmp_path / "train.csv", "file", [file for file in images if file[4] != "2"])
        csv(tmp_path / "test.csv", "file", [file for file in images if file[4] == "2"])
    assert read(tmp_path) == {"train": ["cat", "cat", "dog", "dog"], "test": ["cat", "dog"]}


def test_lists_of_splits_that_are_not_read_are_named(tmp_path) -> None:
    folders(tmp_path, CLASSES)
    (tmp_path / "test.txt").write_text("cat/0.png\n")
    assert any("WARNING: test.txt may list the splits" in note for note in load_data(str(tmp_path)).notes)


@pytest.mark.parametrize(
    ("header", "values"),
    [
        ("set", ("train", "test")),
        ("phase", ("Training", "Testing")),
        ("is_test", ("False", "True")),
        ("data set", ("train", "test")),
    ],
)
def test_columns_that_say_the_split(tmp_path, header: str, values: tuple[str, str]) -> None:
    make(tmp_path, *(f"{i}.jpg" for i in range(6)))
    csv(tmp_path / "all.csv", f"file,label,{header}", [f"{i}.jpg,{'ab'[i % 2]},{values[i > 3]}" for i in range(6)])
    assert read(tmp_path) == {"train": ["a", "b", "a", "b"], "test": ["a", "b"]}


def test_a_column_of_unusual_splits_is_named(tmp_path) -> None:
    make(tmp_path, *(f"{i}.jpg" for i in range(6)))
    csv(tmp_path / "all.csv", "file,label,split", [f"{i}.jpg,{'ab'[i % 2]},{int(i > 3)}" for i in range(6)])
    assert any("WARNING: the column 'split' contains 0, 1" in note for note in load_data(str(tmp_path)).notes)
    assert read(tmp_path, splits={"train": "0", "test": "1"})["test"] == ["a", "b"]
    csv(
        tmp_path / "train.csv",
        "file,label,split",
        [f"{i}.jpg,{'ab'[i % 2]},{('train', 'val')[i > 1]}" for i in range(4)],
    )
    csv(tmp_path / "test.csv", "file,label", [f"{i}.jpg,{'ab'[i % 2]}" for i in (4, 5)])
    (tmp_path / "all.csv").unlink()
    assert read(tmp_path) == {"train": ["a", "b"], "validation": ["a", "b"], "test": ["a", "b"]}


def test_masks_are_not_taken_for_the_images(tmp_path) -> None:
    make(tmp_path, *(f"{folder}/{i}.png" for folder in ("images", "masks") for i in range(4)))
    csv(tmp_path / "labels.csv", "id,label", [f"{i},{'ab'[i % 2]}" for i in range(4)])
    data = load_data(str(tmp_path))
    assert {Path(file).parent.name for file in data.train.files} == {"images"}
    assert any("skipped 4 images of the folder that are in no table" in note for note in data.notes)


# ---- what is plain, and read


def test_tables_of_competitions(tmp_path) -> None:
    make(tmp_path, *(f"train/{i}.jpg" for i in range(6)), *(f"test/{i}.jpg" for i in range(3)))
    csv(tmp_path / "train_labels.csv", "name,invasive", [f"{i},{i % 2}" for i in range(6)])
    csv(tmp_path / "sample_submission.csv", "name,invasive", ["0,0.5", "1,0.5"])
    (tmp_path / "package.json").write_text('{"name": "x"}')
    assert read(tmp_path) == {"train": ["0", "1"] * 3}


@pytest.mark.parametrize("kind", ["one-hot", "coco", "csv"])
def test_tables_in_the_folders_of_splits(tmp_path, kind: str) -> None:
    for split in ("train", "valid", "test"):
        make(tmp_path, *(f"{split}/{split}{i}.jpg" for i in range(4)))
        names = [f"{split}{i}.jpg" for i in range(4)]
        if kind == "one-hot":
            csv(
                tmp_path / split / "_classes.csv",
                "filename, a, b",
                [f"{n}, {1 - i % 2}, {i % 2}" for i, n in enumerate(names)],
            )
        elif kind == "csv":
            csv(tmp_path / split / "labels.csv", "file,label", [f"{n},{'ab'[i % 2]}" for i, n in enumerate(names)])
        else:
            content = {
                "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
                "annotations": [{"image_id": i, "category_id": i % 2} for i in range(4)],
                "categories": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}],
            }
            (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(content))
    assert read(tmp_path) == {split: ["a", "b", "a", "b"] for split in ("train", "validation", "test")}


def test_splits_of_other_names_by_flag(tmp_path) -> None:
    for i, name in enumerate(("treino", "teste")):
        folders(tmp_path / name, CLASSES, start=20 * i)
    chosen = {"train": "treino", "test": "teste"}
    assert {role: len(labels) for role, labels in read(tmp_path, splits=chosen).items()} == {"train": 6, "test": 6}
    folders(tmp_path / "two" / "train_1", CLASSES, start=50)
    folders(tmp_path / "two" / "train_2", CLASSES, start=70)
    with pytest.raises(ValueError, match="two folders for the train split"):
        load_data(str(tmp_path / "two"))
    assert len(read(tmp_path / "two", splits={"train": "train_2"})["train"]) == 6


@pytest.mark.parametrize(
    "text",
    [
        ",file,label\n0,0.jpg,a\n1,1.jpg,b\n2,2.jpg,a\n3,3.jpg,b\n",
        "file,label,,\n0.jpg,a,,\n1.jpg,b,,\n2.jpg,a,,\n3.jpg,b,,\n",
        "file,label\n0.jpg,a,\n1.jpg,b,\n2.jpg,a,\n3.jpg,b,\n",
        "id,label\n0,0\n1,1\n2,0\n3,1\n",
    ],
)
def test_tables_of_pandas_and_excel(tmp_path, text: str) -> None:
    make(tmp_path, *(f"{i}.jpg" for i in range(4)))
    (tmp_path / "all.csv").write_text(text)
    names = read(tmp_path)["train"]
    assert names in (["a", "b", "a", "b"], ["0", "1", "0", "1"])


def test_two_columns_of_one_name_are_refused(tmp_path) -> None:
    make(tmp_path, "0.jpg", "1.jpg")
    csv(tmp_path / "all.csv", "file,label,label", ["0.jpg,a,b", "1.jpg,b,a"])
    with pytest.raises(ValueError, match="has two columns 'label'"):
        load_data(str(tmp_path))
    (tmp_path / "all.csv").unlink()
    (tmp_path / "all.json").write_text('{"0.jpg": "a", "1.jpg": "b", "0.jpg": "b"}')
    with pytest.raises(ValueError, match=r"has the key '0.jpg' twice"):
        load_data(str(tmp_path / "all.json"))


def test_links_to_the_same_data_are_passed_over(tmp_path) -> None:
    root = folders(tmp_path / "data", {"cat": 2, "dog": 2})
    (root / "kitty").symlink_to(root / "cat")
    (root / "bird").symlink_to(folders(tmp_path / "elsewhere", {"bird": 3}) / "bird")  # which is none of it
    for one, other in (("x", "y"), ("y", "x")):
        (root / one).mkdir(exist_ok=True)
        for i in range(3):
            (root / one / f"l{i}").symlink_to(f"../{other}")
    data = load_data(str(root))
    assert (data.class_names, data.class_counts, len(find_images([root]))) == (["bird", "cat", "dog"], [3, 2, 2], 7)
    assert "links to folders of the same dataset (1: kitty)" in data.notes[0]


def test_folders_that_are_only_links_to_each_other_end(tmp_path) -> None:
    for one, other in (("x", "y"), ("y", "x")):
        (tmp_path / "out" / one).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "out" / one / f"l{i}").symlink_to(f"../{other}")
    root = folders(tmp_path / "data", {"cat": 2})
    (root / "dog").symlink_to(tmp_path / "out" / "x")
    assert len(find_images([root])) == 2


def test_packed_images_win_over_a_picture_beside_them(tmp_path) -> None:
    parquet(tmp_path / "data" / "train-00000-of-00001.parquet", [0, 1, 1], ClassLabel(names=["cat", "dog"]))
    make(tmp_path, "assets/example.png")
    assert read(tmp_path) == {"train": ["cat", "dog", "dog"]}
    assert len(find_images([tmp_path])) == 3


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/images/0.jpg", "b/images/1.jpg"], "move the images of each images/ up"),
        (
            ["a/train/0.jpg", "a/test/1.jpg", "b/train/2.jpg", "b/test/3.jpg"],
            "put the split folders above the class folders",
        ),
        (["images/x/a/0.jpg", "images/x/b/1.jpg", "annotations/x/a/0.xml"], "did you mean --dataset .*images/x"),
    ],
)
def test_nested_folders_lead_on(tmp_path, names: list[str], message: str) -> None:
    make(tmp_path, *names)
    with pytest.raises(ValueError, match=message):
        load_data(str(tmp_path))


def test_many_namesakes_are_told_apart_fast(tmp_path) -> None:
    import time

    for i in range(60):
        (tmp_path / f"c{i}").mkdir()
        for k in range(50):
            (tmp_path / f"c{i}" / f"{k}.jpg").write_bytes(b"x")
    csv(tmp_path / "all.csv", "file,label", [f"c{i}\\{k}.jpg,c{i}" for i in range(60) for k in range(50)])
    started = time.process_time()
    assert len(load_data(str(tmp_path / "all.csv")).train.labels) == 3000
    assert time.process_time() - started < 5


def test_several_tables_of_something_else_beside_class_folders(tmp_path) -> None:
    folders(tmp_path, CLASSES)
    images = [f"{name}/{i}.png" for name in CLASSES for i in range(3)]
    for table in ("camera.csv", "weather.csv"):
        csv(tmp_path / table, "file,kind", [f"{file},{'ab'[i % 2]}" for i, file in enumerate(images)])
    assert read(tmp_path) == {"train": ["cat"] * 3 + ["dog"] * 3}
    (tmp_path / "flat").mkdir()
    make(tmp_path / "flat", *(f"im/{i}.png" for i in range(4)))
    for table in ("camera.csv", "weather.csv"):
        csv(tmp_path / "flat" / table, "file,kind", [f"im/{i}.png,{'ab'[i % 2]}" for i in range(4)])
    with pytest.raises(ValueError, match=r"has several tables of images, camera\.csv, weather\.csv: pass one"):
        load_data(str(tmp_path / "flat"))
