"""The rules of `CONTRIBUTING.md` that no linter sees: imports, sizes, names, private parts of libraries."""

import ast
import io
import os
import re
import sys
import tokenize
import tomllib
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from multiprocessing import queues
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from conftest import ROOT
from datasets import Dataset
from torchvision.transforms import v2
from transformers import Trainer

# The most there may be of each.
LIMITS = {
    "lines of code": 21_800,  # docstrings, comments, blank lines and the scripts of `evaluate_modules` apart
    "modules of over 350 lines": 0,
    "functions of over 60 lines": 3,  # without the docstring
    "functions of over 6 positional parameters": 5,
    "public functions of 3 or more parameters without Args": 0,
    "identifiers that are no nouns": 0,
    "internals of torch": 0,
    "modules directly in the package": 8,
    "storeys": 10,
}
PRONOUNS = {"own", "given", "found", "told", "seen", "said", "strange", "lonely", "of"}
TRAVELING = ("configuration_paco", "modeling_paco", "backbones", "abstention")  # with each checkpoint
# Private names of libraries, each with what has it and why no public way does.
PRIVATE: dict[str, tuple[Callable[[], Any], str]] = {
    "_AUGMENTATION_SPACE": (lambda: v2.RandAugment, "the operations' ranges, which batched views share with PIL's"),
    "_policies": (v2.AutoAugment, "the CIFAR-10 policy, which torchvision has in no other place"),
    "_fingerprint": (lambda: Dataset.from_dict({}), "datasets names the content of a data set in no other way"),
    "_indices": (lambda: Dataset.from_dict({}), "the rows that `select` chose"),
    "_hub": (lambda: timm.models, "timm's own reading of a local folder's configuration"),
    "_exit": (lambda: os, "the end of a process from a thread that is not the main one, which may be waiting"),
    "_foreach_lerp_": (
        lambda: torch,
        "one kernel for all weights of the key encoder, as in torch.optim",
    ),
    "_dynamo": (lambda: torch, "whether what is compiled is cut where DistributedDataParallel sends gradients"),
    "_hp_search_setup": (lambda: Trainer, "the settings of a trial, which the model of a search depends on"),
    "_option_string_actions": (lambda: ArgumentParser(), "the flags that a parser knows, for what was meant"),
    "_on_queue_feeder_error": (lambda: queues.Queue, "the end of a worker that cannot hand over a batch"),
}
MODULE_NAMES = {"pillow": "PIL", "pyyaml": "yaml"}  # of distributions that are imported by another name

DOORS = {
    "paco_hf",
    "paco_hf.__main__",
    "paco_hf.embedding",
    "paco_hf.training_args",
}  # of the command, and of former import paths

PACKAGE = ROOT / "paco_hf"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def sources(package: Path = PACKAGE) -> dict[str, str]:
    return {str(path.relative_to(package)): path.read_text() for path in sorted(package.rglob("*.py"))}


@cache
def trees(package: Path = PACKAGE) -> dict[str, ast.Module]:
    return {name: ast.parse(text) for name, text in sources(package).items()}


def nodes(kind: type, package: Path = PACKAGE) -> Iterator[tuple[str, ast.AST]]:
    for name, tree in trees(package).items():
        yield from (
            (f"{name}:{getattr(node, 'lineno', 0)}", node) for node in ast.walk(tree) if isinstance(node, kind)
        )


def docstring_lines(node: ast.AST) -> int:
    body = node.body
    return body[0].end_lineno - body[0].lineno + 1 if ast.get_docstring(node) is not None else 0


def lines_of_code(package: Path = PACKAGE) -> int:
    total = 0
    blank = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for name, text in sources(package).items():
        if name.startswith("evaluate_modules"):
            continue
        lines: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type not in blank:
                lines |= set(range(token.start[0], token.end[0] + 1))
        documented = [
            node
            for node in ast.walk(trees(package)[name])
            if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node) is not None
        ]
        total += len(lines - {n for d in documented for n in range(d.body[0].lineno, d.body[0].end_lineno + 1)})
    return total


def long_modules(package: Path = PACKAGE) -> list[str]:
    return [name for name, text in sources(package).items() if len(text.splitlines()) > 350]


def long_functions(package: Path = PACKAGE) -> list[str]:
    return [
        f"{place} {node.name}"
        for place, node in nodes(Function, package)
        if node.end_lineno - node.lineno + 1 - docstring_lines(node) > 60
    ]


def parameters(node: ast.AST) -> list[str]:
    """The positional ones, without the object."""
    names = [argument.arg for argument in [*node.args.posonlyargs, *node.args.args]]
    return names[1:] if names[:1] and names[0] in ("self", "cls", "ctx") else names


def wide_functions(package: Path = PACKAGE) -> list[str]:
    return [f"{place} {node.name}" for place, node in nodes(Function, package) if len(parameters(node)) > 6]


def undocumented_functions(package: Path = PACKAGE) -> list[str]:
    """Public functions, and public methods of public classes, that have three parameters or more and no `Args`."""
    missing = []
    for name, tree in trees(package).items():
        public = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_")]
        for node in [function for parent in public for function in parent.body if isinstance(function, Function)]:
            documented = "Args:" in (ast.get_docstring(node) or "")
            if not node.name.startswith("_") and len(parameters(node)) + len(node.args.kwonlyargs) > 2:
                missing += [] if documented else [f"{name}:{node.lineno} {node.name}"]
    return missing


def parts(identifier: str) -> set[str]:
    return set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", identifier).lower().split("_"))


def pronouns(package: Path = PACKAGE) -> list[str]:
    """Where an identifier gets such a name: assignments, parameters, functions, classes, imports, modules."""
    named = [(path, Path(path).with_suffix("").name) for path in trees(package)]
    for place, node in nodes(ast.AST, package):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
                named.append((place, name))
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                named.append((place, name))
            case ast.alias(asname=str(name)) | ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                named.append((place, name))
    # The door of former names has these as they were.
    return [
        f"{place} {name}" for place, name in named if PRONOUNS & parts(name) and not place.startswith("embedding.py")
    ]


def private_names(package: Path = PACKAGE) -> dict[str, str]:
    """Private attributes and modules of others: `{name: place}`. Those of `super()` belong to overrides, which
    `test_libraries.py` looks at."""
    members = [member for _, node in nodes(ast.ClassDef, package) for member in node.body]
    defined = {member.name for member in members if isinstance(member, Function)}
    stored = [node for _, node in nodes(ast.Attribute, package) if isinstance(node.ctx, ast.Store)]
    defined |= {node.attr for node in stored if ast.unparse(node.value) == "self"}
    names = {}
    for place, node in nodes(ast.AST, package):
        match node:
            case ast.Attribute(value=ast.Call(func=ast.Name("super"))):
                continue
            case ast.Attribute(attr="_C" | "_version") | ast.Attribute(value=ast.Attribute(attr="_C")):
                continue
            case ast.Attribute(attr=name):
                used = [name]
            case ast.Call(func=ast.Name("getattr" | "hasattr" | "setattr"), args=[_, ast.Constant(str(name)), *_]):
                used = [name]
            case ast.ImportFrom(module=str(module), names=aliases, level=0):
                used = [*module.split("."), *(alias.name for alias in aliases)]
            case ast.Import(names=aliases):
                used = [part for alias in aliases for part in alias.name.split(".")]
            case _:
                continue
        names |= {name: place for name in used if re.match(r"_(?!_)", name) and name not in defined}
    return names


def torch_internals(package: Path = PACKAGE) -> list[str]:
    places = [place for place, node in nodes(ast.Attribute, package) if node.attr in ("_C", "_version")]
    for place, node in nodes(ast.Import | ast.ImportFrom, package):
        names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        places += [place for name in names if name.startswith("torch._C")]
    return places


def imported(node: ast.AST, deferred: bool = False) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that loading a module executes, with `deferred` those of its functions too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, Function) and not deferred:
            continue
        elif not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield from imported(child, deferred)


def libraries(node: ast.Import | ast.ImportFrom) -> set[str]:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    return {name.split(".")[0] for name in names} if getattr(node, "level", 0) == 0 else set()


@cache
def graph() -> Any:
    return pytest.importorskip("grimp", reason="needs the extra dev").build_graph("paco_hf", cache_dir=None)


def edges(depth: int) -> dict[str, set[str]]:
    """Who imports whom, of the first `depth` parts of the dotted names; imports in functions count."""
    result: dict[str, set[str]] = {}
    for module in graph().modules:
        importer = ".".join(module.split(".")[:depth])
        result.setdefault(importer, set())
        for other in graph().find_modules_directly_imported_by(module):
            result[importer] |= {".".join(other.split(".")[:depth])} - {importer}
    return result


def chain(edges: dict[str, set[str]]) -> list[str]:
    """The longest chain of imports; fails at a circle."""
    longest: dict[str, list[str]] = {}
    for name in TopologicalSorter(edges).static_order():
        below = max((longest[other] for other in edges.get(name, ())), key=len, default=[])
        longest[name] = [name, *below]
    return max(longest.values(), key=len)


SPOILT = '''
import torch._C
from timm._secret import door

class Shelf:
    def put(self, a, b, c, d, e, f, given):
        """Put."""
        self.books_found = [book for book in a if book._pages and b._version]
        return getattr(a, "_spine")
{lines}
'''


def test_each_rule_can_be_broken(tmp_path: Path) -> None:
    (tmp_path / "shelf.py").write_text(SPOILT.format(lines="        a += 1\n" * 350))
    assert lines_of_code(tmp_path) == 356
    assert long_modules(tmp_path) == ["shelf.py"]
    assert long_functions(tmp_path) == wide_functions(tmp_path) == ["shelf.py:6 put"]
    assert undocumented_functions(tmp_path) == ["shelf.py:6 put"]
    assert {place.split()[1] for place in pronouns(tmp_path)} == {"given", "books_found"}
    assert private_names(tmp_path).keys() == {"_C", "_secret", "_pages", "_spine"}
    assert len(torch_internals(tmp_path)) == 2
    with pytest.raises(CycleError):
        chain({"shelf": {"book"}, "book": {"page"}, "page": {"shelf"}})


def check(what: str, places: list[str] | int) -> None:
    count = places if isinstance(places, int) else len(places)
    assert count <= LIMITS[what], f"{count} {what}, at most {LIMITS[what]}: {places}"


def test_sizes() -> None:
    check("lines of code", lines_of_code())
    check("modules of over 350 lines", long_modules())
    check("functions of over 60 lines", long_functions())
    check("functions of over 6 positional parameters", wide_functions())
    check("modules directly in the package", [path.name for path in PACKAGE.glob("*.py")])


def test_public_functions_say_what_they_take() -> None:
    check("public functions of 3 or more parameters without Args", undocumented_functions())


def test_identifiers_are_the_fields_nouns() -> None:
    check("identifiers that are no nouns", pronouns())


def test_no_circle_and_few_storeys() -> None:
    assert chain(edges(depth=9))
    check("storeys", chain({name: others - DOORS for name, others in edges(depth=2).items() if name not in DOORS}))


def test_the_picture_shows_the_imports() -> None:
    described = re.search(r"<dc:description>(.*?)</dc:description>", (ROOT / "docs" / "import-graph.svg").read_text())[
        1
    ]
    drawn = {
        name: set(others.split()) for name, _, others in (entry.partition(": ") for entry in described.split("; "))
    }
    now = {
        name.removeprefix("paco_hf."): others - DOORS for name, others in edges(depth=2).items() if name not in DOORS
    }
    assert drawn == {name: {o.removeprefix("paco_hf.") for o in others} for name, others in now.items()}, (
        "`make graph`"
    )


@pytest.mark.parametrize("name", TRAVELING)
def test_what_travels_with_checkpoints_needs_no_other_module(name: str) -> None:
    allowed = {"torch", "timm", "transformers", *sys.stdlib_module_names}
    for node in imported(trees()[f"models/{name}.py"], deferred=True):
        assert libraries(node) <= allowed, ast.unparse(node)
        if getattr(node, "level", 0):
            assert node.level == 1, ast.unparse(node)
            assert node.module in TRAVELING, ast.unparse(node)


def module_names(requirements: list[str]) -> set[str]:
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in requirements}
    return {MODULE_NAMES.get(name, name.replace("-", "_")) for name in names}


def test_optional_packages_are_imported_where_they_are_used() -> None:
    required = {"paco_hf", *module_names(PROJECT["project"]["dependencies"]), *sys.stdlib_module_names}
    for name, tree in trees().items():
        for node in [] if name.endswith("app.py") and "evaluate_modules" in name else imported(tree):
            assert libraries(node) <= required, f"{name}:{node.lineno} {ast.unparse(node)}"


def test_no_internals_of_torch() -> None:
    check("internals of torch", torch_internals())


def test_private_names_of_libraries_have_their_reasons() -> None:
    used = private_names()
    assert not used.keys() - PRIVATE.keys(), {name: used[name] for name in used.keys() - PRIVATE.keys()}
    assert not PRIVATE.keys() - used.keys(), f"no longer used: {PRIVATE.keys() - used.keys()}"


@pytest.mark.parametrize("name", PRIVATE)
def test_private_names_are_still_there(name: str) -> None:
    owner, reason = PRIVATE[name]
    assert hasattr(owner(), name), f"gone from the library; it was used for: {reason}"


def test_hooks_before_a_commit_are_make_quality() -> None:
    lines = (ROOT / "Makefile").read_text().split("\nquality:")[1].split("\n\n")[0].splitlines()[1:]
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in lines]
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    assert [hook["entry"] for hook in repository["hooks"]] == commands
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in repository["hooks"])
