"""The random numbers of batched views: functions of each image's key ([`ImageDraws`]), or from one generator for the
whole batch ([`BatchDraws`]).

Keys come from seed, epoch and index by SplitMix64 (Steele, Lea and Flood, 2014), and the numbers from the keys. Its
states are multiples of a constant, so any number is computed without those before it, for all images at once and where
the images are. Up to the last conversion these are integer operations, with the same bits on each device.
"""

from abc import ABC, abstractmethod
from functools import lru_cache

import torch
from torch import Generator, Tensor

_NUMBERS = 40  # that are computed at a time, which is enough for a view


def _signed(value: int) -> int:
    """The integer of 64 bits with a sign, as tensors hold it, that has the bits of `value`."""
    return (value + 2**63) % 2**64 - 2**63


_GAMMA = _signed(0x9E3779B97F4A7C15)
_ROUNDS = ((30, _signed(0xBF58476D1CE4E5B9)), (27, _signed(0x94D049BB133111EB)))


def mixed(state: Tensor) -> Tensor:
    """What SplitMix64 puts out at a state, in place; products wrap around.

    Args:
        state (`Tensor` of `int64`, of any shape): states.
    """
    for shift, factor in _ROUNDS:
        state.bitwise_xor_((state >> shift).bitwise_and_(2 ** (64 - shift) - 1)).mul_(factor)
    return state.bitwise_xor_((state >> 31).bitwise_and_(2**33 - 1))


def image_keys(seed: int, epoch: int, indices: Tensor) -> Tensor:
    """The keys `(B,)` of images, for [`ImageDraws`].

    Args:
        seed (`int`): of the augmentations.
        epoch (`int`): of the training.
        indices (`Tensor` of `int64`, `(B,)`): of the images in their dataset.
    """
    key = torch.tensor([_signed(seed)])
    for place in (torch.tensor([epoch]), indices):
        key = mixed((place + 1) * _GAMMA + key)
    return key


@lru_cache(maxsize=16)
def _increments(first: int, count: int, device: torch.device) -> Tensor:
    """What a state is increased by for its numbers from `first` on `(count, 1)`."""
    return torch.arange(first + 1, first + count + 1, device=device).mul_(_GAMMA).unsqueeze(1)


@lru_cache(maxsize=64)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A small table, which moves to a device but once.

    Args:
        values (tuple of numbers): its entries.
        device (`torch.device`): where it is needed.
    """
    return torch.tensor(values, device=device)


def may_read(values: Tensor) -> bool:
    """Whether work may depend on values: a GPU's would have to be waited for.

    Args:
        values (`Tensor`): whose values it would depend on.
    """
    return values.is_cpu


class Draws(ABC):
    """Random numbers for the images of a batch. In a shape of one or two dimensions, `-1` is that of the
    images.

    Args:
        count (`int`): images of the batch.
        device (`torch.device`): where the numbers are.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self.count, self.device = count, device

    @abstractmethod
    def rand(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Numbers from 0 to below 1, not to be changed in place.

        Args:
            shape (`int`): of the result.
            dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): with 24 bits, or `torch.float64` with 53.
        """

    @abstractmethod
    def randint(self, high: int, *shape: int) -> Tensor:
        """Whole numbers from 0 to below `high`, in `int64`.

        Args:
            high (`int`): at most 2^31.
            shape (`int`): of the result.
        """

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Numbers drawn uniformly.

        Args:
            low, high (`float`): the range.
            shape (`int`): of the result.
        """
        return (self.rand(*shape) * (high - low)).add_(low)

    def happens(self, p: float) -> Tensor:
        """Which images something happens to, `(B,)`.

        Args:
            p (`float`): probability.
        """
        return self.rand(-1) < p


class BatchDraws(Draws):
    """From one generator for all images, so that what an image gets depends on its batch. The numbers are on the CPU.

    Args:
        generator (`torch.Generator`): on the CPU.
        count (`int`): images of the batch.
    """

    def __init__(self, generator: Generator, count: int) -> None:
        super().__init__(count, torch.device("cpu"))
        self.generator = generator

    def _sizes(self, shape: tuple[int, ...]) -> list[int]:
        return [self.count if size == -1 else size for size in shape]

    def rand(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """As [`Draws.rand`]."""
        return torch.rand(self._sizes(shape), dtype=dtype, generator=self.generator)

    def randint(self, high: int, *shape: int) -> Tensor:
        """As [`Draws.randint`]."""
        return torch.randint(high, self._sizes(shape), generator=self.generator)


class ImageDraws(Draws):
    """From each image's key alone, on the device of the keys.

    Args:
        keys (`Tensor` of `int64`, `(B,)`): of [`image_keys`].
        view (`int`, *optional*, defaults to `0`): each view of an image has numbers of its own.
    """

    def __init__(self, keys: Tensor, view: int = 0) -> None:
        super().__init__(len(keys), keys.device)
        self._states = mixed(keys + _signed((view + 1) * _GAMMA))
        self._first = self._used = self._computed = 0

    def _next(self, shape: tuple[int, ...]) -> slice:
        """Where the numbers for a shape are among those that are computed."""
        wanted = -1
        for size in shape:
            wanted *= size
        if self._used + wanted > self._computed:
            self._first, self._used, self._computed = self._first + self._used, 0, max(wanted, _NUMBERS)
            self._numbers = mixed(_increments(self._first, self._computed, self.device) + self._states)
            self._floats = (self._numbers >> 40).bitwise_and_(2**24 - 1).float().mul_(2.0**-24)
        self._used += wanted
        return slice(self._used - wanted, self._used)

    def _shaped(self, values: Tensor, shape: tuple[int, ...]) -> Tensor:
        if shape == (-1,):
            return values[0]
        return values.T if shape[0] == -1 else values

    def rand(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """As [`Draws.rand`]."""
        rows = self._next(shape)
        if dtype == torch.float32:
            return self._shaped(self._floats[rows], shape)
        numbers = (self._numbers[rows] >> 11).bitwise_and_(2**53 - 1)
        return self._shaped(numbers.double().mul_(2.0**-53), shape)

    def randint(self, high: int, *shape: int) -> Tensor:
        """As [`Draws.randint`]."""
        rows = self._next(shape)
        numbers = (self._numbers[rows] >> 32).bitwise_and_(2**32 - 1)
        return self._shaped(numbers.mul_(high) >> 32, shape)
