"""What a run is said to cost: the steps that are timed, and how near it comes to what the run then takes."""

import math
import re
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from tiny_trainer import make_trainer
from transformers import TrainerCallback
from user_data import folders, printed

from paco_hf.arguments.parser import parse_run
from paco_hf.trainer import step_timer
from paco_hf.trainer.step_timer import StepTimer, StepTimes
from paco_hf.workflows import cost
from paco_hf.workflows.train import train

TINY = ["--backbone", "test_resnet", "--precision", "fp32", "--per_device_train_batch_size", "8"]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_timer, "LEAST_SECONDS", 0)


class Clock(TrainerCallback):
    """A time that passes in steps (2 s, the first one 7, the first of a later epoch 3), in the optimizer (half a
    second of these), in validations (5 s) and in checkpoints (1 s) alone."""

    now = 100.0

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.now += 5 if state.global_step == 0 else 1

    def on_substep(self, args, state, control, **kwargs) -> None:
        self.now += 1.5

    on_step_begin = on_substep

    def on_optimizer_step(self, args, state, control, **kwargs) -> None:
        self.now += 0.5

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        self.now += 5

    def on_save(self, args, state, control, **kwargs) -> None:
        self.now += 1


def timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: bool = False, **settings) -> tuple[list, int]:
    clock, results = Clock(), []
    monkeypatch.setattr(step_timer.time, "monotonic", lambda: clock.now)
    trainer = make_trainer(tmp_path, callbacks=[clock, StepTimer(results.append, stop)], **settings)
    trainer.train()
    return results, trainer.state.global_step


def test_steps_are_timed_without_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_timer, "SECONDS", 100)
    results, steps = timed(tmp_path, monkeypatch, images=96, max_steps=12)
    assert results == [StepTimes(step=2.0, update=0.5)]
    assert steps == 12


def test_long_steps_are_timed_fewer_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_timer, "SECONDS", 3.5)
    results, steps = timed(tmp_path, monkeypatch, stop=True, images=96, max_steps=12)
    assert results == [StepTimes(step=2.0, update=0.5)]
    assert steps == 3


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        pytest.param(24, StepTimes(2.0, 0.5, epoch_start=1.0, validation=5.0, saving=1.0), id="three steps an epoch"),
        pytest.param(8, StepTimes(3.0, 0.5, validation=5.0, saving=1.0), id="one step an epoch"),
    ],
)
def test_validations_and_checkpoints_are_timed_apart(
    images: int, expected: StepTimes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"images": images, "evaluate": 8, "max_steps": -1, "num_train_epochs": 6, "eval_strategy": "epoch"}
    results, _ = timed(tmp_path, monkeypatch, save_strategy="epoch", **settings)
    assert results == [expected]


def test_steps_of_more_images_take_longer_but_for_the_update() -> None:
    assert StepTimes(step=2.0, update=0.5, saving=1.0).scaled(4) == StepTimes(step=6.5, update=0.5, saving=1.0)


def test_times_are_said_as_people_do() -> None:
    said = {0.2: "1 s", 59: "59 s", 120: "2.0 min", 700: "12 min", 5000: "83 min", 7000: "1.9 h", 400_000: "111.1 h"}
    assert {seconds: cost.duration(seconds) for seconds in said} == said


class Slow(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs) -> None:
        time.sleep(0.06)


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param({"a": 40, "b": 20}, id="short epochs"),
        pytest.param({"a": 110, "b": 40}, id="long epochs", marks=pytest.mark.slow),
    ],
)
def test_the_estimate_is_near_what_the_run_takes(
    counts: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """The time of these runs is that of sleeping, which other processes do not lengthen."""
    costs = []
    estimate = cost.Estimate.cost
    monkeypatch.setattr(cost.Estimate, "cost", lambda *a: costs.append((estimate(*a), a[0].left)) or costs[-1][0])
    started = []
    monkeypatch.setattr("paco_hf.workflows.train.finish", lambda *parts: started.append(parts[3]) or {})
    root = folders(tmp_path / "photos", counts)
    argv = ["--dataset", str(root), *TINY, "--num_train_epochs", "3", "--output_dir", str(tmp_path / "run")]
    train(*parse_run(argv), callbacks=[Slow()])
    (trainer,), ((first, left),) = started, costs
    taken = trainer.training_time.seconds * left / trainer.state.max_steps
    assert first.training == pytest.approx(taken, rel=0.4)
    out = capsys.readouterr().out
    steps = trainer.state.max_steps // 3
    assert re.search(
        rf"^estimate: about \d+ s on this machine, \d\.\d GB; 3 epochs of {steps} steps$",
        out,
        re.MULTILINE,
    )


def test_a_dry_run_says_it_too_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    root = folders(tmp_path / "photos", {"a": 60, "b": 45})
    argv = ["--dataset", str(root), *TINY, "--max_steps", "400", "--dry_run"]
    out = printed(capsys, *argv)
    assert re.search(r"^estimate: about .* on this machine, \d\.\d GB; 400 steps$", out, re.MULTILINE)
    assert "step 1/" not in out
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_long_steps_of_a_dry_run_are_reckoned_from_smaller_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    sizes = []

    def train_briefly(plan, data, parts, size, left, folder):
        sizes.append(size)
        trainer = make_trainer(Path(folder))
        trainer.create_optimizer()
        return trainer, StepTimes(step=1 + 0.5 * size, update=1), psutil.Process().memory_info().rss + 2e9

    monkeypatch.setattr(cost, "_train_briefly", train_briefly)
    monkeypatch.setattr(cost, "_forward_seconds", lambda model, batch, size, precision: 10.0)
    costs = []
    monkeypatch.setattr(cost, "_lines", lambda *arguments: costs.append(arguments[1:3]) or [])
    root = folders(tmp_path / "photos", {"a": 60, "b": 45})
    argv = ["--dataset", str(root), *TINY, "--per_device_train_batch_size", "64", "--gradient_accumulation_steps", "3"]
    before = psutil.Process().memory_info().rss
    printed(capsys, *argv, "--dry_run")
    assert sizes == [16]
    ((times, memory),) = costs
    # Of 95 images an epoch has one batch, which is all that its step adds up.
    assert times.step == pytest.approx(1 + 0.5 * 64)
    assert memory == pytest.approx(before + 4 * 2e9, rel=0.1)


@pytest.mark.parametrize(
    "settings",
    [
        {"gradient_accumulation_steps": 3, "num_train_epochs": 2.3, "dataloader_drop_last": False},
        {"gradient_accumulation_steps": 3, "num_train_epochs": 2.3, "dataloader_drop_last": True},
        {"dataloader_drop_last": False, "num_train_epochs": 0.4},
    ],
)
def test_steps_are_counted_as_in_the_run(settings: dict, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, images=87, **{"max_steps": -1, **settings})
    *_, max_steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    per_epoch = cost.updates_per_epoch(trainer.args, 87)
    assert per_epoch == trainer.updates_per_epoch
    assert math.ceil(trainer.args.num_train_epochs * per_epoch) == max_steps


@pytest.mark.parametrize(
    ("settings", "mean", "whole"),
    [
        ({"gradient_accumulation_steps": 64, "dataloader_drop_last": True}, 80, 80),  # ten batches in one step
        ({"gradient_accumulation_steps": 4, "dataloader_drop_last": True}, 80 / 3, 32),  # 4, 4 and 2 batches
        ({"gradient_accumulation_steps": 4, "dataloader_drop_last": False}, 87 / 3, 32),
        ({"per_device_train_batch_size": 128, "dataloader_drop_last": False}, 87, 87),
        ({"dataloader_drop_last": True}, 8, 8),
    ],
)
def test_images_of_a_step_are_those_that_there_are(settings: dict, mean: float, whole: float, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, images=87, **settings)
    assert cost.images_per_step(trainer.args, 87) == (pytest.approx(mean), whole)


def test_a_short_training_is_timed_in_its_first_third(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_timer, "SECONDS", 100)
    seen = []
    trainer = make_trainer(tmp_path, images=96, max_steps=9)
    trainer.add_callback(StepTimer(lambda times: seen.append(trainer.state.global_step)))
    trainer.train()
    assert seen == [4]


def test_shares_of_all_steps_are_no_steps(tmp_path: Path) -> None:
    estimate = cost.Estimate(
        SimpleNamespace(run=SimpleNamespace(image_size=8)), SimpleNamespace(images={}), None, 400, 25, done=200
    )
    times = {
        ("no", 500): 0,
        ("epoch", 500): 8,
        ("steps", 50): 4,
        ("steps", 0.05): 10,
    }
    assert {key: estimate._occasions(*key) for key in times} == times


def test_a_dry_run_of_a_resumed_one_says_what_is_left(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("paco_hf.workflows.train.finish", lambda *parts: {})
    root = folders(tmp_path / "photos", {"a": 60, "b": 45})
    argv = ["--dataset", str(root), *TINY, "--output_dir", str(tmp_path / "run")]
    train(*parse_run([*argv, "--max_steps", "10", "--save_strategy", "steps", "--save_steps", "10"]))
    out = printed(capsys, *argv, "--max_steps", "400", "--resume", "--dry_run")
    assert "; 400 steps, 390 steps left" in out


@pytest.mark.parametrize(
    ("features", "folds", "expected"),
    [
        (100.0, 0.0, ["--image_size 64: about 62 s"]),
        (2.0, 60.0, ["--num_train_epochs 2: about 20 s", "--cross_validation none: about 14 s"]),
        (0.0, 0.0, ["--num_train_epochs 2: about 3 s"]),
    ],
)
def test_what_makes_a_run_on_features_shorter(
    features: float, folds: float, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images are seen once; the folds, as the run, have epochs; and they can be left out."""
    monkeypatch.setattr(cost.Estimate, "_size_ratio", lambda self, size: 0.5)
    args = SimpleNamespace(max_steps=-1, num_train_epochs=8, trainable_convolutions=None)
    plan = SimpleNamespace(run=SimpleNamespace(image_size=96, lora_rank=None), args=args, on_features=True)
    trainer = SimpleNamespace(frozen_backbone=True)
    estimate = cost.Estimate(plan, SimpleNamespace(images={}), trainer, 80, 10)
    whole = cost.RunCost(12.0, 0.0, 1e9, "8 epochs", features, folds)
    assert estimate.shorter(whole) == expected


def test_folds_take_the_steps_that_they_train(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = [SimpleNamespace(learning_rate=rate) for rate in (0.1, 0.3, 1.0, 0.0)]  # the last one trains nothing
    monkeypatch.setattr(cost, "head_candidates", lambda plan: candidates)
    monkeypatch.setattr(cost, "seconds_a_step", lambda *arguments: 0.5)
    trainer = SimpleNamespace(classifier=None)
    for max_steps, trainings in ((-1, 4), (80, 5)):
        plan = SimpleNamespace(
            run=SimpleNamespace(image_size=96), args=SimpleNamespace(max_steps=max_steps), folds=5, on_features=True
        )
        estimate = cost.Estimate(plan, SimpleNamespace(images={}), trainer, 80, 10)
        assert estimate.folds(None) == 3 * trainings * 80 * 0.5


def test_what_takes_long_on_a_cpu_has_shorter_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(cost, "PATIENCE", 0.0)
    root = folders(tmp_path / "photos", {"a": 60, "b": 45}, size=(96, 96))
    argv = ["--dataset", str(root), *TINY, "--image_size", "96", "--num_train_epochs", "80", "--dry_run"]
    lines = [line for line in printed(capsys, *argv).splitlines() if line.startswith("to shorten it: ")]
    assert [line.split(": about")[0] for line in lines] == [
        "to shorten it: --image_size 64",
        "to shorten it: --num_train_epochs 20",
    ]
    # A backbone without pretrained weights has to learn.
    assert not any("freeze" in line for line in lines)
