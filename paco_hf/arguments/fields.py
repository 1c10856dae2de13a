"""What the argument tables are made of: dataclasses whose docstrings are the help of their flags, and ranges."""

import dataclasses
import inspect
import math
import re
from collections.abc import Callable
from typing import Any, Literal, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints

Range = tuple[str, Callable[[Any], bool]]
Table = TypeVar("Table")

POSITIVE: Range = "positive", lambda value: value > 0
AT_LEAST_0: Range = "at least 0", lambda value: value >= 0
AT_LEAST_1: Range = "at least 1", lambda value: value >= 1
AT_LEAST_2: Range = "at least 2", lambda value: value >= 2
FRACTION: Range = "at least 0 and below 1", lambda value: 0 <= value < 1
FACTOR: Range = "above 0 and at most 1", lambda value: 0 < value <= 1
SHARE: Range = "between 0 and 1", lambda value: 0 <= value <= 1


@dataclass_transform()
def argument_table(table: type[Table]) -> type[Table]:
    """Make a dataclass of flags. The help of a flag is what the `Args` of the class's docstring say of the field.

    `Annotated` types may have a [`Range`], which [`check_ranges`] checks, or a dictionary of options of argparse.
    """
    doc = inspect.cleandoc(table.__doc__ or "")
    texts = re.findall(r"^    (\w+) \(.*?\): (.*(?:\n {8}.*)*)", doc, re.MULTILINE)
    for name, text in texts:
        extras = getattr(table.__annotations__[name], "__metadata__", ())
        options = next((extra for extra in extras if isinstance(extra, dict)), {})
        metadata = {"help": " ".join(text.split()), **options}
        setattr(table, name, dataclasses.field(default=getattr(table, name), metadata=metadata))
    return dataclasses.dataclass(table)


def check_ranges(table: Any) -> None:
    """Check each field of an argument table.

    Raises:
        ValueError: a value that is not among the field's choices, infinite, out of its range, or a whole number of
            more than 64 bits. `None` is valid.
    """
    for name, kind in get_type_hints(type(table), include_extras=True).items():
        value = getattr(table, name, None)
        choices = [c for part in (kind, *get_args(kind)) if get_origin(part) is Literal for c in get_args(part)]
        if choices and value is not None and value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError(f"{name} must be an integer of at most 64 bits, got {value.bit_length()} bits")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {value}")
        for extra in getattr(kind, "__metadata__", ()):
            if isinstance(extra, tuple) and value is not None and not extra[1](value):
                raise ValueError(f"{name} must be {extra[0]}, got {value}")
