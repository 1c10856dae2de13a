"""List the recipes, or show one with all its settings."""

import json
from argparse import ArgumentParser, Namespace


def add_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("action", nargs="?", choices=["list", "show"], default="list")
    add("name", nargs="?", help="recipe to show, or a YAML file; both work with `train --recipe`")
    add("--json", action="store_true", help="print JSON")


def run(flags: Namespace) -> None:
    if flags.action == "list":
        from ..arguments.recipes import overview, table

        entries = overview()
        print(json.dumps(entries, indent=2) if flags.json else table(entries))
        return
    if flags.name is None:
        raise ValueError("`paco-hf recipes show` needs the NAME of a recipe: `paco-hf recipes` lists them")
    from ..arguments.recipes import as_text, read_recipe

    read_recipe(flags.name)  # an unknown name is an error before libraries load
    from ..arguments.parser import resolved_recipe

    content = resolved_recipe(flags.name)
    print(json.dumps(content, indent=2) if flags.json else as_text(content).rstrip())
