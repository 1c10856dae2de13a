"""The service of `examples/serve`: called over HTTP, it says what `predict` says; its container's file fits it."""

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT
from miniature import picture
from packaging.requirements import Requirement

from paco_hf.cli import main
from paco_hf.conversion import export_onnx
from paco_hf.inference.load_model import load_classifier, load_processor

SERVE = ROOT / "examples" / "serve"
START = """
import socket, sys, uvicorn
sys.path.insert(0, sys.argv[1])
from app import app
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listening])
"""


@contextmanager
def served(model: Path, **settings: str) -> Iterator[str]:
    """The address of a service, which stops at the end."""
    environment = {**os.environ, "MODEL": str(model), "PYTHONPATH": str(ROOT), **settings}
    command = [sys.executable, "-c", START, str(SERVE)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def ask(address: str, content: bytes | None = None) -> tuple[int, dict]:
    """Status and content of an answer; the first waits until the service has loaded its model."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, content), timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["run", "onnx"])
def test_answers_are_those_of_predict(paco_run: Path, form: str, tmp_path: Path, capsys) -> None:
    image = tmp_path / "photo.png"
    picture(1, (40, 32)).save(image)
    source, model = [str(paco_run)], paco_run
    if form == "onnx":
        model = export_onnx(load_classifier(paco_run), tmp_path / "out", image_processor=load_processor(paco_run)).file
        source = ["--onnx", str(model)]
    capsys.readouterr()
    assert main(["predict", *source, str(image), "--json", "--top", "3"]) == 0
    (expected,) = json.loads(capsys.readouterr().out)
    with served(model, MAX_BYTES="100000", MAX_PIXELS="5000") as address:
        assert ask(f"{address}/health") == (200, {"status": "ok", "classes": 20})
        status, answer = ask(f"{address}/predict?name=photo.png&top=3", image.read_bytes())
        assert status == 200
        assert answer["file"] == "photo.png"
        assert answer["label"] == expected["label"]
        assert [entry["label"] for entry in answer["top"]] == [entry["label"] for entry in expected["top"]]
        scores = [entry["score"] for entry in expected["top"]]
        assert [entry["score"] for entry in answer["top"]] == pytest.approx(scores, abs=1e-6)
        large = tmp_path / "large.png"
        picture(1, (200, 200)).save(large)
        for path, content, wanted, message in (
            ("/predict?name=x.png", b"not an image", 415, "x.png cannot be decoded as an image"),
            ("/predict?name=x.png", large.read_bytes(), 415, "x.png has 40,000 pixels, and at most 5,000 are allowed"),
            ("/predict", bytes(100_001), 413, "more than 100,000 bytes"),
            ("/predict", b"", 400, "the body is empty"),
            ("/predict?top=0", image.read_bytes(), 422, "top: Input should be greater than or equal to 1"),
            ("/predict", None, 405, "Method Not Allowed"),
            ("/nothing", None, 404, "Not Found"),
        ):
            status, answer = ask(f"{address}{path}", content)
            assert (status, answer.keys()) == (wanted, {"error"}), answer
            assert message in answer["error"]
            assert "\n" not in answer["error"]


def test_the_container_fits_the_service() -> None:
    """It is not built here: what it copies is there, and what it starts and asks for is what the service has."""
    text = (SERVE / "Dockerfile").read_text().replace("\\\n", " ")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    by_name: dict[str, list[str]] = {}
    for name, value in steps:
        by_name.setdefault(name, []).append(value)
    for copied in by_name["COPY"]:
        *sources, _ = shlex.split(copied)
        assert sources
        assert [source for source in sources if not (ROOT / source).exists()] == []
    assert {"pyproject.toml", "README.md", "LICENSE", "paco_hf"} <= set(" ".join(by_name["COPY"]).split())
    assert steps[0][0] == "FROM"
    assert [name for name, _ in steps].index("USER") < [name for name, _ in steps].index("HEALTHCHECK")
    assert int(by_name["USER"][0]) > 0
    code = (SERVE / "app.py").read_text()
    assert '@app.get("/health")' in code
    assert "/health" in by_name["HEALTHCHECK"][0]
    assert json.loads(by_name["CMD"][0])[:2] == ["uvicorn", "app:app"]
    read = set(re.findall(r"(?:environ\[|number\()\"([A-Z_]+)\"", code))
    assert read == {"MODEL", "MAX_BYTES", "MAX_PIXELS"}
    assert any(value.split("=")[0] == "MODEL" for value in by_name["ENV"][0].split())


def test_requirements_have_the_oldest_releases_that_are_tested() -> None:
    lines = (SERVE / "requirements.txt").read_text().splitlines()
    oldest = dict(
        line.split("==") for line in (ROOT / "constraints" / "floor.txt").read_text().splitlines() if "==" in line
    )
    bounds = {one.name: str(one.specifier) for one in map(Requirement, (line for line in lines if line[:1].isalpha()))}
    assert bounds == {name: f">={oldest[name]}" for name in ("fastapi", "uvicorn")}
