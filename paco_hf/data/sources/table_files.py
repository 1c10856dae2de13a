"""Files of rows: CSV, TSV, JSON, JSON lines and parquet."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from ...utils.images import IMAGE_SUFFIXES
from ...utils.text import examples, repeated
from .folders import read_parquet

TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")


@dataclass
class Rows:
    """Rows of a split as they are in the source."""

    data: Dataset
    root: Path | None = None  # that the file names in a column are below
    text: bool = False  # all columns are text, numbers too
    files: list[str] | None = None  # of the images, where these are known already


def is_table(path: str | Path) -> bool:
    """Whether this is a file of rows with images or their names."""
    return Path(path).suffix.lower() in TABLE_SUFFIXES and Path(path).is_file()


def read_files(paths: Sequence[Path]) -> Rows:
    """The rows of a split: of one table, or of several parquet files."""
    parts = [_read_parquet(path) if path.suffix.lower() == ".parquet" else _read_text(path) for path in paths]
    if len(parts) == 1:
        return parts[0]
    if all(path.suffix.lower() == ".parquet" for path in paths):
        # One data set over all files, whose cache the next run finds.
        return Rows(read_parquet(paths), paths[0].parent)
    raise ValueError(f"{paths[0]} and {paths[1]} are both of the same split: keep one of them, or name another")


def _read_parquet(path: Path) -> Rows:
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise OSError(f"{path} is truncated or no parquet file ({error})") from error
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    for name, feature in features.items():
        names = feature.get("names") if isinstance(feature, dict) else None
        if twice := repeated(names or []):
            raise ValueError(
                f"the column {name!r} of {path} has the class {twice!r} twice: rename one of the two, or merge them"
            )
    return Rows(read_parquet([path]), path.parent)


def _read_text(path: Path) -> Rows:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}): save it as UTF-8") from error
    tabular = path.suffix.lower() in (".csv", ".tsv")
    columns = _parse_csv(path, text) if tabular else _parse_json(path, text)
    if not columns or not next(iter(columns.values())):
        raise ValueError(f"{path} has no rows")
    return Rows(Dataset.from_dict(columns), path.parent, text=tabular)


def _parse_csv(path: Path, text: str) -> dict[str, list[Any]]:
    header = text.split("\n", 1)[0]
    separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
    try:
        # As text: numbers may be names ("007"), and "None" and "NA" may be classes.
        frame = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False)
    except pd.errors.EmptyDataError:
        raise ValueError(f"{path} is empty: its first line should name its columns") from None
    except (pd.errors.ParserError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a table ({' '.join(str(error).split())})") from error
    if not isinstance(frame.index, pd.RangeIndex):
        raise ValueError(f"{path} has more values in a row than names in its first line: quote values with commas")
    names = [str(name).strip() for name in frame]
    if first := next((name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES), None):
        raise ValueError(
            f"the first line of {path} should name its columns, but has the image {first!r}: put a line such as "
            f"file{separator}label above it"
        )
    if (twice := repeated(names)) is not None:
        raise ValueError(f"{path} has two columns {twice!r}: rename one of them")
    return {name: frame[column].tolist() for name, column in zip(names, frame, strict=True)}


def _parse_json(path: Path, text: str) -> dict[str, list[Any]]:
    try:
        content = json.loads(text) if path.suffix.lower() == ".json" else None
    except json.JSONDecodeError:
        content = None  # one object a line, perhaps
    if content is None:
        content = []
        for number, line in enumerate(text.splitlines(), 1):
            try:
                content += [json.loads(line)] if line.strip() else []
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number} of {path} is no JSON object ({error})") from error
    if isinstance(content, dict) and all(isinstance(values, list) for values in content.values()):
        lengths = {len(values): name for name, values in reversed(content.items())}
        if len(lengths) > 1:
            shown = examples([f"{name!r} has {rows}" for rows, name in reversed(lengths.items())])
            raise ValueError(f"the columns of {path} differ in their number of rows: {shown}")
        content = [dict(zip(content, row, strict=True)) for row in zip(*content.values(), strict=True)]
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ValueError(f"{path} must hold a list of objects, or an object a line, each with an image and a label")
    columns: dict[str, list[Any]] = {}
    for name in dict.fromkeys(name for row in content for name in row):
        values = [row.get(name) for row in content]
        kinds = {type(value) for value in values if value is not None}
        if kinds == {int, float} and any(isinstance(value, float) and abs(value) >= 2**53 for value in values):
            values = [None if value is None else float(value) for value in values]  # which are refused as labels
            kinds = {float}
        if kinds == {int, float}:  # 1 and 1.0 are one label
            values = [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]
            kinds = {type(value) for value in values if value is not None}
        too_large = kinds == {int} and any(value is not None and not -(2**63) <= value < 2**63 for value in values)
        if len(kinds) > 1 or too_large:
            values = [None if value is None else str(value) for value in values]
        columns[name] = values
    return columns
