"""No test touches a hub. Goldens: numbers that the reference implementation produced, in `tests/goldens`; the full
set, where it lies beside the checkout (or where PACO_HF_GOLDENS points), is used in its place.

Nothing heavy is imported before it is needed: the process that only deals out the tests reads this file as well."""

from __future__ import annotations

import gc
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

os.environ["HF_HUB_OFFLINE"] = "1"
# Small tensors: a second thread costs more than it gives, most of all beside other processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import pytest
from filelock import FileLock
from fresh_processes import TORCH, TRAINER, FreshProcesses, fresh_processes
from PIL import Image

if TYPE_CHECKING:
    import torch

HERE = Path(__file__).parent
ROOT = HERE.parent
FULL_GOLDENS = Path(os.environ.get("PACO_HF_GOLDENS", HERE.parents[1] / "shared" / "golden"))


def golden_path(name: str) -> Path:
    """The full set's file where there is one, else the copy in `tests/goldens`."""
    path = FULL_GOLDENS / name
    path = path if path.is_file() else HERE / "goldens" / name
    if not path.is_file():
        pytest.skip(f"{name} is only in the full set of goldens")
    return path


def golden(name: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a golden file."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    path = golden_path(name)
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    return load_file(path), metadata


def doubled(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: tensor.double() if tensor.is_floating_point() else tensor for key, tensor in state.items()}


def weight_by_rule(key: str, shape: tuple[int, ...], num_classes: int) -> torch.Tensor:
    """The goldens' weight rule: normals seeded by the key's CRC-32, scaled by what the key is."""
    import torch

    generator = np.random.RandomState(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        return torch.tensor(100)
    if key == "queue_ptr":
        return torch.zeros(1, dtype=torch.long)
    if key == "queue_l":
        return torch.from_numpy(generator.randint(0, num_classes, shape))
    x = torch.from_numpy(generator.standard_normal(int(np.prod(shape))).reshape(shape))
    if key.endswith("running_var"):
        x = 1 + 0.1 * x.abs()
    elif key.endswith("running_mean"):
        x = 0.05 * x
    elif key.endswith(("cls_token", "pos_embed")):
        x = 0.02 * x
    elif key.endswith("queue"):
        x = x / shape[1] ** 0.5
    elif x.ndim == 4:
        x = x * (2 / np.prod(shape[1:])) ** 0.5
    elif x.ndim == 2:
        x = x * (1 / shape[1]) ** 0.5
    elif key.endswith(".bias"):
        x = 0.05 * x
    else:
        x = (1 + 0.1 * x) * (0.2 if key.endswith("bn3.weight") else 1)
    return x.float()


def seeded_images(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape)).float()


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that one of the processes of the tests makes for all of them: to read, or to copy."""
    base = factory.getbasetemp()
    # Each process of pytest-xdist has a folder of its own in a common one.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made_once" / name
    folder.parent.mkdir(exist_ok=True)
    done = folder.with_name(f"{name}.done")
    with FileLock(folder.with_name(f"{name}.lock")):
        if not done.exists():
            make(folder)
            done.touch()
    return folder


SHORT = ["--backbone", "test_resnet", "--max_steps", "4", "--per_device_train_batch_size", "32"]
SHORT += ["--queue_size", "64", "--save_steps", "2"]


def _short_run(factory: pytest.TempPathFactory, loss: str) -> Path:
    from paco_hf.cli import main

    def train(folder: Path) -> None:
        assert main(["train", "--loss", loss, *SHORT, "--output_dir", str(folder)]) == 0

    return made_once(factory, f"{loss}-run", train)


@pytest.fixture(scope="session")
def paco_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of PaCo on the built-in images, made once for all tests: to read, or to copy."""
    return _short_run(tmp_path_factory, "paco")


@pytest.fixture(scope="session")
def ce_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of the baseline, as `paco_run`."""
    return _short_run(tmp_path_factory, "ce")


@pytest.fixture(scope="session")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """330 images of 4 classes, prepared in 3 shards of 2 row groups each."""
    import miniature

    from paco_hf.data.streaming.prepare import prepare

    def make(root: Path) -> None:
        for c, count in enumerate([150, 100, 50, 30]):
            for split, n in (("train", count), ("test", 2)):
                (root / "source" / split / f"class{c}").mkdir(parents=True)
                for i in range(n):
                    file = root / "source" / split / f"class{c}" / f"{i}.jpg"
                    file.write_bytes(miniature.jpeg(1000 * c + i, (24, 24)))
        size = sum(file.stat().st_size for file in (root / "source" / "train").rglob("*.jpg"))
        manifest = prepare("mine", str(root / "source"), str(root / "out"), shard_bytes=size // 3)
        assert [shard["images"] for shard in manifest.splits["train"]["shards"]] == [110, 110, 110]

    return made_once(tmp_path_factory, "stream", make) / "out"


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn on nothing, as drawing and rendering is half of the time of an evaluation: for tests of
    something else."""

    def figure(file: Any, draw: Callable[..., None], rows: int = 1, columns: int = 1, **options: Any) -> None:
        draw(*(MagicMock() for _ in range(rows * columns)))
        if hasattr(file, "write"):
            file.write("<svg></svg>")
        else:
            Image.new("RGB", (1, 1)).save(file)

    monkeypatch.setattr("paco_hf.reports.plots._figure", figure)


@pytest.fixture
def no_pngs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are rendered into the pages, but not beside them once more."""
    from matplotlib.figure import Figure

    render = Figure.savefig

    def save(self: Any, file: Any, **options: Any) -> None:
        if options["format"] == "svg":
            render(self, file, **options)
        else:
            Image.new("RGB", (1, 1)).save(file, "PNG")

    monkeypatch.setattr(Figure, "savefig", save)


@pytest.fixture
def no_rehearsal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run takes no steps to tell what the run would cost: for tests of something else."""
    monkeypatch.setattr("paco_hf.workflows.train.rehearse", lambda *arguments: [])


@pytest.fixture(autouse=True)
def surveys(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a test finds no survey of another."""
    folder = tmp_path_factory.mktemp("surveys")
    monkeypatch.setattr("paco_hf.data.image_survey._folder", lambda: folder)
    return folder


@pytest.fixture(scope="session")
def with_torch() -> Iterator[FreshProcesses]:
    """Processes that have imported torch, but neither transformers nor timm nor this package."""
    with fresh_processes(TORCH) as processes:
        yield processes


@pytest.fixture(scope="session")
def with_trainer() -> Iterator[FreshProcesses]:
    """Processes that have imported the trainer, and have not used it."""
    with fresh_processes(TRAINER) as processes:
        yield processes


def pytest_collection_finish() -> None:
    from paco_hf.arguments.run_arguments import RunArguments

    # The report of each of a hundred short runs would cost minutes; those that are about it ask for it.
    RunArguments.__init__.__defaults__ = tuple(
        False if field.name == "report" else field.default for field in fields(RunArguments)
    )
    # What was imported stays: each training collects garbage, which need not look through it.
    gc.collect()
    gc.freeze()
