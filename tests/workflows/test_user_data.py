"""A folder or a table of one's own, from nothing to a scored model: survey, carve, evaluation, resume."""

import html
import json
import os
import shutil
from itertools import chain
from typing import Any

import numpy as np
import pytest
import yaml
from datasets import Value
from PIL import Image
from user_data import SHORT, SPECIES, complaint, folders, labels_of, noise, parquet, png, printed, table

from paco_hf.cli import main
from paco_hf.data.image_checks import check_images
from paco_hf.data.images import Images
from paco_hf.data.loading import load_data
from paco_hf.data.split_manifest import check_source, describe_source, public_manifest, select_again
from paco_hf.data.splitting import default_test, divide, report
from paco_hf.inference.logits import score
from paco_hf.workflows.evaluation_data import check_same_test, load_evaluation

# ---- one command


@pytest.mark.parametrize("form", ["folder", "csv", "parquet"])
def test_from_nothing_to_a_scored_model(form: str, tmp_path, capsys, blank_figures) -> None:
    if form == "folder":
        source = folders(tmp_path / "photos", {name.replace("/", "-"): count for name, count in SPECIES.items()})
    elif form == "csv":
        source = table(tmp_path / "photos", labels_of(SPECIES))
    else:
        source = parquet(tmp_path / "photos" / "data-0.parquet", labels_of(SPECIES), Value("string")).parent
    run = tmp_path / "run"
    out = printed(capsys, "--dataset", str(source), *SHORT, "--report", "true", "--output_dir", str(run))
    names = sorted(name.replace("/", "-") if form == "folder" else name for name in SPECIES)
    assert "21 images of 4 classes: 14 for training, 4 for validation (split off), 3 for testing (split off)" in out
    assert "imbalance factor 4.5 (9 to 2 images per class, 6 to 1 for training)" in out
    assert "2 classes have no images to test with" in out
    assert "note: 2 classes with fewer than 5 images have no test images" in out
    assert "the smallest classes of the others have 1 test image each, so their scores are coarse" in out
    assert "no temperature calibration after training: 4 validation images, fewer than 100" in out
    page = (run / "evaluation" / "report.html").read_text()
    assert all(html.escape(name) in page for name in names)
    assert "## Results" in (run / "README.md").read_text()
    assert str(tmp_path) not in page + (run / "README.md").read_text()
    config = json.loads((run / "config.json").read_text())
    assert [config["id2label"][str(c)] for c in range(4)] == names
    metrics = json.loads((run / "metrics.json").read_text())
    split = load_evaluation(run)
    assert split.class_names == names
    assert sorted(np.bincount(split.labels, minlength=4)) == [0, 0, 1, 2]
    assert score(run, Images(split)) == metrics["test"]
    assert score(run, Images(load_evaluation(run, split="validation"))) == metrics["validation"]
    manifest = json.loads((run / "splits.json").read_text())
    assert manifest["class_names"] == names
    assert str(tmp_path) not in (run / "splits.json").read_text()
    rows = [manifest["splits"][name]["rows"] for name in ("train", "validation", "test")]
    assert sorted(chain(*rows)) == list(range(21))
    if form != "parquet":
        root = tmp_path / "photos" / ("images" if form == "csv" else "")
        assert all((root / file).is_file() for file in manifest["splits"]["test"]["files"])


# ---- the survey


def test_survey_counts_what_cannot_be_decoded_and_remembers(tmp_path, capsys, surveys, no_rehearsal) -> None:
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
    assert "14 of 16 images can be decoded (cached result): 16 x 16 pixels" in out
    assert "note: excluded because they cannot be decoded: 2 images, such as: " in out
    manifest = json.loads((tmp_path / "run" / "splits.json").read_text())
    rows = [manifest["splits"][name]["rows"] for name in ("train", "validation", "test")]
    assert sorted(chain(*rows)) == [row for row in range(16) if row not in (3, 13)]
    assert "cannot be decoded: 2 images" in json.loads((tmp_path / "run" / "run.json").read_text())["notes"][0]
    assert (
        score(tmp_path / "run", Images(load_evaluation(tmp_path / "run")))
        == json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    )
    test = folders(tmp_path / "two" / "test", {"cat": 2, "dog": 2}, start=60)
    folders(tmp_path / "two" / "train", {"cat": 4, "dog": 4}, start=70)
    (test / "cat" / "0.png").write_bytes(b"no image")
    two = ["--dataset", str(tmp_path / "two"), *SHORT, "--output_dir", str(tmp_path / "second")]
    printed(capsys, *two, "--skip_undecodable", "true")
    assert len(load_evaluation(tmp_path / "second").labels) == 3
    # A file that changed is looked at again.
    (root / "cat" / "3.png").write_bytes(png(777))
    assert "cannot be decoded" in complaint(capsys, "train", *argv, "--overwrite")
    (root / "dog" / "5.png").write_bytes(png(778))
    argv.append("--overwrite")
    assert "all 16 images can be decoded: " in printed(capsys, *argv, "--dry_run")
    assert "all 16 images can be decoded (cached result)" in printed(capsys, *argv, "--dry_run")
    assert "images can be decoded" not in printed(capsys, *argv, "--dry_run", "--inspect", "false")
    for file in surveys.iterdir():
        file.write_text("{")
    assert "all 16 images can be decoded: " in printed(capsys, *argv, "--dry_run")
    for i in range(8):
        (root / "cat" / f"{i}.png").write_bytes(b"no image")
    assert "no training image of the class 'cat' can be decoded" in complaint(
        capsys, "train", *argv, "--overwrite", "--skip_undecodable", "true"
    )


def test_survey_of_parquet_is_remembered(tmp_path) -> None:
    file = parquet(tmp_path / "train.parquet", labels_of({"a": 3, "b": 2}), Value("string"))
    assert check_images(load_data(str(file))).lines == [
        "all 5 images can be decoded: 16 x 16 pixels",
        "no exact duplicates",
    ]
    assert check_images(load_data(str(file))).lines[0] == "all 5 images can be decoded (cached result): 16 x 16 pixels"


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
    assert "WARNING: the test split shares 1 image with the train split, so its scores are too high; such as " in out
    assert "WARNING: there is 1 image with more than one label, such as " in out
    notes = json.loads((tmp_path / "run" / "run.json").read_text())["notes"]
    assert "such as test/cat/0.png, a copy of train/cat/0.png" in notes[0]
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
    again = select_again(data.train, division.manifest, "test")
    assert (again.rows, again.labels) == (rows[2], parts[2].labels)
    assert divide(data, 0, 0.1, 0.0).data.test is None
    assert divide(data, 0, 0.0, 0.2).validation is None
    assert counts(divide(data, 0, 0.0, 0.2).data.test) == [4, 1, 1, 0]
    assert divide(data, 0, 0.0, 0.0).manifest is None
    duplicates = np.zeros(26, dtype=bool)
    duplicates[:18] = duplicates[24] = True
    pinned = divide(data, 0, 0.1, 0.2, duplicates)
    assert counts(pinned.data.test) == [2, 1, 1, 0]
    assert not duplicates[pinned.data.test.rows].any()
    assert pinned.validation is None or not duplicates[pinned.validation.rows].any()
    with pytest.raises(ValueError, match="test_fraction must be"):
        divide(data, 0, 0.1, 1.0)


def test_small_classes_give_none_to_the_test_unless_asked_for(tmp_path, capsys, no_rehearsal) -> None:
    root = folders(tmp_path / "photos", {"a": 20, "b": 5, "c": 4, "d": 2})
    data = load_data(str(root))
    assert default_test(data) == (0.2, 5)
    division, whole = divide(data, 0, 0.1, 0.2, test_min_images=5), divide(data, 0, 0.1, 0.2)
    assert np.bincount(division.data.test.labels, minlength=4).tolist() == [4, 1, 0, 0]
    assert set(division.data.test.rows) < set(whole.data.test.rows)
    assert division.manifest["test_min_images"] == 5
    assert "test_min_images" not in whole.manifest
    assert report(whole, [])[-1] == (
        "note: the smallest classes have 1 test image each, so their scores are coarse: use a test folder of your "
        "own, or --test_fraction 0 for no test split"
    )
    out = ["--dataset", str(root), *SHORT, "--dry_run"]
    assert "test_fraction: 0.2\ntest_min_images: 5\n" in printed(capsys, *out)
    assert "test_min_images" not in printed(capsys, *out, "--test_fraction", "0.2")
    assert "note: 1 class with fewer than 3 images" in printed(capsys, *out, "--test_min_images", "3")


def test_no_test_where_most_classes_are_small(tmp_path, capsys, no_rehearsal) -> None:
    root = folders(tmp_path / "photos", {"a": 20, "b": 4, "c": 3})
    out = printed(capsys, "--dataset", str(root), *SHORT, "--dry_run")
    assert "none for testing" in out
    assert "test images" not in out
    assert "only 1 of 3 classes have 5 or more images, fewer than half; --test_fraction 0.2 also splits" in out
    assert "test_fraction: 0.0\n" in out


def test_a_run_that_carved_all_classes_resumes_with_that_test(tmp_path, capsys) -> None:
    root, run = folders(tmp_path / "photos", {"a": 9, "b": 6, "c": 3}), tmp_path / "run"
    command = ["--dataset", str(root), *SHORT, "--output_dir", str(run)]
    printed(capsys, *command, "--test_fraction", "0.2")
    (run / "metrics.json").unlink()
    before = (run / "splits.json").read_bytes()
    assert "with changed settings" not in printed(capsys, *command, "--resume")
    assert (run / "splits.json").read_bytes() == before
    (run / "metrics.json").unlink()
    answer = complaint(capsys, "train", *command, "--resume", "--test_min_images", "5")
    assert "the test split would contain different images" in answer


def test_a_carve_never_leaks(tmp_path) -> None:
    root = folders(tmp_path / "photos", {"a": 8, "b": 8})
    for i in range(6):
        (root / "a" / f"copy{i}.png").write_bytes((root / "a" / f"{i}.png").read_bytes())
    checks = check_images(load_data(str(root)))
    division = divide(checks.data, 0, 0.2, 0.4, checks.duplicates)
    kept = {np.asarray(division.trained.open(i)).tobytes() for i in range(len(division.trained.labels))}
    for part in (division.validation, division.data.test):
        assert len(part.labels) > 0
        assert not any(np.asarray(part.open(i)).tobytes() in kept for i in range(len(part.labels)))


@pytest.mark.parametrize("given", ["validation", "test"])
def test_a_carve_does_not_leak_into_a_given_split(given: str, tmp_path) -> None:
    root = folders(tmp_path / "photos" / "train", {"a": 8, "b": 8}).parent
    for name in ("a", "b"):
        (root / given / name).mkdir(parents=True)
        for i in range(6):
            shutil.copy(root / "train" / name / f"{i}.png", root / given / name)
    for seed in range(5):
        checks = check_images(load_data(str(root), splits={given: given}))
        division = divide(checks.data, seed, 0.3, 0.3, checks.duplicates, split_seed=seed)
        parts = [division.validation, division.data.test]
        held_out = [{part.open(i).tobytes() for i in range(len(part.labels))} for part in parts]
        assert all(held_out)
        assert not held_out[0] & held_out[1]


def test_evaluation_takes_the_carve_of_the_run(tmp_path) -> None:
    root = folders(tmp_path / "photos", {"a": 9, "b": 6})
    run = tmp_path / "run"
    assert main(["train", "--dataset", str(root), *SHORT, "--output_dir", str(run)]) == 0
    carved = json.loads((run / "splits.json").read_text())["splits"]
    for dataset in (None, str(root), os.path.relpath(root)):
        split = load_evaluation(run, dataset)
        assert (split.rows, split.class_names) == (carved["test"]["rows"], ["a", "b"])
    assert load_evaluation(run, split="validation").rows == carved["validation"]["rows"]
    root.rename(tmp_path / "moved")
    assert load_evaluation(run, str(tmp_path / "moved")).rows == carved["test"]["rows"]
    # Another data set has its own split; of a part of the classes it is read by name.
    other = folders(tmp_path / "other" / "test", {"b": 2}, start=90).parent
    split = load_evaluation(run, str(other))
    assert (split.labels, split.class_names) == ([1, 1], ["a", "b"])
    (tmp_path / "moved" / "a" / "0.png").unlink()
    with pytest.raises(ValueError, match="test split was split off from: it has 14 images instead of 15"):
        load_evaluation(run, str(tmp_path / "moved"))
    noise(0).save(tmp_path / "moved" / "b" / "new.png")
    with pytest.raises(ValueError, match="it has different labels, or a different order"):
        load_evaluation(run, str(tmp_path / "moved"))
    checkpoint = next(run.glob("checkpoint-*"))
    moved = folders(tmp_path / "again", {"a": 9, "b": 6})
    assert load_evaluation(checkpoint, str(moved)).rows == carved["test"]["rows"]
    assert load_evaluation(checkpoint, str(moved), "validation").rows == carved["validation"]["rows"]
    assert "files" not in json.dumps(public_manifest(json.loads((run / "splits.json").read_text())))
    # A renamed file may be an image to train on.
    (moved / "a" / "0.png").rename(moved / "a" / "zero.png")
    with pytest.raises(ValueError, match="it has different, changed or renamed images, or a different order"):
        load_evaluation(run, str(moved))
    # Other images without splits are a test.
    (tmp_path / "new" / "b").mkdir(parents=True)
    for i in range(3):
        noise(500 + i).save(tmp_path / "new" / "b" / f"new{i}.png")
    split = load_evaluation(run, str(tmp_path / "new"))
    assert (split.labels, split.class_names, split.name, split.note) == (
        [1] * 3,
        ["a", "b"],
        f"{tmp_path / 'new'}, all images",
        f"1 of the 2 classes of {run} have no images in {tmp_path / 'new'}, all images, such as 'a': the scores "
        "do not cover them",
    )
    with pytest.raises(ValueError, match=r"has no recipe\.yaml that names its data: set --dataset"):
        load_evaluation(tmp_path)
    with pytest.raises(ValueError, match="split must be train, validation or test"):
        load_evaluation(run, split="all")


def test_classes_of_other_data_are_the_models_by_name(tmp_path) -> None:
    # Folders are sorted as text, the numbers of a table as numbers.
    counts = {str(number): 2 for number in range(1, 13)}
    root, run = folders(tmp_path / "photos", counts), tmp_path / "run"
    assert main(["train", "--dataset", str(root), *SHORT, "--output_dir", str(run)]) == 0
    known = json.loads((run / "config.json").read_text())["id2label"]
    for labels in (list(range(1, 13)), [10, 2, 1], ["2", "10"]):
        file = table(tmp_path / f"new{len(labels)}", labels)
        split = load_evaluation(run, str(file))
        assert [split.class_names[label] for label in split.labels] == [known[str(label)] for label in split.labels]
        assert [known[str(label)] for label in split.labels] == list(map(str, labels))
    for labels, strange in ((["1", "2", "13"], "13"), ([0, 1], "0")):
        file = table(tmp_path / f"strange{strange}", labels)
        with pytest.raises(ValueError, match=f"has a class '{strange}' that is not a class of"):
            load_evaluation(run, str(file))


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
            ValueError, match="has no test split, and the run did not split one off, so all its images were used"
        ):
            load_evaluation(folder, str(tmp_path / "moved"))
    (tmp_path / "moved").rename(root)
    (whole / "run.json").unlink()
    with pytest.raises(ValueError, match="has no test split, and the run did not split one off"):
        load_evaluation(whole)
    # Nothing is known of a lone checkpoint.
    shutil.copytree(next(whole.glob("checkpoint-*")), tmp_path / "lone")
    split = load_evaluation(tmp_path / "lone", str(root))
    assert (len(split.labels), split.name) == (15, f"{root}, all images")
    assert "has no record of its training data" in split.note


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
        with pytest.raises(ValueError, match=f"{pair[0]} and {pair[1]} split off different images for their {split}"):
            check_same_test(pair, split)
    check_same_test([one, three], scored=data.train)
    with pytest.raises(ValueError, match="split off different images"):
        check_same_test([one, three], scored=load_evaluation(one))


def test_resume_notices_renamed_files_and_another_carve(tmp_path) -> None:
    root = folders(tmp_path / "photos", {"a": 8, "b": 8})
    before = divide(load_data(str(root)), 0, 0.1, 0.2).manifest
    check_source(before, divide(load_data(str(root)), 0, 0.1, 0.2).manifest)
    with pytest.raises(ValueError, match="the test split would contain different images"):
        check_source(before, divide(load_data(str(root)), 0, 0.1, 0.2, split_seed=1).manifest)
    with pytest.raises(
        ValueError, match=r"the validation split would .* use the original --validation_fraction, --seed and"
    ):
        check_source(before, divide(load_data(str(root)), 1, 0.1, 0.2).manifest)
    changed = root / "a" / "0.png"
    content = changed.read_bytes()
    changed.write_bytes(png(999) + b"more")
    with pytest.raises(ValueError, match=r"has changed since .* different, changed or renamed images"):
        check_source(before, divide(load_data(str(root)), 0, 0.1, 0.2).manifest)
    changed.write_bytes(content)
    changed.rename(root / "a" / "zero.png")
    with pytest.raises(ValueError, match=r"has changed since .* different, changed or renamed images"):
        check_source(before, divide(load_data(str(root)), 0, 0.1, 0.2).manifest)


def test_images_without_files_are_known_by_their_sizes(tmp_path) -> None:
    images = [{"bytes": png(i), "path": None} for i in range(6)]
    data = load_data(str(parquet(tmp_path / "a.parquet", list("xyxyxy"), Value("string"), images)))
    images[2] = {"bytes": png(2) + b"more", "path": None}
    other = load_data(str(parquet(tmp_path / "b.parquet", list("xyxyxy"), Value("string"), images)))
    one, two = describe_source(data.train), describe_source(other.train)
    assert one["selection"] == two["selection"]
    assert one["content"] != two["content"]
    assert describe_source(load_data(str(tmp_path / "a.parquet")).train) == one


def test_carves_that_find_no_image_are_a_warning(tmp_path) -> None:
    data = load_data(str(folders(tmp_path / "photos", {"a": 1, "b": 1})))
    divide(data, 0, 0.1, 0.2)
    assert data.notes == []
    assert [warning.partition(": ")[0] for warning in data.warnings] == [
        "no test split can be split off, so there will be no test scores",
        "no validation split can be split off, so the model of the last epoch is kept",
    ]


@pytest.mark.parametrize(
    ("counts", "settings", "reason"),
    [
        ({"a": 1, "b": 1}, {}, "'a', has 1 image, but needs at least 2: add images"),
        (
            {"a": 2, "b": 1},
            {"test_fraction": 0.2},
            "has 1 image left after 1 for the test split, but needs at least 2: ",
        ),
        ({"a": 6, "b": 2}, {"test_fraction": 0.99}, "'a', has 1 image left after 5 for the test split"),
        (
            {"a": 6, "b": 4},
            {"test_fraction": 0.2, "test_min_images": 9},
            "has 6 images, but needs at least 9",
        ),
        (
            {"a": 3, "b": 3},
            {"duplicates": [True] * 6},
            "every image of a class with 2 or more images has an exact copy",
        ),
    ],
)
def test_why_nothing_is_split_off(counts: dict[str, int], settings: dict, reason: str, tmp_path) -> None:
    data = load_data(str(folders(tmp_path / "photos", counts)))
    divide(data, 0, 0.1, **settings)
    assert reason in data.warnings[0]


def test_classes_without_test_images_are_named(tmp_path) -> None:
    folders(tmp_path / "train", {"a": 5, "b": 5, "c": 5})
    folders(tmp_path / "test", {"a": 1, "c": 1}, start=50)
    division = divide(load_data(str(tmp_path)), 0, 0.1)
    assert report(division, [])[2:] == ["1 class has no images to test with: 'b'"]
    assert "imbalance factor 1 (5 to 5 images per class, 4 to 4 for training)" in report(division, [])[1]


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


def test_validation_of_a_run_on_the_builtin_images(paco_run) -> None:
    split = load_evaluation(paco_run, split="validation")
    record = json.loads((paco_run / "run.json").read_text())["data"]["validation"]
    assert (len(split.labels), len(split.class_names)) == (record["images"], 20)
    assert score(paco_run, Images(split)) == json.loads((paco_run / "metrics.json").read_text())["validation"]
    assert len(load_evaluation(paco_run).labels) == 2000


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
    assert "is already finished: nothing to resume" in printed(capsys, *argv, "--output_dir", str(whole), "--resume")
    # The recipe that it left makes it again.
    printed(capsys, "--recipe", str(whole / "recipe.yaml"), "--output_dir", str(tmp_path / "again"))
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert "is finished and was trained with different settings (queue_size " in complaint(
        capsys, "train", *argv, "--output_dir", str(whole), "--resume", "--queue_size", "16"
    )


def test_manifest_knows_the_source(tmp_path) -> None:
    data = load_data(str(folders(tmp_path, {"a": 5, "b": 5})))
    source = describe_source(data.train)
    data.train = data.train.select(list(range(1, 10)))
    manifest = divide(data, 0, 0.1, 0.2, source=source).manifest
    assert (manifest["source"]["images"], manifest["splits"]["train"]["images"]) == (10, 5)
