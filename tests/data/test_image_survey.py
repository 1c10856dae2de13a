"""Looking at the images before training: by processes, in part, by headers alone, once for all processes; and what is
damaged all the same when it is trained on."""

import errno
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from fresh_processes import FreshProcesses, rank_environments
from PIL import Image
from user_data import SHORT, complaint, folders, printed

from paco_hf.arguments.parser import parse_run
from paco_hf.data import image_checks, image_survey, images
from paco_hf.data.image_checks import automatic_inspection, check_images, check_scored, describe_effort, survey
from paco_hf.data.image_survey import look_at
from paco_hf.data.images import Images, LabeledImages
from paco_hf.data.loading import load_data
from paco_hf.utils import worker_pool
from paco_hf.utils.images import ImageReadError, open_image
from paco_hf.utils.worker_pool import in_blocks
from paco_hf.workflows.prepare_data import load_checked, split_data


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return folders(tmp_path / "photos", {"cat": 10, "dog": 10})


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start them after the first block, however few cores there are."""
    monkeypatch.setattr(worker_pool, "PATIENCE", -1.0)
    monkeypatch.setattr(worker_pool, "usable_cores", lambda: 2)


def cut(file: Path) -> None:
    """Leave of an image its header and a part of its pixels."""
    file.write_bytes(file.read_bytes()[:300])


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """How often this process decodes each image, by its row."""
    counts, decode = Counter(), LabeledImages.open

    def count(self: LabeledImages, index: int, small: bool = False) -> Any:
        counts[self.source_row(int(index))] += 1
        return decode(self, index, small)

    monkeypatch.setattr(LabeledImages, "open", count)
    return counts


def _process(state: int, block: int) -> tuple[int, int]:
    return os.getpid(), state + block


def _die(state: int, block: int) -> int:
    if os.getpid() != state:
        os._exit(9)
    return block


def test_blocks_are_worked_on_by_processes_in_their_order(two_processes: None) -> None:
    processes, results = zip(*in_blocks(_process, 100, range(40)), strict=True)
    assert results == tuple(range(100, 140))
    assert processes[0] == os.getpid()
    assert os.getpid() not in processes[1:]
    with pytest.raises(OSError, match="one of 2 processes that check images exited: if memory is too small"):
        list(in_blocks(_die, os.getpid(), range(40)))


def test_one_core_and_little_work_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {process for process, _ in in_blocks(_process, 0, range(3))} == {os.getpid()}
    monkeypatch.setattr(worker_pool, "PATIENCE", -1.0)
    monkeypatch.setattr(worker_pool, "usable_cores", lambda: 1)
    assert {process for process, _ in in_blocks(_process, 0, range(3))} == {os.getpid()}


def test_processes_see_what_one_does(
    photos: Path, two_processes: None, monkeypatch: pytest.MonkeyPatch, surveys: Path
) -> None:
    cut(photos / "cat" / "3.png")
    monkeypatch.setattr(image_survey, "_BLOCK", {"full": 4, "headers": 4})
    train = load_data(str(photos)).train
    several = look_at(train, keep=True)
    assert sorted(train.decoded) == [row for row in range(20) if row != 3]
    for file in surveys.iterdir():
        file.unlink()
    monkeypatch.setattr(worker_pool, "usable_cores", lambda: 1)
    alone = look_at(load_data(str(photos)).train)
    assert (several.pixels, several.errors, several.sizes) == (alone.pixels, alone.errors, alone.sizes)
    assert [*several.errors] == [3]
    assert len({*several.pixels}) == 20


def test_a_stop_loses_no_more_than_a_minute(
    photos: Path, opened: Counter, monkeypatch: pytest.MonkeyPatch, surveys: Path
) -> None:
    monkeypatch.setattr(image_survey, "_BLOCK", {"full": 4})
    monkeypatch.setattr(image_survey, "_KEEP", -1.0)
    decode = LabeledImages.open

    def stop(self: LabeledImages, index: int, small: bool = False) -> Any:
        if index == 13:
            os._exit(9)  # as if it was killed
        return decode(self, index, small)

    if not (pid := os.fork()):
        monkeypatch.setattr(LabeledImages, "open", stop)
        look_at(load_data(str(photos)).train)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    (partly,) = surveys.glob("*.partial")
    with partly.open("a", encoding="utf-8") as file:  # cut off in the middle of a line
        file.write("\n[[12, 13], [")
    contents = look_at(load_data(str(photos)).train)
    assert opened == Counter(range(12, 20))
    assert not contents.stored
    assert [file.suffix for file in surveys.iterdir()] == [".json"]
    assert look_at(load_data(str(photos)).train).pixels == contents.pixels
    assert sum(opened.values()) == 8


def test_what_is_kept_in_memory_is_decoded_once(
    photos: Path,
    opened: Counter,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    no_rehearsal: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(image_checks, "_LONG", -1.0)
    sampled = Counter(row for times in range(8) for row in range(20))  # a few times a few, to see their sizes
    out = printed(capsys, "--dataset", str(photos), *SHORT, "--dry_run", "--output_dir", str(tmp_path / "run"))
    assert "image check of 20 images of 0.0 GB by decoding: about 1 min on " in out
    assert "all 20 images can be decoded: 16 x 16 pixels" in out
    assert len(opened) == 20
    assert sum(opened.values()) <= 20 + 8 * 4 < sum(sampled.values())
    data = load_data(str(photos))
    opened.clear()
    checks = check_images(data)
    assert not opened  # what the dry run saw
    assert len(Images(checks.data.train).pixels()) == 20


def test_headers(tmp_path: Path, photos: Path, opened: Counter) -> None:
    folders(photos.parent / "split" / "test", {"cat": 2, "dog": 2}, start=60)
    photos.rename(photos.parent / "split" / "train")
    root = photos.parent / "split"
    cut(root / "train" / "cat" / "3.png")  # whose header is whole
    (root / "test" / "dog" / "1.png").write_bytes((root / "train" / "dog" / "1.png").read_bytes())
    checks = check_images(data := load_data(str(root)), outcome=survey(data, "headers"))
    assert {*opened} <= {0, 1, 2, 3}  # those of the test
    assert checks.lines[0].startswith("all 24 images have readable headers: 16 x 16 pixels; training images are")
    assert checks.lines[1] == "1 exact duplicate, 1 across splits"
    assert np.flatnonzero(checks.duplicates).tolist() == [11]
    assert [*checks.pixels["train"]] == ["headers"]
    # Files of one length that begin and end alike are read.
    long = bytes(range(256)) * 40
    for name, content in (("a", long), ("b", long), ("c", long[:5000] + b"another" + long[5007:])):
        image = (root / "train" / "cat" / "0.png").read_bytes()
        (root / "train" / "dog" / f"{name}.png").write_bytes(image + content)
    for file, content in (("0.png", b""), ("1.png", b"no image")):
        (root / "train" / "cat" / file).write_bytes(content)
    cut(root / "test" / "cat" / "0.png")
    data = load_data(str(root))
    checks = check_images(data, True, survey(data, "headers"))
    assert [len(split.labels) for split in checks.data.splits.values()] == [21, 3]
    assert "excluded because they cannot be decoded: 3 images" in checks.data.notes[-1]
    assert checks.lines[1] == "2 exact duplicates, 1 across splits"
    twins = [checks.data.train.describe(row) for row in np.flatnonzero(checks.duplicates)]
    assert twins == ["train/dog/1.png", "train/dog/a.png", "train/dog/b.png"]
    with pytest.raises(ValueError, match=r"3 of the 27 images cannot be decoded: .*cat/0\.png.*cat/1\.png"):
        check_images(data, outcome=survey(data, "headers"))


def test_many_images_are_looked_at_by_their_headers(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, no_rehearsal: None
) -> None:
    cut(photos / "cat" / "3.png")
    run = tmp_path / "run"
    argv = ["--dataset", str(photos), *SHORT, "--output_dir", str(run), "--test_fraction", "0"]
    argv += ["--validation_fraction", "0"]
    monkeypatch.setattr(image_checks, "MANY_BYTES", 10_000)
    assert automatic_inspection(load_data(str(photos))) == "headers"
    monkeypatch.setattr(image_checks, "MANY_IMAGES", 19)
    monkeypatch.setattr(image_checks, "pool_size", lambda: 2)
    out = printed(capsys, *argv)
    note = "image check of 20 images of 0.0 GB: training images are checked by their headers only (--inspect full"
    assert f"{note} decodes them in about 1 min on " in out
    assert "hint: each epoch opens 20 files, about 0.0 min of reading, estimated from 64 files; " in out
    assert f"`paco-hf data prepare {photos} --out FOLDER` copies them into 1 large file, " in out
    assert describe_effort(load_data(str(photos)), "none")[0].startswith("hint: each epoch opens 20 files, ")
    note = "damaged training images replaced with others of their classes: 1 image of 20 (cat/3.png)"
    assert f"WARNING: {note}" in out
    assert note in json.loads((run / "run.json").read_text())["notes"]
    assert yaml.safe_load((run / "recipe.yaml").read_text())["inspect"] == "headers"
    # What is split off follows how a run was begun, whatever would be chosen now.
    monkeypatch.undo()
    (run / "metrics.json").unlink()
    out = printed(capsys, *argv, "--resume")
    assert "with changed settings" not in out
    assert note in out
    (run / "metrics.json").unlink()
    line = complaint(capsys, "train", *argv, "--resume", "--strict", "true")
    assert "image 3 of" in line
    assert "cat/3.png) cannot be decoded as an image" in line


def test_images_that_are_split_off_are_decoded(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture, no_rehearsal: None
) -> None:
    argv = ["--dataset", str(photos), *SHORT, "--dry_run", "--output_dir", str(tmp_path / "run")]
    argv += ["--inspect", "headers", "--test_fraction", "0.5"]
    printed(capsys, *argv)
    for name in ("cat", "dog"):
        for file in (photos / name).iterdir():
            cut(file)
    line = complaint(capsys, "train", *argv)
    assert "of the 12 images split off for evaluation cannot be decoded: image " in line
    assert "use --inspect full --skip_undecodable true" in line


@pytest.mark.parametrize("in_memory", [True, False])
def test_what_is_split_off_is_decoded_once(
    in_memory: bool, photos: Path, opened: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_data(str(photos))
    checks = check_images(data, outcome=survey(data, "headers"))
    part = checks.data.train.select([*range(5, 15)], split_off=True)
    if not in_memory:
        monkeypatch.setattr(images, "_DECODED_LIMIT", 0)
    check_scored(checks, [part])
    assert sorted(part.decoded) == [*range(5, 15)] * in_memory
    assert {*opened} == {*range(5, 15)}
    opened.clear()
    assert (Images(part).decoded is not None) == in_memory
    assert sum(opened.values()) == 8  # a few, to see their sizes


def test_small_jpegs_tell_what_whole_ones_do(tmp_path: Path) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    for options in ({}, {"progressive": True}, {"subsampling": 0}):
        photo.save(file := tmp_path / "photo.jpg", **options)
        content = file.read_bytes()
        assert open_image(file, "it", small=True).size == (8, 5)
        for length in range(0, len(content), 97):
            file.write_bytes(content[:length])
            messages = []
            for small in (False, True):
                with pytest.raises(ValueError, match="it cannot be decoded as an image") as caught:
                    open_image(file, "it", small)
                messages.append(str(caught.value))
            assert messages[0] == messages[1]


@pytest.mark.parametrize(
    "failure", [OSError(errno.EMFILE, "Too many open files"), OSError(errno.EIO, "I/O error"), MemoryError()]
)
@pytest.mark.parametrize("in_memory", [True, False])
def test_what_cannot_be_read_may_be_whole(
    failure: Exception, in_memory: bool, photos: Path, monkeypatch: pytest.MonkeyPatch, surveys: Path
) -> None:
    monkeypatch.setattr(images, "_DECODED_LIMIT", 2**30 * in_memory)
    cut(photos / "cat" / "3.png")
    split, read = load_data(str(photos)).train, Image.open

    def failing(source: Any, *arguments: Any) -> Any:
        if str(source if isinstance(source, str) else source.name).endswith("dog/4.png"):
            raise failure
        return read(source, *arguments)

    monkeypatch.setattr(Image, "open", failing)
    with pytest.raises(ImageReadError, match=r"dog/4\.png\) cannot be read: .*; fix that, then"):
        Images(split, tolerant=True)[14]
    for depth in ("full", "headers"):
        with pytest.raises(ImageReadError, match=r"dog/4\.png\) cannot be read: "):
            look_at(split, depth)
    monkeypatch.setattr(Image, "open", read)
    assert [*look_at(split).errors] == [3]  # nothing else is kept as damaged


def test_who_has_substitutes(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_DECODED_LIMIT", 0)
    argv = ["--dataset", str(photos), *SHORT, "--output_dir", str(tmp_path / "run")]
    argv += ["--test_fraction", "0", "--validation_fraction", "0", "--inspect"]
    whole = (damaged := photos / "cat" / "3.png").read_bytes()

    def read(*flags: str) -> Image.Image:
        damaged.write_bytes(whole)
        run, args = parse_run([*argv, *flags])
        data = split_data(run, args, load_checked(run, args))
        cut(damaged)  # after the look
        return data.images["train"][3]

    assert read("headers").tobytes() == read("none").tobytes() == Image.open(photos / "cat" / "4.png").tobytes()
    for flags in (["full"], ["headers", "--strict", "true"]):
        with pytest.raises(ValueError, match="cannot be decoded as an image"):
            read(*flags)


def test_substitutes_are_in_no_fold(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    photos = folders(tmp_path / "photos", {"cat": 12, "dog": 12}, size=(64, 64))
    for name in ("cat/3", "dog/7"):
        cut(photos / f"{name}.png")
    argv = ["--dataset", str(photos), *SHORT, "--output_dir", str(run := tmp_path / "run"), "--inspect", "headers"]
    argv += ["--freeze_backbone", "true", "--cross_validation", "2", "--test_fraction", "0", "--image_size", "32"]
    out = printed(capsys, *argv)
    assert (
        "damaged training images replaced with others of their classes: 2 images of 24 (cat/3.png, dog/7.png)" in out
    )
    assert json.loads((run / "metrics.json").read_text())["cross_validation"]["images"] == 22
    rows = pq.read_table(run / "evaluation-validation" / "predictions.parquet").to_pylist()
    names = {value for row in rows for value in row.values() if isinstance(value, str)}
    assert len(rows) == 22
    assert not any(name.endswith(("cat/3.png", "dog/7.png")) for name in names)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_damaged_image_has_one_substitute(in_memory: bool, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not in_memory:
        monkeypatch.setattr(images, "_DECODED_LIMIT", 0)
    for name in ("cat/3", "cat/4", "dog/9"):
        cut(photos / f"{name}.png")
    split = load_data(str(photos)).train
    tolerant = Images(split, tolerant=True)
    assert (tolerant.decoded is not None) == in_memory
    for index, other in ((3, 5), (4, 5), (19, 10), (3, 5)):
        assert tolerant[index].tobytes() == split.open(other).tobytes()
    assert tolerant[6].tobytes() == split.open(6).tobytes()
    assert tolerant.damaged() == [3, 4, 19]
    with pytest.raises(ValueError, match=r"cat/3\.png\) cannot be decoded"):
        Images(split)[3]
    for file in (photos / "dog").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"no image of the class 'dog' of .* can be decoded: replace its images"):
        Images(split, tolerant=True)[13]


def test_workers_tell_what_they_met(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_DECODED_LIMIT", 0)
    cut(photos / "dog" / "2.png")
    argv = ["--dataset", str(photos), *SHORT, "--output_dir", str(tmp_path / "run"), "--inspect", "none"]
    argv += ["--dataloader_num_workers", "1", "--test_fraction", "0", "--validation_fraction", "0"]
    note = "damaged training images replaced with others of their classes: 1 image of 20 (dog/2.png)"
    assert note in printed(capsys, *argv)


RANK = """
import time, torch.distributed as dist
from datetime import timedelta
from paco_hf.utils.distributed import gather_objects
from paco_hf.utils.main_process import computed_once

dist.init_process_group("gloo", timeout=timedelta(seconds=2))

def look():
    time.sleep(3)
    return {"from": dist.get_rank()}

def refuse():
    raise ValueError("no data")

print(computed_once(look), gather_objects(dist.get_rank()))
try:
    computed_once(refuse)
except ValueError as error:
    print(error)
dist.destroy_process_group()
"""


def test_ranks_wait_for_the_first_however_long_it_takes(with_trainer: FreshProcesses) -> None:
    printed = with_trainer.run(RANK, RANK, environments=rank_environments(2))
    assert printed == ["{'from': 0} [0, 1]\nno data\n"] * 2


LOAD = """
import os
import datasets
datasets.config.HF_DATASETS_CACHE = {cache!r} + os.environ["RANK"]  # nodes without a disk in common
from paco_hf.arguments.parser import parse_run
from paco_hf.data.images import LabeledImages
from paco_hf.workflows.prepare_data import load_checked, split_data

opened, decode = [], LabeledImages.open
LabeledImages.open = lambda self, index, small=False: opened.append(index) or decode(self, index, small)
run, args = parse_run(["--dataset", {photos!r}, "--use_cpu", "--output_dir", {out!r}])
checks = load_checked(run, args)
print(len(opened) >= 20, checks.data.notes, checks.pixels["train"], checks.duplicates.tolist().count(True))
"""


def test_one_rank_looks_for_all(photos: Path, tmp_path: Path, with_trainer: FreshProcesses) -> None:
    (photos / "dog" / "1.png").write_bytes((photos / "cat" / "1.png").read_bytes())
    code = LOAD.format(cache=str(tmp_path / "cache"), photos=str(photos), out=str(tmp_path / "run"))
    first, second = with_trainer.run(code, code, environments=rank_environments(2))
    line = first.splitlines()[-1]
    assert line.startswith("True ")
    assert line.endswith(" 2")
    assert second.splitlines()[-1] == line.replace("True", "False")
