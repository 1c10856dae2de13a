"""Prepared shards: their classes are a model's by name, and a run that is resumed sees that they are others."""

import json
import os
import shutil
from pathlib import Path

import pytest
from user_data import complaint, folders, noise, printed

from paco_hf.data.loading import load_data
from paco_hf.data.streaming.prepare import prepare
from paco_hf.workflows.evaluation_data import load_evaluation

COUNTS = {"cat": 20, "dog": 16}
FLAGS = ["--backbone", "test_resnet", "--image_size", "16", "--precision", "fp32", "--validation_fraction", "0"]
FLAGS += ["--per_device_train_batch_size", "8", "--report", "false", "--save_strategy", "steps", "--save_steps", "2"]


def prepared(root: Path, train: dict[str, int], test: dict[str, int] | None = None, start: int = 0) -> str:
    for folder in (root / "source", root / "out"):
        shutil.rmtree(folder, ignore_errors=True)
    folders(root / "source" / "train", train, start)
    for name in train:  # whose folders are the classes
        (root / "source" / "test" / name).mkdir(parents=True)
    for name, count in (test or dict.fromkeys(train, 3)).items():
        for i in range(count):
            noise(start + 900 + i).save(root / "source" / "test" / name / f"{i}.png")
    prepare("mine", str(root / "source"), str(root / "out"))
    return str(root / "out")


def model(root: Path, *names: str) -> Path:
    root.mkdir(exist_ok=True)
    (root / "config.json").write_text(json.dumps({"id2label": dict(enumerate(names))}))
    return root


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> str:
    return prepared(tmp_path_factory.mktemp("pets"), COUNTS | {"elk": 4}, {"cat": 3, "dog": 2, "elk": 1})


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "names", [("elk", "dog", "cat"), ("ant", "cat", "dog", "elk"), ("cat", "dog", "elk", "yak"), ("cat", "dog", "elk")]
)
def test_shards_are_scored_by_name(names: tuple[str, ...], streaming: bool, pets: str, tmp_path: Path) -> None:
    test = load_data(pets, streaming=streaming).test
    split = load_evaluation(model(tmp_path, *names), pets, streaming=streaming)
    assert split.class_names == list(names)
    assert [names[label] for label in split.labels] == [test.class_names[label] for label in test.labels]
    assert [split.open(i).tobytes() for i in range(6)] == [test.open(i).tobytes() for i in range(6)]
    for name in {*names} - {"cat", "dog", "elk"}:
        said = f"1 of the 4 classes of {tmp_path} have no images in {split.name}, such as {name!r}: the scores"
        assert split.note == f"{said} do not cover them"
    part = split.select([0, 5])
    assert [names[label] for label in part.labels] == [test.class_names[test.labels[i]] for i in (0, 5)]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("names", "hint"), [(("cat", "dog"), "'elk'"), (("Cat", "dog", "elk"), "; 'Cat' differs from it")]
)
def test_shards_of_unknown_classes_are_refused(names, hint: str, streaming: bool, pets: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has a class '(elk|cat)' that is not a class of") as caught:
        load_evaluation(model(tmp_path, *names), pets, streaming=streaming)
    assert hint in str(caught.value)


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> list[str]:
    monkeypatch.chdir(tmp_path)
    flags = ["--dataset", prepared(tmp_path, COUNTS), "--streaming", "true", *FLAGS, "--output_dir", "run"]
    printed(capsys, *flags, "--max_steps", "2")
    (tmp_path / "run" / "metrics.json").unlink()
    return [*flags, "--max_steps", "4", "--resume"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"cat": 19, "dog": 16}, "test": {"cat": 4, "dog": 3}}, "train: 35 images instead of 36"),  # moved
        ({"train": {"cat": 20, "wolf": 16}}, "train: different labels, or a different order"),
        ({"train": {"ant": 4, "cat": 20, "dog": 16}}, "train: 40 images instead of 36"),
        ({"train": {"Cat": 20, "dog": 16}}, "train: different labels, or a different order"),
        ({"train": COUNTS, "start": 5000}, "train: different, changed or renamed images"),  # replaced
    ],
)
def test_a_resume_sees_other_shards(changes: dict, message: str, started: list[str], tmp_path: Path, capsys) -> None:
    prepared(tmp_path, **changes)
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert message in complaint(capsys, "train", *started)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def test_a_resume_of_the_same_shards(started: list[str], tmp_path: Path, capsys) -> None:
    prepared(tmp_path, COUNTS)
    assert "resuming from run/checkpoint-2" in printed(capsys, *started)
    (Path("run") / "metrics.json").unlink()
    # Of the run, whose shards are now of other classes.
    prepared(tmp_path, {"Dog": 2} | COUNTS, {"Dog": 1, "cat": 3, "dog": 3})
    assert "has a class 'Dog' that is not a class of run" in complaint(capsys, "evaluate", "run", "--no_report")


def test_sources_that_are_written_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """An image replaced under its size and time stamp, when the preparation was stopped, and when it was complete."""
    from paco_hf.data.streaming import prepare as module

    source = folders(tmp_path / "source" / "train", COUNTS, size=(8, 8)).parent
    image, other = source / "train" / "cat" / "0.png", tmp_path / "other.png"
    out = [str(source), str(tmp_path / "out")]

    def replace(number: int) -> None:
        state = image.stat()
        noise(number, (8, 8)).save(other)
        assert other.stat().st_size == state.st_size
        os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
        other.replace(image)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_finish", lambda *arguments: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OSError, match="full"):
            prepare("mine", *out)
    assert list((tmp_path / "out").glob("*.parquet"))
    replace(7001)
    manifest = prepare("mine", *out)
    assert "have changed since the interruption: starting over" in capsys.readouterr().out
    train = load_data(out[1], streaming=True).train
    assert image.read_bytes() in [train._read_group(0)[row].as_py()["bytes"] for row in range(36)]
    replace(7002)
    assert prepare("mine", *out) == manifest
    assert f"if images have changed, remove {out[1]}, and prepare the data again" in capsys.readouterr().out
