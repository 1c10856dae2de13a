"""Two gloo processes beside one with the same global batch, and two that stream the images of one folder."""

import json
import os
import sys
from pathlib import Path

import patience
import pytest
import torch
import yaml
from conftest import ROOT
from fresh_processes import FreshProcesses, rank_environments

from paco_hf.data.images import Images
from paco_hf.data.loading import load_data
from paco_hf.inference.logits import score

GATHERED = ["gpaco_gathered", "multitask_gathered", "ce", "balanced_softmax"]
CONTRASTIVE = ["gpaco_gathered", "multitask_gathered", "gpaco", "paco", "paco_batchnorm"]


@pytest.fixture(scope="module")
def runs(with_trainer: FreshProcesses, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """`[one process, rank 0 of two, rank 1 of two]`."""
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    for folder, processes in zip(folders, (1, 2), strict=True):
        code = f"import distributed_worker, pathlib; distributed_worker.main(pathlib.Path({str(folder)!r}), "
        environments = rank_environments(processes) if processes > 1 else None
        with_trainer.run(*[f"{code}{8 // processes})"] * processes, environments=environments)
    files = [folders[0] / "rank0.pt", folders[1] / "rank0.pt", folders[1] / "rank1.pt"]
    return [torch.load(file, weights_only=True) for file in files]


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((x.double() - b[name].double()).abs().max().item() for name, x in a.items() if x.numel())


def test_there_are_two_processes(runs: list[dict]) -> None:
    assert [run["paco"]["world_size"] for run in runs] == [1, 2, 2]


@pytest.mark.parametrize("case", CONTRASTIVE)
def test_the_ranks_share_one_queue(runs: list[dict], case: str) -> None:
    one, first, second = (run[case]["queues"] for run in runs)
    for step in range(4):
        for name in ("features", "labels", "pointer"):
            assert torch.equal(first[step][name], second[step][name])
        for name in ("labels", "pointer"):
            assert torch.equal(first[step][name], one[step][name])


@pytest.mark.parametrize(("case", "steps"), [("gpaco_gathered", 4), ("multitask_gathered", 4), ("gpaco", 1)])
def test_queue_features_are_those_of_one_process(runs: list[dict], case: str, steps: int) -> None:
    # Without the gathered batch the losses differ, so only the first step's keys come from equal weights.
    for step in range(steps):
        one, two = runs[0][case]["queues"][step], runs[1][case]["queues"][step]
        assert (one["features"] - two["features"]).abs().max() < 1e-5


@pytest.mark.parametrize("case", GATHERED)
def test_two_halves_equal_one_batch(runs: list[dict], case: str) -> None:
    one, two = runs[0][case], runs[1][case]
    assert torch.allclose(one["losses"], two["losses"], rtol=1e-5, atol=0)
    for a, b in zip(one["gradients"], two["gradients"], strict=True):
        assert largest_difference(a, b) < 1e-5
    assert largest_difference(one["weights"], two["weights"]) < 1e-5


def test_by_default_an_anchor_sees_its_own_rank_and_the_queue(runs: list[dict]) -> None:
    assert not torch.allclose(runs[0]["gpaco"]["losses"], runs[1]["gpaco"]["losses"], rtol=1e-3)


@pytest.mark.parametrize("case", GATHERED)
def test_evaluation_of_an_uneven_split_equals_one_process(runs: list[dict], case: str) -> None:
    one, two = runs[0][case]["metrics"], runs[1][case]["metrics"]
    assert one.keys() == two.keys()
    assert one
    assert one == pytest.approx(two, abs=1e-12)


@pytest.mark.parametrize("case", ["paco_batchnorm", "gpaco", "ce"])
def test_ranks_hold_one_model_and_score_with_it(runs: list[dict], case: str) -> None:
    # BatchNorm statistics included, which DistributedDataParallel evens out in training only.
    first, second = runs[1][case], runs[2][case]
    assert largest_difference(first["weights"], second["weights"]) == 0
    assert first["metrics"]["eval_accuracy"] == pytest.approx(first["accuracy_alone"], abs=1e-6)


def test_an_image_has_the_same_views_in_any_batch_of_any_process(runs: list[dict]) -> None:
    one, first, second = (run["views"] for run in runs)
    assert len(one) == 32
    assert not first.keys() & second.keys()
    assert one.keys() == first.keys() | second.keys()
    for key, pair in {**first, **second}.items():
        assert torch.equal(pair, one[key])
    assert not any(torch.equal(one[f"0 {image}"], one[f"1 {image}"]) for image in range(16))


def test_rows_are_exchanged_and_restored(runs: list[dict]) -> None:
    for run in runs[1:]:
        assert run["rows"]["restored"]
        assert run["rows"]["same_multiset"]
        assert run["rows"]["gathered"] == [0, 1, 2, 10, 11, 12, 13]


def launch(fresh: FreshProcesses, folder: Path, out: Path, processes: int, workers: int, skip: int = 0) -> list[dict]:
    out.mkdir()
    code = f"import stream_worker; from pathlib import Path; stream_worker.main({str(folder)!r}, Path({str(out)!r}), "
    fresh.run(*[f"{code}{workers}, {skip})"] * processes, environments=rank_environments(processes))
    return [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(processes)]


def test_two_ranks_of_two_workers_see_every_image_once(
    with_trainer: FreshProcesses, stream: Path, tmp_path: Path
) -> None:
    ranks = launch(with_trainer, stream, tmp_path / "whole", 2, 2)
    assert [rank["world_size"] for rank in ranks] == [2, 2]
    split = load_data(str(stream), streaming=True).train
    dropped = []
    for epoch in range(2):
        seen = torch.cat([rank["epochs"][epoch].flatten(0, 1) for rank in ranks])
        index = seen[:, 0].tolist()
        # 330 images are 41 batches of 4 for each of two ranks; the last 2 images are the ragged batch that is dropped.
        assert len(index) == len(set(index)) == 41 * 8
        assert set(seen[:, 1].tolist()) == {epoch}
        dropped.append(set(range(330)) - set(index))
        assert all(split.labels[i] == label for i, label in zip(index, seen[:, 2].tolist(), strict=True))
        for i, _, _, *pixel in seen[:20].tolist():
            assert tuple(pixel) == split.open(i).getpixel((0, 0))
    assert dropped[0] != dropped[1]
    assert not torch.equal(ranks[0]["epochs"][0], ranks[0]["epochs"][1])


@pytest.mark.slow
def test_from_any_batch_on_with_any_number_of_workers_it_is_the_same(
    with_trainer: FreshProcesses, stream: Path, tmp_path: Path
) -> None:
    ranks = launch(with_trainer, stream, tmp_path / "whole", 2, 2)
    for workers, skip in ((2, 17), (0, 5), (1, 40)):
        resumed = launch(with_trainer, stream, tmp_path / f"resumed-{workers}", 2, workers, skip)
        for whole, part in zip(ranks, resumed, strict=True):
            assert torch.equal(whole["epochs"][0][skip:], part["epochs"][0])
            assert torch.equal(whole["epochs"][1], part["epochs"][1])


@pytest.mark.slow
def test_a_run_of_two_processes_from_the_command_line(tmp_path) -> None:
    folder = tmp_path / "run"
    flags = ["--max_steps", "4", "--per_device_train_batch_size", "32", "--save_steps", "2", "--precision", "fp32"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = str(ROOT / "training" / "train.py")
    command = [*launch, script, *flags, "--backbone", "cifar_resnet20", "--output_dir", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = patience.run(command, env=environment)
    assert result.returncode == 0, result.stderr
    assert "2 processes" in result.stdout
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["augment_backend"] == "tensor"
    metrics = json.loads((folder / "metrics.json").read_text())
    # Scored by both processes together, each its share of the images.
    assert metrics["test"] == score(folder, Images(load_data().test))
