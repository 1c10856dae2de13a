"""Limits that a busy machine does not exceed: of processor time, and of the time in which nothing happens."""

import contextlib
import subprocess
import time
from collections.abc import Callable

import psutil

STILL = 120  # seconds in which a process that waits for nothing uses some processor time, however busy the machine is


def processor_seconds(pid: int) -> float:
    """What a process and all that it has started have used so far."""
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                times = process.cpu_times()
                # With that of its children which have ended, where the system tells.
                total += times.user + times.system
                total += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return total


class Patience:
    """Runs out where a process has used so many seconds of processor time, or uses none any more."""

    def __init__(self, process: subprocess.Popen, seconds: float) -> None:
        self.process, self.seconds = process, seconds
        self.used, self.since = 0.0, time.monotonic()

    def check(self) -> None:
        used = processor_seconds(self.process.pid)
        if used > self.used + 0.1 or used < self.used:
            self.used, self.since = used, time.monotonic()
        spent, still = used > self.seconds, time.monotonic() - self.since > STILL
        if (spent or still) and self.process.poll() is None:
            self.process.kill()
            _, errors = self.process.communicate()
            raise AssertionError(f"{used:.0f} s of processor time, {'none any more' if still else 'no end'}: {errors}")


def ended(process: subprocess.Popen, seconds: float = 1800) -> tuple[str, str]:
    """Waits until it has ended: what it printed, and its errors."""
    patience = Patience(process, seconds)
    while True:
        try:
            return process.communicate(timeout=2)
        except subprocess.TimeoutExpired:
            patience.check()


def run(command: list[str], seconds: float = 1800, **options: object) -> subprocess.CompletedProcess:
    """As `subprocess.run`, with what it prints captured as text."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, **options)  # type: ignore[call-overload]
    out, errors = ended(process, seconds)
    return subprocess.CompletedProcess(command, process.returncode, out, errors)


def wait_until(moment: Callable[[], object], process: subprocess.Popen, seconds: float = 1800) -> None:
    """Waits for what a process does, which must not end before."""
    patience, checked = Patience(process, seconds), time.monotonic()
    while not moment():
        if process.poll() is not None:
            _, errors = process.communicate()
            raise AssertionError(f"it ended too early: {errors}")
        if time.monotonic() > checked + 1:
            patience.check()
            checked = time.monotonic()
        time.sleep(0.0005)
