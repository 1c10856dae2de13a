"""The benchmark of streaming runs; nothing is decoded in preparing, and workers of a stream do not share files."""

import json
import multiprocessing
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import miniature
import numpy as np
import pytest
from PIL import Image

from benchmarks import streaming
from paco_hf.data.loading import load_data
from paco_hf.data.streaming.prepare import prepare
from paco_hf.data.streaming.sharded_images import ShardedImages


@pytest.mark.slow
def test_its_tables_have_their_rows(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "result.json"
    tiny = ["--images", "32", "--batch", "4", "--rounds", "1", "--views", "crop", "--workers", "0", "1"]
    parts = ["--parts", "speed", "reads", "order", "--index_images", "4000", "--scratch", str(tmp_path)]
    assert streaming.main([*tiny, *parts, "--output", str(output)]) == 0
    result, printed = json.loads(output.read_text()), capsys.readouterr().out
    rows = {row["name"]: row for row in result["speed"]["rows"]}
    assert list(rows) == ["decode", "stream crop 0w", "stream crop 1w", "folder crop 0w", "folder crop 1w"]
    assert all(row["images_s"] > 0 for row in rows.values())
    assert all(name in printed for name in (*rows, *result["speed"]["costs"]))
    # A pass is over when its last batch is: without workers there is nothing to wait for.
    assert rows["stream crop 0w"]["tail_s"] < 0.1
    assert rows["stream crop 1w"]["tail_s"] < 3
    assert [row["set"] for row in result["reads"]] == ["all"] * 6 + ["without a tenth"] * 6
    # Whole lanes to each worker; three workers have a share in all of them.
    assert all(1 <= row["reads"] < 1.2 for row in result["reads"] if row["workers"] != 3)
    streamed, shuffled, _ = result["order"]
    assert streamed["classes"] == pytest.approx(shuffled["classes"], rel=0.02)
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_bad_output(capsys: pytest.CaptureFixture) -> None:
    assert streaming.main(["--output", "nowhere/result.json"]) == 2
    assert "no such folder" in capsys.readouterr().err


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_of_a_stream(tmp_path: Path) -> None:
    pool = [streaming.photo(seed, streaming.STAMP) for seed in range(4)]
    _, root = streaming.prepared(tmp_path / "set", 200, pool, link=True)
    result = streaming.stream_once(root, images=64, workers=1, batch=16, buffer=128)
    assert result["images"] == 64
    assert 0 < result["imports"] <= result["peak"]
    assert result["worker_peak"] > 0
    content = {"buffer": 128, "batch": 16, "index": {"a split": 32.0}}
    rows = [{"kind": "stamps", "set": n, "workers": 1, "bytes_image": 3000, **result} for n in (200, 2000)]
    table = streaming.memory_table({**content, "rows": rows})
    assert "stamps 2000" in table
    assert "ten times" in table


def test_index_takes_few_bytes_an_image(tmp_path: Path) -> None:
    assert not tracemalloc.is_tracing()
    index = streaming.measure_index(tmp_path, (10_000, 60_000))
    assert index["a split"] < 64
    assert index["the order, while it is drawn"] < 64


def test_preparing_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = miniature.imagenet_lt(tmp_path / "tree")
    hub = miniature.imagenet_hub(tmp_path / "hub")
    lists = {split: str(tree / f"ImageNet_LT_{split}.txt") for split in ("train", "test")}

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("an image was opened")

    with monkeypatch.context() as patched:
        patched.setattr(Image, "open", refuse)
        manifests = [
            prepare("imagenet-lt", str(tree), str(tmp_path / "from_files")),
            prepare("imagenet-lt", str(hub), str(tmp_path / "from_parquet"), lists),
        ]
    for manifest in manifests:
        assert manifest.splits["train"]["class_counts"] == miniature.TRAIN
        assert load_data("imagenet-lt", dataset_path=manifest.root, streaming=True).train.open(0).size == (96, 80)


def _read_first(split: ShardedImages, connection: Any) -> None:
    connection.send(np.asarray(split.open(0)).sum())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_forked_worker_opens_files_of_its_own(tmp_path: Path) -> None:
    pool = [streaming.photo(seed, streaming.STAMP) for seed in range(4)]
    _, root = streaming.prepared(tmp_path / "set", 200, pool, link=True)
    split = load_data(str(root), streaming=True).train
    split.open(199)  # another row group than the worker's, so that it has to read

    def offsets() -> dict[str, str]:
        shards = [fd for fd in Path("/proc/self/fd").iterdir() if str(fd.resolve()).startswith(str(root))]
        return {fd.name: Path(f"/proc/self/fdinfo/{fd.name}").read_text().splitlines()[0] for fd in shards}

    before = offsets()
    assert before
    ours, theirs = multiprocessing.Pipe()
    worker = multiprocessing.get_context("fork").Process(target=_read_first, args=(split, theirs))
    worker.start()
    assert ours.poll(30)
    found = ours.recv()
    worker.join()
    # Files that are shared with the parent share an offset, and workers would read at each other's places.
    assert offsets() == before
    assert found == np.asarray(split.open(0)).sum()
