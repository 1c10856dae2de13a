"""As many processes as were asked for, or one clear line."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import patience
import psutil
import pytest
import torch
import torch.distributed.run
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from conftest import ROOT
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from paco_hf.cli import launcher as launch
from paco_hf.cli import main
from paco_hf.cli.launcher import check_processes, in_processes

TRAINING = ROOT / "training"
CONFIGS = TRAINING / "accelerate_configs"
SHORT = [
    *("--dataset", "builtin", "--backbone", "cifar_resnet20", "--max_steps", "2", "--precision", "fp32"),
    *("--per_device_train_batch_size", "32", "--save_strategy", "no"),
]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("ACCELERATE_", "SLURM_", "PACO_HF_LAUNCHER")) or name in {*launch._SIZES, "RANK"}:
            monkeypatch.delenv(name)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list:
    """What would have been started; the processes end with status 7."""
    calls: list = []
    monkeypatch.setattr(launch, "_run", lambda number, arguments: calls.append((number, arguments)) or 7)
    return calls


def below(monkeypatch: pytest.MonkeyPatch, *commands: str) -> None:
    """Pretend that accelerate's launcher started this process: the command lines of its ancestors, nearest first."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")

    class Process:
        def __init__(self, command: str = "") -> None:
            self.command = command

        def parents(self) -> list:
            return [Process(command) for command in commands]

        def cmdline(self) -> list[str]:
            return self.command.split()

    monkeypatch.setattr(psutil, "Process", Process)


def test_plain_start_runs_itself_and_passes_the_status_on(started: list) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", "--loss", "ce", "--nproc", "2", "--max_steps=3"])
    assert end.value.code == 7
    assert started == [(2, ["train", "--loss", "ce", "--max_steps=3"])]
    with pytest.raises(SystemExit):
        main(["evaluate", "run", "--nproc=3"])
    assert started[1] == (3, ["evaluate", "run"])


def test_one_process_and_help_start_nothing(started: list, capsys) -> None:
    assert in_processes("train", ["--nproc", "1", "--seed", "-1"]) == ["--seed", "-1"]
    assert in_processes("train", ["--seed", "1"]) == ["--seed", "1"]
    assert main(["train", "--nproc", "2", "--help"]) == 0
    assert "--nproc N" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    assert "--nproc N" in capsys.readouterr().out
    assert not started


@pytest.mark.parametrize("value", ["0", "-2", "two", "2.5", ""])
def test_number_that_is_none(value: str, capsys) -> None:
    assert main(["train", f"--nproc={value}"]) == 2
    assert capsys.readouterr().err == (
        f"paco-hf train: --nproc must be a number of processes, at least 1, got {value!r}\n"
    )


def test_number_that_is_missing() -> None:
    with pytest.raises(ValueError, match="at least 1, got ''"):
        in_processes("train", ["--nproc", "--loss", "ce"])


def test_under_a_launcher_it_checks(monkeypatch: pytest.MonkeyPatch, started: list) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert in_processes("train", ["--nproc", "2", "x"]) == ["x"]
    assert in_processes("train", ["x"]) == ["x"]
    with pytest.raises(ValueError, match="--nproc 3 requests 3 processes, but the launcher started 2 processes: make"):
        in_processes("train", ["--nproc", "3"])
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(ValueError, match="the launcher started 1 process: make it start 2"):
        in_processes("train", ["--nproc", "2"])
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ValueError, match="WORLD_SIZE must be a number of processes, got 'two'"):
        in_processes("train", [])
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    assert in_processes("train", ["--nproc", "4"]) == []
    assert not started


def test_processes_that_do_not_work_together(monkeypatch: pytest.MonkeyPatch) -> None:
    check_processes(1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_processes(2)
    with pytest.raises(ValueError, match="announce 2 processes, but 1 would work together"):
        check_processes(1)


def test_tasks_of_slurm_without_a_launcher(monkeypatch: pytest.MonkeyPatch, started: list) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(ValueError, match=r"2 processes in each of srun's 2 tasks.*train\.sbatch"):
        in_processes("train", ["--nproc", "2"])
    assert in_processes("train", []) == []
    assert not started


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch, started: list) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    line = "--nproc 3 needs 3 GPUs, one per process, but there are 2: use at most --nproc 2"
    with pytest.raises(ValueError, match=line):
        in_processes("train", ["--nproc", "3"])
    assert not started
    with pytest.raises(SystemExit):
        in_processes("train", ["--nproc", "2"])


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        ("python /bin/accelerate launch --cpu --num_processes 2 train.py --num_processes 9", 2),
        ("python /bin/accelerate-launch --cpu --num-processes=3 train.py", 3),
        ("python -m accelerate.commands.launch --cpu --num_processes 4 train.py", 4),
        ("python -m accelerate.commands.accelerate_cli launch --config_file {config} train.py", 5),
        ("python /bin/accelerate launch --config_file {config} --num_processes 1 train.py", 1),
        ("python /bin/accelerate launch --cpu train.py", 1),
        ("python /bin/other launch --num_processes 2 train.py", 1),
    ],
)
def test_accelerate_that_starts_fewer(monkeypatch: pytest.MonkeyPatch, tmp_path, command: str, asked: int) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("distributed_type: MULTI_CPU\nuse_cpu: true\nnum_processes: 5\n")
    below(monkeypatch, "bash wrapper.sh", command.format(config=config), "bash")
    if asked == 1:
        assert in_processes("train", ["x"]) == ["x"]
        with pytest.raises(ValueError, match="the launcher started 1 process"):
            in_processes("train", ["--nproc", "2"])
        return
    line = f"accelerate launch should start {asked} processes, but started 1: use `paco-hf evaluate --nproc {asked}`"
    for argv in ([], ["--nproc", str(asked)]):
        with pytest.raises(ValueError, match=line):
            in_processes("evaluate", argv)
    monkeypatch.setenv("WORLD_SIZE", str(asked))
    assert in_processes("evaluate", []) == []


def test_precision_of_accelerate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    below(monkeypatch)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ValueError, match="mixed precision bf16, which would override --precision"):
        in_processes("train", [])


def test_compiler_of_accelerate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    below(monkeypatch)
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    with pytest.raises(ValueError, match=r"the compiler INDUCTOR, .* use --torch_compile true of paco-hf"):
        in_processes("train", [])


def test_restarts_need_stores_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(ValueError, match=r"--max-restarts 3.*: set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        in_processes("train", [])
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    assert in_processes("train", ["--loss", "ce"]) == ["--loss", "ce"]


def test_agent(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    seen: list = []
    failure: list = []

    def run(args) -> None:
        seen.append((args, os.environ["OMP_NUM_THREADS"]))
        if failure:
            raise ChildFailedError("train", {1: ProcessFailure(1, 99, failure[0], "")})

    monkeypatch.setattr(torch.distributed.run, "run", run)
    # So that what it sets is undone.
    monkeypatch.setenv(launch._LAUNCHER, "")
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.delenv("OMP_NUM_THREADS")
    try:
        # A flag that abbreviates two of torchrun's own.
        assert launch._run(64, ["train", "--log", "x"]) == 0
        args, threads = seen[0]
        assert (args.standalone, args.nproc_per_node, args.module, threads) == (True, "64", True, "1")
        assert (args.training_script, args.training_script_args) == ("paco_hf", ["train", "--log", "x"])
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        failure.append(2)
        assert launch._run(2, ["train"]) == 2
        assert seen[1][1] == "3"
        failure[0] = -signal.SIGKILL
        assert launch._run(2, ["train"]) == 137
    finally:
        logging.disable(logging.NOTSET)
    assert capsys.readouterr().err == (
        "paco-hf train: rank 1 of 2 was killed by SIGKILL, possibly out of memory; resume from the last "
        "complete checkpoint with --resume\n"
    )


@pytest.mark.parametrize(
    ("name", "processes", "kind"),
    [("one_gpu", 1, "NO"), ("multi_gpu", 8, "MULTI_GPU"), ("multi_node", 16, "MULTI_GPU"), ("cpu_2", 2, "MULTI_GPU")],
)
def test_accelerate_configs(name: str, processes: int, kind: str) -> None:
    assert {path.stem for path in CONFIGS.iterdir()} == {"one_gpu", "multi_gpu", "multi_node", "cpu_2"}
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert (config.num_processes, config.distributed_type, config.mixed_precision) == (processes, kind, "no")
    assert config.num_machines == (2 if name == "multi_node" else 1)
    assert config.use_cpu == (name == "cpu_2")


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """An environment as slurm's, with stand-ins for its commands that write to `calls` how they were called."""
    (tmp_path / "calls").mkdir()
    srun = 'echo $$ > "$CALLS/pid"\nprintf "%s\\n" "$@" > "$CALLS/partial" && mv "$CALLS/partial" "$CALLS/srun"\n'
    srun += '[[ -z "$STATUS" ]] || exit "$STATUS"\nexec sleep 60\n'
    scontrol = 'if [[ $1 == show ]]; then printf "node7\\nnode8\\n"; else echo "$*" >> "$CALLS/scontrol"; fi\n'
    scancel = 'echo "$*" > "$CALLS/scancel"; kill "$(cat "$CALLS/pid")"\n'
    for name, script in (("srun", srun), ("scontrol", scontrol), ("scancel", scancel)):
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "31234", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[7-8]"}
    size = {"SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "32"}
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    path = {"PATH": f"{tmp_path}:{environment['PATH']}", "CALLS": str(tmp_path / "calls")}
    return environment | path | job | size


SBATCH = ["bash", str(TRAINING / "slurm" / "train.sbatch")]
FLAGS = ["--output_dir", "a folder", "--loss", "gpaco"]


@pytest.mark.parametrize("status", [0, 3])
def test_slurm_starts_torchrun_on_each_node(slurm: dict[str, str], tmp_path: Path, status: int) -> None:
    subprocess.run(["bash", "-n", SBATCH[1]], check=True)
    done = subprocess.run([*SBATCH, *FLAGS], env={**slurm, "STATUS": str(status)}, timeout=120)
    assert done.returncode == status
    words = (tmp_path / "calls" / "srun").read_text().splitlines()
    assert words == [
        *("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=32", "--kill-on-bad-exit=1"),
        *("torchrun", "--nnodes=2", "--nproc_per_node=4", "--rdzv_id=31234", "--rdzv_backend=c10d"),
        *("--rdzv_endpoint=node7:21234", "-m", "--", "paco_hf", "train", *FLAGS, "--resume"),
    ]
    args = torch.distributed.run.parse_args(words[5:])
    assert (args.module, args.training_script) == (True, "paco_hf")
    assert args.training_script_args == ["train", *FLAGS, "--resume"]
    assert not (tmp_path / "calls" / "scontrol").exists()


def test_slurm_requeues_before_the_time_limit(slurm: dict[str, str], tmp_path: Path) -> None:
    directives = (TRAINING / "slurm" / "train.sbatch").read_text()
    assert "#SBATCH --requeue\n" in directives
    assert "#SBATCH --signal=B:USR1@300\n" in directives
    job = subprocess.Popen([*SBATCH, *FLAGS], env={**slurm, "STATUS": ""}, stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "calls" / "srun").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        job.send_signal(signal.SIGUSR1)
        out, _ = job.communicate(timeout=120)
    finally:
        job.kill()
    assert (tmp_path / "calls" / "scancel").read_text() == "--signal=TERM 31234.0\n"
    assert (tmp_path / "calls" / "scontrol").read_text() == "requeue 31234\n"
    assert "the time limit is near: stopping and requeueing job 31234" in out
    assert job.returncode == 128 + signal.SIGTERM


def command(*words: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return patience.run([sys.executable, *words], env=environment)


ACCELERATE = ["-m", "accelerate.commands.launch"]
TRAIN, EVALUATE = str(TRAINING / "train.py"), str(TRAINING / "evaluate.py")


@pytest.mark.slow
def test_two_processes_train_and_evaluate(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["-m", "paco_hf", "train", "--nproc", "2", *SHORT, "--output_dir", str(run)]
    done = command(*words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 processes") == 1
    assert "nproc" not in yaml.safe_load((run / "recipe.yaml").read_text())
    # What is wrong is said once, and the status is the command's own.
    done = command(*words)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "is not empty: resume its run with --resume" in done.stderr
    scores = json.loads((run / "metrics.json").read_text())["test"]
    # Printed by one process alone, or it would be no JSON.
    done = command("-m", "paco_hf", "evaluate", str(run), "--json", "--nproc", "2")
    found = json.loads(done.stdout)
    assert {name: found[name] for name in scores} == scores
    done = command(*ACCELERATE, "--config_file", str(CONFIGS / "cpu_2.yaml"), EVALUATE, str(run), "--json")
    found = json.loads(done.stdout)
    assert {name: found[name] for name in scores} == scores


@pytest.mark.slow
def test_accelerate_with_a_config_gives_two_processes(tmp_path: Path) -> None:
    config = ["--config_file", str(CONFIGS / "cpu_2.yaml")]
    done = command(*ACCELERATE, *config, TRAIN, "--nproc", "2", *SHORT, "--output_dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout


@pytest.mark.slow
def test_accelerate_that_would_run_one_process_is_stopped(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = command(*ACCELERATE, "--cpu", "--num_processes", "2", TRAIN, *SHORT, "--output_dir", str(run))
    assert done.returncode != 0
    assert "paco-hf train: accelerate launch should start 2 processes, but started 1: use" in done.stderr
    assert not run.exists()


@pytest.mark.slow
def test_torchrun_with_another_number_is_stopped() -> None:
    done = command("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--", TRAIN, "--nproc", "3")
    assert done.returncode != 0
    assert "--nproc 3 requests 3 processes, but the launcher started 2 processes" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_processes_end_with_the_command(tmp_path: Path, name: str) -> None:
    words = ["-m", "paco_hf", "train", "--nproc", "2", *SHORT, "--max_steps", "9999", "--logging_steps", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        [sys.executable, *words, "--output_dir", str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True
    )
    children: list[psutil.Process] = []
    try:
        assert run.stdout is not None
        assert any(line.startswith("step 2/") for line in run.stdout)
        children = psutil.Process(run.pid).children(recursive=True)
        assert len(children) >= 2
        run.send_signal(signal.Signals[name])
        status = run.wait(300)
        assert status == {"SIGINT": 130, "SIGTERM": 143, "SIGKILL": -9}[name]
        _, alive = psutil.wait_procs(children, timeout=120)
        assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]
    finally:
        run.kill()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def test_a_lost_process_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def lose(*_: object) -> None:
        raise RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error: Connection reset")

    monkeypatch.setattr(sys.modules["paco_hf.cli.main"], "_run", lose)
    assert main(["train"]) == 1
    line = (
        "paco-hf train: another process exited, so this process exits, too; resume from the last complete "
        "checkpoint with --resume\n"
    )
    assert capsys.readouterr().err == line
