"""What the pages name outside their blocks: commands, flags, links, and pictures. Needs no build of the site."""

import dataclasses
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_lines import parse
from conftest import ROOT

from paco_hf import PaCoTrainingArguments

sys.path.insert(0, str(ROOT / "docs"))
import code_blocks
import reference_cli

FENCE_OR_COMMENT = re.compile(r"^( *)(`{3,}).*?^\1\2$|<!--.*?-->", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"(?<!`)`((?:[^`\n]|\n(?!\n))+)`(?!`)")
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
MIGRATION = "coming-from-the-reference.md"  # whose tables have the flags of the authors' code in the first column
# Of torchrun, accelerate, docker, slurm, uvicorn, and the programs in benchmarks/ and docs/.
FOREIGN = {
    *("--config_file", "--cpu", "--max-restarts", "--mixed_precision", "--nnodes", "--nproc_per_node"),
    *("--num_processes", "--rdzv_backend", "--rdzv_endpoint", "--rdzv_id", "--standalone"),
    # Of newer releases of transformers than the oldest.
    *("--activation_checkpointing", "--dataloader_multiprocessing_context"),
    *("--gres", "--shm-size", "--rows", "--scratch", "--table", "--training", "--version", "--workers", "--write"),
}
INCOMPLETE = ("arguments are required", "expected one argument", "expected at least one argument", "got ''")
REFUSED = {
    "raw HTML": re.compile(r"</?[a-zA-Z][\w-]*(?:[\s/][^>]*)?>"),
    "a reference link": re.compile(r"\[[^\]]+\]\[[^\]]*\]|^ *\[[^\]]+\]: .*", re.MULTILINE),
    "a remote image": re.compile(r"!\[[^\]]*\]\(\s*(?:\w+:)?//[^)]*\)"),
}


@functools.cache
def known_flags() -> set[str]:
    options = {o for parser in reference_cli.parsers() for action in parser._actions for o in action.option_strings}
    return options | {f"--{field.name}" for field in dataclasses.fields(PaCoTrainingArguments)} | FOREIGN


def wrong_command(code: str) -> str:
    """What is wrong with a command in a sentence, which may leave arguments out."""
    words = re.sub(r"\[.*?\]", "", code).split()[1:]
    # A value that is left out is a text; arguments that are, are none.
    values = [
        "VALUE" if w == "..." and before.startswith("--") else w
        for before, w in zip(["", *words[:-1]], words, strict=True)
    ]
    try:
        parse(values)
    except ValueError as error:
        return "" if any(part in str(error) for part in INCOMPLETE) else f"{code}: {error}"
    return ""


def defects(text: str, name: str = "") -> Iterator[str]:
    """What is wrong on a page outside its blocks."""
    text = FENCE_OR_COMMENT.sub("", text)
    for code in CODE.findall(text):
        if re.match(r"paco-hf\s", code) and (wrong := wrong_command(" ".join(code.split()))):
            yield wrong
    theirs = set()
    if name == MIGRATION:
        theirs = {flag for row in re.findall(r"^\|([^|]*)", text, re.MULTILINE) for flag in FLAG.findall(row)}
    yield from (f"{flag}: no verb has it" for flag in FLAG.findall(text) if flag not in known_flags() | theirs)
    prose = CODE.sub("`", text)
    yield from (f"{kind}: {found[0]}" for kind, pattern in REFUSED.items() for found in pattern.finditer(prose))


@pytest.mark.parametrize("page", code_blocks.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_name_what_there_is(page: Path) -> None:
    assert list(defects(page.read_text(encoding="utf-8"), page.name)) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("use `paco-hf train --no_such_flag 3`", "--no_such_flag"),
        ("use paco-hf train --no_such_flag", "--no_such_flag: no verb has it"),
        ("`paco-hf\nnosuchverb`", "no such verb"),
        ("`paco-hf data nosuch DIR`", "invalid choice"),
        ("`paco-hf predict --queue_size 3`", "unknown argument '--queue_size'"),
        ("`paco-hf predict --queue_size`", "unknown argument '--queue_size'"),
        ("`--also_no_flag`", "--also_no_flag: no verb has it"),
        ('a <img src="x.png">', "raw HTML: <img"),
        ("<a>x</a>", "raw HTML: <a>"),
        ("see [x][undefinedref]", "a reference link: [x][undefinedref]"),
        ("[x]: y.md", "a reference link: [x]: y.md"),
        ("![x](https://a.b/c.png)", "a remote image: ![x](https://a.b/c.png)"),
    ],
)
def test_what_there_is_not_is_found(text: str, message: str) -> None:
    found = list(defects(f"# Page\n\nA sentence, {text}\n" if text[0] not in "[!" else f"# Page\n\n{text}\n"))
    assert any(message in defect for defect in found), found


def test_what_sentences_leave_out_is_allowed() -> None:
    commands = ["train", "train [flags] --nproc", "evaluate RUN --dataset ...", "predict --json", "data prepare"]
    text = " ".join(f"`paco-hf {command}`" for command in commands)
    assert (
        list(defects(f"{text}, `a[b][c]`, `<br>`, <https://a.b>, a < b > c, <!-- <br> -->\n```html\n<a>\n```\n")) == []
    )
