"""Files that equal content makes equal."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from paco_hf.utils.tensors import save_tensors

METADATA = {"variant": "paco", "size": "8192", "who": 'a "quoted" \\ ünïcode\n', "shared": "0", "projector": "mlp2-bn"}


def test_metadata_is_written_in_order(tmp_path: Path) -> None:
    """safetensors itself orders it anew in each process."""
    code = (
        "import sys, torch; from pathlib import Path; from paco_hf.utils.tensors import save_tensors\n"
        f"save_tensors({{'b': torch.ones(2), 'a': torch.arange(3)}}, Path(sys.argv[1]), {METADATA!r})"
    )
    for seed in range(3):
        command = [sys.executable, "-c", code, str(tmp_path / f"{seed}.safetensors")]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": str(seed)})
    ordered = dict(sorted(METADATA.items()))
    save_tensors({"a": torch.arange(3), "b": torch.ones(2)}, tmp_path / "3.safetensors", ordered)
    assert len({file.read_bytes() for file in tmp_path.glob("*.safetensors")}) == 1
    assert len(list(tmp_path.iterdir())) == 4
    with safe_open(tmp_path / "0.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", **METADATA}
    tensors = load_file(tmp_path / "0.safetensors")
    assert tensors["a"].tolist() == [0, 1, 2]
    assert tensors["b"].tolist() == [1, 1]
