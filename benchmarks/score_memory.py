"""What scoring takes beyond the logits: `python -m benchmarks.score_memory`.

Logits of iNaturalist's shapes are made at random, no network is run. Each measurement is a process of its own, its
peak the most that the system had in memory for it. Linux alone.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 8142
# By what is measured: images of the split that it is done on.
IMAGES = {"temperature": 48_308, "evaluation": 24_426}
_ROWS = 256


def synthetic_logits(images: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of a classifier that is right on about two images of three, on a long-tailed split.

    Args:
        images (`int`): `N`.
        classes (`int`): `C`.
        seed (`int`, *optional*, defaults to `0`): of the draw.

    Returns:
        logits `(N, C)` in float32, labels `(N,)`, training images of each class `(C,)`.
    """
    generator = np.random.default_rng(seed)
    counts = np.maximum(np.geomspace(1000, 4, classes), 1).astype(int)
    labels = np.arange(images) % classes
    if images > 3 * classes:  # what was split off has the classes as they are frequent
        labels = generator.choice(classes, images, p=counts / counts.sum())
    logits = np.empty((images, classes), dtype=np.float32)
    for start in range(0, images, _ROWS):
        block = logits[start : start + _ROWS]
        generator.standard_normal(out=block, dtype=np.float32)
        block[np.arange(len(block)), labels[start : start + _ROWS]] += generator.normal(4.5, 1.5, len(block))
        block *= 3
    return logits, labels, counts


def _status(name: str) -> int:
    """Bytes that the system says of this process: `VmRSS`, or `VmHWM`, the most so far."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def measure(stage: str, images: int, classes: int) -> dict[str, Any]:
    """Time and peak memory of a stage, in this process.

    Args:
        stage (`str`): of [`IMAGES`].
        images (`int`): `N`.
        classes (`int`): `C`.

    Returns:
        `seconds` (of the CPU), `logits` and `peak` (the logits among it, above what was held before them), in bytes.
    """
    from paco_hf.evaluation.analysis import evaluate_logits
    from paco_hf.evaluation.predictions import Predictions
    from paco_hf.evaluation.temperature import fit_temperature
    from paco_hf.models.configuration_paco import PaCoConfig
    from paco_hf.workflows.abstain import abstention_results

    def score(logits: np.ndarray, labels: np.ndarray, counts: list[int]) -> dict[str, Any]:
        if stage == "temperature":
            return {"temperature": fit_temperature(logits, labels)}
        names = list(map(str, range(logits.shape[1])))
        evaluate_logits(logits, labels, class_names=names, class_counts=counts, temperature=1.7, resamples=50)
        config = PaCoConfig(class_counts=counts, num_labels=len(counts), temperature=1.7)
        abstention_results(logits, labels, config)
        rows = {"split": [""] * len(labels), "file": [""] * len(labels), "row": labels, "class_names": names}
        Predictions.from_logits(logits, labels, 1.7, **rows)
        return {}

    small, labels, counts = synthetic_logits(2 * _ROWS, 64)
    score(small, labels, counts.tolist())  # what is imported and set up once is no part of it
    held = _status("VmRSS")
    logits, labels, counts = synthetic_logits(images, classes)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here
    start = time.process_time()
    result = score(logits, labels, counts.tolist())
    return {
        "stage": stage,
        "images": images,
        "classes": classes,
        "seconds": time.process_time() - start,
        "logits": logits.nbytes,
        "peak": _status("VmHWM") - held,
        **result,
    }


def measured(stage: str, images: int, classes: int = CLASSES) -> dict[str, Any]:
    """[`measure`] in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.score_memory", "--stage", stage, "--images", str(images)]
    output = subprocess.run([*command, "--classes", str(classes)], check=True, capture_output=True, text=True).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def main(argv: list[str] | None = None) -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.score_memory", description=__doc__)
    parser.add_argument("--stage", choices=list(IMAGES), help="this one alone, in this process (default: all)")
    parser.add_argument("--images", type=int, help="default: as many as iNaturalist has")
    parser.add_argument("--classes", type=int, default=CLASSES)
    args = parser.parse_args(argv)
    if args.stage:
        print(json.dumps(measure(args.stage, args.images or IMAGES[args.stage], args.classes)))
        return 0
    for stage, images in IMAGES.items():
        row = measured(stage, args.images or images, args.classes)
        print(
            f"{stage}: {row['images']:,} images of {row['classes']:,} classes, logits {row['logits'] / 1e9:.2f} GB, "
            f"peak {row['peak'] / 1e9:.2f} GB ({row['peak'] / row['logits']:.2f} times), {row['seconds']:.0f} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
