"""Wrong labels planted in a data set of class folders, and how many of them are found.

```
python -m benchmarks.suspects --dataset FOLDER --name "Caltech-101 subset" --backbone FOLDER
python -m benchmarks.suspects --table    # benchmarks/suspects.md, from the records
```

A tenth of the training images get another label: any other class, or the class of the most similar mean. The commands
are those of a user: `train`, `data suspects`, `train --exclude_list`. Beside them, on the same features and labels,
out-of-fold logistic regression of scikit-learn, ranked by the probability of the label, and, where it is installed,
what cleanlab makes of the same probabilities. What `data suspects` weighs images by was chosen on such labels of the
Caltech-101 subset.
"""

import argparse
import importlib.util
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from paco_hf.cli import main as paco_hf
from paco_hf.data.loading import load_data
from paco_hf.inference.features import embed_split
from paco_hf.metrics import GROUPS, shot_group
from paco_hf.utils.files import write_json, write_text
from paco_hf.workflows.suspects import suspect_labels, write_suspects

from .machine import describe

RECORDS = Path(__file__).parent / "suspects"
KINDS = {"random": "any other class", "similar": "the most similar class"}


def plant(labels: np.ndarray, features: np.ndarray, kind: str, seed: int) -> np.ndarray:
    """Labels of which a tenth are changed."""
    generator, wrong = np.random.default_rng(seed), labels.copy()
    rows = generator.permutation(len(labels))[: len(labels) // 10]
    classes = int(labels.max()) + 1
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    means = np.stack([unit[labels == c].mean(0) for c in range(classes)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    cosines = means @ means.T - 9 * np.eye(classes)
    for row in rows:
        drawn = int(generator.integers(classes - 1))
        wrong[row] = cosines[labels[row]].argmax() if kind == "similar" else drawn + (drawn >= labels[row])
    return wrong


def folder_of(names: list[str], class_names: list[str], labels: np.ndarray, source: Path, folder: Path) -> Path:
    """Class folders with links to the training images, and to the test as it is."""
    for name, label in zip(names, labels, strict=True):
        target = folder / "train" / class_names[label] / name.replace("/", "-")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source / name)
    (folder / "test").symlink_to(source / "test", target_is_directory=True)
    return folder


def train(dataset: Path, backbone: str, output: Path, size: int, *more: str) -> dict[str, Any]:
    """Scores of a run."""
    words = ["--dataset", str(dataset), "--backbone", backbone, "--output_dir", str(output), "--image_size", str(size)]
    assert paco_hf(["train", *words, "--image_fit", "crop", "--report", "false", *more]) == 0
    return dict(json.loads((output / "metrics.json").read_text(encoding="utf-8"))["test"])


def measure(flags: argparse.Namespace, kind: str, seed: int, clean: Path) -> dict[str, Any]:
    """One planting."""
    data = load_data(flags.dataset).train
    truth, names = np.asarray(data.labels), data.image_names()
    embeddings, _ = embed_split(str(clean), data, data.class_names)
    labels = plant(truth, embeddings.features, kind, seed)
    with TemporaryDirectory() as scratch:
        folder = folder_of(names, data.class_names, labels, Path(flags.dataset), Path(scratch) / "data")
        before = train(folder, flags.backbone, Path(scratch) / "run", flags.image_size, "--seed", str(seed))
        planted = load_data(str(folder)).train
        # The names of the links say which image each is, and so its true class.
        true_class = {name.replace("/", "-"): c for name, c in zip(names, truth.tolist(), strict=True)}
        true = np.array([true_class[Path(name).name] for name in planted.image_names()])
        ranked = suspect_labels(str(Path(scratch) / "run"), number=len(planted.labels))
        listed = suspect_labels(str(Path(scratch) / "run"))
        write_suspects(listed, Path(scratch) / "suspects.csv")
        after = train(
            *(folder, flags.backbone, Path(scratch) / "cleaned", flags.image_size),
            *("--seed", str(seed), "--exclude_list", str(Path(scratch) / "suspects.csv")),
        )
        features, _ = embed_split(str(Path(scratch) / "run"), planted, planted.class_names)
    order = np.array([one.row for one in ranked.suspects])
    group, labeled = shot_group(np.bincount(truth))[true], np.asarray(planted.labels)
    wrong = labeled != true
    assert planted.class_names == data.class_names
    two_lines = LogisticRegression(max_iter=1000)
    probabilities = cross_val_predict(two_lines, features.features, labeled, cv=5, method="predict_proba")
    rows = [one.row for one in listed.suspects]
    return {
        "images": len(labeled),
        "planted": int(wrong.sum()),
        "ours": _found(order, wrong, group),
        "listed": len(rows),
        "listed_precision": float(wrong[rows].mean()),
        "listed_recall": float(wrong[rows].sum() / wrong.sum()),
        "logistic_regression": _found(np.argsort(probabilities[np.arange(len(labeled)), labeled]), wrong, group),
        **({"cleanlab": _cleanlab(probabilities, labeled, wrong, group)} if flags.cleanlab else {}),
        "balanced_accuracy": {"as_planted": before["balanced_accuracy"], "cleaned": after["balanced_accuracy"]},
        "few": {"as_planted": before["few"], "cleaned": after["few"]},
    }


def _found(order: np.ndarray, wrong: np.ndarray, group: np.ndarray) -> dict[str, Any]:
    """Of as many as were planted, the share that is wrong; of the planted ones of each group the share among them."""
    first = np.zeros(len(wrong), dtype=bool)
    first[order[: wrong.sum()]] = True
    recall = {
        name: first[wrong & (group == i)].mean() for i, name in enumerate(GROUPS) if (wrong & (group == i)).any()
    }
    return {"precision": float(wrong[first].mean()), **{name: float(value) for name, value in recall.items()}}


def _cleanlab(probabilities: np.ndarray, labeled: np.ndarray, wrong: np.ndarray, group: np.ndarray) -> dict[str, Any]:
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    result = {}
    for method in ("self_confidence", "normalized_margin", "confidence_weighted_entropy"):
        result[method] = _found(
            np.argsort(get_label_quality_scores(labeled, probabilities, method=method)), wrong, group
        )
    for kind in ("prune_by_noise_rate", "confident_learning", "both"):
        issues = find_label_issues(labeled, probabilities, filter_by=kind, n_jobs=1)
        result[f"filter_{kind}"] = {
            "listed": int(issues.sum()),
            "listed_precision": float(wrong[issues].mean()),
            "listed_recall": float(wrong[issues].sum() / wrong.sum()),
        }
    return result


def main() -> None:
    """Measure what has no record yet, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", help="folder with train/ and test/ of class folders")
    parser.add_argument("--name", help="what the data set is called")
    parser.add_argument("--backbone")
    parser.add_argument("--image_size", type=int, default=160)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--table", action="store_true")
    flags = parser.parse_args()
    flags.cleanlab = importlib.util.find_spec("cleanlab") is not None
    if not flags.table:
        RECORDS.mkdir(exist_ok=True)
        with TemporaryDirectory() as scratch:
            clean = Path(scratch) / "clean"
            unplanted = train(Path(flags.dataset), flags.backbone, clean, flags.image_size)
            for kind in KINDS:
                for seed in flags.seeds:
                    file = RECORDS / f"{flags.name.lower().replace(' ', '-')}-{kind}-{seed}.json"
                    if not file.is_file():
                        about = {"data": flags.name, "kind": kind, "seed": seed, "image_size": flags.image_size}
                        scores = {"clean": unplanted["balanced_accuracy"], "clean_few": unplanted["few"]}
                        write_json(file, about | scores | measure(flags, kind, seed, clean) | {"machine": describe()})
    write_table()


def write_table() -> None:
    """`suspects.md`, from the records."""
    lines = ["# Wrong labels, planted and found", "", __doc__.split("```")[2].strip(), ""]
    records = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(RECORDS.glob("*.json"))]
    for data, kind in sorted({(one["data"], one["kind"]) for one in records}):
        some = [one for one in records if (one["data"], one["kind"]) == (data, kind)]
        cpu = some[0]["machine"]["cpu"]
        lines += [
            f"## {data}, labels of {KINDS[kind]}",
            "",
            f"{some[0]['images']:,} images, {some[0]['planted']} labels changed; mean of {len(some)} seeds, percent; "
            f"groups by the true class ({cpu}).",
            "",
            "| as many as were changed | wrong of these | many | medium | few |",
            "|---|---|---|---|---|",
        ]
        methods = {"`paco-hf data suspects`": "ours", "logistic regression, two lines": "logistic_regression"}
        for title, key in methods.items():
            lines.append(_row(title, [one[key] for one in some]))
        for key in ("self_confidence", "normalized_margin", "confidence_weighted_entropy"):
            if all("cleanlab" in one for one in some):
                lines.append(_row(f"the same, cleanlab's {key}", [one["cleanlab"][key] for one in some]))
        lines += ["", "| listed as suspect | images | wrong of these | of the changed ones |", "|---|---|---|---|"]
        lines.append(_listed("`paco-hf data suspects`", some))
        for key in ("prune_by_noise_rate", "confident_learning", "both"):
            if all("cleanlab" in one for one in some):
                lines.append(_listed(f"cleanlab, {key}", [one["cleanlab"][f"filter_{key}"] for one in some]))
        accuracy, few = (
            {name: _mean([one[score][name] for one in some]) for name in ("as_planted", "cleaned")}
            for score in ("balanced_accuracy", "few")
        )
        lines += [
            "",
            f"Balanced test accuracy: {_mean([one['clean'] for one in some])} with all labels right, "
            f"{accuracy['as_planted']} as planted, {accuracy['cleaned']} without what is listed; classes with few "
            f"images: {_mean([one['clean_few'] for one in some])}, {few['as_planted']}, {few['cleaned']}.",
            "",
        ]
    write_text(RECORDS.with_suffix(".md"), "\n".join(lines))


def _row(title: str, rows: list[dict[str, float]]) -> str:
    cells = [_mean([row[name] for row in rows if name in row]) for name in ("precision", *GROUPS)]
    return f"| {title} | {' | '.join(cells)} |"


def _listed(title: str, rows: list[dict[str, float]]) -> str:
    images = np.mean([row["listed"] for row in rows])
    shares = [_mean([row[name] for row in rows]) for name in ("listed_precision", "listed_recall")]
    return f"| {title} | {images:.0f} | {' | '.join(shares)} |"


def _mean(values: list[float]) -> str:
    return f"{100 * np.mean(values):.1f}" if values else "-"


if __name__ == "__main__":
    main()
