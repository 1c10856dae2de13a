"""Row-wise collectives for the contrastive batch. Without an initialized process group each is the identity."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn

from .console import PRINTED_ONCE


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


# Collectives break a compiled graph anyway; asked for it, torch does so quietly.
@torch.compiler.disable
def gather_rows(tensor: Tensor) -> list[Tensor]:
    """The rows of every rank, in their order: a tensor `(B_r, ...)` a rank, of any length. No gradient."""
    if world_size() == 1:
        return [tensor.detach()]
    tensor = tensor.detach().contiguous()
    size = torch.tensor([tensor.shape[0]], device=tensor.device)
    sizes = [torch.empty_like(size) for _ in range(world_size())]
    dist.all_gather(sizes, size)
    rows = [int(s) for s in sizes]
    padded = tensor.new_zeros(max(rows), *tensor.shape[1:])
    padded[: tensor.shape[0]] = tensor
    parts = [torch.empty_like(padded) for _ in rows]
    dist.all_gather(parts, padded)
    return [part[:n] for part, n in zip(parts, rows, strict=True)]


def rank_offset(parts: list[Tensor]) -> int:
    """Where this rank's rows start among all ranks' rows, as [`gather_rows`] returns them."""
    return sum(part.shape[0] for part in parts[: dist.get_rank()])


class _GatherRowsWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = gather_rows(tensor)
        ctx.start, ctx.rows = rank_offset(parts), len(tensor)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # Every rank's loss depends on these rows: the gradient is the sum over ranks (DDP then averages parameters).
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[ctx.start : ctx.start + ctx.rows]


def gather_batch(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """All ranks' rows `(sum B_r, ...)`, differentiable, with their labels: this rank's first, the others in order."""
    if world_size() == 1:
        return rows, labels
    parts = gather_rows(labels)
    start = rank_offset(parts)
    stop = start + len(labels)
    everything: Tensor = _GatherRowsWithGradient.apply(rows)
    rows, labels = (torch.cat([t[start:stop], t[:start], t[stop:]]) for t in (everything, torch.cat(parts)))
    return rows, labels


@torch.compiler.disable
def exchange_rows(tensor: Tensor) -> tuple[Tensor, Tensor, int]:
    """Shuffle rows over the ranks (shuffled BatchNorm, MoCo section 3.3).

    Returns:
        this rank's share of the shuffled rows `(B_r, ...)`, the permutation that all ranks share, and where the share
        starts.
    """
    parts = gather_rows(tensor)
    order = torch.randperm(sum(part.shape[0] for part in parts), device=tensor.device)
    dist.broadcast(order, src=0)
    start = rank_offset(parts)
    share = order[start : start + tensor.shape[0]]
    return torch.cat(parts)[share], order, start


def restore_rows(tensor: Tensor, order: Tensor, start: int) -> Tensor:
    """Undo [`exchange_rows`] on what was computed from its rows.

    Args:
        tensor (`Tensor` of shape `(B_r, ...)`): one row for each row of this rank's share.
        order (`Tensor` of shape `(sum B_r,)`): the permutation.
        start (`int`): where the share starts.
    """
    restored = torch.cat(gather_rows(tensor))[torch.argsort(order)]
    return restored[start : start + tensor.shape[0]]


def broadcast_buffers(model: nn.Module) -> None:
    """Give every rank the buffers of rank 0 (BatchNorm statistics, queue)."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def gather_objects(value: Any, group: Any = None) -> list[Any]:
    """What each process has, in the order of their ranks."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=group)
    return values


_Result = TypeVar("_Result")
_processes: list[tuple[str, int]] = []  # host and process id of each rank


def process_name(rank: int) -> str:
    """What messages call a process; with its host where they are on several ([`check_agreement`] has met them)."""
    several = len({host for host, _ in _processes}) > 1
    return f"rank {rank} of {world_size()}" + (f" on {_processes[rank][0]}" if several else "")


def in_all(function: Callable[[], _Result], group: Any = None) -> _Result:
    """Call a function in every process; an error in one of them is that of all, and names it.

    Args:
        function (callable): what may fail with a `ValueError` or an `OSError`; it does not wait for other processes.
        group (*optional*): of processes, by which they meet (default: that of training).

    Raises:
        ValueError, OSError: the error of the first process that has one.
    """
    result, failure = None, None
    try:
        result = function()
    except (OSError, ValueError) as error:
        failure = error
    failures = gather_objects(failure and (isinstance(failure, OSError), str(failure)), group)
    rank = next((rank for rank, each in enumerate(failures) if each), None)
    if rank is None:
        return result  # type: ignore[return-value]
    is_system, text = failures[rank]
    if all(other == failures[rank] for other in failures) and failure is not None:
        raise printed_once(failure)
    named = f"{process_name(rank)}: " if rank > 0 else ""  # the first process needs no name
    raise printed_once((OSError if is_system else ValueError)(named + text)) from failure


def check_agreement(**held: Any) -> None:
    """That all processes hold the same, before they train together.

    Args:
        held: what to compare, by what messages call it (`_` for a space): text, or a mapping to text or numbers.

    Raises:
        ValueError: one holds something else than the first does; in all processes, and names that one.
    """
    if world_size() == 1:
        return
    if len(_processes) != world_size():
        _processes[:] = gather_objects((socket.gethostname(), os.getpid()))
    everything = gather_objects(held)
    for topic, first in everything[0].items():
        for rank, other in ((rank, held[topic]) for rank, held in enumerate(everything)):
            if other != first:
                theirs, ours = _difference(other, first)
                raise printed_once(
                    ValueError(
                        f"the processes differ in {topic.replace('_', ' ')}: {theirs} in {process_name(rank)}, {ours} "
                        f"in {process_name(0)}: use the same flags, packages, data and run folder for all processes"
                    )
                )


def _difference(one: Any, other: Any) -> tuple[str, str]:
    if isinstance(one, dict) and isinstance(other, dict):
        name = min(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
        return f"{name} {one.get(name)}", f"{name} {other.get(name)}"
    return str(one), str(other)


def printed_once(error: Exception) -> Exception:
    """An error that all processes have, for the first to print."""
    if world_size() > 1 and dist.get_rank() > 0:
        error.add_note(PRINTED_ONCE)
    return error


def lost_processes(wait: float = 2.0) -> list[int]:
    """The ranks on this computer whose process has ended.

    Args:
        wait (`float`, *optional*, defaults to `2.0`): seconds within which one may be found to.
    """
    host, until = socket.gethostname(), time.monotonic() + wait
    while True:
        lost = [rank for rank, (where, pid) in enumerate(_processes) if where == host and not _lives(pid)]
        if lost or time.monotonic() > until:
            return lost
        time.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def describe_lost() -> tuple[str, bool]:
    """Which process is gone, for the user to read, and whether this one is to say so: the first of those left."""
    lost = lost_processes()
    names = ", ".join(map(process_name, lost))
    if not lost:
        here = socket.gethostname()
        elsewhere = sorted({host for host, _ in _processes if host != here})
        names = f"a process on {' or '.join(elsewhere)}" if elsewhere else "another process"
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    return names, rank == min(set(range(world_size())) - set(lost), default=rank)


@contextmanager
def entered_once(context: AbstractContextManager[None], here: bool | None = None) -> Iterator[None]:
    """Enter a context in some processes alone; where one cannot enter it, that is the error of all.

    Args:
        context (context manager): to enter.
        here (`bool`, *optional*): whether this process does (default: that of rank 0).
    """
    here = (world_size() == 1 or dist.get_rank() == 0) if here is None else here
    with ExitStack() as stack:
        in_all(lambda: stack.enter_context(context) if here else None)
        yield


def leave_together() -> None:
    """End the group of processes once all are here: leaving while another still uses it makes that one abort."""
    if world_size() > 1:
        dist.barrier()
        dist.destroy_process_group()
