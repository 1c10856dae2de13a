"""Docstrings as Hugging Face writes them, as Markdown of MyST: sections become lists, references become links."""

import ast
import re
from functools import cache
from importlib import import_module
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "paco_hf"
_SECTIONS = {
    "Args": "Parameters",
    "Attributes": "Attributes",
    "Example": "Example",
    "Examples": "Examples",
    "Raises": "Raises",
    "Returns": "Returns",
    "Yields": "Yields",
}
# `name (type): text`, several names with commas between; types may have parentheses, as `Tensor` of shape `(B,)`.
_ENTRY = re.compile(
    r"(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \((?P<kind>(?:[^()]|\([^()]*\))*)\))?(?::\s+(?P<text>.*))?\.?$",
    re.DOTALL,
)
_CLASS = re.compile(r"(?<!\[)`(?P<name>[A-Z]+[a-z]\w+)`(?!\])")
_REFERENCE = re.compile(r"\[`(?P<name>[\w.]+)`\]")


@cache
def names_in_package() -> frozenset[str]:
    """All that the package defines: functions, classes, methods (also as `Class.method`), constants and modules."""
    names: set[str] = set()
    for file in PACKAGE.rglob("*.py"):
        names.add(file.stem)
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                names |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                names.add(node.name)
        assigned = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
        targets = [target for node in assigned for target in getattr(node, "targets", [getattr(node, "target", None)])]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(names)


def exists(name: str) -> bool:
    """Whether a name that a docstring refers to is one of the package, or of a library by its whole name."""
    if name in names_in_package():
        return True
    module, _, attribute = name.rpartition(".")
    while module:
        try:
            found = import_module(module)
        except ImportError:
            module, _, first = module.rpartition(".")
            attribute = f"{first}.{attribute}"
            continue
        for part in attribute.split("."):
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


class Links:
    """Where names are documented.

    Args:
        documented (`dict`): the whole name in the reference, by each name that a docstring may use.
    """

    def __init__(self, documented: dict[str, str]) -> None:
        self.documented = documented

    def resolve(self, text: str, place: str) -> str:
        """The text with links in place of [`name`], and of the name of a public class in backquotes.

        Args:
            text (`str`): of a docstring.
            place (`str`): the object that it describes, by its whole name.

        Raises:
            ValueError: a name that does not exist.
        """

        def link(found: re.Match[str]) -> str:
            name = found["name"]
            ways = (f"{place}.{name}", f"{place.rpartition('.')[0]}.{name}", name, name.rpartition(".")[2])
            target = next((self.documented[way] for way in ways if way in self.documented), None)
            if target:
                return f"{{py:obj}}`{name.rpartition('.')[2]} <{target}>`"
            if exists(name):
                return f"`{name}`"
            raise ValueError(f"the docstring of {place} refers to {name}, which does not exist: correct the name")

        def link_class(found: re.Match[str]) -> str:
            target = self.documented.get(found["name"])
            return f"{{py:obj}}`{found['name']} <{target}>`" if target and target != place else found[0]

        return _REFERENCE.sub(link, _CLASS.sub(link_class, text))


def split_sections(doc: str) -> list[tuple[str, str]]:
    """The text of a docstring and its sections: name, empty for the text, and content."""
    parts = re.split(rf"^({'|'.join(_SECTIONS)}):", doc, flags=re.MULTILINE)
    return [("", parts[0].strip()), *zip(parts[1::2], parts[2::2], strict=True)]


def entries(content: str) -> list[str]:
    """The entries of an indented section, each with the lines that belong to it."""
    lines = re.sub(r"^(?: {4})", "", content.strip("\n"), flags=re.MULTILINE).splitlines()
    found: list[str] = []
    for line in lines:
        if line[:1].strip():
            found.append(line)
        elif found:
            found[-1] += "\n" + line
    return found


def render(doc: str) -> str:
    """A docstring as Markdown, but for its references.

    Args:
        doc (`str`): as `inspect.getdoc` has it.
    """
    blocks = []
    for section, content in split_sections(doc):
        if not section:
            blocks.append(content)
            continue
        title = _SECTIONS[section]
        inline, _, rest = content.partition("\n")
        if inline.strip():  # a sentence in place of a list
            blocks.append(f"**{title}:** {' '.join(content.split())}")
        elif section in ("Args", "Attributes", "Raises"):
            listed = [_entry(entry, is_error=section == "Raises") for entry in entries(rest)]
            blocks.append("\n".join([f"**{title}**\n", *listed]))
        else:
            text = "\n".join(entries(rest)) if "\n\n" in rest else " ".join(rest.split())
            blocks.append(f"**{title}**\n\n{text}")
    return "\n\n".join(block for block in blocks if block)


def _entry(entry: str, is_error: bool) -> str:
    """A line of a list: a parameter with its type, or an error."""
    text = " ".join(entry.split())
    found = _ENTRY.match(text)
    if not found:
        return f"- {text}"
    names = ", ".join(f"`{name}`" if is_error else f"**{_escaped(name)}**" for name in found["names"].split(", "))
    kind = f" ({found['kind']})" if found["kind"] else ""
    return f"- {names}{kind}" + (f" — {found['text']}" if found["text"] else "")


def _escaped(name: str) -> str:
    return re.sub(r"([*_])", r"\\\1", name)
