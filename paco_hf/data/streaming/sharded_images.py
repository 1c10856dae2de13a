"""Prepared datasets: parquet shards with a manifest, read in the order of their row groups (streaming).

A folder that `paco-hf data prepare` wrote holds, for each split, `<split>-00000-of-000NN.parquet` (columns `image`, as
encoded as it was, and `label`), `<split>-labels.npy`, and for the whole `manifest.json`, which is written last. Images
lie in an order that is random with respect to their class, so that neighbors are a fair sample.
"""

import io
import math
import os
from collections import OrderedDict
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image as PILImage

from ...utils.images import open_image
from ..image_split import ImageSplit
from .manifest import LANES, ROWS_PER_GROUP, Manifest, labels_name


class ShardedImages(ImageSplit):
    """A split of a prepared folder, read a row group at a time.

    Args:
        manifest (`Manifest`): of the folder.
        split (`str`): which of its splits.
        window (`int`): images to keep encoded in memory, over all workers of this process.
        rows (ascending array, *optional*): a selection of the split's rows.
        description (*optional*): `role` and `split_off` of an [`ImageSplit`].

    `groups` `(N,)` is the row group of each image, ascending; reading images of few groups at a time is fast.
    """

    @property
    def groups(self) -> np.ndarray:
        return self._groups

    def __init__(self, manifest: Manifest, split: str, window: int, rows: Any = None, **description: Any) -> None:
        self.manifest, self.window = manifest, window
        shards = manifest.splits[split]["shards"]
        starts = [(shard, start) for shard in shards for start in range(0, shard["images"], ROWS_PER_GROUP)]
        self._places = [(shard["file"], start // ROWS_PER_GROUP) for shard, start in starts]
        sizes = [min(ROWS_PER_GROUP, shard["images"] - start) for shard, start in starts]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        rows = np.arange(self._starts[-1]) if rows is None else np.asarray(rows)
        self._groups = np.searchsorted(self._starts, rows, "right") - 1
        self._per_group = max(len(rows) / max(len(np.unique(self._groups)), 1), 1.0)
        super().__init__(
            labels=self._read_labels(split)[rows].tolist(),
            class_names=manifest.class_names,
            dataset=manifest.root,
            source_split=split,
            rows=rows,
            **{"role": split, **description},
        )
        self._files: OrderedDict[str, pq.ParquetFile] = OrderedDict()
        self._process = os.getpid()
        self._cache: OrderedDict[int, pa.StructArray] = OrderedDict()

    def _read_labels(self, split: str) -> np.ndarray:
        path = f"{self.manifest.root}/{labels_name(split)}"
        try:
            with fsspec.open(path, "rb") as file:
                labels: np.ndarray = np.load(io.BytesIO(file.read()), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise OSError(f"{path} cannot be read ({error}): run `paco-hf data prepare` again") from error
        if len(labels) != self._starts[-1]:
            raise OSError(f"{path} has {len(labels)} labels for {self._starts[-1]} images: prepare the data again")
        return labels

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict(), "_cache": OrderedDict()}

    def select(self, indices: Any, **changes: Any) -> "ShardedImages":
        description = {"role": self.role, "split_off": self.split_off, **changes}
        indices = np.sort(indices)
        rows = np.asarray(self.rows)[indices]
        selected = type(self)(self.manifest, str(self.source_split), self.window, rows, **description)
        return selected.with_classes([self.labels[i] for i in indices], self.class_names, selected.note)

    def open(self, index: int) -> PILImage.Image:
        row = self.source_row(int(index))
        group = int(self.groups[int(index)])
        image = self._read_group(group)[int(row - self._starts[group])].as_py()
        return open_image(io.BytesIO(image["bytes"]), f"image {row} of {self.name} ({image['path']})")

    def _read_group(self, group: int) -> pa.StructArray:
        if group in self._cache:
            self._cache.move_to_end(group)
            return self._cache[group]
        shard, place = self._places[group]
        try:
            table = self._file(shard).read_row_group(place, columns=["image"])
        except (pa.ArrowInvalid, OSError) as error:
            raise OSError(
                f"the shard {shard} of {self.manifest.root} is damaged ({error}): run `paco-hf data prepare` again"
            ) from error
        from torch.utils.data import get_worker_info

        worker = get_worker_info()
        workers = worker.num_workers if worker else 1
        limit = math.ceil(self.window / (self._per_group * workers)) + 2 * max(LANES // workers, 1)
        while len(self._cache) >= limit:
            self._cache.popitem(last=False)
        self._cache[group] = table["image"].combine_chunks()
        return self._cache[group]

    def _file(self, shard: str) -> pq.ParquetFile:
        if self._process != os.getpid():
            # A file that was open when a worker was forked would share its position with all others.
            self._files, self._process = OrderedDict(), os.getpid()
        if shard not in self._files:
            while len(self._files) >= 16:
                self._files.popitem(last=False)
            # Buffered reads would fetch a whole column of a group ahead, which is what is read anyway.
            self._files[shard] = pq.ParquetFile(fsspec.open(f"{self.manifest.root}/{shard}", "rb").open())
        return self._files[shard]
