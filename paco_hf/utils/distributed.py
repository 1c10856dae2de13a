"""Row-wise collectives for the contrastive batch. Without an initialized process group each is the identity."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

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


@contextmanager
def entered_once(context: AbstractContextManager[None]) -> Iterator[None]:
    """Enter a context in rank 0 alone; where it cannot be entered, that is the error of all ranks."""
    failure: list[Exception | None] = [None]
    with ExitStack() as stack:
        if world_size() == 1 or dist.get_rank() == 0:
            try:
                stack.enter_context(context)
            except (OSError, ValueError) as error:
                failure = [error]
        if world_size() > 1:
            dist.broadcast_object_list(failure)
        if failure[0] is not None:
            if world_size() > 1 and dist.get_rank() > 0:
                failure[0].add_note(PRINTED_ONCE)
            raise failure[0]
        yield


def leave_together() -> None:
    """End the group of processes once all are here: leaving while another still uses it makes that one abort."""
    if world_size() > 1:
        dist.barrier()
        dist.destroy_process_group()
