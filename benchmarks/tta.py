"""What a mirror image adds at test time: the table of `docs/evaluate.md`.

```
python -m benchmarks.tta measure NAME RUN [RUN ...] [--dataset DATA] [--dataset_path ROOT]   # benchmarks/tta/NAME.json
python -m benchmarks.tta table                                                               # of all records
```

Several runs are seeds of one recipe. Compared on the same images: an image alone, and with its mirror image as the
mean of the logits (`--tta flip`) or of the probabilities. An error is that of the mean over classes of the paired
differences, each image's averaged over the runs before.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from paco_hf.data.images import Images
from paco_hf.evaluation.priors import log_frequencies
from paco_hf.evaluation.selection import balanced_log_loss, class_mean
from paco_hf.inference.logits import balanced_logits
from paco_hf.utils.files import write_json
from paco_hf.workflows.evaluation_data import load_evaluation

from .machine import describe

RECORDS = Path(__file__).parent / "tta"
WAYS = {"logits": "mean of logits", "probabilities": "mean of probabilities"}


def measure(flags: argparse.Namespace) -> None:
    right: dict[str, list[np.ndarray]] = {"none": [], **{way: [] for way in WAYS}}
    loss: dict[str, list[float]] = {way: [] for way in right}
    seconds: dict[str, float] = {"none": 0.0, "flip": 0.0}
    labels = np.empty(0)
    for run in flags.runs:
        split = load_evaluation(run, flags.dataset, dataset_path=flags.dataset_path)
        images, scored = Images(split), {}
        for tta in seconds:
            start = time.process_time()  # of the network: other processes decode
            scored[tta], labels, config = balanced_logits([run], images, split.class_names, tta=tta)
            seconds[tta] += time.process_time() - start
        plain, mean = scored["none"], scored["flip"]
        both = (one / (config.temperature or 1.0) for one in (plain, 2 * mean - plain))
        probabilities = np.log(np.mean([np.exp(_log_softmax(one)) for one in both], axis=0) + 1e-38)
        for way, logits in {"none": plain, "logits": mean, "probabilities": probabilities}.items():
            shifted = logits if config.logit_counts is None else logits - log_frequencies(config.logit_counts)
            right[way].append(logits.argmax(1) == labels)
            loss[way].append(balanced_log_loss(shifted, labels))
    accuracy = {way: [class_mean(one.astype(float), labels)[0] for one in values] for way, values in right.items()}
    record: dict[str, Any] = {"runs": len(flags.runs), "images": len(labels), "classes": len(set(labels.tolist()))}
    record |= {"balanced_accuracy": accuracy, "log_loss": loss, "cpu_seconds": seconds}
    for way in WAYS:
        difference = np.mean(right[way], axis=0) - np.mean(right["none"], axis=0)
        record[way] = dict(zip(("difference", "error"), class_mean(difference, labels), strict=True))
    record |= {"machine": describe()}
    RECORDS.mkdir(exist_ok=True)
    write_json(RECORDS / f"{flags.name}.json", record)
    print(json.dumps({key: record[key] for key in ("balanced_accuracy", *WAYS, "log_loss", "cpu_seconds")}, indent=2))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def table() -> str:
    lines = [
        "| data | runs | images | alone | with its mirror image | difference | by probabilities | log loss | cost |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for file in sorted(RECORDS.glob("*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        alone, both = (100 * np.mean(record["balanced_accuracy"][way]) for way in ("none", "logits"))
        pairs = (f"{100 * record[way]['difference']:+.2f} ± {100 * record[way]['error']:.2f}" for way in WAYS)
        loss = " -> ".join(f"{np.mean(record['log_loss'][way]):.3f}" for way in ("none", "logits"))
        ratio = record["cpu_seconds"]["flip"] / record["cpu_seconds"]["none"]
        cells = (file.stem, record["runs"], f"{record['images']:,}", f"{alone:.1f}", f"{both:.1f}", *pairs, loss)
        lines.append(f"| {' | '.join(map(str, cells))} | {ratio:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tta", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("table")
    more = verbs.add_parser("measure")
    more.add_argument("name")
    more.add_argument("runs", nargs="+")
    more.add_argument("--dataset", help="as for paco-hf evaluate")
    more.add_argument("--dataset_path")
    flags = parser.parse_args()
    if flags.verb == "table":
        print(table())
        return
    with tempfile.TemporaryDirectory() as empty:
        datasets.config.HF_DATASETS_CACHE = Path(empty)  # no features from before, which would cost nothing
        measure(flags)


if __name__ == "__main__":
    main()
