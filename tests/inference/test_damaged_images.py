"""Image files that cannot be decoded: an entry with the error, and the others as they are; too large ones."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from user_data import complaint, folders, noise

from paco_hf.cli import main
from paco_hf.inference.features import Embeddings
from paco_hf.inference.forward import fast_forward
from paco_hf.inference.load_model import load_for_inference
from paco_hf.inference.prediction import classify, predict
from paco_hf.utils.images import PIXEL_LIMIT, allow_image_pixels, open_image

PUBLISHED = str(ROOT / "model_cards" / "paco-resnet32-cifar100-lt-100")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images, and one that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        noise(i).save(folder / f"{i}.png")
    (folder / "1a.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """Images that are none."""
    folder = tmp_path / "bad"
    folder.mkdir()
    for i in range(2):
        (folder / f"{i}.png").write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("config.json", {"model_type": "bert"}),
        ("config.json", {"model_type": []}),
        ("config.json", {"dtype": "x"}),
        ("config.json", {"dtype": []}),
        ("config.json", {"backbone": "x"}),
        ("config.json", {"backbone": "cifar_resnet20", "classifier": "cosine", "image_size": []}),
        ("config.json", {"temperature": "x"}),
        ("config.json", {"id2label": {"0": "a"}, "label2id": {"a": 0}, "class_counts": [5], "selection_counts": [5]}),
        ("preprocessor_config.json", {"image_mean": "x"}),
        ("preprocessor_config.json", {"rescale_factor": 0}),
        ("preprocessor_config.json", {"size": None}),
        ("preprocessor_config.json", {"crop_size": -1}),
        ("preprocessor_config.json", {"do_rescale": []}),
        ("preprocessor_config.json", {"image_processor_type": 5}),
    ],
)
def test_a_damaged_file_of_a_checkpoint_is_named(
    file: str, values: dict, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        shutil.copy(f"{PUBLISHED}/{name}", copy)
    (copy / file).write_text(json.dumps(json.loads((copy / file).read_text()) | values))
    line = complaint(capsys, "predict", str(copy), str(photos / "0.png"))
    assert str(copy / file) in line
    assert "restore it, or pass another checkpoint" in line


def outcome(capsys: pytest.CaptureFixture, *argv: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main([argv[0], PUBLISHED, *argv[1:]])
    return status, *capsys.readouterr()


def test_predict_goes_on_after_an_image_that_is_none(photos: Path, capsys: pytest.CaptureFixture) -> None:
    status, out, err = outcome(capsys, "predict", str(photos), "--json")
    entries = json.loads(out)
    assert status == 1
    assert err.startswith(f"paco-hf predict: 1 of 4 images cannot be read, such as: {photos / '1a.png'} cannot be")
    assert err.count("\n") == 1
    bad = entries.pop(2)
    assert (bad["file"], bad["label"], bad["score"], bad["top"]) == (str(photos / "1a.png"), None, None, [])
    assert "cannot be decoded" in bad["error"]
    assert predict(PUBLISHED, [str(photos)]) == [*entries[:2], bad, entries[2]]
    (photos / "1a.png").unlink()
    whole = predict(PUBLISHED, [str(photos)], strict=True)
    for entry, expected in zip(entries, whole, strict=True):
        assert (entry["file"], entry["label"]) == (expected["file"], expected["label"])
        assert entry["score"] == pytest.approx(expected["score"], rel=1e-4)


def test_predict_shows_the_error_in_its_line(photos: Path, capsys: pytest.CaptureFixture) -> None:
    status, out, _ = outcome(capsys, "predict", str(photos), "--batch_size", "1")
    assert status == 1
    assert len(out.splitlines()) == 4
    assert f"{photos / '1a.png'}  error: cannot be decoded as an image: " in out


def test_strict_stops_at_the_first(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for verb in ("predict", "embed", "estimate-prior"):
        output = [] if verb == "predict" else ["--output", str(tmp_path / "made.safetensors")]
        assert "1a.png cannot be decoded" in complaint(capsys, verb, PUBLISHED, str(photos), "--strict", *output)
    assert not (tmp_path / "made.safetensors").exists()
    with pytest.raises(ValueError, match="cannot be decoded"):
        predict(PUBLISHED, [str(photos)], strict=True)


def test_embed_writes_the_features_of_the_others(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "made.safetensors"
    status, out, err = outcome(capsys, "embed", str(photos), "--output", str(file))
    made = Embeddings.load(file)
    assert (status, out.split(",")[0]) == (1, "features of 3 images")
    assert err.startswith("paco-hf embed: 1 of 4 images cannot be read")
    assert made.features.shape[0] == 3
    assert made.files == [str(photos / f"{i}.png") for i in range(3)]
    assert list(made.errors or ()) == [str(photos / "1a.png")]


def test_estimate_prior_is_of_the_others(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    status, out, err = outcome(capsys, "estimate-prior", str(photos), "--json", "--output", str(tmp_path / "p.json"))
    assert status == 1
    assert sum(entry["frequency"] for entry in json.loads(out)) == pytest.approx(1)
    assert err.startswith("paco-hf estimate-prior: 1 of 4 images cannot be read")
    assert (tmp_path / "p.json").is_file()


def test_where_all_are_bad_there_is_nothing_to_write(bad: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    status, out, err = outcome(capsys, "predict", str(bad), "--json")
    assert (status, [entry["label"] for entry in json.loads(out)]) == (1, [None, None])
    assert "2 of 2 images cannot be read" in err
    assert outcome(capsys, "predict", str(bad))[0] == 1
    for verb in ("embed", "estimate-prior"):
        file = str(tmp_path / "made.safetensors")
        assert "2 of 2 images cannot be read" in complaint(capsys, verb, PUBLISHED, str(bad), "--output", file)
        assert not Path(file).exists()


# ---- large ones


@pytest.fixture
def usual_limit() -> Any:
    yield
    allow_image_pixels(None)


def opened(file: str) -> tuple[int, int]:
    return open_image(file, file).size


@pytest.mark.usefixtures("usual_limit")
def test_the_limit_is_exact_and_can_be_lifted(tmp_path: Path) -> None:
    file, before = str(tmp_path / "scan.png"), Image.MAX_IMAGE_PIXELS
    noise(0, (9, 11)).save(file)
    allow_image_pixels(98)
    message = "scan.png has 99 pixels, and at most 98 are allowed: if you trust the file, use --max_image_pixels 99"
    with pytest.raises(ValueError, match=message):
        opened(file)
    allow_image_pixels(99)
    assert opened(file) == (9, 11)
    allow_image_pixels(None)
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.usefixtures("usual_limit")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_limit_reaches_worker_processes(method: str, tmp_path: Path) -> None:
    file = str(tmp_path / "scan.png")
    noise(0, (9, 11)).save(file)
    allow_image_pixels(98)
    with get_context(method).Pool(1) as pool, pytest.raises(ValueError, match="--max_image_pixels 99"):
        pool.apply(opened, [file])


@pytest.mark.usefixtures("usual_limit")
def test_the_flag_of_the_verbs(photos: Path, capsys: pytest.CaptureFixture) -> None:
    (photos / "1a.png").unlink()
    status, out, _ = outcome(capsys, "predict", str(photos), "--max_image_pixels", "255", "--json")
    assert status == 1
    assert all("has 256 pixels, and at most 255 are allowed" in entry["error"] for entry in json.loads(out))
    assert outcome(capsys, "predict", str(photos), "--max_image_pixels", "256")[0] == 0
    assert outcome(capsys, "predict", str(photos))[0] == 0


def test_no_warning_of_a_bomb_is_printed(tmp_path: Path) -> None:
    file = tmp_path / "scan.png"
    Image.new("1", (10_000, 10_000)).save(file)
    code = f"from paco_hf.utils.images import open_image; print(open_image({str(file)!r}, 'x').size)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("(10000, 10000)\n", "")


# ---- anything at all


def encoded(mode: str, kind: str, size: tuple[int, int]) -> bytes:
    content = io.BytesIO()
    values = np.arange(size[0] * size[1] * 4, dtype=np.uint8).reshape(size[1], size[0], 4)
    image = Image.fromarray(values).convert(mode) if mode not in ("I;16", "F") else Image.new(mode, size, 7)
    options = {"transparency": 3} if mode == "P" and kind in ("PNG", "GIF") else {}
    with suppress(OSError, ValueError, KeyError):  # a format that has no such images
        image.save(content, kind, **options)
    return content.getvalue()


KINDS = ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "TGA", "ICO", "JPEG2000", "AVIF", "PCX", "SGI")
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F")
SIZES = ((1, 1), (3, 40), (40, 17), (33, 33))
POOL = [content for case in product(MODES, KINDS, SIZES) if (content := encoded(*case))]
WHOLE = st.integers(0, len(POOL) - 1).map(lambda i: POOL[i])


def flipped(content: bytes, places: list[tuple[int, int]], head: bool) -> bytes:
    changed = bytearray(content)
    for place, value in places:
        changed[place % (min(len(changed), 64) if head else len(changed))] = value
    return bytes(changed)


BYTES = st.tuples(st.integers(0, 2**20), st.integers(0, 255))
CONTENTS = st.one_of(
    st.binary(max_size=60),
    WHOLE,
    st.tuples(WHOLE, st.floats(0, 1)).map(lambda pair: pair[0][: int(len(pair[0]) * pair[1])]),
    st.builds(flipped, WHOLE, st.lists(BYTES, min_size=1, max_size=8), st.booleans()),
    st.tuples(WHOLE, st.binary(max_size=40), st.integers(2, 60)).map(lambda t: t[0][: t[2]] + t[1] + t[0][t[2] :]),
    st.tuples(WHOLE, WHOLE).map(lambda pair: pair[0][: len(pair[0]) // 2] + pair[1][len(pair[1]) // 2 :]),
)
NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=50) | (
    st.sampled_from(["a\nb", "\udcff", " ", "-", "--top", "%s", "*", "\x1b[31m", "x" * 240, "~", "\u2028"])
)


@pytest.fixture(scope="module")
def classified() -> Callable[[list[Path]], list[dict[str, Any]]]:
    model, processor = load_for_inference(PUBLISHED, 32, "fp32")
    forward = fast_forward(model)
    return lambda files: classify(forward, model.config, processor, files, top=2, batch_size=4)


@given(files=st.lists(st.tuples(NAMES, CONTENTS), min_size=1, max_size=5, unique_by=lambda file: file[0]))
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
def test_whatever_the_file_there_is_an_entry(
    files: list[tuple[str, bytes]], classified: Callable, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("files")
    paths = [folder / f"{name}.png" for name, _ in files if len(name.encode(errors="surrogateescape")) < 250]
    for path, (_, content) in zip(paths, files, strict=False):
        path.write_bytes(content)
    for path, entry in zip(paths, classified(paths), strict=True):
        assert entry["file"] == str(path)
        if entry["label"] is None:
            assert entry.keys() == {"file", "label", "score", "top", "error"}
            assert len(entry["error"].splitlines()) == 1
        else:
            assert 0 <= entry["score"] <= 1
            assert len(entry["top"]) == 2


@pytest.mark.usefixtures("usual_limit")
def test_a_run_keeps_the_limit_that_it_was_trained_with(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data, out = folders(tmp_path / "data", {"a": 12, "b": 12}), ["--output_dir", str(tmp_path / "run")]
    train = ["train", "--dataset", str(data), "--backbone", "cifar_resnet20", "--max_steps", "2", *out]
    refused = complaint(capsys, *train, "--max_image_pixels", "255")
    assert "24 of the 24 images cannot be decoded" in refused
    assert "has 256 pixels, and at most 255 are allowed: if you trust the file, use --max_image_pixels 256" in refused
    assert main([*train, "--max_image_pixels", "256", "--per_device_train_batch_size", "4"]) == 0
    assert "max_image_pixels: 256\n" in (tmp_path / "run" / "recipe.yaml").read_text()
    assert main(["evaluate", str(tmp_path / "run"), "--no_report"]) == 0
    assert os.environ[PIXEL_LIMIT] == "256"
    output = ["--output", str(tmp_path / "made.safetensors")]
    assert "255 are allowed" in complaint(capsys, "embed", str(tmp_path / "run"), *output, "--max_image_pixels", "255")
