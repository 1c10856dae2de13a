"""The published lists: every line checked, and recognized by what git would call them."""

import json

import miniature
import pytest

from paco_hf.data import image_lists as lists
from paco_hf.data import published as benchmarks
from paco_hf.data import verification as inspection
from paco_hf.data.image_lists import differences, git_blob_id, parse_list, read_list, recognize
from paco_hf.data.published import BENCHMARKS, Canonical


def test_blob_id_is_gits() -> None:
    # `printf 'hello\n' | git hash-object --stdin`
    assert git_blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


@pytest.mark.parametrize(
    ("dataset", "path", "key"),
    [
        ("imagenet-lt", "train/n01440764/n01440764_762.JPEG", "n01440764_762"),
        ("imagenet-lt", "n01440764_762_n01440764.JPEG", "n01440764_762"),
        ("imagenet-lt", "ILSVRC2012_val_00029930_n01440764.JPEG", "ilsvrc2012_val_00029930"),
        ("imagenet-lt", "val/n01440764/ILSVRC2012_val_00029930.JPEG", "ilsvrc2012_val_00029930"),
        ("inat2018", "train_val2018/Plantae/7291/9F8E.jpg", "9f8e"),
        ("places-lt", "data_256/a/airfield/00004851.jpg", "a/airfield/00004851"),
        ("places-lt", "a/airfield/00004851.jpg", "a/airfield/00004851"),
    ],
)
def test_join_keys(dataset: str, path: str, key: str) -> None:
    assert BENCHMARKS[dataset].join_key(path) == key


@pytest.mark.parametrize(
    ("dataset", "text", "message"),
    [
        ("imagenet-lt", "train/n01440764/a.JPEG 0\nnonsense\n", "list.txt, line 2: 'nonsense' must have the form"),
        ("imagenet-lt", "train/n01440764/a.JPEG 0\n\n", "line 2: '' must have the form"),
        ("imagenet-lt", "train/n01440764/a.JPEG\t0\n", "line 1"),
        ("imagenet-lt", "train/n01440764/a.JPEG 0.5\n", "line 1"),
        ("imagenet-lt", "train/n01440764/a.JPEG 1000\n", "line 1: label 1000 is out of range.*0 to 999"),
        ("imagenet-lt", "train/n01440764/a.JPEG -1\n", "label -1 is out of range"),
        (
            "imagenet-lt",
            "data_256/a/airfield/00004851.jpg 0\n",
            "not a path of imagenet-lt.*is this a list of places-lt",
        ),
        ("places-lt", "train/n01440764/a.JPEG 0\n", "not a path of places-lt.*is this a list of imagenet"),
        ("inat2018", "elsewhere/1.jpg 0\n", "not a path of inat2018, such as train_val2018/Plantae"),
        ("imagenet-lt", "train/n01440764/a.JPEG 0\ntrain/n01440764/a.JPEG 0\n", "line 2: .*twice.*line 1"),
        ("imagenet-lt", "train/n01440764/a.JPEG 0\ntrain/n01440764/b.JPEG 1\n", "line 2: .*label 1"),
        ("imagenet-lt", "train/n01440764/a.JPEG 0\ntrain/n01443537/b.JPEG 0\n", "line 2: .*n01440764"),
        ("imagenet-lt", "", "list.txt is empty"),
        ("imagenet-lt", "\xff", "not a text file"),
        ("inat2018", '{"images": []}', "not iNaturalist's JSON"),
        ("inat2018", "{", "not iNaturalist's JSON"),
        ("inat2018", '{"a": ' + "[" * 100_000, "not iNaturalist's JSON"),
        ("imagenetlt", "a 0", "unknown dataset 'imagenetlt': choose one of imagenet, "),
        ("cifar100", "a 0", "cifar100 has no image lists"),
    ],
)
def test_bad_lists(dataset: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse_list("list.txt", text.encode("latin-1"), dataset)
    assert "\n" not in str(error.value)


def test_missing_list(tmp_path) -> None:
    with pytest.raises(OSError, match=r"gone\.txt does not exist"):
        read_list(str(tmp_path / "gone.txt"), "imagenet-lt")
    with pytest.raises(OSError, match="cannot be downloaded"):
        read_list("http://127.0.0.1:9/list.txt", "imagenet-lt")


def test_json_and_text_lists_of_inaturalist_agree(tmp_path) -> None:
    miniature.inat2018(tmp_path / "json")
    miniature.inat2018(tmp_path / "text", text=True)
    for split in ("train", "val"):
        from_json = read_list(str(tmp_path / "json" / f"{split}2018.json"), "inat2018")
        from_text = read_list(str(tmp_path / "text" / f"iNaturalist18_{split}.txt"), "inat2018")
        assert (from_json.paths, from_json.labels) == (from_text.paths, from_text.labels)
        assert from_json.folders == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("name", "label"), [(5, 0), ("a.jpg", 0.9), ("a.jpg", "abc"), ("a.jpg", 1e400), ("a.jpg", True)]
)
def test_json_of_other_types(tmp_path, name, label) -> None:
    content = {"images": [{"id": 1, "file_name": name}], "annotations": [{"image_id": 1, "category_id": label}]}
    (tmp_path / "train2018.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"train2018.json is not iNaturalist's JSON.*annotation 1 has file_name"):
        read_list(str(tmp_path / "train2018.json"), "inat2018")


def test_class_names() -> None:
    assert lists.class_names("imagenet", miniature.SYNSETS[:2]) == [
        "tench, Tinca tinca",
        "goldfish, Carassius auratus",
    ]
    everything = lists.imagenet_class_names()
    # Two classes are called crane.
    assert len(set(everything)) == 1000
    assert "crane (n02012849)" in everything
    assert lists.class_names("places-lt", ["airfield", "bakery/shop"]) == ["airfield", "bakery/shop"]


def test_published_facts() -> None:
    # Counts and blob ids as published; a typing error here would call a right list wrong.
    train = {name: benchmark.canonical.get("train") for name, benchmark in BENCHMARKS.items()}
    assert train["imagenet-lt"].images == 115_846
    assert train["imagenet-lt"].shots == (385, 479, 136)
    assert train["imagenet-lt"].blob == "a063f095fcd475db4cf8b0658c4b73955535bbf9"
    assert (train["inat2018"].images, train["inat2018"].blob) == (437_513, "4accdb7584d2f0a5106c40a33ed6afa392189bcc")
    assert (train["places-lt"].images, train["places-lt"].shots) == (62_500, (131, 163, 71))
    assert train["places-lt"].blob == "1d608b558c25c271da75c06f1e5e3625a4ebcb79"
    assert BENCHMARKS["places-lt"].canonical["validation"].blob == "89c29c0973328f77d7a77a8b580634ce20acdc11"
    sizes = {name: (b.num_classes, b.canonical["test"].images) for name, b in BENCHMARKS.items() if b.needs_list}
    assert sizes == {"imagenet-lt": (1000, 50_000), "inat2018": (8142, 24_426), "places-lt": (365, 36_500)}


def test_differences_name_what_differs() -> None:
    canonical = Canonical(4, 3, 1, shots=(0, 0, 2))
    assert differences(canonical, [0, 0, 0, 1], 2) == []
    assert differences(canonical, [0, 0, 1, 1], 2) == [
        "images of the largest class: 2, published 3",
        "images of the smallest class: 2, published 1",
    ]


@pytest.fixture
def published(tmp_path, monkeypatch):
    """ImageNet-LT as if the miniature's lists were the published ones."""
    root = miniature.imagenet_lt(tmp_path / "imagenet-lt")
    benchmark = BENCHMARKS["imagenet-lt"]
    facts = {}
    for split, counts in (("train", miniature.TRAIN), ("test", [miniature.TEST] * 4)):
        content = (root / f"ImageNet_LT_{split}.txt").read_bytes()
        facts[split] = Canonical(sum(counts), max(counts), min(counts), blob=git_blob_id(content))
    monkeypatch.setitem(
        benchmarks.BENCHMARKS, "imagenet-lt", benchmarks.Benchmark(**{**vars(benchmark), "canonical": facts})
    )
    return root


def test_verify_a_list(published, tmp_path) -> None:
    file = published / "ImageNet_LT_train.txt"
    assert recognize(file.read_bytes()) == ("imagenet-lt", "train")
    right, wrong = inspection.verify(str(file))
    assert (len(right), wrong) == (1, [])
    assert "the published train list of imagenet-lt (git blob id" in right[0]

    other = tmp_path / "other.txt"
    other.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    right, wrong = inspection.verify(str(other))
    assert wrong == []
    assert "in a different file format" in right[0]

    lines = file.read_text().splitlines(keepends=True)
    other.write_text("".join(lines[1:] + lines[:1]))
    right, wrong = inspection.verify(str(other))
    assert "with the class counts" in right[0]
    assert "in content or order" in wrong[0]

    other.write_text("".join(lines[1:]))
    right, wrong = inspection.verify(str(other))
    assert right == []
    assert "images: 39, published 40" in wrong
    assert "images of the largest class: 19, published 20" in wrong


def test_a_list_given_for_another_split_is_refused(published) -> None:
    from paco_hf.data.loading import load_data

    with pytest.raises(ValueError, match=r"is the test list of imagenet-lt: pass the train list"):
        load_data("imagenet-lt", dataset_path=str(published), lists={"train": str(published / "ImageNet_LT_test.txt")})


def test_published_lists_leave_no_note(published) -> None:
    from paco_hf.data.loading import load_data

    assert load_data("imagenet-lt", dataset_path=str(published)).notes == []


def test_train_and_test_lists_must_agree_on_classes(tmp_path) -> None:
    from paco_hf.data.loading import load_data

    root = miniature.imagenet_lt(tmp_path)
    test = root / "ImageNet_LT_test.txt"
    test.write_text("val/n02012849/ILSVRC2012_val_00000007.JPEG 0\n")
    with pytest.raises(ValueError, match="has 'n02012849' as class 0, which is 'n01440764' in ImageNet_LT_train"):
        load_data("imagenet-lt", dataset_path=str(root))


def test_no_image_is_trained_on_and_scored(tmp_path) -> None:
    from paco_hf.data.loading import load_data

    root = miniature.imagenet_lt(tmp_path)
    test, train = root / "ImageNet_LT_test.txt", root / "ImageNet_LT_train.txt"
    test.write_text(test.read_text() + train.read_text().splitlines(keepends=True)[3])
    with pytest.raises(ValueError, match=r"1 images are in both ImageNet_LT_train.txt and ImageNet_LT_test.txt"):
        load_data("imagenet-lt", dataset_path=str(root))


def test_images_missing_from_the_tree(tmp_path) -> None:
    from paco_hf.data.loading import load_data

    root = miniature.imagenet_lt(tmp_path)
    for i in range(5):
        (root / f"train/n01440764/n01440764_{i}.JPEG").unlink()
    with pytest.raises(
        ValueError, match=r"5 of the 40 images of ImageNet_LT_train.txt are not in .*_0.JPEG, .*, \.\.\."
    ):
        load_data("imagenet-lt", dataset_path=str(root))


@pytest.mark.parametrize("dataset", list(miniature.MAKERS))
def test_official_folders(dataset: str, tmp_path) -> None:
    from paco_hf.data.loading import load_data, load_test

    root = miniature.MAKERS[dataset](tmp_path)
    data = load_data(dataset, dataset_path=str(root))
    assert data.class_counts == miniature.TRAIN
    assert data.test.labels == [c for c in range(4) for _ in range(miniature.TEST)]
    benchmark = BENCHMARKS[dataset]
    assert (data.image_size, data.mean, data.std) == (224, benchmark.mean, benchmark.std)
    assert data.train.open(39).size == (96, 80)
    assert len(data.notes) == 2
    split, names = load_test(dataset, dataset_path=str(root))
    assert (split.labels, names) == (data.test.labels, data.class_names)


def test_trees_without_what_they_need(tmp_path) -> None:
    from paco_hf.data.loading import load_data

    root = miniature.imagenet(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"no list of the imagenet-lt training images \(ImageNet_LT_train.txt\)"):
        load_data("imagenet-lt", dataset_path=str(root))
    with pytest.raises(ValueError, match="set --dataset_path to the official folder tree"):
        load_data("imagenet-lt")
    with pytest.raises(ValueError, match=r"_list is for .*: remove the flag"):
        load_data("builtin", lists={"train": "x"})
    for synset in miniature.SYNSETS:
        for file in (root / "val" / synset).iterdir():
            file.rename(root / "val" / file.name)
        (root / "val" / synset).rmdir()
    with pytest.raises(ValueError, match="has no class folders: the ILSVRC validation images"):
        load_data("imagenet", dataset_path=str(root))


def test_places_list_with_repeated_names_joins_on_paths(tmp_path) -> None:
    root = miniature.places_lt(tmp_path)
    image_list = read_list(str(root / "Places_LT_train.txt"), "places-lt")
    assert len({BENCHMARKS["places-lt"].join_key(path) for path in image_list.paths}) == 40
    assert image_list.folders == ["airfield", "apartment_building/outdoor", "bakery/shop", "zen_garden"]


def test_json_list_of_unknown_image(tmp_path) -> None:
    content = {"images": [], "annotations": [{"image_id": 3, "category_id": 0}], "categories": []}
    (tmp_path / "train2018.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"not iNaturalist's JSON.*KeyError: 3"):
        read_list(str(tmp_path / "train2018.json"), "inat2018")
