"""Images that the user wants left out of training, by a list of their names."""

import csv
from pathlib import Path

from ..utils.files import check_file, read_text
from ..utils.text import examples, repeated
from .images import ImageData

_ADVICE = "pass the CSV from `paco-hf data suspects`, or a text file with one image name per line"


def read_exclusion(file: str) -> list[str]:
    """The names in a list of images.

    Args:
        file (`str`): CSV with a column `file`, such as `paco-hf data suspects` writes; or text, a name a line.

    Raises:
        OSError: there is no such file.
        ValueError: a text that names no image, or a CSV without a column `file`; a list of no suspects has only that.
    """
    check_file(file, _ADVICE)
    text = read_text(Path(file)).removeprefix("\ufeff")
    if Path(file).suffix.lower() == ".csv":
        rows = csv.DictReader(text.splitlines())
        if "file" not in (rows.fieldnames or ()):
            raise ValueError(f"{file} has no column `file` (columns: {', '.join(rows.fieldnames or ())}): {_ADVICE}")
        names = [row["file"] or "" for row in rows]
    else:
        names = [line.strip() for line in text.splitlines()]
        if not any(names):
            raise ValueError(f"{file} contains no image names: {_ADVICE}")
    return list(filter(None, names))


def excluded_rows(data: ImageData, file: str) -> dict[str, set[int]]:
    """The images of train and validation that a list names, by split; the test is left as it is.

    Args:
        data ([`ImageData`]): the splits.
        file (`str`): the list, as for [`read_exclusion`]; names are those of `ImageSplit.image_names`.

    Raises:
        OSError: there is no such file.
        ValueError: a name is of no image, of several, or of one of the test.
    """
    names = set(read_exclusion(file))
    rows, known = dict[str, set[int]](), list[str]()
    for role in ("train", "validation"):
        if split := data.splits.get(role):
            here = split.image_names()
            rows[role] = {row for row, name in enumerate(here) if name in names}
            known += [here[row] for row in sorted(rows[role])]
    if (twice := repeated(known)) is not None:
        raise ValueError(
            f"{file} contains {twice}, which is the name of several images: use names that are unique in the dataset"
        )
    if unknown := sorted(names - set(known)):
        tested = data.test is not None and not data.test.split_off and set(data.test.image_names())
        if tested and unknown[0] in tested:
            raise ValueError(
                f"{file} contains an image of the test split, {unknown[0]}, and the test split does "
                "not change: remove the line"
            )
        raise ValueError(
            f"{len(unknown)} of the {len(names)} names in {file} are not in {data.train.name}, such as "
            f"{examples(unknown, 2)}: write names relative to the dataset's folder (such as "
            f"{data.train.image_names()[0]})"
        )
    return rows
