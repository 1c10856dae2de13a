"""The machine: what it is, how fast it can be at most, and how much memory a function takes at its peak."""

import ctypes
import datetime
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from paco_hf.utils.hardware import cpu_features, cpu_name
from paco_hf.utils.versions import versions

BUSY = 0.5  # load average over a minute, above which timings mean little


def describe() -> dict[str, Any]:
    """CPU, cores, instruction sets, library versions and date."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capabilities": sorted(cpu_features()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": versions(),
        "load_average": os.getloadavg()[0],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def default_allocator() -> None:
    """Undo `keep_freed_memory` of the package, which holds for the whole process.

    glibc raises its two thresholds as large blocks are freed, up to these values; once set, it no longer does. They
    are what a process has that has freed a block of 32 MiB. A process with smaller blocks is slower, if anything.
    """
    libc = ctypes.CDLL(None)
    if sys.platform.startswith("linux") and hasattr(libc, "mallopt"):
        libc.mallopt(-3, 32 * 2**20)
        libc.mallopt(-1, 64 * 2**20)
        libc.malloc_trim(0)


def ceilings(size: int = 2048, repeats: int = 5) -> dict[str, float]:
    """The most that the machine does: GFLOP/s of square matrix products, GB/s (read and written) of a copy."""
    result = {}
    for name, dtype in (("gemm_fp32_gflops", torch.float32), ("gemm_bf16_gflops", torch.bfloat16)):
        left, right = torch.randn(2, size, size).to(dtype)
        result[name] = 2 * size**3 / _shortest(lambda a=left, b=right: a @ b, repeats) / 1e9
    source = torch.ones(2**26)
    target = torch.zeros_like(source)
    result["copy_gbs"] = 2 * source.nbytes / _shortest(lambda: target.copy_(source), repeats) / 1e9
    return result


def _shortest(function: Callable[[], Any], repeats: int) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_memory(function: Callable[[], Any]) -> int:
    """Bytes of tensors that `function` adds to those there before, at its peak.

    The profiler records every allocation and release of torch's allocator. Scratch memory that a library allocates
    behind its back is not seen.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    current = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    return peak
