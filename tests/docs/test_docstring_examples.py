"""The examples in docstrings run, and the main names have one."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import paco_hf

PACKAGE = Path(paco_hf.__file__).parent
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
WITH_EXAMPLE = (
    *("PaCoConfig", "PaCoForImageClassification", "PaCoForContrastiveTraining", "PaCoTrainer"),
    *("PaCoTrainingArguments", "PaCoPipeline", "paco_loss"),
    *("metrics.long_tailed_accuracy", "metrics.expected_calibration_error"),
)


def examples() -> dict[str, str]:
    """Python blocks of all docstrings, `{module:name: code}`."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "```python" not in text:
            continue
        module = ".".join(["paco_hf", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Module):
                code = "\n".join(BLOCK.findall(ast.get_docstring(node) or ""))
                if code:
                    found[f"{module}:{getattr(node, 'name', '')}"] = code
    return found


EXAMPLES = examples()


@pytest.mark.parametrize("place", EXAMPLES)
def test_examples_run(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # An example may use what its module has; it imports the rest.
    module = importlib.import_module(place.partition(":")[0])
    exec(compile(EXAMPLES[place], place, "exec"), {**vars(module), "__name__": "example"})


@pytest.mark.parametrize("name", WITH_EXAMPLE)
def test_main_names_have_examples(name: str) -> None:
    value = paco_hf
    for part in name.split("."):
        value = getattr(value, part)
    assert BLOCK.search(inspect.getdoc(value) or ""), f"the docstring of {name} has no ```python block"


def test_docstrings_of_public_names_start_with_a_sentence() -> None:
    for stub in sorted(PACKAGE.rglob("__init__.pyi")):
        package = importlib.import_module(".".join(["paco_hf", *stub.parent.relative_to(PACKAGE).parts]))
        for name in re.findall(r" as (\w+)$", stub.read_text(encoding="utf-8"), re.MULTILINE):
            value = getattr(package, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                first = (inspect.getdoc(value) or "").partition("\n\n")[0]
                assert re.match(r"[A-Z`]", first), f"{package.__name__}.{name}: {first[:60]!r}"
                assert first.endswith((".", ":")), f"{package.__name__}.{name}: {first[-60:]!r}"
