"""The notebook of `examples/`: what is stored of it, what it says to type, and that it runs and publishes."""

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import patience
import pytest
from loopback_hub import Hub

from paco_hf.cli import main

nbformat = pytest.importorskip("nbformat", reason="needs the extra dev")
NotebookClient = pytest.importorskip("nbclient", reason="needs the extra dev").NotebookClient
install = pytest.importorskip("ipykernel.kernelspec", reason="needs the extra dev").install

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "folder_to_hub.ipynb"
GUIDES = sorted((ROOT / "docs").glob("guide-*.md"))
TEXTS = [NOTEBOOK, *GUIDES]
# Of Unix below the root, of Windows, and addresses; not a relative path, a fraction, or the end of a tag.
ELSEWHERE = re.compile(r"(?<![\w.~)*<{}$/-])/[A-Za-z_][\w.-]*|\b[A-Z]:\\|\bfile:|\bhttps?:")


def read() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, nbformat.NO_CONVERT)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def commands(path: Path) -> Iterator[list[str]]:
    """The `paco-hf` commands of a notebook's shell cells, or of the code blocks of a page."""
    if path.suffix == ".ipynb":
        blocks = [cell.source for cell in code_cells(read()) if cell.source.startswith("%%bash")]
    else:
        blocks = re.findall(r"^```\w*\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"\s*([A-Z_]+=\S+ )*paco-hf ", line):
                words = shlex.split(line, comments=True)
                words = words[words.index("paco-hf") + 1 :]
                yield words[: words.index("|")] if "|" in words else words


def test_the_notebook_is_stored_as_it_ran() -> None:
    notebook = read()
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor >= 5) == (4, True)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert NOTEBOOK.stat().st_size < 400_000
    assert "widgets" not in notebook.metadata
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert cell.outputs, cell.id
        for output in cell.outputs:
            assert output.output_type != "error", cell.id
            assert output.get("name") != "stderr", cell.id
            assert not any("widget" in kind for kind in output.get("data", {})), cell.id
            text = output.get("text") or output.data.get("text/plain")
            assert not ELSEWHERE.search(text), (cell.id, ELSEWHERE.search(text))
        assert not ELSEWHERE.search(cell.source), (cell.id, ELSEWHERE.search(cell.source))


@pytest.mark.parametrize("text", ["see /tmp/x", "'/home/ada'", "C:\\Users", "https://example.org", "(/root)"])
def test_paths_of_one_computer_are_found(text: str) -> None:
    assert ELSEWHERE.search(text)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_its_commands_have_these_flags(path: Path, capsys: pytest.CaptureFixture) -> None:
    known: dict[tuple[str, ...], set[str]] = {}
    found = list(commands(path))
    assert len(found) >= 5
    for words in found:
        verb = tuple(words[: 2 if words[0] == "data" else 1])
        if verb not in known:
            try:
                status = main([*verb, "--help_all" if verb == ("train",) else "--help"])
            except SystemExit as done:
                status = done.code
            printed = capsys.readouterr()
            assert status == 0, printed.err
            known[verb] = set(re.findall(r"--[\w-]+", printed.out))
        flags = {word.split("=")[0] for word in words if word.startswith("--")}
        assert flags <= known[verb], (flags - known[verb], words)


LOADED = """
import json, sys
import paco_hf
from transformers import pipeline
answers = [pipeline("image-classification", model=model)(sys.argv[1]) for model in ("ada/folder-to-hub", "runs/paco")]
print(json.dumps(answers))
"""


@pytest.mark.slow
def test_it_runs_from_top_to_end_and_publishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A kernel of this interpreter, whatever is installed elsewhere under the usual name.
    install(prefix=str(tmp_path / "kernels"), kernel_name="here")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "kernels" / "share" / "jupyter"))
    work = tmp_path / "work"
    work.mkdir()

    def execute(notebook: nbformat.NotebookNode, environment: dict[str, str]) -> None:
        # Without the environment's own folder: the notebook finds its `paco-hf` by itself.
        environment |= {"PATH": os.defpath, "IPYTHONDIR": str(tmp_path / "ipython")}
        client = NotebookClient(
            notebook, timeout=1800, kernel_name="here", resources={"metadata": {"path": str(work)}}
        )
        client.execute(env=environment)  # raises what a cell does

    def printed(notebook: nbformat.NotebookNode, id: str) -> str:
        outputs = next(cell.outputs for cell in notebook.cells if cell.id == id)
        return "".join(output.text for output in outputs if output.get("name") == "stdout")

    with Hub({"token-ada": "ada"}) as hub:
        notebook = read()
        execute(notebook, hub.environment("token-ada", tmp_path / "home"))
        # Every question to the Hub was one of the push and of loading what was pushed: nothing else was downloaded.
        asked = {request.path for request in hub.requests}
        usual = ("/api/whoami-v2", "/api/validate-yaml", "/api/repos/create")
        assert [path for path in asked if "folder-to-hub" not in path and path not in usual] == []
        assert "ada/folder-to-hub" in printed(notebook, "push")
        assert hub.repos["model", "ada/folder-to-hub"].private
        files = hub.files("ada/folder-to-hub")
        assert files["model.safetensors"] == (work / "runs" / "paco" / "model.safetensors").read_bytes()
        assert str(tmp_path).encode() not in b"".join(files.values())

        image = str(work / "photos" / "test" / "apple" / "1.png")
        environment = hub.environment("token-ada", tmp_path / "another home")
        command = [sys.executable, "-c", LOADED, image]
        done = patience.run(command, cwd=work, env=environment)
        assert done.returncode == 0, done.stderr
        published, own = json.loads(done.stdout)
        assert published == own

        # The same figures in the comparison, in the evaluation and in what the run left.
        measured = json.loads((work / "runs" / "paco" / "metrics.json").read_text())["test"]
        assert f"{100 * measured['few']:.1f}" in printed(notebook, "compare")
        assert f"top-1 {100 * measured['accuracy']:.1f} (" in printed(notebook, "evaluate")
        assert "frequencies estimated" in printed(notebook, "estimated")

        # Nobody is logged in, and there is no network: it says what to do, and asks nobody.
        alone = read()
        alone.cells = [cell for cell in alone.cells if cell.id == "push"]
        before = len(hub.requests)
        execute(alone, hub.environment(None, tmp_path / "nobody") | {"HF_HUB_OFFLINE": "1"})
        assert "hf auth login" in printed(alone, "push")
        assert len(hub.requests) == before
