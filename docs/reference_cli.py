"""The command line reference: each verb of `paco-hf` as its parser has it, each flag with an address of its own."""

import argparse
import dataclasses
import os
import re
from collections.abc import Iterator
from importlib import import_module
from unittest import mock

from transformers import TrainingArguments

from paco_hf.arguments.train_help import HELP_TABLES, help_parser
from paco_hf.cli.common import OneLineParser
from paco_hf.cli.main import _USAGE, _VERBS
from paco_hf.cli.seeds import add_seeds_flag

TRANSFORMERS = "https://huggingface.co/docs/transformers/main_classes/trainer#transformers.TrainingArguments"
# What of a help is code: what stands in backquotes, flags with their value, paths, names with an underscore, files.
_CODE = re.compile(
    r"`[^`]+`|(?<![\w-])--[a-z][\w-]*(?: [A-Z][A-Z_]*\b)?|[\w.*-]+/[\w.*/@\[\]-]*\w\]?|\b\w+_\w+\b"
    r"|\w+\.(?:csv|json|html|yaml)"
)
_MARKUP = re.compile(r"([\\*_<>\[\]{}$#|])")


def markdown(text: str) -> str:
    """Plain text of a help as Markdown: flags, names with underscores and paths as code, nothing else marked up.

    Args:
        text (`str`): the help.
    """
    parts, end = [], 0
    for found in _CODE.finditer(text):
        parts += [_MARKUP.sub(r"\\\1", text[end : found.start()]), f"`{found[0].strip('`')}`"]
        end = found.end()
    return "".join([*parts, _MARKUP.sub(r"\\\1", text[end:])])


def sentence(text: str) -> str:
    """The text with a capital and a full stop, unless it begins with a value, as in `auto: ...`.

    Args:
        text (`str`): Markdown.
    """
    if re.match(r"[a-z]+[ .,(]", text):
        text = text[0].upper() + text[1:]
    return text if not text or text[-1] in ".?!" else f"{text}."


def parser_of(verb: str) -> argparse.ArgumentParser:
    """The parser whose help `paco-hf VERB --help` prints.

    Args:
        verb (`str`): such as `evaluate`.
    """
    if verb == "train":
        parser = help_parser("paco-hf train")
        add_seeds_flag(parser)
        return parser
    module = import_module(f"paco_hf.cli.{verb.replace('-', '_')}")
    parser = OneLineParser(prog=f"paco-hf {verb}", description=module.__doc__)
    module.add_flags(parser)
    return parser


def parsers() -> Iterator[argparse.ArgumentParser]:
    """Those of all verbs, in the order of `paco-hf --help`, each followed by those of its actions."""
    for verb in _VERBS:
        parser = parser_of(verb)
        yield parser
        yield from actions_of(parser).values()


def actions_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The actions of a verb, as `prepare` of `data`, by name."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {name: sub for group in groups for name, sub in group.choices.items()}


def shown_default(action: argparse.Action, defaults: dict[str, object]) -> str:
    """The default of a flag as Markdown, empty where its help says it or there is none.

    Args:
        action (`argparse.Action`): the flag.
        defaults (`dict`): of the fields of `train`, whose parser has none.
    """
    value = defaults.get(action.dest) if action.default is None else action.default
    if value in (None, argparse.SUPPRESS, [], ()) or "(default" in (action.help or "") or not action.option_strings:
        return ""
    if isinstance(value, bool):
        return f"Default: `{str(value).lower()}`." if action.nargs != 0 else ""
    return f"Default: `{value}`."


def flag(action: argparse.Action, defaults: dict[str, object]) -> str:
    """A flag or argument as an `option` of the site.

    Args:
        action (`argparse.Action`): of a parser.
        defaults (`dict`): as for [`shown_default`].
    """
    values = action.metavar or ("VALUE" if action.choices else action.dest.upper())
    value = " ".join(values) if isinstance(values, tuple) else values
    value = {0: "", "?": f"[{value}]", "+": f"{value} [...]", "*": f"[{value} ...]"}.get(action.nargs, value)
    heading = ", ".join(f"{name} {value}".strip() for name in action.option_strings) or action.dest
    choices = ", ".join(f"`{choice}`" for choice in action.choices or ())
    expanded = (action.help or "") % {**vars(action), "prog": "paco-hf"}
    facts = [
        sentence(markdown(expanded)),
        f"One of {choices}." if choices else "",
        shown_default(action, defaults),
        "Required." if action.required and action.option_strings else "",
        "Optional." if not action.option_strings and action.nargs in ("?", "*") else "",
    ]
    return f"````{{option}} {heading}\n\n{' '.join(filter(None, facts))}\n````"


def flags(parser: argparse.ArgumentParser, level: int) -> Iterator[str]:
    """The groups of a parser with their flags, as `--help` groups them.

    Args:
        parser (`argparse.ArgumentParser`): of a verb or an action.
        level (`int`): of the headings.
    """
    defaults = {field.name: field.default for table in HELP_TABLES for field in dataclasses.fields(table)}
    prog = parser.prog.replace("paco-hf ", "")
    for group in parser._action_groups:
        shown = [a for a in group._group_actions if a.help != argparse.SUPPRESS and "-h" not in a.option_strings]
        shown = [action for action in shown if not isinstance(action, argparse._SubParsersAction)]
        if not shown:
            continue
        title = {"options": "Options", "positional arguments": "Arguments"}.get(str(group.title), str(group.title))
        yield f"{'#' * level} {title}" + (f"\n\n{sentence(markdown(group.description))}" if group.description else "")
        yield from (flag(action, defaults if prog == "train" else {}) for action in shown)


def inherited() -> str:
    """The flags of `train` that are transformers' own, by name."""
    ours = {field.name for table in HELP_TABLES for field in dataclasses.fields(table)}
    names = [f"`--{field.name}`" for field in dataclasses.fields(TrainingArguments) if field.name not in ours]
    return (
        f"### Flags of transformers\n\n`paco-hf train` also takes the other fields of "
        f"[`transformers.TrainingArguments`]({TRANSFORMERS}). `paco-hf train --help_all` describes them, and "
        f"[Training arguments](../training-arguments.md) says which ones have no effect or are refused.\n\n"
        f"{', '.join(names)}."
    )


def cli_page() -> str:
    """The page."""
    summary = "\n".join(
        f"| [`paco-hf {verb}`](#{anchor(f'paco-hf {verb}')}) | {markdown(about)} |" for verb, about in overview()
    )
    blocks = [
        "# Command line reference",
        "Every verb of `paco-hf`, and every flag with its default. `paco-hf VERB --help` prints the same on the "
        "command line. `paco-hf --version` prints the version of the package and of the libraries that it uses.",
        f"| command | what it does |\n|---|---|\n{summary}",
    ]
    with mock.patch.dict(os.environ, {"COLUMNS": "88"}):
        for parser in parsers():
            level = 2 if parser.prog.count(" ") == 1 else 3
            usage = re.sub(r"^usage: ", "", parser.format_usage()).rstrip()
            blocks.append(f"{'#' * level} {parser.prog}")
            about = parser.description or _help_of(parser)
            blocks += [
                markdown(" ".join(about.split())),
                f"```text\n{usage}\n```",
                f"```{{program}} {parser.prog}\n```",
            ]
            blocks += flags(parser, level + 1)
            blocks += [inherited()] if parser.prog == "paco-hf train" else []
    return "\n\n".join(blocks) + "\n"


def _help_of(parser: argparse.ArgumentParser) -> str:
    """What the help of the verb says of an action, as a sentence."""
    verb, name = parser.prog.split()[1:3]
    (group,) = (a for a in parser_of(verb)._actions if isinstance(a, argparse._SubParsersAction))
    about = next(action.help or "" for action in group._choices_actions if action.dest == name)
    return about[:1].upper() + about[1:] + ("" if about.endswith("?") else ".")


def overview() -> list[tuple[str, str]]:
    """The verbs, and what `paco-hf --help` says of each."""
    found = re.findall(r"^  ([a-z-]+)\s+(.*)$", _USAGE, re.MULTILINE)
    return [(verb, " ".join(about.split())) for verb, about in found]


def anchor(heading: str) -> str:
    """The address of a heading, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
