"""Short texts for messages."""

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def examples(names: Sequence[object], count: int = 3) -> str:
    """The first few of them, and `...` where there are more."""
    return ", ".join(map(str, names[:count])) + (", ..." if len(names) > count else "")


def percent(fraction: float | None) -> str:
    """With one digit; 100.0% only where it is all of them."""
    if fraction is None:
        return "-"
    return f"{100 * min(fraction, 0.9999):.2f}%" if 0.9995 <= fraction < 1 else f"{100 * fraction:.1f}%"


def is_repo_id(name: str) -> bool:
    """Whether it is written as the id of a repository on the Hub: `user/name`."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None


def repeated(values: Iterable[T]) -> T | None:
    """The first value that is there more than once, `None` where none is."""
    return next((value for value, count in Counter(values).items() if count > 1), None)


def describe_errors(count: int, first: str, images: int) -> str:
    """How many of so many images cannot be read, and what is wrong with the first.

    Args:
        count (`int`): of those that cannot be read.
        first (`str`): the message on the first of them.
        images (`int`): how many there are.
    """
    return f"{count:,} of {images:,} images cannot be read, such as: {first}"


def one_line(name: str) -> str:
    """A name with control characters and stray bytes spelled out, as the name of a file or folder may have them."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", lambda character: repr(character[0])[1:-1], name)
