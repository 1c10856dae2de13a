"""Prepare, verify, stream, train on a miniature ImageNet-LT, killed and resumed at each stage."""

import random
import shlex
import subprocess
import sys
from pathlib import Path

import miniature
import pytest
import torch
from interrupted_runs import final_tensors, kill_when
from patience import ended

from paco_hf.cli import main

FLAGS = shlex.split(
    "--dataset imagenet-lt --streaming true --backbone cifar_resnet20 --image_size 32 --num_train_epochs 3 --seed 3 "
    "--per_device_train_batch_size 4 --queue_size 30 --projection_dim 16 --save_steps 4 --precision fp32 "
    "--query_view randcls-n2-m10 --key_view stack-n2-m10 --shuffle_buffer 16 --validation_fraction 0.2"
)


def start(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "paco_hf", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> None:
    _, errors = ended(process)
    assert process.returncode == 0, errors


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_killed_and_resumed_at_each_stage(workers: str, tmp_path: Path, capsys) -> None:
    tree = miniature.imagenet_lt(tmp_path / "tree")
    hub = miniature.imagenet_hub(tmp_path / "hub", shards=12)
    prepare = ["data", "prepare", "imagenet-lt", "--source", str(hub), "--shard_mib", "0.01", "--threads", "1"]
    prepare += ["--list", str(tree / "ImageNet_LT_train.txt")]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(*prepare, "--out", str(whole)))
    kill_when(start(*prepare, "--out", str(killed)), lambda: list((killed / "parts").glob("*.parquet")))
    finish(start(*prepare, "--out", str(killed)))

    assert main(["data", "verify", str(killed)]) == 2  # a miniature is not what was published
    output = capsys.readouterr()
    assert "train: 40 images" in output.out
    assert "not imagenet-lt's published train list" in output.err
    assert "hash" not in output.err

    train = ["train", *FLAGS, "--dataloader_num_workers", workers]
    finish(start(*train, "--dataset_path", str(whole), "--output_dir", str(tmp_path / "run")))
    again = [*train, "--dataset_path", str(killed), "--output_dir", str(tmp_path / "again")]
    kill_when(start(*again), (tmp_path / "again" / "checkpoint-4").exists, random.uniform(0, 0.5))
    kill_when(start(*again, "--resume"), (tmp_path / "again" / "checkpoint-16").exists, random.uniform(0, 0.5))
    finish(start(*again, "--resume"))

    one, two = final_tensors(tmp_path / "run"), final_tensors(tmp_path / "again")
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    assert (tmp_path / "run/metrics.json").read_text() == (tmp_path / "again/metrics.json").read_text()
