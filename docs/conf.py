"""The site: `make docs` builds it with Sphinx, MyST and Furo. Pages are Markdown as GitHub reads it; the order of the
navigation stands here, and what the code says of itself is written by [`generate_reference`] before pages are read."""

import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

from generate_reference import write_pages  # noqa: E402
from project_url import project_url  # noqa: E402

import paco_hf  # noqa: E402

# The left navigation: each page of docs/ stands here once, or the build fails.
NAVIGATION = {
    "Get started": ["quick-tour", "train", "reproduce", "coming-from-the-reference"],
    "Guides": [
        "train-more",
        "evaluate",
        "serve",
        "wrong-labels",
        "hub",
        "large-data",
        "extend",
        "works-with",
        "troubleshooting",
    ],
    "Concepts": ["how-it-works", "results", "performance"],
    "Reference": [
        "reference/cli",
        "reference/api",
        "reference/recipes",
        "training-arguments",
        "data-formats",
        "files",
    ],
    "Project": ["versions", "changelog", "cite"],
}

project = "paco_hf"
author = "The paco_hf contributors"
version = release = paco_hf.__version__
extensions = ["myst_parser", "sphinx_copybutton"]
exclude_patterns = ["*.py"]
nitpicky = True
smartquotes = False  # two hyphens are those of a flag
highlight_language = "text"  # of blocks without a language

myst_enable_extensions = ["dollarmath"]
myst_dmath_allow_space = False
myst_dmath_allow_digits = False
myst_heading_anchors = 4  # links to headings as GitHub names them
myst_update_mathjax = False
html_math_renderer = "mathml"  # which browsers draw by themselves: no script, no fonts

html_theme = "furo"
html_title = f"paco_hf {release}"
html_favicon = "favicon.svg"
html_search_scorer = str(DOCS / "search_scorer.js")
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_show_copyright = False
html_copy_source = False
html_use_index = False
html_domain_indices = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
toc_object_entries_show_parents = "hide"
if project_url():
    html_theme_options |= {"source_repository": project_url(), "source_branch": "main", "source_directory": "docs/"}
maximum_signature_line_length = 90
python_display_short_literal_types = True
copybutton_exclude = ".linenos, .gp, .go"

# A fence, which stays as it is, or a comment, which is for those who read and test the source.
_FENCE_OR_COMMENT = re.compile(r"^(?P<ticks>`{3,})[^`].*?^(?P=ticks)`*$|^<!--.*?-->[ ]*\n?", re.DOTALL | re.MULTILINE)


def read_source(_app: Sphinx, page: str, content: list[str]) -> None:
    """Take the comments out of a page, and give the first one the navigation."""
    content[0] = _FENCE_OR_COMMENT.sub(lambda found: found[0] if found["ticks"] else "", content[0])
    if page == "index":
        for caption, pages in NAVIGATION.items():
            entries = "\n".join(pages)
            content[0] += f"\n\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{entries}\n```\n"


def visit_math(translator: Any, node: nodes.Element) -> None:
    """A formula as MathML."""
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def visit_displayed_math(translator: Any, node: nodes.Element) -> None:
    """A formula on lines of its own, in a box that scrolls where it is too wide."""
    translator.body.append(f'<div class="formula">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """What Sphinx calls."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displayed_math, None))
    app.connect("builder-inited", lambda _: write_pages(DOCS))
    app.connect("source-read", read_source)
