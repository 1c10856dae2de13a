"""A run killed with SIGKILL and resumed ends with the same bits as one that was left alone."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from interrupted_runs import final_tensors, kill_when

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


def start(folder: Path, *extra: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "paco_hf", "train", *SETTINGS, "--output_dir", str(folder), *extra]
    # With as many threads as users have.
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


@pytest.mark.parametrize(
    ("workers", "backend", "kills"),
    [
        (0, "tensor", 1),
        pytest.param(0, "tensor", 3, marks=pytest.mark.slow),
        pytest.param(2, "pil", 3, marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_is_bit_identical(tmp_path: Path, workers: int, backend: str, kills: int) -> None:
    loader = ("--dataloader_num_workers", str(workers), "--augment_backend", backend)
    finish(start(tmp_path / "whole", *loader))

    folder = tmp_path / "killed"
    staging = folder / "checkpoint.partial"
    if kills > 1:
        # At a random moment of the first epoch, wherever that is in a step.
        kill_when(start(folder, *loader), (folder / "checkpoint-3").exists, random.uniform(0, 1))
    # While a checkpoint is being written.
    kill_when(start(folder, "--resume", *loader), lambda: list(staging.glob("checkpoint-15/optimizer.pt")))
    assert staging.exists()
    if kills > 1:
        # After a validation that selected weights which the last checkpoint does not know of.
        kill_when(start(folder, "--resume", *loader), (folder / "selected-17.safetensors").exists)
        assert not (folder / "checkpoint-18").exists()
    finish(start(folder, "--resume", *loader))

    whole, resumed = final_tensors(tmp_path / "whole"), final_tensors(folder)
    assert whole.keys() == resumed.keys()
    assert any("queue.features" in name for name in whole)
    assert any("key_encoder" in name for name in whole)
    different = [name for name in whole if not torch.equal(whole[name], resumed[name])]
    assert not different
    assert (tmp_path / "whole/metrics.json").read_text() == (folder / "metrics.json").read_text()
    logs = [(f / "log.jsonl").read_text().splitlines() for f in (tmp_path / "whole", folder)]
    assert len(logs[0]) == len(logs[1])
    assert not staging.exists()


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
    command = ["train", *SETTINGS, *settings, "--max_steps", "1", "--output_dir", str(tmp_path)]
    assert main(command) == 0
    scores = (tmp_path / "metrics.json").stat()
    for again in (command, [*command, "--recipe", str(tmp_path / "recipe.yaml")]):
        capsys.readouterr()
        assert main([*again, "--resume"]) == 0
        assert "is finished; nothing to resume" in capsys.readouterr().out
    assert (tmp_path / "metrics.json").stat() == scores
