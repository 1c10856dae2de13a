"""Train a model; its flags are those of recipes."""

from argparse import ArgumentParser

from ..arguments.train_help import help_parser
from ..utils.console import quiet
from .launcher import HELP_FLAGS, NPROC_HELP, check_processes

_PROG = "paco-hf train"


def run(argv: list[str]) -> None:
    if asked := HELP_FLAGS & set(argv):
        parser = _every_flag() if "--help_all" in asked else help_parser(_PROG)
        # For the help alone: it is no setting of the run, so the run's parser does not have it.
        parser.add_argument("--nproc", type=int, metavar="N", help=NPROC_HELP)
        print(parser.format_help(), end="")
        return
    from ..arguments.parser import parse_run

    run, args = parse_run(argv)
    check_processes(args.world_size)
    quiet()
    from ..utils.distributed import leave_together
    from ..workflows.train import train

    train(run, args)
    leave_together()


def _every_flag() -> ArgumentParser:
    from ..arguments.parser import RunParser

    return RunParser(_PROG)
