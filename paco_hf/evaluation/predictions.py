"""What a model says of each labeled image, and the file that keeps it: `predictions.parquet`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..utils.files import replacing
from .image_scores import row_blocks
from .priors import softmax

KEPT = 10  # classes of an image whose probabilities are kept
_ABOUT = b"paco_hf"  # the key of what is known of all rows, in the file's metadata


@dataclass
class Predictions:
    """Per-image results of a labeled split.

    Args:
        split (list of `str`): the split of each image, as the dataset calls it.
        file (list of `str`): its name from the dataset's folder on, or `split#row` where it is in a table.
        row (`(N,)`): its row in the split.
        label (`(N,)`): its class id.
        prediction (`(N,)`): the class id of the highest probability.
        probability (`(N,)`): of the prediction, at the model's temperature and without a stored prior.
        label_probability (`(N,)`): of the label.
        margin (`(N,)`): probability of the label minus the highest of another class; negative where the prediction is
            another.
        top_classes (`(N, K)`): the most probable class ids, best first.
        top_probabilities (`(N, K)`): their probabilities.
        class_names (list of `str`): by class id.
        class_counts (list of `int`, *optional*): training images of each class.
        cross_validated (`bool`): whether each image was scored by a classifier that had not been trained on it, of
            those that the model was trained on.
    """

    split: list[str]
    file: list[str]
    row: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    probability: np.ndarray
    label_probability: np.ndarray
    margin: np.ndarray
    top_classes: np.ndarray
    top_probabilities: np.ndarray
    class_names: list[str]
    class_counts: list[int] | None = None
    cross_validated: bool = False

    def __len__(self) -> int:
        return len(self.label)

    @classmethod
    def from_logits(cls, logits: np.ndarray, labels: Any, temperature: float | None = None, **about: Any) -> Any:
        """Those of logits.

        Args:
            logits (`(N, C)`): without temperature and prior.
            labels (`(N,)`): class ids.
            temperature (`float`, *optional*): that divides them.
            about: the fields that no logits tell: `split`, `file`, `row`, `class_names`, ...
        """
        label, kept = np.asarray(labels, dtype=np.int32), min(KEPT, logits.shape[1])
        parts = []
        for rows in row_blocks(logits, "the most probable classes"):
            probabilities = softmax(logits[rows] / (temperature or 1.0)).astype(np.float32)
            top = _highest(probabilities, kept)
            true, highest = label[rows, None], np.take_along_axis(probabilities, top, axis=1)
            right = np.take_along_axis(probabilities, true, axis=1)
            np.put_along_axis(probabilities, true, -1.0, axis=1)
            other = np.maximum(probabilities.max(axis=1, keepdims=True), 0.0)
            parts.append((top, highest, right[:, 0], (right - other)[:, 0]))
        top_classes, top_probabilities, label_probability, margin = map(np.concatenate, zip(*parts, strict=True))
        return cls(
            label=label,
            prediction=top_classes[:, 0],
            probability=top_probabilities[:, 0],
            label_probability=label_probability,
            margin=margin,
            top_classes=top_classes,
            top_probabilities=top_probabilities,
            **about,
        )

    def write(self, file: Path) -> None:
        """Write it as parquet: a column a field, labels and predictions by name and, as `label_id`, by id.

        Args:
            file (`Path`): to write.
        """
        named = {name: [self.class_names[c] for c in getattr(self, name).tolist()] for name in _CLASSES}
        columns: dict[str, Any] = {
            "file": self.file,
            "split": pa.array(self.split, pa.string()).dictionary_encode(),
            "row": self.row.astype(np.int64),
            **{name: pa.array(values, pa.string()).dictionary_encode() for name, values in named.items()},
            **{f"{name}_id": getattr(self, name).astype(np.int32) for name in _CLASSES},
            **{name: getattr(self, name).astype(np.float32) for name in _NUMBERS},
            "top_classes": _lists(self.top_classes, pa.int32()),
            "top_probabilities": _lists(self.top_probabilities, pa.float32()),
        }
        about = {name: getattr(self, name) for name in ("class_names", "class_counts", "cross_validated")}
        table = pa.table(columns).replace_schema_metadata({_ABOUT: json.dumps(about).encode()})
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as partial:
            pq.write_table(table, partial, compression="zstd")

    @classmethod
    def read(cls, file: Path) -> "Predictions":
        """Read what [`Predictions.write`] wrote.

        Args:
            file (`Path`): to read.

        Raises:
            ValueError: it is damaged, or another file; names it.
            OSError: there is no such file.
        """
        try:
            table = pq.read_table(file)
            about = json.loads(table.schema.metadata[_ABOUT])
            columns: dict[str, Any] = {name: table[name].to_pylist() for name in ("split", "file")}
            columns |= {name: table[f"{name}_id"].to_numpy() for name in _CLASSES}
            columns |= {name: table[name].to_numpy() for name in ("row", *_NUMBERS)}
            for name in ("top_classes", "top_probabilities"):
                columns[name] = table[name].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
            return cls(**columns, **about)
        except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file} is damaged or has a different format ({type(error).__name__}: {error}): evaluate the run "
                "again, or train it again"
            ) from error


_CLASSES, _NUMBERS = ("label", "prediction"), ("probability", "label_probability", "margin")


def _highest(values: np.ndarray, count: int) -> np.ndarray:
    """The columns of the highest values of each row, the highest first; of equal ones the first, as of `argmax`."""
    candidates = np.argpartition(-values, count - 1, axis=1)[:, :count] if count < values.shape[1] else None
    if candidates is None:
        return np.argsort(-values, axis=1, kind="stable").astype(np.int32)
    # What is left out may equal the last one that is in, but where it is the highest of all it is the prediction.
    first = values.argmax(axis=1)[:, None]
    candidates[:, -1:] = np.where((candidates == first).any(axis=1, keepdims=True), candidates[:, -1:], first)
    candidates.sort(axis=1)
    order = np.argsort(-np.take_along_axis(values, candidates, axis=1), axis=1, kind="stable")
    return np.take_along_axis(candidates, order, axis=1).astype(np.int32)


def _lists(values: np.ndarray, kind: Any) -> Any:
    """An array `(N, K)` as a column of lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1), kind), values.shape[1])
