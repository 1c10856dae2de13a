"""SIGTERM as a request to stop, heard at once: also while the main thread waits for a GPU or for another process."""

import ctypes
import multiprocessing
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from multiprocessing import queues
from multiprocessing.context import BaseContext
from typing import Any

STATUS = 128 + signal.SIGTERM
_SILENCE = timedelta(seconds=6)  # without a sign of life, after which a process counts as gone
_LONG_SILENCE = 60.0  # seconds; likewise where nobody asked to stop: a process may be swapped out for a while
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_BIRTH, _ATTEMPTS = 10.0, 3  # seconds in which a fork comes to its first line, for which it takes milliseconds
_ECHO = 2.0  # seconds in which torchrun's agent passes on a signal that all processes of a job were sent as well


class Stopped(Exception):  # noqa: N818 - it is no error
    """A training that stopped on request, after a checkpoint."""


class Termination:
    """In its context the first SIGTERM sets `requested`, and a second one ends the process at once.

    Slurm and systemd signal all processes of a job, and torchrun's agent passes on what it is sent: under an agent,
    signals of the same two seconds are one.
    Leaving the context without `granted` ends the process by the signal, as it would have ended without a context.
    In several processes each gives signs of life: where one is gone, a step that was interrupted has no end, and
    what is left of it ends, too; a minute without a sign ends it also where nothing was asked for, such as where a
    computer has failed, which closes no connection. A thread other than the main one hears no signals.

    Args:
        rank (`int`): of this process.
        world (`int`): number of processes. If several, environment variables `MASTER_ADDR` and `MASTER_PORT` say where
            their store is.
    """

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world
        self.requested = self.granted = False

    def __enter__(self) -> "Termination":
        self.heard = threading.current_thread() is threading.main_thread()
        if self.heard:
            # Python runs handlers in the main thread, between two operations; the byte is there at once.
            self.reader, self.writer = socket.socketpair()
            self.writer.setblocking(False)
            self.wakeup = signal.set_wakeup_fd(self.writer.fileno(), warn_on_full_buffer=False)
            self.handler = signal.signal(signal.SIGTERM, lambda *_: None)
            self.thread = threading.Thread(target=self._listen, daemon=True)
            self.thread.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # A launcher that ends what is left should not keep it from saying which process has ended.
        lost = error is not None and is_lost(error)
        if self.heard:
            signal.signal(signal.SIGTERM, signal.SIG_IGN if lost else self.handler)
            signal.set_wakeup_fd(self.wakeup)
            self.writer.shutdown(socket.SHUT_WR)  # closed here, it is open still in workers that live
            self.writer.close()
            self.thread.join()
            self.reader.close()
            if self.requested and not self.granted and not lost:
                signal.raise_signal(signal.SIGTERM)

    def _listen(self) -> None:
        peers = _Peers(self.rank, self.world) if self.world > 1 and "MASTER_ADDR" in os.environ else None
        self.reader.settimeout(1 if peers else None)
        received, since = None, 0.0
        while received != b"":  # the writer is closed
            with suppress(TimeoutError):
                received = self.reader.recv(64)
                requests = self.requested + received.count(signal.SIGTERM)
                if requests and not since:
                    since = time.monotonic()
                if requests > 1 and not _is_echo(since):
                    os._exit(STATUS)
                if requests > self.requested and self.rank == 0:
                    print("SIGTERM: saving a checkpoint and stopping after this step", file=sys.stderr, flush=True)
                self.requested = requests > 0
            if peers and (silent := peers.silent(self.requested)):
                from .distributed import process_name

                if not self.requested and self.rank == min(set(range(self.world)) - {*silent}, default=0):
                    names = ", ".join(map(process_name, silent))
                    print(
                        f"no heartbeat of {names} for {_LONG_SILENCE:.0f} s, so training stops; resume from the "
                        "last complete checkpoint with --resume",
                        file=sys.stderr,
                        flush=True,
                    )
                os._exit(STATUS if self.requested else 1)


def is_lost(error: BaseException) -> bool:
    """Whether an error is of a connection to a process that has ended."""
    # NCCL's errors are of a type of their own; gloo's name the file of its sources.
    return isinstance(error, RuntimeError) and (type(error).__name__.startswith("Dist") or "/gloo/" in str(error))


def end_with_parent() -> None:
    """On Linux, have the kernel end this process with its parent, should that be killed without a chance to."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def end_with_lost_batch(worker: int = 0) -> None:
    """Have a data loader's worker end where it cannot hand over a batch, as shared memory is full, instead of going on
    without it, for which the loader would wait forever.

    Args:
        worker (`int`, *optional*): its number, which makes no difference.
    """
    queues.Queue._on_queue_feeder_error = staticmethod(lambda *_: os._exit(1))  # type: ignore[attr-defined]


def worker_context() -> BaseContext:
    """What a data loader starts workers by that come to life, and hear no SIGTERM before [`start_worker`].

    A fork has the handler of the process, so that a signal to both would be heard twice, and torch replaces it by one
    that ends the worker.

    In Python 3.11 a fork waits forever for a lock that another thread had as it was made: it is made anew then.
    """
    fork = multiprocessing.get_context("fork")

    class Worker(fork.Process):  # type: ignore[name-defined]
        @staticmethod
        def _Popen(process_obj: Any) -> Any:  # noqa: N802 - its name in multiprocessing
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            try:
                for attempt in range(_ATTEMPTS):
                    reader, process_obj.alive = os.pipe()
                    started = fork.Process._Popen(process_obj)
                    os.close(process_obj.alive)
                    lives = select.select([reader], [], [], _BIRTH)[0]
                    os.close(reader)
                    if lives or attempt == _ATTEMPTS - 1:
                        break
                    started.kill()
                    started.wait()
                return started
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)

        def _bootstrap(self, *args: Any, **kwargs: Any) -> Any:  # the first that a fork does
            os.close(self.alive)
            return super()._bootstrap(*args, **kwargs)

    context: BaseContext = type("Context", (type(fork),), {"Process": Worker})()
    return context


def start_worker(function: Callable[[int], None] | None, worker: int) -> None:
    """Start a data loader's worker that outlives the first SIGTERM: the process that it works for decides.

    Args:
        function (callable, *optional*): what the worker starts with.
        worker (`int`): its number.
    """
    end_with_lost_batch()
    end_with_parent()  # it would hold the lock of the folder for seconds
    # The one that it works for may have ended before, or be another than its parent, which torch watches.
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    since = 0.0

    def hear(*_: Any) -> None:
        nonlocal since
        if since and not _is_echo(since):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)
        since = since or time.monotonic()

    signal.set_wakeup_fd(-1)  # a fork has that of the process
    signal.signal(signal.SIGTERM, hear)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    if function is not None:
        function(worker)


def _end_with(process: Any) -> None:
    process.join()
    os._exit(STATUS)


def _is_echo(since: float) -> bool:
    # What launched this process passes on what both may hear.
    launched = not os.environ.keys().isdisjoint(("TORCHELASTIC_RUN_ID", "PACO_HF_LAUNCHER"))
    return launched and time.monotonic() - since < _ECHO


class _Peers:
    def __init__(self, rank: int, world: int) -> None:
        self.names, self.name = [f"paco_hf/alive/{i}" for i in range(world)], f"paco_hf/alive/{rank}"
        self.store: Any = None
        self.signs: dict[str, tuple[bytes, float]] = {}
        self.alone = 0.0  # since when there is no store

    def silent(self, asked: bool) -> list[int]:
        """Give a sign of life; the ranks that have given none for long, for less long where a stop is `asked` for."""
        from torch.distributed import TCPStore

        limit = _SILENCE.total_seconds() if asked else _LONG_SILENCE
        try:
            if self.store is None:
                # A connection of its own: that of the group of processes may be waiting.
                address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
                self.store = TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=_SILENCE)
            self.store.add(self.name, 1)
            counts = self.store.multi_get(self.names)
        except RuntimeError:  # the store is gone, with the first process, or a process never came
            self.alone = self.alone or time.monotonic()
            return [0] if asked or time.monotonic() - self.alone > limit else []
        now = time.monotonic()
        self.alone = 0.0
        for name, count in zip(self.names, counts, strict=True):
            if self.signs.get(name, (b"", now))[0] != count:
                self.signs[name] = (count, now)
        return [rank for rank, name in enumerate(self.names) if now - self.signs[name][1] > limit]
