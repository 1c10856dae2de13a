"""What settings are that a recipe does not name. Only those that no argument table has load torch."""

import dataclasses
from functools import cache
from typing import Any

from ..data.spec import is_published
from .method_arguments import ChangedDefaults, CommonArguments, MethodArguments
from .run_arguments import RUN_TABLES

# What transformers makes of settings that it leaves open, and that a recipe therefore has.
_RESOLVED = {"activation_checkpointing": False, "gradient_checkpointing": False, "greater_is_better": True}

# What runs did before there was a setting, where that is not its default.
_BEFORE = {"torch_compile": False}


def default_setting(name: str) -> Any:
    """What a setting is that a recipe does not name, as one from before the setting existed."""
    tables = _table_defaults() | _BEFORE
    return tables[name] if name in tables else _library_defaults().get(name)


def shown_default(name: str) -> Any:
    """[`default_setting`] without libraries: of what transformers alone has, the word `default`."""
    return _table_defaults().get(name, "default")


def expected_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """What the settings of a recipe come to in a run of one process, as far as the argument tables tell.

    Args:
        settings (`dict`): of the recipe.
    """
    implied: dict[str, Any] = {}
    if is_published(settings.get("dataset", "builtin")) and settings.get("eval_interpolation") is None:
        implied["eval_interpolation"] = "bilinear"
    if "global_batch_size" in settings:
        parts = settings.get("gradient_accumulation_steps", 1)
        implied["per_device_train_batch_size"] = max(1, round(settings["global_batch_size"] / parts))
    return {name: v for name, v in (_table_defaults() | settings | implied).items() if v is not None}


@cache
def _table_defaults() -> dict[str, Any]:
    tables = (*RUN_TABLES, MethodArguments, CommonArguments, ChangedDefaults)
    return _RESOLVED | {field.name: field.default for table in tables for field in dataclasses.fields(table)}


@cache
def _library_defaults() -> dict[str, Any]:
    from transformers import TrainingArguments

    fields = dataclasses.fields(TrainingArguments)
    return {field.name: None if field.default is dataclasses.MISSING else field.default for field in fields}
