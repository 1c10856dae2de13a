"""Processes that train together, or do not: on one computer, or on two "nodes" whose disks are their own."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import ROOT
from fresh_processes import FreshProcesses, rank_environments
from interrupted_runs import final_tensors
from patience import ended, wait_until
from user_data import folders

from paco_hf.arguments.parser import parse_run
from paco_hf.workflows.processes import first_processes, trained_before

VIT = json.dumps({"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2})
# No BatchNorm and no dropout, and a loss that contrasts the batches of all: any number of processes trains the same.
FLAGS = ["--backbone", "vit_tiny_patch16_224", "--backbone_kwargs", VIT, "--loss", "gpaco", "--gather_batch", "true"]
FLAGS += ["--precision", "fp32", "--image_size", "32", "--queue_size", "32", "--projection_dim", "16"]
FLAGS += ["--max_steps", "6", "--save_steps", "2", "--save_total_limit", "9", "--report", "false"]
FLAGS += ["--inspect", "false", "--calibrate", "false", "--augment_backend", "pil", "--learning_rate", "0.01"]
FLAGS += ["--query_view", "regular", "--key_view", "sim", "--dataloader_num_workers", "0"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return folders(tmp_path_factory.mktemp("photos"), {"a": 30, "b": 20})


@pytest.fixture(scope="module")
def start(with_trainer: FreshProcesses, photos: Path) -> Callable:
    """Train in processes that share nothing but what their folders, one of each or one of all, share; the status and
    what each prints."""

    def train(places: list[Path], *flags: str, nodes: bool = False, per_rank: list[list[str]] | None = None):
        environments = rank_environments(len(places))
        codes = []
        for rank, place in enumerate(places):
            place.mkdir(exist_ok=True)
            own = per_rank[rank] if per_rank else []
            batch = ["--per_device_train_batch_size", str(8 // len(places))]
            words = ["train", "--dataset", str(photos), *FLAGS, *batch, *flags, *own, "--output_dir", "run"]
            codes.append(
                f"import os, sys; os.chdir({str(place)!r}); sys.stderr = sys.stdout; from paco_hf.cli import main; "
                f"print('status', main({words}))"
            )
        if len(places) == 1:
            environments = [{}]
        elif nodes:
            environments = [{**e, "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"} for e in environments]
        texts = with_trainer.run(*codes, environments=environments)
        assert all("Traceback" not in text for text in texts), texts
        return [int(text.rpartition("status ")[2]) for text in texts], [text.splitlines()[:-1] for text in texts]

    return train


@pytest.fixture(scope="module")
def whole(start: Callable, tmp_path_factory) -> Path:
    """A run of two processes that is left alone."""
    place = tmp_path_factory.mktemp("whole")
    statuses, texts = start([place] * 2)
    assert statuses == [0, 0], texts
    return place


def back_to(step: int, source: Path, place: Path) -> Path:
    """A copy of a run as it was when it had only the checkpoints up to a step."""
    shutil.copytree(source, place)
    (place / "run" / "metrics.json").unlink()
    for checkpoint in (place / "run").glob("checkpoint-*"):
        if int(checkpoint.name.split("-")[1]) > step:
            shutil.rmtree(checkpoint)
    return place


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_folders_of_their_own_are_refused_at_the_start(start: Callable, tmp_path: Path) -> None:
    statuses, (first, second) = start([tmp_path / "a", tmp_path / "b"], nodes=True)
    assert statuses == [2, 2]
    message = "--output_dir run is not shared: rank 1 of 2 does not see what rank 0 of 2 writes there"
    assert message in first[-1]
    assert "--save_on_each_node true" in first[-1]
    assert not second
    assert not files(tmp_path)


def test_a_shared_folder_is_not_written_by_each_node(start: Callable, tmp_path: Path) -> None:
    statuses, (first, second) = start([tmp_path / "a"] * 2, "--save_on_each_node", "true", nodes=True)
    assert statuses == [2, 2]
    assert "rank 1 of 2 and rank 0 of 2 share --output_dir run: remove the flag" in first[-1]
    assert not second


def test_other_settings_are_refused_by_name(start: Callable, tmp_path: Path) -> None:
    rates = [["--learning_rate", "0.01"], ["--learning_rate", "0.02"]]
    statuses, (first, second) = start([tmp_path / "a"] * 2, per_rank=rates)
    assert statuses == [2, 2]
    assert (
        "settings: learning_rate 0.02 in rank 1 of 2, learning_rate 0.01 in rank 0 of 2: use the same flags"
        in first[-1]
    )
    assert not second


def test_other_images_are_refused(start: Callable, photos: Path, tmp_path: Path) -> None:
    """Of the same names and labels, with a split that is split off from them in either."""
    places = [tmp_path / "a", tmp_path / "b"]
    for place in places:
        shutil.copytree(photos, place / "photos")
    image = next((places[1] / "photos" / "a").iterdir())
    image.write_bytes(image.read_bytes() + b" ")
    statuses, (first, second) = start(places, "--save_on_each_node", "true", "--dataset", "photos", nodes=True)
    assert statuses == [2, 2]
    assert "the processes differ in data: train " in first[-1]
    assert len(first[-1]) < 300
    assert not second


def test_nodes_with_folders_of_their_own(start: Callable, tmp_path: Path) -> None:
    """They end with one model each, and resume from what both have; from anything else none does."""
    places = [tmp_path / "a", tmp_path / "b"]
    flags = ["--save_on_each_node", "true"]
    statuses, texts = start(places, *flags, nodes=True)
    assert statuses == [0, 0], texts
    first, second = (files(place / "run") for place in places)
    assert first.keys() == second.keys()
    timed = {"log.jsonl", "training_args.bin", "trainer_state.json"}
    assert {name for name in first if first[name] != second[name] and Path(name).name not in timed} == set()

    cut = [back_to(4, place, tmp_path / f"{place.name}-cut") for place in places]
    statuses, texts = start(cut, *flags, "--resume", nodes=True)
    assert statuses == [0, 0], texts
    for place in cut:
        assert files(place / "run")["model.safetensors"] == first["model.safetensors"]

    # One node has lost its last checkpoint, or all, or has another.
    for name, others in (("checkpoint-2", 2), ("none", 0), ("checkpoint-4 (content ", 4)):
        cut = [back_to(step, places[0], tmp_path / f"{others}-{i}") for i, step in enumerate((4, others))]
        if others == 4:
            shutil.copyfile(
                *(cut[1] / "run" / name / "model.safetensors" for name in ("checkpoint-2", "checkpoint-4"))
            )
        before = [files(place) for place in cut]
        statuses, (said, silent) = start(cut, *flags, "--resume", nodes=True)
        assert statuses == [2, 2]
        assert f"the processes differ in checkpoint to resume from: {name}" in said[-1]
        assert "in rank 1 of 2, checkpoint-4" in said[-1]
        assert silent == []
        assert [files(place) for place in cut] == before


@pytest.mark.parametrize("processes", [1, 4])
def test_resumed_with_another_number_of_processes(
    start: Callable, whole: Path, tmp_path: Path, processes: int
) -> None:
    place = back_to(2, whole, tmp_path / "cut")
    # The flags of before: what a process has of a batch follows from the run's.
    statuses, texts = start([place] * processes, "--per_device_train_batch_size", "4", "--resume")
    assert set(statuses) == {0}, texts
    line = next(line for line in texts[0] if " instead of 2: " in line)
    assert f"{8 // processes} images each, 8 per step as before" in line
    assert not any(texts[1:])
    expected, tensors = final_tensors(whole / "run"), final_tensors(place / "run")
    assert expected.keys() == tensors.keys()
    assert max((expected[name].double() - tensors[name].double()).abs().max() for name in expected) < 1e-5
    recipe = yaml.safe_load((place / "run" / "recipe.yaml").read_text())
    assert (recipe["per_device_train_batch_size"], recipe["global_batch_size"]) == (8 // processes, 8)
    # Finished, it is that for the command of then, and with any number of processes.
    for again in (processes, 2):
        statuses, texts = start([place] * again, "--per_device_train_batch_size", "4", "--resume")
        assert set(statuses) == {0}, texts
        assert "is already finished: nothing to resume" in texts[0][0]


def test_a_resume_that_was_ended_before_its_first_checkpoint(start: Callable, whole: Path, tmp_path: Path) -> None:
    """Its recipe has the share of other processes than its checkpoint."""
    place = back_to(2, whole, tmp_path / "cut")
    recipe = yaml.safe_load((place / "run" / "recipe.yaml").read_text())
    (place / "run" / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "per_device_train_batch_size": 8}))
    statuses, texts = start([place], "--per_device_train_batch_size", "4", "--resume")
    assert statuses == [0], texts
    assert any("1 process instead of 2: 8 images each, 8 per step as before" in line for line in texts[0])


def test_a_batch_that_does_not_divide(start: Callable, whole: Path, tmp_path: Path) -> None:
    place = back_to(2, whole, tmp_path / "cut")
    before = files(place)
    statuses, texts = start([place] * 3, "--resume")
    assert statuses == [2, 2, 2]
    message = "the run's batch of 8 images cannot be divided among 3 processes: resume with 1, 2, 4 or 8 processes "
    assert message + "(it has used 2)" in texts[0][-1]
    assert files(place) == before


def test_scaled_rates_are_those_of_the_batch_that_is_kept(whole: Path, tmp_path: Path, monkeypatch) -> None:
    place = back_to(2, whole, tmp_path / "cut")
    monkeypatch.chdir(place)
    flags = ["--recipe", "run/recipe.yaml", "--per_device_train_batch_size", "4", "--resume", "--output_dir", "run"]
    run, args = parse_run(flags)
    assert args.learning_rate == 0.005  # for 4 images, as the flags say
    before = trained_before(run, args)
    assert before
    assert (before.processes, before.batch, before.rates["learning_rate"]) == (2, 8, 0.01)


def test_a_stream_keeps_the_order_of_its_first_processes(whole: Path, tmp_path: Path) -> None:
    place = back_to(2, whole, tmp_path / "cut")
    points = [place / "run" / "checkpoint-2"]
    assert first_processes(points) == 2  # as many as made the checkpoint
    content = json.loads((place / "run" / "data.json").read_text())
    (place / "run" / "data.json").write_text(json.dumps({**content, "processes": 8}))
    assert first_processes(points) == 8
    assert first_processes([]) is None


def torchrun(photos: Path, folder: Path, *flags: str, launch: tuple[str, ...] = ("--standalone",)) -> subprocess.Popen:
    words = [sys.executable, "-m", "torch.distributed.run", *launch, str(ROOT / "training" / "train.py")]
    words += ["--dataset", str(photos), *FLAGS, *flags, "--output_dir", str(folder)]
    # With a store that rounds share, torch's agents do not come together when a node joins.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=environment, cwd=ROOT)


def workers(agent: subprocess.Popen) -> list[psutil.Process]:
    return [child for child in psutil.Process(agent.pid).children() if "train.py" in " ".join(child.cmdline())]


@pytest.mark.slow
def test_a_killed_rank_is_named_by_the_others(photos: Path, tmp_path: Path) -> None:
    launch = ("--standalone", "--nproc_per_node", "2")
    flags = ["--max_steps", "9999", "--per_device_train_batch_size", "4"]
    agent = torchrun(photos, tmp_path / "run", *flags, launch=launch)
    wait_until(lambda: any(tmp_path.glob("run/checkpoint-*")), agent)
    next(one for one in workers(agent) if one.environ()["RANK"] == "1").send_signal(signal.SIGKILL)
    _, errors = ended(agent)
    assert agent.returncode == 1
    ours = [line for line in errors.splitlines() if line.startswith("paco-hf")]
    message = "rank 1 of 2 has ended, so this one does, too; resume from the last complete checkpoint with --resume"
    assert ours == [f"paco-hf train: {message}"]


@pytest.mark.slow
def test_nodes_leave_and_join(photos: Path, tmp_path: Path) -> None:
    """`torchrun --nnodes 1:2`: a node that is lost, and one that comes, cost what follows the last checkpoint."""
    launch = ("--nnodes", "1:2", "--max-restarts", "5", "--rdzv_backend", "c10d", "--rdzv_id", "elastic")
    port = rank_environments(2)[0]["MASTER_PORT"]
    launch += ("--rdzv_endpoint", f"127.0.0.1:{port}", "--rdzv_conf", "last_call_timeout=3")
    flags = ["--max_steps", "99999", "--per_device_train_batch_size", "8", "--save_steps", "10", "--resume"]
    folder = tmp_path / "run"

    def reached(step: int) -> Callable[[], bool]:
        return lambda: any(int(path.name.split("-")[1]) >= step for path in folder.glob("checkpoint-*[0-9]"))

    def processes() -> int:
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
        return 8 // int(recipe["per_device_train_batch_size"])

    first = torchrun(photos, folder, *flags, launch=launch)
    wait_until(reached(10), first)
    second = torchrun(photos, folder, *flags, launch=launch)
    wait_until(lambda: processes() == 2, first)
    wait_until(reached(1 + max(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*[0-9]"))), first)
    second.kill()  # its process ends with it
    second.communicate()
    wait_until(lambda: processes() == 1, first)
    first.terminate()
    printed, errors = ended(first)
    assert "2 processes instead of 1: 4 images each" in printed, (printed, errors)
    assert "1 process instead of 2: 8 images each" in printed
    assert "stopped by SIGTERM after step" in errors, errors
