"""The notebook of `examples/`: what is stored of it, what it says to type, and that it runs and publishes."""

import hashlib
import json
import os
import re
import sys
import tempfile
from pathlib import Path

import patience
import pytest
from command_lines import commands, parse
from conftest import ROOT
from loopback_hub import File, Hub, Repo

sys.path.insert(0, str(ROOT / "docs"))
import block_runner

nbformat = pytest.importorskip("nbformat", reason="needs the extra dev")
NotebookClient = pytest.importorskip("nbclient", reason="needs the extra dev").NotebookClient
install = pytest.importorskip("ipykernel.kernelspec", reason="needs the extra dev").install

run_notebook = pytest.importorskip("run_notebook", reason="needs the extra dev")

NOTEBOOK = ROOT / "examples" / "folder_to_hub.ipynb"
WEIGHTS = "timm/tf_efficientnet_lite0.in1k"
# Of Unix below the root, of Windows, and addresses; not a relative path, a fraction, or the end of a tag.
ELSEWHERE = re.compile(r"(?<![\w.~)*<{}$/-])/[A-Za-z_][\w.-]*|\b[A-Z]:\\|\bfile:|\bhttps?:")


def read() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, nbformat.NO_CONVERT)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


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


def cuts(text: str, words: set[str]) -> list[str]:
    """The words that a line's end cuts in two: of those that are known, and neither part of a line of its own."""
    parts = re.findall(r"(?<!\w)(\w*)\n(?=(\w+))", text)
    return [f"{end}|{start}" for end, start in parts if end and end + start in words and not (end + start).isdigit()]


def test_no_stored_output_is_cut_in_a_word() -> None:
    sources = [*(ROOT / "paco_hf").rglob("*.py"), NOTEBOOK]
    words = {word for file in sources for word in re.findall(r"\w+", file.read_text(encoding="utf-8"))}
    assert cuts("precision f\np32\nwas cro\npped\nno exact duplicates\ntraining\n12\n34\n", words | {"1234"}) == [
        "f|p32",
        "cro|pped",
    ]
    for cell in code_cells(read()):
        streams = [output for output in cell.outputs if output.output_type == "stream"]
        assert len(streams) <= 1, cell.id
        for stream in streams:
            assert cuts(stream.text, words) == [], f"{cell.id}: run make notebook"


def test_pieces_of_an_output_are_one_before_they_are_cleaned(tmp_path: Path) -> None:
    folder = block_runner.PageFolder(tmp_path, backbone=False)
    pieces = [
        ("stdout", "imb"),
        ("stdout", f"alance\n\x1b[1mreport\x1b[0m: {str(folder.work)[:9]}"),
        ("stderr", "  0%|          | 0/3"),
        ("stdout", f"{str(folder.work)[9:]}/runs/a\n\n"),
        ("stdout", "\n"),
        ("stdout", "end"),
    ]
    outputs = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in pieces]
    picture = nbformat.v4.new_output("display_data", data={"text/plain": "<Figure>"})
    after = nbformat.v4.new_output("stream", name="stdout", text="after")
    stored = run_notebook.tidy([*outputs, picture, after], folder.clean)
    assert [output.get("text") for output in stored] == ["imbalance\nreport: runs/a\n\n\nend\n", None, "after\n"]


@pytest.mark.parametrize("text", ["see /tmp/x", "'/home/ada'", "C:\\Users", "https://example.org", "(/root)"])
def test_paths_of_one_computer_are_found(text: str) -> None:
    assert ELSEWHERE.search(text)


def test_its_commands_have_these_flags() -> None:
    found = [words for cell in code_cells(read()) for words in commands(cell.source.replace("!paco-hf", "paco-hf"))]
    assert len(found) >= 5
    for words in found:
        parse(words)


@pytest.fixture(scope="module")
def backbone() -> dict[str, bytes]:
    """The files of a repository with weights of the notebook's backbone, random ones."""
    with tempfile.TemporaryDirectory() as folder:
        block_runner.fill_hub_cache(Path(folder))
        return {file.name: file.read_bytes() for file in Path(folder).glob("*/snapshots/*/*")}


LOADED = """
import json, sys
import paco_hf
from transformers import pipeline
models = "ada/folder-to-hub", "runs/photos"
answers = [pipeline("image-classification", model=model)(sys.argv[1]) for model in models]
print(json.dumps(answers))
"""


@pytest.mark.slow
def test_it_runs_from_top_to_end_and_publishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: dict[str, bytes]
) -> None:
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
        weights = hub.repos["model", WEIGHTS] = Repo(WEIGHTS, "model", private=False)
        for content in backbone.values():
            weights.store(hashlib.sha256(content).hexdigest(), content)
        files = {name: File(content, lfs=name.endswith(".safetensors")) for name, content in backbone.items()}
        weights.commit("main", files, "weights", "", "timm")
        notebook = read()
        execute(notebook, hub.environment("token-ada", tmp_path / "home"))
        # Nothing was downloaded but the weights and what was pushed.
        asked = {request.path for request in hub.requests if WEIGHTS not in request.path}
        usual = ("/api/whoami-v2", "/api/validate-yaml", "/api/repos/create")
        assert [path for path in asked if "folder-to-hub" not in path and path not in usual] == []
        assert "ada/folder-to-hub" in printed(notebook, "push")
        assert hub.repos["model", "ada/folder-to-hub"].private
        files = hub.files("ada/folder-to-hub")
        assert files["model.safetensors"] == (work / "runs" / "photos" / "model.safetensors").read_bytes()
        assert str(tmp_path).encode() not in b"".join(files.values())

        image = str(min((work / "photos" / "apple").iterdir()))
        environment = hub.environment("token-ada", tmp_path / "another home")
        command = [sys.executable, "-c", LOADED, image]
        done = patience.run(command, cwd=work, env=environment)
        assert done.returncode == 0, done.stderr
        published, own = json.loads(done.stdout)
        assert published == own

        # The same figures in the comparison, in the evaluation and in what the run left.
        measured = json.loads((work / "runs" / "photos" / "metrics.json").read_text())["test"]
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
