"""What one process does for all: the first one works, the others wait for what comes of it."""

import os
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

from .distributed import in_all, printed_once, world_size

_Result = TypeVar("_Result")
_WAIT = timedelta(days=30)  # for work whose time nobody knows; where the first process dies, its launcher ends all


def computed_once(function: Callable[[], _Result]) -> _Result:
    """Call a function in the first process alone; all get its result, however long it takes.

    Args:
        function (callable): without arguments; its result is sent to the others, so it should be small. A `ValueError`
            or an `OSError` is one of all processes.
    """
    if world_size() == 1:
        return function()
    outcome: list[Any] = [None, None]
    group = _patient_group()
    if dist.get_rank() == 0:
        try:
            outcome[0] = function()
        except (OSError, ValueError) as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0, group=group)
    if outcome[1] is not None:
        raise printed_once(outcome[1])
    result: _Result = outcome[0]
    return result


_groups: dict[int, Any] = {}  # by the group of training


def _patient_group() -> Any:
    """Not the group of training, whose processes must meet every few minutes. One for all uses: a group that ends
    while its thread lets go of a tensor of Python's may wait for that thread forever."""
    key = id(dist.group.WORLD)
    if key not in _groups:
        _groups[key] = dist.new_group(backend="gloo", timeout=_WAIT)
    return _groups[key]


def first_then_others(function: Callable[[], _Result]) -> _Result:
    """What a function gives in each process: first in that of rank 0, which may download and fill caches however long
    it takes, then in the first of each other computer, whose caches may be its own, then in the rest; an error of one
    is that of all.

    Args:
        function (callable): gives what a process keeps for itself.
    """
    if world_size() == 1:
        return function()
    turn = 0 if dist.get_rank() == 0 else 1 if os.environ.get("LOCAL_RANK") == "0" else 2
    results: list[_Result] = []

    def take_turn(now: int) -> None:
        if turn == now:
            results.append(function())

    group = _patient_group()
    for now in range(3):
        in_all(partial(take_turn, now), group)
    return results[0]


def rows_in_first(tensor: Tensor, rows: list[int]) -> list[Tensor]:
    """The rows of every process in the first one, in the order of their ranks; nothing in the others.

    Args:
        tensor (`Tensor` of shape `(B, ...)`): the rows of this process.
        rows (list of `int`): how many each process has, which all know.
    """
    if world_size() == 1:
        return [tensor]
    if dist.get_rank() > 0:
        if len(tensor):
            dist.send(tensor.contiguous(), 0)
        return []
    parts = [tensor]
    for rank, number in enumerate(rows[1:], 1):
        part = tensor.new_empty(number, *tensor.shape[1:])
        if number:
            dist.recv(part, rank)
        parts.append(part)
    return parts
