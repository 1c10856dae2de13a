"""How commands grow with images and classes, up to iNaturalist's: `python -m benchmarks.growth_commands`.

It makes class folders of JPEGs of 32 x 32 pixels, all different and long-tailed, and trains a tiny network on them for
one step, so that what is measured is what the package does around a network. A measurement is a command in a process
of its own: CPU seconds of it and of its workers, and the peak memory of the largest of them. Linux and macOS.
"""

import argparse
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from .bench import write_json
from .machine import describe

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "benchmarks" / "growth_commands.json"
PAGE = ROOT / "docs" / "performance.md"
# Images to train on, to test on, classes; the last is iNaturalist 2018.
SIZES = {27_344: (1_526, 509), 109_378: (6_106, 2_035), 437_513: (24_426, 8_142)}
TRAIN = ["train", "--backbone", "test_resnet", "--loss", "ce", "--precision", "fp32", "--image_size", "32"]
TRAIN += ["--max_steps", "1", "--eval_strategy", "no", "--overwrite"]
FOLDER = [*TRAIN, "--dataset", "images", "--inspect"]
COMMANDS = {
    "scanning the images": [*FOLDER, "true", "--dry_run", "true", "--output_dir", "dry"],
    "train, one step": [*FOLDER, "false", "--calibrate", "true", "--output_dir", "run"],
    "evaluate": ["evaluate", "run", "--batch_size", "256"],
    "report": ["report", "run", "--output", "comparison.html"],
    "card": ["card", "run"],
    "data prepare": ["data", "prepare", "images", "--out", "shards"],
    "data verify": ["data", "verify", "shards"],
    "train, one step, prepared": [
        *(*TRAIN, "--dataset", "shards", "--streaming", "true", "--validation_fraction", "0", "--report", "false"),
        *("--output_dir", "run-prepared"),
    ],
}
FILES = ["run/splits.json", "run/evaluation/results.json", "run/evaluation/report.html", "run/README.md"]
FILES += ["run/evaluation/predictions.parquet", "comparison.html"]


def make_images(folder: Path, images: int, tested: int, classes: int) -> None:
    """Class folders of different JPEGs, in `train` and `test`; nothing where they are there.

    Args:
        folder (`Path`): to make.
        images (`int`): to train on, two a class at least.
        tested (`int`): to test on, as many of each class.
        classes (`int`): `C`.
    """
    if folder.is_dir():
        return
    generator = np.random.default_rng(0)
    counts = long_tail(images, classes)
    colors = generator.integers(0, 256, (classes, 4, 4, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2) // 2
    scratch = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    with tqdm(total=images + tested, desc="making images", unit=" images", disable=None) as progress:
        for c in range(classes):
            for split, number in (("train", int(counts[c])), ("test", tested // classes)):
                place = scratch / split / f"species-{c:05d}"
                place.mkdir(parents=True)
                for i in range(number):
                    pixels = colors[c] + generator.integers(0, 128, (32, 32, 1), dtype=np.uint8)
                    Image.fromarray(pixels).save(encoded := io.BytesIO(), "JPEG")
                    (place / f"{generator.bytes(16).hex()}-{i}.jpg").write_bytes(encoded.getvalue())
                progress.update(number)
    scratch.rename(folder)


def long_tail(images: int, classes: int) -> np.ndarray:
    """Images of each class: from 1,000 to 2 at iNaturalist's size, in sum `images`."""
    counts = np.maximum(np.rint(np.geomspace(1000, 2, classes)), 2).astype(int)
    scale = images / counts.sum()
    counts = np.maximum(np.rint(counts * scale), 2).astype(int)
    rest = images - counts.sum()
    counts[: abs(rest)] += np.sign(rest)
    return counts


def measure(command: list[str], folder: Path, checkout: Path) -> dict[str, Any]:
    """CPU seconds, seconds and peak memory of a command of `paco-hf`.

    Args:
        command (list of `str`): its arguments.
        folder (`Path`): where it runs, with caches of its own.
        checkout (`Path`): of the package.

    Raises:
        RuntimeError: it failed; with the last of what it wrote.
    """
    caches = {"HF_HOME": str(folder / "cache"), "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(checkout)}
    environment = {**os.environ, **caches, "HF_HUB_OFFLINE": "1"}
    start, output = time.monotonic(), folder / "output.txt"
    small = [sys.executable, "-c", _SMALL, str(output), sys.executable, "-m", "paco_hf", *command]
    report = subprocess.run(small, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout
    status, cpu_seconds, peak = json.loads(report)
    if status:
        text = output.read_text(encoding="utf-8")[-2000:]
        raise RuntimeError(f"paco-hf {' '.join(command)} ended with {status}: {text}")
    unit = 1 if sys.platform == "darwin" else 1024
    return {"cpu_seconds": cpu_seconds, "seconds": time.monotonic() - start, "peak_bytes": peak * unit}


# A process starts with the peak of the one that starts it, which is to be a small one.
_SMALL = """
import json, os, subprocess, sys
with open(sys.argv[1], "w") as output:
    process = subprocess.Popen(sys.argv[2:], stdout=output, stderr=output)
    _, status, usage = os.wait4(process.pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss]))
"""


def record_all(flags: argparse.Namespace) -> None:
    """Measure what is asked for, and add it to the record."""
    for images in flags.images:
        tested, classes = SIZES[images]
        folder = flags.scratch.resolve() / f"{flags.side}-{images}"
        (folder / "cache").mkdir(parents=True, exist_ok=True)
        made = flags.scratch.resolve() / f"images-{images}"
        make_images(made, images, tested, classes)
        if not (folder / "images").exists():
            (folder / "images").symlink_to(made)
        for name in flags.commands:
            if name == "scanning the images":
                shutil.rmtree(folder / "cache")
            elif name == "data prepare":
                shutil.rmtree(folder / "shards", ignore_errors=True)
            row = measure(COMMANDS[name], folder, flags.checkout.resolve())
            content = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
            written = {file: (folder / file).stat().st_size for file in FILES if (folder / file).is_file()}
            size = content.setdefault(flags.side, {}).setdefault(str(images), {})
            size |= {"test_images": tested, "classes": classes, "files": written, "machine": describe()}
            size.setdefault("commands", {})[name] = row
            write_json(RECORD, content)
            print(f"{flags.side}, {images:,}: {name}: {row['cpu_seconds']:.0f} s, {row['peak_bytes'] / 1e6:,.0f} MB")


def table(content: dict[str, Any] | None = None) -> str:
    """The tables of the page: commands, and what they write.

    Args:
        content (`dict`, *optional*): of the record; read where it is not given.
    """
    content = json.loads(RECORD.read_text(encoding="utf-8")) if content is None else content
    after = content["after"]
    sizes = sorted(after, key=int)
    shape = ", ".join(f"{int(size):,} images of {after[size]['classes']:,}" for size in sizes)
    titles = [f"{int(size):,}" for size in sizes]
    lines = [f"CPU seconds and peak MB, before -> after, {shape} classes:", ""]
    lines += [f"| | {' | '.join(titles)} | ms an image more |", f"|---|{'---|' * len(sizes)}---|"]
    for name in COMMANDS:
        cells = [_cell(content, size, name) for size in sizes]
        lines.append(f"| {name} | {' | '.join(cells)} | {_slopes(after, sizes, name)} |")
    lines += ["", f"| MB written | {' | '.join(titles)} |", f"|---|{'---|' * len(sizes)}"]
    for file in FILES:
        pairs = [[_size(content, side, size, file) for side in ("before", "after")] for size in sizes]
        lines.append(f"| `{file}` | {' | '.join(' -> '.join(filter(None, pair)) for pair in pairs)} |")
    return "\n".join(lines)


def _cell(content: dict[str, Any], size: str, name: str) -> str:
    rows = [content.get(side, {}).get(size, {}).get("commands", {}).get(name) for side in ("before", "after")]
    seconds = [f"{row['cpu_seconds']:.0f}" for row in rows if row]
    memory = [f"{row['peak_bytes'] / 1e6:,.0f}" for row in rows if row]
    return f"{' -> '.join(seconds)} s, {' -> '.join(memory)} MB" if seconds else "-"


def _slopes(after: dict[str, Any], sizes: list[str], name: str) -> str:
    """CPU milliseconds that each further image costs, from one size to the next: equal where growth is linear."""
    points = [
        (int(size), after[size]["commands"][name]["cpu_seconds"]) for size in sizes if name in after[size]["commands"]
    ]
    return ", ".join(f"{1000 * (y2 - y1) / (x2 - x1):.2f}" for (x1, y1), (x2, y2) in itertools.pairwise(points))


def _size(content: dict[str, Any], side: str, size: str, file: str) -> str:
    number = content.get(side, {}).get(size, {}).get("files", {}).get(file)
    return "" if number is None else f"{number / 1e6:.2f}"


def write_page() -> None:
    """Put the tables into the page, in place of those that are there."""
    text = PAGE.read_text(encoding="utf-8")
    changed = re.sub(
        r"(?<=<!-- growth_commands -->\n).*?(?=\n<!-- end -->)",
        lambda _: f"\n{table()}\n",
        text,
        count=1,
        flags=re.DOTALL,
    )
    PAGE.write_text(changed, encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Measure and record, or write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth_commands", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("table", help="write the tables into docs/performance.md")
    add = verbs.add_parser("measure").add_argument
    add("--scratch", type=Path, required=True, metavar="FOLDER", help="for images and runs: 6 GB for all sizes")
    add("--images", type=int, nargs="+", choices=list(SIZES), default=list(SIZES), help="default: all sizes")
    add("--commands", nargs="+", choices=list(COMMANDS), default=list(COMMANDS), help="default: all, in their order")
    add("--checkout", type=Path, default=ROOT, help="of the package that is measured (default: this one)")
    add("--side", choices=("before", "after"), default="after", help="which side of the table it is")
    flags = parser.parse_args(argv)
    record_all(flags) if flags.verb == "measure" else write_page()
    return 0


if __name__ == "__main__":
    sys.exit(main())
