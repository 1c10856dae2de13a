"""Executes `examples/folder_to_hub.ipynb` without network and stores its outputs. Photos and pretrained weights are
those of `block_runner.py`.

    python docs/run_notebook.py     with PACO_DOCS_PHOTOS and PACO_DOCS_WEIGHTS
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import nbformat
from block_runner import ROOT, PageFolder, has_real_inputs
from ipykernel.kernelspec import install
from nbclient import NotebookClient

NOTEBOOK = ROOT / "examples" / "folder_to_hub.ipynb"


def tidy(outputs: list, clean: Callable[[str], str]) -> list:
    """The outputs of a cell without the error stream. Pieces of a text are joined before the text is cleaned.

    Args:
        outputs (`list`): of the cell.
        clean (`Callable`): what [`PageFolder.clean`] does.
    """
    result: list = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if result and output.output_type == result[-1].output_type == "stream":
            result[-1].text += output.text
        else:
            result.append(output)
    for output in result:
        if "text" in output:
            output.text = clean(output.text)
    return result


def main() -> None:
    if not has_real_inputs():
        sys.exit("the stored outputs are of real photos and weights: set PACO_DOCS_PHOTOS and PACO_DOCS_WEIGHTS")
    notebook = nbformat.read(NOTEBOOK, nbformat.NO_CONVERT)
    with tempfile.TemporaryDirectory(prefix="paco-docs-") as scratch:
        folder = PageFolder(Path(scratch).resolve(), backbone=True)
        subprocess.run(["example_inputs", "photos"], cwd=folder.work, env=folder.environment, check=True)
        install(prefix=str(folder.scratch / "kernels"), kernel_name="here")
        os.environ["JUPYTER_PATH"] = str(folder.scratch / "kernels" / "share" / "jupyter")
        resources = {"metadata": {"path": str(folder.work)}}
        client = NotebookClient(notebook, timeout=1800, kernel_name="here", resources=resources)
        client.execute(env=folder.environment)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata.pop("execution", None)
            cell.outputs = tidy(cell.outputs, folder.clean)
    notebook.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
