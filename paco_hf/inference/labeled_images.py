"""Images with labels to classify one after the other, and which of the labels are probably wrong."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.image_split import ImageSplit
from ..data.images import LabeledImages
from ..data.loading import open_source
from ..data.spec import DataSpec
from ..data.streaming.manifest import is_prepared
from ..data.streaming.sharded_images import ShardedImages
from .image_parts import EncodedRows, FileImages, ImagePart, ShardRows
from .unlabeled import STREAM_WINDOW, UnlabeledImages

if TYPE_CHECKING:
    from ..models.configuration_paco import PaCoConfig


class ImagesWithLabels(UnlabeledImages):
    """Images of a dataset that is read as for training, with their labels.

    Args:
        dataset (`str`): folder, table, address or Hub id.
        split (`str`, *optional*): the only split that is meant.
        options (*optional*): other fields of the [`DataSpec`]: `image_column`, `label_column`, `max_image_pixels`.

    Raises:
        ValueError: there are no labels, or no such split; what [`open_source`] raises.
        OSError: likewise.
    """

    def __init__(self, dataset: str, split: str | None = None, **options: Any) -> None:
        super().__init__()
        source = open_source(DataSpec(dataset, streaming=is_prepared(dataset), window=STREAM_WINDOW, **options))
        self.notes += [note for note in (source.description, *source.notes) if note]
        splits = {str(one.source_split or role): one for role, one in source.splits.items()}
        if split is not None and split not in splits:
            raise ValueError(
                f"{dataset} has no split {split!r} with labels: choose one of {', '.join(map(repr, splits))} with "
                "--split"
            )
        self.dataset, self.labels = dataset, list[int]()
        for name in splits if split is None else (split,):
            prefix = f"{dataset}#{name}/" if len(splits) > 1 else f"{dataset}#"
            self.add(_part(splits[name], prefix))
            self.labels += splits[name].labels
            self.class_names = splits[name].class_names

    def model_labels(self, config: "PaCoConfig", model_folder: str) -> np.ndarray:
        """The labels `(N,)` as class ids of a model.

        Args:
            config ([`PaCoConfig`]): of the model.
            model_folder (`str`): for messages.

        Raises:
            ValueError: a class is none of the model's.
        """
        ids = {name: class_id for class_id, name in config.id2label.items()}
        if unknown := [name for name in self.class_names if name not in ids]:
            raise ValueError(
                f"{self.dataset} has a class {unknown[0]!r} that is not a class of {model_folder}: --suspects "
                "needs labels that are classes of the model"
            )
        return np.array([ids[name] for name in self.class_names])[self.labels]


def _part(split: ImageSplit, prefix: str) -> ImagePart:
    if isinstance(split, ShardedImages):
        return ShardRows(split, prefix)
    assert isinstance(split, LabeledImages)
    if split.files:
        return FileImages(split.files[row] for row in split.source_rows)
    return EncodedRows(split.encoded, split.image_column, prefix)


def suspect_rows(tables: Iterable[Any], class_names: Sequence[str], logit_counts: Any) -> set[int]:
    """The images whose label is probably wrong ([`paco_hf.evaluation.suspects.find_suspects`]).

    Args:
        tables (iterable of `pyarrow.Table`): the predictions, with `data_label` and `label_probability`.
        class_names (sequence of `str`): of the model.
        logit_counts (`(C,)`, *optional*): the class frequencies that its logits are for; `None`: equal ones.
    """
    from ..evaluation.predictions import Predictions
    from ..evaluation.suspects import find_suspects

    ids = {name: class_id for class_id, name in enumerate(class_names)}
    columns: list[list[np.ndarray]] = [[], [], [], [], []]
    start = 0
    for table in tables:
        decoded = table.filter(good := table["error"].is_null())
        shape = len(decoded), -1
        labels = [ids[name] for name in decoded["data_label"].to_pylist()]
        top = [ids[name] for name in decoded["top_labels"].combine_chunks().flatten().to_pylist()]
        scores = decoded["top_scores"].combine_chunks().flatten().to_numpy()
        values = (
            start + np.flatnonzero(good.to_numpy()),
            np.array(labels, np.int32),
            decoded["label_probability"].to_numpy(),
            np.array(top, np.int32).reshape(shape) if labels else None,
            scores.reshape(shape) if labels else None,
        )
        for column, value in zip(columns, values if labels else (), strict=False):
            column.append(value)
        start += len(table)
    if not columns[0]:
        return set()
    rows, label, right, top_classes, scores = map(np.concatenate, columns)
    other = np.where(top_classes == label[:, None], 0, scores).max(axis=1)
    predictions = Predictions(
        split=[],
        file=[],
        row=rows,
        label=label,
        prediction=top_classes[:, 0],
        probability=scores[:, 0],
        label_probability=right,
        margin=right - other,
        top_classes=top_classes,
        top_probabilities=scores,
        class_names=[*class_names],
    )
    suspects, _ = find_suspects(predictions, logit_counts)
    return {int(rows[suspect.row]) for suspect in suspects}
