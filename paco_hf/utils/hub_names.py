"""Names of repositories on the Hub, and the revision that may follow: `user/name@revision`. It loads no library."""

import re
from pathlib import Path

_ID = r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?"
# Of an address the path in the repository follows the revision, whose slashes are `%2F` there, save those of `refs/`.
_ADDRESS = re.compile(rf"(hf://datasets/{_ID})@(refs/(?:convert|pr)/[^/@]+|[^/@]+)(/.*)?")
_NAME = re.compile(rf"((?:hf://|hf[-_]hub:)?{_ID}(?::[\w.-]+)?)@([\w./-]+)")
_PREFIXES = ("hf://", "hf-hub:", "hf_hub:")
COMMIT = re.compile(r"[0-9a-f]{40}")


def split_revision(name: str) -> tuple[str, str | None]:
    """A name without its revision, and the revision, `None` where there is none; a path that exists has none.

    Args:
        name (`str`): `user/name@revision`, `user/name:configuration@revision`, `hf://user/name@revision`,
            `hf://datasets/user/name@revision/path`, or anything else.
    """
    if "@" not in name or ("://" not in name and Path(name).exists()):
        return name, None
    if match := _ADDRESS.fullmatch(name):
        return match[1] + (match[3] or ""), match[2]
    match = _NAME.fullmatch(name)
    return (match[1], match[2]) if match else (name, None)


def join_revision(name: str, revision: str | None) -> str:
    """The inverse of [`split_revision`]."""
    if revision is None:
        return name
    if match := re.match(rf"hf://datasets/{_ID}", name):
        return f"{match[0]}@{revision}{name[match.end() :]}"
    return f"{name}@{revision}"


def take_revision(name: str, revision: str | None, flag: str) -> tuple[str, str | None]:
    """A name without its revision, and the revision, be it part of the name or a setting of its own.

    Args:
        name (`str`): as that of [`split_revision`].
        revision (`str`, *optional*): the setting.
        flag (`str`): what the name is the value of.

    Raises:
        ValueError: there are both, and they differ.
    """
    plain, named = split_revision(name)
    if named and revision not in (None, named):
        raise ValueError(f"--{flag} {name} and --{flag}_revision {revision} name two revisions: use only one of them")
    return plain, named or revision


def dataset_repository(address: str) -> str | None:
    """The id of the dataset that an address `hf://datasets/user/name/path` is in; `None` of other addresses."""
    match = re.match(r"hf://datasets/([\w-][\w.-]*/[\w-][\w.-]*?)(?:@[^/]+)?(?:/|$)", address)
    return match and match[1]


def model_repository(backbone: str) -> str | None:
    """The id of the model that a backbone is, such as `hf://user/name`; `None` of a name of timm's and of a folder."""
    prefix = next((prefix for prefix in _PREFIXES if backbone.startswith(prefix)), None)
    return split_revision(backbone.removeprefix(prefix))[0] if prefix else None


def short(commit: str) -> str:
    """A commit as texts show it; another revision as it is."""
    return commit[:7] if COMMIT.fullmatch(commit) else commit
