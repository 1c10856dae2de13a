"""Compiled backbones: the same numbers and files, in whole batches of a training and nowhere else."""

from pathlib import Path

import pytest
from fresh_processes import FreshProcesses

# In processes of their own: what torch compiles, and counts, is the process's.
CODE = """
import copy, pathlib, sys
import torch
from torch._dynamo.utils import counters
from tiny_trainer import make_model, make_trainer, weights

folder, backend = pathlib.Path({folder!r}), {backend!r}
narrow = {{"channels": [4, 4, 8, 8], "layers": [1, 1, 1, 1]}}
settings = {{"max_steps": 6, "images": 20, "dataloader_drop_last": False, "evaluate": 12, "eval_strategy": "steps"}}
settings |= {{"eval_steps": 3, "save_strategy": "steps", "save_steps": 3, **{settings!r}}}

def train(name, **compilation):
    trainer = make_trainer(folder / name, make_model("resnet18", backbone_kwargs=narrow), **settings, **compilation)
    trainer.train()
    return trainer

plain = train("plain")
assert not counters["stats"]
compiled = train("compiled", torch_compile=True, torch_compile_backend=backend)
# One graph an encoder: neither the ragged batch of each epoch nor evaluation has made another.
assert counters["stats"]["unique_graphs"] == {graphs}, dict(counters["stats"])
assert not counters["graph_break"], dict(counters["graph_break"])
for entry, expected in zip(compiled.state.log_history[:-1], plain.state.log_history[:-1], strict=True):
    for name in entry.keys() & {{"loss", "eval_loss"}}:
        assert abs(entry[name] - expected[name]) < {tolerance} * expected[name], (name, entry, expected)
tensors, expected = weights(compiled), weights(plain)
assert tensors.keys() == expected.keys()
for name, tensor in tensors.items():
    # Fused code rounds otherwise in bf16, and the variance of the few images of a batch makes more of it.
    if "running_" not in name or {tolerance} < 0.1:
        torch.testing.assert_close(tensor, expected[name], rtol={tolerance}, atol={tolerance}, msg=name)

from safetensors import safe_open
for file in ("model.safetensors", "paco_training_state.safetensors"):
    names = [set(safe_open(folder / run / "checkpoint-6" / file, "pt").keys()) for run in ("plain", "compiled")]
    assert names[0] == names[1]
assert not any("forward_features" in vars(module) for module in compiled.model.modules())
model, images = compiled.classifier.eval(), torch.ones(3, 3, 32, 32)
assert torch.equal(copy.deepcopy(model)(images).logits, model(images).logits)
assert counters["stats"]["unique_graphs"] == {graphs}
"""


def run(processes: FreshProcesses, folder: Path, backend: str, tolerance: float, graphs: int, **settings) -> None:
    values = {"folder": str(folder), "backend": backend, "settings": settings}
    processes.run(
        CODE.format(tolerance=tolerance, graphs=graphs, **values), environments=[{CACHE: str(folder / "code")}]
    )


CACHE = "TORCHINDUCTOR_CACHE_DIR"


@pytest.mark.parametrize("loss", ["paco", "gpaco"])
def test_the_same_training(loss: str, with_trainer: FreshProcesses, tmp_path: Path) -> None:
    # As PyTorch computes it, but for what is traced: the bits are equal.
    run(with_trainer, tmp_path, "aot_eager", 1e-12, 1 + (loss == "paco"), loss=loss)


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "precision"), [("paco", "fp32"), ("gpaco", "fp32"), ("paco", "bf16")])
def test_the_same_training_in_compiled_code(
    loss: str, precision: str, with_trainer: FreshProcesses, tmp_path: Path
) -> None:
    tolerance = 1e-4 if precision == "fp32" else 0.1
    run(
        with_trainer,
        tmp_path,
        "inductor",
        tolerance,
        1 + (loss == "paco"),
        loss=loss,
        precision=precision,
        learning_rate=0.01,
    )
    assert list((tmp_path / "code").rglob("*.so"))
