"""`paco-hf predict --output` of many images against few: images a second, and memory at the peak.

`python -m benchmarks.predictions --model RUN --images PARQUET... --scratch FOLDER` takes the encoded images of parquet
files again and again, as files in folders and as one parquet file, and classifies a thousand and a hundred thousand
of them; with `--against CHECKOUT` also a thousand and ten thousand with `predict --json`, taking turns with another
version.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image
from tqdm.auto import tqdm

from .bench import write_json
from .machine import describe

FEW, MANY, FORMER = 1_000, 100_000, 10_000
_IN_FOLDER = 1_000  # files


def contents(files: list[str]) -> list[bytes]:
    """The encoded images of parquet files, of the first column that has some."""
    encoded: list[bytes] = []
    for file in files:
        table = pq.read_table(file)
        column = next(name for name in table.column_names if str(table.schema.field(name).type).startswith("struct"))
        encoded += [image["bytes"] for image in table[column].to_pylist()]
    return encoded


def make_images(encoded: list[bytes], scratch: Path, count: int) -> dict[str, Path]:
    """So many of the images as files, and in a parquet file; what is there already stays."""
    folder, table = scratch / f"folder-{count}", scratch / f"images-{count}.parquet"
    if not folder.is_dir():
        for number, content in enumerate(itertools.islice(itertools.cycle(encoded), count)):
            inside = folder / f"{number // _IN_FOLDER:04d}"
            inside.mkdir(parents=True, exist_ok=True)
            (inside / f"{number:07d}.png").write_bytes(content)
    if not table.is_file():
        rows = ({"image": {"bytes": one, "path": None}} for one in itertools.islice(itertools.cycle(encoded), count))
        Dataset.from_list([*rows], features=Features({"image": Image()})).to_parquet(table)
    return {"folder": folder, "parquet": table}


def _memory(process: psutil.Process) -> dict[str, int]:
    """Bytes now: resident size of the process, of the largest it has started, and all of them with what they share
    counted once; of the last the part that is no file's."""
    sizes = {"main": 0, "worker": 0, "all": 0, "anonymous": 0}
    for one in (process, *process.children(recursive=True)):
        with suppress(OSError, psutil.Error):
            lines = Path(f"/proc/{one.pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]
            kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
            kind = "main" if one.pid == process.pid else "worker"
            sizes[kind] = max(sizes[kind], kilobytes["Rss"] * 1024)
            sizes["all"] += kilobytes["Pss"] * 1024
            sizes["anonymous"] += (kilobytes["Pss_Anon"] + kilobytes["Pss_Shmem"]) * 1024
    return sizes


def measure(command: list[str], checkout: Path, partial: Path | None = None) -> dict[str, Any]:
    """Run a command in a process of its own, and look at its memory ten times a second.

    Returns:
        its peaks in bytes, `seconds`, `processor_seconds`, and `steady_s`: from the first part of the predictions
        on, where there are parts.
    """
    if partial:
        shutil.rmtree(partial, ignore_errors=True)
    environment = {**os.environ, "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"}
    start, first, peaks = time.perf_counter(), None, dict.fromkeys(("main", "worker", "all", "anonymous"), 0)
    before = os.times()
    with subprocess.Popen(
        command, env=environment, cwd=checkout, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as started:
        process = psutil.Process(started.pid)
        while started.poll() is None:
            with suppress(psutil.Error):
                peaks = {name: max(peaks[name], size) for name, size in _memory(process).items()}
            if first is None and partial and any(partial.glob("part-*")):
                first = time.perf_counter()
            time.sleep(0.1)
    if started.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {started.returncode}")
    end, after = time.perf_counter(), os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return {**peaks, "seconds": end - start, "processor_seconds": used, "steady_s": first and end - first}


def turns(args: argparse.Namespace, encoded: list[bytes]) -> Iterator[tuple[str, list[str], Path, Path | None]]:
    """What a round runs: name, command, checkout, and where its parts are."""
    here, output = Path(__file__).parents[1], args.scratch / "made.csv"
    start = [sys.executable, "-m", "paco_hf", "predict", args.model]
    counts = (args.few, args.many)
    for count in counts:
        for kind, source in make_images(encoded, args.scratch, count).items():
            command = [*start, str(source), "--output", str(output), "--overwrite"]
            yield f"{kind} {count}", command, here, Path(f"{output}.partial")
    if args.against:
        for count in (args.few, args.former):
            source = make_images(encoded, args.scratch, count)["folder"]
            for name, checkout in (("json, this version", here), ("json, the other version", args.against)):
                yield f"{name} {count}", [*start, str(source), "--json"], checkout, None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="run folder or checkpoint")
    parser.add_argument("--images", nargs="+", required=True, help="parquet files with small images")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for the images: a gigabyte")
    parser.add_argument("--against", type=Path, help="checkout of another version")
    parser.add_argument("--few", type=int, default=FEW)
    parser.add_argument("--many", type=int, default=MANY)
    parser.add_argument("--former", type=int, default=FORMER, help="images that the other version classifies, too")
    parser.add_argument("--rows", nargs="+", help="those alone; others in the output stay")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, required=True, help="JSON")
    args = parser.parse_args(argv)
    args.model = str(Path(args.model).resolve())
    machine, encoded, results = describe(), contents(args.images), dict[str, list[dict[str, Any]]]()
    rows = json.loads(args.output.read_text(encoding="utf-8"))["rows"] if args.rows and args.output.is_file() else {}
    chosen = [turn for turn in turns(args, encoded) if not args.rows or turn[0] in args.rows]
    for number in range(args.rounds):
        for name, command, checkout, partial in tqdm(chosen, f"round {number + 1}", disable=None):
            results.setdefault(name, []).append(measure(command, checkout, partial))
            rows |= {name: _summary(name, runs) for name, runs in results.items()}
            # After each turn: a long measurement may be stopped.
            write_json(args.output, {"machine": machine, "model": Path(args.model).name, "rows": rows})
    print(json.dumps(rows, indent=1))
    return 0


def _summary(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the runs; images a second over all of a run, and from its first part on."""
    images = int(name.split()[-1])
    medians = {key: statistics.median(run[key] for run in runs) for key in runs[0] if runs[0][key] is not None}
    medians |= {"images": images, "runs": len(runs), "images_s": images / medians["seconds"]}
    return medians | ({"steady_images_s": images / medians["steady_s"]} if medians.get("steady_s") else {})


if __name__ == "__main__":
    sys.exit(main())
