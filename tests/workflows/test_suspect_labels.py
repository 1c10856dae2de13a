"""`paco-hf data suspects`, and `train --exclude_list` with what it wrote."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf
from user_data import SHORT, complaint, folders, printed

from paco_hf.cli import main
from paco_hf.evaluation.predictions import Predictions
from paco_hf.workflows.suspects import suspect_labels

COLORS = {"blue": (20, 30, 220), "green": (10, 200, 30), "red": (220, 20, 10)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three colors; one of green lies in red, and a mirror image of one of green in blue."""
    root, generator = tmp_path_factory.mktemp("photos") / "data", np.random.default_rng(0)
    for name, color in COLORS.items():
        for split, count in (("train", 12 if name != "red" else 5), ("test", 3)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(np.array(color) + generator.normal(0, 25, (40, 40, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{i}.png")
    (root / "train" / "green" / "0.png").rename(root / "train" / "red" / "strange, one.png")
    return root


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(3)
    model = timm.create_model("test_resnet", num_classes=7, pretrained=False)
    model.pretrained_cfg |= {"input_size": (3, 64, 64), "interpolation": "bilinear", "crop_pct": 1.0}
    save_for_hf(model, str(folder / "weights"), safe_serialization=True)
    words = ["--dataset", str(photos), "--backbone", str(folder / "weights"), "--output_dir", str(folder / "run")]
    settings = ["--image_size", "32", "--image_fit", "crop", "--num_train_epochs", "2", "--inspect", "false"]
    assert main(["train", *words, *settings, "--report", "false"]) == 0
    return folder / "run"


def test_out_of_fold_predictions_are_kept(run: Path) -> None:
    predictions = Predictions.read(run / "evaluation-validation" / "predictions.parquet")
    assert predictions.cross_validated
    assert len(predictions) == 29
    assert set(predictions.split) == {"train"}
    assert "train/red/strange, one.png" in predictions.file


def test_a_strange_label_is_listed_and_left_out(run: Path, photos: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "suspects.csv"
    assert main(["data", "suspects", str(run), "--output", str(output)]) == 0
    assert "of 29 labels of" in capsys.readouterr().out
    rows = [*csv.DictReader(output.read_text(encoding="utf-8").splitlines())]
    assert list(rows[0]) == ["file", "label", "suggested", "probability", "reason"]
    assert rows[0]["file"] == "train/red/strange, one.png"
    assert (rows[0]["label"], rows[0]["suggested"]) == ("red", "green")
    assert 0 < float(rows[0]["probability"]) <= 1
    page = output.with_suffix(".html").read_text(encoding="utf-8")
    assert page.count("<img") >= len(rows)
    assert str(photos) not in page
    assert str(photos) not in output.read_text(encoding="utf-8")

    words = ["--dataset", str(photos), "--inspect", "false", *SHORT, "--validation_fraction", "0"]
    out = printed(capsys, *words, "--output_dir", str(tmp_path / "run"), "--exclude_list", str(output))
    assert f"excluded by {output}: {len(rows)} image" in out
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["data"]["train"]["images"] == 29 - len(rows) if "data" in record else True
    manifest = json.loads((tmp_path / "run" / "splits.json").read_text())
    assert len(manifest["splits"]["train"]["rows"]) == 29 - len(rows)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert sum(config["class_counts"]) == 29 - len(rows)


def test_number_lists_the_worst(run: Path) -> None:
    outcome = suspect_labels(str(run), number=7)
    assert len(outcome.suspects) == 7
    assert outcome.names[outcome.suspects[0].row] == "train/red/strange, one.png"
    assert outcome.suspects[-1].reason == "less certain than others, not suspect"


def test_what_cannot_be_judged_is_one_line(paco_run: Path, run: Path, tmp_path: Path, capsys) -> None:
    output = ["--output", str(tmp_path / "s.csv")]
    assert "trained all its weights on the labels of the training images" in complaint(
        capsys, "data", "suspects", str(paco_run), "--split", "train", *output
    )
    assert "no validation split" in complaint(capsys, "data", "suspects", str(run), "--split", "validation", *output)
    assert "must be a file ending in .csv" in complaint(capsys, "data", "suspects", str(run), "--output", "s.txt")
    assert not (tmp_path / "s.csv").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train/red/9.png\n", "1 of the 1 names in .* are not in .*, such as train/red/9.png"),
        (
            "test/red/0.png\n",
            "contains an image of the test split, test/red/0.png, and the test split does not change",
        ),
        ("train/red/0.png\ntrain/red/1.png\n", "leaves the class 'red' without training images"),
    ],
)
def test_lists_that_do_not_fit(text: str, message: str, tmp_path: Path, capsys) -> None:
    for split in ("train", "test"):
        folders(tmp_path / "data" / split, {"blue": 3, "red": 2}, start=10 * len(split))
    (tmp_path / "list.txt").write_text(text)
    words = ["--dataset", str(tmp_path / "data"), *SHORT, "--output_dir", str(tmp_path / "run")]
    line = complaint(capsys, "train", *words, "--exclude_list", str(tmp_path / "list.txt"))
    assert re.search(message, line)
    assert not (tmp_path / "run").exists()


def test_a_table_without_a_column_of_files(tmp_path: Path, capsys) -> None:
    folders(tmp_path / "data", {"blue": 3, "red": 2})
    (tmp_path / "list.csv").write_text("name\nblue/0.png\n")
    words = ["--dataset", str(tmp_path / "data"), *SHORT, "--output_dir", str(tmp_path / "run")]
    line = complaint(capsys, "train", *words, "--exclude_list", str(tmp_path / "list.csv"))
    assert "has no column `file` (columns: name)" in line


def test_the_test_that_is_split_off_stays_as_it_is(tmp_path: Path, capsys) -> None:
    folders(tmp_path / "data", {"blue": 12, "red": 12})
    words = ["--dataset", str(tmp_path / "data"), *SHORT, "--output_dir", str(tmp_path / "run"), "--overwrite"]
    printed(capsys, *words)
    before = json.loads((tmp_path / "run" / "splits.json").read_text())["splits"]
    out, kept = before["train"]["files"][0], before["validation"]["files"][0]
    (tmp_path / "list.txt").write_text(f"{out}\n\n{kept}\n")
    assert f"excluded by {tmp_path / 'list.txt'}: 2 images" in printed(
        capsys, *words, "--exclude_list", str(tmp_path / "list.txt")
    )
    after = json.loads((tmp_path / "run" / "splits.json").read_text())["splits"]
    assert after["test"] == before["test"]
    assert set(after["train"]["files"]) == set(before["train"]["files"]) - {out}
    assert set(after["validation"]["files"]) == set(before["validation"]["files"]) - {kept}
    assert main(["evaluate", str(tmp_path / "run"), "--no_report"]) == 0
    (tmp_path / "list.txt").write_text(before["test"]["files"][0])
    line = complaint(capsys, "train", *words, "--exclude_list", str(tmp_path / "list.txt"))
    assert "images of the test split" in line
    (tmp_path / "list.txt").write_text("\n")
    assert "contains no image names" in complaint(
        capsys, "train", *words, "--exclude_list", str(tmp_path / "list.txt")
    )


def test_what_cannot_be_made_anew_is_not_written_over(run: Path, photos: Path, capsys) -> None:
    words = ("evaluate", str(run), "--split", "validation", "--dataset", str(photos), "--validation_split", "test")
    assert "set --output_dir DIR, or use --no_report" in complaint(capsys, *words)
    assert Predictions.read(run / "evaluation-validation" / "predictions.parquet").cross_validated


def test_data_of_the_run_by_another_name_is_judged_alike(run: Path, photos: Path, paco_run: Path, capsys) -> None:
    default, named = (suspect_labels(str(run), dataset=name, number=5) for name in (None, str(photos)))
    assert named.rows() == default.rows()
    output = ("--output", str(photos.parent / "s.csv"))
    line = complaint(capsys, "data", "suspects", str(paco_run), "--dataset", "builtin", "--split", "train", *output)
    assert "trained all its weights on the labels of the training images" in line
