"""Data sets on the Hub."""

from collections.abc import Iterator
from contextlib import contextmanager

import datasets
import huggingface_hub
from datasets import DatasetDict, get_dataset_config_names, load_dataset

from ...utils.text import examples


def load_hub(hub_id: str, config: str | None = None) -> DatasetDict:
    """Raises `ValueError` where the data set has several configurations and none, or another one, is named; `OSError`
    where it cannot be had."""
    with connected(hub_id):
        try:
            return load_dataset(hub_id, config)
        except ValueError:
            configs = get_dataset_config_names(hub_id)
            if config in configs or (config is None and len(configs) < 2):
                raise
    raise ValueError(
        f"{hub_id} has {f'no configuration {config!r}' if config else 'several configurations'}: choose one, as in "
        f"--dataset {hub_id}:{configs[0]} (there are {examples(configs, 10)})"
    )


@contextmanager
def connected(hub_id: str) -> Iterator[None]:
    """For loading from the Hub: whatever fails is an `OSError` that says what to do instead."""
    try:
        with _offline_where_unreachable(hub_id):
            yield
    except Exception as error:  # datasets raises a dozen types here, and all of them mean the same to the user
        raise OSError(
            f"{hub_id!r} is not a local folder, and cannot be loaded from the Hub ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}). Without network give a local folder: --dataset FOLDER, or for a "
            "benchmark --dataset_path FOLDER"
        ) from error


@contextmanager
def _offline_where_unreachable(hub_id: str) -> Iterator[None]:
    """Ask the Hub once; where there is no answer, try the local cache only, without half a minute of retries."""
    was_offline = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    offline = any(was_offline)
    if not offline:
        try:
            huggingface_hub.HfApi().dataset_info(hub_id, timeout=10)
        except huggingface_hub.errors.HfHubHTTPError:
            raise
        except Exception:  # the types of the HTTP client, which has changed before
            offline = True
    try:
        datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = offline
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE = was_offline
