"""The rows of predictions: as tables, and as the files that they become."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from .prediction import ClassifiedBatch

_GROUP_TABLES = 16  # tables of a row group of a parquet file
_SCHEMA = pa.schema(
    {
        "file": pa.string(),
        "label": pa.string(),
        "score": pa.float32(),
        "top_labels": pa.list_(pa.string()),
        "top_scores": pa.list_(pa.float32()),
        "error": pa.string(),
    }
)
_ABSTAINED = {"abstained": pa.bool_()}  # where the model has a rule for it
_LABELS = {"data_label": pa.string(), "label_probability": pa.float32()}


def judged_entries(batch: ClassifiedBatch, labels: np.ndarray, names: Mapping[int, str]) -> list[dict[str, Any]]:
    """The entries with the labels in the data, and how probable these are.

    Args:
        batch ([`ClassifiedBatch`]): of adjacent images.
        labels (`(N,)`): class ids of all images.
        names (mapping): of the classes.
    """
    expected = labels[batch.rows[0] : batch.rows[-1] + 1]
    good = ["error" not in entry for entry in batch.entries]
    chosen = torch.from_numpy(expected[good])[:, None].to(batch.logits.device)
    probabilities = iter(batch.logits.softmax(-1).gather(1, chosen)[:, 0].tolist())
    return [
        entry | {"data_label": names[int(label)], "label_probability": next(probabilities) if decoded else None}
        for entry, label, decoded in zip(batch.entries, expected, good, strict=True)
    ]


def entries_table(entries: Sequence[dict[str, Any]], abstains: bool) -> pa.Table:
    """A table of entries of `predict`.

    Args:
        entries (sequence of `dict`): at least one.
        abstains (`bool`): whether the model has a rule for abstaining.
    """
    more = (_ABSTAINED if abstains else {}) | (_LABELS if "data_label" in entries[0] else {})
    columns = {name: [entry.get(name) for entry in entries] for name in ("label", "score", "error", *more)}
    if abstains:
        columns["abstained"] = [None if "error" in entry else entry.get("abstained", False) for entry in entries]
    # Stray bytes of a file's name are no text.
    columns["file"] = [entry["file"].encode(errors="backslashreplace").decode() for entry in entries]
    columns["top_labels"] = [[one["label"] for one in entry["top"]] for entry in entries]
    columns["top_scores"] = [[one["score"] for one in entry["top"]] for entry in entries]
    return pa.table(columns, pa.schema([*_SCHEMA, *map(pa.field, more, more.values())]))


def write_tables(path: Path, form: str, tables: Iterable[pa.Table], classes: int) -> tuple[int, str]:
    """Write tables into one file, in the memory of a few.

    Args:
        path (`Path`): of the file.
        form (`str`): `.csv`, `.jsonl` or `.parquet`.
        tables (iterable of `pa.Table`): at least one.
        classes (`int`): of a row, which are columns of CSV.

    Returns:
        how many images could not be decoded, and what is wrong with the first.
    """
    counted = _Counted(tables)
    rest = iter(counted)
    first = next(rest)
    rest = chain([first], rest)
    if form == ".parquet":
        with pq.ParquetWriter(path, first.schema) as writer:
            while group := [*islice(rest, _GROUP_TABLES)]:
                writer.write_table(pa.concat_tables(group))
    else:
        more = [name for name in first.column_names if name not in _SCHEMA.names]
        with open(path, "w", encoding="utf-8", newline="") as file:
            _write_text(file, rest, classes if form == ".csv" else None, more)
    return counted.errors, counted.first_error


def marked(tables: Iterable[pa.Table], suspects: set[int]) -> Iterator[pa.Table]:
    """Tables with a column that says whose label is suspect."""
    start = 0
    for table in tables:
        marks = [row in suspects for row in range(start, start + len(table))]
        start += len(table)
        yield table.append_column("suspect", pa.array(marks))


def cut(tables: Iterable[pa.Table], top: int) -> Iterator[pa.Table]:
    """Tables with so many classes an image at most."""
    for table in tables:
        for name in ("top_labels", "top_scores"):
            place, field = table.column_names.index(name), _SCHEMA.field(name)
            table = table.set_column(place, field, pc.list_slice(table[name], 0, top).cast(field.type))
        yield table


class _Counted:
    """Tables that pass, and the errors in them."""

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        self.tables, self.errors, self.first_error = tables, 0, ""

    def __iter__(self) -> Iterator[pa.Table]:
        for table in self.tables:
            errors = table["error"].drop_null()
            if len(errors) and not self.errors:
                self.first_error = errors[0].as_py()
            self.errors += len(errors)
            yield table


def _write_text(file: Any, tables: Iterator[pa.Table], top: int | None, more: Sequence[str]) -> None:
    """Write CSV with so many classes a row, or JSON lines where `None`; and more columns."""
    writer = csv.writer(file, lineterminator="\n")
    if top is not None:
        places = [f"{name}_{place}" for place in range(2, top + 1) for name in ("label", "score")]
        writer.writerow(["file", "label", "score", *places, *more, "error"])
    for table in tables:
        for row in table.to_pylist():
            pairs = [*zip(row["top_labels"], row["top_scores"], strict=True)]
            if top is None:
                entry = {"file": row["file"], "label": row["label"], "score": row["score"]}
                entry["top"] = [{"label": label, "score": score} for label, score in pairs]
                entry |= {name: row[name] for name in more if name != "abstained" or row[name]}
                entry |= {"error": row["error"]} if row["error"] else {}
                file.write(json.dumps(entry) + "\n")
            else:
                cells = [cell for pair in pairs for cell in pair] or [None] * 2 * top
                cells = [*cells, *(row[name] for name in more)]
                writer.writerow([row["file"], *map(_cell, cells), row["error"]])


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.9g}" if isinstance(value, float) else value  # all digits of a float32
