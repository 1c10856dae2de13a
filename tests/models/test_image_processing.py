"""The image processor that pads."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, pipeline

from paco_hf.models.image_processing import build_processor
from paco_hf.models.image_processing_paco import PROCESSOR_FILE, PaCoImageProcessor
from paco_hf.models.modeling_paco import PaCoForImageClassification


def test_the_ground_has_the_color_of_the_border() -> None:
    pixels = np.full((20, 60, 3), (250, 240, 230), dtype=np.uint8)
    pixels[5:15, 20:40] = 10
    pixels[0, 0] = 0  # one pixel of the border
    processor = build_processor(60, [0.5] * 3, [0.5] * 3, fit="pad")
    found = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"][0]
    levels = (found * 0.5 + 0.5) * 255
    expected = torch.full((3, 60, 60), 0.0) + torch.tensor([250.0, 240, 230])[:, None, None]
    expected[:, 20:40] = torch.from_numpy(pixels).permute(2, 0, 1)
    assert torch.allclose(levels, expected, atol=1e-3)


def test_squares_are_as_without_padding() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 70, 3), dtype=np.uint8))
    padded = build_processor(96, [0.5] * 3, [0.5] * 3, "bicubic", fit="pad")(image, return_tensors="pt")
    whole = build_processor(96, [0.5] * 3, [0.5] * 3, "bicubic", 1.0)(image, return_tensors="pt")
    assert torch.equal(padded["pixel_values"], whole["pixel_values"])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(300, 121), (90, 500), (64, 7), (20, 47), (30, 9)])
def test_scaling_first_gives_what_padding_first_gives(size: tuple[int, int], interpolation: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    whole = np.empty((max(size), max(size), 3), dtype=np.uint8)
    whole[:] = np.sort(border, axis=0)[(len(border) - 1) // 2]
    left, top = ((max(size) - n) // 2 for n in size)
    whole[top : top + size[1], left : left + size[0]] = pixels
    padded = build_processor(64, [0.5] * 3, [0.5] * 3, interpolation, fit="pad")
    plain = build_processor(64, [0.5] * 3, [0.5] * 3, interpolation, 1.0)
    levels = [
        p(Image.fromarray(i), return_tensors="pt")["pixel_values"] for p, i in ((padded, pixels), (plain, whole))
    ]
    assert (levels[0] - levels[1]).abs().max() <= 1.01 * 2 / 255  # one level, of rounding


@pytest.mark.parametrize("size", [(20_000, 50), (50, 20_000)])
def test_a_long_image_needs_no_square_of_its_length(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    processor, elements = build_processor(64, [0.5] * 3, [0.5] * 3, fit="pad"), []
    resize = PaCoImageProcessor.resize

    def counted(self, image, *args, **kwargs):
        elements.append(image.numel())
        return resize(self, image, *args, **kwargs)

    monkeypatch.setattr(PaCoImageProcessor, "resize", counted)
    assert processor(Image.new("RGB", size), return_tensors="pt")["pixel_values"].shape == (1, 3, 64, 64)
    assert max(elements) <= 3 * 64 * 20_000


def test_sizes_may_differ_in_a_batch() -> None:
    images = [Image.new("RGB", size, "white") for size in ((30, 90), (64, 64), (91, 30))]
    processor = build_processor(64, [0.5] * 3, [0.5] * 3, fit="pad")
    assert torch.equal(processor(images, return_tensors="pt")["pixel_values"], torch.ones(3, 3, 64, 64))


def test_it_loads_by_the_package_and_by_its_own_code(tmp_path: Path) -> None:
    processor = build_processor(64, [0.5, 0.4, 0.3], [0.2] * 3, fit="pad")
    PaCoForImageClassification.from_timm("test_resnet", num_labels=2, image_size=64).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert stored["auto_map"] == {"AutoImageProcessor": "image_processing_paco.PaCoImageProcessor"}
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is PaCoImageProcessor
    assert loaded.to_dict() == processor.to_dict()
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8))
    photo.save(tmp_path / "photo.png")
    expected = pipeline("image-classification", model=str(tmp_path))(str(tmp_path / "photo.png"))
    code = f"""
import json, sys
sys.modules["paco_hf"] = None
from transformers import AutoImageProcessor, pipeline
classify = pipeline("image-classification", model={str(tmp_path)!r}, trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained({str(tmp_path)!r}, trust_remote_code=True)
processor.save_pretrained({str(tmp_path / "again")!r})
print(json.dumps(classify({str(tmp_path / "photo.png")!r})))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout.splitlines()[-1]) == expected
    assert (tmp_path / "again" / PROCESSOR_FILE).read_text() == (tmp_path / PROCESSOR_FILE).read_text()
    assert type(AutoImageProcessor.from_pretrained(tmp_path / "again")) is PaCoImageProcessor


def test_a_pipeline_asks_nothing(tmp_path: Path) -> None:
    PaCoForImageClassification.from_timm("test_resnet", num_labels=2, image_size=64).save_pretrained(tmp_path)
    build_processor(64, [0.5] * 3, [0.5] * 3, fit="pad").save_pretrained(tmp_path)
    code = f"""
import paco_hf
from PIL import Image
from transformers import pipeline
print(len(pipeline("image-classification", model={str(tmp_path)!r})(Image.new("RGB", (30, 60)))))
"""
    # An input that stays open, as of a terminal.
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        answer = process.stdout.read().decode()
    assert answer.strip() == "2"


ORDERS = [
    "import transformers, paco_hf",
    "import paco_hf; from transformers import BitImageProcessor",
    "from transformers.models.auto import image_processing_auto; import paco_hf",
]
MORE_ORDERS = [
    "import paco_hf, transformers",
    "import paco_hf.workflows.train",
    "from transformers import BitImageProcessor; import paco_hf",
    "import paco_hf.models.image_processing_paco",
    "import paco_hf; from transformers import CLIPImageProcessor",
]


@pytest.mark.parametrize("imports", [*ORDERS, *(pytest.param(text, marks=pytest.mark.slow) for text in MORE_ORDERS)])
def test_it_is_known_in_whatever_order_things_are_imported(imports: str, tmp_path: Path) -> None:
    build_processor(64, [0.5] * 3, [0.5] * 3, fit="pad").save_pretrained(tmp_path)
    code = f"""
{imports}
from transformers import AutoImageProcessor
print(type(AutoImageProcessor.from_pretrained({str(tmp_path)!r})).__module__)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "paco_hf.models.image_processing_paco", result.stderr[-400:]
