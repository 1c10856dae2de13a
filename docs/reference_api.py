"""The API reference: each public name, as the `.pyi` files of the package list them, with its docstring."""

import ast
import enum
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from reference_docstrings import PACKAGE, Links, render, split_sections

# The sections, in the order of a reader's way through them, and what they are called.
SECTIONS = {
    "models": "Models",
    "trainer": "Training",
    "arguments": "Training arguments",
    "losses": "Losses",
    "inference": "Inference",
    "embedding": "Features",
    "metrics": "Metrics",
    "data": "Long-tailed data",
    "conversion": "Conversion and export",
    "hub": "Hub",
}
_MANY = 40  # parameters that no signature shows


@dataclass
class PublicName:
    """A name that users import.

    Args:
        path (`str`): from where, with the name: the shortest way.
        section (`str`): of [`SECTIONS`].
        value (object): what it names.
        comment (`str`): that stands above it, for a value that has no docstring.
    """

    path: str
    section: str
    value: Any
    comment: str = ""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]

    @cached_property
    def doc(self) -> str:
        """The docstring, or the comment."""
        if not (inspect.isclass(self.value) or inspect.isroutine(self.value)):
            return self.comment
        return own_doc(self.value)


def own_doc(value: Any) -> str:
    """The docstring that an object has itself: none of a base class, and not the one that a dataclass makes up."""
    doc = inspect.cleandoc(getattr(value, "__doc__", None) or "")
    return "" if inspect.isclass(value) and doc.startswith(f"{value.__name__}(") else doc


@cache
def public_names() -> list[PublicName]:
    """All of them, in the order of the sections. A name that is there twice stands under its shorter path."""
    found: dict[tuple[str, int], PublicName] = {}
    for folder in sorted({file.parent for file in PACKAGE.rglob("__init__.pyi")}, key=lambda path: len(path.parts)):
        package = ".".join(folder.relative_to(PACKAGE.parent).parts)
        for name, origin in _listed(folder / "__init__.pyi"):
            value = getattr(import_module(package), name)
            if isinstance(value, ModuleType):
                if not (PACKAGE / name / "__init__.pyi").is_file():
                    for entry in _of_module(value):
                        found.setdefault((entry.name, id(entry.value)), entry)
                continue
            section = package.partition(".")[2] or origin.split(".")[1]
            source = PACKAGE.joinpath(*(package.split(".")[1:] + origin.split(".")[1:-1])).with_suffix(".py")
            entry = PublicName(f"{package}.{name}", section, value, _comment(source, name))
            found.setdefault((name, id(value)), entry)
    order = list(SECTIONS)
    return sorted(found.values(), key=lambda entry: order.index(entry.section))


def _listed(stub: Path) -> Iterator[tuple[str, str]]:
    """The names that a `.pyi` file exports, and from where, such as `.losses.functional.paco_loss`."""
    for node in ast.parse(stub.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            yield from ((name.asname, f".{node.module or ''}.{name.name}") for name in node.names if name.asname)


def _of_module(module: ModuleType) -> Iterator[PublicName]:
    """The public functions and classes of a module without a `.pyi`: those that it defines, or else imports."""
    callables = [(name, value) for name, value in vars(module).items() if callable(value) and name[0] != "_"]
    defined = [(name, value) for name, value in callables if value.__module__ == module.__name__]
    ours = [(name, value) for name, value in callables if value.__module__.startswith("paco_hf")]
    for name, value in defined or ours:
        yield PublicName(f"{module.__name__}.{name}", module.__name__.rpartition(".")[2], value)


def _comment(file: Path, name: str) -> str:
    """The comment lines above the assignment of a name in a module."""
    if not file.is_file():
        return ""
    found = re.search(rf"^((?:#.*\n)+){name}\b.*=", file.read_text(encoding="utf-8"), re.MULTILINE)
    return re.sub(r"^# ?", "", found[1], flags=re.MULTILINE).strip() if found else ""


def members(value: type) -> dict[str, Any]:
    """The public methods and properties of a class that the package defines, without those that are documented at a
    public base class. An override of a library's method is among them where its docstring has sections, as `Args`."""
    bases = [base for base in value.__mro__ if base.__module__.startswith("paco_hf")]
    foreign = [base for base in value.__mro__ if base not in bases and base is not object]
    found: dict[str, Any] = {}
    for base in bases:
        if base is not value and not base.__name__.startswith("_") and any(base is e.value for e in public_names()):
            continue
        for name, member in vars(base).items():
            function = getattr(member, "fget", None) or getattr(member, "__func__", None) or member
            ours = inspect.isfunction(function) and function.__module__.startswith("paco_hf")
            if name.startswith("_") or not ours or name in found:
                continue
            is_override = any(hasattr(other, name) for other in foreign)
            if not is_override or len(split_sections(own_doc(function))) > 1:
                found[name] = member
    return found


def signature(value: Any) -> str:
    """The parameters and defaults in parentheses, without types, which the list of parameters has."""
    try:
        parameters = list(inspect.signature(value).parameters.values())
    except ValueError:
        return ""
    if len(parameters) > _MANY:
        return "(**settings)"
    if parameters and parameters[0].name in ("self", "cls"):
        del parameters[0]
    plain = [p.replace(annotation=inspect.Parameter.empty, default=_Default.of(p.default)) for p in parameters]
    return str(inspect.Signature(plain))


class _Default:
    """A default value as it is written."""

    def __init__(self, value: Any) -> None:
        self.value = value

    @classmethod
    def of(cls, value: Any) -> Any:
        """Nothing where there is none."""
        return value if value is inspect.Parameter.empty else cls(value)

    def __repr__(self) -> str:
        if isinstance(self.value, enum.Enum):
            return repr(self.value.value)
        if callable(self.value) or "object at 0x" in repr(self.value) or repr(self.value).startswith("<"):
            return "..."
        return repr(self.value)


def documentation(value: Any, doc: str) -> str:
    """The docstring as Markdown. Where its `Args` are a sentence on the fields of base classes, these are listed."""
    text = render(doc)
    args = dict(split_sections(doc)).get("Args", "\n")
    if inspect.isclass(value) and args.partition("\n")[0].strip():
        bases = [base for base in value.__mro__[1:] if base.__module__.startswith("paco_hf")]
        contents = [dict(split_sections(own_doc(base))).get("Args", "") for base in bases]
        listed = "\n".join(render(f"Args:{content}").partition("\n\n")[2] for content in contents if content)
        text = re.sub(r"(^\*\*Parameters:\*\* .*)", lambda found: f"{found[0]}\n\n{listed}", text, flags=re.MULTILINE)
    return text


def _directive(kind: str, heading: str, content: str, ticks: int, options: str = "") -> str:
    return f"{'`' * ticks}{{py:{kind}}} {heading}\n{options}\n{content}\n{'`' * ticks}"


def entry_page(entry: PublicName, links: Links) -> str:
    """The part of the page that is about a name."""
    value, blocks = entry.value, [links.resolve(documentation(entry.value, entry.doc), entry.path)]
    if not inspect.isclass(value):
        kind = "function" if callable(value) else "data"
        return _directive(kind, entry.path + (signature(value) if callable(value) else ""), blocks[0], 9)
    for name, member in members(value).items():
        function = getattr(member, "fget", None) or getattr(member, "__func__", None) or member
        text = links.resolve(render(own_doc(function)), f"{entry.path}.{name}")
        if isinstance(member, property):
            blocks.append(_directive("property", name, text, 7))
        else:
            options = {classmethod: ":classmethod:\n", staticmethod: ":staticmethod:\n"}.get(type(member), "")
            blocks.append(_directive("method", f"{name}{signature(function)}", text, 7, options))
    return _directive("class", f"{entry.path}{signature(value)}", "\n\n".join(blocks), 9)


def undocumented() -> list[str]:
    """The public names, and public methods of public classes, without a docstring."""
    missing = []
    for entry in public_names():
        missing += [] if entry.doc else [entry.path]
        for name, member in (members(entry.value) if inspect.isclass(entry.value) else {}).items():
            function = getattr(member, "fget", None) or getattr(member, "__func__", None) or member
            missing += [] if own_doc(function) else [f"{entry.path}.{name}"]
    return missing


def api_links(names: list[PublicName]) -> Links:
    """The names, and the methods of the classes, by each way to refer to them."""
    documented: dict[str, str] = {}
    for entry in names:
        documented[entry.name] = documented[entry.path] = entry.path
        if inspect.isclass(entry.value) or inspect.isfunction(entry.value):
            documented[f"{entry.value.__module__}.{entry.value.__name__}"] = entry.path
    for entry in names:
        for name in members(entry.value) if inspect.isclass(entry.value) else ():
            documented[f"{entry.path}.{name}"] = documented[f"{entry.name}.{name}"] = f"{entry.path}.{name}"
    return Links(documented)


def api_page() -> str:
    """The page.

    Raises:
        ValueError: a public name without a docstring, or a reference to a name that does not exist.
    """
    if missing := undocumented():
        raise ValueError(f"public names without a docstring: {', '.join(missing)}: describe them")
    names = public_names()
    links = api_links(names)
    blocks = [
        "# API reference",
        "Every public class and function. Import a name from where it is listed, such as `from paco_hf import "
        "PaCoTrainer`. Methods that a class inherits from transformers or PyTorch are described there.",
    ]
    for section, title in SECTIONS.items():
        listed = [entry for entry in names if entry.section == section]
        blocks += [f"## {title}", *(entry_page(entry, links) for entry in listed)]
    return "\n\n".join(blocks) + "\n"
