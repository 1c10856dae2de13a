"""`DataSpec`, from flags, recipes and code; and `ImageSplit`, what splits are called and know of themselves."""

from argparse import Namespace
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
from user_data import folders

from paco_hf.data import loading
from paco_hf.data.images import LabeledImages, LabelledImages
from paco_hf.data.loading import load_data, load_test
from paco_hf.data.sources.source import Source
from paco_hf.data.spec import DataSpec, spec_fields
from paco_hf.data.splitting import divide


def test_flags_win_over_a_recipe_split_by_split() -> None:
    recipe = {
        "dataset": "imagenet-lt",
        "dataset_path": "there",
        "train_list": "a.txt",
        "test_list": "b.txt",
        "streaming": False,
        "imbalance_factor": 50,
        "learning_rate": 0.1,
        "image_column": None,
    }
    flags = Namespace(
        dataset=None, dataset_path="here", test_list="c.txt", train_list=None, streaming=False, json=True
    )
    spec = DataSpec.from_settings(recipe, **spec_fields(vars(flags)))
    lists = {"train": "a.txt", "test": "c.txt"}
    assert spec == DataSpec("imagenet-lt", dataset_path="here", lists=lists, imbalance_factor=50)
    assert spec_fields({"imbalance_factor": 0, "train_split": ""}) == {"imbalance_factor": 0}
    with pytest.raises(FrozenInstanceError):
        spec.window = 1
    assert replace(spec, lists={}).lists == {}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dataset": "builtin", "splits": {"test": "x"}}, "--test_split selects a split of your own data"),
        ({"dataset": "photos", "dataset_path": "photos"}, "--dataset_path is for"),
        ({"dataset": "imagenet", "dataset_path": "memory://photos"}, "is a URL: use --streaming"),
        ({"dataset": "imagenet-lt", "streaming": True}, "--streaming needs a prepared folder"),
        ({"dataset": "cifar10-lt", "dataset_path": "x", "streaming": True}, "is small and cannot be streamed"),
    ],
)
def test_fields_that_do_not_go_together(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataSpec(**fields)


def test_a_spec_and_a_name_with_fields_are_the_same() -> None:
    spec = DataSpec("builtin")
    one, other = load_data(spec), load_data("builtin")
    assert (one.train.selection, one.class_counts) == (other.train.selection, other.class_counts)
    with pytest.raises(ValueError, match="selects a split of your own data"):
        load_data(spec, splits={"train": "x"})


def test_names_of_splits(tmp_path: Path) -> None:
    root = folders(tmp_path / "photos", {"a": 12, "b": 8})
    division = divide(load_data(str(root)), 0, 0.2, 0.2)
    parts = {"train": division.trained, "validation": division.validation, "test": division.data.test}
    endings = {"train": "", "validation": ", split off", "test": ", split off for the test"}
    for role, part in parts.items():
        assert (part.role, part.split_off, part.dataset) == (role, role != "train", str(root))
        assert (part.name, part.public_name) == (f"{root} train{endings[role]}", f"photos train{endings[role]}")
        assert part.class_names == ["a", "b"]
    manifest = division.manifest["splits"]
    assert [manifest[role]["name"] for role in parts] == [part.public_name for part in parts.values()]
    assert [manifest[role]["selection"] for role in parts] == [part.selection for part in parts.values()]
    assert sorted(row for part in parts.values() for row in part.source_rows) == list(range(20))
    split, names = load_test(str(root))
    assert (split.role, names) == ("train", ["a", "b"])  # the only split, which nobody called a test
    assert replace(split, source_split=None, role="test").public_name == "photos, all images"
    assert LabelledImages is LabeledImages


def test_a_new_kind_of_data_is_one_more_opener(tmp_path: Path, monkeypatch) -> None:
    root = str(folders(tmp_path / "photos", {"a": 3, "b": 2}))

    def reversed_classes(spec: DataSpec, test_only: bool) -> Source:
        split = load_data(spec.dataset.removeprefix("reversed:")).train
        labels = [1 - label for label in split.labels]
        return Source({"train": replace(split, labels=labels, class_names=split.class_names[::-1])})

    opener = (lambda spec: spec.dataset.startswith("reversed:"), reversed_classes)
    monkeypatch.setattr(loading, "OPENERS", [opener, *loading.OPENERS])
    data = load_data(f"reversed:{root}")
    assert (data.class_names, data.class_counts, data.user_data) == (["b", "a"], [2, 3], True)
