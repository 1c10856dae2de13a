"""What a run is said to cost: the steps that are timed, and how near it comes to what the run then takes."""

import re
import time
from pathlib import Path

import pytest
from tiny_trainer import make_trainer
from transformers import TrainerCallback
from user_data import folders, printed

from paco_hf.arguments.parser import parse_run
from paco_hf.trainer import step_timer
from paco_hf.trainer.step_timer import MOST, StepTimer, StepTimes
from paco_hf.workflows import cost
from paco_hf.workflows.train import train

TINY = ["--backbone", "test_resnet", "--precision", "fp32", "--per_device_train_batch_size", "8"]


class Clock(TrainerCallback):
    """A time that passes in steps (2 s, the first one 7) and in validations (5 s) alone."""

    now = 100.0

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        self.now += 7 if state.global_step == 0 else 2

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        self.now += 5


def timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: bool = False, **settings) -> tuple[list, int]:
    clock, results = Clock(), []
    monkeypatch.setattr(step_timer.time, "monotonic", lambda: clock.now)
    # The timer comes first, so that it sees a step begin before the clock moves.
    trainer = make_trainer(tmp_path, callbacks=[StepTimer(results.append, stop), clock], **settings)
    trainer.train()
    return results, trainer.state.global_step


def test_steps_are_timed_without_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_timer, "SECONDS", 100)
    results, steps = timed(tmp_path, monkeypatch, images=96, max_steps=12)
    assert results == [StepTimes(step=2.0, first=5.0, between=None, steps=MOST)]
    assert steps == 12


def test_long_steps_are_timed_fewer_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_timer, "SECONDS", 3.5)
    results, steps = timed(tmp_path, monkeypatch, stop=True, images=96, max_steps=12)
    assert results == [StepTimes(step=2.0, first=5.0, between=None, steps=3)]
    assert steps == 3


def test_short_epochs_are_timed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"images": 24, "evaluate": 8, "max_steps": -1, "num_train_epochs": 2, "eval_strategy": "epoch"}
    results, _ = timed(tmp_path, monkeypatch, **settings)
    assert results == [StepTimes(step=2.0, first=5.0, between=5.0, steps=3)]


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
    monkeypatch.setattr(cost.Estimate, "cost", lambda *a: costs.append(estimate(*a)) or costs[-1])
    started = []
    monkeypatch.setattr("paco_hf.workflows.train.finish", lambda plan, data, trainer: started.append(trainer) or {})
    root = folders(tmp_path / "photos", counts)
    argv = ["--dataset", str(root), *TINY, "--num_train_epochs", "3", "--output_dir", str(tmp_path / "run")]
    train(*parse_run(argv), callbacks=[Slow()])
    (trainer,), (first,) = started, costs
    timed = MOST if counts["a"] == 110 else trainer.state.max_steps // 3
    taken = trainer.training_time.seconds * (1 - timed / trainer.state.max_steps)
    assert first.training == pytest.approx(taken, rel=0.25)
    out = capsys.readouterr().out
    steps = trainer.state.max_steps // 3
    assert re.search(rf"^about \d+ s on this computer, \d\.\d GB; 3 epochs of {steps} steps$", out, re.MULTILINE)


def test_a_dry_run_says_it_too_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    root = folders(tmp_path / "photos", {"a": 60, "b": 45})
    argv = ["--dataset", str(root), *TINY, "--max_steps", "400", "--dry_run"]
    out = printed(capsys, *argv)
    assert re.search(r"^about .* on this computer, \d\.\d GB; 400 steps$", out, re.MULTILINE)
    assert "step 1/" not in out
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_long_steps_of_a_dry_run_are_reckoned_from_smaller_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    sizes = []

    def train_briefly(plan, data, parts, callbacks, size, folder):
        sizes.append(size)
        return make_trainer(Path(folder)), StepTimes(step=1 + 0.5 * size, first=0, between=None, steps=3)

    monkeypatch.setattr(cost, "_train_briefly", train_briefly)
    monkeypatch.setattr(cost, "_forward_seconds", lambda model, batch, size: 1.0 * batch)
    monkeypatch.setattr(cost, "used_memory", lambda device: 1e9 + 1e8 * sizes[-1])
    costs = []
    monkeypatch.setattr(cost, "_lines", lambda plan, estimate, times, memory: costs.append((times, memory)) or [])
    root = folders(tmp_path / "photos", {"a": 60, "b": 45})
    printed(capsys, "--dataset", str(root), *TINY, "--dry_run")
    assert sizes == [2, 4]
    ((times, memory),) = costs
    assert times.step == pytest.approx(1 + 0.5 * 8)
    assert memory == pytest.approx(1e9 + 1e8 * 8)


def test_what_takes_long_on_a_cpu_has_shorter_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(cost, "PATIENCE", 0.0)
    root = folders(tmp_path / "photos", {"a": 60, "b": 45}, size=(96, 96))
    argv = ["--dataset", str(root), *TINY, "--image_size", "96", "--num_train_epochs", "80", "--dry_run"]
    lines = [line for line in printed(capsys, *argv).splitlines() if line.startswith("shorter: ")]
    assert [line.split(": about")[0] for line in lines] == [
        "shorter: --image_size 64",
        "shorter: --num_train_epochs 20",
    ]
    assert not any("freeze" in line for line in lines)  # a backbone without pretrained weights has to learn
