"""The page: its arithmetic, that it answers as `pipeline` does, the index behind it, and the page in a browser."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from pages import CHROMIUM, in_chromium
from transformers import pipeline
from user_data import noise

from paco_hf import PaCoForImageClassification
from paco_hf.cli import main
from paco_hf.inference.features import Embeddings
from paco_hf.inference.image_index import NearestImages
from paco_hf.inference.load_model import load_classifier
from paco_hf.utils.images import open_image
from paco_hf.webapp.app import build_demo
from paco_hf.webapp.classifier import ALL_EQUAL, AS_TRAINED, CUSTOM, Classifier, prior_at

PUBLISHED = ROOT / "model_cards" / "paco-resnet32-cifar100-lt-100"
# Not imported where the tests are only collected, which each process does.
ABSENT = [name for name in ("gradio", "faiss") if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(ABSENT), reason=f"needs {' and '.join(ABSENT)}")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("picture") / "a.png"
    noise(5, (48, 40)).resize((96, 80)).save(file)
    return file


@pytest.fixture(scope="module")
def run(paco_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with an index."""
    folder = Path(shutil.copytree(paco_run, tmp_path_factory.mktemp("run") / "tiny"))
    assert main(["index", str(folder)]) == 0
    return folder


# ---- the slider


def test_places_of_the_slider() -> None:
    training, own = [90, 9, 1], [1.0, 1.0, 2.0]
    assert np.allclose(prior_at(0, training, own), [0.9, 0.09, 0.01])
    assert prior_at(1, training, own) is None
    assert np.allclose(prior_at(2, training, own), [0.25, 0.25, 0.5])
    assert prior_at(2, training, None) is None
    half = np.sqrt([90, 9, 1])
    assert np.allclose(prior_at(0.5, training, own), half / half.sum())
    quarter = np.asarray(own) ** 0.25
    assert np.allclose(prior_at(1.25, None, own), quarter / quarter.sum())
    # A class without images counts half a one; extremes stay numbers.
    assert np.allclose(prior_at(0, [2, 0], None), [0.8, 0.2])
    assert np.isfinite(prior_at(2, None, [1e300, 1e-300, 1.0])).all()
    for place, message in ((2.1, r"between 0 and 2, got 2\.1"), (0.5, "stores no class frequencies")):
        with pytest.raises(ValueError, match=message):
            prior_at(place, None, own)


KINDS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "calibrated": {"temperature": 1.7},
    "with a prior": {"inference_prior": list(range(1, 101))},
    "of cross-entropy": {"balanced_logits": False},
    "of cross-entropy, with a prior": {"balanced_logits": False, "inference_prior": [3.0] * 100},
    "of cross-entropy, counts not known": {
        "balanced_logits": False,
        "class_counts": None,
        "selection_counts": None,
        "temperature": 0.5,
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_start_is_what_pipeline_says(tmp_path: Path, picture: Path, kind: str) -> None:
    classifier = Classifier(altered(tmp_path, **KINDS[kind]))
    logits, _ = classifier.forward(open_image(picture, "it"))
    ours = classifier.probabilities(logits, classifier.start, classifier.stored_prior)
    wanted = {a["label"]: a["score"] for a in pipeline("image-classification", str(tmp_path), top_k=100)(str(picture))}
    assert np.allclose(ours, [wanted[name] for name in classifier.names], atol=1e-6)
    # And elsewhere as `predict --prior training` has it.
    if classifier.training is not None:
        again = load_classifier(tmp_path)
        again.set_prior(classifier.training)
        pixels = classifier.processor(open_image(picture, "it"), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            expected = again(pixels).logits.softmax(-1)[0].numpy()
        assert np.allclose(classifier.probabilities(logits, AS_TRAINED), expected, atol=1e-6)


def altered(folder: Path, **config: Any) -> Path:
    """The published model with another configuration."""
    model = PaCoForImageClassification.from_pretrained(PUBLISHED)
    for name, value in config.items():
        setattr(model.config, name, value)
    model.save_pretrained(folder)
    shutil.copy(PUBLISHED / "preprocessor_config.json", folder)
    return folder


def asked(page: Any, picture: Path) -> str:
    """The table that the page answers with, where its slider starts."""
    slider = next(block for block in page.blocks.values() if getattr(block, "elem_id", "") == "place")
    assert slider.minimum <= slider.value <= slider.maximum
    function = next(fn for fn in page.fns.values() if fn.api_name == "classify")
    return function.fn(str(picture), slider.value, None)[1]


@pytest.mark.slow
def test_page_of_models_that_know_less(tmp_path: Path, picture: Path) -> None:
    nothing = {"class_counts": None, "selection_counts": None}
    page = build_demo(altered(tmp_path / "paco", **nothing))
    slider = next(block for block in page.blocks.values() if getattr(block, "elem_id", "") == "place")
    assert (slider.minimum, slider.maximum, slider.value) == (ALL_EQUAL, CUSTOM, ALL_EQUAL)
    table = asked(page, picture)
    assert "training images" not in table
    assert "<tbody>" in table
    page = build_demo(altered(tmp_path / "ce", balanced_logits=False, **nothing))
    slider = next(block for block in page.blocks.values() if getattr(block, "elem_id", "") == "place")
    assert not slider.visible
    assert "<tbody>" in asked(page, picture)


def test_page_of_a_model_in_half_precision(tmp_path: Path, picture: Path) -> None:
    wanted = asked(build_demo(PUBLISHED), picture)
    model = PaCoForImageClassification.from_pretrained(PUBLISHED)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    shutil.copy(PUBLISHED / "preprocessor_config.json", tmp_path)
    first = re.compile(r"<caption>(.*?),")
    assert first.findall(asked(build_demo(tmp_path), picture)) == first.findall(wanted)


def test_names_are_text(tmp_path: Path, picture: Path) -> None:
    name = "![x](http://127.0.0.1:9/a.png) <script>"
    names = dict.fromkeys(range(100), "") | {c: f"{name}{c}" for c in range(100)}
    folder = altered(tmp_path, id2label=names, label2id={v: k for k, v in names.items()})
    page = build_demo(folder, title=name)
    shown = [block.value for block in page.blocks.values() if type(block).__name__ in ("HTML", "Markdown")]
    assert not any("<script>" in text or "<img" in text for text in [*map(str, shown), asked(page, picture)])
    assert not any("![x]" in str(b.value) for b in page.blocks.values() if type(b).__name__ == "Markdown")


# ---- the index


def test_index_has_what_was_trained_on(run: Path, tmp_path: Path) -> None:
    index = NearestImages.load(run / "index", load_classifier(run))
    assert main(["embed", str(run), "--split", "train", "--output", str(tmp_path / "a.safetensors")]) == 0
    stored = Embeddings.load(tmp_path / "a.safetensors")
    assert index.labels == stored.labels.tolist()
    rows = stored.features / np.linalg.norm(stored.features, axis=1, keepdims=True)
    cosine = rows @ rows[7]
    found = index.search(stored.features[7], 5)
    assert np.allclose([n.similarity for n in found], np.sort(cosine)[::-1][:5], atol=1e-5)
    assert found[0].label == stored.labels[7]
    assert found[0].similarity == pytest.approx(1, abs=1e-5)
    assert np.array_equal(np.asarray(found[0].picture), np.asarray(index.picture(7)))


def test_index_refusals(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["index", str(run)]) == 2
    assert "use --overwrite, which replaces only an index" in capsys.readouterr().err
    before = (run / "index" / "index.json").read_bytes()
    assert main(["index", str(run), "--overwrite"]) == 0
    assert (run / "index" / "index.json").read_bytes() == before
    assert main(["index", str(run), "--output", str(run), "--overwrite"]) == 2
    assert (run / "model.safetensors").is_file()
    assert main(["index", "ada/model"]) == 2
    assert "or another --output" in capsys.readouterr().err
    # What else lies there stays.
    (run / "index.new").mkdir()
    (run / "index.new" / "kept").write_text("")
    shutil.copytree(run / "index", tmp_path / "mine")
    (tmp_path / "mine" / "kept").write_text("")
    assert main(["index", str(run), "--overwrite"]) == 0
    assert main(["index", str(run), "--output", str(tmp_path / "mine"), "--overwrite"]) == 2
    assert (run / "index.new" / "kept").exists()
    assert (tmp_path / "mine" / "kept").exists()
    # Of other classes, of other weights, or damaged.
    renamed = load_classifier(run)
    renamed.config.id2label = {c: f"other {c}" for c in range(20)}
    with pytest.raises(ValueError, match="created with different weights or classes"):
        NearestImages.load(run / "index", renamed)
    with pytest.raises(ValueError, match="created with different weights"):
        NearestImages.load(run / "index", load_classifier(PUBLISHED))
    shutil.copytree(run / "index", tmp_path / "index")
    for name, content in (("index.json", b"{}"), ("index.json", b"{"), ("vectors.faiss", b"nothing")):
        kept = (tmp_path / "index" / name).read_bytes()
        (tmp_path / "index" / name).write_bytes(content)
        with pytest.raises(OSError, match="cannot be read"):
            NearestImages.load(tmp_path / "index", load_classifier(run))
        (tmp_path / "index" / name).write_bytes(kept)
    (tmp_path / "index" / "vectors.faiss").write_bytes(b"nothing")
    with pytest.raises(OSError, match="cannot be read"):
        NearestImages.load(tmp_path / "index", load_classifier(run))
    with pytest.raises(OSError, match="is not an image index"):
        build_demo(run, tmp_path)


def test_demo_refusals(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    for argv, message in (
        ([str(tmp_path)], "has no config.json with weights: pass a run folder"),
        ([str(PUBLISHED), "--examples", str(tmp_path)], "has no image files"),
        ([str(PUBLISHED), "--port", "99999"], "--port must be 1 to 65535"),
    ):
        assert main(["demo", *argv]) == 2
        assert message in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["demo", str(PUBLISHED), "--port", str(taken.getsockname()[1])]) == 2
        assert "port" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", str(PUBLISHED)]) == 2
    assert "pip install 'paco-hf[demo]'" in capsys.readouterr().err


# ---- the Space


def test_space_folder(run: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "space"
    argv = ["push", str(run), "ada/rare", "--space", "--write_only", str(folder)]
    assert main([*argv, "--examples", str(picture)]) == 0
    found = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert {"app.py", "requirements.txt", "README.md", "examples/01-a.png", "model/model.safetensors"} <= found
    assert {"paco_hf/webapp/app.py", "paco_hf/templates/demo.css"} <= found
    # Training images only where they were asked for, and none of the built-in ones.
    assert not any(name.startswith(("model/index", "paco_hf/data/builtin")) for name in found)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith('---\ntitle: "rare"\n')
    assert "sdk: gradio\n" in card
    needed = (folder / "requirements.txt").read_text().split()
    names = {re.split(r"[<>=]", line)[0] for line in needed}
    assert {"torch", "timm", "transformers", "gradio", "faiss-cpu"} <= names
    assert not names & {"pytest", "peft", "onnx", "scipy"}
    for file in folder.rglob("*"):
        if file.suffix in (".md", ".json", ".yaml", ".txt"):
            assert str(tmp_path.parent) not in file.read_text(encoding="utf-8")
    assert main(argv) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    again = tmp_path / "again"
    assert main(["push", str(run), "rare", "--space", "--include_index", "--write_only", str(again)]) == 0
    assert (again / "model" / "index" / "vectors.faiss").is_file()
    for argv, message in (
        ([str(PUBLISHED), "a/b", "--space", "--include_index"], "`paco-hf index"),
        ([str(run), "a/b", "--examples", str(picture)], "need --space"),
        ([str(run), "a/b", "--space", "--license", "mit"], "are for a model, not for --space"),
    ):
        assert main(["push", *argv]) == 2
        assert message in capsys.readouterr().err


# ---- in a browser


def serve(command: list[str], **settings: Any) -> Iterator[str]:
    """Start a page; yields its address, and stops it."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", **settings.pop("env", {})}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, **settings
    )
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        said.append(line)
        if address := re.search(r"http://127.0.0.1:\d+", line):
            break
    else:
        raise AssertionError("".join(said))
    threading.Thread(target=process.stdout.read, daemon=True).start()
    try:
        yield address[0]
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[str]:
    yield from serve([sys.executable, "-m", "paco_hf", "demo", str(run)])


@pytest.fixture
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def opened(browser: Any, address: str, **context: Any) -> tuple[Any, list[str]]:
    page = browser.new_context(**context).new_page()
    page.set_default_timeout(120_000)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda r: said.append(r.url) if not r.url.startswith((address, "data:", "blob:")) else None)
    page.goto(address)
    page.wait_for_selector("#image input[type=file]", state="attached")
    # The page is interactive a moment after it is there.
    page.wait_for_timeout(1500)
    return page, said


def table(page: Any) -> list[tuple[str, str, str]]:
    cells = "row => [...row.querySelectorAll('th, td')].map(cell => cell.innerText)"
    # All rows at one moment, as they may be replaced at any.
    return [tuple(row) for row in page.evaluate(f"[...document.querySelectorAll('#classes tbody tr')].map({cells})")]


def wait_for_table(page: Any, wanted: list[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """The rows, which follow what was done on the page a moment later."""
    deadline = time.monotonic() + 120
    while [row[:2] for row in table(page)] != wanted and time.monotonic() < deadline:
        page.wait_for_timeout(200)
    rows = table(page)
    assert [row[:2] for row in rows] == wanted
    return rows


def wait_for_caption(page: Any, text: str) -> None:
    page.wait_for_function("text => document.querySelector('#classes caption')?.innerText.includes(text)", arg=text)


def expected(classifier: Classifier, file: Path, place: float, own: Any = None) -> list[tuple[str, str]]:
    logits, _ = classifier.forward(open_image(file, "it"))
    shares = classifier.probabilities(logits, place, own)
    return [(classifier.names[c], f"{100 * shares[c]:.1f}%") for c in np.argsort(-shares, kind="stable")[:10]]


@in_chromium
@pytest.mark.slow
def test_every_control(run: Path, picture: Path, tmp_path: Path, browser: Any, address: str) -> None:
    classifier = Classifier(run)
    page, said = opened(browser, address)
    # An example.
    page.locator("button.gallery-item, .gallery-item, table.examples td, .gallery button").first.click()
    wait_for_caption(page, "all classes are equally frequent")
    # An image of one's own.
    page.set_input_files("#image input[type=file]", picture)
    page.wait_for_function(
        "name => document.querySelector('#classes caption')?.innerText.startsWith(name)",
        arg=expected(classifier, picture, ALL_EQUAL)[0][0],
    )
    shown = wait_for_table(page, expected(classifier, picture, ALL_EQUAL))
    counts = dict(zip(classifier.names, classifier.counts, strict=True))
    for name, _, rarity in shown:
        group = "many" if counts[name] > 100 else "few" if counts[name] < 20 else "medium"
        assert rarity.split() == [f"{counts[name]:,}", group]
    assert "10 other classes have" in page.locator("#classes").inner_text()
    # The nearest images are those of the index.
    index = NearestImages.load(run / "index", classifier.model)
    _, features = classifier.forward(open_image(picture, "it"))
    names = [element.inner_text() for element in page.locator("#nearest li b").all()]
    assert names == [classifier.names[n.label] for n in index.search(features, 6)]
    # The slider, by the keyboard and by its number.
    slider = page.locator("#place input[type=range]")
    slider.focus()
    slider.press("Home")
    wait_for_caption(page, "as frequent as in training")
    wait_for_table(page, expected(classifier, picture, AS_TRAINED))
    assert [row[0] for row in table(page)] != [row[0] for row in shown]
    number = page.locator("#place input[type=number]")
    number.fill("0.5")
    number.press("Enter")
    wait_for_caption(page, "by 50% of the logarithm")
    wait_for_table(page, expected(classifier, picture, 0.5))
    # One's own frequencies: from a file, then by hand.
    own = {name: 1.0 + 100 * (name == shown[4][0]) for name in classifier.names}
    content = {"classes": [{"label": name, "frequency": value} for name, value in own.items()]}
    (tmp_path / "prior.json").write_text(json.dumps(content))
    page.get_by_text("Your own frequencies").click()
    page.set_input_files("#file input[type=file]", tmp_path / "prior.json")
    page.wait_for_timeout(3000)
    slider.focus()
    slider.press("End")
    wait_for_caption(page, "as frequent as you say")
    wait_for_table(page, expected(classifier, picture, CUSTOM, list(own.values())))
    assert table(page)[0][0] == shown[4][0]
    own[classifier.names[0]] = 5000.0
    page.locator("#frequencies [data-testid=cell-0-1]").dblclick()
    page.keyboard.press("Control+A")
    page.keyboard.type("5000")
    page.keyboard.press("Enter")
    wait_for_table(page, expected(classifier, picture, CUSTOM, list(own.values())))
    assert said == []


@in_chromium
@pytest.mark.slow
def test_wrong_files_get_a_message(tmp_path: Path, browser: Any, address: str) -> None:
    page, _ = opened(browser, address)
    (tmp_path / "broken.png").write_text("no image")
    (tmp_path / "text.txt").write_text("no image")
    (tmp_path / "prior.json").write_text('{"classes": []}')
    for where, name, message in (
        ("#image", "broken.png", "cannot be decoded as an image"),
        ("#image", "text.txt", "Invalid file type: text.txt"),
        ("#file", "prior.json", "must be a file from `paco-hf estimate-prior --output`"),
    ):
        if where == "#file":
            page.get_by_text("Your own frequencies").click()
        page.set_input_files(f"{where} input[type=file]", tmp_path / name)
        page.wait_for_function("text => document.body.innerText.includes(text)", arg=message)
    assert not re.search(r"/tmp/|/gradio/", page.inner_text("body"))


@in_chromium
@pytest.mark.slow
@pytest.mark.parametrize("width", [380, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_widths_and_colors(picture: Path, browser: Any, address: str, width: int, scheme: str) -> None:
    page, said = opened(browser, address, color_scheme=scheme, viewport={"width": width, "height": 900})
    page.set_input_files("#image input[type=file]", picture)
    page.wait_for_selector("#nearest li")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Text against its ground, by WCAG's ratio.
    look = """selector => {
        const parse = color => color.match(/[\\d.]+/g).map(Number);
        let element = document.querySelector(selector), ground = element;
        while (ground && (parse(getComputedStyle(ground).backgroundColor)[3] === 0)) ground = ground.parentElement;
        const style = getComputedStyle(ground || document.body);
        return [parse(getComputedStyle(element).color), parse(style.backgroundColor)];
    }"""

    def luminance(color: list[float]) -> float:
        parts = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color[:3]]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    for selector in ("#classes caption", "#classes tbody th", "#classes .group", "#nearest span", ".places span"):
        light, dark = sorted((luminance(color) for color in page.evaluate(look, selector)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, selector
    assert (luminance(page.evaluate(look, "body")[1]) < 0.1) == (scheme == "dark")
    assert said == []


@pytest.mark.slow
def test_space_starts_in_an_empty_environment(run: Path, picture: Path, tmp_path: Path) -> None:
    folder, venv = tmp_path / "space", tmp_path / "venv"
    assert main(["push", str(run), "ada/rare", "--space", "--include_index", "--write_only", str(folder)]) == 0
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    python = venv / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", folder / "requirements.txt"], check=True, timeout=1500)
    environment = {"PYTHONPATH": "", "GRADIO_ANALYTICS_ENABLED": "False"}
    for address in serve([str(python), "app.py"], cwd=folder, env=environment):
        from gradio_client import Client, handle_file

        html = Client(address, verbose=False).predict(handle_file(str(picture)), 1.0, api_name="/classify")[0]
        assert expected(Classifier(run), picture, ALL_EQUAL)[0][0] in html


def test_page_is_quiet_about_whom_it_serves(run: Path) -> None:
    page = build_demo(run)
    assert page.analytics_enabled is False
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
