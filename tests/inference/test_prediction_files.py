"""Predictions of many images in a file: what is in it, and that one that was stopped and resumed is no other."""

import csv
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from fresh_processes import FreshProcesses, rank_environments
from interrupted_runs import Fork, kill_when
from patience import ended, wait_until
from user_data import complaint, folders, noise, png

from paco_hf.cli import main
from paco_hf.data.loading import load_data
from paco_hf.inference import batches, prediction_files
from paco_hf.inference.features import embed_files
from paco_hf.inference.prediction import predict
from paco_hf.inference.prediction_folder import FORMATS
from paco_hf.inference.unlabeled import find_images
from paco_hf.workflows.calibrate import update_config

PUBLISHED = str(ROOT / "model_cards" / "paco-resnet32-cifar100-lt-100")
SMALL = ["--batch_size", "4", "--top", "3"]


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_files, "_PART_ROWS", 8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """63 images in two folders; one of them is none, and its name has a comma."""
    folder = folders(tmp_path_factory.mktemp("many") / "photos", {"cat": 40, "dog": 22})
    (folder / "cat" / "1, bad.png").write_bytes(b"no image")
    return folder


def write(photos: Path, *files: Path, more: tuple[str, ...] = ()) -> int:
    output = ["--output", str(files[0]), *(["--features", str(files[1])] if files[1:] else [])]
    return main(["predict", PUBLISHED, str(photos), *SMALL, *output, *more])


def test_each_format_has_what_predict_gives(photos: Path, tmp_path: Path, capsys) -> None:
    expected = predict(PUBLISHED, [str(photos)], top=3, batch_size=4)
    for ending in FORMATS:
        assert write(photos, tmp_path / f"made{ending}", tmp_path / "features.npy") == 1
        out, err = capsys.readouterr()
        assert out.startswith("predictions of 63 images: ")
        assert "paco-hf predict: 1 of 63 images cannot be read, such as: " in err
    assert [json.loads(line) for line in (tmp_path / "made.jsonl").read_text().splitlines()] == expected
    rows = pq.read_table(tmp_path / "made.parquet").to_pylist()
    for row, entry in zip(rows, expected, strict=True):
        assert [row[key] for key in ("file", "label", "score")] == [entry[key] for key in ("file", "label", "score")]
        assert [*zip(row["top_labels"], row["top_scores"], strict=True)] == [
            (t["label"], t["score"]) for t in entry["top"]
        ]
        assert row["error"] == entry.get("error")
    with open(tmp_path / "made.csv", encoding="utf-8", newline="") as file:
        lines = [*csv.DictReader(file)]
    assert [*lines[0]] == ["file", "label", "score", "label_2", "score_2", "label_3", "score_3", "error"]
    for line, entry in zip(lines, expected, strict=True):
        assert (line["file"], line["label"], line["error"]) == (
            entry["file"],
            entry["label"] or "",
            entry.get("error", ""),
        )
        assert [np.float32(line[f"score_{i + 1}"]) for i in range(1, len(entry["top"]))] == [
            np.float32(t["score"]) for t in entry["top"][1:]
        ]
    features = np.load(tmp_path / "features.npy", mmap_mode="r")
    good = ["error" not in entry for entry in expected]
    assert np.isnan(features[np.logical_not(good)]).all()
    embedded = embed_files(PUBLISHED, [str(photos)], batch_size=4).features
    np.testing.assert_array_equal(features[good], embedded)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "features.npy",
        "made.csv",
        "made.jsonl",
        "made.parquet",
    ]


def slowly(photos: Path, output: Path, features: Path, more: tuple[str, ...]) -> None:
    steps = prediction_files.classify_batches

    def slow(*arguments, **options):
        for step in steps(*arguments, **options):
            time.sleep(0.02)
            yield step

    prediction_files.classify_batches = slow
    write(photos, output, features, more=more)


@pytest.mark.parametrize("ending", FORMATS)
def test_killed_and_resumed_it_is_the_same(ending: str, photos: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(batches, "available_cores", lambda: 2)
    whole, made = tmp_path / f"whole{ending}", tmp_path / f"made{ending}"
    assert write(photos, whole, tmp_path / "whole.npy") == 1
    chance, partial = random.Random(ending), tmp_path / f"made{ending}.partial"
    more: tuple[str, ...] = ()
    for parts in (chance.randint(1, 3), chance.randint(4, 6)):
        fork = Fork(slowly, photos, made, tmp_path / "made.npy", more)
        kill_when(fork, lambda n=parts: len([*partial.glob("part-*.parquet")]) >= n, chance.random() / 10)
        assert not made.exists()
        more = ("--resume",)
    assert 4 <= len([*partial.glob("part-*.parquet")]) < 8
    assert write(photos, made, tmp_path / "made.npy", more=more) == 1
    assert made.read_bytes() == whole.read_bytes()
    assert (tmp_path / "made.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert not partial.exists()


def test_what_is_left_is_gone_on_with_or_removed(photos: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    made, features = tmp_path / "made.csv", tmp_path / "made.npy"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prediction_files, "_finish", stop)
        assert write(photos, made, features) == 130
    assert "predict: stopped; resume with --resume" in capsys.readouterr().err
    command = ["predict", PUBLISHED, str(photos), *SMALL, "--output", str(made)]
    one = ["predict", PUBLISHED, str(photos / "cat" / "0.png"), *command[3:]]
    assert "resume with --resume, or start over with --overwrite" in complaint(capsys, *command)
    assert "use only one of them" in complaint(capsys, *command, "--resume", "--overwrite")
    for words, message in (
        ([*command, "--top", "2"], "was written with a different top"),
        ([*command, "--batch_size", "3"], "was written with a different batch_size"),
        (command, "was written with a different features"),
        ([*command, "--features", str(features), "--prior", "training"], "was written with a different prior"),
        ([*one, "--features", str(features)], "was written with different images"),
    ):
        assert message in complaint(capsys, *words, "--resume")
    with monkeypatch.context() as patch:  # all is there: nothing is computed
        patch.setattr(prediction_files, "classify_batches", lambda *_, **__: pytest.fail("it computed"))
        assert write(photos, made, features, more=("--resume",)) == 1
    assert len(made.read_text().splitlines()) == 64
    with monkeypatch.context() as patch:
        patch.setattr(prediction_files, "_finish", stop)
        assert write(photos, made, features) == 130
    assert main([*command, "--overwrite"]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.csv", "made.npy"]


def test_bad_outputs_are_refused_in_a_line(photos: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "taken.csv.partial").mkdir()
    (tmp_path / "taken.csv.partial" / "mine").write_text("x")
    (tmp_path / "list.csv").write_text(f"file\n{photos / 'cat' / '0.png'}\n")
    command = ["predict", PUBLISHED, str(photos)]
    for more, message in (
        (["--output", str(tmp_path / "made.txt")], "--output must be a file ending in .csv, .jsonl, .parquet, got "),
        (["--output", str(tmp_path / "none" / "made.csv")], "there is no folder"),
        (["--output", str(tmp_path / "taken.csv")], "taken.csv.partial exists and does not contain predictions"),
        (["--output", str(tmp_path / "made.csv"), "--json"], "remove one of them"),
        (
            ["--output", str(tmp_path / "a.csv"), "--features", str(tmp_path / "f.npz")],
            "must be a file ending in .npy",
        ),
        (["--features", str(tmp_path / "f.npy")], "--features needs --output"),
        ([str(tmp_path / "list.csv"), "--output", str(tmp_path / "list.csv")], "which is also an input: use another"),
        (["--resume"], "--resume needs --output"),
        (["--output", str(tmp_path / "made.csv"), "--split", "test"], "has no split 'test'"),
    ):
        assert message in complaint(capsys, *command, *more), more
    assert main(["predict", PUBLISHED, str(photos), "--strict", "--output", str(tmp_path / "made.csv"), *SMALL]) == 2
    assert "cannot be decoded" in capsys.readouterr().err
    assert not (tmp_path / "made.csv").exists()


def test_prepared_shards_and_one_of_their_splits(stream: Path, tmp_path: Path, capsys) -> None:
    names = find_images([stream]).names
    assert [names[0], names[329], names[330], len(names)] == [
        *(f"{stream}#train/{row}" for row in (0, 329)),
        f"{stream}#test/0",
        338,
    ]
    output = tmp_path / "made.jsonl"
    assert main(["predict", PUBLISHED, str(stream), "--split", "test", "--output", str(output)]) == 0
    entries = [json.loads(line) for line in output.read_text().splitlines()]
    shard = predict(PUBLISHED, [str(next(stream.glob("test-*.parquet")))])
    assert [entry["label"] for entry in entries] == [entry["label"] for entry in shard]
    assert [entry["file"] for entry in entries] == [f"{stream}#test/{row}" for row in range(8)]
    line = complaint(capsys, "predict", PUBLISHED, str(stream), "--split", "val", "--output", str(output))
    assert "has no split 'val': choose one of 'train', 'test' with --split" in line


def test_a_split_of_class_folders(tmp_path: Path) -> None:
    folders(tmp_path / "data" / "train", {"a": 2, "b": 1})
    folders(tmp_path / "data" / "test", {"a": 1, "b": 1})
    assert len(find_images([tmp_path / "data"])) == 5
    images = find_images([tmp_path / "data"], split="test")
    assert [Path(name).relative_to(tmp_path).parts[:2] for name in images.names] == [("data", "test")] * 2


def test_few_images_start_no_processes(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "available_cores", lambda: 2)
    monkeypatch.setattr(batches, "fitting_workers", lambda *_: pytest.fail("it would start processes"))
    files = [str(photos / "cat" / f"{i}.png") for i in range(8)]
    assert len(predict(PUBLISHED, files, batch_size=4)) == 8


def test_mapped_rows_are_mapped_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(6)]}
    Dataset.from_dict(rows, features=Features({"image": ImageFeature()})).save_to_disk(tmp_path / "saved")
    monkeypatch.setattr("paco_hf.inference.image_parts._MAPPED", 1000)
    images = find_images([tmp_path / "saved"])
    (part,) = images.parts
    first = part.encoded
    assert [images.open(i).tobytes() for i in range(6)] == [noise(i).tobytes() for i in range(6)]
    assert part.encoded is not first


def test_parquet_is_read_in_any_order_without_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paco_hf.inference.parquet_rows._ROWS", 2)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for number, (start, stop) in enumerate([(0, 7), (7, 12)]):
        encoded = [{"bytes": png(i), "path": None} for i in range(start, stop)]
        table = pa.table({"image": encoded, "text": ["x"] * len(encoded)})
        pq.write_table(table, tmp_path / f"train-{number:05d}-of-00002.parquet", row_group_size=3)
    images = find_images([tmp_path])
    order = [0, 1, 5, 11, 2, 2, 8, 7, *range(12)]
    assert [images.open(i).tobytes() for i in order] == [noise(i).tobytes() for i in order]
    assert pickle.loads(pickle.dumps(images)).open(9).tobytes() == noise(9).tobytes()
    assert images.names[11] == f"{tmp_path}#11"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_suspect_labels_are_marked(ending: str, tmp_path: Path, capsys) -> None:
    split, planted = load_data("builtin").test, set()
    for label in range(5):
        rows = [row for row, value in enumerate(split.labels) if value == label][:12]
        for place, row in enumerate(rows):
            name = split.class_names[label if place else (label + 1) % 5]
            file = tmp_path / "data" / name / f"{row}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            split.open(row).save(file)
            planted |= set() if place else {str(file)}
    (tmp_path / "data" / "apple" / "none.png").write_bytes(b"x")
    made = tmp_path / f"made{ending}"
    assert main(["predict", PUBLISHED, str(tmp_path / "data"), "--suspects", "--output", str(made)]) == 1
    out = capsys.readouterr().out
    rows = pq.read_table(made).to_pylist() if ending == ".parquet" else [*csv.DictReader(made.open(encoding="utf-8"))]
    suspects = {row["file"] for row in rows if row["suspect"] in (True, "true")}
    assert f"labels that are probably wrong: {len(suspects)}\n" in out
    assert len(suspects & planted) >= 4
    assert len(suspects - planted) <= 4
    for row in rows:
        assert row["data_label"] == Path(row["file"]).parent.name
        if row["label"] == row["data_label"]:
            assert float(row["label_probability"]) == pytest.approx(float(row["score"]), rel=1e-6)
    other = folders(tmp_path / "other", {"a": 2, "b": 2})
    assert main(["predict", PUBLISHED, str(other), "--suspects", "--output", str(made)]) == 2
    assert "has a class 'a' that" in capsys.readouterr().err.splitlines()[-1]


RANK = """
from paco_hf.inference import prediction_files
prediction_files._PART_ROWS = 8
from paco_hf.cli import main
main({command!r})
"""


def test_several_processes_write_one_file(photos: Path, tmp_path: Path, with_trainer: FreshProcesses) -> None:
    assert write(photos, tmp_path / "one.csv", tmp_path / "one.npy") == 1
    output = ["--output", str(tmp_path / "two.csv"), "--features", str(tmp_path / "two.npy")]
    code = RANK.format(command=["predict", PUBLISHED, str(photos), *SMALL, *output])
    outs = with_trainer.run(code, code, environments=rank_environments(2))
    assert [out.startswith("predictions of 63 images") for out in outs] == [True, False]
    for name in ("csv", "npy"):
        assert (tmp_path / f"two.{name}").read_bytes() == (tmp_path / f"one.{name}").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_at_any_moment_no_process_is_left(number: int, tmp_path: Path) -> None:
    """And what is resumed is the same, three times."""
    photos = folders(tmp_path / "photos", {"a": 5000})
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "paco_hf", "predict", PUBLISHED, str(photos), "--output"]
    made, chance = tmp_path / "made.csv", random.Random(int(number))
    subprocess.run([*command, str(tmp_path / "whole.csv")], check=True, env=environment)
    more: tuple[str, ...] = ()
    for i in range(3):
        process = subprocess.Popen([*command, str(made), *more], env=environment, stderr=subprocess.PIPE, text=True)
        wait_until(lambda i=i: len([*tmp_path.glob("made.csv.partial/part-*.parquet")]) > 2 * i, process)
        time.sleep(chance.random() / 4)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        _, errors = ended(process)
        assert process.returncode == (130 if number == signal.SIGINT else -number), errors
        assert "Traceback" not in errors
        assert children
        assert psutil.wait_procs(children, timeout=30)[1] == []
        more = ("--resume",)
    subprocess.run([*command, str(made), *more], check=True, env=environment)
    assert made.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_where_the_model_had_better_not_answer_is_in_the_file(photos: Path, tmp_path: Path) -> None:
    model = shutil.copytree(PUBLISHED, tmp_path / "model")
    rule = {"target": "coverage=0.5", "thresholds": [0.2] * 100, "temperature": None, "inference_prior": None}
    rule["temperature"] = json.loads((model / "config.json").read_text())["temperature"]
    update_config(str(model), abstention=rule)
    entries = predict(str(model), [str(photos)])
    expected = [None if "error" in entry else entry.get("abstained", False) for entry in entries]
    assert 0 < sum(filter(None, expected)) < 62
    for ending in FORMATS:
        assert main(["predict", str(model), str(photos), "--output", str(tmp_path / f"made{ending}")]) == 1
    assert pq.read_table(tmp_path / "made.parquet")["abstained"].to_pylist() == expected
    lines = [json.loads(line) for line in (tmp_path / "made.jsonl").read_text().splitlines()]
    assert lines == entries
    assert {line.get("abstained", True) for line in lines} == {True}
    with open(tmp_path / "made.csv", encoding="utf-8", newline="") as file:
        words = {None: "", True: "true", False: "false"}
        assert [line["abstained"] for line in csv.DictReader(file)] == [words[value] for value in expected]
