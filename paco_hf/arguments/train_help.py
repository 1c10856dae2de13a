"""The help of `paco-hf train`, made from the argument tables alone: it loads neither torch nor transformers."""

import argparse
import dataclasses
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .method_arguments import CommonArguments, MethodArguments
from .run_arguments import RUN_TABLES

USAGE = "{prog} [--flag value ...]"
DESCRIPTION = "Train an image classifier on long-tailed data with PaCo, GPaCo or a baseline, and evaluate it."
HELP_ALL = "also list every flag of transformers.TrainingArguments"
_METAVARS = {bool: "BOOL", int: "N", float: "X", str: "TEXT"}
HELP_TABLES = (*RUN_TABLES, MethodArguments, CommonArguments)


def help_parser(prog: str) -> argparse.ArgumentParser:
    """A parser that can print the help of [`RunParser`], with the flags of transformers that most runs use.

    Args:
        prog (`str`): what the help calls the program.
    """
    epilog = "All other flags of transformers.TrainingArguments also work. --help_all lists them."
    parser = argparse.ArgumentParser(prog, USAGE.format(prog=prog), DESCRIPTION, epilog)
    parser.add_argument("--help_all", action="store_true", help=HELP_ALL)
    for table in HELP_TABLES:
        title, about = str(table.__doc__).splitlines()[0].rstrip(".").split(": ")
        group = parser.add_argument_group(title, about)
        kinds = get_type_hints(table)
        for field in dataclasses.fields(table):
            group.add_argument(f"--{field.name}", **_options(field, kinds[field.name]))
    return parser


def _options(field: dataclasses.Field, kind: Any) -> dict[str, Any]:
    options: dict[str, Any] = {**field.metadata, "help": field.metadata["help"].replace("%", "%%")}
    parts = (kind, *get_args(kind))
    if "choices" not in options and not any(get_origin(part) is Literal for part in parts):
        options["metavar"] = next(name for one, name in _METAVARS.items() if one in parts)
    for part in parts:
        if get_origin(part) is Literal:
            options["choices"] = list(get_args(part))
        elif part is bool and field.default is not None:
            options["nargs"] = "?"  # the flag alone is as good as `true`
    return options
