"""Seconds from the start of `paco-hf train` to its first step on half a million photos, by what they go into.

    python -m benchmarks.half_a_million make FOLDER            # 8,142 classes, 437,513 + 24,426 photos of 500 x 375
    python -m benchmarks.half_a_million first_step FOLDER      # prints a table; --output FILE.json stores it
    python -m benchmarks.half_a_million make FOLDER --share 0.05

The photos are 5,000, each time with another comment: no two files are alike, as images with a copy are not split off
to be scored on. In all they take 20 GB.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from tqdm.auto import tqdm

from .bench import write_json
from .machine import describe

CLASSES, IMAGES, SCORED, LARGEST, FEWEST = 8142, 437_513, 3, 1000, 2
PHOTOS, SIZE = 5000, (500, 375)
FLAGS = ["--backbone", "resnet18", "--image_size", "64", "--max_steps", "1", "--save_strategy", "no"]
# What `paco_hf.workflows.train` calls one after the other.
PHASES = {
    "load_checked": "list the files and look at the images",
    "choose_method": "choose the method",
    "split_data": "split",
    "resolve": "choose settings",
    "build_model": "build the model",
    "resolve_loading": "sample the images",
    "prepare_features": "build the views",
    "fit": "describe the data, build the trainer, take a step",
}


def tail(classes: int, images: int) -> list[int]:
    """Images a class, most first: a stretched exponential from the largest to the fewest."""

    def counts(power: float) -> np.ndarray:
        falls = np.linspace(0, 1, classes) ** power * np.log(LARGEST / FEWEST)
        return np.maximum(np.round(LARGEST * np.exp(-falls)), FEWEST).astype(int)

    low, high = 0.01, 4.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if counts(middle).sum() < images else (low, middle)
    result = counts(high)
    excess = int(result.sum()) - images
    result[np.argsort(-result)[: abs(excess)]] -= np.sign(excess)
    return result.tolist()


def photo(seed: int) -> Image.Image:
    """Smooth shapes with some texture, which as a JPEG take what a photo does."""
    generator = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(generator.integers(0, 256, (h, w, 3), np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
        )
        for h, w in ((4, 5), (24, 32), (94, 125))
    ]
    return Image.fromarray((0.5 * layers[0] + 0.3 * layers[1] + 0.2 * layers[2]).astype(np.uint8))


def make(folder: Path, share: float) -> None:
    """Write the class folders of `train` and `val`."""
    classes = max(round(CLASSES * share), 2)
    counts = tail(classes, max(round(IMAGES * share), FEWEST * classes))
    contents = []
    for seed in tqdm(range(max(round(PHOTOS * share), 100)), "photos", disable=None):
        encoded = io.BytesIO()
        photo(seed).save(encoded, "JPEG", quality=88)
        contents.append(encoded.getvalue())
    written = 0
    for label, count in enumerate(tqdm(counts, "class folders", disable=None)):
        for split, number in (("train", count), ("val", SCORED)):
            place = folder / split / f"species {label:05}"
            place.mkdir(parents=True)
            for index in range(number):
                start, rest = (content := contents[written % len(contents)])[:2], content[2:]
                comment = b"\xff\xfe\x00\x06" + written.to_bytes(4)
                (place / f"{index:04}.jpg").write_bytes(start + comment + rest)
                written += 1
    size = sum(map(len, contents)) / len(contents)
    print(f"{folder}: {written:,} photos of {classes:,} classes, {size / 1000:.1f} kB each")


def first_step(folder: Path, flags: list[str]) -> dict[str, Any]:
    """Start `paco-hf train` in a process of its own, and stop it after its first step."""
    with tempfile.TemporaryDirectory() as empty:
        caches = {"HF_DATASETS_CACHE": f"{empty}/datasets", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "benchmarks.half_a_million", "child", str(folder), *flags]
        command += ["--output_dir", f"{empty}/run"]
        result = subprocess.run(command, env=os.environ | caches, stdout=subprocess.PIPE, check=True, text=True)
    *printed, last = result.stdout.strip().splitlines()
    measured: dict[str, Any] = json.loads(last)
    return {**measured, "printed": [line.replace(str(folder), "FOLDER").replace(empty, "TMP") for line in printed]}


def child(argv: list[str]) -> None:
    """The training; its last line is what was measured."""
    from transformers import TrainerCallback

    from paco_hf.arguments.parser import parse_run
    from paco_hf.workflows import train

    process, phases, current = psutil.Process(), {}, ["imports"]
    started = process.create_time()
    last = [started, 0.0]

    def cpu() -> float:
        times = [process.cpu_times(), *(one.cpu_times() for one in process.children(recursive=True))]
        own = times[0]
        return sum(one.user + one.system for one in times) + own.children_user + own.children_system

    def lap(following: str) -> None:
        now, used = time.time(), cpu()
        before = phases.get(current[0], [0.0, 0.0])
        phases[current[0]] = [before[0] + now - last[0], before[1] + used - last[1]]
        last[:], current[0] = [now, used], following

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            lap(PHASES[name])
            result = function(*arguments, **options)
            lap("between these")
            return result

        return wrapped

    class Stop(TrainerCallback):
        def on_step_end(self, *arguments: Any, **options: Any) -> None:
            lap("")
            memory = process.memory_info().rss
            print(json.dumps({"phases": phases, "seconds": last[0] - started, "cpu": last[1], "memory": memory}))
            sys.stdout.flush()
            os._exit(0)  # before the images are scored

    for name in PHASES:
        setattr(train, name, timed(name, getattr(train, name)))
    lap("read the arguments")
    train.train(*parse_run(argv), [Stop()])


def main() -> None:
    if sys.argv[1:2] == ["child"]:
        child(["--dataset", *sys.argv[2:]])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["make", "first_step"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=1.0, help="of the classes and images")
    parser.add_argument("--inspect", help="as that of paco-hf train")
    parser.add_argument("--output", type=Path, help="JSON file for what was measured")
    options = parser.parse_args()
    if options.action == "make":
        make(options.folder, options.share)
        return
    measured = first_step(options.folder, FLAGS + (["--inspect", options.inspect] if options.inspect else []))
    print("\n".join(measured["printed"]))
    print(f"{'seconds':>9}{'CPU':>9}")
    for name, (seconds, used) in measured["phases"].items():
        print(f"{seconds:9.1f}{used:9.1f}  {name}")
    memory = f"{measured['memory'] / 1e9:.1f} GB"
    print(f"{measured['seconds']:9.1f}{measured['cpu']:9.1f}  to the end of the first step, {memory}")
    if options.output:
        write_json(options.output, {"machine": describe(), **measured})


if __name__ == "__main__":
    main()
