"""Orders of the training images that are functions of seed and epoch, so that a run resumes exactly."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler


class EpochIndex(int):
    """An index that knows its epoch. Any dataset takes it as an `int`; [`ViewsDataset`] seeds by both."""

    epoch: int

    def __new__(cls, index: int, epoch: int) -> "EpochIndex":
        self = super().__new__(cls, index)
        self.epoch = epoch
        return self

    def __getnewargs__(self) -> Any:
        return int(self), self.epoch


class EpochSampler(Sampler[EpochIndex]):
    """Every index once, in an order that is a function of `(seed, epoch)` alone, so a resumed run goes on in it."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[EpochIndex]:
        return (EpochIndex(index, self.epoch) for index in self.order())

    def order(self) -> np.ndarray:
        """The epoch's indices `(N,)`."""
        return np.random.default_rng([self.seed, self.epoch]).permutation(self.length)


class StreamSampler(EpochSampler):
    """An order for reading row groups one after the other: a function of `(seed, epoch)` and the arguments alone.

    The groups are permuted each epoch and dealt out to `lanes`, whole batches to each, so that each process and each
    of its 1, 2, 4 or 8 workers finds all its batches in lanes that no other has. Within a lane images are shuffled in
    windows of `buffer / lanes`. Each image comes once; skipping to any batch reads nothing.

    Args:
        groups (ascending array `(N,)`): row group of each image.
        batch_size (`int`): images of a batch of one process.
        lanes (`int`): [`LANES`] times the number of processes.
        buffer (`int`): images that are shuffled among one another at a time, over all lanes.
        seed (`int`): of the order.
    """

    def __init__(self, groups: np.ndarray, batch_size: int, lanes: int, buffer: int, seed: int) -> None:
        super().__init__(len(groups), seed)
        self.batch_size, self.lanes = batch_size, lanes
        self.window = max(buffer // lanes, batch_size)
        _, starts = np.unique(groups, return_index=True)
        self.bounds = np.append(starts, len(groups))

    def order(self) -> np.ndarray:
        """The epoch's indices `(N,)`; a last batch that is not full stands at the end."""
        generator = np.random.default_rng([self.seed, self.epoch])
        permuted = generator.permutation(len(self.bounds) - 1)
        rows = np.concatenate([np.arange(self.bounds[g], self.bounds[g + 1]) for g in permuted])
        batches = self.length // self.batch_size
        order = np.empty((batches, self.batch_size), dtype=np.int64)
        start = 0
        for lane in range(min(self.lanes, batches)):
            lane_batches = order[lane :: self.lanes]
            lane_rows = rows[start : start + lane_batches.size]
            start += lane_batches.size
            for first in range(0, len(lane_rows), self.window):
                generator.shuffle(lane_rows[first : first + self.window])
            lane_batches[:] = lane_rows.reshape(lane_batches.shape)
        return np.concatenate([order.ravel(), generator.permutation(rows[start:])])
