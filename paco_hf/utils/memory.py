"""Memory that large tensors gave back stays with the process, on a CPU with glibc."""

import ctypes
import os
import sys
from contextlib import suppress
from functools import cache, partial
from typing import Any

import psutil
import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_MAPPED = 2**20  # bytes from which a forked process has a block from the system, and gives it back


def keep_freed_memory() -> bool:
    """Keep large blocks that are freed, instead of giving them back to the system; for the whole process.

    The commands call it; a program of your own may. Afterwards the memory of the process does not shrink.

    glibc maps blocks of megabytes anew at every allocation, and the system fills each page with zeros. A training
    step allocates the same activations again and again, and is some 10% faster where they come from memory that the
    process already has. Processes that are forked, such as the workers of a data loader, give memory back again: among
    the encoded images that they keep, blocks of a batch would leave gaps that nothing fits into.

    Returns:
        whether it took effect: `False` without glibc.
    """
    mallopt = _mallopt()
    if mallopt is None:
        return False
    # Older versions take no more than 32 MiB.
    mapped = mallopt(_MMAP_THRESHOLD, 2**30) or mallopt(_MMAP_THRESHOLD, 2**25)
    trimmed = mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    return bool(mapped and trimmed)


@cache
def _mallopt() -> Any:
    """glibc's function, once it is arranged that forked processes undo what is set by it; `None` without glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if hasattr(os, "register_at_fork") else None
    if mallopt is not None:
        for threshold in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
            os.register_at_fork(after_in_child=partial(mallopt, threshold, _MAPPED))
    return mallopt


def peak_memory(device_type: str) -> str:
    """The most memory that was in use so far: of the GPU, else of this process. For the user to read."""
    return f"{_peak(device_type) / 2**20:,.0f} MB of the {'GPU' if device_type == 'cuda' else 'process'}"


def used_memory(device_type: str) -> int:
    """The most bytes that were in use so far: of the GPU, else of this process and what its workers have of their own.

    Args:
        device_type (`str`): `cuda`, or another one for the memory of the computer.
    """
    if device_type == "cuda":
        return _peak(device_type)
    workers = 0
    for worker in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile
            workers += worker.memory_full_info().uss
    return _peak(device_type) + workers


def _peak(device_type: str) -> int:
    if device_type == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:
        memory = psutil.Process().memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))  # which Windows has
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
