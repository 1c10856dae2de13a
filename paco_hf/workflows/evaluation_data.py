"""What a run was trained on, and so what it can be scored on: its own carve, or images that it has not seen."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from ..data.image_checks import decodable
from ..data.images import LabelledImages
from ..data.loading import load_data, load_only_test
from ..data.split_manifest import SPLITS_NAME, carved_again, read_split_json, relative_names, same_labels
from ..hub.errors import hub_errors
from ..runs.resume_points import run_of

_ORIGIN = ("recipe.yaml", SPLITS_NAME, "run.json")


def load_evaluation(
    run_folder: str | Path,
    dataset: str | None = None,
    split: str = "test",
    *,
    dataset_path: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    lists: dict[str, str] | None = None,
    splits: dict[str, str] | None = None,
    streaming: bool = False,
) -> tuple[Any, list[str]]:
    """The images to score a run on, or those that it was trained on, and the names of their classes.

    Args:
        run_folder (path): of the run, a checkpoint in it, or `user/name` on the Hub; its `recipe.yaml` says what it
            was trained on, `splits.json` what was carved.
        dataset (`str`, *optional*): as for `load_data`; that of the run where not given, with all that its recipe
            says of it.
        split (`str`, *optional*, defaults to `"test"`): `test`, `validation` or `train`. Where the data is the run's,
            a split that was carved is carved again; of other data without splits all images are the test. Its `note`
            says where these may have been trained on.
        dataset_path, image_column, label_column, lists, splits, streaming: as for `load_data`; they win over the
            recipe's.

    Raises:
        ValueError: the run says not what it was trained on; there is no such split, or only images that the run was
            trained on; data that is not what a split was carved from; and what `load_data` raises.
        OSError: as `load_data`.
    """
    if split not in ("train", "test", "validation"):
        raise ValueError(f"split must be train, validation or test, got {split!r}")
    run = Origin.read(run_folder)
    recipe = run.recipe
    if dataset is None and "dataset" not in recipe:
        raise ValueError(f"{run.name} has no recipe.yaml that names its data: give --dataset")
    where: dict[str, Any] = {
        "dataset_path": dataset_path,
        "image_column": image_column,
        "label_column": label_column,
        "lists": lists,
        "splits": splits,
        "streaming": streaming,
    }
    own = dataset is None or _same(dataset, str(recipe.get("dataset")))
    selection: dict[str, Any] = {}
    if own:
        dataset = str(recipe["dataset"])
        roles = ("train", "validation", "test")
        for name in ("dataset_path", "image_column", "label_column", "streaming"):
            where[name] = where[name] or recipe.get(name)
        for name, flag in (("lists", "list"), ("splits", "split")):
            said = {role: recipe[f"{role}_{flag}"] for role in roles if recipe.get(f"{role}_{flag}")}
            where[name] = {**said, **(where[name] or {})}
        selection = {key: recipe[key] for key in ("imbalance_factor", "imbalance_kind") if key in recipe}
    assert dataset is not None
    try:
        found, class_names = _evaluated(run, dataset, split, own, where, selection)
    except OSError as error:
        if not own:
            raise
        raise OSError(
            f"{error} (it is what {run.name} was trained on; where it lies elsewhere now, or the path is relative to "
            "another folder, give --dataset)"
        ) from error
    if own and recipe.get("skip_undecodable") and isinstance(found, LabelledImages):
        found = decodable(found)
    return _named_as_by(run, found, class_names)


@dataclass
class Origin:
    """What a run says of its data, be it a folder, a checkpoint in one, or on the Hub."""

    name: str
    recipe: dict[str, Any]
    manifest: dict[str, Any] | None
    record: dict[str, Any]  # `run.json`
    config: dict[str, Any]

    @classmethod
    def read(cls, run_folder: str | Path) -> "Origin":
        """Raises `ValueError` where a file is damaged, `OSError` where the Hub refuses."""
        folder = Path(run_folder)
        files: dict[str, Path | None]
        if not folder.exists() and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(run_folder)):
            files = {name: _of_hub(str(run_folder), name) for name in ("config.json", *_ORIGIN)}
        else:
            files = {"config.json": folder / "config.json", **{name: run_of(folder) / name for name in _ORIGIN}}
        recipe, manifest, record, config = (files[name] for name in (*_ORIGIN, "config.json"))
        settings = yaml.safe_load(recipe.read_text(encoding="utf-8")) if recipe and recipe.is_file() else None
        contents = [read_split_json(file) if file else None for file in (manifest, record, config)]
        return cls(str(run_folder), settings or {}, contents[0], contents[1] or {}, contents[2] or {})

    def carved(self, split: str) -> dict[str, Any] | None:
        """What the manifest says of a split that was carved, `None` where it was not."""
        content = (self.manifest or {"splits": {}})["splits"].get(split) or {}
        return content if content.get("carved") else None

    def trained_on(self, images: LabelledImages) -> bool:
        """Whether these are the images that the run had for training, as far as labels tell."""
        known = [self.manifest["source"]] if self.manifest else []
        known += [(self.record.get("data") or {}).get("train")]
        return any(same_labels(images, source) for source in known if source)

    def shares_files(self, images: LabelledImages) -> bool:
        """Whether most files have the names of files that the run had."""
        if not images.files or not self.manifest:
            return False
        splits = filter(None, self.manifest["splits"].values())
        known = {name for content in splits for name in content.get("files", ())}
        return 2 * sum(name in known for name in relative_names(images.files)) > len(images.files)


def _of_hub(repo_id: str, name: str) -> Path | None:
    with hub_errors(f"{name} of {repo_id} cannot be downloaded"):
        try:
            return Path(hf_hub_download(repo_id, name))
        except EntryNotFoundError:  # also where the Hub cannot be reached
            return None


def check_same_test(run_folders: Sequence[str | Path], split: str = "test", scored: Any = None) -> None:
    """That runs carved the same images, so that what one is scored on the others have not been trained on.

    Args:
        run_folders (sequence of path): run folders, checkpoints or models on the Hub.
        split (`str`, *optional*, defaults to `"test"`): or `"validation"`, which follows `--seed`.
        scored (split, *optional*): what [`load_evaluation`] gave for the first; where it is no carve all is well.

    Raises:
        ValueError: two runs carved different images, or one carved what the other was trained on; names them.
    """
    if scored is not None and ", carved" not in scored.name:
        return
    runs = [Origin.read(folder) for folder in run_folders]
    carves = [run.carved(split) for run in runs]
    for (one, first), (other, second) in combinations(zip(runs, carves, strict=True), 2):
        if not first and not second:
            continue
        if first and second:
            differ = first["selection"] != second["selection"]
        else:
            names = [str(run.recipe.get("dataset")) for run in (one, other)]
            differ = "dataset" in one.recipe and "dataset" in other.recipe and _same(*names)
        if differ:
            raise ValueError(
                f"{one.name} and {other.name} carved different images for their {split} split, so what one is scored "
                "on the other may have been trained on: score them one by one, or on data that neither has seen"
            )


def _evaluated(
    run: Origin, dataset: str, split: str, own: bool, where: dict[str, Any], selection: dict[str, Any]
) -> tuple[Any, list[str]]:
    manifest, carved = run.manifest or {}, run.carved(split) is not None
    if own and carved:
        data = load_data(dataset, **where, **selection)
        return carved_again(data.train, manifest, split), data.class_names
    if split == "train":
        data = load_data(dataset, **where, **selection)
        return data.train, data.class_names
    if split == "validation":
        data = load_data(dataset, **where, **selection)
        if data.validation is None and not carved:
            raise ValueError(
                f"{dataset} has no validation split, and the run carved none: give --dataset with images that it was "
                "not trained on and --validation_split, or train with --validation_fraction above 0"
            )
        # The data may have moved since.
        return data.validation or carved_again(data.train, manifest, split), data.class_names
    try:
        found, names, only = load_only_test(dataset, **where)
    except ValueError:
        if not carved:
            raise
        data = load_data(dataset, **where, **selection)
        if data.test is not None:
            raise
        return carved_again(data.train, manifest, split), data.class_names
    if only:
        known = run.trained_on(found)
        if carved and (known or run.shares_files(found)):
            return carved_again(found, manifest, split), names
        if own or known:
            raise ValueError(
                f"{dataset} has no test split, and the run carved none: all its images were trained or validated on. "
                "Give data with other images" + (", or --split validation" if run.carved("validation") else "")
            )
        found = replace(found, name=f"{dataset}, all images")
        if not run.manifest and not run.recipe:
            found.note = (
                f"{dataset} has no test split and {run.name} does not say what it was trained on: all images are "
                "scored, and where the model was trained on them the scores say nothing"
            )
    return found, names


def _same(one: str, other: str) -> bool:
    """Whether two data sets are one, be it by name or by path."""
    return one == other or (Path(one).exists() and Path(other).exists() and Path(one).samefile(other))


def _named_as_by(run: Origin, split: Any, names: list[str]) -> tuple[Any, list[str]]:
    """The classes of a user's data are the model's by name, whichever of them it has and in whatever order.

    Raises:
        ValueError: a class that the model does not know.
    """
    known = [name for _, name in sorted((run.config.get("id2label") or {}).items(), key=lambda item: int(item[0]))]
    placeholders = [f"LABEL_{label}" for label in range(len(known))]
    if not isinstance(split, LabelledImages) or names == known or known in ([], placeholders):
        return split, names
    strange = [name for name in names if name not in known]
    if strange and names == [str(label) for label in range(len(names))] and not any(map(str.isdigit, known)):
        return split, names  # numbered, not named
    if strange:
        raise ValueError(
            f"{split.name} has a class {strange[0]!r} that {run.name} does not know (it knows "
            f"{', '.join(map(repr, known[:5]))}{', ...' if len(known) > 5 else ''}): not the classes it was trained on"
        )
    place = {name: label for label, name in enumerate(known)}
    return replace(split, labels=[place[names[label]] for label in split.labels]), known
