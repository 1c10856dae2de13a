"""Folders, lists of files, parquet files and Hub ids as splits with an image column and a label column."""

from collections.abc import Iterable
from dataclasses import dataclass

from datasets import ClassLabel, Dataset, DatasetDict, Image

from ..images import LabelledImages
from ..long_tail import class_counts


@dataclass
class Source:
    """The splits of a data set, and which columns hold what (recognised by their types where not given)."""

    name: str
    splits: DatasetDict
    image_column: str | None = None
    label_column: str | None = None
    names: list[str] | None = None  # of the classes, by id, where they are to be other ones than the column's
    root: str | None = None  # that files are named from

    def __post_init__(self) -> None:
        first = next(iter(self.splits.values()))
        self.image_column = column(first, self.name, "image", self.image_column, Image)
        self.label_column = column(first, self.name, "label", self.label_column, ClassLabel)
        if not isinstance(first.features[self.image_column], Image):
            raise ValueError(
                f"column {self.image_column!r} of {self.name} holds no images, but "
                f"{first.features[self.image_column]}: set --image_column"
            )

    def class_names(self, key: str) -> list[str]:
        if self.names is not None:
            return self.names
        rows = self.splits[key]
        feature = rows.features[self.label_column]
        if isinstance(feature, ClassLabel):
            return list(feature.names)
        values = list(rows[self.label_column])
        if not values or not all(isinstance(value, int) for value in values):
            raise ValueError(
                f"label column {self.label_column!r} of {self.name} must hold integers or a ClassLabel, got {feature}"
            )
        return [str(c) for c in range(max(values) + 1)]

    def labelled(self, key: str, class_names: list[str]) -> LabelledImages:
        rows = self.splits[key]
        labels = [-1 if label is None else int(label) for label in rows[self.label_column]]
        feature = rows.features[self.label_column]
        if self.names is None and isinstance(feature, ClassLabel) and feature.names != class_names:
            # Another order is read by name; another class is none of the model's.
            strange = [name for name in feature.names if name not in class_names]
            if strange:
                raise ValueError(
                    f"the split {key!r} of {self.name} has a class {strange[0]!r} that its train split has not"
                )
            labels = [class_names.index(feature.names[label]) if label >= 0 else label for label in labels]
        class_counts(labels, len(class_names), allow_empty=True)
        return LabelledImages(rows, str(self.image_column), labels, f"{self.name} {key}", root=self.root)


def test_key(splits: Iterable[str]) -> str | None:
    """The split that is scored."""
    return next((key for key in ("test", "validation") if key in splits), None)


def column(data: Dataset, name: str, role: str, given: str | None, kind: type) -> str:
    found = [column for column, feature in data.features.items() if isinstance(feature, kind)]
    if given is not None:
        if given not in data.features:
            raise ValueError(
                f"{name} has no column {given!r} (columns: {', '.join(data.features)}): set --{role}_column"
            )
        return given
    if role in data.features:
        return role
    if len(found) != 1:
        raise ValueError(
            f"cannot tell the {role} column of {name} (columns: {', '.join(data.features)}): set --{role}_column"
        )
    return found[0]
