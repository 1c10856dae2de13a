"""What tests ask of a page: its tables, that it needs nothing but itself, and what a browser says."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
on_paper = pytest.mark.skipif(
    CHROMIUM is None or shutil.which("pdftotext") is None, reason="Chromium or pdftotext is not installed"
)


def browse(file: Path, scratch: Path, *flags: str) -> tuple[str, list[str], list[str]]:
    """The page as the browser has it, what it said on the console, and what it asked the network for."""
    log = scratch / "net.json"
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={scratch}/profile"]
    command += ["--enable-logging=stderr", "--v=0", "--host-resolver-rules=MAP * ~NOTFOUND", f"--log-net-log={log}"]
    done = subprocess.run(
        [*command, *(flags or ["--dump-dom"]), file.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    # What the browser fetches for itself (updates and the like) has no origin.
    asked = re.findall(r'"initiator":"(?!not an origin).*"url":"([^"]*)"', log.read_text(encoding="utf-8"))
    return done.stdout, console, asked


def printed(file: Path, scratch: Path) -> str:
    """The text of the page on paper, cell by cell and without white space, all of it within the sheets."""
    paper = scratch / "page.pdf"
    browse(file, scratch, f"--print-to-pdf={paper}")

    def text(how: str) -> str:
        return subprocess.run(["pdftotext", how, paper, "-"], capture_output=True, text=True, check=True).stdout

    for sheet in re.findall(r"<page .*?</page>", text("-bbox"), re.DOTALL):
        width = float(re.findall(r'<page width="([\d.]+)"', sheet)[0])
        for left, right in re.findall(r'<word xMin="([-\d.]+)".*? xMax="([-\d.]+)"', sheet):
            assert 0 <= float(left) <= float(right) <= width
    return re.sub(r"\s", "", text("-raw"))


def narrow(file: Path, scratch: Path, width: int = 400) -> tuple[int, int, list[int]]:
    """On a screen of this width: that of the page, that which it needs, and by how much each box is too narrow."""
    frame = scratch / "frame.html"
    inside = file.read_text(encoding="utf-8").replace("&", "&amp;").replace('"', "&quot;")
    look = """
        const page = contentDocument.documentElement, boxes = [...page.querySelectorAll('.scroll')];
        const over = boxes.map(box => box.scrollWidth - box.clientWidth);
        document.title = [page.clientWidth, page.scrollWidth, ...over].join(' ');
    """
    frame.write_text(f'<iframe style="width: {width}px" srcdoc="{inside}" onload="{look}"></iframe>', encoding="utf-8")
    dom, console, _ = browse(frame, scratch)
    assert console == []
    own, needed, *over = map(int, re.findall("<title>(.*?)</title>", dom)[0].split())
    return own, needed, over


def rows_of(html: str) -> list[list[str]]:
    """The text of the cells of each table row."""
    unescaped = {"&lt;": "<", "&gt;": ">", "&#34;": '"', "&#39;": "'", "&amp;": "&"}
    rows = []
    for row in re.findall(r"<tr[^>]*>(.*?)</tr>", html, re.DOTALL):
        cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)
        texts = [re.sub(r"<[^>]*>", "", cell).strip() for cell in cells]
        for escaped, character in unescaped.items():
            texts = [text.replace(escaped, character) for text in texts]
        rows.append(texts)
    return rows


def assert_self_contained(html: str, scripts: int = 0) -> None:
    assert len(re.findall("<script[^>]*>", html)) == html.count("<script>") == scripts
    assert not re.search(r"https?:|@import|<iframe|<object|<link (?!rel=\"icon\" href=\"data:,\")", html)
    for reference in re.findall(r"(?:src|href)=\"([^\"]*)\"|url\(([^)]*)\)", html):
        assert "".join(reference).startswith(("#", "data:")), reference


def assert_well_formed(html: str) -> None:
    """Each id once, each reference to one that is there, no color but the page's in a figure, no name left out."""
    ids = re.findall(r' id="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    for figure in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]*)', figure)) <= set(ids)
        assert not re.search(r"(?:fill|stroke): #", figure)
        assert re.match(r'<svg role="img" aria-label="[^"]+" viewBox=', figure)
    assert all('alt="' in image for image in re.findall(r"<img[^>]*>", html))
    assert html.count("<table") == html.count("<caption") == html.count("</table>")
    assert all("scope=" in cell for cell in re.findall(r"<th\b[^>]*>", html))
