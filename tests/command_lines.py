"""The `paco-hf` commands of a text, and whether the parsers of their verbs take them."""

import argparse
import re
import shlex
from collections.abc import Iterator
from importlib import import_module

from paco_hf.cli import inputs
from paco_hf.cli.common import OneLineParser
from paco_hf.cli.launcher import split_number
from paco_hf.cli.main import _PARALLEL, _VERBS
from paco_hf.cli.seeds import split_seeds

ASSIGNMENT = re.compile(r"""^\s*(\w+)=(?:"([^"$`]*)"|'([^']*)'|([^\s"'$`]+))\s*$""", re.MULTILINE)
VARIABLE = re.compile(r"\$\{?(\w+)\}?")
# Types of arguments that look at the text alone. The others look for files, folders and models, too.
TEXTUAL = (inputs.abstention_target, inputs.json_options, inputs.repo_name, inputs.unknown_score)


def commands(text: str) -> Iterator[list[str]]:
    """The words after each `paco-hf` of lines of shell, up to a pipe, a redirection or the next command.
    A variable has the value that a line before gives it, else it is 1."""
    text = text.replace("\\\n", " ")
    values = {name: "".join(value) for name, *value in ASSIGNMENT.findall(text)}
    for line in text.splitlines():
        if "paco-hf" not in line:
            continue
        line = re.sub(r"\b\d(?=>)", "", VARIABLE.sub(lambda found: values.get(found[1], "1"), line))
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] | None = None
        for word in lexer:
            if set(word) <= set("();<>|&"):
                if words is not None:
                    yield words
                words = None
            elif words is not None:
                words.append(word)
            elif word == "paco-hf":
                words = []
        if words is not None:
            yield words


def parse(words: list[str]) -> None:
    """Raises `ValueError` where the verb's parser does not take the arguments. Files need not exist."""
    from paco_hf.arguments.parser import RunParser

    verb, *argv = [word for word in words if word != "..."] or ["--help"]
    if verb in ("--help", "-h", "--version"):
        return
    if verb not in _VERBS:
        raise ValueError(f"paco-hf {verb}: there is no such verb")
    argv = split_number(argv)[1] if verb in _PARALLEL else argv
    try:
        if verb == "train":
            RunParser("paco-hf train").parse_flags(split_seeds(argv)[1])
        else:
            module = import_module(f"paco_hf.cli.{verb.replace('-', '_')}")
            parser = OneLineParser(prog=f"paco-hf {verb}", description=module.__doc__)
            parser.words = argv
            module.add_flags(parser)
            _forgive(parser)
            parser.parse_args(argv)
    except SystemExit as done:  # of --help
        if done.code:
            raise ValueError(f"paco-hf {verb} ends with {done.code}") from done


def _forgive(parser: argparse.ArgumentParser) -> None:
    """Let the parser take files, folders and models that do not exist."""
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for name in action.choices:
                _forgive(action.choices[name])
        elif not (
            action.type is None or isinstance(action.type, type) or action.type in TEXTUAL or _is_number(action)
        ):
            action.type = str


def _is_number(action: argparse.Action) -> bool:
    return getattr(action.type, "__qualname__", "").startswith(inputs.number.__name__)
