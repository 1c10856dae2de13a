"""Encoded images in parquet files, read a few rows at a time, as they are: without a copy of them in the cache."""

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from datasets.table import InMemoryTable
from PIL import Image

from ..data.sources.columns import find_image_column
from ..data.sources.rows import split_files
from ..data.sources.table_files import Rows, file_names_in, filled_shards
from ..utils.files import identity
from ..utils.folder_contents import PassedOver, walk
from ..utils.images import open_image

_ROWS = 32  # read at a time
_BUFFER = 2**20  # bytes; without one a row group would be read whole
_OTHER_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".tar", ".tar.gz", ".tgz")


class ParquetRows:
    """Images of parquet files with the same columns, by index; fast where these ascend.

    Args:
        files (sequence of paths): one after the other.
        column (`str`): of the images.
        prefix (`str`): of their names, which end in the row.
    """

    def __init__(self, files: Sequence[str | Path], column: str, prefix: str) -> None:
        self.files, self.column, self.prefix = [*map(str, files)], column, prefix
        metadata = [pq.read_metadata(file) for file in self.files]
        self.groups = [(number, group) for number, one in enumerate(metadata) for group in range(one.num_row_groups)]
        sizes = [metadata[number].row_group(group).num_rows for number, group in self.groups]
        self.starts = np.concatenate([[0], np.cumsum(sizes)])
        self._close()

    def _close(self) -> None:
        self.process, self.group, self.first = os.getpid(), len(self.groups), 0
        self.batches: Iterator[pa.RecordBatch] = iter(())
        self.values: Any = ()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "batches": None, "values": (), "process": -1}

    def __len__(self) -> int:
        return int(self.starts[-1])

    def name(self, index: int) -> str:
        return f"{self.prefix}{index}"

    def open(self, index: int) -> Image.Image:
        name, content = self.name(index), self._read(index)
        if isinstance(content, dict):
            content = content.get("bytes") or content.get("path")
        if not content:
            raise ValueError(f"{name} is empty: replace or remove it")
        return open_image(io.BytesIO(content) if isinstance(content, bytes) else content, name)

    def state(self) -> str:
        return str([identity(file) for file in self.files])

    def _read(self, index: int) -> Any:
        group = int(np.searchsorted(self.starts, index, "right")) - 1
        # A file that was open when a process was forked would share its position with all others.
        if self.process != os.getpid() or index < self.first or group > self.group:
            self._close()
        try:
            while index >= self.first + len(self.values):
                self._advance(group)
        except (pa.ArrowException, OSError) as error:
            file = self.files[self.groups[group][0]]
            raise OSError(f"{file} is truncated or not a parquet file ({error}): download it again") from error
        return self.values[index - self.first].as_py()

    def _advance(self, group: int) -> None:
        """Read the next rows; those of `group` where no file is open, or the one that was has ended."""
        self.first += len(self.values)
        batch = next(self.batches, None)
        if batch is None:
            number, place = self.groups[group]
            file = pq.ParquetFile(self.files[number], buffer_size=_BUFFER, pre_buffer=False)
            self.batches = file.iter_batches(_ROWS, row_groups=[place], columns=[self.column], use_threads=False)
            self.group, self.first, batch = group, int(self.starts[group]), next(self.batches)
        self.values = batch.column(0)


def parquet_parts(dataset: str, place: Path, image_column: str | None) -> tuple[dict[str, ParquetRows], list[str]]:
    """The splits of a parquet file, or of a folder with nothing else to read, that has encoded images, and what the
    user should know; nothing where it is something else, or could not be read so.

    Args:
        dataset (`str`): its name, for those of the images.
        place (`Path`): where it is.
        image_column (`str`, *optional*): of the images; detected where `None`.
    """
    files = [place] if place.suffix.lower() == ".parquet" else _shards(place)
    splits = {} if not files else {"train": files} if place.is_file() else split_files(place, files)
    result, notes = dict[str, ParquetRows](), list[str]()
    with suppress(ValueError, OSError):  # which reading it as training does says better
        for split, shards in splits.items():
            shards, more = filled_shards(shards)
            notes += more
            file = pq.ParquetFile(shards[0], buffer_size=_BUFFER, pre_buffer=False)
            head = pa.Table.from_batches([next(file.iter_batches(_ROWS, use_threads=False))])
            rows = Rows(Dataset(InMemoryTable(head.replace_schema_metadata(file.schema_arrow.metadata))))
            column = find_image_column(rows, dataset, image_column)
            if file_names_in(rows, column) is not None:
                return {}, []
            prefix = f"{dataset}#{split}/" if len(splits) > 1 else f"{dataset}#"
            result[split] = ParquetRows(shards, column, prefix)
        return result, notes
    return {}, []


def _shards(folder: Path) -> list[Path]:
    """The parquet files of a folder without images and other tables."""
    contents = [*walk(folder, PassedOver(folder))] if folder.is_dir() else []
    others = [file for inside in contents for file in inside.others]
    mixed = any(inside.images for inside in contents) or any(
        one.name.lower().endswith(_OTHER_TABLES) for one in others
    )
    return [] if mixed else [file for file in others if file.suffix.lower() == ".parquet"]
