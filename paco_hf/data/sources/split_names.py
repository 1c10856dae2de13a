"""What splits are usually called: in columns, file names and folder names."""

import re
from collections.abc import Collection
from pathlib import Path

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}

_USUAL = {name: role for role, names in SPLIT_NAMES.items() for name in names}
# Folders of what goes with images.
_COMPANIONS = {
    "mask",
    "masks",
    "annotation",
    "annotations",
    "label",
    "labels",
    "segmentation",
    "bbox",
    "boxes",
    "xml",
    "depth",
}
# Words beside the split's in the name of its folder, or alone in that of a folder of whatever images.
_FILLERS = {
    *("data", "dataset", "folder", "set", "split", "sets", "part", "batch", "chunk"),
    *("image", "images", "img", "imgs", "photo", "photos", "pic", "pics", "picture", "pictures", "jpg", "jpeg", "png"),
}


def usual_split(name: str) -> str | None:
    """`train`, `validation` or `test` where a split's name is one of its usual ones."""
    return _USUAL.get(name.lower())


def folder_split(name: str) -> str | None:
    """The split that a folder is of, where its name says that and nothing else: `train`, `test_images`, `val2017`,
    `Training Set`."""
    roles, rest = _split_words(name)
    return roles[0] if len(roles) == 1 and not rest else None


def sibling_splits(names: Collection[str]) -> set[str]:
    """The folders that are of splits by what tells their names apart: `seg_train`, `seg_test`, `seg_pred`.

    Args:
        names (collection of `str`): of folders side by side.
    """
    by_rest: dict[tuple[str, ...], dict[str, str]] = {}
    for name in names:
        roles, rest = _split_words(name)
        if len(roles) == 1:
            by_rest.setdefault(tuple(rest), {})[name] = roles[0]
    return {name for named in by_rest.values() if "train" in named.values() and len(named) > 1 for name in named}


def name_split(name: str) -> str | None:
    """The split that a folder's name says, whatever else it says."""
    roles, _ = _split_words(name)
    return roles[0] if len(roles) == 1 else None


def _split_words(name: str) -> tuple[list[str], list[str]]:
    """The splits that a name says, and its other words."""
    words = [re.sub("(set|data|split|images)$", "", word) for word in _words(name) if word not in _FILLERS]
    return [_USUAL[word] for word in words if word in _USUAL], [word for word in words if word not in _USUAL]


def are_classes(names: Collection[str]) -> bool:
    """Whether folders of images may be classes by their names: they are not several splits, nor `images_part_1`, ...

    Args:
        names (collection of `str`): of the folders.
    """
    roles = [folder_split(name) for name in names]
    if len({*roles} - {None}) > 1 or None not in roles:
        return False
    words = [[word for word in _words(name) if len(word) > 1] for name in names]
    containers = all(one and {*one} <= _FILLERS | _COMPANIONS for one in words)
    numbered = len(words) > 1 and all(one == words[0] for one in words) and bool({*words[0]} & _FILLERS)
    return not (containers or numbered)


def are_numbered(names: Collection[str]) -> bool:
    """Whether the names of folders differ in numbers and single letters only.

    Args:
        names (collection of `str`): of the folders.
    """
    shared = {" ".join(word for word in _words(name) if len(word) > 1) for name in names}
    return len(shared) == 1 and shared != {""}  # letters and digits are classes


def are_beside_images(path: str) -> bool:
    """Whether a path goes through a folder of masks, annotations, ...

    Args:
        path (`str`): of a file.
    """
    return any({*_words(part)} & _COMPANIONS for part in Path(path).parts[:-1])


def _words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_A-Za-z]+", name)]


def split_in(path: str) -> str | None:
    """The split that a file's path names, the file itself before its folders."""
    for part in reversed(Path(path).parts):
        words = re.split(r"[^a-z]+", part.lower().removesuffix(Path(path).suffix.lower()))
        words += [re.sub("(set|data|split)$", "", word) for word in words]
        if split := next((word for word in words if word in _USUAL), None):
            return split
    return None
