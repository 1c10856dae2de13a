"""A device without float64, as Apple's GPUs are: tensors that are nominally elsewhere, and are computed here.

They say that they are on `meta`, the only device of which torch allows that without having one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from accelerate import PartialState
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from transformers import TrainingArguments

DEVICE = torch.device("meta")


class Elsewhere(Tensor):
    """A tensor of the device, with its values in `here`."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> "Elsewhere":
        if here.dtype in (torch.float64, torch.complex128):
            raise TypeError("the device has no float64")
        return Tensor._make_wrapper_subclass(
            cls, here.shape, here.stride(), here.storage_offset(), dtype=here.dtype, device=DEVICE
        )

    def __init__(self, here: Tensor) -> None:
        self.here = here

    def tolist(self) -> Any:
        return self.here.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        named = kwargs.get("device")
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        there = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
        is_there = torch.device(named) == DEVICE if named is not None else bool(there)
        moving = named is not None or func is torch.ops.aten.copy_.default
        if is_there and moving and any(tensor.dtype == torch.float64 for tensor in tensors):
            raise TypeError(f"{func} sends float64 to the device")
        inner, options = tree_map(lambda value: value.here if isinstance(value, Elsewhere) else value, (args, kwargs))
        result = func(*inner, **(options | ({"device": "cpu"} if named is not None else {})))
        known = {id(tensor.here): tensor for tensor in there}
        if not is_there:
            return result

        def outside(value: Any) -> Any:
            return known.get(id(value), value) if id(value) in known or not isinstance(value, Tensor) else cls(value)

        return tree_map(outside, result)


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return Elsewhere.__torch_dispatch__(func, types, args, kwargs)  # also of what takes no tensor of the device


@contextmanager
def in_use() -> Iterator[None]:
    """This computer has the device, and trainers and verbs use it."""
    autocast, start = torch.autocast, PartialState.__init__

    def on_cpu(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return autocast("cpu" if device_type == "meta" else device_type, *args, **kwargs)

    def moved(make: Any) -> Any:
        """Of a function that makes tensors past the dispatcher: on the CPU, and then sent."""

        def made(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
            tensor: Tensor = make(*args, **kwargs)
            return tensor if device is None else tensor.to(device)

        return made

    def begin(state: PartialState, *args: Any, **kwargs: Any) -> None:
        start(state, *args, **kwargs)
        state.device = DEVICE

    with (
        patch("torch.autocast", on_cpu),
        patch("torch.accelerator.is_available", lambda: True),
        patch("torch.accelerator.current_accelerator", lambda **_: DEVICE),
        patch("torch.accelerator.synchronize", lambda *_: None),
        patch("torch.tensor", moved(torch.tensor)),
        patch("torch.as_tensor", moved(torch.as_tensor)),
        patch("torch.optim.sgd._device_dtype_check_for_fused", lambda *_: None),
        patch.object(PartialState, "__init__", begin),
        patch.object(TrainingArguments, "device", property(lambda args: args._setup_devices and DEVICE)),
        _Mode(),
    ):
        yield
