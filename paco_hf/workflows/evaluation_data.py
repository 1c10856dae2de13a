"""What a run can be scored on: the images that it split off, or others that it was not trained on."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from ..data.image_checks import decodable
from ..data.image_split import ImageSplit, relative_names
from ..data.images import LabeledImages
from ..data.loading import load_data, load_test
from ..data.manifest_file import count_known
from ..data.sources.labels import look_alike
from ..data.spec import ROLES, SPLITS_NAME, DataSpec
from ..data.split_manifest import same_labels, select_again
from ..evaluation.predictions import Predictions
from ..hub.errors import hub_errors
from ..inference.load_model import hub_revision
from ..models.configuration_paco import PaCoConfig
from ..runs.folder import RunFolder
from ..runs.layout import ADDED_NAME, RECIPE_NAME, RUN_NAME
from ..utils.hub_commits import resolve_commit
from ..utils.hub_names import split_revision
from ..utils.text import examples, is_repo_id


def load_evaluation(
    run_folder: str | Path | RunFolder, dataset: str | None = None, split: str = "test", **fields: Any
) -> ImageSplit:
    """The images to score a run on, or those that it was trained on.

    Args:
        run_folder (path, or [`RunFolder`]): of the run, a checkpoint in it, or `user/name` on the Hub; its
            `recipe.yaml` says what it was trained on, `splits.json` which images were split off.
        dataset (`str`, *optional*): of the [`paco_hf.data.spec.DataSpec`]; that of the run where it is `None`, with
            all that its recipe says of it.
        split (`str`, *optional*, defaults to `"test"`): `test`, `validation` or `train`. Where the data is the run's,
            images that it split off are selected again; of other data without splits all images are the test. Its
            `note` says where these may have been trained on.
        fields (*optional*): other fields of the `DataSpec`; they win over the recipe's.

    Raises:
        ValueError: the run says not what it was trained on; there is no such split, or only images that the run was
            trained on; data that is not what a split was split off from; and what `load_data` raises.
        OSError: as `load_data`.
    """
    if split not in ROLES:
        raise ValueError(f"split must be train, validation or test, got {split!r}")
    run = run_folder if isinstance(run_folder, RunFolder) else read_run(run_folder)
    if dataset is None and "dataset" not in run.recipe:
        raise ValueError(f"{run.name} has no recipe.yaml that names its data: set --dataset")
    is_run_data = names_run_data(run, dataset)
    spec = DataSpec.from_settings(run.recipe, **fields) if is_run_data else DataSpec(str(dataset), **fields)
    try:
        images = _select(run, spec, split, is_run_data)
    except OSError as error:
        if not is_run_data:
            raise
        raise OSError(
            f"{error} ({run.name} was trained on it; if it has moved, or its path is relative to another folder, "
            "set --dataset)"
        ) from error
    if is_run_data and run.recipe.get("skip_undecodable") and isinstance(images, LabeledImages):
        images = decodable(images)
    return _with_model_classes(run, images)


def read_run(run_folder: str | Path) -> RunFolder:
    """A run folder, a checkpoint in one, or what is known of a run on the Hub.

    Raises:
        OSError: the Hub refuses.
    """
    repo_id, revision = hub_revision(run_folder)
    if Path(run_folder).exists() or not is_repo_id(str(repo_id)):
        return RunFolder(run_folder)
    folder = Path(run_folder)
    for name in ("config.json", RECIPE_NAME, SPLITS_NAME, RUN_NAME, ADDED_NAME):
        # A file is not there either where the Hub cannot be reached.
        with hub_errors(f"{name} of {run_folder} cannot be downloaded"), suppress(EntryNotFoundError):
            folder = Path(hf_hub_download(str(repo_id), name, **revision)).parent
    return RunFolder(folder, name=str(run_folder))


def names_run_data(run: RunFolder, dataset: str | None) -> bool:
    """Whether a dataset is what a run was trained on, by whatever name or path; `None` is."""
    if dataset is None:
        return True
    name, revision = split_revision(dataset)
    if not _same(name, str(run.recipe.get("dataset"))):
        return False
    pinned = str(run.recipe.get("dataset_revision") or "")
    if revision is None or pinned.startswith(revision):
        return True
    return pinned != "" and pinned == resolve_commit(str(DataSpec(dataset).repository), revision, "dataset")


def split_predictions(
    split: ImageSplit, logits: np.ndarray, labels: np.ndarray, temperature: float | None, config: PaCoConfig
) -> Predictions:
    """Per-image results of a split.

    Args:
        split ([`ImageSplit`]): the images.
        logits (`(N, C)`): without temperature and prior.
        labels (`(N,)`): class ids.
        temperature (`float`, *optional*): that divides the logits.
        config ([`PaCoConfig`]): names the classes.
    """
    result: Predictions = Predictions.from_logits(
        logits,
        labels,
        temperature,
        split=[split.source_split or "all"] * len(labels),
        file=split.image_names(),
        row=np.asarray(split.source_rows),
        class_names=[config.id2label[c] for c in range(config.num_labels)],
        class_counts=config.group_counts,
    )
    return result


def check_same_test(run_folders: Sequence[str | Path], split: str = "test", scored: ImageSplit | None = None) -> None:
    """That runs split off the same images, so that what one is scored on the others have not been trained on.

    Args:
        run_folders (sequence of path): run folders, checkpoints or models on the Hub.
        split (`str`, *optional*, defaults to `"test"`): or `"validation"`, which follows `--seed`.
        scored (`ImageSplit`, *optional*): what [`load_evaluation`] gave for the first; where it was not split off all
            is well.

    Raises:
        ValueError: two runs split off different images, or one split off what the other was trained on; names them.
    """
    if scored is not None and not scored.split_off:
        return
    for one, other in combinations(map(read_run, run_folders), 2):
        first, second = _split_off(one, split), _split_off(other, split)
        if first and second:
            differ = first["selection"] != second["selection"]
        else:
            both_known = "dataset" in one.recipe and "dataset" in other.recipe
            differ = bool(first or second) and both_known and _same(one.recipe["dataset"], other.recipe["dataset"])
        if differ:
            raise ValueError(
                f"{one.name} and {other.name} split off different images for their {split} splits, so one may "
                "have been trained on test images of the other: evaluate them separately, or on data that "
                "neither was trained on"
            )


def _select(run: RunFolder, spec: DataSpec, role: str, is_run_data: bool) -> ImageSplit:
    split_off = _split_off(run, role) is not None
    if role != "test" or (is_run_data and split_off):
        data = load_data(spec)
        if split_off and (is_run_data or (role == "validation" and data.validation is None)):
            return select_again(data.train, run.manifest, role)  # of other data: it may have been moved
        images = data.train if role == "train" else data.validation
        if images is None:
            raise ValueError(
                f"{spec.dataset} has no validation split, and the run did not split one off: pass images it was not "
                "trained on with --dataset and --validation_split, or train with --validation_fraction above 0"
            )
        return images
    try:
        images, _ = load_test(spec)
    except ValueError:
        if not split_off or (data := load_data(spec)).test is not None:
            raise
        return select_again(data.train, run.manifest, role)
    return _check_only_split(run, spec, images, is_run_data) if images.role == "train" else images


def _check_only_split(run: RunFolder, spec: DataSpec, images: ImageSplit, is_run_data: bool) -> ImageSplit:
    """Of data whose only split is not called a test: the images that the run split off from it, or, where it was not
    trained on them, all."""
    trained_on = _trained_on(run, images)
    if _split_off(run, "test") and (trained_on or _shares_files(run, images)):
        return select_again(images, run.manifest, "test")
    if is_run_data or trained_on:
        raise ValueError(
            f"{spec.dataset} has no test split, and the run did not split one off, so all its images were used "
            "for training or validation: pass other data with --dataset"
            + (", or --split validation" if _split_off(run, "validation") else "")
        )
    note = ""
    if not (run.manifest or run.recipe):
        note = (
            f"{spec.dataset} has no test split, and {run.name} has no record of its training data: all images are "
            "used, and the scores are not meaningful if the model was trained on them"
        )
    return replace(images, source_split=None, role="test", note=note)


def _split_off(run: RunFolder, role: str) -> dict[str, Any] | None:
    """What the manifest says of images that were split off, `None` where none were."""
    content = run.manifest.get("splits", {}).get(role) or {}
    return content if content.get("carved") else None


def _trained_on(run: RunFolder, images: ImageSplit) -> bool:
    """Whether these are the images that the run had for training, as far as labels tell."""
    sources = [run.manifest.get("source"), (run.record.get("data") or {}).get("train")]
    return any(same_labels(images, source) for source in sources if source)


def _shares_files(run: RunFolder, images: ImageSplit) -> bool:
    """Whether most files have the names of files that the run had."""
    if not isinstance(images, LabeledImages) or not images.files or not run.manifest:
        return False
    return 2 * count_known(run.manifest, relative_names(images.files)) > len(images.files)


def _same(one: str, other: str) -> bool:
    """Whether two datasets are one, be it by name or by path."""
    return one == other or (Path(one).exists() and Path(other).exists() and Path(one).samefile(other))


def _with_model_classes(run: RunFolder, images: ImageSplit) -> ImageSplit:
    """The classes of user data are the model's by name, whichever of them it has and in whatever order; numbers are
    positions of the model's classes where no class is called by a number. The note says so, and which have no image.

    Raises:
        ValueError: a class that the model does not know.
    """
    names, id2label, notes = images.class_names, run.config.get("id2label") or {}, [images.note]
    known = [id2label[label] for label in sorted(id2label, key=int)]
    index = {name: label for label, name in enumerate(known)}
    unnamed = known == [f"LABEL_{label}" for label in range(len(known))]
    unknown = [name for name in names if name not in index]
    if not known:
        return images
    if unknown and not any(map(str.isdigit, known)):
        positions = {name: label for label, name in enumerate(map(str, range(len(known))))}
        if {*names} <= positions.keys() and (unnamed or "0" in names):
            index, unknown = positions, []
        elif unnamed and len(names) == len(known):
            index, unknown = {name: label for label, name in enumerate(names)}, []
        pairs = [f"{name} as {known[index[name]]!r}" for name in names if name in index]
        notes.append(f"class names of {images.name} are matched to those of {run.name}: {examples(pairs, 10)}")
    if unknown:
        raise ValueError(
            f"{images.name} has a class {unknown[0]!r} that is not a class of {run.name} (which has "
            f"{examples([*map(repr, known)], 5)})"
            + (look_alike(unknown[0], known) or ": pass data with the classes it was trained on")
        )
    labels = [index[names[label]] for label in images.labels]
    if missing := sorted({*range(len(known))} - {*labels}):
        notes.append(
            f"{len(missing)} of the {len(known)} classes of {run.name} have no images in {images.name}, such as "
            f"{known[missing[0]]!r}: the scores do not cover them"
        )
    class_names = names if unnamed and len(names) == len(known) else known
    return images.with_classes(labels, class_names, note="; ".join(filter(None, notes)))
