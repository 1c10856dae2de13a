"""The site as `make docs` builds it, in a browser: pages, links, search, both color schemes, narrow screens."""

import functools
import http.server
import os
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from conftest import ROOT
from pages import CHROMIUM, in_chromium

pytestmark = pytest.mark.slow
for library in ("furo", "latex2mathml", "myst_parser", "sphinx", "sphinx_copybutton"):
    pytest.importorskip(library, reason="the extra `docs` is not installed")

# Words that people look for, and pages of which at least one must be among the first five results.
SEARCHES = {
    "queue": {"how-it-works.html", "reference/api.html", "training-arguments.html"},
    "few-shot": {"troubleshooting.html", "evaluate.html", "results.html", "how-it-works.html"},
    "resume": {"train.html", "large-data.html", "files.html", "troubleshooting.html", "quick-tour.html"},
}


def build(docs: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """As the Makefile does it."""
    (flags,) = re.findall(r"-m sphinx (.*?) --doctree-dir", (ROOT / "Makefile").read_text())
    command = [sys.executable, "-m", "sphinx", *flags.split(), "--doctree-dir", site.parent / "doctrees", docs, site]
    environment = {**os.environ, "NO_COLOR": "1"}
    return subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, unpacked: the site is made of what is in it. A test may change its pages."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("archive")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--sdist", "--outdir", folder, ROOT], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
    assert not any((unpacked / "docs" / name).exists() for name in ("reference", "changelog.md", "cite.md"))
    return unpacked


@pytest.fixture(scope="module")
def site(checkout: Path) -> Path:
    folder = checkout / "site"
    done = build(checkout / "docs", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> list[str]:
    names = sorted(str(file.relative_to(site)) for file in site.rglob("*.html"))
    assert {"index.html", "search.html", "changelog.html", "cite.html", "reference/api.html"} <= set(names)
    return names


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


def test_defects_fail_the_build(checkout: Path, site: Path, tmp_path: Path) -> None:
    """A link to no page, one to no heading, a reference to no name, and a page that is in no navigation."""
    page = checkout / "docs" / "serve.md"
    text = page.read_text(encoding="utf-8")
    (checkout / "docs" / "lonely.md").write_text("# Lonely\n", encoding="utf-8")
    page.write_text(f"{text}\n[a](no-such-page.md) [b](hub.md#no-such-heading) {{py:func}}`paco_hf.no_such_name`\n")
    try:
        done = build(checkout / "docs", tmp_path / "site")
    finally:
        page.write_text(text, encoding="utf-8")
        (checkout / "docs" / "lonely.md").unlink()
    assert done.returncode != 0
    for defect in ("no-such-page.md", "no-such-heading", "paco_hf.no_such_name", "lonely.md"):
        assert re.search(rf"WARNING: .*{defect}|{defect}: WARNING", done.stderr), defect


def test_links_lead_somewhere(site: Path, pages: list[str]) -> None:
    texts = {name: (site / name).read_text(encoding="utf-8") for name in pages}
    ids = {name: {unescape(found) for found in re.findall(r'\bid="([^"]+)"', text)} for name, text in texts.items()}
    links = 0
    for name, text in texts.items():
        assert not re.search(r'<(?:script|img|iframe)[^>]* src="(?:https?:)?//|<link [^>]*href="(?:https?:)?//', text)
        for link in map(unescape, re.findall(r'\b(?:href|src)="([^"]*)"', text)):
            if re.match(r"\w+:", link) or link in ("#", ""):
                continue
            file, _, anchor = link.partition("#")
            target = (site / name).parent / unquote(file.partition("?")[0]) if file else site / name
            assert target.is_file(), f"{name}: {link}"
            if anchor and target.suffix == ".html":
                assert unquote(anchor) in ids[str(target.resolve().relative_to(site.resolve()))], f"{name}: {link}"
            links += 1
    assert links > 1000


@in_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_in_the_browser(address: str, pages: list[str], browser: Any, scheme: str) -> None:
    """No error, nothing from another host, and at 390 pixels nothing is wider than the screen."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": 390, "height": 844})
    wrong: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: message.type in ("error", "warning") and wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    # What is aborted is what the page still loaded when the next one was opened.
    page.on("requestfailed", lambda got: "ABORTED" in got.failure or wrong.append(f"failed: {got.url}: {got.failure}"))
    page.on("response", lambda got: got.status >= 400 and wrong.append(f"{got.status}: {got.url}"))
    page.on("request", lambda got: got.url.startswith((address, "data:")) or wrong.append(f"asked: {got.url}"))
    for name in pages:
        page.goto(f"{address}/{name}", wait_until="load")
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > 390:
            wrong.append(f"{width} pixels wide")
        assert wrong == [], name
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == (scheme == "dark"), background
    context.close()


def results(page: Any, url: str) -> list[str]:
    """The addresses of what a search lists, the best first."""
    page.goto(url)
    # The summary says "found 3 pages" or "found one page" after the search, and "did not match" where there is none.
    page.wait_for_function("/found|did not match/.test(document.querySelector('.search-summary')?.textContent)")
    page.wait_for_timeout(300)  # results are listed one after the other
    links = page.eval_on_selector_all("#search-results li a", "links => links.map(link => link.href)")
    return [re.sub(r"[?#].*", "", link) for link in links]


@in_chromium
def test_search(site: Path, address: str, browser: Any) -> None:
    """From a server, and from the folder on disk."""
    page = browser.new_page()
    for word, wanted in SEARCHES.items():
        for start in (address, site.as_uri()):
            found = [link.removeprefix(f"{start}/") for link in results(page, f"{start}/search.html?q={word}")]
            assert wanted & set(list(dict.fromkeys(found))[:5]), (word, found)
    for words in ("--queue_size", "NaN loss", "balanced_logits"):  # many results, or few
        assert results(page, f"{address}/search.html?q={words}"), words
    assert results(page, f"{address}/search.html?q=nosuchwordanywhere") == []
    page.close()


@in_chromium
def test_formula_and_navigation(address: str, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.goto(f"{address}/how-it-works.html")
    assert page.locator("math").count() > 0
    page.goto(f"{address}/index.html")
    assert page.title().endswith("paco_hf 0.1.0")
    captions = page.locator(".sidebar-tree .caption-text").all_inner_texts()
    assert [caption.lower() for caption in captions] == [
        "get started",
        "guides",
        "concepts",
        "reference",
        "project",
    ]
    page.locator(".related-pages .next-page").click()
    assert page.url == f"{address}/quick-tour.html"
    page.close()
