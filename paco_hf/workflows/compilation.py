"""Whether a run trains with compiled backbones: where that saves more than twice the time to compile them."""

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import timm
import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn

from ..arguments.resolve import RunPlan
from ..arguments.unsupported import checkpoints_activations
from ..runs.folder import RunFolder
from ..runs.layout import STATE_NAME
from ..trainer.compiled import BackboneTimer, BackboneTimes, CompiledBackbones, keep_compiled_code
from ..trainer.paco_trainer import PaCoTrainer
from ..trainer.step_timer import updates_per_epoch
from ..utils.console import say
from ..utils.files import read_mapping, write_json
from ..utils.hardware import cpp_compiler, cpu_name
from .build import RunParts
from .cost import duration

# Until the times of a backbone are known: the share of its seconds that compiled code saves, and the seconds that a
# layer takes to compile, of convolutional backbones on a CPU (docs/performance.md). Rather too little, and too much.
SHARE, LAYER_SECONDS = 0.1, 1.5
FEWEST_STEPS = 50  # below which nothing is timed
LEAST_SHARE = 0.03  # saved, for which code that is there is used
MARGIN = 2.0  # times the time to compile is what a run must save
_SETTINGS = ("torch_compile", "torch_compile_backend", "torch_compile_mode")


def compiled_as_begun(plan: RunPlan, checkpoints: Sequence[Path]) -> RunPlan:
    """Of a run that is resumed, the kind of step that it was begun with, where the user asks for none: compiled code
    rounds otherwise.

    Args:
        plan (`RunPlan`): of the run.
        checkpoints (sequence of `Path`): which it resumes from the first of; none: it starts.
    """
    if plan.args.torch_compile != "auto" or not checkpoints:
        return plan
    begun = RunFolder(checkpoints[0]).recipe
    compiler, there = cpp_compiler()
    if begun.get("torch_compile") and plan.args.device.type == "cpu" and not there:
        raise ValueError(
            f"the run uses torch.compile, and the C++ compiler {compiler!r} is not on the PATH: install one, set "
            "CXX, or use --torch_compile false to continue without it, which changes the rounding"
        )
    return replace(plan, args=plan.args.changed(**{"torch_compile": False} | _named(begun)))


def _named(recipe: dict[str, Any]) -> dict[str, Any]:
    return {name: recipe[name] for name in _SETTINGS if name in recipe}


def settle_compilation(
    plan: RunPlan, trainer: PaCoTrainer, parts: RunParts, images: int, checkpoint: Path | None
) -> RunPlan:
    """Decide on `--torch_compile auto`, and on a CPU compile the backbones, which the first step would do. A dry run
    only decides.

    Args:
        plan (`RunPlan`): of the run.
        trainer ([`PaCoTrainer`]): of the run, before it trains.
        parts (`RunParts`): what it trains on; the seconds that compiling takes are noted there.
        images (`int`): to train on.
        checkpoint (`Path`, *optional*): which the run resumes from.

    Returns:
        the plan with nothing left open.

    Raises:
        ValueError: what was asked for cannot be compiled.
    """
    args, chosen, passes = plan.args, plan.args.torch_compile is True, _passes_left(plan, images, checkpoint)
    if args.torch_compile == "auto" and all(gather_object([may_pay(trainer, passes)])):
        known, timer = _read_times(plan), BackboneTimer(trainer.model, args, int(plan.run.image_size or 0))
        chosen, line = predict(known or expected(timer), passes, bool(known))
        [chosen, line] = broadcast_object_list([chosen, line])
        say(args.process_index == 0, f"torch_compile auto: {line}")
    if chosen and args.device.type == "cpu" and not plan.run.dry_run:
        start = time.monotonic()
        chosen = _compile(plan, trainer, passes)
        parts.seconds["compilation_seconds"] = time.monotonic() - start
    trainer.args.torch_compile = chosen
    if chosen and trainer.compiled is None:
        trainer.compiled = CompiledBackbones(trainer.model, trainer.args)
    return replace(plan, args=args.changed(torch_compile=chosen))


def _passes_left(plan: RunPlan, images: int, checkpoint: Path | None) -> int:
    """Batches that the backbones have before them."""
    args = plan.args
    steps = (
        args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * updates_per_epoch(args, images))
    )
    done = read_mapping(checkpoint / STATE_NAME).get("global_step", 0) if checkpoint else 0
    return max(steps - done, 0) * args.gradient_accumulation_steps


def may_pay(trainer: PaCoTrainer, passes: int) -> bool:
    """Whether compiled backbones are worth a look: of how many passes, convolutions, all trained, on a CPU that has a
    compiler. Others were not measured.

    Args:
        trainer ([`PaCoTrainer`]): of the run.
        passes (`int`): of batches through the backbones.
    """
    args, backbone = trainer.args, trainer.model.paco.backbone
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    trained = not (trainer.frozen_backbone or trainer.adapted or args.trainable_convolutions)
    plain = args.device.type == "cpu" and not checkpoints_activations(args)
    return bool(passes >= FEWEST_STEPS and norms and trained and plain and cpp_compiler()[1])


def layers(backbone: nn.Module) -> int:
    """Modules that have no others in them."""
    return sum(not any(module.children()) for module in backbone.modules())


def expected(timer: BackboneTimer) -> BackboneTimes:
    """Times of backbones that were never compiled here: those of the modules are measured.

    Args:
        timer ([`BackboneTimer`]): of the run.
    """
    eager = timer.eager().eager
    return BackboneTimes(eager, (1 - SHARE) * eager, LAYER_SECONDS * layers(timer.backbones[0]))


def predict(times: BackboneTimes, passes: int, known: bool) -> tuple[bool, str]:
    """Whether to compile the backbones of a run, and why, for the user to read.

    Args:
        times ([`BackboneTimes`]): expected ones, or those of an earlier run.
        passes (`int`): of batches through the backbones.
        known (`bool`): whether they were measured.
    """
    saved, limit = passes * times.saved, MARGIN * times.compiling
    pays = saved > limit and times.saved > LEAST_SHARE * times.eager
    source = "measured earlier" if known else f"estimate of {SHARE:.0%}"
    verdict = "on" if pays else "off"
    return pays, (
        f"{verdict}: compiling would save {duration(max(saved, 0))} of {duration(passes * times.eager)} in the "
        f"backbones ({source}) and takes about {duration(times.compiling)}"
    )


def _compile(plan: RunPlan, trainer: PaCoTrainer, passes: int) -> bool:
    """Compile the backbones, time them, and keep the times for later runs; whether they are to be used."""
    args, asked = plan.args, plan.args.torch_compile is True
    main, failure, times = args.process_index == 0, "", BackboneTimes(0.0)
    say(main and asked, "torch_compile: on")
    timer = BackboneTimer(trainer.model, args, int(plan.run.image_size or 0))
    with args.main_process_first(desc="compiling"):  # the others find its code
        try:
            times = timer.compiled()
        except (RuntimeError, OSError) as error:  # of torch's compilers, each its own kind
            failure = f"{type(error).__name__}: {' '.join(str(error).split()):.120}"
    if failures := [text for text in gather_object([failure]) if text]:
        if asked:
            raise ValueError(
                f"torch_compile: the backbones cannot be compiled ({failures[0]}): use --torch_compile false"
            )
        say(main, f"torch_compile auto: off, because the backbones cannot be compiled ({failures[0]})")
        return False
    if main:
        _write_times(plan, times)
    [used] = broadcast_object_list([asked or times.saved > LEAST_SHARE * times.eager])
    saved = f"saving about {duration(passes * times.saved)} in total" if times.saved > 0 else "which saves nothing"
    say(
        main,
        f"backbones compiled in {times.compiling:.0f} s: {1000 * times.compiled:.0f} ms per step instead of "
        f"{1000 * times.eager:.0f}, {saved}" + ("" if used else "; continuing without"),
    )
    return bool(used)


def _times_file(plan: RunPlan) -> Path:
    """Where the times of backbones like these are kept: beside their compiled code."""
    args, run = plan.args, plan.run
    kind = {
        "backbone": [plan.backbone.architecture, plan.backbone_kwargs, run.image_size, args.loss],
        "batch": [args.per_device_train_batch_size, args.resolved_precision, args.channels_last],
        "compiler": [args.torch_compile_backend, args.torch_compile_mode],
        "machine": [torch.__version__, timm.__version__, cpu_name(), torch.get_num_threads()],
    }
    name = hashlib.sha256(repr(kind).encode()).hexdigest()[:16]
    return keep_compiled_code() / "paco_hf" / f"{name}.json"


def _read_times(plan: RunPlan) -> BackboneTimes | None:
    try:
        content = read_mapping(_times_file(plan))
        return BackboneTimes(**content) if content else None
    except (ValueError, TypeError):  # another release wrote it
        return None


def _write_times(plan: RunPlan, times: BackboneTimes) -> None:
    file = _times_file(plan)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, asdict(times))
    except OSError as error:
        say(True, f"note: the timings of compiled backbones cannot be stored ({error})")
