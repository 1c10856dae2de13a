"""Data at addresses: a memory file system, and an HTTP server on loopback."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from datasets import ClassLabel
from user_data import complaint, folders, parquet, table

from paco_hf.cli import main
from paco_hf.data.loading import load_data
from paco_hf.data.sources.remote import RemoteData, check_address
from paco_hf.inference.unlabeled import find_images


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    folders(root / "photos", {"cat": 3, "dog": 2})
    table(root / "csv", ["x", "y", "x"])
    parquet(root / "shards" / "train-00000-of-00002.parquet", [0, 1], ClassLabel(names=["cat", "dog"]))
    parquet(root / "shards" / "train-00001-of-00002.parquet", [1, 1], ClassLabel(names=["cat", "dog"]))
    return root


@pytest.fixture(params=["memory", "http"])
def address(request, source: Path) -> Iterator[str]:
    if request.param == "memory":
        memory = fsspec.filesystem("memory")
        memory.store.clear()
        memory.put(f"{source}/", "/data/", recursive=True)
        yield "memory://data"
        memory.store.clear()
        return

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(source)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_folders_tables_and_shards_are_read(address: str, source: Path) -> None:
    for name, counts in (
        ("photos", [3, 2]),
        ("photos/", [3, 2]),
        ("csv/all.csv", [2, 1]),
        ("csv", [2, 1]),
        ("shards", [1, 3]),
        ("shards/train-00001-of-00002.parquet", [2]),
    ):
        if len(counts) == 1:
            with pytest.raises(ValueError, match="only one class"):
                load_data(f"{address}/{name}")
            continue
        data, local = load_data(f"{address}/{name}"), load_data(str(source / name))
        assert data.class_counts == local.class_counts == counts
        assert data.train.open(1).tobytes() == local.train.open(1).tobytes()
        assert data.train.public_name.startswith(Path(name).name)


def test_images_to_classify(address: str, source: Path) -> None:
    assert len(find_images([f"{address}/photos"])) == 5
    assert len(find_images([f"{address}/csv/all.csv"])) == 3
    images = find_images([f"{address}/shards/train-00000-of-00002.parquet"])
    assert images.names == [f"{address}/shards/train-00000-of-00002.parquet#{row}" for row in range(2)]
    one = find_images([f"{address}/photos/cat/0.png"])
    assert one.open(0).size == (16, 16)


def test_only_what_changes_is_copied_again(address: str, source: Path, monkeypatch) -> None:
    first = RemoteData(f"{address}/photos").copy()
    fetched = []
    cls = fsspec.get_filesystem_class(address.split(":")[0])
    get_file = cls.get_file

    def counted(self, path, *args, **kwargs):
        fetched.append(path)
        return get_file(self, path, *args, **kwargs)

    monkeypatch.setattr(cls, "get_file", counted)
    assert RemoteData(f"{address}/photos").copy() == first
    assert fetched == []
    if address.startswith("memory"):
        fsspec.filesystem("memory").rm("/data/photos/cat/0.png")
        fsspec.filesystem("memory").pipe("/data/photos/cat/new.png", (source / "photos/dog/0.png").read_bytes())
    else:
        (source / "photos" / "cat" / "new.png").write_bytes((source / "photos/dog/0.png").read_bytes())
        (source / "photos" / "cat" / "0.png").unlink()
        fsspec.filesystem("http").dircache.clear()
    cls.clear_instance_cache()
    RemoteData(f"{address}/photos").copy()
    assert [path.rpartition("/")[2] for path in fetched] == ["new.png"]
    assert sorted(file.name for file in (first / "cat").iterdir()) == ["1.png", "2.png", "new.png"]


def test_what_cannot_be_reached_is_read_as_it_was(source: Path, capsys) -> None:
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(source))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    assert load_data(f"{address}/photos").class_counts == [3, 2]
    server.shutdown()
    server.server_close()
    fsspec.get_filesystem_class("http").clear_instance_cache()
    assert load_data(f"{address}/photos").class_counts == [3, 2]
    assert "cannot be reached: using the cached copy" in capsys.readouterr().err
    with pytest.raises(OSError, match=r"cannot be read \(.*\): pass a local copy"):
        load_data(f"{address}/csv")


def test_what_is_not_there_and_what_is_not_installed_is_one_line(capsys, monkeypatch) -> None:
    assert "memory://nowhere does not exist or cannot be reached" in complaint(
        capsys, "train", "--dataset", "memory://nowhere"
    )
    assert "uses an unknown file system (nosuch://)" in complaint(capsys, "train", "--dataset", "nosuch://x")

    def absent(protocol: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", absent)
    for verb in (["train", "--dataset"], ["data", "verify"], ["data", "stats"]):
        assert "needs a package for s3:// that is not installed: pip install s3fs" in complaint(
            capsys, *verb, "s3://bucket/photos"
        )
    with pytest.raises(ImportError, match="pip install s3fs"):
        check_address("s3://bucket/photos")


def test_a_password_is_not_shown() -> None:
    with pytest.raises(OSError, match=r"http://127\.0\.0\.1:9/photos") as error:
        RemoteData("http://ada:secret@127.0.0.1:9/photos").copy()
    assert "secret" not in str(error.value)


def test_prepare_reads_addresses(address: str, tmp_path: Path, capsys) -> None:
    assert main(["data", "prepare", f"{address}/photos", "--out", str(tmp_path / "out")]) == 0
    assert load_data(str(tmp_path / "out")).class_counts == [3, 2]
    assert main(["data", "stats", f"{address}/photos"]) == 0
    assert "5 images, 2 classes" in capsys.readouterr().out
