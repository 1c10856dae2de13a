"""The bounds of the dependencies, and the built wheel in an environment that has nothing of the checkout."""

import subprocess
import sys
import sysconfig
import tomllib
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
    apart = ("dev", "docs", "test", "trackio", "wandb")  # which that environment has not
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
    """What the workflow of a release does; the dependencies are this environment's."""
    subprocess.run([sys.executable, "-m", "build", "--outdir", tmp_path, ROOT], check=True, capture_output=True)
    script = [sys.executable, ROOT / ".github" / "release.py", "wheel", tmp_path]
    done = subprocess.run(
        [*script, "--libraries", sysconfig.get_path("purelib")], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "trains, evaluates and predicts in an environment of its own" in done.stdout
