"""Prepared data sets: parquet shards with a manifest, read in the order of their row groups (streaming).

A folder that `paco-hf data prepare` wrote holds, for each split, `<split>-00000-of-000NN.parquet` (columns `image`, as
encoded as it was, and `label`), `<split>-labels.npy`, and for the whole `manifest.json`, which is written last. Images
lie in an order that is random with respect to their class, so that neighbours are a fair sample.
"""

import io
import json
import math
import os
import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image as PILImage
from torch.utils.data import Sampler, get_worker_info

from .splits import open_image
from .views import EpochIndex

MANIFEST_NAME = "manifest.json"
FORMAT = "paco_hf shards 1"
ROWS_PER_GROUP = 64
LANES = 8  # streams of batches a process; a worker of the data loader has one or more of them to itself


@dataclass
class Manifest:
    """What a prepared folder holds. `splits` maps a split to `images`, `class_counts`, `selection` (a hash of what is
    selected) and `shards` (`file`, `images`, `bytes`)."""

    root: str
    dataset: str
    source: str
    class_names: list[str]
    splits: dict[str, dict[str, Any]]

    def write(self) -> None:
        content = {
            "format": FORMAT,
            "dataset": self.dataset,
            "source": self.source,
            "splits": self.splits,
            "class_names": self.class_names,
        }
        path = Path(self.root) / MANIFEST_NAME
        partial = path.with_suffix(".partial")
        # Counts on one line.
        text = re.sub(r"\[[\d,\s]+\]", lambda match: " ".join(match[0].split()), json.dumps(content, indent=1))
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(path)

    @classmethod
    def read(cls, root: str) -> "Manifest":
        """Read the manifest in a folder or below an fsspec address (such as `hf://datasets/user/name`).

        Raises:
            OSError: there is none, or it cannot be reached.
            ValueError: it is none of this format.
        """
        try:
            with fsspec.open(f"{root.rstrip('/')}/{MANIFEST_NAME}", "r", encoding="utf-8") as file:
                content = json.load(file)
        except FileNotFoundError as error:
            raise OSError(
                f"{root} has no {MANIFEST_NAME}, which says how many images of each class there are and in which "
                "shards: make it with `paco-hf data prepare`, and start that again where it was stopped"
            ) from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{root}/{MANIFEST_NAME} is damaged ({error}): run `paco-hf data prepare` again"
            ) from error
        except (OSError, ImportError, ValueError) as error:
            raise OSError(f"{root}/{MANIFEST_NAME} cannot be read ({type(error).__name__}: {error})") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(
                f"{root}/{MANIFEST_NAME} is not a manifest of the format {FORMAT!r}: prepare the data anew"
            )
        fields: dict[str, Any] = {name: content.get(name) for name in ("dataset", "source", "class_names", "splits")}
        kinds = {"class_names": list, "splits": dict}
        wrong = [name for name, value in fields.items() if not isinstance(value, kinds.get(name, str))]
        wrong += [s for s, c in (fields["splits"] or {}).items() if not {"images", "class_counts", "shards"} <= {*c}]
        if wrong:
            raise ValueError(
                f"{root}/{MANIFEST_NAME} is damaged ({', '.join(wrong)}): run `paco-hf data prepare` again"
            )
        return cls(root=root.rstrip("/"), **fields)

    def check_files(self) -> None:
        """`OSError` where a file is missing, or a shard has another size than when it was written."""
        fs, root = fsspec.core.url_to_fs(self.root)
        for split, content in self.splits.items():
            if not fs.exists(f"{root}/{labels_name(split)}"):
                raise OSError(
                    f"{labels_name(split)} of {self.root} is missing; the same `paco-hf data prepare` as before "
                    "writes it again"
                )
            for shard in content["shards"]:
                path = f"{root}/{shard['file']}"
                size = fs.size(path) if fs.exists(path) else None
                if size != shard["bytes"]:
                    state = "missing" if size is None else f"truncated: {size} bytes instead of {shard['bytes']}"
                    raise OSError(
                        f"the shard {shard['file']} of {self.root} is {state}; the same `paco-hf data prepare` as "
                        "before writes it again"
                    )


def is_prepared(root: str) -> bool:
    """Whether a folder has a manifest."""
    return (Path(root) / MANIFEST_NAME).is_file()


class ShardedImages:
    """A split of a prepared folder, as [`paco_hf.data.splits.LabelledImages`], read a row group at a time.

    Args:
        manifest (`Manifest`): of the folder.
        split (`str`): which of its splits.
        window (`int`): images to keep encoded in memory, over all workers of this process.
        rows (ascending array, *optional*): a selection of the split's rows.
        name (`str`, *optional*): for messages.

    `groups` `(N,)` is the row group of each image, ascending; reading images of few groups at a time is fast.
    """

    def __init__(self, manifest: Manifest, split: str, window: int, rows: Any = None, name: str | None = None) -> None:
        self.manifest, self.split, self.window = manifest, split, window
        self.name = name or f"{manifest.root} {split}"
        shards = manifest.splits[split]["shards"]
        counts = [-(-shard["images"] // ROWS_PER_GROUP) for shard in shards]
        self._shard_of = np.repeat(np.arange(len(shards)), counts)
        self._group_in_shard = np.concatenate([np.arange(n) for n in counts])
        sizes = [min(ROWS_PER_GROUP, s["images"] - i) for s in shards for i in range(0, s["images"], ROWS_PER_GROUP)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self.rows = np.arange(self._starts[-1]) if rows is None else np.asarray(rows)
        self.groups = np.searchsorted(self._starts, self.rows, "right") - 1
        self._per_group = max(len(self.rows) / max(len(np.unique(self.groups)), 1), 1.0)
        self.labels: list[int] = self._read_labels()[self.rows].tolist()
        self._files: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._process = os.getpid()
        self._cache: OrderedDict[int, pa.StructArray] = OrderedDict()

    def _read_labels(self) -> np.ndarray:
        path = f"{self.manifest.root}/{labels_name(self.split)}"
        try:
            with fsspec.open(path, "rb") as file:
                labels: np.ndarray = np.load(io.BytesIO(file.read()), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise OSError(f"{path} cannot be read ({error}): run `paco-hf data prepare` again") from error
        if len(labels) != self._starts[-1]:
            raise OSError(f"{path} has {len(labels)} labels for {self._starts[-1]} images: prepare the data anew")
        return labels

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict(), "_cache": OrderedDict()}

    def select(self, indices: Any, name: str) -> "ShardedImages":
        return ShardedImages(self.manifest, self.split, self.window, self.rows[np.sort(indices)], name)

    def open(self, index: int) -> PILImage.Image:
        """Decode one image to RGB; `ValueError` where it cannot be, with its name and place."""
        row = self.rows[int(index)]
        group = int(self.groups[int(index)])
        image = self._read_group(group)[int(row - self._starts[group])].as_py()
        return open_image(io.BytesIO(image["bytes"]), f"image {row} of {self.name} ({image['path']})")

    def _read_group(self, group: int) -> pa.StructArray:
        if group in self._cache:
            self._cache.move_to_end(group)
            return self._cache[group]
        shard = self.manifest.splits[self.split]["shards"][self._shard_of[group]]["file"]
        try:
            table = self._file(int(self._shard_of[group]), shard).read_row_group(
                int(self._group_in_shard[group]), columns=["image"]
            )
        except (pa.ArrowInvalid, OSError) as error:
            raise OSError(
                f"the shard {shard} of {self.manifest.root} is damaged ({error}): prepare it anew"
            ) from error
        worker = get_worker_info()
        workers = worker.num_workers if worker else 1
        limit = math.ceil(self.window / (self._per_group * workers)) + 2 * max(LANES // workers, 1)
        while len(self._cache) >= limit:
            self._cache.popitem(last=False)
        self._cache[group] = table["image"].combine_chunks()
        return self._cache[group]

    def _file(self, shard: int, name: str) -> pq.ParquetFile:
        if self._process != os.getpid():
            # A file that was open when a worker was forked would share its position with all others.
            self._files, self._process = OrderedDict(), os.getpid()
        if shard not in self._files:
            while len(self._files) >= 16:
                self._files.popitem(last=False)
            # Buffered reads would fetch a whole column of a group ahead, which is what is read anyway.
            self._files[shard] = pq.ParquetFile(fsspec.open(f"{self.manifest.root}/{name}", "rb").open())
        return self._files[shard]


def labels_name(split: str) -> str:
    return f"{split}-labels.npy"


class StreamSampler(Sampler[EpochIndex]):
    """An order for reading row groups one after the other: a function of `(seed, epoch)` and the arguments alone.

    The groups are permuted each epoch and dealt out to `lanes`, whole batches to each, so that each process and each
    of its 1, 2, 4 or 8 workers finds all its batches in lanes of its own. Within a lane images are shuffled in windows
    of `buffer / lanes`. Each image comes once; skipping to any batch reads nothing.

    Args:
        groups (ascending array `(N,)`): row group of each image.
        batch_size (`int`): images of a batch of one process.
        lanes (`int`): [`LANES`] times the number of processes.
        buffer (`int`): images that are shuffled among one another at a time, over all lanes.
        seed (`int`): of the order.
    """

    def __init__(self, groups: np.ndarray, batch_size: int, lanes: int, buffer: int, seed: int) -> None:
        self.batch_size, self.lanes, self.seed, self.epoch = batch_size, lanes, seed, 0
        self.window = max(buffer // lanes, batch_size)
        self.length = len(groups)
        _, starts = np.unique(groups, return_index=True)
        self.bounds = np.append(starts, len(groups))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[EpochIndex]:
        return (EpochIndex(index, self.epoch) for index in self.order())

    def order(self) -> np.ndarray:
        """The epoch's indices `(N,)`; a last batch that is not full stands at the end."""
        generator = np.random.default_rng([self.seed, self.epoch])
        permuted = generator.permutation(len(self.bounds) - 1)
        rows = np.concatenate([np.arange(self.bounds[g], self.bounds[g + 1]) for g in permuted])
        batches = self.length // self.batch_size
        order = np.empty((batches, self.batch_size), dtype=np.int64)
        start = 0
        for lane in range(min(self.lanes, batches)):
            own = order[lane :: self.lanes]
            lane_rows = rows[start : start + own.size]
            start += own.size
            for first in range(0, len(lane_rows), self.window):
                generator.shuffle(lane_rows[first : first + self.window])
            own[:] = lane_rows.reshape(own.shape)
        return np.concatenate([order.ravel(), generator.permutation(rows[start:])])
