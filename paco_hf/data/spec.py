"""Where images come from, in one object."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..utils.files import check_folder, expand
from ..utils.hub_names import dataset_repository, join_revision, take_revision
from .published import BENCHMARKS, Benchmark

ROLES = ("train", "validation", "test")
SPLITS_NAME = "splits.json"  # says which images a run split off for which role
_SETTINGS = (
    *("dataset_revision", "dataset_path", "image_column", "label_column", "label_source"),
    *("streaming", "max_image_pixels", "imbalance_factor", "imbalance_kind"),
)


@dataclass(frozen=True)
class DataSpec:
    """A dataset, and how it is read. `dataclasses.replace` makes a changed one.

    Args:
        dataset (`str`, *optional*, defaults to `"builtin"`): `builtin`; a name of
            [`paco_hf.data.published.BENCHMARKS`]; a folder (prepared, of class folders, or of files of rows named
            after their splits); a CSV, TSV, JSON or parquet file; or the id of a dataset on the Hub, perhaps with
            its revision, as `user/name@revision`.
        dataset_revision (`str`, *optional*): of a dataset on the Hub: branch, tag or commit.
        dataset_path (`str`, *optional*): where a named benchmark is read from instead of the Hub: a prepared folder,
            the official folder tree, or (ImageNet, CIFAR) parquet files.
        image_column (`str`, *optional*): the column of the images; detected from the types and names of the columns.
        label_column (`str`, *optional*): likewise of the classes.
        lists (`dict`, *optional*): list files by split, where they are not in `dataset_path` under their official
            names.
        label_source (`str`, *optional*): of user data that has class folders and a table beside them: `folders` or
            `table`.
        splits (`dict`, *optional*): of user data, the names of the splits that are `train`, `validation` and `test`;
            their usual names are detected, and `none` leaves one out.
        streaming (`bool`, *optional*, defaults to `False`): read a prepared folder shard by shard; `dataset_path` may
            then also be an address of fsspec, such as `hf://datasets/user/name`.
        window (`int`, *optional*, defaults to `4096`): encoded images that a stream keeps in memory.
        imbalance_factor (`float`, *optional*, defaults to `100`): of the long-tailed selection of the CIFAR
            benchmarks.
        imbalance_kind (`str`, *optional*, defaults to `"exp"`): likewise; see [`long_tailed_counts`].
        max_image_pixels (`int`, *optional*): what is larger is no image (default: 179 million, PIL's limit).

    Raises:
        ValueError: fields that do not go together.
    """

    dataset: str = "builtin"
    dataset_revision: str | None = None
    dataset_path: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    label_source: str | None = None
    lists: Mapping[str, str] = field(default_factory=dict)
    splits: Mapping[str, str] = field(default_factory=dict)
    streaming: bool = False
    window: int = 4096
    imbalance_factor: float = 100
    imbalance_kind: str = "exp"
    max_image_pixels: int | None = None

    def __post_init__(self) -> None:
        for name in ("lists", "splits"):
            by_role = {role: value for role, value in (getattr(self, name) or {}).items() if value}
            object.__setattr__(self, name, by_role)
        object.__setattr__(self, "lists", {role: expand(source) for role, source in self.lists.items()})
        for name in ("dataset", "dataset_path"):
            object.__setattr__(self, name, getattr(self, name) and expand(getattr(self, name)))
        plain, revision = take_revision(self.dataset, self.dataset_revision, "dataset")
        object.__setattr__(self, "dataset", plain)
        object.__setattr__(self, "dataset_revision", revision)
        if revision and self.repository is None:
            raise ValueError(
                f"{self.dataset_path or self.dataset} is not loaded from the Hub, so it has no revision "
                f"{revision!r}: remove the revision, or pass the id of a dataset on the Hub"
            )
        if self.splits and not self.is_user_data:
            raise ValueError(
                f"--{next(iter(self.splits))}_split selects a split of your own data, but the splits of "
                f"{self.dataset} are fixed: remove the flag"
            )
        if not self.is_user_data:
            self.check_lists()
        if self.dataset_path and not self.benchmark:
            raise ValueError(
                f"--dataset_path is for {', '.join(BENCHMARKS)}: for your own folder, use --dataset "
                f"{self.dataset_path}"
            )
        if self.dataset_path and "://" in self.dataset_path and not self.streaming:
            raise ValueError(f"{self.root} is a URL: use --streaming true, or pass a local folder")
        if not self.streaming:
            return
        if self.root is None:
            raise ValueError(
                f"--streaming needs a prepared folder with a manifest: run `paco-hf data prepare {self.dataset} "
                "--source ... --out DIR`, then use --dataset_path DIR"
            )
        if self.benchmark and self.benchmark.n_max:
            raise ValueError(f"{self.dataset} is small and cannot be streamed: remove --streaming")

    def check_lists(self) -> None:
        """`ValueError` where lists are not what the dataset is selected by."""
        if self.lists and not (self.benchmark and self.benchmark.lists):
            names = ", ".join(name for name, benchmark in BENCHMARKS.items() if benchmark.lists)
            raise ValueError(
                f"--{next(iter(self.lists))}_list is for {names}, not for {self.dataset}: remove the flag"
            )

    @property
    def benchmark(self) -> Benchmark | None:
        """The published dataset of this name."""
        return BENCHMARKS.get(self.dataset)

    @property
    def is_user_data(self) -> bool:
        """Whether it is neither built in nor a published benchmark."""
        return not is_published(self.dataset)

    @property
    def repository(self) -> str | None:
        """The id on the Hub of what is read; `None` where that lies elsewhere."""
        if self.benchmark:
            return None if self.dataset_path or self.benchmark.needs_list else self.benchmark.hub_id
        if "://" in self.dataset:
            return dataset_repository(self.dataset)
        return None if is_published(self.dataset) or Path(self.dataset).exists() else hub_id(self.dataset)

    @property
    def source(self) -> str:
        """`dataset` with its revision."""
        return join_revision(self.dataset, self.dataset_revision)

    @property
    def root(self) -> str | None:
        """The folder, file, address or Hub id that is read; `None`: what is built in, or a benchmark's place."""
        return self.dataset_path or (self.source if self.is_user_data else None)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], **overrides: Any) -> "DataSpec":
        """From a run's saved settings (`recipe.yaml`).

        Args:
            settings (`dict`): as flags are called: `dataset`, `train_list`, `test_split`, ...
            overrides (*optional*): fields that win over them where they are set, `lists` and `splits` split by split.
        """
        overrides = {name: value for name, value in overrides.items() if value is not None and value is not False}
        fields = spec_fields(settings)
        for name in ("lists", "splits"):
            overrides[name] = {**fields.get(name, {}), **(overrides.get(name) or {})}
        return cls(**{"dataset": settings.get("dataset", "builtin"), **fields, **overrides})


def spec_fields(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a [`DataSpec`], `dataset` apart, that settings or flags set: `vars` of a parser's result."""
    fields = {name: settings[name] for name in _SETTINGS if settings.get(name) not in (None, "")}
    if not fields.get("streaming"):
        fields.pop("streaming", None)
    for name in ("list", "split"):
        by_role = {role: value for role in ROLES if (value := settings.get(f"{role}_{name}"))}
        if by_role:
            fields[f"{name}s"] = by_role
    return fields


def is_published(dataset: str) -> bool:
    """Whether a dataset is the built-in one or one of the papers', and not of the user's own."""
    return dataset == "builtin" or dataset in BENCHMARKS


def check_dataset_path(path: str) -> None:
    """`OSError` where it is neither a folder nor an address."""
    if "://" not in path:
        check_folder(
            path, "pass a folder from `paco-hf data prepare`, the official folders, or a folder of parquet files"
        )


def hub_id(dataset: str) -> str | None:
    """What would be the id on the Hub, without the configuration; `None` where a dataset's name cannot be one."""
    match = re.fullmatch(r"([\w-][\w.-]*(?:/[\w-][\w.-]*)?)(?::[\w.-]+)?", dataset)
    return match and match[1]


def public_name(dataset: str) -> str:
    """A dataset's name or Hub id; of a folder its name alone. Where it is relative, it must be there."""
    return dataset if hub_id(dataset) and not Path(dataset).exists() else Path(dataset).resolve().name
