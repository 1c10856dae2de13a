"""Streaming prepared shards: each image once. That it is so whoever reads it, and from any batch on, is in
`tests/trainer/test_distributed.py`."""

import pickle
from pathlib import Path

import fsspec
import numpy as np
import pytest

from paco_hf.data.loading import load_data
from paco_hf.data.samplers import StreamSampler
from paco_hf.data.streaming.manifest import LANES, ROWS_PER_GROUP
from paco_hf.data.streaming.sharded_images import ShardedImages


def groups(sizes: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes)


@pytest.mark.parametrize(("batch", "lanes"), [(4, 8), (7, 16), (64, 8), (500, 8)])
def test_an_epoch_has_every_image_once(batch: int, lanes: int) -> None:
    sampler = StreamSampler(groups([64, 64, 30, 64, 64, 64]), batch, lanes, 128, seed=1)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        indices = list(sampler)
        assert sorted(indices) == list(range(350))
        assert {index.epoch for index in indices} == {epoch}
        orders.append([int(index) for index in indices])
    assert len(sampler) == 350
    assert orders[0] != orders[1] != orders[2]
    sampler.set_epoch(0)
    assert [int(index) for index in sampler] == orders[0]
    other = StreamSampler(groups([64, 64, 30, 64, 64, 64]), batch, lanes, 128, seed=2)
    assert [int(index) for index in other] != orders[0]


def test_lanes_read_few_groups_at_a_time() -> None:
    batch, lanes, buffer = 8, 8, 512
    sizes = [64] * 200
    sampler = StreamSampler(groups(sizes), batch, lanes, buffer, seed=0)
    of_image = groups(sizes)
    batches = sampler.order().reshape(-1, batch)
    reads = 0
    for lane in range(lanes):
        own = of_image[batches[lane::lanes].ravel()]
        # A window is 64 images, of one group or two.
        for start in range(0, len(own), 64):
            assert len(np.unique(own[start : start + 64])) <= 2
        reads += len(np.unique(own))
    # Each group is read by one lane, or by two where it lies on a border.
    assert reads <= len(sizes) + lanes
    # Within a window the order is random, not that of the rows.
    assert np.mean(np.diff(batches[0]) == 1) < 0.5


@pytest.fixture
def folder(stream: Path) -> Path:
    return stream


def test_row_groups_are_read_about_once_an_epoch(folder: Path, monkeypatch) -> None:
    split = load_data(str(folder), streaming=True, window=256).train
    assert isinstance(split, ShardedImages)
    assert split.groups.tolist() == groups([64, 46] * 3).tolist()
    assert max(np.bincount(split.groups)) <= ROWS_PER_GROUP
    reads: list[int] = []
    read = ShardedImages._read_group

    def counted(self: ShardedImages, group: int):
        if group not in self._cache:
            reads.append(group)
        return read(self, group)

    monkeypatch.setattr(ShardedImages, "_read_group", counted)
    for index in StreamSampler(split.groups, 4, LANES, 256, seed=0):
        split.open(index)
    assert set(reads) == set(range(6))
    assert len(reads) <= 6 + LANES


def test_a_selection_of_rows(folder: Path) -> None:
    split = load_data(str(folder), streaming=True).train
    part = split.select([5, 2, 329])
    assert part.labels == [split.labels[i] for i in (2, 5, 329)]
    assert [part.open(i).getpixel((3, 3)) for i in range(3)] == [split.open(i).getpixel((3, 3)) for i in (2, 5, 329)]
    copy = pickle.loads(pickle.dumps(part))
    assert copy.open(1).getpixel((3, 3)) == part.open(1).getpixel((3, 3))


def test_an_address_is_as_good_as_a_folder(folder: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/stream-test", recursive=True)
    try:
        local, remote = (load_data(root, streaming=True) for root in (str(folder), "memory://stream-test"))
        assert (remote.class_counts, remote.class_names) == (local.class_counts, local.class_names)
        assert remote.train.open(200).getpixel((3, 3)) == local.train.open(200).getpixel((3, 3))
    finally:
        memory.rm("/stream-test", recursive=True)


def test_streaming_needs_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"has no manifest.json, the manifest of the shards"):
        load_data("imagenet-lt", dataset_path=str(tmp_path), streaming=True)
    with pytest.raises(ValueError, match="--streaming needs a prepared folder"):
        load_data("imagenet-lt", streaming=True)
    with pytest.raises(OSError, match=r"manifest.json cannot be read .*nosuch"):
        load_data("nosuch://bucket/x", streaming=True)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="not a manifest of the format"):
        load_data(str(tmp_path), streaming=True)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        load_data(str(tmp_path), streaming=True)


def test_a_folder_prepared_as_something_else(folder: Path) -> None:
    with pytest.raises(ValueError, match="was prepared as mine, not as imagenet-lt"):
        load_data("imagenet-lt", dataset_path=str(folder), streaming=True)


def test_lists_and_columns_of_a_prepared_folder_are_those_of_then(folder: Path) -> None:
    for given in ({"lists": {"test": "x.txt"}}, {"image_column": "x"}, {"label_column": "x"}):
        with pytest.raises(ValueError, match="is a prepared folder, whose lists, columns and splits are fixed"):
            load_data(str(folder), streaming=True, **given)


def test_labels_that_do_not_fit_the_shards(folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder, tmp_path / "copy")
    np.save(tmp_path / "copy" / "train-labels.npy", np.zeros(3, dtype=np.int32))
    with pytest.raises(OSError, match="has 3 labels for 330 images"):
        load_data(str(tmp_path / "copy"), streaming=True)
    (tmp_path / "copy" / "train-labels.npy").write_bytes(b"x")
    with pytest.raises(OSError, match=r"train-labels.npy cannot be read"):
        load_data(str(tmp_path / "copy"), streaming=True)
