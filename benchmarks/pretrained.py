"""Classifiers on the features of a pretrained backbone, beside what is usually done instead.

```
python -m benchmarks.pretrained heads     --dataset PATH --name "Caltech-101 subset" --backbone FOLDER --image_size 160
python -m benchmarks.pretrained baselines ...    # nearest class mean, logistic regression, on the same features
python -m benchmarks.pretrained runs      ...    # `paco-hf train` with nothing but --dataset and --backbone
python -m benchmarks.pretrained tuned     ... --label "PaCo" --more "--freeze_backbone false --loss paco" --minutes 10
python -m benchmarks.pretrained trainer   ...    # transformers.Trainer: the whole network, cross-entropy
python -m benchmarks.pretrained table            # benchmarks/pretrained.md, from the records
```

`benchmarks/fastai_finetune.py` is run by the Python of an environment that has fastai. All can be stopped at any time
and go on with the same command: a measurement whose record lies in `benchmarks/pretrained/` is not made again.
`heads` chooses the settings of a cell by cross-validation with seed 0, then trains on all images with each seed; the
test split is scored once a seed. Without --image_size the input is chosen as the command chooses it.
"""

import argparse
import dataclasses
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import set_seed

from paco_hf.arguments.resolve import RunPlan
from paco_hf.data.torch_datasets import FeatureDataset
from paco_hf.trainer.cross_validation import HeadSettings, cross_validate, train_head
from paco_hf.utils.hardware import one_thread
from paco_hf.workflows.choices import SCALES

from .pretrained_baselines import baselines, fine_tune
from .pretrained_data import Measured
from .pretrained_records import DATA_NAME, RECORDS, one_line, read_records, result, write_record
from .pretrained_runs import runs, tuned
from .pretrained_table import write_tables

CLASSIFIERS, CENTERS = ("linear", "cosine"), ("random", "means")
LOSSES = ("ce", "balanced_softmax", "paco", "gpaco")
# Six settings a cell: these parts of the suggested learning rate, for each of a cosine classifier's scales.
RATES = {"cosine": (0.3, 1.0), "linear": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)}
SETTINGS = (
    *("loss", "per_device_train_batch_size", "num_train_epochs", "momentum", "alpha", "temperature", "queue_size"),
    *("projection_dim", "key_momentum"),
)


def heads(flags: argparse.Namespace) -> None:
    """Each cell: six settings by cross-validation, then all training images with each seed."""
    torch.set_num_threads(flags.threads)
    measured = Measured(flags)
    cells = list(itertools.product(flags.classifiers, flags.losses, flags.centers))
    with tqdm(cells, desc="cells", unit=" cells", disable=None) as progress:
        for classifier, loss, centers in progress:
            file = measured.file(f"head-{classifier}-{loss}-{centers}")
            if not file.is_file():
                progress.set_postfix_str(file.stem)
                record = _measure(measured, classifier, loss, centers, flags.seeds)
                write_record(file, record)
                progress.write(one_line(file.stem, record))


def _measure(measured: Measured, classifier: str, loss: str, centers: str, seeds: list[int]) -> dict[str, Any]:
    plan, data = measured.plan(classifier=classifier, loss=loss, class_centers=centers)
    candidates, means = _candidates(plan), centers == "means"
    seeded, model = measured.model(plan, data, 0)
    start = time.perf_counter()
    found = cross_validate(
        model, seeded.args, measured.train, candidates, plan.folds, centers=measured.train if means else None
    )
    seconds = time.perf_counter() - start
    labels = np.asarray(measured.train.labels).tolist()
    trained = FeatureDataset([measured.train.features[None]], labels, plan.args.spec.views)
    results = {}
    for seed in seeds:
        seeded, model = measured.model(plan, data, seed)
        set_seed(seed)
        start = time.perf_counter()
        with one_thread(), torch.no_grad():
            with torch.enable_grad():
                head = train_head(model, seeded.args, trained, found.settings, measured.train if means else None)
            spent = time.perf_counter() - start
            logits = head.classifier(torch.from_numpy(measured.test.features).float().to(model.device))
        results[str(seed)] = result(logits.argmax(1).tolist(), measured.test.labels, measured.counts, spent)
    return {
        "kind": "head",
        "classifier": classifier,
        "loss": loss,
        "class_centers": centers,
        **measured.described,
        "settings": {name: getattr(plan.args, name) for name in SETTINGS if name not in plan.args.spec.ignores},
        "tried": [
            {**dataclasses.asdict(one), "log_loss": round(values[0], 5), "balanced_accuracy": round(values[1], 5)}
            for one, values in found.scores.items()
        ],
        "chosen": dataclasses.asdict(found.settings),
        "cross_validation_seconds": round(seconds, 2),
        "seeds": results,
    }


def _candidates(plan: RunPlan) -> list[HeadSettings]:
    run, args = plan.run, plan.args
    scales = SCALES if run.classifier == "cosine" else (run.classifier_scale,)
    rates = [float(f"{args.learning_rate * part:.3g}") for part in RATES[run.classifier]]
    return [HeadSettings(rate, args.weight_decay, scale) for rate in rates for scale in scales]


def table(flags: argparse.Namespace) -> None:
    """The tables of all data sets that have records."""
    root = Path(flags.records)
    folders = sorted(file.parent for file in root.glob(f"*/{DATA_NAME}"))
    print(write_tables({folder: read_records(folder) for folder in folders}, Path(flags.output)))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pretrained", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--records", default=str(RECORDS), help="folder of the records (default: benchmarks/pretrained)"
    )
    steps = parser.add_subparsers(dest="step", required=True)
    functions = {
        "heads": heads,
        "baselines": baselines,
        "runs": runs,
        "tuned": tuned,
        "trainer": fine_tune,
        "table": table,
    }
    each = {name: steps.add_parser(name, help=(f.__doc__ or "").splitlines()[0]) for name, f in functions.items()}
    for name in ("heads", "baselines", "runs", "tuned", "trainer"):
        step = each[name]
        step.add_argument("--dataset", required=True, help="folder with a train and a test split")
        step.add_argument("--name", required=True, help="what the data set is called")
        step.add_argument("--backbone", required=True, help="folder that timm saved")
        step.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
        step.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(default: %(default)s)")
    for name in ("heads", "baselines", "trainer"):
        each[name].add_argument("--image_size", type=int, help="(default: chosen as the command does)")
        each[name].add_argument("--image_fit", choices=["crop", "pad"], help="(likewise)")
        each[name].add_argument("--folds", type=int, default=5, help="of cross-validation (default: %(default)s)")
    each["heads"].add_argument("--classifiers", nargs="+", choices=CLASSIFIERS, default=CLASSIFIERS)
    each["heads"].add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES)
    each["heads"].add_argument("--centers", nargs="+", choices=CENTERS, default=CENTERS)
    for name in ("runs", "tuned"):
        each[name].add_argument("--folder", default="runs/pretrained", help="for run folders (default: %(default)s)")
        each[name].add_argument("--batch_size", type=int, default=256, help="(default: %(default)s)")
    each["tuned"].add_argument("--label", required=True, help="what the run is called in the table")
    each["tuned"].add_argument("--more", default="", help="further flags of the command, in quotes")
    each["tuned"].add_argument("--minutes", type=float, help="of training (default: as long as the command chooses)")
    each["trainer"].add_argument("--learning_rate", type=float, default=1e-4, help="(default: %(default)s)")
    each["trainer"].add_argument("--epochs", type=float, default=5, help="(default: %(default)s)")
    each["trainer"].add_argument("--max_steps", type=int, default=-1, help="to try it: nothing is recorded")
    output = str(RECORDS.with_suffix(".md"))
    each["table"].add_argument("--output", default=output, help="(default: benchmarks/pretrained.md)")
    flags = parser.parse_args(argv)
    functions[flags.step](flags)


if __name__ == "__main__":
    main()
