"""The project's address: set `[tool.paco-hf] url` in `pyproject.toml`, and this writes it where tools look for it.

    python docs/project_url.py     writes the address into the files below; an empty one removes it

* `examples/folder_to_hub.ipynb`: the Colab badge, where the address is one of GitHub.
* `CITATION.cff`: `repository-code`.
* `pyproject.toml`: `[project.urls]`, which package indexes show.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = "examples/folder_to_hub.ipynb"
COLAB = "https://colab.research.google.com"


def project_url(pyproject: Path = ROOT / "pyproject.toml") -> str:
    """The project's address, empty where it has none."""
    tools = tomllib.loads(pyproject.read_text(encoding="utf-8"))["tool"]
    return tools.get("paco-hf", {}).get("url", "").rstrip("/").removesuffix(".git")


def badge(url: str) -> str:
    """The badge in markdown, with what to install there; empty where the address is not one of GitHub.

    Args:
        url (`str`): of the project.
    """
    repository = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+)", url)
    if repository is None:
        return ""
    notebook = f"{COLAB}/github/{repository[1]}/blob/main/{NOTEBOOK}"
    return (
        f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({notebook})\n\n"
        f"On Colab, first run `%pip install git+{url}` in a new cell."
    )


def with_badge(text: str, url: str) -> str:
    """The text of the notebook's first cell with the badge below the heading, or without one.

    Args:
        text (`str`): of the cell.
        url (`str`): of the project.
    """
    heading, *paragraphs = text.split("\n\n")
    paragraphs = [part for part in paragraphs if not part.startswith(("[![Open in Colab]", "On Colab, first run"))]
    return "\n\n".join([heading, *([badge(url)] if badge(url) else []), *paragraphs])


def with_repository(text: str, url: str) -> str:
    """The text of `CITATION.cff` with the address, or without one.

    Args:
        text (`str`): of the file.
        url (`str`): of the project.
    """
    text = re.sub(r"^repository-code: .*\n", "", text, flags=re.MULTILINE)
    line = f"repository-code: {url}\n" if url else ""
    return re.sub(r"^(?=license: )", lambda _: line, text, count=1, flags=re.MULTILINE)


def with_project_urls(text: str, url: str) -> str:
    """The text of `pyproject.toml` with the address in the package's metadata, or without one.

    Args:
        text (`str`): of the file.
        url (`str`): of the project.
    """
    text = re.sub(r"^\[project\.urls\]\n(?:.+\n)*\n", "", text, flags=re.MULTILINE)
    table = f'[project.urls]\nRepository = "{url}"\n\n' if url else ""
    return re.sub(r"^(?=(?:#.*\n)*\[tool\.paco-hf\])", lambda _: table, text, count=1, flags=re.MULTILINE)


def update(root: Path = ROOT) -> None:
    """Write the address into the files of a checkout that repeat it.

    Args:
        root (`Path`, *optional*): of the checkout.
    """
    import nbformat

    url = project_url(root / "pyproject.toml")
    for name, changed in (("CITATION.cff", with_repository), ("pyproject.toml", with_project_urls)):
        text = (root / name).read_text(encoding="utf-8")
        if changed(text, url) != text:
            (root / name).write_text(changed(text, url), encoding="utf-8")
    notebook = nbformat.read(root / NOTEBOOK, nbformat.NO_CONVERT)
    notebook.cells[0].source = with_badge(notebook.cells[0].source, url)
    nbformat.write(notebook, root / NOTEBOOK)


if __name__ == "__main__":
    update()
