"""The manifest of a folder of prepared shards."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from ...utils.files import write_text
from ...utils.locks import LOCK_NAMES

MANIFEST_NAME, PLAN_NAME = "manifest.json", "plan.json"
FORMAT = "paco_hf shards 1"
ROWS_PER_GROUP = 64
LANES = 8  # streams of batches a process; a worker of the data loader has one or more of them to itself
Shards = dict[str, list[dict[str, Any]]]  # by split: `file`, `images`, `bytes` and `digest` of each
_KINDS = {"dataset": str, "source": str, "splits": dict, "class_names": list}


@dataclass
class Manifest:
    """What a prepared folder holds. `splits` maps a split to `images`, `class_counts`, `selection` (a hash of what is
    selected) and `shards` (`file`, `images`, `bytes`, `digest`)."""

    root: str
    dataset: str
    source: str
    class_names: list[str]
    splits: dict[str, dict[str, Any]]

    def write(self) -> None:
        content = {"format": FORMAT, **{name: getattr(self, name) for name in _KINDS}}
        # Counts on one line.
        text = re.sub(r"\[[\d,\s]+\]", lambda match: " ".join(match[0].split()), json.dumps(content, indent=1))
        write_text(Path(self.root) / MANIFEST_NAME, text + "\n")

    @classmethod
    def read(cls, root: str) -> "Manifest":
        """Read the manifest in a folder or below an fsspec address (such as `hf://datasets/user/name`).

        Raises:
            OSError: there is none, or it cannot be reached.
            ValueError: it is none of this format.
        """
        root = root.rstrip("/")
        path = f"{root}/{MANIFEST_NAME}"
        try:
            with fsspec.open(path, "r", encoding="utf-8") as file:
                content = json.load(file)
        except FileNotFoundError as error:
            raise OSError(
                f"{root} has no {MANIFEST_NAME}, the manifest of the shards: run `paco-hf data prepare`, or run "
                "it again if it was interrupted"
            ) from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is damaged ({error}): run `paco-hf data prepare` again") from error
        except (OSError, ImportError, ValueError) as error:
            raise OSError(f"{path} cannot be read ({type(error).__name__}: {error}): check its permissions") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"{path} is not a manifest of the format {FORMAT!r}: run `paco-hf data prepare` again")
        fields: dict[str, Any] = {name: content.get(name) for name in _KINDS}
        wrong = [name for name, kind in _KINDS.items() if not isinstance(fields[name], kind)]
        wrong += [s for s, c in (fields["splits"] or {}).items() if not {"images", "class_counts", "shards"} <= {*c}]
        if wrong:
            raise ValueError(f"{path} is damaged ({', '.join(wrong)}): run `paco-hf data prepare` again")
        return cls(root=root, **fields)

    def check_files(self) -> None:
        """`OSError` where a file is missing, or a shard has another size than when it was written."""
        fs, root = fsspec.core.url_to_fs(self.root)
        advice = "run the same `paco-hf data prepare` command again"
        for split, content in self.splits.items():
            if not fs.exists(f"{root}/{labels_name(split)}"):
                raise OSError(f"{labels_name(split)} of {self.root} is missing; {advice}")
            for shard in content["shards"]:
                path = f"{root}/{shard['file']}"
                size = fs.size(path) if fs.exists(path) else None
                if size != shard["bytes"]:
                    state = "missing" if size is None else f"truncated: {size} bytes instead of {shard['bytes']}"
                    raise OSError(f"the shard {shard['file']} of {self.root} is {state}; {advice}")


def check_preparation(folder: Path) -> None:
    """`ValueError` where a dataset cannot be prepared in a folder: it is a file, or holds something else."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file: pass a folder")
    inside = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    if PLAN_NAME not in inside and inside - {*LOCK_NAMES}:
        raise ValueError(f"--out {folder} is not empty and has no preparation to resume: pass another folder")


def is_prepared(root: str) -> bool:
    """Whether a folder has a manifest."""
    return (Path(root) / MANIFEST_NAME).is_file()


def labels_name(split: str) -> str:
    return f"{split}-labels.npy"
