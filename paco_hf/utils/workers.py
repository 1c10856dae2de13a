"""How many processes load images: their batches travel through shared memory, of which a container may have little."""

import os
import shutil
from pathlib import Path

_SHARED = Path("/dev/shm")


def free_shared_memory() -> int | None:
    """The bytes that this process has of it, where several share it its part; `None` where there is no such limit."""
    if not _SHARED.is_dir():
        return None
    return shutil.disk_usage(_SHARED).free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def fitting_workers(workers: int, batch_bytes: int, prefetch: int | None = None, flag: str = "") -> tuple[int, str]:
    """As many workers of a data loader as have room for their batches: one too many would wait for room forever.

    Args:
        workers (`int`): wanted.
        batch_bytes (`int`): of a batch, of each loader that there is at the time.
        prefetch (`int`, *optional*): batches that each worker has ready (default: 2, torch's).
        flag (`str`, *optional*): that sets the number of workers, for the note.

    Returns:
        their number, 0 where there is no room at all, and a note where it is not the one wanted, else nothing.
    """
    prefetch, free = prefetch or 2, free_shared_memory()
    # Besides those that are ready there is the batch in use, and the one that follows it.
    if not workers or free is None or (prefetch * workers + 2) * batch_bytes <= free:
        return workers, ""
    fitting = max(free // batch_bytes - 2, 0) // prefetch
    needed = (prefetch * workers + 2) * batch_bytes / 2**30
    return fitting, (
        f"note: {fitting} worker processes{flag} instead of {workers}, because shared memory (/dev/shm, "
        f"{free / 2**20:,.0f} MB free) is too small for more: increase it with docker run --shm-size "
        f"{needed + 0.1:.1f}g"
    )
