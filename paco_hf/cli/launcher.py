"""How many processes a command runs in: as many as `--nproc` or a launcher was asked for, or an error."""

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

from ..utils.hardware import usable_cores
from ..utils.signals import end_with_parent
from .failures import how_to_try_again

NPROC_HELP = "processes to launch, one per GPU if there are GPUs; under a launcher: the expected number"
HELP_FLAGS = {"-h", "--help", "--help_all"}
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # those that accelerate reads
_LAUNCHER = "PACO_HF_LAUNCHER"


def in_processes(verb: str, argv: list[str]) -> list[str]:
    """Take `--nproc N` out of `argv`, and see to it that there are N processes.

    A plain start runs `paco-hf verb` in N processes of its own and exits with their status (`SystemExit`). In a
    process that torchrun, `accelerate launch` or another launcher started, and for one process, it returns.

    Returns:
        `argv` without `--nproc`.

    Raises:
        ValueError: N is no positive number, or not what the launcher started, or there are fewer GPUs.
    """
    number, rest = split_number(argv)
    if HELP_FLAGS & set(rest):
        return rest
    if is_launched() or "TORCHELASTIC_RUN_ID" in os.environ:  # an agent that is killed leaves its processes alone
        end_with_parent()
    world = world_size()
    _check_restarts()
    launched = _check_accelerate(verb, world or 1) or world is not None
    if launched and number not in (None, world or 1):
        raise ValueError(
            f"--nproc {number} requests {_processes(number)}, but the launcher started {_processes(world or 1)}: make "
            f"it start {number} (torchrun --nproc_per_node, accelerate launch --num_processes), or remove --nproc"
        )
    if launched or number in (None, 1):
        return rest
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks != "1":
        raise ValueError(
            f"--nproc {number} would start {number} processes in each of srun's {tasks} tasks, and each task would be "
            "a separate run: use one srun task, or start torchrun in each, as training/slurm/train.sbatch does"
        )
    _check_devices(number)
    raise SystemExit(_run(number, [verb, *rest]))


def world_size() -> int | None:
    """Processes that the environment announces, as launchers set it; `None` where there is no launcher."""
    for name in _SIZES:
        value = os.environ.get(name)
        if value is not None:
            if not value.isdecimal() or int(value) < 1:
                raise ValueError(
                    f"the environment variable {name} must be a number of processes, got {value!r}: unset it"
                )
            return int(value)
    return None


def check_processes(number: int) -> None:
    """`ValueError` where `number`, the processes that really work together, is not what the launcher announced."""
    announced = world_size() or 1
    if number != announced:
        raise ValueError(
            f"the environment variables announce {_processes(announced)}, but {number} would work together: the "
            "launcher must also set RANK, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, as torchrun does"
        )


def is_launched() -> bool:
    """Whether a `paco-hf --nproc N` started this process."""
    return os.environ.get(_LAUNCHER) == str(os.getppid())


def mark_launcher() -> None:
    """Have the processes that this one starts from now on end with it."""
    os.environ[_LAUNCHER] = str(os.getpid())


def is_first_process() -> bool:
    """Whether this is the process of rank 0, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def split_number(argv: list[str]) -> tuple[int | None, list[str]]:
    """The number that `--nproc` gives, `None` without it, and the other arguments; `ValueError` where it is none."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--nproc", nargs="?", const="")
    known, rest = parser.parse_known_args(argv)
    if known.nproc is None:
        return None, rest
    if not known.nproc.isdecimal() or int(known.nproc) < 1:
        raise ValueError(f"--nproc must be a number of processes, at least 1, got {known.nproc!r}")
    return int(known.nproc), rest


def _check_restarts() -> None:
    """`ValueError` where torchrun is to start processes anew that would not find one another then."""
    restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")
    if restarts != "0" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # The addresses of those that have ended stay in the store of torch's agent, which new ones ask.
        raise ValueError(
            f"torchrun may restart processes (--max-restarts {restarts}), and these would wait for processes that "
            "have exited: set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment on each node, or remove "
            "--max-restarts"
        )


def _check_accelerate(verb: str, world: int) -> bool:
    """Whether `accelerate launch` started this process. `ValueError` where it did otherwise than it was asked to."""
    # Every kind of accelerate's launch sets it.
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION")
    if precision is None:
        return False
    if precision != "no":
        # transformers would compute in it even where paco-hf says fp32.
        raise ValueError(
            f"accelerate launch sets mixed precision {precision}, which would override --precision: launch with "
            f"--mixed_precision no, and use --precision {precision} of paco-hf"
        )
    compiler = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if compiler.lower() != "no":
        raise ValueError(
            f"accelerate launch sets the compiler {compiler}, which would compile the whole model, including "
            "evaluation: launch with --dynamo_backend no, and use --torch_compile true of paco-hf"
        )
    asked = _accelerate_processes() if world == 1 else None
    if asked is not None and asked > 1:
        # On a CPU, accelerate's launch ignores the number of processes, without a word.
        raise ValueError(
            f"accelerate launch should start {asked} processes, but started 1: use `paco-hf {verb} --nproc "
            f"{asked}`, `torchrun --nproc_per_node {asked} training/{verb}.py`, or `accelerate launch "
            f"--config_file training/accelerate_configs/cpu_2.yaml --num_processes {asked} training/{verb}.py`"
        )
    return True


def _accelerate_processes() -> int | None:
    """Processes that the `accelerate launch` above this process was asked for, as its command line says."""
    import psutil

    try:
        commands = [parent.cmdline() for parent in psutil.Process().parents()]
    except psutil.Error:
        return None
    for command in commands:
        flags = _accelerate_flags(command)
        if flags is not None:
            from accelerate.commands.config.config_args import default_config_file, load_config_from_file
            from accelerate.commands.launch import launch_command_parser

            args = launch_command_parser().parse_args(flags)
            if args.num_processes is not None:
                return int(args.num_processes)
            # The user's default configuration is not read where --cpu is given.
            if args.config_file is None and (args.cpu or not Path(default_config_file).is_file()):
                return None
            return int(load_config_from_file(args.config_file).num_processes)
    return None


def _accelerate_flags(command: list[str]) -> list[str] | None:
    """What follows `accelerate launch`, however it is spelled; `None` for another command."""
    for i, word in enumerate(command):
        name = Path(word).name
        if name in ("accelerate-launch", "accelerate.commands.launch"):
            return command[i + 1 :]
        if name in ("accelerate", "accelerate.commands.accelerate_cli") and command[i + 1 : i + 2] == ["launch"]:
            return command[i + 2 :]
    return None


def _check_devices(number: int) -> None:
    import torch

    # Before torch 2.8 it raises where there is no driver.
    devices = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if 0 < devices < number:
        raise ValueError(
            f"--nproc {number} needs {number} GPUs, one per process, but there {'is' if devices == 1 else 'are'} "
            f"{devices}: use at most --nproc {devices} (or set CUDA_VISIBLE_DEVICES= to use the CPU)"
        )


def _run(number: int, arguments: list[str]) -> int:
    """`paco-hf` with `arguments` in local processes, under torchrun's agent. Returns the status to exit with."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // number)))
    mark_launcher()
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # The processes say themselves what is wrong; the agent would add a page to it.
    logging.disable(logging.CRITICAL)
    args = run.parse_args(["--standalone", "--nproc_per_node", str(number), "--module", "paco_hf"])
    # Not parsed with the rest: torchrun's parser trips over flags that abbreviate several of its own.
    args.training_script_args = arguments
    try:
        run.run(args)
    except SignalException as error:  # the agent has passed it on, and waited for the processes
        return 128 + error.sigval
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode
        name = signal.Signals(-failure.exitcode).name
        cause = ", possibly out of memory" if name == "SIGKILL" else ""
        line = f"rank {rank} of {number} was killed by {name}{cause}; {how_to_try_again(arguments)}"
        print(f"paco-hf {arguments[0]}: {line}", file=sys.stderr)
        return 128 - failure.exitcode
    return 0


def _processes(number: int) -> str:
    return f"{number} process{'es' if number > 1 else ''}"
