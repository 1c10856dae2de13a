"""What splits are usually called: in columns, file names and folder names."""

import re
from pathlib import Path

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}

_USUAL = {name: role for role, names in SPLIT_NAMES.items() for name in names}
# Words beside the split's in the name of its folder.
_FILLERS = {
    *("data", "dataset", "folder", "set", "split", "sets", "part"),
    *("image", "images", "img", "imgs", "photo", "photos", "pic", "pics", "picture", "pictures", "jpg", "jpeg", "png"),
}


def usual_split(name: str) -> str | None:
    """`train`, `validation` or `test` where a split's name is one of its usual ones."""
    return _USUAL.get(name.lower())


def folder_split(name: str) -> str | None:
    """The split that a folder is of, where its name says that and nothing else: `train`, `test_images`, `val2017`,
    `Training Set`."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_A-Za-z]+", name)]
    words = [re.sub("(set|data|split|images)$", "", word) for word in words if word not in _FILLERS]
    return _USUAL.get(words[0]) if len(words) == 1 else None


def split_in(path: str) -> str | None:
    """The split that a file's path names, the file itself before its folders."""
    for part in reversed(Path(path).parts):
        words = re.split(r"[^a-z]+", part.lower().removesuffix(Path(path).suffix.lower()))
        words += [re.sub("(set|data|split)$", "", word) for word in words]
        if split := next((word for word in words if word in _USUAL), None):
            return split
    return None
