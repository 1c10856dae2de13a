"""Several seeds as one command: the runs, what they share, their comparison, and how they go on after a stop."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from conftest import ROOT
from patience import wait_until
from user_data import complaint

from benchmarks import comparison
from paco_hf import PaCoTrainingArguments
from paco_hf.arguments.parser import parse_run
from paco_hf.cli import main, seeds
from paco_hf.evaluation.paired import image_differences, pairwise_agreement, seed_differences, student_quantile
from paco_hf.workflows import seeds as workflow
from paco_hf.workflows.train import train

SHORT = ["--backbone", "test_resnet", "--max_steps", "2", "--per_device_train_batch_size", "32", "--save_steps", "1"]
SHORT += ["--queue_size", "64"]


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def command(folder: Path, *more: str, loss: str = "ce") -> list[str]:
    return ["train", "--loss", loss, *SHORT, "--output_dir", str(folder), *more]


def test_runs_share_their_splits_and_are_compared(tmp_path: Path, capsys, blank_figures) -> None:
    out = tmp_path / "ce"
    assert main(command(out, "--seeds", "3", "1", "--report", "true")) == 0
    printed = capsys.readouterr().out
    record = read(out, "seeds.json")
    assert record["seeds"] == [3, 1]
    scores = [read(out / f"seed-{seed}", "metrics.json")["test"]["accuracy"] for seed in (3, 1)]
    assert [run["accuracy"] for run in record["runs"]] == scores
    (group,) = record["sections"][0]["groups"]
    assert group["scores"]["accuracy"]["mean"] == pytest.approx(np.mean(scores))
    assert group["scores"]["accuracy"]["sd"] == pytest.approx(np.std(scores, ddof=1))
    assert 0 <= group["agreement"] <= 1
    assert f"report: {out}/comparison.html" in printed
    assert (out / "comparison.html").is_file()
    splits = [read(out / f"seed-{seed}", "splits.json")["splits"]["validation"]["selection"] for seed in (3, 1)]
    assert splits[0] == splits[1]
    recipes = [yaml.safe_load((out / f"seed-{seed}" / "recipe.yaml").read_text()) for seed in (3, 1)]
    assert [recipe.pop("seed") for recipe in recipes] == [3, 1]
    assert recipes[0] == recipes[1]
    # Each is the run that it would be alone.
    assert main(command(tmp_path / "alone", "--seed", "1", "--validation_seed", "3")) == 0
    assert read(tmp_path / "alone", "metrics.json") == read(out / "seed-1", "metrics.json")
    assert "seed-3 is not empty: resume its run with --resume, or replace it with --overwrite" in complaint(
        capsys, *command(out, "--seeds", "3", "1")
    )
    # Another seed belongs to those that are there, or is refused.
    several = f"{out} already has runs of other seeds (1, 3): add to them with --resume"
    assert several in complaint(capsys, *command(out, "--seeds", "2"))
    assert several in complaint(capsys, *command(out, "--seeds", "2", "--overwrite"))
    changed = complaint(capsys, *command(out, "--seeds", "2", "--learning_rate", "0.3", "--resume"))
    assert "seed-1 was trained with different settings (learning_rate " in changed
    assert not (out / "seed-2").exists()
    assert main(command(out, "--seeds", "2", "--resume")) == 0
    joined = read(out, "seeds.json")
    assert joined["seeds"] == [1, 3, 2]
    assert len(joined["sections"][0]["groups"][0]["runs"]) == 3
    assert read(out / "seed-2", "splits.json")["splits"]["validation"]["selection"] == splits[0]
    assert main(command(out, "--seeds", "2", "3", "1", "--resume")) == 0
    # Two sets of runs: their differences seed by seed.
    other = tmp_path / "balanced"
    assert main(command(other, "--seeds", "1", "--report", "true", loss="balanced_softmax")) == 0
    capsys.readouterr()
    assert main(["report", str(out), str(other), "--json"]) == 0
    (section,) = json.loads(capsys.readouterr().out)["sections"]
    (pair,) = section["paired"]
    assert pair["groups"] == ["balanced_softmax", "ce"]
    assert pair["seeds"] == [1]
    difference = read(other / "seed-1", "metrics.json")["test"]["accuracy"] - scores[1]
    assert pair["scores"]["accuracy"]["values"] == [pytest.approx(difference)]
    assert pair["images"]["accuracy"]["value"] == pytest.approx(difference)
    assert main(["report", str(out), str(other), "--output", str(tmp_path / "both.html")]) == 0
    assert "balanced_softmax minus ce, seed by seed:" in capsys.readouterr().out
    assert "minus ce, seed by seed" in (tmp_path / "both.html").read_text()


def test_what_is_wrong_is_said_before_the_first_run(tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    for flags, message in (
        (["--seeds", "0", "0"], "--seeds has 0 twice"),
        (["--seeds", "a"], "--seeds must be integers of at least 0, such as --seeds 0 1 2, got 'a'"),
        (["--seeds"], "--seeds must be integers"),
        (["--seeds", "0", "--seed", "1"], "--seeds and --seed both set the seed"),
        (["--seeds", "0", "1", "--push_to_hub", "true"], "--push_to_hub pushes one run, but --seeds trains 2"),
        (["--seeds", "0", "--resume_from_checkpoint", "x"], "--resume_from_checkpoint is the checkpoint of one run"),
        (["--seeds", "0", "1", "--validation_seed", "x"], "--validation_seed must be an integer"),
        (["--seeds", "0", "1", "--backbone", "resnet_none"], "unknown backbone 'resnet_none'"),
    ):
        assert message in complaint(capsys, *command(out, *flags))
        assert not out.exists(), flags
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert "contains other files than runs of several seeds (notes.txt): use another folder" in complaint(
        capsys, *command(out, "--seeds", "0")
    )
    (out / "notes.txt").rename(tmp_path / "notes.txt")
    # The folder of a later seed is not free.
    (out / "seed-1").mkdir()
    (out / "seed-1" / "mine").touch()
    assert "seed-1 is not empty and has no run (mine)" in complaint(capsys, *command(out, "--seeds", "0", "1"))
    assert not (out / "seed-0").exists()


def test_dry_run(tmp_path: Path, capsys, no_rehearsal) -> None:
    assert main(command(tmp_path / "out", "--seeds", "0", "1", "--dry_run")) == 0
    assert "each of the seeds 0, 1 is a run like this" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_side_by_side_runs_share_the_cores_and_what_is_looked_at(tmp_path: Path, capsys, monkeypatch) -> None:
    events: list = []

    class Process:
        returncode = 1

        def __init__(self, words: list[str], env: dict[str, str], stdout: object, **options: object) -> None:
            events.append((parse_run(words[4:]), env))

        def poll(self) -> int:
            return 1

    commit = 40 * "a"
    monkeypatch.setattr("paco_hf.workflows.pins.resolve_commit", lambda *asked: commit)
    monkeypatch.setattr(workflow, "check_settings", lambda run, args: None)
    monkeypatch.setattr(workflow, "load_checked", lambda run, args: events.append("look") or SimpleNamespace(data=0))
    monkeypatch.setattr(workflow, "choose_method", lambda run, args, *more: (run, args, []))
    monkeypatch.setattr(workflow, "split_data", lambda run, args, checks: events.append("split"))
    monkeypatch.setattr(seeds, "visible_devices", lambda args: ["4", "5", "6"])
    monkeypatch.setattr(seeds, "usable_cores", lambda: 9)
    monkeypatch.setattr(seeds, "subprocess", SimpleNamespace(Popen=Process, STDOUT=None))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    named = ["--dataset", "ada/birds@main", "--backbone", "hf://ada/net@main"]
    failed = complaint(capsys, "train", *named, "--seeds", "0", "1", "--output_dir", str(tmp_path))
    assert "2 of 2 runs failed" in failed
    assert events[:2] == ["look", "split"]
    assert len(events) == 4
    for seed, ((run, args), environment) in enumerate(events[2:]):
        assert (args.seed, run.dataset, run.dataset_revision) == (seed, "ada/birds", commit)
        assert (run.backbone, run.backbone_revision) == ("hf://ada/net", commit)
        assert environment["CUDA_VISIBLE_DEVICES"] == "45"[seed]
        assert (environment["OMP_NUM_THREADS"], environment["LOCAL_WORLD_SIZE"]) == ("4", "2")


def test_seeds_named_twice_are_joined() -> None:
    assert seeds.split_seeds(["--seeds", "0", "1", "--loss", "ce", "--seeds=2"]) == ([0, 1, 2], ["--loss", "ce"])


def test_the_benchmark_trains_its_seeds(tmp_path: Path, monkeypatch) -> None:
    def run(words: list[str], **options: object) -> SimpleNamespace:
        trained.append(words)
        return SimpleNamespace(returncode=main(words[3:]))

    trained: list[list[str]] = []
    flags = SimpleNamespace(folder=str(tmp_path / "runs"), jobs=2, dataset_path=None)
    monkeypatch.setattr(comparison, "RECORDS", tmp_path / "records")
    common = {name.removeprefix("--"): value for name, value in zip(SHORT[::2], SHORT[1::2], strict=True)}
    monkeypatch.setattr(comparison, "COMMON", common)
    monkeypatch.setattr(comparison, "subprocess", SimpleNamespace(run=run, STDOUT=None))
    settings = {"loss": "ce", "validation_fraction": 0, "report": False}
    for records in ({"ce-seed1": 1}, {"ce-seed0": 0, "ce-seed1": 1}, {"ce-seed0": 0, "ce-seed1": 1}):
        comparison._train("ce", settings, records, flags, 1)
    assert [words[words.index("--seeds") + 1] for words in trained] == ["1", "0"]
    assert read(tmp_path / "runs" / "ce", "seeds.json")["seeds"] == [1, 0]
    for seed in (0, 1):
        record = tmp_path / "records" / f"ce-seed{seed}"
        assert yaml.safe_load((record / "recipe.yaml").read_text())["seed"] == seed
        for name in ("metrics.json", "log.jsonl", "run.json"):
            assert (record / name).read_bytes() == (tmp_path / "runs" / "ce" / f"seed-{seed}" / name).read_bytes()


def test_a_run_that_fails_leaves_the_others(tmp_path: Path, capsys, monkeypatch) -> None:
    def failing(run: object, args: PaCoTrainingArguments, callbacks: object) -> dict | None:
        if args.seed == 0:
            monkeypatch.setattr("paco_hf.workflows.train.finish", stop)
        try:
            return train(run, args, callbacks)
        finally:
            monkeypatch.setattr("paco_hf.workflows.train.finish", finish)

    def stop(*arguments: object) -> None:
        raise FloatingPointError("the loss is nan at step 2")

    from paco_hf.workflows.finish import finish

    monkeypatch.setattr(workflow, "train", failing)
    capsys.readouterr()
    assert main(command(tmp_path, "--seeds", "0", "1")) == 2
    captured = capsys.readouterr()
    assert "1 of 2 runs failed, the first with seed 0 (the loss is nan at step 2); finished: 1" in captured.err
    assert "seed 0: failed: the loss is nan at step 2" in captured.out
    assert [run["finished"] for run in read(tmp_path, "seeds.json")["runs"]] == [False, True]
    monkeypatch.undo()
    # What is finished stays as it is.
    before = (tmp_path / "seed-1" / "model.safetensors").stat().st_mtime_ns
    run, args = parse_run(command(tmp_path, "--resume", "--report", "false")[1:])
    record = workflow.train_seeds(run, args, [0, 1])
    assert [entry["finished"] for entry in record["runs"]] == [True, True]
    assert "error" not in record["runs"][0]
    assert capsys.readouterr().out.count("is already finished: nothing to resume") == 1
    assert (tmp_path / "seed-1" / "model.safetensors").stat().st_mtime_ns == before


def start(*argv: str, code: str = "") -> subprocess.Popen:
    run = f"import sys\nfrom paco_hf.cli import main\n{code}\nsys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    options = {"stdout": pipe, "stderr": pipe, "text": True}
    # A shell has what it starts in the background ignore SIGINT.
    options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen([sys.executable, "-c", run, *argv], env=environment, **options)


# Two devices, as far as the command can tell: the environment of each hides every GPU.
TWO_DEVICES = """
from paco_hf.cli import seeds
seeds.visible_devices = lambda args: ["", ""]
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("code", ["", TWO_DEVICES], ids=["sequential", "parallel"])
def test_a_stop_leaves_what_resume_continues(tmp_path: Path, number: int, code: str) -> None:
    long = command(tmp_path, "--seeds", "0", "1", "--max_steps", "40", "--report", "false")
    process = start(*long, code=code)
    wait_until(lambda: any(tmp_path.glob("seed-0/checkpoint-*")), process)
    process.send_signal(number)
    _, error = process.communicate()
    assert process.returncode == 128 + number, error
    assert "resume the unfinished runs with --resume" in error
    assert not (tmp_path / "seed-0" / "metrics.json").exists()
    resumed = start(*long, "--resume", code=code)
    out, error = resumed.communicate()
    assert resumed.returncode == 0, error
    logs = "".join(log.read_text() for log in tmp_path.glob("seed-*.log"))
    assert "resuming from" in out + logs
    assert [run["finished"] for run in read(tmp_path, "seeds.json")["runs"]] == [True, True]


@pytest.mark.slow
def test_each_run_on_two_processes(tmp_path: Path) -> None:
    process = start(*command(tmp_path, "--seeds", "0", "1", "--nproc", "2", "--report", "false"))
    out, error = process.communicate()
    assert process.returncode == 0, error
    assert [read(tmp_path / f"seed-{seed}", "run.json")["training"]["processes"] for seed in (0, 1)] == [2, 2]
    assert out.count("seed 1, run 2 of 2") == 1
    assert [run["finished"] for run in read(tmp_path, "seeds.json")["runs"]] == [True, True]


def test_paired_differences() -> None:
    over_seeds = seed_differences([0.5, 0.6, 0.7], [0.4, 0.4, 0.6])
    assert over_seeds["values"] == pytest.approx([0.1, 0.2, 0.1])
    # Student's t of 2 degrees of freedom: 4.3027.
    half = 4.30265 * np.std([0.1, 0.2, 0.1], ddof=1) / 3**0.5
    assert [over_seeds["low"], over_seeds["high"]] == pytest.approx([0.4 / 3 - half, 0.4 / 3 + half], rel=1e-4)
    assert seed_differences([0.5], [0.4])["sd"] is None
    for degrees, value in ((1, 12.7062), (2, 4.30265), (4, 2.77645), (30, 2.04227)):  # of a table of Student's t
        assert student_quantile(0.95, degrees) == pytest.approx(value, rel=1e-5)
    labels = np.array([0] * 30 + [1] * 10)
    right, wrong = labels, 1 - labels
    differences = image_differences(np.stack([right, right]), np.stack([right, np.r_[right[:30], wrong[30:]]]), labels)
    assert differences["accuracy"]["value"] == pytest.approx(0.5 * 10 / 40)
    assert differences["balanced_accuracy"]["value"] == pytest.approx(0.25)
    assert differences["accuracy"]["low"] < 0.125 < differences["accuracy"]["high"]
    # Two runs that are wrong on different images: the interval does not shrink where seeds agree less.
    assert pairwise_agreement(np.stack([right, wrong, right])) == pytest.approx(1 / 3)
    assert pairwise_agreement(right[None]) is None
