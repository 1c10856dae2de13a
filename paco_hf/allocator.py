"""Memory that large tensors gave back stays with the process, on a CPU with glibc."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed_memory() -> bool:
    """Keep large blocks that are freed, instead of giving them back to the system; for the whole process.

    The commands call it; a program of your own may. Afterwards the memory of the process does not shrink.

    glibc maps blocks of megabytes anew at every allocation, and the system fills each page with zeros. A training
    step allocates the same activations again and again, and is some 10% faster where they come from memory that the
    process already has.

    Returns:
        whether it took effect: `False` without glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Older versions take no more than 32 MiB.
    mapped = mallopt(_MMAP_THRESHOLD, 2**30) or mallopt(_MMAP_THRESHOLD, 2**25)
    trimmed = mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    return bool(mapped and trimmed)
