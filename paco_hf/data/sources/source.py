"""What an opener gives, and how tables with an image column and a label column become splits."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Image

from ..image_split import ImageSplit
from ..images import LabeledImages
from ..long_tail import class_counts
from ..spec import ROLES, DataSpec


@dataclass
class Source:
    """The splits of a dataset by role, which have the same classes.

    Args:
        splits (`dict`): [`ImageSplit`] by role: `train`, `validation`, `test`; not all there need be.
        description (`str`, *optional*): what was detected of columns and splits.
        notes (list of `str`): what the user should know.
    """

    splits: dict[str, ImageSplit]
    description: str | None = None
    notes: list[str] = field(default_factory=list)

    def require(self, role: str, dataset: str) -> ImageSplit:
        """The split of a role.

        Raises:
            ValueError: there is none.
        """
        if role not in self.splits:
            names = ", ".join(str(split.source_split) for split in self.splits.values())
            raise ValueError(f"{dataset} has no {role} split (found: {names}): pass data that has one")
        return self.splits[role]


def assign_roles(names: Collection[str], test_only: bool) -> dict[str, str]:
    """The split of each role. Validation images are the test where there are no others; with `test_only` the test is
    the only role, where there is one."""
    roles = {role: role for role in ROLES if role in names}
    if "test" not in roles and "validation" in roles:
        roles["test"] = roles.pop("validation")
    return {"test": roles["test"]} if test_only and "test" in roles else roles


def label_tables(
    spec: DataSpec,
    tables: DatasetDict,
    columns: tuple[str, str] = ("image", "label"),
    *,
    test_only: bool = False,
    class_names: list[str] | None = None,
    root: str | None = None,
) -> Source:
    """Splits of tables whose columns are known.

    Args:
        spec (`DataSpec`): of the tables; its columns win.
        tables (`DatasetDict`): by split, called as its role.
        columns (pair of `str`, *optional*, defaults to `("image", "label")`): of images and labels.
        test_only (`bool`, *optional*, defaults to `False`): as for [`assign_roles`].
        class_names (list of `str`, *optional*): where the classes have other names than in the column.
        root (`str`, *optional*): the folder that files are named from.

    Raises:
        ValueError: a column is missing, or holds no images or no classes; a class that the training images lack.
    """
    features = next(iter(tables.values())).features
    image, label = spec.image_column or columns[0], spec.label_column or columns[1]
    check_column(features, image, spec.dataset, "image")
    check_column(features, label, spec.dataset, "label")
    if not isinstance(features[image], Image):
        raise ValueError(
            f"column {image!r} of {spec.dataset} must contain images, got {features[image]}: set --image_column"
        )
    roles = assign_roles(tables, test_only)
    names = class_names or _names(tables["train" if "train" in tables else next(iter(roles.values()))], label, spec)
    splits: dict[str, ImageSplit] = {}
    for role, key in roles.items():
        feature = None if class_names else tables[key].features[label]
        labels = [-1 if value is None else int(value) for value in tables[key][label]]
        if isinstance(feature, ClassLabel) and feature.names != names:
            # Another order is read by name; another class is none of the model's.
            ids = {name: label for label, name in enumerate(names)}
            if unknown := [name for name in feature.names if name not in ids]:
                raise ValueError(
                    f"the split {key!r} of {spec.dataset} has a class {unknown[0]!r} that is not in its train "
                    "split: remove it, or add training images"
                )
            labels = [ids[feature.names[value]] if value >= 0 else value for value in labels]
        class_counts(labels, len(names), allow_empty=True)
        about: dict[str, Any] = {"dataset": spec.dataset, "source_split": key, "role": role, "class_names": names}
        splits[role] = LabeledImages(tables[key], image, labels=labels, root=root, **about)
    return Source(splits)


def _names(table: Dataset, label: str, spec: DataSpec) -> list[str]:
    feature = table.features[label]
    if isinstance(feature, ClassLabel):
        return list(feature.names)
    values = list(table[label])
    if not values or not all(isinstance(value, int) for value in values):
        raise ValueError(
            f"label column {label!r} of {spec.dataset} must contain integers or a ClassLabel, got {feature}: set "
            "--label_column"
        )
    return [str(c) for c in range(max(values) + 1)]


def check_column(features: Mapping[str, Any], column: str, dataset: str, role: str) -> None:
    """`ValueError` where there is no such column.

    Args:
        features (mapping): by column.
        column (`str`): its name.
        dataset, role (`str`): for messages.
    """
    if column not in features:
        raise ValueError(f"{dataset} has no column {column!r} (columns: {', '.join(features)}): set --{role}_column")


def choose_column(
    candidates: list[str], features: Mapping[str, Any], dataset: str, role: str, usual: Sequence[str] = ()
) -> str:
    """The candidate with the most usual name, or the only one.

    Args:
        candidates (list of `str`): columns that may have this role.
        features (mapping): of all columns, for messages.
        dataset (`str`): for messages.
        role (`str`): `image` or `label`.
        usual (sequence of `str`, *optional*): names of such columns, the most usual first.

    Raises:
        ValueError: there is none, or more than one.
    """
    ranked = sorted((name for name in candidates if name.lower() in usual), key=lambda name: usual.index(name.lower()))
    if ranked or len(candidates) == 1:
        return [*ranked, *candidates][0]
    raise ValueError(
        f"cannot detect the {role} column of {dataset} (columns: {', '.join(features)}): set --{role}_column"
    )
