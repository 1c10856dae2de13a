"""The code blocks of README.md, the pages in docs/ and the other pages for readers: list, execute, compare, paste.

    python docs/code_blocks.py --list [PAGE...]     each block: file, line, language, how it is checked
    python docs/code_blocks.py PAGE...              executes pages and compares what they show as output
    python docs/code_blocks.py --write PAGE...      executes pages and pastes their outputs
    python docs/code_blocks.py --stamp [PAGE...]    stores the digests of the outputs that these pages, or all, show

What a fence means, and what the line directly above it may say:

* `bash` and `python` blocks are executed in the page's order, in one empty folder a page: each bash block as a script
  of its own with `-euo pipefail`, all python blocks in one interpreter. Only what python prints is output.
  `paco-hf` and `python` are those of this checkout; `make TARGET` only looks whether there is such a target.
* `<!-- illustration: REASON -->` above a block: it is not executed. Every language that is not in this list needs it.
* `<!-- fails -->` above a bash block: it must end with an error.
* `<!-- output -->` above a `text` block: what the executed block before it printed, on both streams. With
  `<!-- output: first 6; lines 9-12; last 2 -->` these lines of it, and `...` where some are left out. With
  `<!-- output: photos -->`, also before other parts, it depends on the real photos and weights: it is written and
  compared only where `PACO_DOCS_PHOTOS` and `PACO_DOCS_WEIGHTS` name their folders.
* `<!-- record: FILE; python -m MODULE -->` above a `text` block: where its figures are from, files and commands. Each
  of them exists.
* `yaml`, `json`, `toml` are parsed. A `text` block needs one of the comments. `bibtex` is plain text.
* `<!-- hidden`, lines of bash, `-->`: executed as a bash block, not shown. See `block_runner.py` for `example_inputs`.
* `<!-- outputs -->`, once, at the end of a page with outputs: below it stands which version, date and machine they
  are of. `--write` adds a digest of each output, so that a change by hand is found: `<!-- outputs: 1a2b3c4d ... -->`.

Outputs are compared without numbers, times, units, hashes, white space, and progress bars.
"""

import argparse
import hashlib
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
EXECUTED = ("bash", "python")
PARSERS = {"yaml": lambda text: list(yaml.safe_load_all(text)), "json": json.loads, "toml": tomllib.loads}
PLAIN = ("text", "bibtex")
FENCE = re.compile(r"( *)(`{3,}|~{3,})\s*([\w+-]*).*")
COMMENT = re.compile(r"\s*<!-- *(illustration|output|record|fails) *(?:: *(.*?))? *-->\s*")
STAMP = re.compile(r"^<!-- outputs(?:: ([0-9a-f ]+))? -->$", re.MULTILINE)
GENERATED = ("changelog.md", "cite.md")  # what `generate_reference.py` writes into docs/, and git ignores


def pages() -> list[Path]:
    """The pages whose blocks are checked."""
    own = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "training/README.md", "examples/serve/README.md")]
    return [*own, *sorted(page for page in (ROOT / "docs").glob("*.md") if page.name not in GENERATED)]


@dataclass
class Block:
    """A code block of a page.

    Args:
        page (`str`): the page's path in the repository.
        line (`int`): number of the line above its first, the fence.
        language (`str`): `hidden` for bash that is not shown.
        text (`str`): its lines, without indentation of the fence.
        comment (`tuple`, *optional*): kind and value of the comment above it.
        end (`int`): index of the line with the closing fence.
        indent (`str`): before the fence.
    """

    page: str
    line: int
    language: str
    text: str
    comment: tuple[str, str] | None = None
    end: int = 0
    indent: str = ""

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def mark(self) -> str:
        return self.comment[0] if self.comment else ""

    @property
    def is_executed(self) -> bool:
        return self.language == "hidden" or (self.language in EXECUTED and self.mark != "illustration")

    @property
    def is_output(self) -> bool:
        return self.mark == "output"

    @property
    def needs_photos(self) -> bool:
        return self.is_output and "photos" in self.parts()

    def parts(self) -> list[str]:
        """What the comment of an output asks for."""
        return [part.strip() for part in self.comment[1].split(";") if part.strip()] if self.comment else []

    def check(self) -> str:
        """How the block is checked, in a few words."""
        if self.mark == "illustration":
            return f"illustration: {self.comment[1]}"  # type: ignore[index]
        if self.is_executed:
            hidden = ", not shown" if self.language == "hidden" else ""
            return "executed" + (", must fail" if self.mark == "fails" else hidden)
        if self.is_output:
            return "output of the block above" + (", real photos only" if self.needs_photos else "")
        if self.mark == "record":
            return f"of {self.comment[1]}"  # type: ignore[index]
        return "parsed" if self.language in PARSERS else "plain text"


def read(page: Path) -> list[Block]:
    """The blocks of a page.

    Raises:
        ValueError: a block that has no end.
    """
    name = str(page.resolve().relative_to(ROOT)) if page.resolve().is_relative_to(ROOT) else page.name
    lines = page.read_text(encoding="utf-8").splitlines()
    blocks, index = [], 0
    while index < len(lines):
        fence, start = FENCE.fullmatch(lines[index]), index
        if fence is None and lines[index].strip() != "<!-- hidden":
            index += 1
            continue
        indent, closing = (fence[1], fence[2]) if fence else ("", "-->")
        index += 1
        while index < len(lines) and lines[index].strip() != closing:
            index += 1
        if index == len(lines):
            raise ValueError(f"{name}:{start + 1}: the block has no end: add {closing}")
        text = "".join(line.removeprefix(indent) + "\n" for line in lines[start + 1 : index])
        above = COMMENT.fullmatch(lines[start - 1]) if start else None
        comment = (above[1], above[2] or "") if above and fence else None
        blocks.append(Block(name, start + 1, fence[3] if fence else "hidden", text, comment, index, indent))
        index += 1
    return blocks


def problems(blocks: list[Block]) -> Iterator[str]:
    """What is wrong with blocks, without executing any."""
    source = None
    for block in blocks:
        known = block.language in (*EXECUTED, *PLAIN, *PARSERS, "hidden")
        if block.mark == "illustration":
            if not block.comment[1]:  # type: ignore[index]
                yield f"{block.place}: an illustration needs a reason: <!-- illustration: REASON -->"
        elif not known:
            language = repr(block.language) if block.language else "no language"
            yield f"{block.place}: {language}: give one of {', '.join((*EXECUTED, *PARSERS, *PLAIN))}, or a reason"
        if block.language == "text" and not block.mark:
            yield f"{block.place}: a `text` block needs an output, a record: ... or an illustration: ... above it"
        if block.mark == "record":
            wrong = [part for part in block.parts() or [""] if not _exists(part)]
            yield from (f"{block.place}: {part!r}: a record is a file or a command of here" for part in wrong)
        if block.mark == "fails" and block.language != "bash":
            yield f"{block.place}: <!-- fails --> is for bash blocks"
        if block.is_output:
            if block.language != "text":
                yield f"{block.place}: an output is a `text` block, not {block.language!r}"
            if source is None:
                yield f"{block.place}: an output follows the block that is executed for it"
            for part in block.parts():
                if not re.fullmatch(r"photos|(first|last) \d+|lines \d+-\d+", part):
                    yield f"{block.place}: {part!r}: an output has photos, first N, last N, lines N-M"
        else:
            source = block if block.is_executed and block.language != "hidden" else None
        try:
            if block.language == "python":
                compile("\n" * block.line + block.text, block.page, "exec")
            elif block.language in PARSERS and block.mark != "illustration":
                PARSERS[block.language](block.text)
        except (SyntaxError, ValueError, yaml.YAMLError) as error:
            yield f"{block.place}: the {block.language} does not parse: {error}"


def _exists(record: str) -> bool:
    """Whether a file, a module or a target of the repository has this name; words that follow are arguments."""
    if record.startswith("paco-hf "):
        return True  # a test parses it
    if target := re.match(r"make ([\w-]+)", record):
        return f"\n{target[1]}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
    if module := re.match(r"python -m ([\w.]+)", record):
        place = ROOT / module[1].replace(".", "/")
        return place.with_suffix(".py").is_file() or (place / "__main__.py").is_file()
    return bool(record) and (ROOT / record.split()[0]).exists()


def excerpt(printed: str, parts: list[str]) -> str:
    """The lines that an output shows of what was printed, with `...` where some are left out."""
    lines = printed.splitlines()
    ranges = []
    for words in [part.split() for part in parts if part != "photos"] or [["first", str(len(lines))]]:
        first, last = ([int(n) for n in words[1].split("-")] * 2)[:2]
        ranges.append(
            {"first": (0, first), "last": (max(len(lines) - first, 0), len(lines)), "lines": (first - 1, last)}[
                words[0]
            ]
        )
    shown: list[str] = []
    end = 0
    for start, stop in ranges:
        shown += (["..."] if start > end else []) + lines[max(start, end) : stop]
        end = max(end, stop)
    return "".join(f"{line}\n" for line in [*shown, *(["..."] if end < len(lines) else [])])


_UNITS = r"(?:milli)?seconds?|minutes?|hours?|ms|s|min|h|[kKMGT]i?B|bytes?|[µu]s"
_MASKS = [
    (re.compile(r"\b(?=[a-f]*\d)[0-9a-f]{7,64}\b"), "#"),  # commits and hashes
    (re.compile(rf"[-+]?\d[\d.,:]*(?:e[-+]?\d+)?(?: ?(?:{_UNITS})(?![\w/]))?"), "#"),
    (re.compile(r"\s+"), " "),
]


def masked(text: str) -> list[str]:
    """The lines of an output as they are compared."""
    lines = []
    for line in text.splitlines():
        for pattern, replacement in _MASKS:
            line = pattern.sub(replacement, line)
        lines.append(line.strip())
    return [line for line in lines if line]


def difference(block: Block, printed: str) -> str:
    """Where the output on the page is not what was printed; empty where it is."""
    shown, expected = masked(block.text), masked(excerpt(printed, block.parts()))
    for number in range(max(len(shown), len(expected))):
        page, run = (lines[number] if number < len(lines) else "(no line)" for lines in (shown, expected))
        if page != run:
            return f"{block.place}: the page shows {page!r}, and it printed {run!r}: run --write"
    return ""


def digests(page: Path) -> str:
    """What `--write` stores of the outputs of a page, one word each."""
    texts = [block.text for block in read(page) if block.is_output]
    return " ".join(hashlib.sha256(text.encode()).hexdigest()[:8] for text in texts)


def store_digests(page: Path) -> None:
    """Write the digests of the outputs into the comment above a page's stamp."""
    if stored := digests(page):
        text = STAMP.sub(f"<!-- outputs: {stored} -->", page.read_text(encoding="utf-8"))
        page.write_text(text, encoding="utf-8")


def altered(page: Path) -> list[str]:
    """The outputs of a page that are not as the script wrote them."""
    outputs, found = [block for block in read(page) if block.is_output], digests(page).split()
    stamp = STAMP.search(page.read_text(encoding="utf-8"))
    stored = (stamp[1] or "").split() if stamp else []
    if len(stored) != len(found):
        return [f"{page.name}: {len(found)} outputs, and {len(stored)} digests of outputs: run --write"]
    both = zip(outputs, stored, found, strict=True)
    return [f"{block.place}: the output was changed by hand: run --write" for block, was, now in both if was != now]


def with_outputs(page: Path, outputs: list[tuple[Block, str]], stamp: str) -> str:
    """The page's text with these outputs in their blocks, and the stamp.

    Raises:
        ValueError: the page has no place for the stamp.
    """
    lines = page.read_text(encoding="utf-8").splitlines()
    if outputs:
        at = next((number for number, line in enumerate(lines) if STAMP.fullmatch(line)), None)
        if at is None:
            message = "has outputs: end it with a line <!-- outputs -->, below which version and date stand"
            raise ValueError(f"{page.name} {message}")
        rest = [line for line in lines[at + 1 :] if not line.startswith("*Outputs:")]
        lines = [*lines[: at + 1], "", stamp, *([""] if any(rest) else []), *"\n".join(rest).strip("\n").splitlines()]
    for block, printed in reversed(outputs):
        new = [(block.indent + line).rstrip() for line in excerpt(printed, block.parts()).splitlines()]
        lines[block.line : block.end] = new
    return "\n".join(lines) + "\n"


def check_page(page: Path, write: bool = False) -> list[str]:
    """Executes a page, and compares its outputs or writes them.

    Args:
        page (`Path`): of markdown.
        write (`bool`, *optional*, defaults to `False`): paste the outputs.

    Returns:
        `list[str]`: what failed.
    """
    from block_runner import BlockError, has_real_inputs, run_blocks, stamp

    blocks = read(page)
    if found := list(problems(blocks)):
        return found
    outputs, printed, is_real = [], "", has_real_inputs()
    runner = run_blocks(blocks)
    try:
        for block in blocks:
            if block.is_executed:
                printed = next(runner)
            elif block.is_output and (is_real or not block.needs_photos):
                outputs.append((block, printed))
            elif block.is_output and write:
                return [f"{block.place}: needs PACO_DOCS_PHOTOS and PACO_DOCS_WEIGHTS"]
    except BlockError as error:
        return [str(error)]
    finally:
        runner.close()
    if write:
        page.write_text(with_outputs(page, outputs, stamp(page.read_text(encoding="utf-8"))), encoding="utf-8")
        store_digests(page)
        return []
    return [message for block, text in outputs if (message := difference(block, text))]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE")
    parser.add_argument("--list", action="store_true", help="list the blocks of these pages, or of all")
    parser.add_argument("--write", action="store_true", help="paste the outputs")
    parser.add_argument(
        "--stamp",
        action="store_true",
        help="store the digests of the outputs as they stand on these pages, or all; executes nothing, and so vouches "
        "for nothing: only for outputs that --write has pasted",
    )
    flags = parser.parse_args(argv)
    if flags.stamp:
        for page in flags.pages or pages():
            store_digests(page)
        return 0
    if flags.list:
        for page in flags.pages or pages():
            for block in read(page):
                print(f"{block.place:<36} {block.language or '-':<8} {block.check()}")
        return 0
    if not flags.pages:
        parser.error("give the pages to execute, or --list")
    failed = False
    for page in flags.pages:
        found = check_page(page, flags.write)
        failed |= bool(found)
        print(*found, sep="\n") if found else print(f"{page}: {'written' if flags.write else 'as it says'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
