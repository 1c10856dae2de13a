"""Executes the blocks of a page, see `code_blocks.py`: an empty folder, no network, and inputs that are at hand.

`example_inputs photos` in a `<!-- hidden` block makes, in the page's folder:

* `photos/CLASS/*.jpg`: 543 images of 12 classes, 162 of the most frequent and 5 of the rarest;
* `labels.csv`: the same images, columns `file` and `species`;
* `new_photos/*.jpg`: 24 images more, two a class, without labels.

They are photos of Caltech-101 where `PACO_DOCS_PHOTOS` names a folder with `train/CLASS/` and `test/CLASS/` of them;
else enlarged images of the built-in dataset in folders of the same names.

`--backbone tf_efficientnet_lite0 --pretrained` loads the weights of `PACO_DOCS_WEIGHTS` (a folder that timm has
saved), else random ones. They lie in a Hub cache of the page's own; the commit 000... stands for the Hub's.
"""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from code_blocks import Block

ROOT = Path(__file__).resolve().parents[1]
BACKBONE = "tf_efficientnet_lite0"
LIMIT = 1800  # seconds that one block may take
COUNTS = {
    "Leopards": 162,
    "car_side": 103,
    "butterfly": 71,
    "sunflower": 65,
    "crayfish": 43,
    "lotus": 31,
    "chair": 21,
    "wheelchair": 15,
    "windsor_chair": 12,
    "crocodile_head": 8,
    "rooster": 7,
    "beaver": 5,
}
# Executed in a process of its own: blocks come line by line, each answered by one line on file descriptor 3.
INTERPRETER = """
import json, linecache, os, sys, traceback, types
answers, blocks = os.fdopen(int(sys.argv.pop()), "w"), os.fdopen(os.dup(0))
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
sys.modules["__main__"] = page_module = types.ModuleType("__main__")
for line in blocks:
    page, number, text = json.loads(line)
    source, failed = "\\n" * number + text, None
    linecache.cache[page] = (len(source), None, source.splitlines(True), page)
    try:
        exec(compile(source, page, "exec"), page_module.__dict__)
    except BaseException as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == page]
        failed = lines[-1] if lines else number
        traceback.print_exception(error.with_traceback(error.__traceback__.tb_next))
    sys.stdout.flush()
    sys.stderr.flush()
    print(json.dumps(failed), file=answers, flush=True)
"""
BASH = "set -E; trap 'echo $LINENO > \"$BLOCK_FAILED\"' ERR"
_BAR = re.compile(r"\d+%\|.*\||\d+(it|ex| examples| files)? ?\[\d+:\d\d|\bexamples/s\]")
_ELSEWHERE = re.compile(r"(?<![\w.~*<{}$/:%-])/(?:root|home|work|tmp|usr|opt|var|Users|private)/[\w./-]*")


class BlockError(Exception):
    """A block that failed, with page and line."""


def has_real_inputs() -> bool:
    """Whether photos and weights are the real ones."""
    return all(os.environ.get(f"PACO_DOCS_{name}") for name in ("PHOTOS", "WEIGHTS"))


def stamp(page: str) -> str:
    """The line below a page's outputs.

    Args:
        page (`str`): its text: inputs that it does not use are not named.
    """
    import torch

    from paco_hf import __version__
    from paco_hf.utils.hardware import cpu_name

    machine = f"{cpu_name()}, {os.cpu_count()} cores, "
    machine += torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    day = date.today()
    line = f"*Outputs: paco_hf {__version__}, {day:%B} {day.day}, {day.year}; {machine}"
    if "example_inputs photos" in page:
        kind = "of Caltech-101" if os.environ.get("PACO_DOCS_PHOTOS") else "of built-in images in their place"
        line += f"; {sum(COUNTS.values())} photos, {len(COUNTS)} classes {kind}"
    if BACKBONE in page:
        kind = "timm's ImageNet" if os.environ.get("PACO_DOCS_WEIGHTS") else "random"
        line += f"; {BACKBONE} with {kind} weights"
    return f"{line}.*"


def example_inputs(kind: str) -> None:
    """The command of that name."""
    if kind != "photos":
        sys.exit(f"example_inputs {kind}: expected photos")
    real = os.environ.get("PACO_DOCS_PHOTOS")
    rows = ["file,species"]
    _real_photos(Path(real)) if real else _builtin_photos()
    for name, count in COUNTS.items():
        found = sorted(Path("photos", name).iterdir())
        assert len(found) == count, (name, len(found))
        rows += [f"{file.as_posix()},{name}" for file in found]
    Path("labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _real_photos(source: Path) -> None:
    Path("new_photos").mkdir()
    more = []
    for name in COUNTS:
        shutil.copytree(source / "train" / name, Path("photos", name))
        more += sorted((source / "test" / name).iterdir())[:2]
    for number, file in enumerate(more, 1):
        shutil.copy(file, f"new_photos/{number:02}.jpg")


def _builtin_photos() -> None:
    from paco_hf.data.images import Images
    from paco_hf.data.loading import load_data

    data = load_data("builtin")
    Path("new_photos").mkdir()
    for label, (name, count) in enumerate(COUNTS.items()):
        folder = Path("photos", name)
        folder.mkdir(parents=True)
        for split, number in ((data.train, count), (data.test, 2)):
            images = Images(split)
            rows = [row for row, its in enumerate(split.labels) if its == label][:number]
            for n, row in enumerate(rows, 1):
                test = Path("new_photos", f"{2 * label + n:02}.jpg")
                file = folder / f"image_{n:04}.jpg" if split is data.train else test
                images[row].resize((64, 64)).save(file, quality=95)


def fill_hub_cache(cache: Path) -> None:
    """The backbone's weights as a download would leave them.

    Args:
        cache (`Path`): the `hub` folder of `HF_HOME`.
    """
    import timm
    import torch

    repository = cache / f"models--{timm.get_pretrained_cfg(BACKBONE).hf_hub_id.replace('/', '--')}"
    commit = "0" * 40
    snapshot = repository / "snapshots" / commit
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    if folder := os.environ.get("PACO_DOCS_WEIGHTS"):
        shutil.copytree(folder, snapshot)
        return
    torch.manual_seed(0)
    timm.models.save_for_hf(timm.create_model(BACKBONE), snapshot, safe_serialization=True)


class PageFolder:
    """The folder in which a page's blocks are executed, and what their environment has.

    Args:
        scratch (`Path`): an empty folder.
        backbone (`bool`): whether the pretrained backbone is needed.
    """

    def __init__(self, scratch: Path, backbone: bool) -> None:
        self.scratch, self.work, self.home = scratch, scratch / "page", scratch / "home"
        for folder in (self.work, self.home, scratch / "bin", scratch / "tmp"):
            folder.mkdir()
        hub = self.home / ".cache" / "huggingface"
        if backbone:
            fill_hub_cache(hub / "hub")
        python = f"exec {sys.executable}"
        self._command("python", f'{python} "$@"')
        self._command("paco-hf", f'{python} -m paco_hf "$@"')
        self._command("example_inputs", f'{python} {Path(__file__).resolve()} "$@"')
        self._command("make", f'exec {shutil.which("make")} --dry-run -C {ROOT} "$@" > {os.devnull}')
        self._command("pip", "echo 'pip: there is no network: mark the block as an illustration' >&2; exit 1")
        apart = ("HF_", "PACO_", "WANDB_", "PYTHON", "XDG_", "TRACKIO_", "PYTEST_", "MAKE", "MFLAGS")
        usual = {name: value for name, value in os.environ.items() if not name.startswith(apart)}
        path = os.pathsep.join([str(scratch / "bin"), str(Path(sys.executable).parent), usual.get("PATH", os.defpath)])
        kept = {name: value for name, value in os.environ.items() if name.startswith("PACO_DOCS_")}
        own = {"PATH": path, "HOME": str(self.home), "HF_HOME": str(hub), "TMPDIR": str(scratch / "tmp")}
        offline = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false", "COLUMNS": "100"}
        self.environment = usual | kept | own | offline

    def _command(self, name: str, line: str) -> None:
        file = self.scratch / "bin" / name
        file.write_text(f"#!/bin/sh\n{line}\n")
        file.chmod(0o755)

    def clean(self, text: str) -> str:
        """What was printed, without escapes, progress bars and the folders of this computer."""
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
        lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
        text = "\n".join(line for line in lines if not _BAR.search(line)).rstrip("\n")
        for folder, name in ((self.work, ""), (self.home, "~"), (self.scratch / "tmp", "/tmp"), (ROOT, "")):
            text = text.replace(f"{folder}/", f"{name}/" if name else "").replace(str(folder), name or ".")
        return f"{text}\n" if text else ""


def run_blocks(blocks: list["Block"]) -> Iterator[str]:
    """Executes those of a page that are, one after the other.

    Yields:
        `str`: what the block printed.

    Raises:
        BlockError: a block failed, or printed a path of this computer.
    """
    with tempfile.TemporaryDirectory(prefix="paco-docs-", ignore_cleanup_errors=True) as scratch:
        folder = PageFolder(Path(scratch).resolve(), any(BACKBONE in block.text for block in blocks))
        python = None
        groups: list[int] = []
        try:
            for block in blocks:
                if not block.is_executed:
                    continue
                if block.language == "python":
                    if python is None:
                        python = _Python(folder)
                        groups.append(python.process.pid)
                    failed, printed = python.run(block)
                else:
                    failed, printed = _run_bash(folder, block, groups)
                printed = folder.clean(printed)
                if failed and block.mark != "fails":
                    raise BlockError(f"{block.page}:{failed}: the block failed:\n{printed}".rstrip())
                if block.mark == "fails" and not failed:
                    raise BlockError(f"{block.place}: the block should fail, and did not:\n{printed}".rstrip())
                if block.language != "hidden" and (path := _ELSEWHERE.search(printed)) and "/tmp/" not in path[0]:
                    raise BlockError(
                        f"{block.place}: it printed {path[0]!r}, a path of this computer:\n{printed}".rstrip()
                    )
                yield printed
        finally:
            for group in groups:  # with what was left in the background
                with suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)


def _run_bash(folder: PageFolder, block: "Block", groups: list[int]) -> tuple[int | None, str]:
    """The line that failed, if one did, and what was printed."""
    # Files of this block alone: what is in the background may print later.
    script, output, failed = (folder.scratch / f"{block.line}.{kind}" for kind in ("sh", "txt", "failed"))
    script.write_text(BASH + "\n" * block.line + block.text, encoding="utf-8")
    command = ["bash", "-euo", "pipefail", str(script)]
    environment = folder.environment | {"BLOCK_FAILED": str(failed)}
    with output.open("w") as file:
        process = subprocess.Popen(
            command,
            cwd=folder.work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        groups.append(process.pid)
        try:
            status = process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            return block.line, f"no end after {LIMIT} seconds"
    printed = output.read_text(encoding="utf-8", errors="replace").replace(f"{script}: ", "")
    if status == 0:
        return None, printed
    return int(failed.read_text()) if failed.exists() else block.line, printed


class _Python:
    """An interpreter that executes one block after the other."""

    def __init__(self, folder: PageFolder) -> None:
        self.output, self.read = folder.scratch / "python.txt", 0
        answers, write = os.pipe()
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", INTERPRETER, str(write)],
                cwd=folder.work,
                env=folder.environment,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                pass_fds=(write,),
                start_new_session=True,
                text=True,
            )
        os.close(write)
        self.answers = os.fdopen(answers)

    def run(self, block: "Block") -> tuple[int | None, str]:
        """The line that failed, if one did, and what was printed."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            print(json.dumps([block.page, block.line, block.text]), file=self.process.stdin, flush=True)
        ready, _, _ = select.select([self.answers], [], [], LIMIT)
        answer = self.answers.readline() if ready else ""
        printed = self.output.read_bytes()[self.read :]
        self.read += len(printed)
        text = printed.decode(errors="replace")
        if not answer:
            return block.line, f"{text}{'the interpreter has ended' if ready else f'no end after {LIMIT} seconds'}"
        return json.loads(answer), text


if __name__ == "__main__":
    example_inputs(*sys.argv[1:])
