"""Images of classes that a model was not trained on: which score tells them from images of its classes.

```
python -m benchmarks.unknown run --dataset FOLDER --name NAME --backbone FOLDER    # three draws, ten classes left out
python -m benchmarks.unknown table                                                # writes benchmarks/unknown.md
```

FOLDER has `train/` and `test/` with class folders. Of each draw the command trains on the other classes (`paco-hf
train`, nothing given but the classifier), and the test images of all classes are scored. What has a record is not
measured again.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paco_hf.cli import main as command
from paco_hf.data.images import Images
from paco_hf.data.loading import load_data
from paco_hf.data.spec import DataSpec
from paco_hf.evaluation.priors import softmax
from paco_hf.evaluation.unknown import auroc, false_acceptance, unknown_scores
from paco_hf.inference.feature_cache import cached_features
from paco_hf.inference.load_model import load_for_inference
from paco_hf.metrics import GROUPS, shot_group, unit_rows
from paco_hf.utils.files import write_text

from .pretrained_records import read_records, record_file, write_record

RECORDS = Path(__file__).parent / "unknown"
TABLE = Path(__file__).with_suffix(".md")
CLASSIFIERS = ("cosine", "linear")
SCORES = {
    "confidence": "maximum probability",
    "max_logit": "maximum logit",
    "energy": "energy",
    "center": "cosine to the nearest class center",
    "mean": "cosine to the nearest class mean",
    "image": "cosine to the nearest training image",
}
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def draw(classes: list[str], left_out: int, seed: int) -> list[str]:
    """The classes of a draw that are left out.

    Args:
        classes (list of `str`): all of them.
        left_out (`int`): how many.
        seed (`int`): of the draw.
    """
    return sorted(np.random.default_rng(seed).choice(classes, left_out, replace=False).tolist())


def link_known(dataset: Path, unknown: list[str], folder: Path) -> Path:
    """A data set of links to the class folders of another, some left out.

    Args:
        dataset (`Path`): with `train/` and `test/`.
        unknown (list of `str`): classes to leave out.
        folder (`Path`): where to make it.
    """
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        for source in sorted((dataset / split).iterdir()):
            if source.is_dir() and source.name not in unknown:
                (folder / split / source.name).symlink_to(source.resolve(), target_is_directory=True)
    return folder


def measure(dataset: Path, run: Path, known_folder: Path) -> dict[str, Any]:
    """Every score of the test images of all classes, and how well it tells known from unknown.

    Args:
        dataset (`Path`): with all classes.
        run (`Path`): folder of the run that was trained without some.
        known_folder (`Path`): what it was trained on.

    Returns:
        by score `auroc` and `fpr` (at 95% of the known images accepted), each `overall` and by the shot group of the
        known images.
    """
    model, processor = load_for_inference(run, 64, "fp32")
    names = [model.config.id2label[c] for c in range(model.config.num_labels)]
    test = load_data(DataSpec(str(dataset))).test
    train = load_data(DataSpec(str(known_folder))).train
    features = {split.role: cached_features(model.paco, processor, Images(split), 64)[0] for split in (test, train)}
    known = np.asarray([test.class_names[label] in names for label in test.labels])
    with torch.no_grad():
        logits = model.classifier(torch.from_numpy(features["test"])).numpy()
        centers = model.classifier.weight.numpy()
    unit, gallery, labels = unit_rows(features["test"]), unit_rows(features["train"]), np.asarray(train.labels)
    means = unit_rows(np.stack([gallery[labels == c].mean(0) for c in range(len(names))]))
    scores = {
        "confidence": softmax(logits / (model.config.temperature or 1.0)).max(1),
        "max_logit": unknown_scores(logits, "max_logit"),
        "energy": unknown_scores(logits, "energy"),
        "center": (unit @ unit_rows(centers).T).max(1),
        "mean": (unit @ means.T).max(1),
        "image": (unit @ gallery.T).max(1),
    }
    group = shot_group(np.asarray(model.config.group_counts))
    place = {name: c for c, name in enumerate(names)}
    ids = np.asarray([place.get(test.class_names[label], -1) for label in test.labels])
    true = np.where(known, group[ids], -1)
    parts = {"overall": known, **{name: true == i for i, name in enumerate(GROUPS)}}

    def both(score: np.ndarray, compute: Callable[[np.ndarray, np.ndarray], float]) -> dict[str, float]:
        return {name: compute(score[rows], score[~known]) for name, rows in parts.items() if rows.any()}

    return {
        "known_images": {name: int(rows.sum()) for name, rows in parts.items()},
        "unknown_images": int((~known).sum()),
        "accuracy": float((logits.argmax(1) == ids)[known].mean()),
        "scores": {
            name: {"auroc": both(score, auroc), "fpr": both(score, false_acceptance)} for name, score in scores.items()
        },
    }


def run(flags: argparse.Namespace) -> None:
    """Train and measure each draw and classifier that has no record."""
    dataset, records = Path(flags.dataset), Path(flags.records)
    classes = sorted(path.name for path in (dataset / "train").iterdir() if path.is_dir())
    if not 0 < flags.left_out < len(classes) - 1:
        raise SystemExit(f"--left_out must leave two of the {len(classes)} classes, got {flags.left_out}")
    for seed in range(flags.draws):
        unknown = draw(classes, flags.left_out, seed)
        with tempfile.TemporaryDirectory() as folder:
            known = link_known(dataset, unknown, Path(folder) / "known")
            for classifier in CLASSIFIERS:
                file = record_file(records, flags.name, f"{classifier}-draw{seed}")
                if file.is_file():
                    continue
                target = Path(folder) / classifier
                arguments = ["--dataset", known, "--backbone", flags.backbone, "--classifier", classifier]
                arguments += ["--output_dir", target, "--report", "false", *flags.more.split()]
                if command(["train", *map(str, arguments)]):
                    raise SystemExit(f"draw {seed} cannot be trained")
                about = {"data": flags.name, "classifier": classifier, "draw": seed, "left_out": unknown}
                write_record(file, {**about, **measure(dataset, target, known)})
                print(f"{file.name} written", flush=True)


def table(flags: argparse.Namespace) -> None:
    """Write the tables of all records between the marks of a Markdown file, and print them."""
    parts = []
    for folder in sorted(path for path in Path(flags.records).iterdir() if path.is_dir()):
        found = list(read_records(folder).values())
        for classifier in CLASSIFIERS:
            rows = [record for record in found if record["classifier"] == classifier]
            if rows:
                parts += [_section(rows)]
    text, output = "\n\n".join(parts), Path(flags.output)
    before = output.read_text(encoding="utf-8") if output.is_file() else f"{BEGIN}\n{END}\n"
    head, rest = before.split(BEGIN, 1)
    write_text(output, f"{head}{BEGIN}\n\n{text}\n\n{END}{rest.split(END, 1)[1]}")
    print(text)


def _section(records: list[dict[str, Any]]) -> str:
    first, groups = records[0], ("overall", *GROUPS)
    images = {name: [record["known_images"][name] for record in records] for name in groups}
    lines = [
        f"## {first['data']}, {first['classifier']} classifier",
        "",
        f"{len(records)} draws of {len(first['left_out'])} classes left out; {_span(images['overall'])} test images "
        f"of known classes ({', '.join(f'{name} {_span(images[name])}' for name in GROUPS)}), "
        f"{_span([record['unknown_images'] for record in records])} of unknown ones; top-1 of the known "
        f"{_mean([record['accuracy'] for record in records])}. {first['machine']['cpu']}.",
        "",
        "| score | AUROC | many | medium | few | FPR at 95% | many | medium | few |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, title in SCORES.items():
        cells = [
            _mean([r["scores"][name][kind][group] for r in records if group in r["scores"][name][kind]])
            for kind in ("auroc", "fpr")
            for group in groups
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(values: list[float]) -> str:
    if not values:
        return "-"
    deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{deviation}"


def _span(values: list[int]) -> str:
    return f"{min(values)}" if min(values) == max(values) else f"{min(values)} to {max(values)}"


def main(argv: list[str] | None = None) -> None:
    """The command line: `run` or `table`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.unknown", description=__doc__.splitlines()[0])
    parser.add_argument("--records", default=str(RECORDS), help="folder of the records (default: %(default)s)")
    verbs = parser.add_subparsers(required=True)
    runs = verbs.add_parser("run", help=run.__doc__)
    runs.add_argument("--dataset", required=True, help="folder with train/ and test/ of class folders")
    runs.add_argument("--name", required=True, help="what the data set is called")
    runs.add_argument("--backbone", required=True, help="as for paco-hf train")
    runs.add_argument("--left_out", type=int, default=10, help="classes a draw (default: %(default)s)")
    runs.add_argument("--draws", type=int, default=3, help="(default: %(default)s)")
    runs.add_argument("--more", default="", help="other flags of paco-hf train")
    runs.set_defaults(run=run)
    tables = verbs.add_parser("table", help=table.__doc__)
    tables.add_argument("--output", default=str(TABLE), help="(default: %(default)s)")
    tables.set_defaults(run=table)
    flags = parser.parse_args(argv)
    flags.run(flags)


if __name__ == "__main__":
    main()
