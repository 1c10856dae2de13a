"""`--torch_compile auto`: which runs compile their backbones, what they say, and that they resume as they began."""

import json
import os
from pathlib import Path

import pytest
import yaml
from interrupted_runs import kill_when
from test_resume import SETTINGS, assert_same_end, finish, start
from user_data import folders

from paco_hf.cli import main
from paco_hf.trainer.compiled import BackboneTimer, BackboneTimes
from paco_hf.workflows import compilation

NARROW = json.dumps({"channels": [4, 4, 8, 8], "layers": [1, 1, 1, 1]})
SMALL = [*SETTINGS, "--backbone", "resnet18", "--backbone_kwargs", NARROW, "--precision", "fp32", "--max_steps", "4"]
SMALL = ["train", *SMALL, "--save_steps", "2", "--per_device_train_batch_size", "8"]
PAYS, WASTED = BackboneTimes(1.0, 0.5, 0.9), BackboneTimes(1.0, 0.99, 0.0)


@pytest.mark.parametrize(
    ("times", "passes", "pays"),
    [
        (BackboneTimes(1.0, 0.8, 100.0), 1001, True),
        (BackboneTimes(1.0, 0.8, 100.0), 999, False),  # it would save as much as it takes, but not twice that
        (BackboneTimes(1.0, 1.2, 0.0), 10_000, False),
        (WASTED, 10_000, False),  # of a known backbone, whose code is slower or hardly faster
    ],
)
def test_what_pays(times: BackboneTimes, passes: int, pays: bool) -> None:
    assert compilation.predict(times, passes, known=True)[0] is pays


@pytest.fixture
def small(tmp_path: Path) -> list[str]:
    """A training of seconds."""
    return [*SMALL, "--dataset", str(folders(tmp_path / "photos", {"a": 24, "b": 16}))]


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[BackboneTimes]:
    """A machine where a look is taken at any run, and what is measured there: what is appended, in order."""
    measured: list[BackboneTimes] = []
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "code"))
    monkeypatch.setattr(compilation, "FEWEST_STEPS", 1)
    monkeypatch.setattr(compilation, "LAYER_SECONDS", 0.0)
    monkeypatch.setattr(BackboneTimer, "compiled", lambda self: measured.pop(0))
    # What is compiled is not the matter here.
    monkeypatch.setattr("paco_hf.trainer.compiled.torch.compile", lambda function, **options: function)
    return measured


def recipe(folder: Path) -> dict:
    return yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))


def test_short_and_frozen_runs_are_not_looked_at(
    tmp_path: Path, small: list, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "BackboneTimer", None)
    assert main([*small, "--output_dir", str(tmp_path / "short")]) == 0
    assert recipe(tmp_path / "short")["torch_compile"] is False
    monkeypatch.setattr(compilation, "FEWEST_STEPS", 1)
    frozen = ["--freeze_backbone", "true", "--feature_views", "1"]
    assert main([*small, *frozen, "--output_dir", str(tmp_path / "frozen")]) == 0
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert main([*small, "--output_dir", str(tmp_path / "no-compiler")]) == 0
    assert "torch_compile" not in capsys.readouterr().out


def test_what_cannot_be_compiled_is_one_line(
    tmp_path: Path, small: list, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*small, "--output_dir", str(tmp_path / "run"), "--torch_compile"]
    assert main([*command, "--freeze_backbone", "true"]) != 0
    assert "--torch_compile has no effect on a frozen backbone, whose features are" in capsys.readouterr().err
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert main(command) != 0
    assert "needs a C++ compiler, and 'no-such-compiler' is not on the PATH: install" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_compiled_where_it_pays_and_resumed_so(tmp_path: Path, small: list, capsys, cheap: list) -> None:
    folder = tmp_path / "run"
    cheap += [PAYS, PAYS]
    assert main([*small, "--output_dir", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "torch_compile auto: on: compiling would save" in out
    assert "backbones compiled in 1 s: 500 ms per step instead of 1000, saving about 2 s in total" in out
    assert recipe(folder)["torch_compile"] is True
    assert "compilation_seconds" in json.loads((folder / "run.json").read_text())["training"]
    # What was measured is known from now on.
    assert main([*small, "--output_dir", str(tmp_path / "other")]) == 0
    assert "(measured earlier)" in capsys.readouterr().out


def test_no_gain_or_no_code_is_no_harm(
    tmp_path: Path, small: list, capsys, cheap: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap.append(WASTED)
    assert main([*small, "--output_dir", str(tmp_path / "wasted")]) == 0
    assert "990 ms per step instead of 1000, saving about 1 s in total; continuing without" in capsys.readouterr().out
    assert recipe(tmp_path / "wasted")["torch_compile"] is False
    # It is known from now on.
    assert main([*small, "--output_dir", str(tmp_path / "known")]) == 0
    assert "torch_compile auto: off: compiling would save" in capsys.readouterr().out

    def fail(self: BackboneTimer) -> BackboneTimes:
        raise RuntimeError("no\nheader")

    monkeypatch.setattr(BackboneTimer, "compiled", fail)
    other = [*small, "--per_device_train_batch_size", "4", "--output_dir"]
    assert main([*other, str(tmp_path / "failing")]) == 0
    assert (
        "torch_compile auto: off, because the backbones cannot be compiled (RuntimeError: no header)"
        in capsys.readouterr().out
    )
    assert main([*other, str(tmp_path / "asked"), "--torch_compile", "true"]) != 0
    assert (
        "torch_compile: the backbones cannot be compiled (RuntimeError: no header): use --torch_compile false"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("begun", "flags", "resumed"),
    [
        ({"torch_compile": True}, [], True),
        ({}, [], False),  # from before there was the setting
        ({}, ["--torch_compile", "true"], True),
    ],
    ids=["compiled", "before", "asked"],
)
def test_a_run_goes_on_as_it_was_begun(
    begun: dict, flags: list, resumed: bool, tmp_path: Path, small: list, capsys, cheap: list
) -> None:
    """Whatever would pay by now; only who asks for another kind of step gets it."""
    folder = tmp_path / "run"
    command = [*small, "--save_total_limit", "2", "--output_dir", str(folder)]
    cheap += [WASTED] * 2
    assert main(command) == 0
    for name in ("model.safetensors", "optimizer.pt"):
        (folder / "checkpoint-4" / name).unlink()
    (folder / "metrics.json").unlink()
    settings = {name: value for name, value in recipe(folder).items() if name != "torch_compile"} | begun
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    capsys.readouterr()
    assert main([*command, "--resume", *flags]) == 0
    out = capsys.readouterr().out
    assert f"resuming from {folder / 'checkpoint-2'}" in out
    assert ("with changed settings: torch_compile False -> True" in out) == bool(flags)
    assert "torch_compile auto" not in out
    assert ("backbones compiled" in out) == resumed
    assert recipe(folder)["torch_compile"] is resumed


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_and_resumed_is_bit_identical(processes: int, tmp_path: Path, small: list) -> None:
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "code")}
    command = [*small, "--max_steps", "9", "--save_steps", "3", "--torch_compile", "--nproc", str(processes)]
    finish(start([*command, "--output_dir", str(tmp_path / "whole")], **environment))
    killed = tmp_path / "killed"
    process = start([*command, "--output_dir", str(killed)], **environment)
    kill_when(process, lambda: (killed / "checkpoint-3").is_dir())
    assert not (killed / "metrics.json").exists()
    finish(start([*command, "--output_dir", str(killed), "--resume"], **environment))
    assert_same_end(tmp_path / "whole", killed)
