"""`train` as a function: what it is given stays as it is, and a second call gives the same run."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from user_data import folders

from paco_hf.arguments.parser import parse_run
from paco_hf.arguments.resolve import RunPlan
from paco_hf.workflows import train as workflow

STEPS = ["--backbone", "test_resnet", "--max_steps", "2", "--precision", "fp32"]


def written(folder: Path) -> tuple[bytes, ...]:
    names = ("recipe.yaml", "model.safetensors", "metrics.json", "preprocessor_config.json", "config.json")
    return tuple((folder / name).read_bytes() for name in names)


def state(arguments: Any) -> dict[str, Any]:
    return {name: repr(value) for name, value in vars(arguments).items()}


@pytest.mark.parametrize("source", [pytest.param("builtin", marks=pytest.mark.slow), "folders"])
def test_calls_with_the_same_arguments_give_the_same_run(source: str, tmp_path: Path, surveys: Path) -> None:
    data = [] if source == "builtin" else ["--dataset", str(folders(tmp_path / "photos", {"a": 40, "b": 20}))]
    run, args = parse_run([*data, *STEPS, "--overwrite", "true", "--output_dir", str(tmp_path / "run")])
    assert bool(run.automatic) == (source == "folders")
    before = state(run), state(args)
    metrics = workflow.train(run, args)
    first = written(tmp_path / "run")
    assert (state(run), state(args)) == before
    assert workflow.train(run, args) == metrics
    assert written(tmp_path / "run") == first
    assert (state(run), state(args)) == before


def test_plan_is_whole_and_frozen(tmp_path: Path, surveys: Path, no_rehearsal: None, monkeypatch, capsys) -> None:
    plans: list[RunPlan] = []

    def build(plan: RunPlan, data: Any, model: Any) -> None:
        plans.append(plan)

    monkeypatch.setattr(workflow, "build", build)
    monkeypatch.setattr(
        workflow, "fit", lambda *_: SimpleNamespace(resumed_step=0, args=SimpleNamespace(torch_compile=False))
    )
    root = folders(tmp_path / "photos", {"a": 40, "b": 20})
    workflow.train(*parse_run(["--dataset", str(root), *STEPS, "--dry_run"]))
    (plan,) = plans
    assert (plan.run.image_size, plan.run.query_view, plan.run.test_fraction) == (16, "cifar_reg", 0.2)
    assert (plan.run.augment_backend, plan.run.calibrate, plan.run.automatic) == ("tensor", False, frozenset())
    assert (plan.args.dataloader_num_workers, plan.args.per_device_train_batch_size) == (0, 10)
    assert plan.settings["queue_size"] == plan.args.queue_size == 256
    lines = capsys.readouterr().out.splitlines()
    notes = ["no temperature calibration ", "settings for ", "backbone ", "views: "]
    assert [note for line in lines for note in notes if line.startswith(note)] == notes
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.views = ()  # type: ignore[misc]
