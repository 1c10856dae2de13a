"""The built wheel, in a virtual environment that has nothing of the checkout: data, recipes and training come with
it."""

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def test_bounds_are_the_releases_that_the_oldest_environment_has() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints" / "floor.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    oldest = {canonicalize_name(name): Version(version) for name, version in pinned.items()}
    apart = ("dev", "test", "trackio", "wandb")  # which that environment has not
    extras = [line for name, lines in project["optional-dependencies"].items() if name not in apart for line in lines]
    capped = set()
    for requirement in map(Requirement, project["dependencies"] + extras):
        (bound,) = [part for part in requirement.specifier if part.operator == ">="]
        assert Version(bound.version) == oldest[canonicalize_name(requirement.name)], requirement.name
        if len(requirement.specifier) > 1:
            capped.add(requirement.name)
    assert capped == {"transformers", "huggingface-hub"}


@pytest.mark.slow
def test_wheel_alone_trains_and_predicts(tmp_path: Path) -> None:
    def run(*command: object) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run([str(c) for c in command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-deps", wheel)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    # The dependencies are this environment's. Its .pth files, the editable install's among them, are not read from
    # there.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    assert Path(run(python, "-c", "import paco_hf; print(paco_hf.__file__)").strip()).is_relative_to(site)
    paco_hf = tmp_path / "venv" / "bin" / "paco-hf"
    assert "paco-resnet32-cifar100-lt-100" in run(paco_hf, "recipes")
    # Worker processes that are spawned, not forked, must be able to load everything anew.
    short = ["--max_steps", "3", "--backbone", "cifar_resnet20", "--dataloader_num_workers", "1"]
    run(paco_hf, "train", *short, "--dataloader_multiprocessing_context", "spawn", "--output_dir", "run")
    assert "top-1" in run(paco_hf, "evaluate", "run")
    assert (site / "paco_hf" / "py.typed").is_file()
    assert (site / "paco_hf" / "evaluate_modules" / "long_tailed_accuracy" / "long_tailed_accuracy.py").is_file()
    assert (site / "paco_hf" / "evaluate_modules" / "expected_calibration_error" / "README.md").is_file()
    assert run(paco_hf, "card", "run").strip() == "run/README.md"
