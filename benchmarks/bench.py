"""Rows of ours against plain, interleaved in one process: `python -m benchmarks.bench`. README.md explains them."""

import argparse
import datetime
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import datasets
import torch
import transformers
from torch import Tensor
from tqdm.auto import tqdm

from paco_hf.utils.memory import keep_freed_memory

from . import ours, plain
from .machine import BUSY, ceilings, default_allocator, describe, peak_memory
from .setup import LossInputs, Setup, loss_inputs

INTERFACE = (
    "make_step",
    "paco_loss",
    "make_key_update",
    "make_views",
    "make_evaluation",
    "make_compiled_evaluation",
    "make_predict",
    "make_pipeline",
    "make_reads",
)


@dataclass
class Row:
    """A comparison.

    Args:
        name, about (`str`): for the table.
        function (`str`): the function of the interface that a side must have.
        build (callable): a side's function and `Setup` to what is timed.
        target (`float`, *optional*): the least ratio, plain's time over ours, that is wanted.
        turns (`int`): how often the sides take turns; `block` calls a turn, the first `skip` of them not timed.
        agree (callable, *optional*): whether two sides' results are the same for the purpose.
        memory (`bool`): also measure the peak memory of a call.
        keeps_memory (`bool`): the package's allocator setting, which the others then do not have, is part of ours.
        settings (`dict`): fields of `Setup`.
        driver (callable, *optional*): our side where it is a loop that cannot be called a step at a time: it is given
            `Setup` and what to call between its steps, which raises `Finished` at the end.
    """

    name: str
    about: str
    function: str
    build: Callable[[Callable, Setup], Callable[[], Any]]
    target: float | None = None
    turns: int = 10
    block: int = 5
    skip: int = 1
    agree: Callable[[Any, Any], bool] | None = None
    memory: bool = False
    keeps_memory: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    driver: Callable[[Setup, Callable[[], None]], None] | None = None


class Finished(BaseException):
    """Ends a loop that drives a row."""


def same_numbers(tolerance: float) -> Callable[[Any, Any], bool]:
    """Whether two tensors, or tuples of them, differ by at most `tolerance` of their norm."""

    def agree(one: Any, two: Any) -> bool:
        pairs = zip(one, two, strict=True) if isinstance(one, tuple) else [(one, two)]
        return all(bool((a.float() - b.float()).norm() <= tolerance * b.float().norm()) for a, b in pairs)

    return agree


def same_labels(share: float) -> Callable[[list[str], list[str]], bool]:
    """Whether a `share` of the labels are the same."""

    def agree(one: list[str], two: list[str]) -> bool:
        return sum(a == b for a, b in zip(one, two, strict=True)) >= share * len(two)

    return agree


def from_setup(make: Callable, setup: Setup) -> Callable[[], Any]:
    """What `make(setup)` returns."""
    return make(setup)


def on_images(make: Callable, setup: Setup) -> Callable[[], Tensor]:
    """What `make(setup)` returns, called with a fixed batch of noise of 224 pixels."""
    forward = make(setup)
    pixels = torch.randn(setup.inference_batch, 3, 224, 224, generator=torch.Generator().manual_seed(setup.seed))
    return lambda: forward(pixels)


def loss_call(loss: Callable, inputs: LossInputs, training: bool) -> Callable[[], tuple[Tensor, ...]]:
    """Forward and backward; the loss and the gradients of features and logits.

    In training the rows come in two parts, those of the batch and the queue, and of these only the queries need a
    gradient; else all rows are one leaf.
    """
    batch = inputs.class_logits.shape[0]
    query, key, queue = inputs.features.split([batch, batch, len(inputs.features) - 2 * batch])
    leaf = (query if training else inputs.features).clone().requires_grad_()
    logits = inputs.class_logits.clone().requires_grad_()

    def call() -> tuple[Tensor, ...]:
        features = [torch.cat([leaf, key]), queue] if training else leaf
        value = loss(features, inputs.labels, logits, inputs.class_counts, 0.05, 0.2)
        return value.detach(), *torch.autograd.grad(value, (leaf, logits))

    return call


def loss_row(name: str, classes: int, queue: int, training: bool, **options: Any) -> Row:
    """A row of the loss at batch 128 and width 128."""
    inputs = "only the queries need a gradient, as in training" if training else "all rows need a gradient"

    def build(loss: Callable, setup: Setup) -> Callable[[], tuple[Tensor, ...]]:
        return loss_call(loss, loss_inputs(setup.batch, queue, 128, classes), training)

    return Row(
        name,
        f"loss, forward and backward, B 128, K {queue}, D 128, C {classes}; {inputs}",
        "paco_loss",
        build,
        agree=same_numbers(1e-4),
        memory=True,
        keeps_memory=training,
        **options,
    )


ROWS = [
    # Those that set the allocator come last: in the others it is as a process finds it.
    loss_row("loss_c1000", 1000, 8192, training=False, target=2.2),
    loss_row("loss_c8142", 8142, 8192, training=False, target=2.2),
    loss_row("loss_k65536", 1000, 65_536, training=False, turns=5, block=3),
    Row(
        "ema",
        "key encoder's step, CIFAR ResNet-32 with projector",
        "make_key_update",
        from_setup,
        target=6,
        turns=20,
        block=20,
    ),
    Row(
        "views",
        "cifar_reg and cifar_sim of 128 images, one process",
        "make_views",
        from_setup,
        target=5,
        block=3,
    ),
    Row(
        "pipeline",
        "`pipeline` on 16 images of 224 pixels, ours against transformers' own ResNet-50",
        "make_pipeline",
        from_setup,
        target=1 / 1.15,
        turns=5,
        block=2,
    ),
    Row(
        "data",
        "reading 512 images of 32 pixels, decoded once against each time",
        "make_reads",
        from_setup,
        turns=10,
        block=3,
        agree=lambda one, two: one == two,
    ),
    loss_row("loss_c1000_training", 1000, 8192, training=True, target=2.2),
    loss_row("loss_c8142_training", 8142, 8192, training=True, target=2.2),
    loss_row("loss_k65536_training", 1000, 65_536, training=True, turns=5, block=3),
    Row(
        "step_bf16",
        "whole training step with its data, B 128, K 1024, D 32; ours in bf16 where the machine has it",
        "make_step",
        from_setup,
        target=2.3,
        turns=5,
        block=13,
        skip=3,  # until the plain side's workers have filled their queues
        driver=ours.train,
        keeps_memory=True,
    ),
    Row(
        "step_fp32",
        "the same step; ours in float32",
        "make_step",
        from_setup,
        target=1.3,
        turns=5,
        block=13,
        skip=3,  # until the plain side's workers have filled their queues
        driver=ours.train,
        settings={"precision": "fp32"},
        keeps_memory=True,
    ),
    Row(
        "step_bf16_compiled",
        "the step in bf16 with compiled backbones",
        "make_step",
        from_setup,
        target=3,
        turns=5,
        block=13,
        skip=3,  # until the plain side's workers have filled their queues
        driver=ours.train,
        settings={"torch_compile": True},
        keeps_memory=True,
    ),
    Row(
        "step_fp32_compiled",
        "the step in float32 with compiled backbones",
        "make_step",
        from_setup,
        target=2,
        turns=5,
        block=13,
        skip=3,  # until the plain side's workers have filled their queues
        driver=ours.train,
        settings={"precision": "fp32", "torch_compile": True},
        keeps_memory=True,
    ),
    Row(
        "eval_resnet50",
        "ResNet-50 forward pass, 8 images of 224 pixels; ours bf16, not compiled",
        "make_evaluation",
        on_images,
        target=2.2,
        block=3,
        agree=same_numbers(0.1),
        keeps_memory=True,
    ),
    Row(
        "eval_resnet50_compiled",
        "the same; ours compiled too",
        "make_compiled_evaluation",
        on_images,
        target=2.2,
        block=3,
        agree=same_numbers(0.1),
        keeps_memory=True,
    ),
    Row(
        "predict_auto",
        "512 PNG files of 32 pixels to labels, the model being loaded; ours in bf16 if in hardware; plain: `pipeline`",
        "make_predict",
        from_setup,
        target=1.5,
        turns=5,
        block=2,
        agree=same_labels(0.9),  # of random weights, with many near ties
        keeps_memory=True,
    ),
    Row(
        "predict_fp32",
        "the same; ours in float32, as `pipeline` is",
        "make_predict",
        from_setup,
        target=1.5,
        settings={"precision": "fp32"},
        turns=5,
        block=2,
        agree=same_labels(0.99),
        keeps_memory=True,
    ),
]


def measure(row: Row, sides: dict[str, Callable], progress: tqdm) -> dict[str, Any]:
    """Build the sides, see that they agree, let them take turns, and sum up."""
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as cleanup:
        names = ["ours", *sides] if row.driver else list(sides)
        setups = {side: Setup(Path(scratch) / side, cleanup, **row.settings) for side in names}
        for setup in setups.values():
            setup.scratch.mkdir()
        calls = {side: row.build(function, setups[side]) for side, function in sides.items()}
        outputs = {side: call() for side, call in calls.items()}
        disagreeing = [side for side in outputs if row.agree and not row.agree(outputs[side], outputs["plain"])]
        del outputs
        turns = Turns(names, calls, row, progress)
        with suppress(Finished):
            if row.driver:
                row.driver(setups["ours"], turns.between)
            else:
                turns.between()
        peaks = {side: peak_memory(call) for side, call in calls.items()} if row.memory else {}
        return _summary(row, turns.times, peaks, disagreeing)


class Turns:
    """The sides' turns, and the times of their calls.

    Args:
        sides (`list[str]`): in the order in which they take turns.
        calls (`dict`): what to call, of each side but a driving one.
    """

    def __init__(self, sides: list[str], calls: dict[str, Callable[[], Any]], row: Row, progress: tqdm) -> None:
        self.calls = calls
        self.times: dict[str, list[float]] = {side: [] for side in sides}
        self.pending = self._schedule(row, progress)
        self.driven: list[float] | None = None
        self.start = 0.0

    def between(self) -> None:
        """Take turns up to the next step of a driving side, which calls this between its steps.

        Raises:
            Finished: all turns are taken; without a driving side the first call takes them.
        """
        if self.driven is not None:
            self.driven.append(time.perf_counter() - self.start)
        for side, times in self.pending:
            if side not in self.calls:
                self.driven = times
                self.start = time.perf_counter()
                return
            self.start = time.perf_counter()
            self.calls[side]()
            times.append(time.perf_counter() - self.start)
        raise Finished

    def _schedule(self, row: Row, progress: tqdm) -> Iterator[tuple[str, list[float]]]:
        """Whose call is next, and where its time goes: those of the first `row.skip` calls of a turn go nowhere."""
        for _ in range(row.turns):
            for side, times in self.times.items():
                if row.keeps_memory:
                    keep_freed_memory() if side == "ours" else default_allocator()
                for call in range(row.block):
                    yield side, times if call >= row.skip else []
            progress.update()


def _summary(row: Row, times: dict[str, list[float]], peaks: dict[str, int], disagreeing: list[str]) -> dict[str, Any]:
    sides = {
        side: {"median_s": statistics.median(values), "min_s": min(values), "samples": len(values)}
        | ({"peak_bytes": peaks[side]} if side in peaks else {})
        for side, values in times.items()
    }
    base = sides["plain"]
    others = {side: values for side, values in sides.items() if side != "plain"}
    return {
        "name": row.name,
        "about": row.about,
        "target": row.target,
        "sides": sides,
        "ratio": {side: base["median_s"] / values["median_s"] for side, values in others.items()},
        "memory_ratio": {side: base["peak_bytes"] / max(peaks[side], 1) for side in others if peaks},
        "disagrees_with_plain": disagreeing,
    }


def load_against(path: str) -> ModuleType:
    """Run a Python file, or the `__init__.py` of a package folder, and return the module.

    Raises:
        ValueError: there is none, or it defines none of the interface's functions.
    """
    file = Path(path) / "__init__.py" if Path(path).is_dir() else Path(path)
    if file.suffix != ".py" or not file.is_file():
        raise ValueError(f"--against {path}: neither a Python file nor a folder with an __init__.py")
    name = f"against_{Path(path).resolve().stem}"
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=[str(file.parent)])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Under its name, so that a package can import its own parts.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # it is any code
        del sys.modules[name]
        raise ValueError(f"--against {path}: {type(error).__name__}: {error}") from error
    if not any(function in vars(module) for function in INTERFACE):
        raise ValueError(f"--against {path}: defines none of {', '.join(INTERFACE)}")
    return module


def select_rows(names: list[str] | None, against: ModuleType | None, path: str | None) -> list[Row]:
    """Rows of these names, or whose names begin with one and an underscore; all where there are no names.

    Raises:
        ValueError: no such row, or a row named here for which `against` lacks the function.
    """
    if names is None:
        return ROWS
    chosen = []
    for name in names:
        found = [row for row in ROWS if row.name == name or row.name.startswith(f"{name}_")]
        if not found:
            raise ValueError(f"--rows {name}: no such row; there are {', '.join(row.name for row in ROWS)}")
        chosen += found
    chosen = [row for row in ROWS if row in chosen]
    for row in chosen:
        if against is not None and row.function not in vars(against):
            raise ValueError(f"--against {path}: the row {row.name} needs its function {row.function}")
    return chosen


def sides_of(row: Row, against: ModuleType | None) -> dict[str, Callable]:
    """The function of each side; `against` takes part where it defines it."""
    modules = {"ours": ours, "plain": plain} | ({"against": against} if against is not None else {})
    functions = {side: vars(module).get(row.function) for side, module in modules.items()}
    return {side: function for side, function in functions.items() if function is not None}


def shortened(row: Row, turns: int | None, quick: bool) -> Row:
    """The row with as many turns as asked for; `quick` makes two, each of at most two timed calls."""
    if quick:
        row = replace(row, turns=2, block=min(row.block, row.skip + 2))
    return replace(row, turns=turns) if turns is not None else row


def head_line(sides: list[str]) -> str:
    """The head of the table; times in milliseconds, memory in megabytes."""
    head = f"{'row':<20}" + "".join(f"{side + ' median':>16}{'min':>9}" for side in sides)
    return head + "".join(f"{'plain/' + side:>15}" for side in sides if side != "plain") + f"{'target':>8}"


def row_line(result: dict[str, Any], sides: list[str]) -> str:
    """A row of the table, with a line for its memory, and one for each side that disagrees with plain."""
    if "error" in result:
        return f"{result['name']:<20}  failed: {result['error']}"
    line = f"{result['name']:<20}"
    for side in sides:
        values = result["sides"].get(side)
        line += (
            f"{values['median_s'] * 1e3:>13.3f} ms{values['min_s'] * 1e3:>9.3f}" if values else f"{'-':>16}{'-':>9}"
        )
    for side in sides:
        if side != "plain":
            line += f"{result['ratio'][side]:>14.2f}x" if side in result["ratio"] else f"{'-':>15}"
    line += f"{result['target']:>8.2f}" if result["target"] is not None else f"{'-':>8}"
    if result["memory_ratio"]:
        peaks = ", ".join(f"{side} {v['peak_bytes'] / 1e6:.1f} MB" for side, v in result["sides"].items())
        ratios = ", ".join(f"plain/{side} {ratio:.2f}x" for side, ratio in result["memory_ratio"].items())
        line += f"\n{'':<20}  peak memory: {peaks}; {ratios}"
    for side in result["disagrees_with_plain"]:
        line += f"\n{'':<20}  {side} gives another result than plain"
    return line


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write under another name first, so that no half file is left."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def run(rows: list[Row], against: ModuleType | None) -> list[dict[str, Any]]:
    """Measure and print row after row; one that fails is reported, and the others go on."""
    results = []
    sides = ["ours", "plain"] + (["against"] if against is not None else [])
    print(head_line(sides), flush=True)
    with tqdm(total=sum(row.turns for row in rows), unit=" turns", disable=None, leave=False) as progress:
        for row in rows:
            progress.set_description(row.name)
            until = progress.n + row.turns
            try:
                results.append(measure(row, sides_of(row, against), progress))
            except Exception as error:  # of the code under comparison, which can fail in any way
                message = " ".join(f"{type(error).__name__}: {error}".split())
                results.append({"name": row.name, "about": row.about, "error": message})
                progress.update(until - progress.n)
            progress.write(row_line(results[-1], sides))
            sys.stdout.flush()
    return results


def quiet() -> None:
    """No log lines and progress bars of the libraries between ours."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", module="torch|transformers|accelerate")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__)
    parser.add_argument("--rows", nargs="+", metavar="NAME", help=f"of {', '.join(row.name for row in ROWS)}")
    parser.add_argument("--repeats", type=int, metavar="N", help="turns of each row (default: the row's own)")
    parser.add_argument("--quick", action="store_true", help="two short turns a row: to see that it works")
    parser.add_argument("--against", metavar="PATH", help="Python file or package folder to measure too; it is run")
    parser.add_argument("--output", default="benchmarks.json", metavar="PATH", help="JSON (default: benchmarks.json)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure, print the table, write the JSON. Status 1 where a row failed or ours is wrong, 2 for bad arguments."""
    args = parse(argv)
    try:
        if args.repeats is not None and args.repeats < 1:
            raise ValueError(f"--repeats must be at least 1, got {args.repeats}")
        if not Path(args.output).absolute().parent.is_dir():
            raise ValueError(f"--output {args.output}: no such folder")
        against = load_against(args.against) if args.against else None
        rows = [shortened(row, args.repeats, args.quick) for row in select_rows(args.rows, against, args.against)]
    except ValueError as error:
        print(f"benchmarks.bench: {error}", file=sys.stderr)
        return 2
    if os.getloadavg()[0] > BUSY:
        print(f"other work is running (load average {os.getloadavg()[0]:.2f}): the times mean little", file=sys.stderr)
    quiet()
    machine, limits = describe(), ceilings()
    print(f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, torch {torch.__version__}")
    print(", ".join(f"{name} {value:.1f}" for name, value in limits.items()), flush=True)
    # The data sets that rows write would otherwise stay in the user's cache.
    with tempfile.TemporaryDirectory() as cache, mock.patch.object(datasets.config, "HF_DATASETS_CACHE", Path(cache)):
        results = run(rows, against)
    finished = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    write_json(Path(args.output), {"machine": machine, "ceilings": limits, "rows": results, "finished": finished})
    print(f"written to {args.output}")
    return 1 if any("error" in result or "ours" in result["disagrees_with_plain"] for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
