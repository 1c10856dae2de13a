"""The generated pages of the site: every public name, verb, flag and recipe is described there. Needs no Sphinx."""

import argparse
import ast
import importlib
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import ROOT

import paco_hf
from paco_hf.arguments.recipes import recipe_names

DOCS = ROOT / "docs"


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of the generator, by name."""
    monkeypatch.syspath_prepend(str(DOCS))
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module


def listed() -> list[str]:
    """The names in the `.pyi` files, as module and name."""
    names = []
    for stub in (ROOT / "paco_hf").rglob("__init__.pyi"):
        package = ".".join(stub.parent.relative_to(ROOT).parts)
        names += [f"{package}.{name}" for name in re.findall(r" as (\w+)$", stub.read_text(), re.MULTILINE)]
    return names


def value_of(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_every_public_name_is_in_the_reference_once(generator) -> None:
    api = generator("reference_api")
    page = api.api_page()
    headings = re.findall(r"\{py:(?:class|function|data)\} ([\w.]+)", page)
    assert len(headings) == len(set(headings)) > 50
    documented = {id(entry.value) for entry in api.public_names()}
    names = [path for path in listed() if not isinstance(value_of(path), ModuleType)]
    assert len(names) > 40
    assert all(id(value_of(path)) in documented for path in names)
    assert {entry.path for entry in api.public_names()} == set(headings)


def test_docstrings_are_rendered(generator) -> None:
    page = generator("reference_api").api_page()
    loss = page[page.index("{py:function} paco_hf.paco_loss(") :]
    assert "- **alpha** (`float`, *optional*, defaults to `0.05`) — " in loss
    assert "temperature=0.2" in loss[: loss.index("\n")]
    assert "[`" not in page  # no reference is left as it stands in a docstring
    config = page[page.index("{py:class} paco_hf.PaCoConfig(") :]
    assert "{py:method} check()" in config[: config.index("{py:class} paco_hf.PaCoForContrastiveTraining")]
    assert "{py:method} zero_grad" not in page  # of a base class that is not ours


def test_a_public_name_without_a_docstring_is_refused(generator, monkeypatch: pytest.MonkeyPatch) -> None:
    api = generator("reference_api")
    assert api.undocumented() == []
    monkeypatch.setattr(paco_hf.PaCoConfig.check, "__doc__", None)
    with pytest.raises(ValueError, match=r"public names without a docstring: paco_hf\.PaCoConfig\.check: describe"):
        api.api_page()


def test_a_reference_to_nothing_is_refused(generator) -> None:
    links = generator("reference_docstrings").Links({"push": "paco_hf.hub.push"})
    text = links.resolve("as [`push`], [`paco_hf.data.spec.DataSpec`] and [`transformers.TrainerCallback`]", "here")
    assert (
        text == "as {py:obj}`push <paco_hf.hub.push>`, `paco_hf.data.spec.DataSpec` and `transformers.TrainerCallback`"
    )
    for name in ("no_such_name", "paco_hf.hub.no_such_name", "transformers.no_such_name"):
        with pytest.raises(ValueError, match=f"the docstring of here refers to {name}, which does not exist"):
            links.resolve(f"as [`{name}`]", "here")


def test_every_verb_and_flag_is_in_the_reference(generator) -> None:
    cli = generator("reference_cli")
    page = cli.cli_page()
    sections = dict(zip(*[iter(re.split(r"^#+ (paco-hf .*)$", page, flags=re.MULTILINE)[1:])] * 2, strict=True))
    parsers = list(cli.parsers())
    assert [parser.prog for parser in parsers] == list(sections)
    assert {"paco-hf train", "paco-hf push", "paco-hf data suspects"} <= set(sections)
    for parser in parsers:
        options = re.findall(r"\{option\} (.*)", sections[parser.prog])
        words = {word for option in options for word in option.replace(",", " ").split()}
        for action in parser._actions:
            if action.help != argparse.SUPPRESS and not isinstance(action, argparse._SubParsersAction):
                names = action.option_strings or [action.dest]
                assert names[0] in ("-h", *words), (parser.prog, names)
    alpha = sections["paco-hf train"].partition("{option} --queue_size N\n")[2]
    assert "Default: `8192`." in alpha[: alpha.index("````")]
    assert "One of `paco`, `gpaco`," in page
    assert "`--adam_beta1`" in sections["paco-hf train"]  # of transformers, by its name alone


def test_every_recipe_is_on_its_page(generator) -> None:
    page = generator("reference_recipes").recipes_page()
    assert set(re.findall(r"^### (\S+)$", page, re.MULTILINE)) == set(recipe_names())
    assert "There are 28 recipes for the rows of the papers and 5 for the built-in data set." in page
    (row,) = re.findall(r"^\| P7 .*$", page, re.MULTILINE)
    assert re.search(r"\| 52\.0 \(.+\) \| measured: 51\.8", row)
    assert "queue_size: 1024" in page[page.index("### paco-resnet32-cifar100-lt-100") :]


def test_each_page_stands_in_the_navigation_once() -> None:
    tree = ast.parse((DOCS / "conf.py").read_text(encoding="utf-8"))
    (navigation,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "NAVIGATION"
    )
    pages = [page for group in navigation.values() for page in group]
    generated = {"changelog", "cite", "reference/api", "reference/cli", "reference/recipes"}
    assert sorted(pages) == sorted({Path(file).stem for file in DOCS.glob("*.md")} - {"index"} | generated)


def test_generated_pages_are_not_checked_as_written_ones(generator) -> None:
    names = {name for name in generator("generate_reference").PAGES if "/" not in name}
    assert set(generator("code_blocks").GENERATED) == names


def test_the_citation_is_bibtex(generator) -> None:
    page = generator("generate_reference").cite_page()
    assert (
        "@inproceedings{cui2021parametric,\n  title = {{Parametric Contrastive Learning}},\n  author = {Cui, " in page
    )
    assert "@article{cui2023generalized," in page
    assert re.search(r"@software\{paco_hf,\n  title = .*\n  author = \{\{The paco_hf contributors\}\},", page)
    assert page.count("{") == page.count("}")


@pytest.fixture(autouse=True)
def forget_generator() -> Any:
    """Modules of the generator are imported anew: their path is that of the test alone."""
    yield
    for name in [name for name in sys.modules if name.startswith(("reference_", "generate_reference"))]:
        del sys.modules[name]
