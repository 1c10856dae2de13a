"""The pages of the site that are made of the code, the recipes and the project's files. Each build writes them, and so
does `python docs/generate_reference.py`. Git ignores them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from reference_api import api_page
from reference_cli import cli_page
from reference_recipes import recipes_page

ROOT = Path(__file__).parents[1]
_KINDS = {"article": "article", "conference-paper": "inproceedings", "proceedings": "inproceedings"}


def changelog_page() -> str:
    """`CHANGELOG.md`."""
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def cite_page() -> str:
    """How to cite the papers and the software: `CITATION.cff` as BibTeX."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    papers = "\n\n".join(map(bibtex, citation["references"]))
    return f"""# Cite

If you use PaCo or GPaCo, cite the papers that introduced them:

```bibtex
{papers}
```

If you want to cite this implementation too, say which version you used:

```bibtex
{bibtex(citation)}
```

The file `CITATION.cff` in the repository has the same entries for tools that read it.
"""


def bibtex(entry: dict[str, Any]) -> str:
    """A work of a `CITATION.cff`.

    Args:
        entry (`dict`): the file itself, or one of its references.
    """
    kind = _KINDS.get(entry.get("type", ""), "software")
    names = [author.get("name") or f"{author['family-names']}, {author['given-names']}" for author in entry["authors"]]
    is_person = "family-names" in entry["authors"][0]
    container = entry.get("collection-title") or entry.get("journal") or (entry.get("conference") or {}).get("name")
    released = re.match(r"\d{4}", str(entry.get("date-released", "")))
    fields = {
        "title": f"{{{entry['title']}}}",
        "author": " and ".join(names) if is_person else f"{{{' and '.join(names)}}}",
        {"article": "journal"}.get(kind, "booktitle"): container,
        "volume": entry.get("volume"),
        "number": entry.get("issue"),
        "pages": f"{entry['start']}--{entry['end']}" if "end" in entry else None,
        "year": entry.get("year") or (released and released[0]),
        "version": entry.get("version"),
        "doi": entry.get("doi"),
        "url": entry.get("url") or entry.get("repository-code"),
        "license": entry.get("license"),
    }
    first = names[0].split(",")[0] if is_person else "paco_hf"
    key = f"{first.lower()}{fields['year'] or ''}{_word(entry['title']) if is_person else ''}"
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value is not None]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def _word(title: str) -> str:
    return re.sub(r"\W.*", "", title).lower()


PAGES: dict[str, Callable[[], str]] = {
    "reference/api.md": api_page,
    "reference/cli.md": cli_page,
    "reference/recipes.md": recipes_page,
    "changelog.md": changelog_page,
    "cite.md": cite_page,
}


def write_pages(docs: Path) -> None:
    """Write each page that is not there yet, or has changed.

    Args:
        docs (`Path`): the folder of the site's pages.
    """
    for name, page in PAGES.items():
        file, text = docs / name, page()
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_pages(Path(__file__).parent)
