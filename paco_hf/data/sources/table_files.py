"""Files of rows: CSV, TSV, JSON, JSON lines and parquet."""

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, Image, Value

from ...utils.folder_contents import is_image_name
from ...utils.text import examples, repeated
from .file_names import FileFinder
from .hf_tables import read_parquet

TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")


@dataclass
class Rows:
    """Rows of a split as they are in the source.

    Args:
        data (`datasets.Dataset`): the rows.
        root (path, *optional*): that the file names in a column are below.
        text (`bool`, *optional*, defaults to `False`): all columns are text, numbers too.
        files (list of `str`, *optional*): of the images, where these are known already.
        finder ([`FileFinder`], *optional*): of the files that a column may name.
        notes (list of `str`): what the user should know.
    """

    data: Dataset
    root: Path | None = None
    text: bool = False
    files: list[str] | None = None
    finder: FileFinder | None = None
    notes: list[str] = field(default_factory=list)


def is_table(path: str | Path) -> bool:
    """Whether this is a file of rows with images or their names."""
    return Path(path).suffix.lower() in TABLE_SUFFIXES and Path(path).is_file()


def holds_images(feature: Any) -> bool:
    """Whether a column's values are encoded images."""
    encoded = isinstance(feature, dict) and {"bytes", "path"} <= feature.keys()
    return encoded or isinstance(feature, Image) or (isinstance(feature, Value) and feature.dtype.endswith("binary"))


def is_text(feature: Any) -> bool:
    """Whether a column's values are text."""
    return isinstance(feature, Value) and feature.dtype.endswith("string")


def file_names_in(rows: Rows, column: str) -> list[str] | None:
    """The names of image files in a column, empty where a row has none; `None` where it has the images themselves.

    Args:
        rows (`Rows`): of a split.
        column (`str`): of the images.
    """
    if is_text(rows.data.features[column]):
        return [name or "" for name in rows.data[column][:]]
    data = rows.data.select_columns([column]).cast_column(column, Image(decode=False))
    if not len(data) or (data[0][column] or {}).get("bytes") is not None:  # told without reading all
        return None
    images = data.with_format("arrow")[:][column].combine_chunks()
    contents, paths = pc.struct_field(images, "bytes"), pc.struct_field(images, "path")
    if contents.null_count < len(contents) or paths.null_count == len(paths):
        return None
    return [name or "" for name in paths.to_pylist()]


def read_files(paths: Sequence[Path]) -> Rows:
    """The rows of a split: of one table, or of several parquet files.

    Raises:
        OSError: a file is damaged.
        ValueError: it has no rows, or is not what its name says; two tables are of the same split.
    """
    if all(path.suffix.lower() == ".parquet" for path in paths):
        return _read_shards(paths)
    if len(paths) == 1:
        return _read_text(paths[0])
    raise ValueError(
        f"{paths[0]} and {paths[1]} are both for the same split: pass one of them as --dataset, or rename one"
    )


def _read_shards(paths: Sequence[Path]) -> Rows:
    filled, notes = filled_shards(paths)
    # One dataset over all files, whose cache the next run finds.
    return Rows(read_parquet(filled), filled[0].parent, notes=notes)


def filled_shards(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The parquet files of a split that have rows, and what the user should know of the others.

    Raises:
        OSError: a file is damaged.
        ValueError: none has rows, or they differ in their columns.
    """
    schemas = {path: schema for path in paths if (schema := _check_parquet(path))}
    filled = [*schemas]
    if not filled:
        raise ValueError(f"{paths[0]} has no rows: pass a table with one row per image")
    first = filled[0]
    for path, schema in schemas.items():
        # Other columns, or classes in another order, which a shard of the same split would be read by.
        if schema != schemas[first]:
            column = next(
                name for name in {**schemas[first], **schema} if schemas[first].get(name) != schema.get(name)
            )
            raise ValueError(
                f"{first} and {path} are for the same split, but differ in the column {column!r} "
                f"({_shown(schemas[first].get(column))}, {_shown(schema.get(column))}): write both with the same "
                "columns and class names, or pass one of them as --dataset"
            )
    empty = [path.name for path in paths if path not in filled]
    notes = [f"skipped parquet files without rows: {examples(empty)}"] if empty else []
    return filled, notes


def _shown(column: Any) -> str:
    return "missing" if column is None else f"{column:.60}"


def _check_parquet(path: Path) -> dict[str, str]:
    """The columns of a parquet file, each with its type, or the names of its classes; empty where it has no rows."""
    try:
        about = pq.read_metadata(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise OSError(f"{path} is truncated or not a parquet file ({error}): download it again") from error
    features = json.loads((about.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    for name, feature in features.items():
        names = feature.get("names") if isinstance(feature, dict) else None
        if twice := repeated(names or []):
            raise ValueError(
                f"the column {name!r} of {path} has the class {twice!r} twice: rename one of them, or merge them"
            )
    if not about.num_rows:
        return {}
    schema = about.schema.to_arrow_schema()
    named = {name: feature.get("names") if isinstance(feature, dict) else None for name, feature in features.items()}
    kinds = {field.name: str(field.type).replace("large_", "") for field in schema}
    return {name: str(named.get(name) or kind) for name, kind in kinds.items()}


def _read_text(path: Path) -> Rows:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}): save it as UTF-8") from error
    tabular = path.suffix.lower() in (".csv", ".tsv")
    notes: list[str] = []
    columns = _parse_csv(path, text) if tabular else _parse_json(path, text, notes)
    rows = len(next(iter(columns.values()), []))
    filled = [i for i in range(rows) if any(_is_filled(values[i]) for values in columns.values())]
    if not filled:
        raise ValueError(f"{path} has no rows: pass a table with one row per image")
    if len(filled) < rows:
        columns = {name: [values[i] for i in filled] for name, values in columns.items()}
        notes.append(f"skipped {rows - len(filled)} blank rows of the {rows} rows of {path.name}")
    return Rows(Dataset.from_dict(columns), path.parent, text=tabular, notes=notes)


def _is_filled(value: Any) -> bool:
    return value is not None and not (isinstance(value, str) and not value.strip())


def _parse_csv(path: Path, text: str) -> dict[str, list[Any]]:
    separator = ""
    if named := re.match(r'"?sep=(.)"?[^\n]*\n', text, re.IGNORECASE):  # a line for Excel
        separator, text = named[1], text[named.end() :]
    text = re.sub(r"\A(\s*\n)+", "", text)
    header = text.split("\n", 1)[0]
    separator = separator or max("\t,;|" if path.suffix.lower() == ".tsv" else ",;\t|", key=header.count)
    # As text: numbers may be names ("007"), and "None" and "NA" may be classes.
    options: dict[str, Any] = {"sep": separator, "dtype": str, "keep_default_na": False}
    try:
        frame = pd.read_csv(io.StringIO(text), **options)
        if not isinstance(frame.index, pd.RangeIndex) and (frame.iloc[:, -1] == "").all():  # a separator at the end
            frame = pd.read_csv(io.StringIO(text), index_col=False, **options)
    except pd.errors.EmptyDataError:
        raise ValueError(f"{path} is empty: its first line must contain the column names") from None
    except (pd.errors.ParserError, ValueError) as error:
        raise ValueError(f"{path} is not a table ({' '.join(str(error).split())}): save it as CSV") from error
    if not isinstance(frame.index, pd.RangeIndex):
        raise ValueError(f"{path} has a row with more values than column names: quote values that contain commas")
    names = [name.strip() for name in next(csv.reader([header.rstrip("\r")], delimiter=separator))]
    if len(names) != frame.shape[1]:  # a line break in a name
        names = [str(name).strip() for name in frame]
    if first := next((name for name in names if is_image_name(name)), None):
        raise ValueError(
            f"the first line of {path} must contain the column names, but contains the image {first!r}: add a "
            f"header such as file{separator}label"
        )
    if (twice := repeated(filter(None, names))) is not None:
        raise ValueError(f"{path} has two columns {twice!r}: rename one of them")
    columns = {name: frame[column].tolist() for name, column in zip(names, frame, strict=True)}
    columns.pop("", None)  # pandas' index, or nothing
    return columns


def _parse_json(path: Path, text: str, notes: list[str]) -> dict[str, list[Any]]:
    try:
        content = json.loads(text, object_pairs_hook=_unique) if path.suffix.lower() == ".json" else None
    except json.JSONDecodeError:
        content = None  # one object a line, perhaps
    except KeyError as error:
        raise ValueError(f"{path} has the key {error} twice in one object: keep one of them") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply: expected {_JSON_FORMS}") from error
    if content is None:
        content = _parse_lines(path, text)
    if isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys():
        content = _coco_rows(path, content, notes)
    if isinstance(content, dict) and content:
        content = _named_files(content)
    if isinstance(content, dict) and all(isinstance(values, list) for values in content.values()):
        lengths = {len(values): name for name, values in reversed(content.items())}
        if len(lengths) > 1:
            shown = examples([f"{name!r} has {rows}" for rows, name in reversed(lengths.items())])
            raise ValueError(f"the columns of {path} differ in their number of rows: {shown}: make them equal")
        content = [dict(zip(content, row, strict=True)) for row in zip(*content.values(), strict=True)]
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ValueError(f"{path} must contain {_JSON_FORMS}")
    return {
        name: _column([row.get(name) for row in content]) for name in dict.fromkeys(n for row in content for n in row)
    }


_JSON_FORMS = "a list of objects or one object per line, each with an image and a label; or COCO annotations"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise KeyError(repeated(name for name, _ in pairs))
    return result


def _named_files(content: dict[str, Any]) -> Any:
    """The rows of a mapping from images to labels, or from labels to lists of images; another mapping as it is."""
    lists = [values for values in content.values() if isinstance(values, list)]
    rows = [values for values in content.values() if isinstance(values, dict)]
    if len(rows) == len(content) and all(row.keys() == rows[0].keys() for row in rows) and "0" in rows[0]:
        return {name: [*values.values()] for name, values in content.items()}  # as pandas writes columns
    if all(map(is_image_name, content)):
        return [{"file": name, "label": label} for name, label in content.items()]
    if len(lists) == len(content) and all(isinstance(name, str) and is_image_name(name) for name in chain(*lists)):
        named = len(content) > 1 and not {name.lower() for name in content} & {"image", "file", "file_name", "path"}
        return (
            [{"file": name, "label": label} for label, names in content.items() for name in names]
            if named
            else content
        )
    return content


def _parse_lines(path: Path, text: str) -> list[Any]:
    content = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            content += [json.loads(line)] if line.strip() else []
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(
                f"line {number} of {path} is not a JSON object ({error}): write one object per line"
            ) from error
    return content


def _column(values: list[Any]) -> list[Any]:
    """The values of a JSON column as ones of a single type."""
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
    return values


def _coco_rows(path: Path, content: dict[str, Any], notes: list[str]) -> list[dict[str, Any]]:
    """COCO's annotations, whose images have one category each."""
    try:
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        if (twice := repeated(names.values())) is not None:
            raise ValueError(f"{path} has two categories {twice!r}: rename one of them, or merge them")
        categories: dict[Any, set[str]] = defaultdict(set)
        for annotation in content["annotations"]:
            categories[annotation["image_id"]].add(names[annotation["category_id"]])
        files = {image["id"]: str(image["file_name"]) for image in content["images"]}
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} has images, annotations and categories, but is not in COCO format ({type(error).__name__}: "
            f"{error}): images need id and file_name, annotations need image_id and category_id, categories need "
            "id and name"
        ) from error
    several = next((image for image in files if len(categories[image]) > 1), None)
    if several is not None:
        raise ValueError(
            f"the image {files[several]!r} of {path} has objects of several categories "
            f"({examples(sorted(categories[several]))}), but an image has one class: crop the objects, or write a "
            "table with one label per image"
        )
    if bare := [file for image, file in files.items() if not categories[image]]:
        notes.append(f"{len(bare)} images of {path.name} have no annotation and are skipped, such as {bare[0]}")
    return [{"file_name": file, "label": min(categories[image])} for image, file in files.items() if categories[image]]
