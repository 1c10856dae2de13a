"""Types of the flags that name files, checkpoints and data, and of numbers: what is wrong is an error before libraries
load. Each gives what it is passed, or raises the error with which what is behind it would refuse that."""

import math
import os
from argparse import ArgumentTypeError
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

from ..arguments.fields import AT_LEAST_1, POSITIVE, Range
from ..arguments.recipes import check_single, read_recipe
from ..arguments.run_arguments import json_object
from ..data import spec
from ..inference.index_folder import check_index
from ..inference.prediction_folder import FORMATS
from ..runs.checkpoint_config import CheckpointConfig
from ..runs.folder import RunFolder, seed_runs
from ..utils import files
from ..utils.hub_names import split_revision
from ..utils.text import is_repo_id
from .failures import plain_text


def number(kind: type, allowed: Range) -> Callable[[str], Any]:
    """A type of finite numbers in a range."""
    what, accepts = allowed

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError as error:
            raise ArgumentTypeError(f"must be {'an integer' if kind is int else 'a number'}, got {text!r}") from error
        if not (accepts(value) and value < math.inf):
            raise ArgumentTypeError(f"must be {what}, got {text}")
        return value

    return read


COUNT, FACTOR, SIZE = number(int, AT_LEAST_1), number(float, AT_LEAST_1), number(float, POSITIVE)


def _argument(check: Callable[[str], Any]) -> Callable[[str], Any]:
    """A type of argparse: what a check gives, where that is nothing the text; its errors have the name of the flag."""

    @wraps(check)
    def read(text: str) -> Any:
        try:
            if not text.strip():
                raise ValueError("is empty: give it a value, or remove it")
            text = files.expand(text)
            if "://" not in text:
                with suppress(FileNotFoundError, NotADirectoryError):
                    os.stat(text)  # from Python 3.14 on `Path.exists` does not tell what is wrong with a path
            result = check(text)
        except (OSError, ValueError, ImportError) as error:
            raise ArgumentTypeError(plain_text(error)) from error
        return text if result is None else result

    return read


source_file, new_folder = _argument(files.check_source), _argument(files.check_new_folder)
embeddings, output_file = _argument(files.check_embeddings), _argument(files.check_output)
embeddings_output = _argument(lambda text: files.check_output(text, ".safetensors"))
predictions_output = _argument(lambda text: files.check_output(text, FORMATS))
features_output = _argument(lambda text: files.check_output(text, ".npy"))
onnx_file = _argument(lambda text: files.check_file(text, "pass a file from `paco-hf export --to onnx`"))
figure_output = _argument(lambda text: files.check_output(text, (".png", ".svg", ".pdf")))
table_output = _argument(lambda text: files.check_output(text, ".csv"))
recipe = _argument(lambda text: read_recipe(text).name)
baseline = _argument(lambda text: files.check_folder(text, "pass the folder of a run with test scores"))
single_recipe = _argument(lambda text: check_single(read_recipe(text)).name)
dataset_path = _argument(spec.check_dataset_path)
folder = _argument(lambda text: files.check_folder(text, "pass a folder") if Path(text).exists() else None)
index_folder = _argument(lambda text: check_index(Path(text)))
json_options = _argument(json_object)


@_argument
def finished_runs(text: str) -> None:
    """A folder of a finished run, or of several."""
    for run in seed_runs(text):
        RunFolder(run).check_finished()


# What these check with takes longer to load than all else here.


@_argument
def images(text: str) -> None:
    """An image file, a folder or table of some, an address, or a dataset on the Hub."""
    if "://" in text or (not os.path.lexists(text) and spec.hub_id(split_revision(text)[0]) and not Path(text).suffix):
        check_source(text)
        return
    from ..inference.unlabeled import check_images

    check_images(text)


@_argument
def list_file(text: str) -> None:
    """A list of images: a file, a folder or an address."""
    from ..data.image_lists import check_list

    check_list(text)


@_argument
def preparation_folder(text: str) -> None:
    """A folder to prepare data in."""
    from ..data.streaming.manifest import check_preparation

    check_preparation(Path(text))


@_argument
def prior(text: str) -> None:
    """The frequencies of classes: those of training, none, or those in a file."""
    from ..evaluation.priors import read_frequencies

    if text not in ("training", "none"):
        read_frequencies(text)


@_argument
def abstention_target(text: str) -> None:
    """What the answers of a model are held to."""
    from ..evaluation.abstention import parse_target

    if text != "none":
        parse_target(text)


@_argument
def unknown_score(text: str) -> None:
    """What tells images of unknown classes."""
    from ..evaluation.unknown import parse_unknown

    if text != "none":
        parse_unknown(text)


@_argument
def split_list(text: str) -> tuple[str, str]:
    """A split, `train` where none is named, and its list."""
    from ..data.image_lists import check_list

    split, _, source = text.partition("=")
    if source and split not in spec.ROLES and not Path(text).exists() and "://" not in text:
        raise ValueError(
            f"{text!r} has an unknown split: use FILE or SPLIT=FILE, where SPLIT is one of {', '.join(spec.ROLES)}"
        )
    split, source = (split, source) if split in spec.ROLES else ("train", text)
    check_list(source)
    return split, source


@_argument
def run_folder(text: str) -> None:
    """A folder with a finished model."""
    files.check_folder(text, "pass a run folder, a checkpoint in one, or a converted checkpoint")
    run = RunFolder(text)
    run.check_model()
    CheckpointConfig.read(run)


@_argument
def repo_name(text: str) -> None:
    """The id of a repository on the Hub, or a name there of the user who is logged in."""
    if not is_repo_id(text if "/" in text else f"user/{text}"):
        raise ValueError(f"{text!r} is not a Hub id: use user/name, with letters, digits, -, _ and . only")


@_argument
def checkpoint(text: str) -> None:
    """A local folder with a checkpoint, or the id of a model on the Hub; `OSError` where it can be neither."""
    if Path(text).is_dir():
        from safetensors import safe_open

        kinds = ("*model*.safetensors", "*model*.index.json", "*model*.bin")
        weights = [file for kind in kinds for file in Path(text).glob(kind)]
        if not (Path(text) / "config.json").is_file() or not weights:
            raise OSError(f"{text} has no config.json with weights: pass a run folder, or a checkpoint in one")
        CheckpointConfig.read(RunFolder(text))
        for file in weights:
            if file.suffix == ".safetensors":
                with files.readable(file, files.RESTORE), safe_open(file, "np"):
                    pass
        processor = Path(text) / "preprocessor_config.json"
        if not files.read_mapping(processor, files.RESTORE):
            raise OSError(
                f"{text} has no {processor.name}, which configures the preprocessing: restore it, or pass another "
                "checkpoint"
            )
    elif Path(text).is_file():
        raise OSError(f"{text} is a file: pass the folder of the checkpoint, {Path(text).parent}")
    elif not is_repo_id(split_revision(text)[0]):
        raise OSError(f"{text!r} is neither a local folder nor a Hub id: pass a run folder, or user/name")
    else:
        _check_hub(
            "model", split_revision(text)[0], "pass the folder of a run or checkpoint, or the id of a model on the Hub"
        )


def check_source(text: str) -> None:
    """`OSError` where there can be no data: it is neither a named dataset, a path, an address nor a Hub id."""
    if "://" in text:
        from ..data.sources.remote import check_address

        check_address(text)
        return
    if spec.is_published(text) or Path(text).exists():
        return
    name, revision = split_revision(text)
    if revision and (spec.is_published(name) or Path(name).exists()):
        spec.DataSpec(text)  # which refuses it where there are no revisions
        return
    repo_id = spec.hub_id(name)
    if repo_id is None or Path(text).suffix.lower() in (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt"):
        raise OSError(f"{text} does not exist: pass a folder, a file, a URL or the id of a dataset on the Hub")
    _check_hub("dataset", repo_id, "pass a local folder (of a benchmark with --dataset_path), or an id on the Hub")


data_source = _argument(check_source)


@_argument
def verifiable(text: str) -> None:
    """A folder of prepared data, a list of images, or a dataset."""
    from ..data.image_lists import check_list
    from ..utils.folder_contents import PassedOver, scan

    if Path(text).suffix.lower() in (".txt", ".json"):
        check_list(text)
    check_source(text)
    contents = scan(text, PassedOver(text)) if Path(text).is_dir() else None
    if contents and not (contents.images or contents.others or contents.folders):
        raise OSError(f"{text} is empty: pass a folder from `paco-hf data prepare`, a list, or a dataset")


def _check_hub(kind: str, repo_id: str, advice: str) -> None:
    """`OSError` where a repository is neither in the cache nor on the Hub, which takes a request."""
    from huggingface_hub import constants

    caches = [Path(constants.HF_HUB_CACHE) / f"{kind}s--{repo_id.replace('/', '--')}"]
    if kind == "dataset":
        prepared = os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets"
        caches += Path(prepared).glob(f"{repo_id.replace('/', '___')}*")
    if any(map(Path.exists, caches)):
        return
    refusal = f"{repo_id!r} is not a local folder, and cannot be loaded from the Hub"
    if constants.HF_HUB_OFFLINE:
        raise OSError(f"{refusal} (offline, and not in the cache): {advice}")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    from ..hub.errors import hub_errors

    with hub_errors(refusal):
        try:
            HfApi().repo_info(repo_id, repo_type=kind, timeout=10)
        except HfHubHTTPError as error:  # what else the Hub refuses is said where files are asked for
            if isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError):
                raise
