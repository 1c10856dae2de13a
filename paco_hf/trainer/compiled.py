"""Backbones as compiled code: in the steps of a training, and nowhere else."""

import copy
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
from huggingface_hub.constants import HF_HOME
from torch import Tensor, nn

from ..arguments.training_args import PaCoTrainingArguments
from ..models.modeling_contrastive import PaCoForContrastiveTraining
from ..models.modeling_paco import PaCoForImageClassification

CODE_FOLDER = "TORCHINDUCTOR_CACHE_DIR"  # the variable that says where compiled code is kept
_SECONDS, _MOST, _TURNS = 3.0, 8, 3  # of timed passes; a long one is timed once
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def keep_compiled_code() -> Path:
    """Where compiled code is kept for the next run, and for one that is resumed: `TORCHINDUCTOR_CACHE_DIR`, which is
    set where it is not; torch would use the temporary folder."""
    return Path(os.environ.setdefault(CODE_FOLDER, str(Path(HF_HOME) / "paco_hf" / "inductor")))


def encoders(model: PaCoForImageClassification) -> list[nn.Module]:
    """The backbones that a step goes through: the query's, and the key encoder's where there is one."""
    key_encoder = model.key_encoder if isinstance(model, PaCoForContrastiveTraining) else None
    return [model.paco.backbone, *([] if key_encoder is None else [key_encoder["paco"].backbone])]


class CompiledBackbones:
    """Compiled `forward_features` of the backbones of a model, one for the query and one for the key encoder.

    The modules stay as they are. Compiled code stands in for their method only within a block of [`in_place`], so
    that checkpoints, copies, evaluation and the model that is handed on know nothing of it. Batches of another number
    of images go through the modules themselves, as code for them would take minutes to compile too.

    Args:
        model (`PaCoForImageClassification`): that is trained.
        args (`PaCoTrainingArguments`): with `torch_compile_backend` and `torch_compile_mode`; the batch of a process
            is the number of images that is compiled for.
    """

    def __init__(self, model: PaCoForImageClassification, args: PaCoTrainingArguments) -> None:
        if (args.torch_compile_backend or "inductor") == "inductor":
            keep_compiled_code()
        self.backbones = encoders(model)
        self.functions = [compiled_features(backbone, args) for backbone in self.backbones]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Run compiled code in this block."""
        for backbone, function in zip(self.backbones, self.functions, strict=True):
            backbone.__dict__["forward_features"] = function
        try:
            yield
        finally:
            for backbone in self.backbones:
                del backbone.__dict__["forward_features"]


def compiled_features(backbone: Any, args: PaCoTrainingArguments) -> Callable[[Tensor], Any]:
    """The backbone's `forward_features`, compiled for whole batches.

    Args:
        backbone (`nn.Module`): of timm.
        args (`PaCoTrainingArguments`): of the training.
    """
    # Else code within DistributedDataParallel is another one, in parts of the size of its buckets.
    torch._dynamo.config.optimize_ddp = False
    features: Callable[[Tensor], Any] = backbone.forward_features
    options: dict[str, Any] = {"backend": args.torch_compile_backend or "inductor", "mode": args.torch_compile_mode}
    compiled, rows = torch.compile(features, dynamic=False, **options), args.per_device_train_batch_size
    layout = torch.channels_last if args.channels_last else torch.contiguous_format

    def forward_features(images: Tensor) -> Any:
        if len(images) != rows:
            return features(images)
        return compiled(images.contiguous(memory_format=layout))  # rows from other processes have another one

    return forward_features


@dataclass(frozen=True)
class BackboneTimes:
    """Seconds of what the backbones do in a step.

    Args:
        eager (`float`): as modules.
        compiled (`float`): as compiled code, from the second pass on.
        compiling (`float`): by which the first pass took longer.
    """

    eager: float
    compiled: float = 0.0
    compiling: float = 0.0

    @property
    def saved(self) -> float:
        """Of a step."""
        return self.eager - self.compiled


class BackboneTimer:
    """Times what the backbones of a training do in a step: on copies of them, with images of noise, so that neither
    weights nor statistics nor random numbers of the run know of it.

    Args:
        model (`PaCoForImageClassification`): that is to be trained, on the device of the run.
        args (`PaCoTrainingArguments`): of the training.
        size (`int`): side of the images in pixels.
        processors (callable): as those of the run.
    """

    def __init__(self, model: PaCoForImageClassification, args: PaCoTrainingArguments, size: int) -> None:
        self.args = args
        trained = any(parameter.requires_grad for parameter in model.paco.backbone.parameters())
        self.backbones: list[Any] = [copy.deepcopy(backbone).train(trained) for backbone in encoders(model)]
        # Each view of a loss without a key encoder goes through the one backbone.
        self.passes = self.backbones if len(self.backbones) > 1 else self.backbones * args.spec.views
        with torch.random.fork_rng(devices=[]):
            images = torch.randn(args.per_device_train_batch_size, 3, size, size)
        layout = torch.channels_last if args.channels_last else torch.contiguous_format
        self.images = images.to(args.device).contiguous(memory_format=layout)

    def eager(self) -> BackboneTimes:
        """Without compiled code."""
        return BackboneTimes(self._timed([backbone.forward_features for backbone in self.passes])[1])

    def compiled(self) -> BackboneTimes:
        """With compiled code, which is there afterwards.

        Raises:
            RuntimeError: it cannot be compiled, as torch says.
        """
        functions = {backbone: compiled_features(backbone, self.args) for backbone in self.backbones}
        plain = [backbone.forward_features for backbone in self.passes]
        code = [functions[backbone] for backbone in self.passes]
        first, _ = self._timed(code, most=1)
        turns: list[tuple[float, float]] = []
        while not turns or (len(turns) < _TURNS and sum(map(sum, turns)) < _SECONDS):  # others may use the cores
            turns.append((self._timed(plain, most=2)[1], self._timed(code, most=2)[1]))
        eager, compiled = (statistics.median(seconds) for seconds in zip(*turns, strict=True))
        return BackboneTimes(eager, compiled, max(first - compiled, 0.0))

    def _timed(self, functions: list[Callable[[Tensor], Any]], most: int = _MOST) -> tuple[float, float]:
        """Seconds of the first pass, and the median of the others (with one pass: its own)."""
        seconds: list[float] = []
        with torch.random.fork_rng():
            while not seconds or (len(seconds) < most and sum(seconds) < _SECONDS):
                start = time.monotonic()
                self._step(functions)
                seconds.append(time.monotonic() - start)
        return seconds[0], statistics.median(seconds[1:] or seconds)

    def _step(self, functions: list[Callable[[Tensor], Any]]) -> None:
        args = self.args
        dtype = _DTYPES.get(args.resolved_precision)
        for backbone, function in zip(self.passes, functions, strict=True):
            trained = any(parameter.requires_grad for parameter in backbone.parameters())
            with torch.set_grad_enabled(trained), torch.autocast(args.device.type, dtype, enabled=dtype is not None):
                features = backbone.forward_head(function(self.images), pre_logits=True)
            if trained:
                features.float().square().mean().backward()
        for backbone in self.backbones:
            backbone.zero_grad()
        if args.device.type != "cpu":
            torch.accelerator.synchronize()
