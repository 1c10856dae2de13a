"""What a label column says: the label of each row, and the classes that those are."""

import ast
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

from datasets import ClassLabel, Value

from ...utils.text import examples, repeated
from .table_files import Rows, is_text

_WHOLE = re.compile(r"-?(0|[1-9]\d*)(\.0*)?")
_EXACT = {"float16": 11, "float32": 24, "float64": 53}  # bits of the whole numbers that a type tells apart
# Letters and marks that show nothing; characters of the category Cf, such as the zero-width space, are told by that.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\ufe00-\ufe0f\uffa0]")
_JOINERS = re.compile("[\u200c\u200d\ufe00-\ufe0f]")  # part of scripts and of emoji
_FLAG = re.compile("(\U0001f3f4[\U000e0020-\U000e007f]+)")  # of a region, spelled out in tags: all of it is seen
# Separators of several labels in a cell, also as wide characters, and what a cell must have for them to be looked for:
# numbers have no spaces, but dots and slashes ("16:9" and "1/2" are one label).
_STRONG, _WEAK = ",\uff0c、|\uff5c;\uff1b", "/\uff0f\\+\uff0b&\uff06"
_SEPARATORS = (
    (",\uff0c、", ""),
    ("|\uff5c", ""),
    (";\uff1b", ""),
    ("•·", r"[^\d\s.•·]"),
    (_STRONG + _WEAK + "•·", f"[{_STRONG}]"),
    (" ", "^[0-9 ]+$"),
)
_NAMES_HAVE = ((_WEAK, rf"[^\d\s.{re.escape(_WEAK)}]"), (" ", ""))  # one cell with these says nothing
_ONE_LABEL = "use one label per image, or select another column with --label_column"


def clean(name: str) -> str:
    """A class name without white space around it, and with accents composed: what looks alike is one class."""
    return unicodedata.normalize("NFC", name).strip()


def visible(name: str) -> str:
    """What is seen of a name: no invisible characters, one plain space for any white space."""
    parts = _FLAG.split(name)  # every other one is a flag
    for i in range(0, len(parts), 2):
        parts[i] = "".join(one for one in parts[i] if one.isspace() or unicodedata.category(one) not in ("Cf", "Cc"))
    return " ".join(_BLANK.sub("", "".join(parts)).split())


def look_alike(name: str, known: Collection[str]) -> str:
    """For a message on an unknown class: which known one differs from it in case, white space or invisible
    characters only; empty where none does.

    Args:
        name (`str`): of the unknown class.
        known (collection of `str`): names of classes.
    """
    shown = visible(name).casefold()
    like = next((one for one in known if visible(one).casefold() == shown), None)
    return "" if like is None else f"; {like!r} differs from it only in case, white space or invisible characters"


def read_labels(
    rows: Rows, column: str, name: str, notes: list[str], numbers: bool | None = None
) -> list[str | int | None]:
    """The label of each row as text or as a whole number, `None` where there is none.

    Args:
        rows (`Rows`): of a split.
        column (`str`): of the labels.
        name (`str`): of the split, for messages.
        notes (list of `str`): to which what the user should know is added.
        numbers (`bool`, *optional*): whether text that is a whole number is read as one; `None`: where all of it is.

    Raises:
        ValueError: the column does not hold one class an image.
    """
    feature, values, where = rows.data.features[column], rows.data[column][:], f"label column {column!r} of {name}"
    if isinstance(feature, ClassLabel):
        names = [clean(one) for one in feature.names]
        if (twice := repeated(names)) is not None:
            raise ValueError(f"the column {column!r} of {name} has the class {twice!r} twice: rename one of them")
        return [None if value is None or value < 0 else names[value] for value in values]
    if not isinstance(feature, Value):
        raise ValueError(f"{where} must contain one class per image, got {feature}: {_ONE_LABEL}")
    if feature.dtype == "bool":
        return [None if value is None else str(value) for value in values]
    if feature.dtype.startswith("float"):
        return _whole_numbers(values, feature.dtype, where)
    if re.fullmatch(r"decimal\d+\(\d+, 0\)", feature.dtype):  # the whole numbers of data bases
        return [None if value is None else int(value) for value in values]
    if "int" in feature.dtype:
        return list(values)
    if not is_text(feature):
        raise ValueError(f"{where} must contain text or integers, got {feature.dtype}")
    return _read_text(values, rows.text, name, where, notes, numbers)


def _whole_numbers(values: Sequence[float | None], dtype: str, where: str) -> list[str | int | None]:
    values = [None if value is None or math.isnan(value) else value for value in values]
    if broken := next((value for value in values if value and not value.is_integer()), None):
        raise ValueError(f"{where} contains {broken}, which is not a class: use text or integers")
    limit = 2 ** _EXACT.get(dtype, 53)
    if large := next((value for value in values if value and abs(value) >= limit), None):
        raise ValueError(
            f"{where} contains {int(large)} as {dtype}, which is exact only for integers below {limit}: store the "
            "labels as integers or text"
        )
    return [None if value is None else int(value) for value in values]


def _read_text(
    texts: Sequence[str | None], from_text: bool, name: str, where: str, notes: list[str], numbers: bool | None
) -> list[str | int | None]:
    kept = {text: clean(text) for text in {*texts} if text}
    values = [kept.get(text or "", "") for text in texts]
    values = [value if value and visible(value) else "" for value in values]
    filled = [value for value in values if value]
    if broken := next((value for value in filled if re.search(r"[\t\r\n]", value)), None):
        raise ValueError(
            f"row {values.index(broken)} of {name} has a label with line breaks or tabs, {broken[:60]!r}: check "
            "the file for an unclosed quotation mark"
        )
    if lists := {value for value in {*filled} if _is_list(value)}:
        several = next(value for value in values if value in lists)
        raise ValueError(
            f"row {values.index(several)} of {where} contains a list, {several[:60]!r}, not one class: {_ONE_LABEL}"
        )
    if numbers is None:
        numbers = from_text and bool(filled) and all(map(_WHOLE.fullmatch, filled))
    if numbers:
        # Not by way of a float, which merges integers beyond 2^53.
        return [int(value.partition(".")[0]) if _WHOLE.fullmatch(value) else value or None for value in values]
    if from_text and filled and all(re.fullmatch(r"-?\d+\.\d+", value) for value in filled):
        raise ValueError(f"{where} contains {filled[0]}, which is not a class: use text or integers")
    spaced = sorted(text for text, value in kept.items() if text != value and text.strip() == value)
    if spaced:
        notes.append(f"white space around labels in {where} is removed, for example around {spaced[0]!r}")
    return [value or None for value in values]


def _is_list(text: str) -> bool:
    """Whether text is a list, tuple, set or dictionary as Python, JSON or NumPy write it."""
    if text[0] not in "[({":
        return False
    with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return isinstance(ast.literal_eval(text), list | tuple | set | dict)
    return re.fullmatch(r"\[(.*,.*|[-\d.\s]+)\]", text) is not None


def label_classes(
    rows: Rows, column: str, values: Sequence[Any], dataset: str, notes: list[str]
) -> tuple[list[str], dict[Any, int]]:
    """Names of the classes, and the index of each label.

    Args:
        rows (`Rows`): of the split that has all classes.
        column (`str`): of the labels.
        values (sequence): the labels.
        dataset (`str`): for messages.
        notes (list of `str`): to which what the user should know is added.

    Raises:
        ValueError: a label that is negative, joins several others, or looks like another one.
    """
    counts = Counter(values)
    ordered: list[Any] = sorted(counts)
    feature = rows.data.features[column]
    if isinstance(feature, ClassLabel):
        names = [clean(name) for name in feature.names]
        ordered = [name for name in names if counts[name]]
        if empty := [name for name in names if not counts[name]]:
            share = f"{len(empty)} of the {len(names)} classes"
            notes.append(f"{share} have no training images and are excluded, such as {empty[0]!r}")
    elif any(isinstance(value, int) for value in ordered):
        if ordered[0] < 0:
            raise ValueError(
                f"label {ordered[0]} of row {list(values).index(ordered[0])} of {dataset} is out of range: labels "
                "must not be negative: fix the label, or remove the row"
            )
        if ordered != list(range(len(ordered))):
            notes.append(
                f"the labels are {len(ordered)} integers from {ordered[0]} to {ordered[-1]}, not 0 to "
                f"{len(ordered) - 1}: they are used as class names"
            )
    else:
        _check_joined(ordered, list(values), f"column {column!r} of {dataset}", notes)
    names = list(map(str, ordered))
    _check_look(names, dataset, notes)
    return names, {value: label for label, value in enumerate(ordered)}


def _check_joined(names: Sequence[str], values: Sequence[str], where: str, notes: list[str]) -> None:
    """That no label is several others with a separator between, save names of which no part is a class; notes on
    those that may be, or may be rows of indicators."""
    known = {name.casefold() for name in names}

    def refuse(joined: Collection[str], separators: str) -> None:
        first = next(value for value in values if value in joined)
        separator = next(one for one in separators if one in first)
        raise ValueError(
            f"row {values.index(first)} of {where} has the label {first!r}, which looks like several labels "
            f"joined with {separator!r} ({len(joined)} such labels), but an image has one class: {_ONE_LABEL}; if "
            f"it is one class, rename it without {separator!r}"
        )

    for separators, shape in _SEPARATORS:
        several = _several(names, separators, shape)
        # Names have commas, and seldom bars and semicolons, where one known part is enough.
        enough = any if separators[0] in "|; " else all
        repeats = Counter(several.values())  # the same parts in another order
        joined = {name for name, one in several.items() if enough(part in known for part in one) or repeats[one] > 1}
        if joined:
            refuse(joined, separators)
        if separators[0] in "|;" and several:
            first = next(iter(several))
            notes.append(f"each label with {separators[0]!r}, such as {first!r}, is used as one class")
    for separators, shape in _NAMES_HAVE:
        several = _several(names, separators, shape)
        joined = {name for name, one in several.items() if one <= known}
        # One combination is a class of its own: "black & white" beside both.
        combinations = len({several[name] for name in joined})
        if separators == _WEAK and combinations > 1 and len(joined) >= 0.9 * len(several):
            refuse(joined, separators)
        if len(joined) > 1:
            some = f"{len(joined)} labels of {where}, such as {min(joined)!r}"
            notes.append(f"{some}, are combinations of other labels: each is used as one class")
    if len(names) > 2 and all(len(name) == len(names) and re.fullmatch("0*10*", name) for name in names):
        notes.append(
            f"the labels of {where}, such as {names[0]!r}, look like one-hot rows: each is used as the name of "
            "one class"
        )


def _several(names: Sequence[str], separators: str, shape: str) -> dict[str, frozenset[str]]:
    """The names with several parts between separators, of those that have a shape, and their parts."""
    split = re.compile(f"[{re.escape(separators)}]").split
    parts = {
        name: frozenset(part.strip(" \"'").casefold() for part in split(name)) - {""}
        for name in names
        if re.search(shape, name) and name.casefold() != "n/a"
    }
    return {name: one for name, one in parts.items() if len(one) > 1}


def _check_look(names: Sequence[str], dataset: str, notes: list[str]) -> None:
    """That classes can be told apart by what is seen of their names; notes on those that hardly differ, and on
    characters that are not seen."""
    shapes: dict[str, str] = {}
    alike = defaultdict(list)
    for name in names:
        shown = visible(name)
        if (other := shapes.setdefault(shown, name)) is not name:
            raise ValueError(
                f"the classes {other!a} and {name!a} of {dataset} differ only in white space or invisible "
                "characters: use one spelling if they are one class, or rename one of them"
            )
        number = re.fullmatch(r"0*(\d+?)(\.0*)?", shown)
        alike[number[1] if number else shown.casefold().replace(" ", "")].append(name)
    if same := [names for names in alike.values() if len(names) > 1]:
        more = f", and {len(same) - 1} more" if len(same) > 1 else ""
        first = " and ".join(map(repr, same[0]))
        notes.append(
            "WARNING: class names that differ only in case, spaces or number format are kept as separate "
            f"classes: {first}{more}"
        )
    hidden = [repr(name) for name in names if visible(plain := _JOINERS.sub("", name)) != plain]
    if hidden:
        notes.append(f"classes with invisible characters or unusual white space in their names: {examples(hidden)}")
