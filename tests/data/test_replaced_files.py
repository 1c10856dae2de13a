"""A file that is replaced by another of its size under its time stamp is read anew."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel
from user_data import folders, parquet, png, table

from paco_hf.data.image_checks import check_images
from paco_hf.data.loading import load_data
from paco_hf.data.sources.hf_tables import load_folder
from paco_hf.utils import files
from paco_hf.utils.files import identity

PETS = ClassLabel(names=["cat", "dog"])


def disguise(old: Path, new: Path) -> None:
    """Put `new` in the place of `old`, with its size and time stamps."""
    before = old.stat()
    assert new.stat().st_size == before.st_size
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.replace(old)
    assert (old.stat().st_size, old.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def overwrite(old: Path, new: Path) -> None:
    """Write the content of `new` into `old`, whose inode and time stamps stay."""
    before = old.stat()
    old.write_bytes(new.read_bytes())
    os.utime(old, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (old.stat().st_ino, old.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("replace", [disguise, overwrite])
@pytest.mark.parametrize("shards", [1, 2])
def test_parquet(replace: Callable, shards: int, tmp_path: Path) -> None:
    kept = [parquet(tmp_path / "data" / f"train-{i}.parquet", [0, 1, 0, 1], PETS) for i in range(shards)]
    assert load_data(str(tmp_path / "data")).train.labels == [0, 1, 0, 1] * shards
    replace(kept[-1], parquet(tmp_path / "new.parquet", [1, 1, 0, 0], PETS))
    assert load_data(str(tmp_path / "data")).train.labels == [0, 1, 0, 1] * (shards - 1) + [1, 1, 0, 0]
    if shards == 1:
        assert load_data(str(kept[0])).train.labels == [1, 1, 0, 0]
    # What is as it was comes out of the cache.
    first, second = (load_data(str(tmp_path / "data")).train.data.cache_files for _ in range(2))
    assert first == second != []


def test_images_in_parquet_are_surveyed_anew(tmp_path: Path) -> None:
    images = [{"bytes": png(i), "path": None} for i in range(4)]
    file = parquet(tmp_path / "data" / "train.parquet", [0, 1, 0, 1], PETS, images)
    assert "no exact duplicates" in check_images(load_data(str(tmp_path / "data"))).lines[1]
    twin = [images[0], images[1], {"bytes": png(1), "path": None}, images[3]]
    new = parquet(tmp_path / "new.parquet", [0, 1, 0, 1], PETS, twin)
    assert len(png(1)) == len(png(2))
    for one in (file, new):  # how small releases of pyarrow write what is there twice differs
        pq.write_table(pq.read_table(one), one, use_dictionary=False, compression="none")
    assert "no exact duplicates" in check_images(load_data(str(tmp_path / "data"))).lines[1]
    disguise(file, new)
    assert "1 exact duplicate" in check_images(load_data(str(tmp_path / "data"))).lines[1]


@pytest.mark.parametrize("replace", [disguise, overwrite])
def test_images_in_folders_are_surveyed_anew(replace: Callable, tmp_path: Path) -> None:
    folders(tmp_path / "data", {"cat": 2, "dog": 2})
    assert "no exact duplicates" in check_images(load_data(str(tmp_path / "data"))).lines[1]
    shutil.copy(tmp_path / "data" / "cat" / "0.png", tmp_path / "new.png")
    replace(tmp_path / "data" / "dog" / "1.png", tmp_path / "new.png")
    lines = check_images(load_data(str(tmp_path / "data"))).lines
    assert "cached result" not in lines[0]
    assert "1 exact duplicate" in lines[1]


def test_tables(tmp_path: Path) -> None:
    file = table(tmp_path, ["cat", "dog", "cat", "dog"])
    assert load_data(str(file)).train.labels == [0, 1, 0, 1]
    text = file.read_text()
    (tmp_path / "new").write_text(text.replace("cat", "xxx").replace("dog", "cat").replace("xxx", "dog"))
    disguise(file, tmp_path / "new")
    assert load_data(str(file)).train.labels == [1, 0, 1, 0]


def test_metadata_of_a_benchmarks_folder(tmp_path: Path) -> None:
    (tmp_path / "data" / "train").mkdir(parents=True)
    for i in range(2):
        (tmp_path / "data" / "train" / f"{i}.png").write_bytes(png(i))
    metadata = tmp_path / "data" / "train" / "metadata.csv"
    for labels in ([0, 1], [1, 0]):
        new = tmp_path / "new.csv"
        new.write_text("file_name,label\n" + "".join(f"{i}.png,{label}\n" for i, label in enumerate(labels)))
        if metadata.exists():
            disguise(metadata, new)
        else:
            new.replace(metadata)
        assert load_folder(str(tmp_path / "data"))["train"]["label"][:] == labels


def test_without_inodes_the_content_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, other = tmp_path / "a", tmp_path / "b"
    file.write_bytes(b"one")
    other.write_bytes(b"two")
    state = os.stat(file)
    without = os.stat_result([*state[:1], 0, *state[2:10]])
    monkeypatch.setattr(files.os, "stat", lambda path: without)
    assert identity(file) != identity(other)
    other.write_bytes(b"one")
    assert identity(file) == identity(other)
