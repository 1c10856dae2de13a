"""The page of the recipes: what each reproduces, its settings, and whether it was run here."""

from typing import Any

import yaml

from benchmarks.rows import measured
from paco_hf.arguments.recipes import overview, read_recipe

GROUPS = {
    "": "The built-in data set",
    "P": "PaCo",
    "G": "GPaCo",
    "M": "Multi-task",
    "V": "Vision transformers",
}
INTRODUCTION = """# Recipes

A recipe is a YAML file with the settings of a run. Train one by its name, and change any setting with a flag:

```text
paco-hf train --recipe NAME --dataset_path ROOT --output_dir runs/NAME
paco-hf recipes show NAME
```

There are {rows} recipes for the rows of the papers and {builtin} for the built-in data set.
[Reproduce a table](../reproduce.md) says how to get the data and which hardware the rows need.

* **Reported** is the top-1 accuracy in percent that the source in parentheses reports. It was not measured here.
* **Measured** means that the recipe was trained to its end here. [Results](../results.md) has the record.
* **Smoke-tested** means that the recipe trains two steps on a miniature of its data set, is scored, and loads again.
  It uses its own backbone, views, loss, schedule and initialization. It was not trained to its end here.
* **Not measured** means that no score of the recipe was recorded here.

[All rows](../reproduce.md#all-rows-command-figure-cost) has the hardware and an estimate of the time for each row."""


def reported(entry: dict[str, Any]) -> str:
    """The figure with its source."""
    figure = entry["reported"]
    return f"{figure['top1']:.1f} ({figure['source']})" if figure else "none"


def state(entry: dict[str, Any], known: dict[str, str]) -> str:
    """What was done with a recipe here.

    Args:
        entry (`dict`): of the overview.
        known (`dict`): the measured rows, by recipe.
    """
    if not entry["row"]:
        return "not measured"
    return known.get(entry["name"], "smoke-tested")


def recipe_block(entry: dict[str, Any], known: dict[str, str]) -> str:
    """The part of the page that is about a recipe.

    Args:
        entry (`dict`): of the overview.
        known (`dict`): the measured rows, by recipe.
    """
    recipe = read_recipe(entry["name"])
    about = [recipe.about.strip()] if recipe.about else []
    facts = [f"**Row:** {entry['row']}", f"**Reported:** {reported(entry)}"] if entry["row"] else []
    facts.append(f"**State:** {state(entry, known)}")
    settings: dict[str, Any] = {"ensemble": recipe.ensemble} if recipe.ensemble else recipe.settings
    content = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=100)
    return "\n\n".join([f"### {entry['name']}", *about, " · ".join(facts), f"```yaml\n{content}```"])


def recipes_page() -> str:
    """The page."""
    entries, known = overview(), measured()
    rows = [entry for entry in entries if entry["row"]]
    blocks = [INTRODUCTION.format(rows=len(rows), builtin=len(entries) - len(rows))]
    head = "| row | recipe | reported (source) | state |\n|---|---|---|---|"
    lines = [
        f"| {entry['row'] or '-'} | [`{entry['name']}`](#{entry['name']}) "
        f"| {reported(entry)} | {state(entry, known)} |"
        for entry in entries
    ]
    blocks.append("\n".join([head, *lines]))
    for letter, title in GROUPS.items():
        blocks.append(f"## {title}")
        blocks += [recipe_block(entry, known) for entry in entries if (entry["row"] or "")[:1] == letter]
    return "\n\n".join(blocks) + "\n"
