"""Datasets on the Hub."""

from collections.abc import Iterator
from contextlib import contextmanager

import datasets
import huggingface_hub
from datasets import DatasetDict, get_dataset_config_names, load_dataset
from datasets.packaged_modules.cache.cache import Cache

from ...utils.hub_commits import is_refusal, prepared_commits, resolve_commit
from ...utils.hub_names import COMMIT, short
from ...utils.text import examples


def load_hub(hub_id: str, config: str | None = None, revision: str | None = None) -> DatasetDict:
    """Load a dataset from the Hub or, where that cannot be reached, from the cache.

    Args:
        hub_id (`str`): `user/name`.
        config (`str`, *optional*): its configuration.
        revision (`str`, *optional*): branch, tag or commit (default: the default branch; without a network, what was
            loaded last).

    Raises:
        ValueError: it has several configurations and none, or another one, is named; or there is no such revision.
        OSError: it cannot be had.
    """
    if revision is not None and not COMMIT.fullmatch(revision):
        revision = resolve_commit(hub_id, revision, "dataset") or revision
    with connected(hub_id):
        if revision is not None and datasets.config.HF_HUB_OFFLINE:
            # Asked for a revision without a network, `load_dataset` gives what it loaded last.
            return _load_prepared(hub_id, config, revision)
        try:
            return load_dataset(hub_id, config, revision=revision)
        except ValueError:
            configs = get_dataset_config_names(hub_id, revision=revision)
            if config in configs or (config is None and len(configs) < 2):
                raise
    raise ValueError(
        f"{hub_id} has {f'no configuration {config!r}' if config else 'several configurations'}: choose one, as "
        f"in --dataset {hub_id}:{configs[0]} (configurations: {examples(configs, 10)})"
    )


def _load_prepared(hub_id: str, config: str | None, commit: str) -> DatasetDict:
    """The tables that `datasets` keeps of a commit."""
    folders = prepared_commits(hub_id)
    chosen = [path for path in folders if path.name == commit and config in (None, path.parts[-3])]
    if not chosen:
        there = examples([*dict.fromkeys(f"{path.parts[-3]} at {short(path.name)}" for path in folders)], 5)
        raise FileNotFoundError(
            f"the cache has no {config or 'data'} of commit {short(commit)}; it has {there or 'none'}"
        )
    if len(chosen) > 1:
        raise ValueError(f"several configurations: {examples([path.parts[-3] for path in chosen], 10)}")
    name, version, _ = chosen[0].parts[-3:]
    about = {"dataset_name": hub_id.rpartition("/")[2], "repo_id": hub_id}
    builder = Cache(config_name=name, version=version, hash=commit, **about)
    builder.download_and_prepare()
    return DatasetDict(builder.as_dataset())


@contextmanager
def connected(hub_id: str) -> Iterator[None]:
    """For loading from the Hub: whatever fails is an `OSError` that says what to do instead."""
    try:
        with _offline_where_unreachable(hub_id):
            yield
    except Exception as error:  # datasets raises a dozen types here, and all of them mean the same to the user
        raise OSError(
            f"{hub_id!r} is not a local folder, and cannot be loaded from the Hub ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}): check the id, or without network access pass a local folder "
            "with --dataset FOLDER (for a benchmark, --dataset_path FOLDER)"
        ) from error


@contextmanager
def _offline_where_unreachable(hub_id: str) -> Iterator[None]:
    """Ask the Hub once; where there is no answer, try the local cache only, without half a minute of retries."""
    was_offline = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    offline = any(was_offline)
    if not offline:
        try:
            huggingface_hub.HfApi().dataset_info(hub_id, timeout=10)
        except Exception as error:  # the types of the HTTP client, which has changed before
            if is_refusal(error):
                raise
            offline = True
    try:
        datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = offline
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE = was_offline
