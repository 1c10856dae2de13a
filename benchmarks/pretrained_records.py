"""Records of `benchmarks.pretrained`: one JSON file a measurement, and what all of them hold."""

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paco_hf.metrics import HEADLINE, long_tailed_accuracy
from paco_hf.utils.files import write_json

from .machine import describe

RECORDS, DATA_NAME = Path(__file__).parent / "pretrained", "data.json"


def record_file(root: Path, data: str, name: str) -> Path:
    """Where a measurement is kept.

    Args:
        root (`Path`): folder of all records.
        data (`str`): what the data set is called.
        name (`str`): of the measurement.
    """
    return root / (re.sub(r"[^a-z0-9]+", "-", data.lower()).strip("-")) / f"{name}.json"


def write_record(file: Path, content: dict[str, Any]) -> None:
    """Write a record, with the machine, the date and the commit."""
    root = Path(__file__).parent
    answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {**content, "commit": answer.stdout.strip() or None, "machine": describe()})


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """All records of a data set by their names, without that of the data."""
    files = sorted(file for file in folder.glob("*.json") if file.name != DATA_NAME)
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def read_data(folder: Path) -> dict[str, Any]:
    """The record of a data set: its name, `train_counts` by class and the `labels` of its test images."""
    return json.loads((folder / DATA_NAME).read_text(encoding="utf-8"))


def packed(ids: Any) -> str:
    """Class ids as one text, which a JSON file keeps on one line."""
    return " ".join(str(int(value)) for value in ids)


def unpacked(text: str) -> np.ndarray:
    """The class ids of [`packed`]."""
    return np.array(text.split(), dtype=np.int64)


def write_data(file: Path, name: str, train_counts: Sequence[int], labels: Sequence[int], **more: Any) -> None:
    """The record of a data set, which all others of its folder are of.

    Args:
        file (`Path`): the record.
        name (`str`): what the data set is called.
        train_counts (sequence of `int`): training images by class.
        labels (sequence of `int`): classes of the test images, in the order of all predictions.
        more: what else is worth keeping.

    Raises:
        ValueError: there are records of other images.
    """
    content = {"name": name, "train_counts": packed(train_counts), "labels": packed(labels)}
    if file.is_file():
        before = read_data(file.parent)
        if any(before[key] != value for key, value in content.items()):
            raise ValueError(f"{file.parent} has records of other images: give another --name or --records")
        return
    write_record(file, {**content, **more})


def result(predictions: Any, labels: Any, train_counts: Any, seconds: float) -> dict[str, Any]:
    """Scores of the test images, with what they are computed from.

    Args:
        predictions (`(N,)`): predicted classes.
        labels (`(N,)`): true classes.
        train_counts (`(C,)`): training images by class.
        seconds (`float`): of the training.
    """
    scores = long_tailed_accuracy(np.asarray(predictions), np.asarray(labels), np.asarray(train_counts))
    rounded = {name: None if scores[name] is None else round(scores[name], 5) for name in HEADLINE}
    return {**rounded, "seconds": round(seconds, 2), "predictions": packed(predictions)}


def one_line(name: str, record: dict[str, Any]) -> str:
    """The scores of a record, for the user to read."""
    scores = [f"{100 * one['balanced_accuracy']:.1f}" for one in record["seeds"].values()]
    choosing = record.get("cross_validation_seconds")
    return f"{name}: balanced {', '.join(scores)}" + (f"; {choosing:.0f} s to choose" if choosing else "")
