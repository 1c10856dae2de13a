"""What it is worth to know, or to estimate, how frequent the classes are: the table of `docs/results.md`.

```
python -m benchmarks.priors model_cards/paco-resnet32-cifar100-lt-100 --dataset cifar100-lt --record FILE
```

Test images are drawn so that the most frequent training class is 50 times the least frequent one, or the reverse.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from paco_hf.data.images import Images
from paco_hf.evaluation.prior_estimation import estimate_prior
from paco_hf.evaluation.priors import log_frequencies, shifted_prior, softmax
from paco_hf.inference.logits import balanced_logits
from paco_hf.workflows.evaluation_data import load_evaluation

RATIO = 50
DRAWS = 3


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.priors", description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--dataset", help="as for paco-hf evaluate")
    parser.add_argument("--dataset_path")
    parser.add_argument("--record", type=Path, help="JSON file to write")
    flags = parser.parse_args()
    split = load_evaluation(flags.model, flags.dataset, dataset_path=flags.dataset_path)
    logits, labels, config = balanced_logits([flags.model], Images(split), split.class_names)
    counts = np.asarray(config.group_counts)
    logits = logits / (config.temperature or 1.0)
    probabilities = softmax(logits if config.logit_counts is None else logits - log_frequencies(config.logit_counts))
    size = len(labels) // 2
    record = {"model": Path(flags.model).name, "dataset": flags.dataset, "images": size, "draws": DRAWS, "rows": {}}
    print(f"{'test images':<14}{'as it is':>10}{'known':>10}{'estimated':>11}{'distance':>10}{'of equal':>10}")
    for direction in ("forward", "backward"):
        prior = shifted_prior(counts, RATIO, direction)
        weights = prior[labels] / np.bincount(labels, minlength=len(counts))[labels]
        rows = []
        for seed in range(DRAWS):
            drawn = np.random.default_rng(seed).choice(len(labels), size, p=weights / weights.sum())
            truth = np.bincount(labels[drawn], minlength=len(counts)) / size
            estimate = estimate_prior(probabilities[drawn], resamples=0)["prior"]
            equal = np.full(len(counts), 1 / len(counts))
            rows.append(
                [((probabilities[drawn] * p).argmax(1) == labels[drawn]).mean() for p in (equal, prior, estimate)]
                + [np.abs(p - truth).sum() / 2 for p in (estimate, equal)]
            )
        names = ("unadjusted", "known", "estimated", "distance", "distance_of_equal")
        record["rows"][f"{direction} {RATIO}:1"] = {
            name: [round(float(value), 5) for value in column]
            for name, column in zip(names, np.transpose(rows), strict=True)
        }
        *accuracies, distance, of_equal = np.mean(rows, axis=0)
        shown = "".join(f"{100 * a:>10.1f}" for a in accuracies)
        print(f"{direction + f' {RATIO}:1':<14}{shown}{distance:>11.2f}{of_equal:>10.2f}")
    if flags.record:
        flags.record.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
