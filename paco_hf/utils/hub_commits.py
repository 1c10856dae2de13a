"""Which commit a revision of a repository on the Hub is, asked once; without a network, which it was."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError
from huggingface_hub.file_download import repo_folder_name

from .hub_names import COMMIT, short
from .text import examples

_TIMEOUT = 10  # seconds
_SHORTEST = 7  # digits of a commit that is not written out


def resolve_commit(repo_id: str, revision: str | None = None, kind: str = "model") -> str | None:
    """The commit that a revision is now or, where the Hub cannot be reached, was when it was last asked for.

    Args:
        repo_id (`str`): `user/name`.
        revision (`str`, *optional*): branch, tag or commit; `None`: the default branch.
        kind (`str`, *optional*, defaults to `"model"`): or `"dataset"`.

    Returns:
        the hash, 40 digits; `None` where the Hub refuses the repository, which loading it tells better, and where it
        cannot be reached, no revision was asked for, and none is remembered.

    Raises:
        ValueError: there is no such revision; names those that there are.
        OSError: the Hub cannot be reached, and the cache has no such revision.
    """
    if not constants.HF_HUB_OFFLINE:
        try:
            commit = HfApi().repo_info(repo_id, repo_type=kind, revision=revision, timeout=_TIMEOUT).sha
        except RevisionNotFoundError as error:
            raise ValueError(f"{repo_id} has no revision {revision!r}{_refs(repo_id, kind)}") from error
        except Exception as error:  # the types of the HTTP client, which has changed before
            return None if is_refusal(error) else _cached(repo_id, revision, kind)
        if revision is None or not COMMIT.fullmatch(revision):
            # The cache then knows what the revision is, for a time without a network.
            with suppress(HfHubHTTPError, OSError):
                hf_hub_download(repo_id, constants.REPOCARD_NAME, repo_type=kind, revision=revision)
        return str(commit)
    return _cached(repo_id, revision, kind)


def is_refusal(error: Exception) -> bool:
    """Whether the Hub refuses a repository; what else it answers, such as that it is overloaded, will pass."""
    return isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403, 404)


def repository_cache(repo_id: str, kind: str) -> Path:
    """Where the files of a repository are kept, each commit below `snapshots/`.

    Args:
        repo_id (`str`): `user/name`.
        kind (`str`): `model` or `dataset`.
    """
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type=kind)


def prepared_commits(repo_id: str) -> list[Path]:
    """The folders in which `datasets` keeps the tables of a dataset, each named after its commit, newest first."""
    import datasets
    from datasets.naming import camelcase_to_snakecase

    *user, name = repo_id.split("/")
    root = Path(datasets.config.HF_DATASETS_CACHE) / "___".join([*user, camelcase_to_snakecase(name)])
    folders = [path for path in root.glob("*/*/*") if path.is_dir() and COMMIT.fullmatch(path.name)]
    return sorted(folders, key=_modified, reverse=True)


def _modified(path: Path) -> float:
    return path.stat().st_mtime


def _cached(repo_id: str, revision: str | None, kind: str) -> str | None:
    cache = repository_cache(repo_id, kind)
    commits = [path.name for path in sorted((cache / "snapshots").glob("*"), key=_modified, reverse=True)]
    prepared = [path.name for path in prepared_commits(repo_id)] if kind == "dataset" else []
    reference = cache / "refs" / (revision or constants.DEFAULT_REVISION)
    named = reference.read_text(encoding="utf-8").strip() if reference.is_file() else None
    if revision is None:
        # What was prepared last is what `datasets` would read.
        return named if named and (named in prepared or not prepared) else next(iter(prepared), named)
    if named:
        return named
    known = [*dict.fromkeys((*prepared, *commits))]
    matches = [commit for commit in known if commit.startswith(revision) and len(revision) >= _SHORTEST]
    if len(matches) == 1:
        return matches[0]
    branches = [str(path.relative_to(cache / "refs")) for path in (cache / "refs").rglob("*") if path.is_file()]
    there = examples([*sorted(branches), *map(short, known)], 6) or "nothing of it"
    raise OSError(
        f"the revision {revision!r} of {repo_id} is not in the cache (it has {there}), and the Hub cannot be "
        "reached: use a cached revision, or run once with network access, without HF_HUB_OFFLINE"
    )


def _refs(repo_id: str, kind: str) -> str:
    """What revisions there are, where the Hub lists them, and what to do."""
    listed: Any = None
    with suppress(HfHubHTTPError, OSError):
        listed = huggingface_hub.list_repo_refs(repo_id, repo_type=kind)
    parts = []
    for title, refs in (("branches", listed and listed.branches), ("tags", listed and listed.tags)):
        if refs:
            parts.append(f"{title} {examples([ref.name for ref in refs], 8)}")
    return (f" ({'; '.join(parts)})" if parts else "") + ": use one of its branches, tags or commits"
