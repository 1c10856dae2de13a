"""`splits.json` as a file: lists on one line each, and in a compact form where splits are large. It loads no torch.

Of a split of more than 10,000 images `rows` is a text of ranges, `"0-8 10 12-20"`, and `files` has each folder once,
with the names in it. Of such a split that was trained on, there are digests of the names: it is what the others leave.
"""

import base64
import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..utils.files import read_mapping, write_text

LARGE = 10_000  # images, above which a split is written in the compact form
_DIGEST = 3  # bytes: of half a million names, one in forty that is none of them seems to be


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a run.

    Args:
        path (`Path`): of `splits.json`.
        manifest (`dict`): with `rows` and `files` as lists.
    """
    splits = {role: content and _compact(role, content) for role, content in manifest["splits"].items()}
    write_text(path, _text(manifest | {"splits": splits}) + "\n")


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a run, whichever form it was written in; empty where there is none.

    Args:
        path (`Path`): of `splits.json`.

    Returns:
        the manifest with `rows` and `files` as lists; of a large split that was trained on, `file_digests` in place of
        `files`.

    Raises:
        ValueError: it is damaged; names the file.
    """
    manifest = read_mapping(path)
    try:
        splits = {role: content and _expanded(content) for role, content in manifest.get("splits", {}).items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {error}): restore it, or train the run again"
        ) from error
    return manifest | {"splits": splits} if manifest else manifest


def count_known(manifest: dict[str, Any], names: Iterable[str]) -> int:
    """How many names of files are of a run's images; where these are known by digests, one in forty may not be.

    Args:
        manifest (`dict`): of the run.
        names (iterable of `str`): relative to the folder of the data.
    """
    contents = [content for content in manifest["splits"].values() if content]
    known = {name for content in contents for name in content.get("files", ())}
    digests = {digest for content in contents for digest in content.get("file_digests", ())}
    return sum(name in known or (bool(digests) and _digest(name) in digests) for name in names)


def _compact(role: str, content: dict[str, Any]) -> dict[str, Any]:
    rows, files = content.get("rows", ()), content.get("files")
    if len(rows) <= LARGE:
        return content
    content = content | {"rows": ranges_text(rows)}
    if files and role == "train":
        content["file_digests"] = [_digest(name) for name in content.pop("files")]
    elif files:
        parts = (name.rpartition("/") for name in files)
        grouped = itertools.groupby(parts, key=lambda part: part[0])
        content["files"] = [{"folder": folder, "names": [part[2] for part in group]} for folder, group in grouped]
    if "file_digests" in content:
        joined = base64.b64encode(b"".join(content["file_digests"])).decode("ascii")
        content["file_digests"] = joined
    return content


def _expanded(content: dict[str, Any]) -> dict[str, Any]:
    content = dict(content)
    if isinstance(content.get("rows"), str):
        content["rows"] = parse_ranges(content["rows"])
    files = content.get("files") or ()
    if files and isinstance(files[0], dict):
        prefixes = ((f"{one['folder']}/" if one["folder"] else "", one["names"]) for one in files)
        content["files"] = [f"{prefix}{name}" for prefix, names in prefixes for name in names]
    if "file_digests" in content:
        joined = base64.b64decode(content["file_digests"], validate=True)
        content["file_digests"] = [joined[i : i + _DIGEST] for i in range(0, len(joined), _DIGEST)]
    return content


def ranges_text(rows: Sequence[int]) -> str:
    """Rows as ranges, both ends included: `"0-8 10 12-20"`, in their order."""
    parts = []
    for _, group in itertools.groupby(enumerate(rows), key=lambda pair: pair[1] - pair[0]):
        run = [row for _, row in group]
        parts.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return " ".join(parts)


def parse_ranges(text: str) -> list[int]:
    """The rows that [`ranges_text`] wrote."""
    ends = (part.partition("-") for part in text.split())
    return [row for first, _, last in ends for row in range(int(first), int(last or first) + 1)]


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:_DIGEST]


def _text(value: Any, indent: str = "") -> str:
    """JSON with a line for each entry of a mapping, and for each mapping in a list."""
    inner = f"{indent}  "
    if isinstance(value, dict):
        entries = [f"{inner}{json.dumps(key)}: {_text(one, inner)}" for key, one in value.items()]
        return "{\n" + ",\n".join(entries) + f"\n{indent}}}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(f"{inner}{json.dumps(one)}" for one in value) + f"\n{indent}]"
    return json.dumps(value)
