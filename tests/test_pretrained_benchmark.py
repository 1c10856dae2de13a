"""`benchmarks.pretrained`: its cells, its baselines, and the tables of its records."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from timm.models import save_for_hf
from user_data import folders

from benchmarks.pretrained import main
from benchmarks.pretrained_records import packed, read_records, write_data
from benchmarks.pretrained_runs import _stages
from benchmarks.pretrained_table import BEGIN, END, paired_bootstrap, write_tables

COUNTS = [120, 30, 4, 3]  # many, medium, few, few
LABELS = [0, 0, 1, 1, 2, 2, 3, 3]
MACHINE = {"cpu": "a CPU", "cores": 2, "threads": 1, "date": "2026-11-29T00:00:00+00:00"}


def recorded(folder: Path, name: str, predictions: dict[int, list[int]], **fields: Any) -> None:
    """A record with the predictions of each seed."""
    seeds = {str(seed): {"seconds": 2.0, "predictions": packed(ids)} for seed, ids in predictions.items()}
    (folder / f"{name}.json").write_text(json.dumps({"machine": MACHINE, "seeds": seeds, **fields}))


@pytest.fixture
def records(tmp_path: Path) -> Path:
    folder = tmp_path / "records" / "made-up"
    write_data(folder / "data.json", "Made up", COUNTS, LABELS)
    chosen = {"classifier": "cosine", "loss": "balanced_softmax", "class_centers": "means"}
    stages = {"start": 3.0, "cross-validation": 5.0, "end": 1.0}
    command = {"kind": "run", "features_computed": True, "wall_clock_seconds": 9.0, "stages": stages, "chosen": chosen}
    recorded(folder, "run-seed0", {0: [0, 0, 1, 1, 2, 2, 3, 0]}, **command)
    recorded(folder, "run-seed1", {1: [0, 0, 1, 1, 2, 0, 3, 0]}, **command)
    head = {"kind": "head", "classifier": "cosine", "loss": "paco", "class_centers": "means"}
    head["input"] = "64 x 64 pixels, cropped"
    recorded(folder, "head-cosine-paco-means", {0: LABELS, 1: [0, 0, 1, 0, 2, 2, 3, 3]}, **head)
    recorded(folder, "head-cosine-plain-means", {0: [0] * 8}, **{**head, "loss": "balanced_softmax"})
    recorded(folder, "baseline-means", {0: [0, 0, 1, 1, 2, 2, 0, 0]}, kind="baseline", title="nearest mean")
    recorded(folder, "baseline-regression", {0: [0, 0, 0, 0, 2, 2, 3, 3]}, kind="baseline", title="regression")
    # Of another program, with its own order of images.
    own = {"labels": packed(LABELS[::-1]), "train_counts": packed(COUNTS)}
    recorded(folder, "fastai-seed0", {0: [3, 3, 2, 0, 0, 0, 0, 0]}, kind="fine-tuned", title="fastai", **own)
    return tmp_path


def test_table_of_records(records: Path) -> None:
    output = records / "out.md"
    output.write_text(f"kept before\n{BEGIN}\nold\n{END}\nkept after\n")
    main(["--records", str(records / "records"), "table", "--output", str(output)])
    text = output.read_text()
    assert text.startswith("kept before\n")
    assert text.endswith("kept after\n")
    assert "old" not in text
    assert "157 training images of 4 classes, 120 to 3 a class (1 many, 1 medium, 2 few); 8 test images" in text
    assert "a CPU, 2 cores, 1 used" in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    names = {row[0]: row[1:] for row in rows}
    # top-1, many, medium, few, balanced, seconds of training and of choosing
    ours = names["**`paco-hf train`, nothing else given**"]
    assert ours == ["81.2 ± 8.8", "100.0 ± 0.0", "100.0 ± 0.0", "62.5 ± 17.7", "81.2 ± 8.8", "2", "5"]
    assert names["cosine, PaCo, from class means, 64 px"][2:5] == ["75.0 ± 35.4", "100.0 ± 0.0", "93.8 ± 8.8"]
    assert names["fastai"][:5] == ["62.5", "100.0", "0.0", "75.0", "62.5"]
    assert "Best of 2 cells in *balanced*: cosine, PaCo, from class means, 64 px, 93.8 ± 8.8" in text
    assert "the command's, cosine, balanced softmax, from class means, 64 px: 25.0, rank 2." in text
    assert "features computed: **9** (start 3, cross-validation 5, end 1)" in text
    # Both baselines get 75% balanced; in few, regression is the better one: 100% against our 62.5%.
    bar = {row[0]: row for row in rows if len(row) == 5}
    assert bar["balanced"][2] == "+6.25"
    assert bar["balanced"][4] == "yes"
    assert bar["few"][1] == "regression"
    assert bar["few"][2] == "-37.50"
    assert bar["few"][4] == "**no**"


def test_tables_need_their_marks(records: Path) -> None:
    output = records / "out.md"
    folder = records / "records" / "made-up"
    assert "Made up" in write_tables({folder: read_records(folder)}, output)
    output.write_text("something else\n")
    with pytest.raises(ValueError, match="lacks the lines"):
        write_tables({folder: read_records(folder)}, output)


def test_records_of_other_images_are_refused(records: Path) -> None:
    file = records / "records" / "made-up" / "data.json"
    write_data(file, "Made up", COUNTS, LABELS)
    with pytest.raises(ValueError, match="records of other images"):
        write_data(file, "Made up", COUNTS, LABELS[::-1])


def test_bootstrap_has_the_standard_error_of_a_stratified_mean() -> None:
    generator = np.random.default_rng(1)
    labels = np.repeat([0, 1, 2, 3], [40, 20, 10, 5])
    difference = generator.integers(-1, 2, len(labels)).astype(float)
    classes = np.array([True, True, False, True])
    mean, error = paired_bootstrap(difference, labels, classes)
    by_class = [difference[labels == label] for label in (0, 1, 3)]
    assert mean == pytest.approx(np.mean([values.mean() for values in by_class]))
    expected = np.sqrt(sum(values.var() / len(values) for values in by_class)) / 3
    assert error == pytest.approx(expected, rel=0.03)
    assert paired_bootstrap(np.ones(75), labels, classes) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-12))


def test_stages_of_the_command() -> None:
    lines = [
        (2.0, "labels: from the class folders; splits: train 'train', test 'test'"),
        (3.0, "60 images of 4 classes: 40 to train on"),
        (3.0, "the pretrained backbone is frozen"),
        (7.5, "features of 40 train images: computed in 4 s"),
        (9.0, "cross-validation, 5 folds: balanced accuracy 90.0"),
    ]
    assert _stages(lines, 10.0) == {
        "start": 2.0,
        "check of the images": 1.0,
        "features of the training images": 4.5,
        "cross-validation": 1.5,
        "end": 1.0,
    }


def test_cells_and_baselines_are_measured_once(tmp_path: Path, monkeypatch, capsys) -> None:
    backbone = tmp_path / "backbone"
    save_for_hf(timm.create_model("test_resnet", num_classes=3), str(backbone), safe_serialization=True)
    folders(tmp_path / "data" / "train", {"a": 9, "b": 6, "c": 4})
    folders(tmp_path / "data" / "test", {"a": 2, "b": 2, "c": 3}, start=100)
    root = tmp_path / "records"
    given = ["--dataset", str(tmp_path / "data"), "--name", "Small ones", "--backbone", str(backbone)]
    given += ["--image_size", "64", "--image_fit", "pad", "--folds", "2", "--threads", "1"]
    cells = ["--classifiers", "cosine", "--losses", "gpaco", "--centers", "means", "--seeds", "0", "1"]
    main(["--records", str(root), "heads", *given, *cells])
    linear = ["--classifiers", "linear", "--losses", "ce", "--centers", "random", "--seeds", "0", "1"]
    main(["--records", str(root), "heads", *given, *linear])
    main(["--records", str(root), "baselines", *given])
    found = read_records(root / "small-ones")
    assert len(found) == 4
    for name, record in found.items():
        assert record["input"] == "64 x 64 pixels, padded"
        assert str(tmp_path) not in json.dumps(record)
        if record["kind"] != "head":
            continue
        assert len(record["tried"]) == 6
        # Those of chance differ in digits that a record has not.
        least = min(one["log_loss"] for one in record["tried"])
        best = [one for one in record["tried"] if one["log_loss"] == least]
        assert any(record["chosen"].items() <= one.items() for one in best)
        assert ("queue_size" in record["settings"]) is ("gpaco" in name)
        scales = {one["scale"] for one in record["tried"]}
        assert len(scales) == (3 if "cosine" in name else 1)
        assert list(record["seeds"]) == ["0", "1"]
        assert all(len(one["predictions"].split()) == 7 for one in record["seeds"].values())
    assert found["baseline-logistic-regression-64-padded"]["chosen"]["C"] > 0
    # What has a record is not made again.
    monkeypatch.setattr("benchmarks.pretrained._measure", lambda *_: pytest.fail("measured again"))
    main(["--records", str(root), "heads", *given, *cells])
    output = tmp_path / "out.md"
    main(["--records", str(root), "table", "--output", str(output)])
    assert "nearest class mean, cosine, 64 px" in output.read_text()
