"""How fast prepared images stream in, in how much memory and how well mixed: `python -m benchmarks.streaming`.

Makes its own JPEGs, prepares them as `paco-hf data prepare` does, and reads them as `paco-hf train --streaming` does.
All of it lies in a temporary folder (some 5 GB with the default settings) and is removed again.
"""

import argparse
import io
import json
import multiprocessing
import os
import pickle
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from tqdm.auto import tqdm
from transformers import BitImageProcessor

from paco_hf.data.augmentation.transforms import build_view
from paco_hf.data.images import Images
from paco_hf.data.loading import load_data
from paco_hf.data.long_tail import long_tailed_counts, stratified_split
from paco_hf.data.samplers import EpochSampler, StreamSampler
from paco_hf.data.sources.folders import class_folders
from paco_hf.data.sources.hf_tables import image_tables
from paco_hf.data.sources.source import label_tables
from paco_hf.data.spec import DataSpec
from paco_hf.data.streaming.manifest import LANES, ROWS_PER_GROUP, Manifest, labels_name
from paco_hf.data.streaming.prepare import prepare
from paco_hf.data.streaming.sharded_images import ShardedImages
from paco_hf.data.torch_datasets import ImageCollator, ViewsDataset
from paco_hf.utils.memory import keep_freed_memory

from .bench import write_json
from .machine import BUSY, describe

PARTS = ("speed", "memory", "reads", "order")
VIEW_SIZE = 224
CLASSES = 8  # folders of the images that are really made
POOL = 64  # distinct pictures
SHUFFLE_BUFFER = 4096  # as `--shuffle_buffer`
VIEWS = {"none": ["none"], "crop": ["crop"], "regular": ["regular"], "paco": ["randcls-n2-m10", "sim"]}
SHARES = {"of_decode": 11, "of_processes": 11, "of_steps": 13}  # columns and their widths
DECODE, BATCH = "decode (PIL alone)", "batch and normalize, a view"  # steps
PHOTO, STAMP = (500, 375), (64, 48)
IMAGENET_LT = {"images": 115_846, "classes": 1000, "largest": 1280, "smallest": 5, "shard": 3800}  # 400 MiB a shard


# ---- images


def photo(seed: int, size: tuple[int, int]) -> bytes:
    """A JPEG of noise on all scales, whose fine detail is about that of a photograph: 100 KB at 500x375."""
    generator = np.random.default_rng(seed)
    total = np.full((size[1], size[0], 3), 128, np.float32)
    side, amplitude = 4, 48.0
    while side <= max(size):
        rows = max(side * size[1] // size[0], 2)
        gray = generator.normal(0, amplitude, (rows, side)).astype(np.float32)
        for channel in range(3):
            plane = gray + generator.normal(0, amplitude / 4, (rows, side)).astype(np.float32)
            total[..., channel] += np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC))
        side, amplitude = side * 2, amplitude * 0.95
    file = io.BytesIO()
    Image.fromarray(total.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def prepared(folder: Path, images: int, pool: list[bytes], link: bool) -> tuple[Path, Path]:
    """Class folders of `images` files, as links to a few or each with its own content, and the same prepared."""
    tree, out = folder / "tree", folder / "prepared"
    originals: list[Path] = []
    folder.mkdir(parents=True)
    for number, content in enumerate(pool):
        originals.append(folder / f"{number}.jpg")
        originals[-1].write_bytes(content)
    for split, count in (("train", images), ("test", CLASSES)):
        for label in range(CLASSES):
            (tree / split / f"class{label}").mkdir(parents=True)
        for i in range(count):
            path = tree / split / f"class{i % CLASSES}" / f"{i:07d}.jpg"
            original = originals[i % len(originals)]
            if link:
                os.link(original, path)
            else:
                shutil.copyfile(original, path)
    prepare("synthetic", str(tree), str(out), threads=1)
    return tree, out


# ---- the input as training builds it


def _nothing(image: Image.Image) -> torch.Tensor:
    return torch.zeros(3, 1, 1, dtype=torch.uint8)


def views_of(name: str) -> list[Any]:
    """`none` makes nothing of the image: reading and decoding alone. `crop` is `regular` without the jitter."""
    if name == "none":
        return [_nothing]
    crop = [v2.RandomResizedCrop(VIEW_SIZE, scale=(0.08, 1.0), antialias=True), v2.RandomHorizontalFlip()]
    if name == "crop":
        return [v2.Compose([*crop, v2.PILToTensor()])]
    return [build_view(view, VIEW_SIZE) for view in VIEWS[name]]


def collator() -> ImageCollator:
    return ImageCollator(BitImageProcessor(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]))


def stream_loader(root: Path, views: list[Any], workers: int, batch: int, buffer: int) -> DataLoader:
    """The training images of a prepared folder, as the trainer reads them."""
    split = load_data(str(root), streaming=True, window=max(buffer, LANES * batch)).train
    dataset = ViewsDataset(Images(split), split.labels, views)
    sampler = StreamSampler(np.asarray(split.groups), batch, LANES, buffer, seed=0)
    return DataLoader(dataset, batch, sampler=sampler, num_workers=workers, collate_fn=collator())


class Undecoded:
    """As `Images` of a set that is too large to be kept decoded."""

    def __init__(self, split: Any) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split.labels)

    def __getitem__(self, index: int) -> Image.Image:
        opened: Image.Image = self.split.open(index)
        return opened


def folder_loader(tree: Path, views: list[Any], workers: int, batch: int) -> DataLoader:
    """The same images out of their folders, in a random order."""
    read = class_folders(tree / "train")
    tables = image_tables({"train": (read.files, read.labels)}, read.folders)
    split = label_tables(DataSpec("tree"), tables).splits["train"]
    dataset = ViewsDataset(Undecoded(split), split.labels, views)
    sampler = EpochSampler(len(read.labels), seed=0)
    return DataLoader(dataset, batch, sampler=sampler, num_workers=workers, collate_fn=collator())


# ---- speed


def timed_pass(loader: DataLoader) -> dict[str, float]:
    """Seconds of a pass up to its last batch, up to its first, and from the last to the end of the loop."""
    start = time.perf_counter()
    arrivals = []
    for _ in loader:
        arrivals.append(time.perf_counter())
    end = time.perf_counter()
    return {"seconds": arrivals[-1] - start, "first": arrivals[0] - start, "tail": end - arrivals[-1]}


def decode_all(contents: list[bytes]) -> None:
    for content in contents:
        Image.open(io.BytesIO(content)).convert("RGB")


def timed_decode(contents: list[bytes], processes: int) -> dict[str, float]:
    """PIL alone on files in memory; more processes are started anew, as those of a data loader are."""
    start = time.perf_counter()
    if processes <= 1:
        decode_all(contents)
    else:
        context = multiprocessing.get_context("fork")
        started = [context.Process(target=decode_all, args=(contents[i::processes],)) for i in range(processes)]
        for process in started:
            process.start()
        for process in started:
            process.join()
    return {"seconds": time.perf_counter() - start, "first": 0.0, "tail": 0.0}


def take_turns(
    sides: dict[str, Callable[[], dict[str, float]]], rounds: int, title: str
) -> dict[str, dict[str, float]]:
    """The median of what each side returns, the sides taking turns; an untimed turn of the first comes before."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    next(iter(sides.values()))()
    with tqdm(total=rounds * len(sides), desc=title, unit=" turns", disable=None, leave=False) as progress:
        for _ in range(rounds):
            for name, side in sides.items():
                results[name].append(side())
                progress.update()
    return {
        name: {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
        for name, turns in results.items()
    }


def measure_speed(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Passes over the same images by each way of reading them."""
    pool = [photo(seed, PHOTO) for seed in tqdm(range(min(POOL, args.images)), desc="photos", disable=None)]
    tree, out = prepared(scratch / "speed", args.images, pool, link=False)
    contents = [pool[i % len(pool)] for i in range(args.images)]
    several = max(args.workers)
    keep_freed_memory()  # as training does before its workers start

    def stream(view: str, workers: int) -> Callable[[], dict[str, float]]:
        return lambda: timed_pass(stream_loader(out, views_of(view), workers, args.batch, SHUFFLE_BUFFER))

    def folder(workers: int) -> Callable[[], dict[str, float]]:
        return lambda: timed_pass(folder_loader(tree, views_of("crop"), workers, args.batch))

    sides: dict[str, Callable[[], dict[str, float]]] = {"decode": lambda: timed_decode(contents, 1)}
    if several > 1:
        sides[f"decode {several} processes"] = lambda: timed_decode(contents, several)
    for view in args.views:
        sides |= {f"stream {view} {workers}w": stream(view, workers) for workers in args.workers}
    sides |= {f"folder crop {workers}w": folder(workers) for workers in args.workers}
    turns = take_turns(sides, args.rounds, "speed")
    bare = args.images / turns["decode"]["seconds"]
    costs = measure_costs(args, out, contents)
    rows = []
    for name, turn in turns.items():
        row = {"name": name, "images_s": args.images / turn["seconds"], "first_s": turn["first"]}
        workers = int(name.split()[-1][:-1]) if name.endswith("w") else several if "processes" in name else 1
        row |= {"tail_s": turn["tail"], "of_decode": row["images_s"] / (bare * max(workers, 1))}
        if several > 1 and workers == several:
            row["of_processes"] = row["images_s"] * turns[f"decode {several} processes"]["seconds"] / args.images
        if turn["first"]:
            view = name.split()[1]
            alone = costs[DECODE] + costs.get(f"view {view}", 0.0) + len(VIEWS[view]) * costs[BATCH] * (view != "none")
            row["of_steps"] = row["images_s"] * alone / 1000 / max(workers, 1)
        rows.append(row)
    return {
        "images": args.images,
        "batch": args.batch,
        "bytes": statistics.mean(map(len, pool)),
        "rows": rows,
        "costs": costs,
    }


def measure_costs(args: argparse.Namespace, out: Path, contents: list[bytes]) -> dict[str, float]:
    """Milliseconds of processor time an image of each step, in one process, the steps taking turns."""
    few = contents[: min(len(contents), 256)]
    decoded = [Image.open(io.BytesIO(content)).convert("RGB") for content in few[:POOL]]
    tensors = [{"pixel_values": views_of("crop")[0](image), "labels": 0} for image in decoded]
    collate = collator()

    def read() -> int:
        split: Any = load_data(str(out), streaming=True, window=SHUFFLE_BUFFER).train
        order = StreamSampler(split.groups, args.batch, LANES, SHUFFLE_BUFFER, seed=0).order()
        begin = time.process_time()
        for index in order.tolist():
            group = int(split.groups[index])
            io.BytesIO(split._read_group(group)[int(split.rows[index] - split._starts[group])].as_py()["bytes"])
        return int((time.process_time() - begin) / len(order) * 1e9)

    def opened() -> int:
        split: Any = load_data(str(out), streaming=True, window=SHUFFLE_BUFFER).train
        begin = time.process_time()
        for index in range(len(few)):
            split.open(index)
        return int((time.process_time() - begin) / len(few) * 1e9)

    def made(view: str) -> Callable[[], int]:
        operations = views_of(view)

        def run() -> int:
            begin = time.process_time()
            for image in decoded:
                for operation in operations:
                    operation(image)
            return int((time.process_time() - begin) / len(decoded) * 1e9)

        return run

    def plain_decode() -> int:
        begin = time.process_time()
        decode_all(few)
        return int((time.process_time() - begin) / len(few) * 1e9)

    def batched() -> int:
        begin = time.process_time()
        collate(tensors)
        return int((time.process_time() - begin) / len(tensors) * 1e9)

    def side(step: Callable[[], int]) -> Callable[[], dict[str, float]]:
        return lambda: {"ns": step()}

    steps: dict[str, Callable[[], int]] = {"read from the shard": read, DECODE: plain_decode}
    steps["read, decode, turn by EXIF, to RGB"] = opened
    steps |= {f"view {view}": made(view) for view in ("crop", *args.views) if view != "none"}
    steps[BATCH] = batched
    turns = take_turns({name: side(step) for name, step in steps.items()}, args.rounds, "steps")
    return {name: turn["ns"] / 1e6 for name, turn in turns.items()}


# ---- memory


def _proc(path: str, *keys: str) -> int:
    """The sum of some lines of a file of `/proc`, in bytes."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.split(":")[0] in keys)


def own_memory() -> int:
    """Memory of this process and its workers that is no file's, what they share being counted once."""
    processes = [os.getpid(), *(process.pid for process in multiprocessing.active_children())]
    return sum(_proc(f"/proc/{process}/smaps_rollup", "Pss_Anon", "Pss_Shmem") for process in processes)


def stream_once(root: Path, images: int, workers: int, batch: int, buffer: int) -> dict[str, int]:
    """Stream some images and say what memory that took.

    `imports` and `peak` are resident sizes of this process, `worker_peak` that of the largest worker. Much of them are
    libraries, so there is also `growth`: how much `own_memory` grew, of which a sample is taken after each batch.
    """
    # The peak of `getrusage` would be the parent's, where that is larger.
    imports, before = _proc("/proc/self/status", "VmRSS"), own_memory()
    loader = stream_loader(root, views_of("crop"), workers, batch, buffer)
    keep_freed_memory()
    seen = growth = 0
    for step in loader:
        seen += len(step["labels"])
        growth = max(growth, own_memory() - before)
        if seen >= images:
            break
    del loader
    worker_peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 if workers else 0
    peak = _proc("/proc/self/status", "VmHWM")
    return {"images": seen, "imports": imports, "peak": peak, "worker_peak": worker_peak, "growth": growth}


def in_fresh_process(**settings: Any) -> dict[str, int]:
    """[`stream_once`] in a Python of its own."""
    command = [sys.executable, "-m", "benchmarks.streaming", "--stream_once", json.dumps(settings)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure_memory(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Peaks of the same stream out of a set and out of one ten times its size."""
    rows = []
    for kind, size, images in (("photos", PHOTO, args.photos), ("stamps", STAMP, args.stamps)):
        pool = [photo(seed, size) for seed in range(POOL)]
        per_image = statistics.mean(map(len, pool))
        roots = {}
        for count in (images, 10 * images):
            folder = scratch / f"{kind}-{count}"
            tree, roots[count] = prepared(folder, count, pool, link=True)
            shutil.rmtree(tree)
        for workers in sorted({0, max(args.workers)}):
            for count, root in roots.items():
                result = in_fresh_process(
                    root=str(root), images=args.streamed, workers=workers, batch=32, buffer=args.memory_buffer
                )
                rows.append({"kind": kind, "set": count, "workers": workers, "bytes_image": per_image, **result})
        for root in roots.values():
            shutil.rmtree(root)
    return {"buffer": args.memory_buffer, "batch": 32, "rows": rows, "index": measure_index(scratch)}


@contextmanager
def synthetic_index(scratch: Path, images: int, counts: list[int]) -> Iterator[Manifest]:
    """The manifest and labels of a prepared split without its images, the labels in a random order, as prepared."""
    scratch.mkdir(parents=True, exist_ok=True)
    drawn = np.repeat(np.arange(len(counts)), counts)
    labels = np.random.default_rng(0).permutation(np.resize(drawn, images)).astype(np.int32)
    np.save(scratch / labels_name("train"), labels)
    count = max(round(images / IMAGENET_LT["shard"]), 1)
    files = [{"file": f"{i}", "images": len(own), "bytes": 0} for i, own in enumerate(np.array_split(labels, count))]
    yield Manifest(str(scratch), "synthetic", "", [], {"train": {"images": images, "shards": files}})
    (scratch / labels_name("train")).unlink()


def measure_index(scratch: Path, sizes: tuple[int, int] = (100_000, 1_000_000)) -> dict[str, float]:
    """Bytes that a stream keeps of its index for each image that the larger set has more than the smaller."""
    counts = imagenet_lt_counts()
    found: dict[str, list[float]] = {}
    for images in sizes:
        with synthetic_index(scratch, images, counts) as manifest:
            tracemalloc.start()
            split = ShardedImages(manifest, "train", SHUFFLE_BUFFER)
            found.setdefault("a split", []).append(tracemalloc.get_traced_memory()[0])
            carved = split.select(stratified_split(split.labels, 0.1)[0])
            both = tracemalloc.get_traced_memory()[0]
            found.setdefault("a split and nine tenths of it", []).append(both)
            tracemalloc.reset_peak()
            order = StreamSampler(carved.groups, 128, LANES, SHUFFLE_BUFFER, 0).order()
            now, peak = tracemalloc.get_traced_memory()
            found.setdefault("the order of a pass", []).append(now - both)
            found.setdefault("the order, while it is drawn", []).append(peak - both)
            tracemalloc.stop()
            del order, carved, split
    return {name: (large - small) / (sizes[1] - sizes[0]) for name, (small, large) in found.items()}


# ---- row groups read


class Counting(ShardedImages):
    """Counts what it would read."""

    reads = 0
    most = 0

    def _file(self, shard: str) -> Any:
        return self

    def read_row_group(self, number: int, columns: list[str]) -> pa.Table:
        self.reads += 1
        self.most = max(self.most, len(self._cache))
        return pa.table({"image": pa.nulls(1)})


def measure_reads(scratch: Path, images: int, batch: int, workers: tuple[int, ...]) -> list[dict[str, Any]]:
    """Reads a row group and pass, and the row groups kept over all workers, with all images and without a tenth."""
    rows = []
    with synthetic_index(scratch, images, imagenet_lt_counts()) as manifest:
        whole = Counting(manifest, "train", SHUFFLE_BUFFER)
        sets = {"all": whole, "without a tenth": whole.select(stratified_split(whole.labels, 0.1)[0])}
        for name, split in sets.items():
            order = StreamSampler(split.groups, batch, LANES, SHUFFLE_BUFFER, 0).order()
            batches = [split.groups[order[i : i + batch]].tolist() for i in range(0, len(order), batch)]
            for count in workers:
                reads = kept = 0
                for worker in range(max(count, 1)):
                    own = pickle.loads(pickle.dumps(split))
                    info = SimpleNamespace(num_workers=count) if count else None
                    with mock.patch.object(torch.utils.data, "get_worker_info", return_value=info):
                        for groups in batches[worker :: max(count, 1)]:
                            for group in groups:
                                own._read_group(group)
                    reads, kept = reads + own.reads, kept + own.most + 1
                per_group = reads / len(np.unique(split.groups))
                rows.append({"set": name, "workers": count, "reads": per_group, "kept": kept})
    return rows


# ---- order


def imagenet_lt_counts() -> list[int]:
    """A long tail with ImageNet-LT's largest and smallest class and about its number of images."""
    size = IMAGENET_LT
    return long_tailed_counts(size["largest"], size["classes"], size["largest"] / size["smallest"], "exp")


def measure_order(scratch: Path, images: int, batch: int, epochs: int = 3) -> list[dict[str, Any]]:
    """Distinct classes, and row groups, of a batch: streamed, shuffled as a whole, and in the order of the shards."""
    rows = []
    with synthetic_index(scratch, images, imagenet_lt_counts()) as manifest:
        split = ShardedImages(manifest, "train", SHUFFLE_BUFFER)
        labels = np.asarray(split.labels)
        sampler = StreamSampler(split.groups, batch, LANES, SHUFFLE_BUFFER, 0)

        def streamed(epoch: int) -> np.ndarray:
            sampler.set_epoch(epoch)
            return sampler.order()

        orders: dict[str, Callable[[int], np.ndarray]] = {
            "streamed": streamed,
            "shuffled as a whole": lambda epoch: np.random.default_rng(epoch).permutation(images),
            "sorted by class": lambda epoch: np.argsort(labels, kind="stable"),
        }
        for name, order in orders.items():
            drawn = [order(epoch)[: images // batch * batch].reshape(-1, batch) for epoch in range(epochs)]
            classes = np.array([len(np.unique(labels[rows])) for rows in np.concatenate(drawn)])
            groups = np.array([len(np.unique(split.groups[rows])) for rows in np.concatenate(drawn)])
            error = classes.std() / len(classes) ** 0.5
            rows.append(
                {
                    "order": name,
                    "classes": classes.mean(),
                    "error": error,
                    "spread": classes.std(),
                    "least": int(classes.min()),
                    "groups": groups.mean(),
                }
            )
    return rows


# ---- the tables


def speed_table(content: dict[str, Any]) -> str:
    lines = [
        f"{content['images']} JPEGs of {PHOTO[0]}x{PHOTO[1]}, {content['bytes'] / 1e3:.0f} KB, batches of "
        f"{content['batch']}, whole passes",
        f"{'speed':<22}{'images/s':>10}{'of decode':>11}{'of decode':>11}{'of decode,':>13}{'first':>8}{'after':>8}",
        f"{'':<22}{'':>10}{'x workers':>11}{'processes':>11}{'views, batch':>13}{'batch s':>8}{'last ms':>8}",
    ]
    for row in content["rows"]:
        cells = [f"{row[key]:>{width}.2f}" if key in row else f"{'-':>{width}}" for key, width in SHARES.items()]
        ends = f"{row['first_s']:>8.2f}{row['tail_s'] * 1e3:>8.1f}" if row["first_s"] else f"{'-':>8}{'-':>8}"
        lines.append(f"{row['name']:<22}{row['images_s']:>10.1f}{''.join(cells)}{ends}")
    lines.append(f"{'steps, processor time':<38}{'ms an image':>12}")
    lines += [f"{name:<38}{value:>12.2f}" for name, value in content["costs"].items()]
    return "\n".join(lines)


def memory_table(content: dict[str, Any]) -> str:
    keys = ("imports", "peak", "worker_peak", "growth")
    lines = [
        f"shuffle buffer {content['buffer']}, batches of {content['batch']}; MB",
        f"{'memory':<18}{'KB':>6}{'workers':>9}{'streamed':>10}"
        + "".join(f"{title:>14}" for title in ("imports", "peak", "worker's peak", "all, growth")),
    ]
    before: dict[str, Any] = {}
    for row in content["rows"]:
        cells = "".join(f"{row[key] / 1e6:>14.0f}" if row[key] else f"{'-':>14}" for key in keys)
        name = f"{row['kind']} {row['set']}"
        size = row["bytes_image"] / 1e3
        lines.append(f"{name:<18}{size:>6.0f}{row['workers']:>9}{row['images']:>10}{cells}")
        if before.get("kind") == row["kind"] and before["workers"] == row["workers"]:
            ratios = (f"{row[key] / before[key]:>13.2f}x" if before[key] else f"{'-':>14}" for key in keys[1:])
            lines.append(f"{'  ten times':<57}" + "".join(ratios))
        before = row
    lines.append(f"{'index':<38}{'bytes an image':>15}")
    lines += [f"{name:<38}{value:>15.1f}" for name, value in content["index"].items()]
    return "\n".join(lines)


def reads_table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'row groups':<18}{'workers':>9}{'reads a group':>15}{'kept at most':>14}{'images':>9}"]
    lines += [
        f"{row['set']:<18}{row['workers']:>9}{row['reads']:>15.3f}{row['kept']:>14}{row['kept'] * ROWS_PER_GROUP:>9}"
        for row in rows
    ]
    return "\n".join(lines)


def order_table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'a batch of':<22}{'classes':>9}{'+-':>7}{'spread':>8}{'least':>7}{'row groups':>12}"]
    lines += [
        f"{row['order']:<22}{row['classes']:>9.2f}{row['error']:>7.2f}{row['spread']:>8.2f}{row['least']:>7}"
        f"{row['groups']:>12.1f}"
        for row in rows
    ]
    return "\n".join(lines)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="timed turns of each side (default: 3)")
    parser.add_argument("--images", type=int, default=960, metavar="N", help="images of a pass (default: 960)")
    parser.add_argument("--batch", type=int, default=48, metavar="N", help="images of a batch (default: 48)")
    parser.add_argument("--views", nargs="+", choices=list(VIEWS), default=list(VIEWS), help="default: all")
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    parser.add_argument("--photos", type=int, default=2000, metavar="N", help="the smaller set (default: 2000)")
    parser.add_argument("--stamps", type=int, default=10_000, metavar="N", help="its small images (default: 10000)")
    parser.add_argument("--streamed", type=int, default=1200, metavar="N", help="images of them (default: 1200)")
    parser.add_argument("--memory_buffer", type=int, default=512, metavar="N", help="to shuffle (default: 512)")
    parser.add_argument(
        "--index_images", type=int, default=sum(imagenet_lt_counts()), metavar="N", help="of the parts without images"
    )
    parser.add_argument("--output", default="streaming.json", metavar="PATH", help="JSON (default: streaming.json)")
    parser.add_argument("--scratch", metavar="FOLDER", help="where to make the temporary folder")
    parser.add_argument("--stream_once", metavar="JSON", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write. Status 2 where the results could not be written."""
    args = _arguments(argv)
    if args.stream_once:
        print(json.dumps(stream_once(**json.loads(args.stream_once))))
        return 0
    output = Path(args.output)
    if not output.absolute().parent.is_dir():
        print(f"benchmarks.streaming: --output {args.output}: no such folder", file=sys.stderr)
        return 2
    if os.getloadavg()[0] > BUSY:
        print(f"other work is running (load average {os.getloadavg()[0]:.2f}): the times mean little", file=sys.stderr)
    machine = describe()
    print(f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, torch {torch.__version__}")
    content: dict[str, Any] = {"machine": machine}
    with tempfile.TemporaryDirectory(prefix="paco-hf-streaming-", dir=args.scratch) as folder:
        scratch = Path(folder)
        if "speed" in args.parts:
            content["speed"] = measure_speed(args, scratch)
            print("\n" + speed_table(content["speed"]), flush=True)
        if "memory" in args.parts:
            content["memory"] = measure_memory(args, scratch)
            print("\n" + memory_table(content["memory"]), flush=True)
        if "reads" in args.parts:
            content["reads"] = measure_reads(scratch, args.index_images, 128, (0, 1, 2, 3, 4, 8))
            print("\n" + reads_table(content["reads"]), flush=True)
        if "order" in args.parts:
            content["order"] = measure_order(scratch, args.index_images, 128)
            print("\n" + order_table(content["order"]), flush=True)
    write_json(output, content)
    print(f"\nwritten to {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
