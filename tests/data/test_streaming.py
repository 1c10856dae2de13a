"""Streaming prepared shards: each image once, whoever reads it, from any batch on."""

import pickle
from pathlib import Path

import fsspec
import miniature
import numpy as np
import pytest
import torch
from fresh_processes import FreshProcesses, rank_environments

from paco_hf.data.loading import load_data
from paco_hf.data.samplers import StreamSampler
from paco_hf.data.streaming.manifest import LANES, ROWS_PER_GROUP
from paco_hf.data.streaming.prepare import prepare
from paco_hf.data.streaming.sharded_images import ShardedImages

IMAGES = 330


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """330 images of 4 classes, prepared in 3 shards of 2 row groups each."""
    root = tmp_path_factory.mktemp("stream")
    for c, count in enumerate([150, 100, 50, 30]):
        for split, n in (("train", count), ("test", 2)):
            (root / "source" / split / f"class{c}").mkdir(parents=True)
            for i in range(n):
                file = root / "source" / split / f"class{c}" / f"{i}.jpg"
                file.write_bytes(miniature.jpeg(1000 * c + i, (24, 24)))
    size = sum(file.stat().st_size for file in (root / "source" / "train").rglob("*.jpg"))
    manifest = prepare("mine", str(root / "source"), str(root / "out"), shard_bytes=size // 3)
    assert [shard["images"] for shard in manifest.splits["train"]["shards"]] == [110, 110, 110]
    return root / "out"


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


def launch(fresh: FreshProcesses, folder: Path, out: Path, processes: int, workers: int, skip: int = 0) -> list[dict]:
    out.mkdir()
    code = f"import stream_worker; from pathlib import Path; stream_worker.main({str(folder)!r}, Path({str(out)!r}), "
    fresh.run(*[f"{code}{workers}, {skip})"] * processes, environments=rank_environments(processes))
    return [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(processes)]


def test_two_ranks_of_two_workers_see_every_image_once(
    with_trainer: FreshProcesses, folder: Path, tmp_path: Path
) -> None:
    ranks = launch(with_trainer, folder, tmp_path / "whole", 2, 2)
    assert [rank["world_size"] for rank in ranks] == [2, 2]
    split = load_data(str(folder), streaming=True).train
    dropped = []
    for epoch in range(2):
        seen = torch.cat([rank["epochs"][epoch].flatten(0, 1) for rank in ranks])
        index = seen[:, 0].tolist()
        # 330 images are 41 batches of 4 for each of two ranks; the last 2 images are the ragged batch that is dropped.
        assert len(index) == len(set(index)) == 41 * 8
        assert set(seen[:, 1].tolist()) == {epoch}
        dropped.append(set(range(IMAGES)) - set(index))
        assert all(split.labels[i] == label for i, label in zip(index, seen[:, 2].tolist(), strict=True))
        for i, _, _, *pixel in seen[:20].tolist():
            assert tuple(pixel) == split.open(i).getpixel((0, 0))
    assert dropped[0] != dropped[1]
    assert not torch.equal(ranks[0]["epochs"][0], ranks[0]["epochs"][1])


@pytest.mark.slow
def test_from_any_batch_on_with_any_number_of_workers_it_is_the_same(
    with_trainer: FreshProcesses, folder: Path, tmp_path: Path
) -> None:
    ranks = launch(with_trainer, folder, tmp_path / "whole", 2, 2)
    for workers, skip in ((2, 17), (0, 5), (1, 40)):
        resumed = launch(with_trainer, folder, tmp_path / f"resumed-{workers}", 2, workers, skip)
        for whole, part in zip(ranks, resumed, strict=True):
            assert torch.equal(whole["epochs"][0][skip:], part["epochs"][0])
            assert torch.equal(whole["epochs"][1], part["epochs"][1])


def test_streaming_needs_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"has no manifest.json, which says how many images of each class"):
        load_data("imagenet-lt", dataset_path=str(tmp_path), streaming=True)
    with pytest.raises(ValueError, match="--streaming reads a prepared folder"):
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
        with pytest.raises(ValueError, match="is prepared, with the lists and columns of then"):
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
