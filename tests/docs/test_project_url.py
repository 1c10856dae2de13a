"""The project's address stands in one place, and a script writes it where tools look for it."""

import json
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

sys.path.insert(0, str(ROOT / "docs"))
import project_url

URL = "https://github.com/ada/paco"
MAKE = "run make project-url"
TEXT = "# Title\n\nFirst.\n\nSecond."


def test_the_notebook_has_the_badge_that_belongs_to_the_address() -> None:
    first = "".join(json.loads((ROOT / project_url.NOTEBOOK).read_text(encoding="utf-8"))["cells"][0]["source"])
    url = project_url.project_url()
    assert project_url.with_badge(first, url) == first, MAKE
    assert ("colab" in first) == bool(project_url.badge(url))


def repeated(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in ("CITATION.cff", "pyproject.toml", project_url.NOTEBOOK)}


def test_one_address_is_written_where_tools_look_for_it(tmp_path: Path) -> None:
    pytest.importorskip("nbformat", reason="needs the extra dev")
    (tmp_path / "examples").mkdir()
    for name, content in repeated(ROOT).items():
        (tmp_path / name).write_bytes(content)
    settings = tmp_path / "pyproject.toml"

    def set_address(before: str, after: str) -> None:
        text = settings.read_text(encoding="utf-8")
        assert f'url = "{before}"' in text
        settings.write_text(text.replace(f'url = "{before}"', f'url = "{after}"'), encoding="utf-8")
        project_url.update(tmp_path)

    set_address(project_url.project_url(), "")
    without = repeated(tmp_path)
    assert "urls" not in tomllib.loads(settings.read_text(encoding="utf-8"))["project"]
    assert "repository-code" not in yaml.safe_load(without["CITATION.cff"])
    assert b"colab" not in without[project_url.NOTEBOOK]
    set_address("", URL)
    assert tomllib.loads(settings.read_text(encoding="utf-8"))["project"]["urls"] == {"Repository": URL}
    assert yaml.safe_load((tmp_path / "CITATION.cff").read_bytes())["repository-code"] == URL
    assert b"github/ada/paco/blob/main" in (tmp_path / project_url.NOTEBOOK).read_bytes()
    written = repeated(tmp_path)
    project_url.update(tmp_path)
    assert repeated(tmp_path) == written
    set_address(URL, "")
    assert repeated(tmp_path) == without


def test_the_files_have_the_address() -> None:
    url = project_url.project_url()
    assert yaml.safe_load((ROOT / "CITATION.cff").read_bytes()).get("repository-code", "") == url, MAKE
    assert (
        tomllib.loads((ROOT / "pyproject.toml").read_text())["project"].get("urls", {}).get("Repository", "") == url
    ), MAKE


def test_the_badge_opens_the_notebook_of_the_project() -> None:
    text = project_url.with_badge(TEXT, URL)
    heading, badge, install, *rest = text.split("\n\n")
    assert (heading, rest) == ("# Title", ["First.", "Second."])
    assert badge.endswith("(https://colab.research.google.com/github/ada/paco/blob/main/examples/folder_to_hub.ipynb)")
    assert f"pip install git+{URL}`" in install
    assert (ROOT / project_url.NOTEBOOK).is_file()
    # Another address replaces it, and none removes it.
    assert project_url.with_badge(text, URL.replace("ada", "bob")) == text.replace("/ada/", "/bob/")
    assert project_url.with_badge(text, "") == TEXT


@pytest.mark.parametrize("url", ["", "https://gitlab.com/ada/paco", "https://github.com/ada"])
def test_there_is_no_dead_badge(url: str) -> None:
    assert project_url.badge(url) == ""
    assert project_url.with_badge(TEXT, url) == TEXT


@pytest.mark.parametrize(
    ("lines", "url"),
    [
        ('[tool.paco-hf]\nurl = ""\n', ""),
        ("[tool.other]\nurl = 'x'\n", ""),
        (f'[tool.paco-hf]\nurl = "{URL}"\n', URL),
        (f'[tool.paco-hf]\nurl = "{URL}.git/"\n', URL),
    ],
)
def test_the_address_stands_in_the_project_file(tmp_path: Path, lines: str, url: str) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text(lines)
    assert project_url.project_url(file) == url
