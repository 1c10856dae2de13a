"""A user's folder, table file, address or Hub id as splits of rows, with whatever columns they have."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ...utils.folder_contents import IMAGE_SUFFIXES, PassedOver, is_unread_image, scan, walk
from ...utils.hub_names import split_revision
from ...utils.text import examples, repeated
from .archives import is_archive, is_saved, is_webdataset, load_saved, load_webdataset, next_step
from .file_names import FileFinder
from .folders import ClassFolders, class_folders, near_layout, split_folders, unread_class
from .hf_tables import image_tables
from .hub_dataset import load_hub
from .labels import clean
from .remote import RemoteData
from .split_names import are_classes, split_in, usual_split
from .table_files import TABLE_SUFFIXES, Rows, is_table, read_files
from .tables_beside_folders import choose_tables, image_root, splits_beside

_TAKES = f"a folder of class folders, a table ({', '.join(TABLE_SUFFIXES)}), or the id of a dataset on the Hub"


def read_rows(
    dataset: str,
    label_source: str | None = None,
    columns: Sequence[str | None] = (),
    remote: RemoteData | None = None,
    chosen: Mapping[str, str] | None = None,
) -> tuple[dict[str, Rows], list[str]]:
    """The splits of a table file, a folder or a Hub id (`user/name`, `user/name:configuration`, each perhaps with a
    revision, `user/name@revision`) by their names in it, and what the user should know of it.

    A folder holds class folders, with or without the splits' folders above them; files of rows (`train.csv`,
    `metadata.jsonl`, parquet, ...), tar files of WebDataset, or what `save_to_disk` wrote. Class folders win over
    tables beside them, save where these give the same classes, and splits besides. What names no split is `train`; in
    a single table a column may name the splits.

    Args:
        dataset (`str`): path, or Hub id.
        label_source (`str`, *optional*): `folders` or `table`, where a folder has both.
        columns (sequence of `str`, *optional*): that the user named, which only a table has.
        remote ([`RemoteData`], *optional*): that a table file is the copy from.
        chosen (`dict`, *optional*): the names of splits by role that the user said.

    Raises:
        ValueError: there are no images, or no classes; folders and tables give different classes; a file that cannot
            be read as what its name says.
        OSError: no such file or folder, and no such dataset on the Hub.
    """
    path, (name, revision) = Path(dataset), split_revision(dataset)
    hub_id, _, config = name.partition(":")
    if not dataset.strip():
        raise ValueError("--dataset is empty: pass a folder, a table file, or the id of a dataset on the Hub")
    if path.is_dir():
        return _read_folder(path, label_source, columns, chosen or {})
    if path.is_file():
        return _read_file(path, remote)
    if path.exists():
        raise ValueError(f"{dataset} is a pipe, a socket or a device: --dataset must be {_TAKES}")
    is_path = path.is_absolute() or dataset.startswith((".", "~")) or name.count("/") > 1
    if is_path or path.suffix.lower() in TABLE_SUFFIXES:
        raise OSError(
            f"{dataset} does not exist: --dataset must be a folder, a table file, or the id of a dataset on the Hub"
        )
    return {name: Rows(data) for name, data in load_hub(hub_id, config or None, revision).items()}, []


def _read_file(path: Path, remote: RemoteData | None) -> tuple[dict[str, Rows], list[str]]:
    split = split_in(path.name) or "train"
    if is_table(path):
        rows = read_files([path])
        beside = scan(path.parent, PassedOver(path.parent))
        finder = FileFinder(path.parent, whole=len(beside.folders) == 1 and not beside.images, remote=remote)
        return {split: replace(rows, finder=finder)}, []
    if is_webdataset(path):
        return {split: Rows(load_webdataset([path]))}, []
    advice = next_step(path)
    raise ValueError(f"{path} is neither a folder nor a table: {advice or f'--dataset must be {_TAKES}'}")


def _read_folder(
    folder: Path, label_source: str | None, columns: Sequence[str | None], chosen: Mapping[str, str]
) -> tuple[dict[str, Rows], list[str]]:
    if is_saved(folder):
        return {name: Rows(data) for name, data in load_saved(folder).items()}, []
    passed = PassedOver(folder)
    tables, notes = choose_tables(folder, label_source, columns, passed, chosen)
    if tables:
        result = _read_tables(folder, tables)
    elif tars := _webdatasets(folder, passed):
        result = {split: Rows(load_webdataset(files)) for split, files in split_files(folder, tars).items()}
    else:
        try:
            result = _read_class_folders(folder, label_source, chosen, notes, passed)
        except ValueError as error:
            raise ValueError("; ".join([str(error), *notes])) from error
    return result, [note for note in (*notes, passed.note) if note]


def _read_tables(folder: Path, tables: Sequence[Path]) -> dict[str, Rows]:
    finder = FileFinder(folder)
    result = {}
    for split, paths in split_files(folder, tables).items():
        rows = read_files(paths)
        result[split] = replace(rows, root=image_root(rows, folder, split) or rows.root, finder=finder)
    return result


def split_files(folder: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by the splits that their names say, or their own names.

    Args:
        folder (path): that they are in, or below it.
        files (sequence of paths): tables, or tar files.
    """
    by_split: dict[str, list[Path]] = {}
    for file in files:
        split = split_in(str(file.relative_to(folder))) or re.sub(r"-\d+(-of-\d+)?$", "", file.stem)
        by_split.setdefault(split, []).append(file)
    shards = all(file.suffix.lower() not in TABLE_SUFFIXES[:-1] for file in files)
    if not any(map(usual_split, by_split)) and (len(by_split) == 1 or shards):
        by_split = {"train": [*files]}
    return by_split


def _webdatasets(folder: Path, passed: PassedOver) -> list[Path]:
    """The tar files of WebDataset in a folder without class folders."""
    if any(scan(one, passed).images for one in scan(folder, passed).folders):
        return []
    return [file for contents in walk(folder, passed) for file in contents.others if is_webdataset(file)]


def _read_class_folders(
    folder: Path, label_source: str | None, chosen: Mapping[str, str], notes: list[str], passed: PassedOver
) -> dict[str, Rows]:
    """The class folders of a folder, or of those of its splits."""
    top = scan(folder, passed)
    if not top.folders:
        raise ValueError(_no_classes(folder, passed))
    splits = split_folders(folder, passed, chosen)
    if not splits and label_source != "folders":
        _check_layout(folder, passed)
    roots = splits or {"train": folder}
    result = {split: _class_rows(root, notes, passed) for split, root in roots.items()}
    if not any(len(rows.data) for rows in result.values()):
        also = f" ({passed.note})" if passed.note else ""
        raise ValueError(
            f"{folder} has no images in its class folders{also}: expected files ending in "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    if not splits and (places := splits_beside(folder, passed)):
        result = _split_rows(result["train"], places, notes)
    if lists := [file.name for file in top.others if file.suffix.lower() == ".txt" and split_in(file.name)]:
        notes.append(
            f"WARNING: {examples(lists)} may list the splits of the images, but are not read: save each as CSV "
            "with the header file"
        )
    for name, root in splits.items():
        if root != folder / name:
            notes.append(f"{name} split: {root.relative_to(folder)}")
    if splits:
        beside = [one.name for one in top.folders if one.name not in splits]
        beside += [f"{len(top.images)} images such as {top.images[0].name}"] if top.images else []
        if beside:
            notes.append(f"skipped, because not in a split folder: {examples(beside)}")
    if packed := [file.name for file in top.others if is_archive(file)]:
        notes.append(f"skipped archives (unpack them to use them): {examples(packed)}")
    return result


def _split_rows(rows: Rows, places: Mapping[str, str], notes: list[str]) -> dict[str, Rows]:
    """Images of class folders by the splits that tables have them in."""
    by_split: dict[str, list[int]] = defaultdict(list)
    for row, file in enumerate(rows.files or ()):
        by_split[places.get(file, "")].append(row)
    if rest := by_split.pop("", None):
        notes.append(f"skipped {len(rest)} images that are in no split of the tables")
    notes.append(f"splits, from the tables next to the class folders: {examples([*by_split])}")
    files = rows.files or []
    return {
        name: replace(rows, data=rows.data.select(where), files=[files[row] for row in where])
        for name, where in by_split.items()
    }


def _no_classes(folder: Path, passed: PassedOver) -> str:
    """The message on a folder without folders."""
    top = scan(folder, passed)
    also = f" ({passed.note})" if passed.note else ""
    if not (top.images or top.others):
        return f"{folder} is empty{also}: put the images of each class in a separate folder"
    if not top.images and (advice := next(filter(None, map(next_step, top.others)), "")):
        return f"{folder} has no images; it has {examples([file.name for file in top.others])}: {advice}"
    return (
        f"{folder} has {len(top.images)} images but no class folders{also}: put the images of each class in a "
        "separate folder, or add a metadata.csv with their names and classes"
    )


def _check_layout(folder: Path, passed: PassedOver) -> None:
    """That the folders in a folder are its classes.

    Raises:
        ValueError: they lie deeper, or the folders are splits without classes.
    """
    if near := near_layout(folder, passed):
        raise ValueError(f"{folder} has its class folders one level deeper: did you mean --dataset {near}?")
    top = scan(folder, passed)
    filled = [one for one in top.folders if scan(one, passed).images]
    if filled and not are_classes([one.name for one in filled]):
        names = examples([f"{one.name}/" for one in filled])
        raise ValueError(
            f"{names} of {folder} {'hold' if len(filled) > 1 else 'holds'} images without class folders: put the "
            f"images of each class in a separate folder in {filled[0].name}/, or add {filled[0].name}/metadata.csv "
            "(columns file_name,label); if these folders are the classes, use --label_source folders"
        )


def _class_rows(root: Path, notes: list[str], passed: PassedOver) -> Rows:
    read = class_folders(root, passed=passed)
    names = [clean(folder) for folder in read.folders]
    classes, name = sorted(set(names)), root.resolve().name
    if twice := repeated(names):
        notes.append(f"{name} has several folders for the class {twice!r}: they are read as one class")
    if unread := unread_class(read):
        raise ValueError(
            f"the images of the class {unread[0]!r} of {name} are in an unsupported format ({unread[1]}): save "
            "them as JPEG or PNG"
        )
    ids = {class_name: label for label, class_name in enumerate(classes)}
    data = image_tables({"train": (read.files, [ids[names[label]] for label in read.labels])}, classes)["train"]
    notes += _describe_others(read, name)
    return Rows(data, root, files=read.files)


def _describe_others(read: ClassFolders, name: str) -> list[str]:
    notes = []
    unread = [path for path in read.others if is_unread_image(path.name)]
    others = [path for path in read.others if path not in unread]
    if count := len(unread):
        kinds = "/".join(sorted({path.suffix[1:].upper() for path in unread}))
        what = f"{kinds} image skipped" if count == 1 else f"{kinds} images skipped"
        notes.append(
            f"{count} {what} in the class folders of {name}, such as {unread[0].parent.name}/{unread[0].name}: save "
            f"{'it' if count == 1 else 'them'} as JPEG or PNG"
        )
    if count := len(others):
        kinds = ", ".join(sorted({path.suffix.lower() or path.name for path in others})[:4])
        notes.append(f"{count} file{'s' * (count > 1)} skipped in the class folders of {name}, not images ({kinds})")
    if read.loose:
        notes.append(
            f"{len(read.loose)} images of {name} are outside of class folders and are skipped, such as "
            f"{read.loose[0].name}"
        )
    return notes
