"""What the HTML reports share: their template environment, how they write numbers, and pictures inside the page."""

import base64
import datetime
import importlib.metadata
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from PIL import Image

from ..data.image_split import describe_split
from ..utils.files import write_text
from ..utils.images import small_copy
from ..utils.text import percent
from .plots import INK, RULE, SERIES

THUMBNAIL = 160  # pixels of the longer side
_VARIABLES = {INK: "ink", RULE: "rule", **{color: f"series-{i}" for i, color in enumerate(SERIES, 1)}}


def templates() -> Environment:
    """The package's templates; everything that is put into the HTML ones is escaped."""
    environment = Environment(
        loader=PackageLoader("paco_hf"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, points=points, number=number, span=span)
    environment.filters.update(split_name=describe_split, markdown=markdown)
    return environment


def write_page(template: str, file: Path, **content: Any) -> Path:
    """Render a template of the package into one HTML file that refers to nothing else."""
    version = importlib.metadata.version("paco-hf")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, templates().get_template(template).render(version=version, today=today, **content))
    return file


def markdown(text: str) -> str:
    """Text whose characters mean nothing in Markdown, such as the name of a class."""
    return re.sub(r"[\\`*\[\]<>|~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


def points(fraction: float | None) -> str:
    """A difference of two percentages."""
    return "-" if fraction is None else f"{100 * fraction:.1f} points"


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def span(interval: Mapping[str, Any] | None, write: Callable[[float], str] = percent) -> str:
    """The bounds of an interval, the unit once."""
    if interval is None or interval.get("low") is None:
        return ""
    low, high = write(interval["low"]), write(interval["high"])
    return f"{low.split()[0].rstrip('%')} to {high}"


def svg(name: str, label: str, plot: Callable[..., None], *data: Any) -> Markup:
    """A figure of [`paco_hf.reports.plots`] as inline SVG, in the colors of the page.

    Args:
        name (`str`): keeps its ids apart from those of other figures.
        label (`str`): what it shows, for those who do not see it.
        plot (callable): takes `data`, then the open file to draw to.
    """
    drawn = io.StringIO()
    plot(*data, drawn)
    text = drawn.getvalue()
    text = text[text.index("<svg") :]
    # Its style rule would hold for the whole page.
    text = re.sub(r"<!--.*?-->|<style.*?</style>|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', text)
    head = f'<svg role="img" aria-label="{Markup.escape(label)}" {box[0] if box else ""}>'
    used = set(re.findall(r"#([\w.-]+)", text))

    def edited(tag: re.Match[str]) -> str:
        if tag[0].startswith("<svg"):
            return head
        inside = tag[0]
        for color, variable in _VARIABLES.items():
            inside = inside.replace(color, f"var(--{variable})")
        inside = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", inside)
        inside = re.sub(r'xlink:href="#|url\(#', lambda m: f"{m[0].removeprefix('xlink:')}{name}-", inside)
        # What only takes room: fonts (the page has its own), digits below a hundredth of a point.
        inside = re.sub(r"font-family: [^;\"]*;? ?", "", inside)
        return re.sub(r"(\d\.\d\d)\d+", r"\1", inside)

    # Inside the tags, so that no text is changed.
    return Markup(re.sub(r"\s*\n\s*", "\n", re.sub(r"<[^>]*>", edited, text)))


def picture(image: Image.Image) -> str:
    """The address of a small copy of an image, which has the image in it."""
    kind, content = small_copy(image, THUMBNAIL)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content).decode()}"
