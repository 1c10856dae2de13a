"""Tables as people have them are read, or refused with what to do."""

import json
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel
from user_data import folders, noise, parquet, png

from paco_hf.data.loading import load_data

IMAGES = ["im/cat/000.png", "im/cat/001.png", "im/cat/002.png", "im/dog/000.png", "im/dog/001.png"]
LABELS = ["cat", "cat", "cat", "dog", "dog"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i, name in enumerate(IMAGES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(i))
    return tmp_path


def lines(names: list[str], header: str = "file,label", separator: str = ",") -> str:
    rows = [separator.join(row) for row in zip(names, LABELS, strict=True)]
    return "\n".join([header.replace(",", separator), *rows]) + "\n"


def upper(name: str) -> str:
    return name.replace(".png", ".PNG")


def bare(name: str) -> str:
    return name.removesuffix(".png")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("ids.csv", lines([*map(bare, IMAGES)], "image_id,dx")),
        ("backslash.csv", lines([name.replace("/", "\\") for name in IMAGES])),
        ("upper.csv", lines([*map(upper, IMAGES)])),
        ("mixed.csv", lines([name.replace("cat", "Cat") for name in IMAGES])),
        ("spaces.csv", lines([f"{name} " for name in IMAGES], " file , label ").replace(",cat", ", cat ")),
        ("excel.csv", "sep=;\n" + lines(IMAGES, separator=";")),
        ("excel2.csv", '"sep=|"\n' + lines(IMAGES, separator="|")),
        ("pipe.csv", lines(IMAGES, separator="|")),
        ("tabs.csv", lines(IMAGES, separator="\t")),
        ("blank.csv", lines(IMAGES) + ",\n , \n"),
        ("above.csv", "\n\n" + lines(IMAGES)),
        ("crlf.csv", lines(IMAGES).replace("\n", "\r\n")),
        ("bom.csv", "\ufeff" + lines(IMAGES)),
        ("quoted.csv", lines([f'"{name}"' for name in IMAGES])),
        ("dot.csv", lines([f"./{name}" for name in IMAGES])),
        ("onehot.csv", "file,cat,dog\n" + "".join(f"{n},{int('cat' in n)},{int('dog' in n)}\n" for n in IMAGES)),
        ("parent.csv", "PARENT"),
        ("mapping.json", json.dumps(dict(zip(IMAGES, LABELS, strict=True)))),
        ("lists.json", json.dumps({"cat": IMAGES[:3], "dog": IMAGES[3:]})),
        ("columns.json", json.dumps({"file": IMAGES, "label": LABELS})),
        ("rows.jsonl", "\n".join(json.dumps({"file": n, "label": c}) for n, c in zip(IMAGES, LABELS, strict=True))),
        (
            "coco.json",
            json.dumps(
                {
                    "info": {},
                    "images": [{"id": i, "file_name": name} for i, name in enumerate(IMAGES)],
                    "annotations": [
                        {"image_id": i, "category_id": int(c == "dog"), "bbox": [0, 0, 1, 1]}
                        for i, c in [*enumerate(LABELS), (0, "cat")]
                    ],
                    "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
                }
            ),
        ),
    ],
)
def test_it_is_read(root: Path, file: str, text: str) -> None:
    text = lines([f"{root.name}/{name}" for name in IMAGES]) if text == "PARENT" else text
    (root / file).write_bytes(text.encode())
    for dataset in (root / file, root):
        data = load_data(str(dataset))
        named = {
            str(Path(f).relative_to(root)): data.class_names[c]
            for f, c in zip(data.train.files, data.train.labels, strict=True)
        }
        assert named == dict(zip(IMAGES, LABELS, strict=True)), dataset


def test_accents_of_either_form(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / unicodedata.normalize("NFD", f"é{i}.png")).write_bytes(png(i))
    rows = "".join(f"{unicodedata.normalize('NFC', f'é{i}.png')},{'ab'[i % 2]}\n" for i in range(4))
    (tmp_path / "all.csv").write_text("file,label\n" + rows)
    assert load_data(str(tmp_path / "all.csv")).class_counts == [2, 2]


def test_images_in_several_folders_are_found_by_their_ids(tmp_path: Path) -> None:
    """As HAM10000 has them: a table of ids beside two folders of images."""
    for i in range(6):
        folder = tmp_path / f"images_part_{1 + i % 2}"
        folder.mkdir(exist_ok=True)
        (folder / f"ISIC_{i}.jpg").write_bytes(png(i))
    (tmp_path / "metadata.csv").write_text(
        "lesion_id,image_id,dx,age\n" + "".join(f"L{i},ISIC_{i},{'nv' if i < 4 else 'mel'},{i}\n" for i in range(6))
    )
    data = load_data(str(tmp_path))
    assert (data.class_names, data.class_counts) == (["mel", "nv"], [2, 4])
    assert any("6 file names were matched to a file that differs" in note for note in data.notes)
    with pytest.raises(ValueError, match="cannot detect the image column"):  # of the file alone
        load_data(str(tmp_path / "metadata.csv"))
    with pytest.raises(ValueError, match=r"or use --dataset .* if all its images belong to the dataset"):
        load_data(str(tmp_path / "metadata.csv"), image_column="image_id")


def test_a_name_that_may_mean_two_files_is_refused(root: Path) -> None:
    (root / "all.csv").write_text("file,label\n000.png,a\n001.png,b\n002.png,b\n")
    with pytest.raises(
        ValueError, match=r"'001.png' may refer to .* or .*: write paths relative to|'000.png' may refer to"
    ):
        load_data(str(root), label_column="label")
    (root / "im" / "cat" / "000.PNG").write_bytes(png(77))
    (root / "all.csv").write_text(lines([name.replace("000.png", "000.Png") for name in IMAGES]))
    with pytest.raises(ValueError, match=r"im/cat/000.Png' may refer to im/cat/000"):
        load_data(str(root / "all.csv"))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "multi.csv",
            "file,label\n" + "".join(f'{n},"{c}"\n' for n, c in zip(IMAGES, ["a", "b", "a,b", "a", "b"], strict=True)),
            "several labels joined",
        ),
        (
            "zero.csv",
            lines(IMAGES).replace("001.png,cat", "001.png,cat\u200b"),
            "only in white space or invisible characters",
        ),
        ("hot.csv", "file,cat,dog\n" + "".join(f"{n},1,{i % 2}\n" for i, n in enumerate(IMAGES)), "multi-label"),
        (
            "coco.json",
            json.dumps(
                {
                    "images": [{"id": 0, "file_name": IMAGES[0]}],
                    "annotations": [{"image_id": 0, "category_id": k} for k in (0, 1)],
                    "categories": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}],
                }
            ),
            "objects of several categories",
        ),
        (
            "coco2.json",
            json.dumps({"images": [{"file_name": IMAGES[0]}], "annotations": [], "categories": []}),
            "not in COCO format",
        ),
        ("latin.csv", None, "is not UTF-8"),
        (
            "headless.csv",
            lines([*map(bare, IMAGES)]).partition("\n")[2],
            "must contain the column names, but contains the image",
        ),
        ("deep.json", "[" * 100_000, "deep"),
    ],
)
def test_it_is_refused_with_what_to_do(root: Path, file: str, text: str | None, message: str) -> None:
    (root / file).write_bytes(
        lines(IMAGES).replace("cat\n", "chât\n").encode("latin-1") if text is None else text.encode()
    )
    with pytest.raises(ValueError, match=message):
        load_data(str(root / file))


def test_images_without_annotation_are_named(root: Path) -> None:
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(IMAGES)],
        "annotations": [{"image_id": i, "category_id": i % 2} for i in range(4)],
        "categories": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}],
    }
    (root / "coco.json").write_text(json.dumps(content))
    data = load_data(str(root / "coco.json"))
    assert data.class_counts == [2, 2]
    assert data.notes[0] == "1 images of coco.json have no annotation and are skipped, such as im/dog/001.png"


def test_an_empty_shard_beside_full_ones_is_left_out(tmp_path: Path) -> None:
    feature = ClassLabel(names=["cat", "dog"])
    parquet(tmp_path / "train-00000-of-00002.parquet", [0, 1, 1], feature)
    table = pq.read_table(tmp_path / "train-00000-of-00002.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "train-00001-of-00002.parquet")
    data = load_data(str(tmp_path))
    assert data.class_counts == [1, 2]
    assert "not read: train-00001-of-00002.parquet (train-00001-of-00002.parquet has no rows" in data.notes[0]
    pq.write_table(pa.table({"x": pa.array([], pa.null())}), tmp_path / "train-00001-of-00002.parquet")
    assert load_data(str(tmp_path)).class_counts == [1, 2]
    pq.write_table(table.slice(0, 0), tmp_path / "train-00000-of-00002.parquet")
    with pytest.raises(ValueError, match=r"train-00000-of-00002.parquet has no rows"):
        load_data(str(tmp_path))


@pytest.mark.parametrize("kind", ["struct", "text", "named"])
def test_paths_in_parquet_are_relative_to_it(root: Path, kind: str, monkeypatch) -> None:
    from datasets import Features, Image, Value

    if kind == "struct":
        column = pa.array([{"bytes": None, "path": name} for name in IMAGES])
        pq.write_table(pa.table({"image": column, "label": LABELS}), root / "train.parquet")
    elif kind == "text":
        pq.write_table(pa.table({"image": IMAGES, "label": LABELS}), root / "train.parquet")
    else:
        features = Features({"image": Image(), "label": Value("string")})
        columns = [pa.array([{"bytes": None, "path": name} for name in IMAGES]), pa.array(LABELS)]
        pq.write_table(pa.Table.from_arrays(columns, schema=features.arrow_schema), root / "train.parquet")
    monkeypatch.chdir("/")
    for dataset in (root / "train.parquet", root):
        data = load_data(str(dataset))
        assert data.class_counts == [3, 2]
        assert data.train.open(0).size == noise(0).size


def test_images_of_a_table_are_split_by_the_folders_of_splits(tmp_path: Path) -> None:
    for split, start in (("train", 0), ("test", 20)):
        (tmp_path / split).mkdir()
        for i in range(4):
            (tmp_path / split / f"{split}{i}.png").write_bytes(png(start + i))
    rows = [f"{split}/{split}{i}.png,{'ab'[i % 2]}\n" for split in ("train", "test") for i in range(4)]
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(rows))
    for dataset in (tmp_path, tmp_path / "labels.csv"):
        data = load_data(str(dataset))
        assert (data.class_counts, data.test.labels) == ([2, 2], [0, 1, 0, 1])
        assert "splits, from the folders of the images: train, test" in data.notes
    folders(tmp_path, {"extra": 1}, start=70)
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(rows) + "extra/0.png,a\n")
    with pytest.raises(ValueError, match=r"1 images outside of them, such as 'extra/0\.png': add a column"):
        load_data(str(tmp_path))


def test_what_competitions_have(tmp_path: Path) -> None:
    """One-hot columns, a test without labels, a sample of what to hand in, a table of other facts."""
    for i in range(6):
        for name in (f"plant/images/Train_{i}.jpg", f"isic/Training_Input/ISIC_{i}.jpg", f"leaf/train_images/{i}.jpg"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(png(i + 10 * len(name)))
    (tmp_path / "plant" / "images" / "Test_0.jpg").write_bytes(png(99))
    hot = "".join(f"Train_{i},{int(i % 3 == 0)},{int(i % 3 == 1)},{int(i % 3 == 2)}\n" for i in range(6))
    (tmp_path / "plant" / "train.csv").write_text(f"image_id,healthy,rust,scab\n{hot}")
    (tmp_path / "plant" / "test.csv").write_text("image_id\nTest_0\n")
    (tmp_path / "plant" / "sample_submission.csv").write_text("image_id,healthy,rust,scab\nTest_0,.3,.3,.3\n")
    data = load_data(str(tmp_path / "plant"))
    assert (data.class_names, data.class_counts, data.test) == (["healthy", "rust", "scab"], [2, 2, 2], None)
    hot = "".join(f"ISIC_{i},{float(i % 2 == 0)},{float(i % 2)},0.0\n" for i in range(6))
    truth = tmp_path / "isic" / "Training_GroundTruth.csv"
    truth.write_text(f"image,MEL,NV,UNK\n{hot}")
    (tmp_path / "isic" / "Training_Metadata.csv").write_text(
        "image,age\n" + "".join(f"ISIC_{i},{i}\n" for i in range(6))
    )
    assert load_data(str(truth)).class_counts == [3, 3]
    with pytest.raises(ValueError, match="are both for the same split: pass one of them as --dataset"):
        load_data(str(tmp_path / "isic"))
    rows = "".join(f"{i}.jpg,{i % 2}\n" for i in range(6))
    (tmp_path / "leaf" / "train.csv").write_text(f"image_id,label\n{rows}")
    (tmp_path / "leaf" / "sample_submission.csv").write_text("image_id,label\n0.jpg,4\n")
    (tmp_path / "leaf" / "names.json").write_text('{"0": "a", "1": "b"}')
    assert load_data(str(tmp_path / "leaf")).class_counts == [3, 3]
