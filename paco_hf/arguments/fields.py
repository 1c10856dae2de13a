"""What the argument tables are made of: a field with its help, and a check."""

from dataclasses import field
from typing import Any


def arg(default: Any, description: str, **options: Any) -> Any:
    """A field of an argument table: its default, what `--help` says of it, and other options of argparse."""
    return field(default=default, metadata={"help": description, **options})


def require(valid: object, message: str) -> None:
    """Raise `ValueError` with the message unless `valid`."""
    if not valid:
        raise ValueError(message)
