"""The page of labels that are probably wrong: their images, to be looked through."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from ..evaluation.suspects import Suspect
from .html_page import picture, write_page

SHOWN = 300  # images on the page


def write_suspects_page(
    file: Path,
    suspects: Sequence[tuple[dict[str, Any], Suspect]],
    open_image: Callable[[int], Image.Image],
    *,
    title: str,
    images: int,
    same: Sequence[tuple[str, str, float]],
) -> Path:
    """Write the page; it needs nothing but itself.

    Args:
        file (`Path`): to write.
        suspects (sequence of pairs): rows of the CSV, with what they are made from, worst first.
        open_image (callable): the image of a row of the split.
        title (`str`): what the split is called.
        images (`int`): how many images were judged.
        same (sequence): names of two classes that are probably one, with the area under the ROC curve.

    Returns:
        path of the page.
    """
    shown = []
    for row, one in tqdm(suspects[:SHOWN], "small copies", unit=" images", disable=None, leave=False):
        rows = [one.row] if one.duplicate is None else [one.row, one.duplicate]
        shown.append({**row, "addresses": [picture(open_image(place)) for place in rows]})
    about = {"title": title, "images": images, "total": len(suspects), "csv": file.with_suffix(".csv").name}
    return write_page("suspects.html", file, **about, shown=shown, same=same)
