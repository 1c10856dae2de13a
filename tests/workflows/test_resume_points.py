"""What a training resumes from, and that it is still the training that was started."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_trainer import make_trainer
from user_data import complaint, folders, printed

TINY = ["--backbone", "test_resnet", "--precision", "fp32", "--per_device_train_batch_size", "8", "--report", "false"]
STEPS = ["--save_strategy", "steps", "--save_steps", "2", "--save_total_limit", "3"]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data with a test split of its own, and a run of six steps on it with three checkpoints."""
    home = tmp_path_factory.mktemp("started")
    folders(home / "data" / "train", {"cat": 20, "dog": 16})
    folders(home / "data" / "test", {"cat": 4, "dog": 4})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        from paco_hf.cli import main

        assert main(["train", "--dataset", "data", *TINY, *STEPS, "--max_steps", "6", "--output_dir", "run"]) == 0
    return home


@pytest.fixture
def copy(started: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(started, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def train(*flags: str) -> list[str]:
    return ["--dataset", "data", *TINY, *STEPS, "--output_dir", "run", *flags]


def move_to_test() -> None:
    for name in ("cat", "dog"):
        next(iter(sorted(Path(f"data/train/{name}").iterdir()))).rename(f"data/test/{name}/moved.png")


def replace_one() -> None:
    shutil.copy("data/train/dog/0.png", "data/test/cat/0.png")


def add_one() -> None:
    shutil.copy("data/train/dog/0.png", "data/train/dog/new.png")


def rename_class() -> None:
    for split in ("train", "test"):
        Path(f"data/{split}/dog").rename(f"data/{split}/wolf")


def remove_test() -> None:
    shutil.rmtree("data/test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (move_to_test, "34 images instead of 36"),
        (replace_one, "test: different, changed or renamed images"),
        (add_one, "37 images instead of 36"),
        (rename_class, "different, changed or renamed images"),
        (remove_test, "the test split would contain different images"),
    ],
)
def test_changed_data_is_seen_by_a_resume(change, message: str, copy: Path, capsys) -> None:
    (copy / "run" / "metrics.json").unlink()
    change()
    before = sorted(path.name for path in (copy / "run").iterdir())
    assert message in complaint(capsys, "train", *train("--max_steps", "8", "--resume"))
    assert sorted(path.name for path in (copy / "run").iterdir()) == before


def test_data_without_carved_splits_is_checked_too(copy: Path, capsys) -> None:
    whole = ["--validation_fraction", "0", "--overwrite"]
    printed(capsys, *train("--max_steps", "2", *whole))
    assert not (copy / "run" / "splits.json").exists()
    (copy / "run" / "metrics.json").unlink()
    move_to_test()
    error = complaint(capsys, "train", *train("--max_steps", "4", "--validation_fraction", "0", "--resume"))
    assert "the data has changed since the run was started (train: 34 images instead of 36; test: 10 images" in error
    assert (
        "instead of 8), so the run may have been trained on images of the new test or validation split: restore "
        "the data, or start"
    ) in error


def test_a_checkpoint_of_choice(copy: Path, capsys) -> None:
    (copy / "run" / "metrics.json").unlink()
    out = printed(capsys, *train("--max_steps", "6", "--resume_from_checkpoint", "run/checkpoint-2"))
    assert "resuming from run/checkpoint-2" in out
    checkpoints = sorted(path.name for path in (copy / "run").glob("checkpoint-*"))
    assert [name.removeprefix("checkpoint-") for name in checkpoints] == ["2", "4", "4.set-aside", "6", "6.set-aside"]
    again, first = ((copy / "run" / f"checkpoint-6{end}" / "model.safetensors") for end in ("", ".set-aside"))
    assert again.read_bytes() == first.read_bytes()
    out = printed(capsys, *train("--max_steps", "8", "--resume_from_checkpoint", "true"))
    assert "resuming from run/checkpoint-6" in out
    # Of another run, into a new folder.
    shutil.move(copy / "run", copy / "old")
    out = printed(capsys, *train("--max_steps", "6", "--resume_from_checkpoint", "old/checkpoint-4"))
    assert "resuming from old/checkpoint-4" in out
    assert (copy / "run" / "metrics.json").is_file()
    printed(capsys, *train("--overwrite", "--max_steps", "2"))
    assert [path.name for path in (copy / "run").glob("checkpoint-*")] == ["checkpoint-2"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--resume_from_checkpoint", "no/such/checkpoint-2"], "no/such/checkpoint-2 is not a training checkpoint"),
        (["--resume_from_checkpoint", "run"], "run is not a training checkpoint: pass a folder such as"),
        (["--resume_from_checkpoint", "true", "--resume"], "both select a checkpoint"),
        (["--resume_from_checkpoint", "run/checkpoint-4", "--overwrite"], "--overwrite would remove run/checkpoint-4"),
        (["--resume_from_checkpoint", "true", "--output_dir", "new"], "new has no complete checkpoint"),
    ],
)
def test_what_cannot_be_resumed_from_is_refused(flags: list[str], message: str, copy: Path, capsys) -> None:
    assert message in complaint(capsys, "train", *train(*flags))
    assert not (copy / "new").exists()
    assert len(list((copy / "run").glob("checkpoint-?"))) == 3


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "trainer_state.json"])
def test_of_a_damaged_checkpoint_the_one_before_is_taken(name: str, copy: Path, capsys) -> None:
    (copy / "run" / "metrics.json").unlink()
    file = copy / "run" / "checkpoint-6" / name
    file.write_bytes(file.read_bytes()[:100])
    out = printed(capsys, *train("--max_steps", "6", "--resume"))
    assert f"WARNING: run/checkpoint-6/{name} cannot be read" in out
    assert "resuming from run/checkpoint-4" in out
    assert (copy / "run" / "checkpoint-6" / name).stat().st_size > 100


DAMAGES = {
    "half": lambda content: content[: len(content) // 2],
    "all but its end": lambda content: content[:-7],
    "nothing": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "a list": lambda content: b"[1, 2]",
    "no file": None,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
)
def test_what_is_damaged_is_named_with_the_flag_that_chooses_another(
    name: str, damage: str, copy: Path, capsys
) -> None:
    file, change = Path("run/checkpoint-6") / name, DAMAGES[damage]
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change(file.read_bytes()))
    flags = ["--resume_from_checkpoint", "run/checkpoint-6", "--output_dir", "new"]
    if (name, damage) != ("trainer_state.json", "no file"):  # which makes it a checkpoint
        line = complaint(capsys, "train", *train(*flags))
        assert (
            f"run/checkpoint-6/{name} cannot be read" in line
            or f"the checkpoint run/checkpoint-6 has no {name}: " in line
        )
        assert line.endswith(
            "choose another with --resume_from_checkpoint, such as run/checkpoint-4, or start over with --overwrite"
        )
        assert complaint(capsys, "train", *train(*flags, "--dry_run")) == line
    if name == "model.safetensors":
        line = complaint(capsys, "evaluate", "run/checkpoint-6", "--no_report")
        lost = "has no config.json with weights: pass a run folder, or a checkpoint in one"
        assert (lost if damage == "no file" else "as it is damaged: restore it, or pass another checkpoint") in line
        assert "checkpoint-6" in line


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_what_else_is_damaged_is_named(name: str, copy: Path, capsys) -> None:
    file = Path("run/checkpoint-6") / name
    for content in (b"", b"[1]", file.read_bytes()[:-9]):
        file.write_bytes(content)
        line = complaint(capsys, "predict", "run/checkpoint-6", "run")
        assert f"run/checkpoint-6/{name} is damaged" in line
        assert "restore it, or pass another checkpoint" in line
    file.unlink()
    assert f"run/checkpoint-6 has no {name}" in complaint(capsys, "predict", "run/checkpoint-6", "run")


def test_a_contrastive_training_needs_its_state(tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 9}
    make_trainer(tmp_path, max_steps=2, **settings).train()
    (tmp_path / "checkpoint-2" / "paco_training_state.safetensors").unlink()
    trainer = make_trainer(tmp_path, max_steps=2, **settings)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.resumed_step == 1


def test_the_best_weights_come_with_a_checkpoint_of_another_folder(copy: Path, capsys) -> None:
    """Every epoch's score is the same or worse here: the best is that of the first run."""
    state = json.loads(Path("run/checkpoint-2/trainer_state.json").read_text())
    best = state["best_global_step"] or 2
    state |= {"best_global_step": best, "best_metric": 2.0}  # nothing is better
    Path("run/checkpoint-2/trainer_state.json").write_text(json.dumps(state))
    if not (selected := Path(f"run/selected-{best}.safetensors")).exists():
        shutil.copy("run/model.safetensors", selected)
    where = ["--resume_from_checkpoint", "run/checkpoint-2", "--output_dir", "other"]
    out = printed(capsys, *train("--max_steps", "4", *where))
    assert f"selected the model of step {best} on the validation split" in out
    assert Path("other/model.safetensors").exists()
    shutil.rmtree("other")
    selected.unlink()
    assert "model of step" in printed(capsys, *train("--max_steps", "4", *where))


def test_nothing_is_cleared_before_the_schedule_is_known_to_work(copy: Path, capsys) -> None:
    before = {path: path.stat().st_size for path in Path("run").rglob("*") if path.is_file()}
    wrong = ["--lr_scheduler_type", "linear", "--lr_scheduler_kwargs", '{"num_cycles": 2}', "--epoch_schedule", "none"]
    assert "num_cycles" in complaint(capsys, "train", *train("--max_steps", "4", "--overwrite", *wrong))
    assert {path: path.stat().st_size for path in Path("run").rglob("*") if path.is_file()} == before


def test_a_trainer_takes_the_checkpoint_before_a_damaged_one(tmp_path: Path, caplog) -> None:
    settings = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 9}
    make_trainer(tmp_path, max_steps=3, **settings).train()
    (tmp_path / "checkpoint-3" / "optimizer.pt").write_bytes(b"")
    trainer = make_trainer(tmp_path, max_steps=3, **settings)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.resumed_step == 2
    assert (tmp_path / "checkpoint-3.set-aside").is_dir()
    with pytest.raises(ValueError, match="does not match the model"):
        make_trainer(tmp_path, max_steps=4, loss="ce", **settings).train(resume_from_checkpoint=True)
