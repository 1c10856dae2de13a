"""Texts that users read are plain American English: no odd phrases in messages, help, docstrings and pages."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "docs"))
from code_blocks import GENERATED

# The worst phrases, as words of a text; what to write instead is in the message.
PHRASES = {
    r"carv(e|es|ed|ing)": "split off",
    r"as (it|they) (was|were) drawn": "randomly initialized",
    r"drawn (anew|at random)": "resampled, randomly initialized",
    r"(go|goes|going) on (exactly|from|with|without)": "resume, continue",
    r"anew": "again, start over",
    r"abstains? no more": "no longer abstains",
    r"had better": "should",
    r"whoever": "name the person",
    r"whatever else": "other",
    r"(gone|go) through": "processed",
    r"passed over": "skipped",
    r"looking at the images": "checking images",
    r"left aside": "not used",
    r"take[sn]? over into": "copied into",
    r"likewise": "as above",
    r"besides these": "also",
    r"nothing tells": "it is unknown",
    r"likeliest": "most likely",
    r"(images|steps|rows|seconds) an? (class|step|second|shard|epoch)": "per",
    r"data sets?": "dataset",
    r"(behaviour|colour|centre)s?|(normal|optim|initial|recogn)is(e|ed|es|ing|ation)": "American spelling",
}
# Pages to read besides the package's texts.
PAGES = ("*.md", "docs/*.md", "training/*.md", "examples/*/*.md", "paco_hf/templates/*", "paco_hf/recipes/*.yaml")
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.DOTALL | re.MULTILINE)  # of a page
# Texts that are no prose: a key of `splits.json`.
EXCEPTIONS = {
    (module, "carved")
    for module in ("data/split_manifest.py", "workflows/prepare_data.py", "workflows/evaluation_data.py")
}


def found(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, phrase and replacement of each odd phrase."""
    for phrase, better in PHRASES.items():
        for match in re.finditer(rf"\b(?:{phrase})\b", text, re.IGNORECASE):
            yield text.count("\n", 0, match.start()) + 1, match[0], better


def texts(path: Path, with_docstrings: bool) -> Iterator[tuple[int, str]]:
    """String literals of a module with their lines, those of an f-string without what is inserted."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
    docstrings = {id(body[0].value) for body in bodies if body and isinstance(body[0], ast.Expr)}
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and (with_docstrings or id(node) not in docstrings):
            yield node.lineno, node.value


def odd_phrases(path: Path, with_docstrings: bool = False) -> list[str]:
    name = path.relative_to(ROOT / "paco_hf").as_posix() if path.is_relative_to(ROOT / "paco_hf") else path.name
    if path.suffix == ".py":
        places = [(line + at - 1, *rest) for line, text in texts(path, with_docstrings) for at, *rest in found(text)]
    else:
        places = [*found(CODE.sub(lambda code: "\n" * code[0].count("\n"), path.read_text(encoding="utf-8")))]
    return [f"{path}:{at}: {odd!r}: {better}" for at, odd, better in places if (name, odd.lower()) not in EXCEPTIONS]


# The tables whose docstrings are help texts, and what the reference of the API shows first.
READ = ("arguments/run_arguments.py", "arguments/method_arguments.py", "arguments/training_args.py", "metrics.py")
READ += ("models/configuration_paco.py", "inference/pipeline.py", "losses/functional.py")


def test_texts_of_the_package() -> None:
    package = ROOT / "paco_hf"
    modules = sorted(package.rglob("*.py"))
    odd = [place for path in modules for place in odd_phrases(path, path.relative_to(package).as_posix() in READ)]
    assert not odd, "\n".join(odd)


def test_docstrings_of_public_names() -> None:
    from reference_api import api_page

    _, *parts = re.split(r"^`{3,}\{py:(\w+)\} ([\w.]+)", api_page(), flags=re.MULTILINE)
    assert len(parts) > 240
    odd, owner = [], ""
    for kind, name, text in zip(*[iter(parts)] * 3, strict=True):
        owner = name if kind == "class" else owner
        place = f"{owner}.{name}" if kind in ("method", "property") else name
        odd += [f"{place}: {phrase!r}: {better}" for _, phrase, better in found(CODE.sub("", text))]
    assert not odd, "\n".join(odd)


@pytest.mark.parametrize("pattern", PAGES)
def test_pages(pattern: str) -> None:
    pages = sorted(page for page in ROOT.glob(pattern) if page.name not in GENERATED)
    assert pages, pattern
    odd = [place for page in pages for place in odd_phrases(page)]
    assert not odd, "\n".join(odd)


def test_an_odd_phrase_is_found_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "shelf.py").write_text('"""Carved."""\nA = 1\nB = f"{A} images a class, {A} carved"\n')
    odd = odd_phrases(tmp_path / "shelf.py")
    assert [place.rpartition("shelf.py:")[2] for place in odd] == [
        "3: 'images a class': per",
        "3: 'carved': split off",
    ]
    assert len(odd_phrases(tmp_path / "shelf.py", with_docstrings=True)) == 3
