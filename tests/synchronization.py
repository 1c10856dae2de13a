"""What would make a process wait for a GPU, counted on a computer that has none."""

import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

# Operations whose result, or whose result's shape, the host has to know.
_WAITING = {"_local_scalar_dense", "nonzero", "nonzero_numpy", "argwhere", "masked_select", "equal", "is_nonzero"}
_WAITING |= {"_unique2", "unique_dim", "unique_consecutive", "bincount", "repeat_interleave"}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
_METHODS = ("tolist", "numpy", "cpu", "__array__")  # which no operation tells of where the tensor is on the CPU


class Waits(TorchDispatchMode):
    """Notes each operation that would wait for a GPU if its tensors lay there, with who called it.

    No tensor is on the CPU meanwhile, as far as `is_cpu` tells: code that asks takes the way that it takes on a GPU.

    Attributes:
        found (list of `str`): the operations, each with the innermost line of the package or of a library.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.patches = ExitStack()

    def __enter__(self) -> "Waits":
        self.patches.enter_context(patch.object(Tensor, "is_cpu", property(lambda tensor: False), create=True))
        for name in _METHODS:
            self.patches.enter_context(patch.object(Tensor, name, self._noted(name), create=True))
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self.patches.close()

    def _noted(self, name: str) -> Callable[..., Any]:
        method = getattr(Tensor, name)

        def call(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            self._note(name)
            return method(tensor, *args, **kwargs)

        return call

    def _note(self, name: str) -> None:
        inner = ("torch", "unittest", "contextlib.py")
        frames = [frame for frame in traceback.extract_stack() if frame.filename != __file__]
        places = [frame for frame in frames if not {*inner} & {*Path(frame.filename).parts}]
        self.found.append(f"{name} at {Path(places[-1].filename).name}:{places[-1].lineno}")

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name.removeprefix("aten::")
        masks = [i for i in args[1] if i is not None and i.dtype == torch.bool] if name in _INDEXING else []
        if name in _WAITING or masks:
            self._note(name)
        return function(*args, **(kwargs or {}))


class Transfers(TorchDispatchMode):
    """Notes each operation on tensors of more than one device; single numbers on the CPU travel with a kernel.

    Attributes:
        found (list of `str`): the operations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        tensors = [value for value in tree_iter((args, kwargs, result)) if isinstance(value, Tensor)]
        if len({tensor.device.type for tensor in tensors if tensor.ndim or tensor.device.type != "cpu"}) > 1:
            self.found.append(str(function))
        return result
