"""The hardware of this process: its cores, what its CPU is called, which precision it computes fast."""

import os
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def available_cores() -> int:
    """Workers for the data loader of this process, for its share of the cores: 1, 2, 4 or 8, which suits streams."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(1 << (max(usable_cores() // processes, 1).bit_length() - 1), 8)


def usable_cores() -> int:
    """The cores that this process may use, where the system says so; else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hardware_precision(use_cpu: bool = False) -> str:
    """`bf16` where the GPU, or the CPU, as Linux knows it, multiplies bfloat16 matrices in hardware, else `fp32`."""
    import torch

    if torch.accelerator.is_available() and not use_cpu:
        on_cuda = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if on_cuda else "fp32"
    return "bf16" if {"avx512_bf16", "amx_bf16", "bf16"} & cpu_features() else "fp32"


def cpu_features() -> set[str]:
    """The instruction sets of the CPU by Linux's names; none on other systems. torch reports them only since 2.10."""
    return {*(_cpu_info("flags") or _cpu_info("Features")).split()}  # of x86, of ARM


def cpu_name() -> str:
    """What the CPU is called."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _cpu_info(name: str) -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def cpp_compiler() -> tuple[str, bool]:
    """The C++ compiler that `torch.compile` calls for a CPU, by `CXX` or the system's usual one, and whether there is
    one."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    name = shlex.split(os.environ.get("CXX") or usual)[0]
    return name, shutil.which(name) is not None


def gpu_names() -> list[str]:
    """What NVIDIA's driver calls its GPUs."""
    files = Path("/proc/driver/nvidia/gpus").glob("*/information")
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread: for steps so small that others would wait for one another longer than they work, by far
    where the cores are shared."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
