"""Random data sets whose classes and splits are known: they are read exactly so, or refused."""

import contextlib
import csv
import io
import os
import tempfile
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paco_hf.data.loading import load_data

NAMES = ["cat", "dog", "Äffin", "猫", "train", "car", "a b", "7", "007", "images", "n01440764", "none", "test tube"]
SPLIT_FOLDERS = [("train", "test"), ("training_set", "test_set"), ("Train", "val"), ("train_images", "valid_images")]
LITTER = ["__MACOSX/cat/._1.png", "@eaDir/1.png", ".ipynb_checkpoints/1.png", "Thumbs.db", "._x.png", "desktop.ini"]
EXAMPLES = int(os.environ.get("PACO_HF_EXAMPLES", "60"))  # of each property
SETTINGS = settings(
    deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)

# How people write the name of a file that is there.
SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "backslashes": lambda name: name.replace("/", "\\"),
    "upper case suffix": lambda name: name.removesuffix(".png") + ".PNG",
    "no suffix": lambda name: name.removesuffix(".png"),
    "spaces": lambda name: f" {name}  ",
    "decomposed": lambda name: unicodedata.normalize("NFD", name),
    "dot": lambda name: f"./{name}",
}


@dataclass
class Truth:
    """The class of each image by split."""

    splits: dict[str, dict[str, str]] = field(default_factory=dict)

    def check(self, root: Path, dataset: Path | None = None, **fields) -> bool:
        """Whether the data set is read; it must be read as it is."""
        try:
            data = load_data(str(dataset or root), **fields)
        except (ValueError, OSError):
            return False
        read = {
            split.role: {
                str(Path(split.files[row]).relative_to(root)): data.class_names[label]
                for row, label in zip(split.source_rows, split.labels, strict=True)
            }
            for split in data.splits.values()
        }
        assert read == self.splits
        return True


def make_image(root: Path, name: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(b"not decoded here")


@st.composite
def class_sizes(draw, least: int = 2) -> dict[str, int]:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=least, max_size=4, unique=True))
    return {name: draw(st.integers(1, 3)) for name in names}


def write(file: Path, rows: list[list[str]], separator: str = ",") -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerows(rows)
    file.write_text(text.getvalue(), encoding="utf-8")


@SETTINGS
@given(
    sizes=class_sizes(),
    split_folders=st.sampled_from([None, *SPLIT_FOLDERS]),
    wrapper=st.sampled_from(["", "", "", "Images", "a/b"]),
    litter=st.lists(st.sampled_from(LITTER), max_size=3),
    beside=st.sampled_from(["nothing", "properties", "agreement", "dispute", "captions"]),
)
def test_class_folders(sizes, split_folders, wrapper, litter, beside) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, truth = Path(folder).resolve(), Truth()
        inside = f"{wrapper}/" if wrapper else ""
        for role, split in zip(("train", "test"), split_folders or ("",), strict=False):
            truth.splits[role] = {}
            for name, count in sizes.items():
                for i in range(count):
                    path = f"{inside}{split}/{name}/{role}{i}.png" if split else f"{inside}{name}/{i}.png"
                    make_image(root, path)
                    truth.splits[role][path] = name
        for path in litter:
            make_image(root, path)
        images = [(path, name) for split in truth.splits.values() for path, name in split.items()]
        tables = {
            "properties": ["camera", *("ab"[i % 2] for i in range(len(images)))],
            "agreement": ["label", *(name if wrapper else f"the {name}" for _, name in images)],
            "dispute": ["label", *("ab"[i % 2] for i in range(len(images)))],
            "captions": ["text", *(f"no {i}" for i in range(len(images)))],
        }
        if wrapper and beside == "dispute":  # whose labels are read where each folder has one
            for i, (path, _) in enumerate(images):
                next(split for split in truth.splits.values() if path in split)[path] = "ab"[i % 2]
        if column := tables.get(beside):
            write(root / "about.csv", [*map(list, zip(["file", *(path for path, _ in images)], column, strict=True))])
        is_read = truth.check(root)
        plain = not wrapper and not (set(sizes) <= {"train"})
        if beside == "dispute":
            several = len({(name, column[1 + i]) for i, (_, name) in enumerate(images)}) > len(sizes)
            assert not (is_read and several)
        elif plain and not split_folders:
            assert is_read, (sizes, beside)


@SETTINGS
@given(
    sizes=class_sizes(),
    spelling=st.sampled_from([*SPELLINGS]),
    separator=st.sampled_from([",", ";", "\t", "|"]),
    header=st.sampled_from([("file", "label"), ("image_id", "species"), ("filename", "Class"), ("path", "dx")]),
    place=st.sampled_from(["", "images/", "photos/é/"]),
    style=st.sampled_from(["plain", "blank rows", "sep line", "one-hot", "split column", "two tables"]),
    by_file=st.booleans(),
)
def test_tables(sizes, spelling, separator, header, place, style, by_file) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, truth = Path(folder).resolve(), Truth({"train": {}})
        labels = [name for name, count in sizes.items() for _ in range(count + 2)]
        images = [f"{place}é{i}.png" for i in range(len(labels))]
        for path in images:
            make_image(root, path)
        spelled = [SPELLINGS[spelling](path) for path in images]
        rows = [[path, label] for path, label in zip(spelled, labels, strict=True)]
        if style == "one-hot":
            names = [*sizes]
            rows = [[path, *(str(int(label == name)) for name in names)] for path, label in rows]
            header = (header[0], *names)
        in_test = [
            style in ("split column", "two tables") and labels[i + 1 : i + 2] != [labels[i]]
            for i in range(len(labels))
        ]
        for path, label, test in zip(images, labels, in_test, strict=True):
            truth.splits.setdefault("test" if test else "train", {})[path] = label
        if style == "split column":
            header = (*header, "split")
            rows = [[*row, "test" if test else "train"] for row, test in zip(rows, in_test, strict=True)]
        file = root / ("all.tsv" if separator == "\t" else "all.csv")
        if style == "two tables":
            for name, want in (("train.csv", False), ("test.csv", True)):
                write(
                    root / name, [[*header], *(r for r, t in zip(rows, in_test, strict=True) if t == want)], separator
                )
        else:
            blank = [[""] * len(header)] * 2 if style == "blank rows" else []
            write(file, [[*header], *rows, *blank], separator)
            if style == "sep line":
                file.write_text(f"sep={separator}\n{file.read_text(encoding='utf-8')}", encoding="utf-8")
        is_read = truth.check(root, file if by_file and style != "two tables" else None)
        assert is_read or style == "one-hot" or {"7", "007"} & {*sizes}, (sizes, spelling, separator, header, style)


@SETTINGS
@given(
    content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)),
    suffix=st.sampled_from([".csv", ".tsv", ".json", ".jsonl", ".parquet", ".tar"]),
)
def test_any_file_is_read_or_refused(content, suffix) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        make_image(root, "cat/1.png")
        file = root / f"labels{suffix}"
        file.write_bytes(content)
        for dataset in (file, root):
            with contextlib.suppress(ValueError, OSError):
                load_data(str(dataset))
