"""The recipes: YAML files of settings, with the row of the papers that they reproduce and what is reported for it."""

import difflib
import os
import re
import textwrap
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ..utils.files import read_text, read_yaml

RECIPES = resources.files("paco_hf") / "recipes"


# What a recipe may hold besides settings: the type, and what messages call it.
_METADATA: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(("about", "row"), (str, "text")),
    "reported": (dict, "a mapping"),
    "ensemble": (list, "a list of names of recipes"),
}


@dataclass
class Recipe:
    """A recipe file.

    Args:
        name (`str`): of the package's recipe, or the path of the file.
        settings (`dict`): flags of `paco-hf train`.
        about (`str`, *optional*): what it reproduces, and what is uncertain about it.
        row (`str`, *optional*): of the reference's table of results.
        reported (`dict`, *optional*): `top1` in percent and its `source`: not measured by this project.
        ensemble (list of `str`, *optional*): recipes whose models are scored together; there are no settings then.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    about: str | None = None
    row: str | None = None
    reported: dict[str, Any] | None = None
    ensemble: list[str] | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        """What the file holds besides settings."""
        values = {key: getattr(self, key) for key in _METADATA}
        return {key: value for key, value in values.items() if value is not None}


def recipe_names() -> list[str]:
    """Names of the recipes that the package has."""
    return sorted(Path(entry.name).stem for entry in RECIPES.iterdir() if entry.name.endswith(".yaml"))


def read_recipe(recipe: str) -> Recipe:
    """A recipe of the package by its name, or any YAML file, or pipe, by its path. Its settings are not checked here.

    Raises:
        ValueError: no such recipe, a folder or a device, no YAML mapping, a key that is there twice, or metadata of
            another kind.
    """
    packaged = Path(str(RECIPES / f"{recipe}.yaml"))
    file = packaged if os.path.isfile(packaged) else Path(recipe)
    if not recipe or not os.path.exists(file):
        near = [entry["name"] for entry in overview() if recipe and entry["name"].startswith(recipe)][:3]
        near = near or difflib.get_close_matches(recipe, recipe_names(), n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(recipe_names())}"
        raise ValueError(f"{recipe!r} is neither a recipe nor a file: {hint}")
    if not (file.is_file() or file.is_fifo()):
        kind = "a folder" if file.is_dir() else "a device or a socket"
        raise ValueError(f"recipe {recipe!r} is {kind}: pass a YAML file, or the name of a recipe")
    try:
        content = read_yaml(_pipe_text(file) if file.is_fifo() else read_text(file))
    except ValueError as error:
        raise ValueError(f"recipe {recipe!r} cannot be read: {error}") from error
    if not isinstance(content, dict):
        got = "nothing" if content is None else kind_name(content)
        raise ValueError(f"recipe {recipe!r} must be a mapping of settings, such as `dataset: photos`, got {got}")
    if null := [key for key, value in content.items() if isinstance(value, str) and "\0" in value]:
        raise ValueError(f"{null[0]} of recipe {recipe!r} contains a null character (\\0): remove it")
    metadata: dict[str, Any] = {key: content.pop(key, None) for key in _METADATA}
    for key, value in metadata.items():
        kind, what = _METADATA[key]
        if value is not None and not (isinstance(value, kind) and all(isinstance(part, str) for part in value)):
            raise ValueError(f"{key} of recipe {recipe!r} must be {what}, got {kind_name(value)}")
    return Recipe(recipe, content, **metadata)


@cache
def _pipe_text(pipe: Path) -> str:
    return read_text(pipe)  # which a pipe gives once


def kind_name(value: Any) -> str:
    """The type of a value of a recipe with its article, for messages."""
    name = type(value).__name__
    return f"{'an' if name == 'int' else 'a'} {name}"


def check_single(recipe: Recipe) -> Recipe:
    """The recipe; `ValueError` where it is one of several models."""
    if recipe.ensemble:
        members = " and ".join(recipe.ensemble)
        raise ValueError(f"recipe {recipe.name!r} is an ensemble of {members}: convert its members one at a time")
    return recipe


def as_text(content: dict[str, Any]) -> str:
    """Settings and metadata as YAML that [`read_recipe`] takes; `about` reads as a paragraph."""
    rest = {key: value for key, value in content.items() if key != "about"}
    about = textwrap.wrap(str(content.get("about") or ""), 116, break_long_words=False, break_on_hyphens=False)
    head = "".join(f"{line}\n" for line in ("about: >", *(f"  {line}" for line in about))) if about else ""
    return head + yaml.safe_dump(rest, sort_keys=False)


def overview() -> list[dict[str, Any]]:
    """The package's recipes, one dictionary each, in the order of the table's rows; those of no row come last."""
    return sorted(map(_entry, map(read_recipe, recipe_names())), key=_by_row)


def _entry(recipe: Recipe) -> dict[str, Any]:
    settings = recipe.settings
    members = [read_recipe(name).settings for name in recipe.ensemble or []] or [settings]
    return {
        "name": recipe.name,
        "row": recipe.row,
        "dataset": members[0]["dataset"],
        "backbone": " + ".join(member["backbone"] for member in members),
        "epochs": settings.get("num_train_epochs"),
        "batch": settings.get("global_batch_size", settings.get("per_device_train_batch_size")),
        "reported": recipe.reported,
    }


def _by_row(entry: dict[str, Any]) -> tuple[int, int, str]:
    row = entry["row"] or ""
    return "PGMV".find(row[:1]) if row else len("PGMV"), int(row[1:] or 0), entry["name"]


def table(entries: list[dict[str, Any]]) -> str:
    """[`overview`] as text. The reported top-1 are others' figures, each with its source in short form."""
    head = ("recipe", "row", "dataset", "backbone", "epochs", "batch", "reported top-1 (source)")
    lines: list[tuple[str, ...]] = [head]
    for entry in entries:
        reported = entry["reported"]
        source = re.sub(r".*/README\.md in [\w.-]+/([\w.-]+).*", r"\1 README", reported["source"]) if reported else ""
        figure = f"{reported['top1']:.1f} ({source})" if reported else "-"
        cells = (entry[key] for key in ("name", "row", "dataset", "backbone", "epochs", "batch"))
        lines.append((*("-" if cell is None else str(cell) for cell in cells), figure))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = sum(entry["row"] is not None for entry in entries)
    counts = f"{rows} published rows and {len(entries) - rows} for the built-in dataset"
    return "\n".join([*("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines), counts])
