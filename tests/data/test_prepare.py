"""Preparing: every image once, bytes untouched, taken up after a stop, and nothing incomplete taken for complete."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import miniature
import numpy as np
import pyarrow.parquet as pq
import pytest
from interrupted_runs import kill_when
from patience import ended

from paco_hf.data.loading import load_data
from paco_hf.data.streaming import prepare as module
from paco_hf.data.streaming import prepare_images
from paco_hf.data.streaming.manifest import Manifest
from paco_hf.data.streaming.prepare import prepare
from paco_hf.data.verification import describe_counts, split_counts, verify
from paco_hf.utils.locks import sole_owner

SMALL = 20_000  # bytes of a shard: several shards of a miniature


def rows(folder: Path, split: str) -> dict[str, tuple[bytes, int]]:
    """Bytes and label by stored path; fails where a path is there twice."""
    found: dict[str, tuple[bytes, int]] = {}
    for shard in Manifest.read(str(folder)).splits[split]["shards"]:
        for row in pq.read_table(folder / shard["file"]).to_pylist():
            assert row["image"]["path"] not in found
            found[row["image"]["path"]] = row["image"]["bytes"], row["label"]
    return found


@pytest.mark.parametrize("dataset", list(miniature.MAKERS))
def test_every_image_once_and_untouched(dataset: str, tmp_path: Path) -> None:
    root = miniature.MAKERS[dataset](tmp_path / "source")
    manifest = prepare(dataset, str(root), str(tmp_path / "out"), shard_bytes=SMALL)
    test = "validation" if dataset == "places-lt" else "test"
    assert list(manifest.splits) == ["train", test]
    assert len(manifest.splits["train"]["shards"]) > 2
    assert manifest.splits["train"]["class_counts"] == miniature.TRAIN
    data = load_data(dataset, dataset_path=str(root))
    for split, images in (("train", data.train), (test, data.test)):
        written = rows(tmp_path / "out", split)
        paths = [entry["path"] for entry in images.encoded["image"]]
        assert written == {
            os.path.relpath(path, root): (Path(path).read_bytes(), label)
            for path, label in zip(paths, images.labels, strict=True)
        }
    assert not (tmp_path / "out" / module.PARTS).exists()
    streamed = load_data(dataset, dataset_path=str(tmp_path / "out"), streaming=True)
    assert streamed.class_names == data.class_names
    assert streamed.class_counts == data.class_counts
    plain = load_data(dataset, dataset_path=str(tmp_path / "out"))
    assert plain.train.labels == streamed.train.labels
    assert np.array_equal(np.asarray(plain.train.open(7)), np.asarray(streamed.train.open(7)))


@pytest.mark.parametrize("suffixed", [True, False])
def test_from_parquet_it_is_the_same_selection(suffixed: bool, tmp_path: Path) -> None:
    tree = miniature.imagenet_lt(tmp_path / "tree")
    hub = miniature.imagenet_hub(tmp_path / "hub", suffixed=suffixed)
    one = prepare("imagenet-lt", str(tree), str(tmp_path / "one"), shard_bytes=SMALL)
    lists = {"train": str(tree / "ImageNet_LT_train.txt")}
    two = prepare("imagenet-lt", str(hub), str(tmp_path / "two"), lists, shard_bytes=SMALL)
    assert one.class_names == two.class_names
    for split in ("train", "test"):
        for field in ("images", "class_counts", "selection"):
            assert one.splits[split][field] == two.splits[split][field]
    sources = {
        row["image"]["path"]: (row["image"]["bytes"], row["label"])
        for file in hub.glob("*.parquet")
        for row in pq.read_table(file).to_pylist()
    }
    written = rows(tmp_path / "two", "train")
    assert len(written) == 40
    assert all(sources[path] == row for path, row in written.items())
    assert len(two.splits["train"]["shards"]) > 2


def test_whole_imagenet_and_data_of_ones_own(tmp_path: Path) -> None:
    hub = miniature.imagenet_hub(tmp_path / "hub")
    with pytest.raises(ValueError, match="996 of 1000 classes have no training image"):
        prepare("imagenet", str(hub), str(tmp_path / "imagenet"))
    own = prepare("mine", str(hub), str(tmp_path / "own"))
    assert own.class_names == ["tench", "goldfish", "shark", "crane"]
    assert own.splits["train"]["class_counts"] == [n + 3 for n in miniature.TRAIN]
    tree = tmp_path / "folders"
    for split, count in (("train", 3), ("test", 1)):
        for name in ("cat", "dog"):
            (tree / split / name).mkdir(parents=True)
            for i in range(count):
                (tree / split / name / f"{i}.jpg").write_bytes(miniature.jpeg(i))
    folders = prepare("mine", str(tree), str(tmp_path / "from-folders"))
    assert (folders.class_names, folders.splits["train"]["class_counts"]) == (["cat", "dog"], [3, 3])
    (tree / "test").rename(tree / "val")
    renamed = prepare("mine", str(tree), str(tmp_path / "val-folder"))
    assert list(renamed.splits) == ["train", "validation"]
    shutil.copytree(tree / "val", tree / "valid")
    with pytest.raises(ValueError, match="has two folders for the validation split, val and valid"):
        prepare("mine", str(tree), str(tmp_path / "two"))
    data = load_data(str(tmp_path / "from-folders"), streaming=True)
    assert (data.class_counts, data.native_size()) == ([3, 3], 80)


def test_what_lies_beside_images(tmp_path: Path) -> None:
    root = miniature.imagenet(tmp_path / "source")
    (root / "train" / "n01440764" / "Thumbs.db").write_bytes(b"no image")
    (root / "train" / "n01440764" / "._n01440764_1.JPEG").write_bytes(b"no image")
    (root / "val" / ".cache").mkdir()
    manifest = prepare("imagenet", str(root), str(tmp_path / "out"))
    assert [split["images"] for split in manifest.splits.values()] == [40, 8]
    assert load_data("imagenet", dataset_path=str(root)).class_counts == miniature.TRAIN
    (root / "train" / "n01440764" / "more").mkdir()
    (root / "train" / "n01440764" / "more" / "1.jpg").write_bytes(miniature.jpeg(1))
    with pytest.raises(ValueError, match="more is a folder inside a class folder"):
        prepare("imagenet", str(root), str(tmp_path / "other"))
    shutil.rmtree(root / "train" / "n01440764" / "more")
    (root / "train" / "n01440764" / "n01440764_1.JPEG").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 of the train images are empty files, such as .*n01440764_1.JPEG"):
        prepare("imagenet", str(root), str(tmp_path / "other"))


def test_small_sets_are_neither_prepared_nor_streamed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cifar100-lt is small and needs no preparation"):
        prepare("cifar100-lt", None, str(tmp_path / "out"))
    with pytest.raises(ValueError, match="is small and cannot be streamed"):
        load_data("cifar100-lt", dataset_path=str(tmp_path), streaming=True)


def test_a_mistyped_source_is_no_obstacle(tmp_path: Path) -> None:
    root = miniature.imagenet_lt(tmp_path / "source")
    lists = {"train": str(root / "ImageNet_LT_train.txt")}
    with pytest.raises(OSError, match="not a local folder"):
        prepare("imagenet-lt", str(tmp_path / "sorce"), str(tmp_path / "out"), lists)
    prepare("imagenet-lt", str(root), str(tmp_path / "out"), lists)
    # The same folder by another name is the same.
    prepare("imagenet-lt", f"{root}/../source/", str(tmp_path / "out"), lists)


def test_neighbors_are_mixed_though_the_source_is_sorted(tmp_path: Path) -> None:
    root = miniature.imagenet_lt(tmp_path / "source")
    prepare("imagenet-lt", str(root), str(tmp_path / "out"))
    labels = np.load(tmp_path / "out" / "train-labels.npy")
    assert sorted(labels.tolist()) == [c for c, n in enumerate(miniature.TRAIN) for _ in range(n)]
    assert 0 < np.mean(labels[:20] == 0) < 0.9


# ---- stops


def test_a_second_time_there_is_nothing_to_do(tmp_path: Path) -> None:
    root = miniature.imagenet_lt(tmp_path / "source")
    prepare("imagenet-lt", str(root), str(tmp_path / "out"), shard_bytes=SMALL)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    prepare("imagenet-lt", str(root), str(tmp_path / "out"), shard_bytes=SMALL)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()} == before
    with pytest.raises(ValueError, match=r"different settings \(shard_bytes 20000 -> 9000\): use another --out"):
        prepare("imagenet-lt", str(root), str(tmp_path / "out"), shard_bytes=9000)
    with pytest.raises(ValueError, match="is not empty and has no preparation to resume"):
        prepare("imagenet-lt", str(root), str(tmp_path / "source"))


@pytest.mark.parametrize("source", ["tree", "hub"])
def test_a_damaged_shard_is_found_and_written_again(source: str, tmp_path: Path) -> None:
    tree = miniature.imagenet_lt(tmp_path / "tree")
    hub = miniature.imagenet_hub(tmp_path / "hub")
    lists = {"train": str(tree / "ImageNet_LT_train.txt")}
    arguments = ("imagenet-lt", str({"tree": tree, "hub": hub}[source]), str(tmp_path / "out"), lists)
    manifest = prepare(*arguments, shard_bytes=SMALL)
    whole = rows(tmp_path / "out", "train")
    shard = tmp_path / "out" / manifest.splits["train"]["shards"][1]["file"]
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    for attempt in (
        lambda: load_data("imagenet-lt", dataset_path=str(tmp_path / "out"), streaming=True),
        lambda: verify(str(tmp_path / "out")),
    ):
        with pytest.raises(OSError, match=rf"{shard.name} .* is truncated: \d+ bytes instead of \d+"):
            attempt()
    prepare(*arguments, shard_bytes=SMALL)
    assert rows(tmp_path / "out", "train") == whole
    shard.unlink()
    with pytest.raises(OSError, match=rf"{shard.name} .* is missing"):
        load_data("imagenet-lt", dataset_path=str(tmp_path / "out"), streaming=True)


def run(arguments: list[str], **kwargs) -> subprocess.Popen:
    command = [sys.executable, "-m", "paco_hf", "data", "prepare", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["tree", "hub"])
def test_killed_and_started_again_it_is_the_same(source: str, tmp_path: Path) -> None:
    tree = miniature.imagenet_lt(tmp_path / "tree")
    hub = miniature.imagenet_hub(tmp_path / "hub", shards=12)
    flags = ["imagenet-lt", "--source", str({"tree": tree, "hub": hub}[source]), "--shard_mib", "0.01"]
    flags += ["--list", str(tree / "ImageNet_LT_train.txt"), "--threads", "1"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = run([*flags, "--out", str(whole)])
    _, errors = ended(done)
    assert done.returncode == 0, errors
    pattern = "train-*.parquet" if source == "tree" else f"{module.PARTS}/train-*.parquet"
    for count in (1, 4):
        process = run([*flags, "--out", str(killed)])
        kill_when(process, lambda count=count: len(list(killed.glob(pattern))) >= count)
        assert not (killed / "manifest.json").exists()
        with pytest.raises(OSError, match="run it again if it was interrupted"):
            load_data("imagenet-lt", dataset_path=str(killed), streaming=True)
    last = run([*flags, "--out", str(killed)])
    _, errors = ended(last)
    assert last.returncode == 0, errors
    for split in ("train", "test"):
        assert rows(killed, split) == rows(whole, split)
    assert (killed / "manifest.json").read_text() == (whole / "manifest.json").read_text()
    assert not list(killed.glob("**/*.partial"))


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_that_looks_complete(tmp_path: Path) -> None:
    # A limit on the size of files stands in for a full disk: writing fails in the middle of a shard.
    root = miniature.imagenet_lt(tmp_path / "source")
    flags = ["imagenet-lt", "--source", str(root), "--out", str(tmp_path / "out")]
    resource = pytest.importorskip("resource", reason="of POSIX")
    process = run(flags, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)))
    output, errors = ended(process)
    assert process.returncode == 2, output
    assert len(errors.splitlines()) == 1
    assert "run the same command again to resume" in errors
    assert not list((tmp_path / "out").glob("*.parquet*"))
    assert not (tmp_path / "out" / "manifest.json").exists()
    again = run(flags)
    ended(again)
    assert again.returncode == 0
    assert len(rows(tmp_path / "out", "train")) == 40


def test_a_source_that_changes_between_stop_and_start_is_refused(tmp_path: Path, monkeypatch) -> None:
    root = miniature.imagenet(tmp_path / "source")
    out = tmp_path / "out"
    write, calls = prepare_images.write_images, []

    def stops(*arguments) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise PermissionError(13, "Permission denied")
        write(*arguments)

    monkeypatch.setattr(prepare_images, "write_images", stops)
    with pytest.raises(OSError, match="run the same command again to resume"):
        prepare("imagenet", str(root), str(out), shard_bytes=SMALL, threads=1)
    monkeypatch.undo()
    gone = root / "train/n01440764/n01440764_1.JPEG"
    content = gone.read_bytes()
    gone.unlink()
    with pytest.raises(ValueError, match="the images of the source have changed since"):
        prepare("imagenet", str(root), str(out), shard_bytes=SMALL)
    gone.write_bytes(content)
    prepare("imagenet", str(root), str(out), shard_bytes=SMALL)
    assert len(rows(out, "train")) == 40


def test_shards_of_other_images_are_not_taken_for_the_sources(tmp_path: Path) -> None:
    root = miniature.imagenet(tmp_path / "source")
    prepare("imagenet", str(root), str(tmp_path / "one"), shard_bytes=SMALL)
    (tmp_path / "two").mkdir()
    plan = (tmp_path / "one" / "plan.json").read_text()
    (tmp_path / "two" / "plan.json").write_text(plan)
    shards = sorted((tmp_path / "one").glob("train-*.parquet"))
    # The first shard stands in the place of the second.
    (tmp_path / "two" / shards[1].name).write_bytes(shards[0].read_bytes())
    with pytest.raises(ValueError, match=r"the shards of the train split .* do not contain the images of"):
        prepare("imagenet", str(root), str(tmp_path / "two"), shard_bytes=SMALL)
    assert not (tmp_path / "two" / "manifest.json").exists()


def test_other_columns_are_another_preparation(tmp_path: Path) -> None:
    hub = miniature.imagenet_hub(tmp_path / "hub")
    prepare("mine", str(hub), str(tmp_path / "out"), label_column="label")
    with pytest.raises(ValueError, match=r"different settings \(columns \[None, 'label'\] -> \['image', 'label'\]"):
        prepare("mine", str(hub), str(tmp_path / "out"), image_column="image", label_column="label")


def test_what_is_damaged_beside_the_shards_is_written_again(tmp_path: Path) -> None:
    root, out = miniature.imagenet_lt(tmp_path / "source"), tmp_path / "out"
    prepare("imagenet-lt", str(root), str(out), shard_bytes=SMALL)
    manifest, labels = (out / "manifest.json").read_bytes(), (out / "train-labels.npy").read_bytes()
    for damage in (
        (out / "train-labels.npy").unlink,
        lambda: (out / "manifest.json").write_bytes(manifest[: len(manifest) // 2]),
        lambda: (out / "manifest.json").write_text('{"format": "paco_hf shards 1"}'),
    ):
        damage()
        with pytest.raises((OSError, ValueError), match="prepare"):
            load_data("imagenet-lt", dataset_path=str(out), streaming=True)
        prepare("imagenet-lt", str(root), str(out), shard_bytes=SMALL)
        assert (out / "manifest.json").read_bytes() == manifest
        assert (out / "train-labels.npy").read_bytes() == labels
    (out / "parts").mkdir()
    prepare("imagenet-lt", str(root), str(out), shard_bytes=SMALL)
    assert not (out / "parts").exists()
    (out / "plan.json").write_text("{")
    with pytest.raises(ValueError, match=r"plan.json is damaged"):
        prepare("imagenet-lt", str(root), str(out), shard_bytes=SMALL)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    root = miniature.imagenet_lt(tmp_path / "source")
    with sole_owner(tmp_path / "out", "x", "y"), pytest.raises(OSError, match="out is in use: x, process"):
        prepare("imagenet-lt", str(root), str(tmp_path / "out"))
    prepare("imagenet-lt", str(root), str(tmp_path / "out"))


# ---- bad sources


def test_images_that_the_source_lacks(tmp_path: Path) -> None:
    tree = miniature.imagenet_lt(tmp_path / "tree")
    hub = miniature.imagenet_hub(tmp_path / "hub", surplus=-1)
    lists = {"train": str(tree / "ImageNet_LT_train.txt")}
    with pytest.raises(ValueError, match=r"4 of the 40 images of the train list are not in the source: n01440764_19"):
        prepare("imagenet-lt", str(hub), str(tmp_path / "out"), lists)
    assert not (tmp_path / "out" / "manifest.json").exists()
    (tree / "train/n01440764/n01440764_3.JPEG").unlink()
    with pytest.raises(ValueError, match=r"1 of the 40 images of ImageNet_LT_train.txt are not in"):
        prepare("imagenet-lt", str(tree), str(tmp_path / "other"))


def test_labels_that_contradict_the_list(tmp_path: Path) -> None:
    tree = miniature.imagenet_lt(tmp_path / "tree")
    hub = miniature.imagenet_hub(tmp_path / "hub")
    text = (tree / "ImageNet_LT_train.txt").read_text()
    swapped = text.replace("JPEG 0", "JPEG x").replace("JPEG 1", "JPEG 0").replace("JPEG x", "JPEG 1")
    (tree / "swapped.txt").write_text(swapped)
    with pytest.raises(ValueError, match=r"has label \d in the source, but \d in the train list"):
        prepare("imagenet-lt", str(hub), str(tmp_path / "out"), {"train": str(tree / "swapped.txt")})


def test_a_truncated_source_shard(tmp_path: Path) -> None:
    tree = miniature.imagenet_lt(tmp_path / "tree")
    hub = miniature.imagenet_hub(tmp_path / "hub")
    file = sorted(hub.glob("train*"))[1]
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(OSError, match=rf"{file.name} is truncated or not a parquet file"):
        prepare("imagenet-lt", str(hub), str(tmp_path / "out"), {"train": str(tree / "ImageNet_LT_train.txt")})


def test_the_same_image_twice(tmp_path: Path) -> None:
    tree = miniature.imagenet_lt(tmp_path / "tree")
    hub = miniature.imagenet_hub(tmp_path / "hub")
    first = sorted(hub.glob("train*"))[0]
    (hub / "train-again.parquet").write_bytes(first.read_bytes())
    with pytest.raises(ValueError, match=r"\d+ images of the train split are in the source twice"):
        prepare("imagenet-lt", str(hub), str(tmp_path / "out"), {"train": str(tree / "ImageNet_LT_train.txt")})


def test_where_a_source_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inat2018 has no default repository on the Hub: set --source"):
        prepare("inat2018", None, str(tmp_path / "out"))
    with pytest.raises(ValueError, match="no list of the imagenet-lt training images"):
        prepare("imagenet-lt", None, str(tmp_path / "out"))
    tree = miniature.imagenet_lt(tmp_path / "tree")
    with pytest.raises(OSError, match="cannot be loaded from the Hub"):
        prepare("imagenet-lt", None, str(tmp_path / "out"), {"train": str(tree / "ImageNet_LT_train.txt")})


# ---- verify and stats


def test_verify_finds_what_was_changed(tmp_path: Path) -> None:
    root = miniature.imagenet_lt(tmp_path / "source")
    manifest = prepare("imagenet-lt", str(root), str(tmp_path / "out"), shard_bytes=SMALL)
    right, wrong = verify(str(tmp_path / "out"))
    assert f"train: 40 images in {len(manifest.splits['train']['shards'])} shards, as prepared" in right
    assert all("published" in line for line in wrong)

    shard = manifest.splits["train"]["shards"][0]
    table = pq.read_table(tmp_path / "out" / shard["file"])
    labels = [(label + 1) % 4 for label in table["label"].to_pylist()]
    pq.write_table(table.set_column(1, table.schema.field("label"), [labels]), tmp_path / "out" / shard["file"])
    content = json.loads((tmp_path / "out" / "manifest.json").read_text())
    content["splits"]["train"]["shards"][0]["bytes"] = (tmp_path / "out" / shard["file"]).stat().st_size
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(content))
    _, wrong = verify(str(tmp_path / "out"))
    text = "; ".join(wrong)
    assert "the images are not those that were prepared" in text
    assert f"{len(labels)} images have a different label" in text


def test_stats(tmp_path: Path, capsys) -> None:
    root = miniature.imagenet_lt(tmp_path / "source")
    prepare("imagenet-lt", str(root), str(tmp_path / "out"))
    assert split_counts(str(tmp_path / "out")) == {"train": miniature.TRAIN, "test": [2, 2, 2, 2]}
    assert split_counts(str(root / "ImageNet_LT_train.txt")) == {"ImageNet_LT_train.txt": miniature.TRAIN}
    assert split_counts("builtin")["train"][0] == 250
    text = describe_counts("train", [200, 100, 20, 19, 2])
    assert "341 images, 5 classes, 200 to 2 images per class, imbalance factor 100" in text
    assert "(20 to 100), few (< 20) images: 1, 2, 2" in text
    bars = [line.count("#") for line in text.splitlines()[2:]]
    assert bars == sorted(bars, reverse=True)
    assert bars[0] == 2 * bars[1]

    from paco_hf.cli import main

    assert main(["data", "stats", str(tmp_path / "out"), "--plot", str(tmp_path / "counts.png")]) == 0
    assert "imbalance factor 5" in capsys.readouterr().out
    assert (tmp_path / "counts.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "imagenet_lt", "--out", "y"], "cannot be loaded from the Hub"),
        (["prepare", ".", "--source", ".", "--out", "y"], "not for '.'"),
        (
            ["prepare", "imagenet-lt", "--out", "y", "--list", "http://a", "http://b"],
            "two lists for train: pass",
        ),
        (["prepare", "imagenet-lt", "--out", "y", "--shard_mib", "0"], "must be positive"),
        (["verify", "no/where/at/all"], "no/where/at/all does not exist: pass a folder, a file, a URL"),
        (["stats", "nowhere.txt"], "nowhere.txt does not exist: pass a folder, a file"),
        (["prepare", "imagenet-lt"], "--out"),
        ([], "ACTION"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str, capsys) -> None:
    from paco_hf.cli import main

    assert main(["data", *arguments]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert len(errors.splitlines()) == 1
