"""What an unknown flag, setting or verb was meant to be: names of other tools, then small slips. Loads no library."""

import difflib
import re
from collections.abc import Collection, Sequence
from configparser import ConfigParser
from functools import cache
from pathlib import Path


@cache
def _habits() -> ConfigParser:
    habits = ConfigParser(delimiters="=", interpolation=None)
    habits.read(Path(__file__).parents[1] / "templates" / "habits.ini", encoding="utf-8")
    return habits


def meant_name(name: str, known: Collection[str], kind: str = "flags") -> str | None:
    """The name that was meant; `None` where none is near enough to be sure.

    Args:
        name (`str`): as it was typed.
        known (collection of `str`): the names that there are.
        kind (`str`, *optional*, defaults to `"flags"`): of names: `flags`, which are settings, too, or `verbs`.
    """
    if name in known:
        return name
    usual = (right for right, names in _habits()[kind].items() if right in known and name in names.split())
    return next(iter([*usual, *difflib.get_close_matches(name, known, n=1, cutoff=0.85)]), None)


def check_flags(argv: Sequence[str]) -> None:
    """Refuse flags whose value is empty, as one of a variable of the shell that is not set.

    Args:
        argv (sequence of `str`): flags and their values.

    Raises:
        ValueError: there is one.
    """
    for before, argument in zip(["", *argv], argv, strict=False):
        flag, equals, value = argument.partition("=") if argument.startswith("-") else (before, "=", argument)
        if flag.startswith("-") and equals and not value.strip():
            raise ValueError(f"{flag} is empty: give it a value, or remove it")


def unknown_argument(argument: str, flags: Collection[str], command: str = "others") -> ValueError:
    """The error that an argument is none that a command takes, with what was meant, or what there is in its place.

    Args:
        argument (`str`): as it was typed, perhaps with `=` and a value.
        flags (collection of `str`): those that there are, with their dashes.
        command (`str`, *optional*, defaults to `"others"`): whose advice applies, and unless it is `train`
            that for the others, too.
    """
    flag, habits = argument.partition("=")[0], _habits()
    hint = " (--help lists the arguments)"
    if flag.startswith("-"):
        name = flag.lstrip("-").lower().replace("-", "_")
        name = re.sub(r"^([a-z])\d+$", r"\1", name)  # such as -j8
        if right := meant_name(name, {known.lstrip("-").replace("-", "_") for known in flags}):
            hint = f": did you mean --{right}?"
        else:
            sections = [command] if command == "train" else [command, "others"]
            rows = [row for section in filter(habits.has_section, sections) for row in habits[section].items()]
            advice = (text for names, text in rows if name in names.split())
            hint = next((f": {text}" for text in advice), hint)
    return ValueError(f"unknown argument {flag!r}{hint}")
