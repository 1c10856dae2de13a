"""Files that equal content makes equal."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from paco_hf.utils.tensors import save_tensors

METADATA = {"variant": "paco", "size": "8192", "who": 'a "quoted" \\ ünïcode\n', "shared": "0", "projector": "mlp2-bn"}


def in_this_process(codes: list[str]) -> None:
    for code in codes:
        exec(code, {})


def with_hashes_of_their_own(codes: list[str]) -> None:
    for seed, code in enumerate(codes):
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.parametrize("write", [in_this_process, pytest.param(with_hashes_of_their_own, marks=pytest.mark.slow)])
def test_metadata_is_written_in_order(tmp_path: Path, write: Callable) -> None:
    """safetensors itself orders it anew with each file."""
    code = "import torch; from pathlib import Path; from paco_hf.utils.tensors import save_tensors\n"
    code += f"save_tensors({{'b': torch.ones(2), 'a': torch.arange(3)}}, Path({str(tmp_path)!r}) / '"
    write([f"{code}{i}.safetensors', {METADATA!r})" for i in range(3)])
    ordered = dict(sorted(METADATA.items()))
    save_tensors({"a": torch.arange(3), "b": torch.ones(2)}, tmp_path / "3.safetensors", ordered)
    assert len({file.read_bytes() for file in tmp_path.glob("*.safetensors")}) == 1
    assert len(list(tmp_path.iterdir())) == 4
    with safe_open(tmp_path / "0.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", **METADATA}
    tensors = load_file(tmp_path / "0.safetensors")
    assert tensors["a"].tolist() == [0, 1, 2]
    assert tensors["b"].tolist() == [1, 1]
