"""Folders, tables and parquet files of a user, as the tests make them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from paco_hf.cli import main

SPECIES = {"Rosa canina, L.": 9, "Ñandú": 6, "猫": 4, "a/b": 2}  # images of each class
SHORT = ["--backbone", "cifar_resnet20", "--max_steps", "2"]


def noise(seed: int, size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    noise(seed).save(buffer, "PNG")
    return buffer.getvalue()


def encoded(color: int = 0, mode: str = "RGB") -> dict:
    buffer = io.BytesIO()
    Image.new(mode, (36, 32), color if mode != "RGB" else (color, 20, 30)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def folders(root: Path, counts: dict[str, int], start: int = 0, size: tuple[int, int] = (16, 16)) -> Path:
    """Class folders of images that all differ."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            start += 1
            noise(start, size).save(root / name / f"{i}.png")
    return root


def labels_of(counts: dict[str, int]) -> list[str]:
    return [name for name, count in counts.items() for _ in range(count)]


def table(
    root: Path, labels: list[Any], name: str = "all.csv", columns: tuple[str, str] = ("file", "species")
) -> Path:
    """A CSV beside a folder of images that all differ."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    lines = [",".join(columns)]
    for i, label in enumerate(labels):
        file = root / "images" / f"{Path(name).stem}{i}.png"
        file.write_bytes(png(1000 + i + 100 * len(name)))
        quoted = f'"{label}"' if isinstance(label, str) else str(label)
        lines.append(f"images/{file.name},{quoted}")
    (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root / name


def parquet(file: Path, labels: list[Any], feature: Any, images: list[Any] | None = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = {"image": images or [{"bytes": png(i), "path": None} for i in range(len(labels))], "label": labels}
    Dataset.from_dict(rows, features=Features({"image": ImageFeature(), "label": feature})).to_parquet(file)
    return file


def printed(capsys: pytest.CaptureFixture, *argv: str) -> str:
    capsys.readouterr()
    assert main(["train", *argv]) == 0
    return capsys.readouterr().out


def complaint(capsys: pytest.CaptureFixture, *argv: str) -> str:
    """The one line that a failing command prints."""
    capsys.readouterr()
    assert main(list(argv)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]
