"""Runs that are killed, and what a finished one holds."""

import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
from patience import wait_until
from safetensors.torch import load_file


class Fork:
    """A fork of this process, which has imported what it needs; with as much of `Popen` as it takes to kill it."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
        self.process.start()
        self.pid, self.kill = self.process.pid, self.process.kill

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self) -> tuple[str, str]:
        self.process.join()
        return "", f"status {self.process.exitcode}"


def kill_when(process: subprocess.Popen | Fork, moment, delay: float = 0.0) -> None:
    wait_until(moment, process)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def final_tensors(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = max(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    tensors = {f"root {k}": v for k, v in load_file(folder / "model.safetensors").items()}
    for name in ("model.safetensors", "paco_training_state.safetensors"):
        tensors |= {f"{name} {k}": v for k, v in load_file(checkpoint / name).items()}
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
    return tensors | {f"momentum {i}": s["momentum_buffer"] for i, s in state.items()}
