"""Learning rates equal the reference's, epoch by epoch or step by step."""

import json
from types import SimpleNamespace

import pytest
from conftest import golden_path

from paco_hf import PaCoTrainingArguments
from paco_hf.trainer.schedules import EPOCH_SCHEDULES, mae, step_factor

ENTRIES = json.loads(golden_path("lr_schedules.json").read_text())


def rates(schedule: str, steps: int, updates: int, rate: float, warmup: int, least: float = 0.0) -> list[float]:
    args = SimpleNamespace(epoch_schedule=schedule, warmup_epochs=warmup, learning_rate=rate, min_learning_rate=least)
    factor = step_factor(args, steps, updates)
    return [rate * factor(step) for step in range(steps)]


@pytest.mark.parametrize("name", [name for name in ENTRIES if "lr_per_epoch" in ENTRIES[name]])
def test_rates_by_epoch(name: str) -> None:
    settings, expected = ENTRIES[name]["args"], ENTRIES[name]["lr_per_epoch"]
    schedule = "cifar_step" if name.endswith("cifar") else "cosine"
    epochs, warmup = settings["epochs"], settings["warmup_epochs"]
    got = [settings["lr"] * EPOCH_SCHEDULES[schedule](epoch, epochs, warmup) for epoch in range(epochs)]
    assert got == pytest.approx(expected, rel=1e-12, abs=0)
    by_step = rates(schedule, 3 * epochs, 3, settings["lr"], warmup)
    assert by_step == [rate for rate in got for _ in range(3)]


def test_rates_of_mae_by_step() -> None:
    entry = ENTRIES["mae_vit"]
    settings = entry["args"]
    updates = settings["steps_per_epoch"]
    got = rates(
        "mae", settings["epochs"] * updates, updates, settings["lr"], settings["warmup_epochs"], settings["min_lr"]
    )
    assert got == pytest.approx(entry["lr_per_step"], rel=1e-12, abs=0)


def test_every_entry_is_checked() -> None:
    assert sum("lr_per_epoch" in entry for entry in ENTRIES.values()) == 7
    assert len(ENTRIES) == 8


def test_cifar_warm_up_runs_an_epoch_too_far() -> None:
    assert EPOCH_SCHEDULES["cifar_step"](10, 400, 10) == pytest.approx(1.1)


def test_ends_of_mae() -> None:
    assert mae(0, 20, 5) == 0.0
    assert mae(20, 20, 5, 0.001) == pytest.approx(0.001)
    assert mae(5, 5, 5) == 1.0
    assert rates("mae", 4, 2, 0.0, 0) == [0.0] * 4


def test_bad_rates_are_refused(tmp_path) -> None:
    for settings in (
        {"epoch_schedule": "linear"},
        {"min_learning_rate": -1e-6},
        {"epoch_schedule": "mae", "min_learning_rate": 0.1, "learning_rate": 0.01},
    ):
        with pytest.raises(
            ValueError, match=f"{list(settings)[-1] if len(settings) == 1 else 'min_learning_rate'} must"
        ):
            PaCoTrainingArguments(output_dir=str(tmp_path), **settings)
