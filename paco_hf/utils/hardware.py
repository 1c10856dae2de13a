"""The hardware of this process: its cores, what its CPU is called, which precision it computes fast."""

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def available_cores() -> int:
    """Workers for the data loader of this process, for its share of the cores: 1, 2, 4 or 8, which suits streams."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(1 << (max(cores // processes, 1).bit_length() - 1), 8)


def hardware_precision(use_cpu: bool = False) -> str:
    """`bf16` where the GPU or CPU multiplies bfloat16 matrices in hardware, else `fp32`."""
    import torch

    if torch.accelerator.is_available() and not use_cpu:
        on_cuda = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if on_cuda else "fp32"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if any(map(capabilities.get, ("avx512_bf16", "amx_bf16", "bf16"))) else "fp32"


def cpu_name() -> str:
    """What the CPU is called."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


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
