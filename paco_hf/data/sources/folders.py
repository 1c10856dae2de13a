"""Folders of images: class folders, the folders of splits, and the official trees of benchmarks. It loads neither
`datasets` nor pyarrow."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...utils.folder_contents import Contents, PassedOver, is_unread_image, scan
from ...utils.text import examples
from ..image_lists import ImageList
from .split_names import folder_split, name_split, sibling_splits


@dataclass
class ClassFolders:
    """The images of `root/<class>/<image>`.

    Args:
        files (list of `str`): the images, class by class.
        labels (list of `int`): their class ids.
        folders (list of `str`): the names of the class folders, sorted.
        others (list of `Path`): files in the class folders that are no images.
        loose (list of `Path`): images beside the class folders.
    """

    files: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    loose: list[Path] = field(default_factory=list)


def class_folders(
    root: Path, known: Sequence[str] = (), skip_unknown: bool = False, passed: PassedOver | None = None
) -> ClassFolders:
    """Read class folders.

    Args:
        root (path): of the class folders.
        known (sequence of `str`, *optional*): the classes by id; those of the folders, sorted, where there are none.
        skip_unknown (`bool`, *optional*, defaults to `False`): leave out the folders of other classes.
        passed ([`PassedOver`], *optional*): takes note of what is no data.

    Raises:
        ValueError: no class folders, folders in them, or one of another class.
    """
    passed = passed or PassedOver(root)
    top = scan(root, passed)
    names = [folder.name for folder in top.folders]
    if not names:
        raise ValueError(
            f"{root} has no class folders: the ILSVRC validation images come in one folder, sort them into one "
            "folder per synset first"
        )
    result, ids = ClassFolders(folders=names, loose=top.images), {name: i for i, name in enumerate(known or names)}
    if not skip_unknown and (unknown := next((name for name in names if name not in ids), None)):
        raise ValueError(
            f"{root} has a class {unknown!r} that is not among the training images: remove its folder, or add "
            "training images"
        )
    for folder in top.folders:
        inside = scan(folder, passed)
        if inside.folders:
            raise ValueError(_nested(root, folder, inside, top, passed))
        result.others += inside.others
        if folder.name in ids:
            result.files += map(str, inside.images)
            result.labels += [ids[folder.name]] * len(inside.images)
    return result


def _nested(root: Path, folder: Path, inside: Contents, top: Contents, passed: PassedOver) -> str:
    """What to do where the folder of a class has folders in it."""
    deeper = inside.folders[0]
    if inside.images:
        advice = f"move its images up into {folder}, or the folder elsewhere"
    elif len(top.folders) == 1:
        advice = f"did you mean --dataset {folder}?"
    elif all(folder_split(one.name) for one in inside.folders):
        advice = f"put the split folders above the class folders, as in {root / deeper.name / folder.name}"
    elif {one.name for each in top.folders for one in scan(each, passed).folders} == {deeper.name}:
        advice = f"move the images of each {deeper.name}/ up into their class folder"
    else:
        likely = [one for one in top.folders if has_image_folders(one, passed)] or top.folders
        levels = examples([f"--dataset {one}" for one in likely], 2)
        advice = f"if the class folders are one level deeper, use one of {levels}, or move them up into {root}"
    return f"{deeper} is a folder inside a class folder, which must contain images only: {advice}"


def has_image_folders(folder: Path, passed: PassedOver) -> bool:
    """Whether there are images in some folder right in a folder, or deeper."""
    return any(scan(one, passed).images or has_image_folders(one, passed) for one in scan(folder, passed).folders)


def split_folders(folder: Path, passed: PassedOver, chosen: Mapping[str, str] | None = None) -> dict[str, Path]:
    """The folders of class folders whose names say that they are of a split, by those names.

    A folder between, such as `training_set/training_set`, is gone through.

    Args:
        folder (path): of the dataset.
        passed ([`PassedOver`]): takes note of what is no data.
        chosen (`dict`, *optional*): the names of splits by role that the user said; they need not be usual ones.

    Raises:
        ValueError: two folders are of the same split, and the user did not say which is meant.
    """
    splits, chosen = {}, chosen or {}
    top = scan(folder, passed).folders
    siblings = sibling_splits([entry.name for entry in top])
    for entry in top:
        is_split = folder_split(entry.name) or entry.name in siblings or entry.name in chosen.values()
        if is_split and has_image_folders(entry, passed):
            inside, below = scan(entry, passed), entry
            while not inside.images and len(inside.folders) == 1 and has_image_folders(inside.folders[0], passed):
                below = inside.folders[0]
                inside = scan(below, passed)
            splits[entry.name] = below
    roles = Counter(role for name in splits if (role := name_split(name)) and role not in chosen)
    if twice := next((role for role, count in roles.items() if count > 1), None):
        both = " and ".join(name for name in splits if name_split(name) == twice)
        raise ValueError(f"{folder} has two folders for the {twice} split, {both}: rename one of them, or merge them")
    return splits


def near_layout(folder: Path, passed: PassedOver) -> Path | None:
    """The only folder below one that has class folders, or splits; `None` where there is none, or more than one."""
    for _ in range(4):
        top = scan(folder, passed)
        if top.images or not top.folders:
            return None
        filled = [one for one in top.folders if has_image_folders(one, passed)]
        if len(filled) != 1:
            return None
        folder = filled[0]
        inside = scan(folder, passed).folders
        if split_folders(folder, passed) or sum(bool(scan(one, passed).images) for one in inside) > 1:
            return folder
    return None


def unread_class(classes: ClassFolders) -> tuple[str, str] | None:
    """A class folder with no image but images of kinds that are not read, and those; `None` where there is none."""
    filled = {classes.folders[label] for label in classes.labels}
    for name in classes.folders:
        inside = [path for path in classes.others if path.parent.name == name and is_unread_image(path.name)]
        if name not in filled and inside:
            return name, ", ".join(sorted({path.suffix.lower() for path in inside}))
    return None


def list_files(root: Path, image_list: ImageList) -> list[str]:
    """The files of a list below `root`.

    Raises:
        ValueError: some do not exist; says how many, and names the first.
    """
    files = [str(root / path) for path in image_list.paths]
    folders = filter(os.path.isdir, {os.path.dirname(file) for file in files})
    present = {entry.path for folder in folders for entry in os.scandir(folder)}
    missing = [path for file, path in zip(files, image_list.paths, strict=True) if file not in present]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(files)} images of {image_list.name} are not in {root}: "
            f"{examples(missing)}: add them, or pass the folder that contains them"
        )
    return files


def read_tree(
    root: Path,
    lists: Mapping[str, ImageList],
    whole: Sequence[tuple[str, str]],
    passed: PassedOver,
    folders: Sequence[str] | None = None,
    skip_unknown: bool = False,
) -> tuple[dict[str, tuple[list[str], list[int]]], list[str]]:
    """The official tree of a benchmark.

    Args:
        root (path): of the tree.
        lists (`dict`): of the splits that have one.
        whole (sequence of pairs): splits that are a folder of class folders, and that folder.
        passed ([`PassedOver`]): takes note of what is no data.
        folders (sequence of `str`, *optional*): of the classes by id; those of the training list.
        skip_unknown (`bool`, *optional*, defaults to `False`): leave out folders of other classes.

    Returns:
        files and class ids by split, and the folders of the classes.

    Raises:
        ValueError: files that do not exist, or classes that the training images lack.
    """
    files = {split: (list_files(root, image_list), image_list.labels) for split, image_list in lists.items()}
    classes = list(folders or (lists["train"].folders if "train" in lists else ()))
    for split, folder in whole:
        read = class_folders(root / folder, classes, skip_unknown, passed)
        files[split], classes = (read.files, read.labels), classes or read.folders
    return files, classes
