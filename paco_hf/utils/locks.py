"""A folder has one owner at a time: a lock that dies with its process."""

import errno
import inspect
import json
import os
import socket
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
from filelock import FileLock, Timeout

from .files import DiskError

LOCK_NAME, HELD_NAME = ".lock", ".lock.held"  # what says who the owner is, and what it locks
LOCK_NAMES = (LOCK_NAME, HELD_NAME)
BEAT, SILENCE = 20, 300  # seconds between an owner's signs of life, and without one until it is taken for ended
# Only since 3.24 does filelock fall back to another kind of lock, and can be asked not to.
_SOFT = "fallback_to_soft"
_HARD: dict[str, Any] = {_SOFT: False} if _SOFT in inspect.signature(FileLock.__init__).parameters else {}
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of a file system


@contextmanager
def sole_owner(folder: str | Path, use: str, advice: str, traces: Collection[str] = ()) -> Iterator[None]:
    """Hold a folder, which is made where there is none; where nothing comes of it, it is gone afterwards.

    The system ends the lock with its process; what is locked is an empty file, as some systems let nobody else read or
    write it. Not every shared disk tells one computer of another's locks, and some have none: there the owner's signs
    of life count, which are the times of the file that says who it is.

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
        raise OSError(f"{folder} is a file: pass a folder")
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    file, held = (folder / name for name in LOCK_NAMES)
    before, silent = _owner(file)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(held, timeout=0, **_HARD)
        locked = _acquire(lock)
    except Timeout as error:
        raise OSError(f"{folder} is in use{_describe(*_owner(file))}: wait for it, or {advice}") from error
    except OSError as error:
        raise DiskError(f"{folder} cannot be written ({error.strerror or error}): {advice}") from error
    if before and not (_is_here(before) and (locked or not psutil.pid_exists(before["pid"]))):
        if silent < SILENCE:
            lock.release()
            raise OSError(
                f"{folder} is in use{_describe(before, silent)}: wait for it, or {advice}; if that process has "
                f"exited, remove {file}"
            )
        print(f"{folder} was in use{_describe(before, silent)}: assumed to have exited", file=sys.stderr)
    ended = Event()
    try:
        owner = {"use": use, "host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        file.write_text(json.dumps(owner), encoding="utf-8")
        Thread(target=_show_life, args=(file, ended), daemon=True).start()
        yield
    finally:
        ended.set()
        nothing = missing and {path.name for path in folder.iterdir()} <= {*LOCK_NAMES, *traces}
        for name in (*(traces if nothing else ()), *LOCK_NAMES):
            with suppress(PermissionError):  # Windows keeps a locked file until the lock is released
                (folder / name).unlink(missing_ok=True)
        lock.release()
        for path in missing:
            with suppress(OSError):  # there is something in it
                path.rmdir()


def _acquire(lock: FileLock) -> bool:
    """Whether the file system has locks; `Timeout` where another process has this one."""
    try:
        lock.acquire()
    except NotImplementedError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _show_life(file: Path, ended: Event) -> None:
    while not ended.wait(BEAT):
        with suppress(OSError):  # the disk may come back
            os.utime(file)


def _owner(file: Path) -> tuple[dict[str, Any], float]:
    """What an owner wrote, and the seconds since its last sign of life; nothing where that cannot be read."""
    with suppress(OSError, ValueError, KeyError, TypeError):  # it is just being written, or cannot be read while held
        owner = json.loads(file.read_text(encoding="utf-8"))
        return {name: owner[name] for name in ("use", "host", "pid", "since")}, time.time() - file.stat().st_mtime
    return {}, 0.0


def _is_here(owner: dict[str, Any]) -> bool:
    return bool(owner["host"] == socket.gethostname())


def _describe(owner: dict[str, Any], silent: float) -> str:
    if not owner:
        return " by another process"
    last = "" if _is_here(owner) else f", last seen {_age(silent)} ago"
    return (
        f": {owner['use']}, process {owner['pid']} on {owner['host']}, for {_age(time.time() - owner['since'])}{last}"
    )


def _age(seconds: float) -> str:
    seconds = max(seconds, 0.0)  # the clocks of two computers differ
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
