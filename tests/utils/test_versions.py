"""Versions as they are shown, and those that are refused before any work."""

import importlib.metadata
import platform

import pytest
from fresh_processes import FreshProcesses

from paco_hf.cli import main
from paco_hf.utils import versions

# With a version of timm that is none of ours: what a person types, and what imports a part of the package where
# something has swallowed that transformers was refused.
REFUSED = """
import importlib.metadata, sys
sys.stderr = sys.stdout
known = importlib.metadata.version
importlib.metadata.version = lambda name: "0.9.0" if name == "timm" else known(name)
import paco_hf
from paco_hf.cli import main
for argv in (["predict", "model_cards/paco-resnet32-cifar100-lt-100", "docs/demo.png"], ["train"]):
    assert main(argv) == 2
try:
    from paco_hf import PaCoTrainingArguments
except ImportError as error:
    print(error)
"""


def test_the_command_shows_the_versions(capsys) -> None:
    assert main(["--version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"paco-hf {importlib.metadata.version('paco-hf')}"
    assert {f"torch {importlib.metadata.version('torch')}", f"python {platform.python_version()}"} <= {*lines}
    assert versions.cpu_name() in lines


@pytest.mark.parametrize(
    ("requirement", "version", "refused"),
    [
        ("timm>=1.0.31", "1.0.30", True),
        ("timm>=1.0.31", "1.0.31", False),
        ("timm>=1.0.31", "1.1.0.dev0", False),
        ("timm>=1.0.31", "1.0.31+local", False),
        ("timm>=1.0.31", None, False),  # whose import says so
        ("timm<2,>=1.0.31", "2.0", True),
        ("timm>=1.0.31; extra == 'more'", "1.0.30", False),
        ("timm>=1.0.31; python_version >= '3'", "1.0.30", True),
    ],
)
def test_versions_that_pip_would_not_install_are_refused(monkeypatch, requirement, version, refused) -> None:
    installed = {"paco-hf": "0.1.0", **({"timm": version} if version else {})}
    monkeypatch.setattr(versions, "versions", lambda: installed)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: [requirement, "torch>=2"])
    if not refused:
        return versions.check_versions()
    wanted = requirement.partition(";")[0]
    message = f"timm {version} is installed, but paco-hf 0.1.0 needs {wanted}: pip install '{wanted}'"
    with pytest.raises(ImportError) as error:
        versions.check_versions()
    assert sorted(str(error.value)) == sorted(message)  # of several bounds the order is the library's


def test_a_wrong_version_is_one_line_before_the_work(with_torch: FreshProcesses) -> None:
    lines = [line for line in with_torch.run(REFUSED)[0].splitlines() if "loading" not in line]
    message = "timm 0.9.0 is installed, but paco-hf"
    assert [line.partition(message)[0] for line in lines] == ["paco-hf predict: ", "paco-hf train: ", ""]
