"""Processes that have imported little, for a fraction of what their start costs: forks of one that imports it once."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent
# What transformers and timm need, but neither of them.
TORCH = "import torch, torchvision, scipy.optimize, huggingface_hub.hf_api"
# What a trainer needs, and the workers that use it; each of which is given its settings by its environment.
TRAINER = "import distributed_worker, stream_worker, torch._dynamo, torch.distributed.fsdp, torch.distributed.tensor"
# Reads jobs, each a list of pieces of code that run at the same time; answers with the status of each.
SERVER = """
import gc, json, os, sys, traceback

def fork(job):
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        for stream, file in zip((0, 1, 2), (os.devnull, job["out"], job["err"])):
            os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), stream)
        os.environ.update(job["environment"])
        os.chdir(job["folder"])
        exec(compile(job["code"], "code", "exec"), {"__name__": "__main__"})
        status = 0
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)

exec(sys.argv[1])
gc.freeze()  # what was imported stays: no collection of a fork need look through it
print("ready", flush=True)
for line in sys.stdin:
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in [fork(job) for job in json.loads(line)]]
    print(json.dumps(statuses), flush=True)
"""


@dataclass
class FreshProcesses:
    """Runs code in forks of a process that has imported what `imported` says, and nothing else."""

    server: subprocess.Popen

    def run(self, *codes: str, environments: list[dict[str, str]] | None = None, folder: Path = ROOT) -> list[str]:
        """What each piece of code prints; they run at the same time, in processes of their own."""
        with tempfile.TemporaryDirectory() as scratch:
            jobs = [
                {
                    "code": code,
                    "environment": environments[i] if environments else {},
                    "folder": str(folder),
                    "out": f"{scratch}/out{i}",
                    "err": f"{scratch}/err{i}",
                }
                for i, code in enumerate(codes)
            ]
            assert self.server.stdin
            assert self.server.stdout
            self.server.stdin.write(json.dumps(jobs) + "\n")
            self.server.stdin.flush()
            statuses = json.loads(self.server.stdout.readline())
            errors = "\n".join(Path(job["err"]).read_text()[-3000:] for job in jobs)
            assert statuses == [0] * len(jobs), errors
            return [Path(job["out"]).read_text() for job in jobs]


def rank_environments(processes: int) -> list[dict[str, str]]:
    """What a launcher would tell each of so many processes on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    size = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
    return [{**meeting, **size, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


@contextlib.contextmanager
def fresh_processes(imported: str = TORCH) -> Iterator[FreshProcesses]:
    """
    Args:
        imported (`str`): code that the forks have behind them; threads that it starts are not theirs.
    """
    if not hasattr(os, "fork"):
        pytest.skip("Windows has no forks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)])}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, imported],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    ) as server:
        assert server.stdout
        assert server.stdout.readline() == "ready\n"
        yield FreshProcesses(server)
        server.kill()
