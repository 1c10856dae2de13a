"""Train a model. The flags are the settings of recipes."""

from argparse import ArgumentParser

from ..arguments.train_help import help_parser
from ..utils.console import quiet
from .launcher import HELP_FLAGS, check_processes
from .seeds import add_seeds_flag, run_seeds, split_seeds

_PROG = "paco-hf train"


def run(argv: list[str]) -> None:
    if asked := HELP_FLAGS & set(argv):
        parser = _every_flag() if "--help_all" in asked else help_parser(_PROG)
        # For the help alone: these are no settings of the run, so the run's parser does not have them.
        add_seeds_flag(parser)
        print(parser.format_help(), end="")
        return
    from ..arguments.parser import parse_run

    seeds, argv = split_seeds(argv)
    run, args = parse_run(argv)
    check_processes(args.world_size)
    quiet()
    from ..utils.distributed import leave_together
    from ..workflows.train import train

    if seeds:
        run_seeds(argv, seeds, run, args)
    else:
        train(run, args)
    leave_together()


def _every_flag() -> ArgumentParser:
    from ..arguments.parser import RunParser

    return RunParser(_PROG)
