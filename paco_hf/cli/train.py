"""Train a model; its flags are those of recipes."""

from ..utils.console import quiet
from .launcher import HELP_FLAGS, NPROC_HELP, check_processes


def run(argv: list[str]) -> None:
    from ..arguments.parser import RunParser, parse_run

    if HELP_FLAGS & set(argv):
        parser = RunParser("paco-hf train", show_all="--help_all" in argv)
        # For the help alone: it is no setting of the run, so the run's parser does not have it.
        parser.add_argument("--nproc", type=int, metavar="N", help=NPROC_HELP)
        parser.print_help()
        return
    run, args = parse_run(argv)
    check_processes(args.world_size)
    quiet()
    from ..utils.distributed import leave_together
    from ..workflows.train import train

    train(run, args)
    leave_together()
