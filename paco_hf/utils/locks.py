"""A folder has one owner at a time: a lock that dies with its process."""

import json
import os
import shutil
import socket
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_NAME = ".lock"


@contextmanager
def sole_owner(folder: str | Path, use: str, advice: str, traces: Collection[str] = ()) -> Iterator[None]:
    """Hold a folder, which is made where there is none; where nothing comes of it, it is gone afterwards.

    Args:
        folder (path): to write to.
        use (`str`): what it is held for, as the message to others says it, such as `a run trains in it`.
        advice (`str`): what others should do instead of waiting.
        traces (collection of `str`, *optional*): files that by themselves are nothing that came of it.

    Raises:
        OSError: another process holds it, which the message names, with its computer and how long it has; or nothing
            can be written there.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise OSError(f"{folder} is a file: give a folder")
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    file = folder / LOCK_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise OSError(f"{folder} is in use{_holder(file)}: wait for it, or {advice}") from error
    except OSError as error:
        raise OSError(f"{folder} cannot be written ({error.strerror or error}): {advice}") from error
    try:
        file.write_text(
            json.dumps({"use": use, "host": socket.gethostname(), "pid": os.getpid(), "since": time.time()})
        )
        yield
    finally:
        if missing and {path.name for path in folder.iterdir()} <= {LOCK_NAME, *traces}:
            shutil.rmtree(folder)
        file.unlink(missing_ok=True)
        lock.release()
        for path in missing:
            with suppress(OSError):  # there is something in it
                path.rmdir()


def _holder(file: Path) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):  # it is just being written, or cannot be read while held
        held = json.loads(file.read_text())
        minutes = (time.time() - held["since"]) / 60
        age = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"
        return f": {held['use']}, process {held['pid']} on {held['host']}, for {age}"
    return " by another process"
