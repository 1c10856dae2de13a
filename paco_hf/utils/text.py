"""Short texts for messages."""

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def examples(names: Sequence[object], count: int = 3) -> str:
    """The first few of them, and `...` where there are more."""
    return ", ".join(map(str, names[:count])) + (", ..." if len(names) > count else "")


def is_repo_id(name: str) -> bool:
    """Whether it is written as the id of a repository on the Hub: `user/name`."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None


def repeated(values: Iterable[T]) -> T | None:
    """The first value that is there more than once, `None` where none is."""
    return next((value for value, count in Counter(values).items() if count > 1), None)


def one_line(name: str) -> str:
    """A class name with its control characters spelled out, as a folder's name may have line breaks."""
    return re.sub(r"[\x00-\x1f\x7f]", lambda character: repr(character[0])[1:-1], name)
