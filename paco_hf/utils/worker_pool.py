"""Work in blocks, in processes of this computer: for what holds Python's lock, as decoding many small images does."""

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from itertools import chain
from typing import Any

from .hardware import usable_cores
from .signals import start_worker, worker_context

PATIENCE = 1.0  # seconds in which little work is done before processes would have started
_MOST = 16  # processes; more wait for the disk, and for the one that hands out the work
_AHEAD = 3  # blocks that each process has handed out, or ready: what memory they take does not grow with the work
_job: tuple[Callable[[Any, Any], Any], Any] | None = None  # in a process of the pool


def pool_size(shared: bool = False) -> int:
    """The processes that work for one that waits for them: the cores that it may use, 16 at most; 1: none besides it.

    Args:
        shared (`bool`, *optional*, defaults to `False`): whether all processes that train have such work at the time;
            else the others wait, so that it has their cores, too.
    """
    return min(max(usable_cores() // (int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if shared else 1), 1), _MOST)


def in_blocks(
    work: Callable[[Any, Any], Any], state: Any, blocks: Iterable[Any], *, shared: bool = False
) -> Generator[Any, None, None]:
    """Do work block by block: at first in this process, and where that takes more than a moment in several.

    Results travel through pipes, so that it does not matter how small shared memory (/dev/shm) is.

    Args:
        work (callable): a function of a module, of `state` and a block.
        state: what the work of every block needs; processes that are not forked are sent it once.
        blocks (iterable): what is to be done.
        shared (`bool`, *optional*, defaults to `False`): as that of [`pool_size`].

    Yields:
        what the work gives, in the order of the blocks.

    Raises:
        OSError: a process has ended, as memory is short or a decoder crashed.
    """
    remaining, started, processes = iter(blocks), time.monotonic(), pool_size(shared)
    for block in remaining:
        yield work(state, block)
        if processes > 1 and time.monotonic() - started > PATIENCE:
            break
    if (first := next(remaining, None)) is not None:
        yield from _in_processes(work, state, chain([first], remaining), processes)


def rows_in_blocks(
    work: Callable[[Any, Any], Any], state: Any, rows: Sequence[int], size: int, *, shared: bool = False
) -> Generator[tuple[Sequence[int], Any], None, None]:
    """As [`in_blocks`], of rows that are cut into blocks.

    Args:
        work, state, shared: as those of [`in_blocks`].
        rows (sequence of `int`): what is to be done.
        size (`int`): rows of a block.

    Yields:
        each block, and what the work gives.
    """
    blocks = [rows[start : start + size] for start in range(0, len(rows), size)]
    with closing(in_blocks(work, state, blocks, shared=shared)) as results:
        yield from zip(blocks, results, strict=True)


def _in_processes(
    work: Callable[[Any, Any], Any], state: Any, blocks: Iterable[Any], processes: int
) -> Generator[Any, None, None]:
    context = worker_context() if multiprocessing.get_start_method() == "fork" else None
    pool = ProcessPoolExecutor(processes, context, _start, (work, state))
    waiting: deque[Future] = deque()
    try:
        for block in blocks:
            waiting.append(pool.submit(_work, block))
            if len(waiting) >= _AHEAD * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise OSError(
            f"one of {processes} processes that check images exited: if memory is too small, use fewer cores "
            "(taskset -c 0) or more memory, and run the command again; results so far are kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start(work: Callable[[Any, Any], Any], state: Any) -> None:
    global _job
    _job = work, state
    # Ctrl-C reaches all; the one that they work for says so, and ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    start_worker(None, 0)


def _work(block: Any) -> Any:
    assert _job is not None
    work, state = _job
    return work(state, block)
