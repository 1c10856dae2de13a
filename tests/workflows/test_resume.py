"""A run killed with SIGKILL and resumed ends with the same bits as one that was left alone."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from interrupted_runs import Fork, final_tensors, kill_when
from patience import ended
from user_data import folders

from paco_hf.cli import main

SETTINGS = [
    "--dataset",
    "builtin",
    "--backbone",
    "cifar_resnet20",
    "--num_train_epochs",
    "2",
    "--per_device_train_batch_size",
    "64",
    "--queue_size",
    "100",
    "--save_steps",
    "3",
    "--validation_fraction",
    "0.15",
    "--query_view",
    "cifar_reg",
    "--seed",
    "3",
    "--report",
    "false",
]


def start(command: list[str], **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "paco_hf", *command]
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    return subprocess.Popen(command, stdout=null, stderr=pipe, text=True, env=environment or None)


def finish(process: subprocess.Popen) -> None:
    _, errors = ended(process)
    assert process.returncode == 0, errors


def assert_same_end(whole: Path, resumed: Path) -> None:
    one, other = final_tensors(whole), final_tensors(resumed)
    assert one.keys() == other.keys()
    assert any("queue.features" in name for name in one)
    assert any("key_encoder" in name for name in one)
    assert not [name for name in one if not torch.equal(one[name], other[name])]
    assert (whole / "metrics.json").read_text() == (resumed / "metrics.json").read_text()
    logs = [(folder / "log.jsonl").read_text().splitlines() for folder in (whole, resumed)]
    assert len(logs[0]) == len(logs[1])
    assert not (resumed / "checkpoint.partial").exists()


def test_killed_in_a_checkpoint_and_resumed_is_bit_identical(tmp_path: Path) -> None:
    """A few steps of a small model; what is killed is a fork of this process, what goes on is this one."""
    photos = folders(tmp_path / "photos", {"a": 24, "b": 16})
    small = ["--dataset", str(photos), "--backbone", "cifar_resnet20", "--per_device_train_batch_size", "8"]
    command = ["train", *SETTINGS, *small, "--output_dir"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    killed = tmp_path / "killed"
    staging = killed / "checkpoint.partial"
    # While a checkpoint in the middle is being written.
    kill_when(Fork(main, [*command, str(killed)]), lambda: list(staging.glob("checkpoint-6/optimizer.pt")))
    assert staging.exists()
    assert [path.name for path in killed.glob("checkpoint-*")] == ["checkpoint-3"]
    assert main([*command, str(killed), "--resume"]) == 0
    assert_same_end(tmp_path / "whole", killed)


def test_traces_of_a_kill_are_gone_after_a_resume(tmp_path: Path) -> None:
    """What is left of one after the last checkpoint: old checkpoints, and files that were only begun."""
    photos = folders(tmp_path / "photos", {"a": 24, "b": 16})
    small = ["--dataset", str(photos), "--backbone", "cifar_resnet20", "--per_device_train_batch_size", "8"]
    folder = tmp_path / "run"
    command = ["train", *SETTINGS, *small, "--max_steps", "2", "--report", "true", "--output_dir", str(folder)]
    assert main(command) == 0
    names = {path.relative_to(folder) for path in folder.rglob("*")}
    (folder / "metrics.json").rename(folder / "metrics.json.1.partial")
    (folder / "README.md").unlink()
    for name in ("checkpoint.partial", "checkpoint-1"):
        (folder / name).mkdir()
        (folder / name / "trainer_state.json").write_text("{")
    assert main([*command, "--resume"]) == 0
    assert {path.relative_to(folder) for path in folder.rglob("*")} == names


def test_a_run_is_finished_once_its_card_is_written(tmp_path: Path, monkeypatch) -> None:
    def killed(folder: Path, metrics: dict) -> None:
        raise KeyboardInterrupt

    photos = folders(tmp_path / "photos", {"a": 24, "b": 16})
    small = ["--dataset", str(photos), "--backbone", "cifar_resnet20", "--per_device_train_batch_size", "8"]
    folder = tmp_path / "run"
    command = ["train", *SETTINGS, *small, "--max_steps", "2", "--report", "true", "--output_dir", str(folder)]
    with monkeypatch.context() as patch:
        patch.setattr("paco_hf.workflows.finish.write_card", killed)
        assert main(command) == 130
    assert not (folder / "metrics.json").exists()
    assert main([*command, "--resume"]) == 0
    assert (folder / "README.md").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "backend", "kills"), [(0, "tensor", 1), (0, "tensor", 3), (2, "pil", 3)])
def test_killed_and_resumed_is_bit_identical(tmp_path: Path, workers: int, backend: str, kills: int) -> None:
    loader = ("--dataloader_num_workers", str(workers), "--augment_backend", backend)
    # With as many threads as users have.
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}

    def run(folder: Path, *extra: str) -> subprocess.Popen:
        return start(["train", *SETTINGS, "--output_dir", str(folder), *extra, *loader], **environment)

    finish(run(tmp_path / "whole"))

    folder = tmp_path / "killed"
    staging = folder / "checkpoint.partial"
    if kills > 1:
        # At a random moment of the first epoch, wherever that is in a step.
        kill_when(run(folder), (folder / "checkpoint-3").exists, random.uniform(0, 1))
    # While a checkpoint is being written.
    kill_when(run(folder, "--resume"), lambda: list(staging.glob("checkpoint-15/optimizer.pt")))
    assert staging.exists()
    if kills > 1:
        # After a validation that selected weights which the last checkpoint does not know of.
        kill_when(run(folder, "--resume"), (folder / "selected-17.safetensors").exists)
        assert not (folder / "checkpoint-18").exists()
    finish(run(folder, "--resume"))
    assert_same_end(tmp_path / "whole", folder)


def written(file: Path) -> tuple[int, ...]:
    """What changes where a file is written, and not where it is read."""
    stat = file.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_mode, stat.st_nlink


@pytest.mark.parametrize(
    "settings",
    [
        ("--validation_fraction", "0"),
        # The size of the images is added to what is given.
        ("--backbone", "vit_tiny_patch16_224", "--backbone_kwargs", '{"depth": 1}'),
    ],
    ids=["no validation", "keyword arguments"],
)
def test_finished_run_is_left_as_it_is(tmp_path: Path, capsys, settings: tuple[str, ...]) -> None:
    photos = folders(tmp_path / "photos", {"a": 24, "b": 16}, size=(32, 32))
    settings = ("--dataset", str(photos), "--per_device_train_batch_size", "8", *settings)
    command = ["train", *SETTINGS, *settings, "--max_steps", "1", "--output_dir", str(tmp_path / "run")]
    assert main(command) == 0
    scores = written(tmp_path / "run" / "metrics.json")
    for again in (command, [*command, "--recipe", str(tmp_path / "run" / "recipe.yaml")]):
        capsys.readouterr()
        assert main([*again, "--resume"]) == 0
        assert "is already finished: nothing to resume" in capsys.readouterr().out
    assert written(tmp_path / "run" / "metrics.json") == scores
