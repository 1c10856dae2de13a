"""What the argument tables are made of: fields with their help and their range, and checks."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

Range = tuple[str, Callable[[Any], bool]]

POSITIVE: Range = "positive", lambda value: value > 0
AT_LEAST_0: Range = "at least 0", lambda value: value >= 0
AT_LEAST_1: Range = "at least 1", lambda value: value >= 1
FRACTION: Range = "at least 0 and below 1", lambda value: 0 <= value < 1
FACTOR: Range = "above 0 and at most 1", lambda value: 0 < value <= 1
SHARE: Range = "between 0 and 1", lambda value: 0 <= value <= 1


def arg(default: Any, description: str, valid: Range | None = None, **options: Any) -> Any:
    """A field of an argument table.

    Args:
        default (`Any`): its default; `None` is always valid.
        description (`str`): what `--help` says of it.
        valid (`Range`, *optional*): the values that it may have.
        options (*optional*): options of argparse, such as `choices`.
    """
    return dataclasses.field(default=default, metadata={"help": description, "valid": valid, **options})


def check_ranges(table: Any) -> None:
    """Check each field of an argument table.

    Raises:
        ValueError: a value that is not among the field's choices, or out of its range.
    """
    types = get_type_hints(type(table))
    for field in dataclasses.fields(table):
        value, valid, kind = getattr(table, field.name), field.metadata.get("valid"), types[field.name]
        choices = [c for part in (kind, *get_args(kind)) if get_origin(part) is Literal for c in get_args(part)]
        if choices and value is not None and value not in choices:
            raise ValueError(f"{field.name} must be one of {', '.join(choices)}, got {value!r}")
        if valid and value is not None and not valid[1](value):
            raise ValueError(f"{field.name} must be {valid[0]}, got {value}")
