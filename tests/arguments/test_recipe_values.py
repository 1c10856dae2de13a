"""What a recipe holds instead of the value that a setting needs: nothing, a key twice, another kind, garbage."""

import dataclasses
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from user_data import complaint

from paco_hf.arguments.parser import checked_recipe, parse_run
from paco_hf.arguments.run_arguments import RunArguments
from paco_hf.arguments.training_args import PaCoTrainingArguments

SETTINGS = sorted(
    {f.name for table in (RunArguments, PaCoTrainingArguments) for f in dataclasses.fields(table) if f.init}
    - {"recipe", "automatic", "notes"}
)


def write(folder: Path, text: str | bytes) -> str:
    file = folder / "r.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    return str(file)


def test_a_pipe_is_read_as_often_as_is_needed() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"dataset: photos\n")
    os.close(writer)
    for _ in range(2):
        assert checked_recipe(f"/dev/fd/{reader}").settings == {"dataset": "photos"}
    os.close(reader)


@pytest.mark.parametrize(("path", "kind"), [("/dev/null", "a device or a socket"), ("/", "a folder")])
def test_what_is_no_file_is_refused_as_what_it_is(path: str, kind: str) -> None:
    with pytest.raises(ValueError, match=f"recipe '{path}' is {kind}: pass a YAML file, or the name of a recipe"):
        parse_run(["--recipe", path])


@pytest.mark.parametrize("name", SETTINGS)
def test_a_key_without_a_value_leaves_the_default(name: str, tmp_path: Path) -> None:
    assert checked_recipe(write(tmp_path, f"{name}:\n")).settings == {}
    assert checked_recipe(write(tmp_path, f"{name}: ''\n")).settings == {}


def test_a_recipe_of_keys_without_values_is_the_default_run(tmp_path: Path) -> None:
    empty = write(tmp_path, "".join(f"{name}: ~\n" for name in SETTINGS))
    runs = parse_run(["--recipe", empty])
    for one, other in zip(runs, parse_run(["--recipe", write(tmp_path, "loss: paco\n")]), strict=True):
        assert one == other


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nloss: ce\nseed: 2\n", "the key 'seed' appears twice: keep one of them"),
        ("backbone_kwargs:\n  width: 1\n  width: 2\n", "the key 'width' appears twice: keep one of them"),
        ("reported: [{top1: 1, top1: 2}]\n", "the key 'top1' appears twice"),
        ("seed: [1]\n", "seed of the recipe must be an integer, got a list"),
        ("learning_rate: {a: 1}\n", "learning_rate of the recipe must be a number, got a dict"),
        ("dataset: {a: 1}\n", "dataset of the recipe must be text, got a dict"),
        ("nesterov: [true]\n", "nesterov of the recipe must be true or false, got a list"),
        ("save_strategy: no\n", "save_strategy of the recipe must be text, got false, as YAML reads no and off"),
        ("run_name: 2026-11-29\n", "run_name of the recipe must be text, got a date: put it in quotes"),
        ("lr_scheduler_kwargs: {1: 2026-11-29}\n", "lr_scheduler_kwargs must be a mapping of text to plain values"),
        ("seed: 1.5\n", "--seed: invalid int value: '1.5'"),
        ("global_batch_size: 1" + "0" * 400, "global_batch_size must be an integer of at most 64 bits"),
        ("seed: 12:30:00\n", "12:30:00 is read as a base-60 number: put it in quotes"),
        ("learning_rate: 1:30.5\n", "1:30.5 is read as a base-60 number"),
        ("5\n", "must be a mapping of settings, such as `dataset: photos`, got an int"),
        ("about: 5\n", "must be text, got an int"),
        ("sed:\n", "unknown setting 'sed': did you mean seed?"),
        ("ensemble: 5\n", "ensemble of recipe"),
        ("about: [x]\n", "must be text, got a list"),
        ("", "must be a mapping of settings, such as `dataset: photos`, got nothing"),
        ("- seed\n", "must be a mapping of settings, such as `dataset: photos`, got a list"),
        ("seed: !!timestamp x\n", "cannot be read: AttributeError"),
        ("[" * 3000, "cannot be read: RecursionError"),
        (b"seed: \xff\n", "r.yaml is damaged or not UTF-8"),
        ('dataset: "a\\0b"\n', "r.yaml' contains a null character"),
        ("dataset: data\n".encode("utf-16"), "restore it, or save it as UTF-8"),
    ],
)
def test_other_values_are_one_line_with_the_key(text: str | bytes, message: str, tmp_path: Path, capsys: Any) -> None:
    assert message in complaint(capsys, "train", "--recipe", write(tmp_path, text), "--dry_run")


def test_a_merged_key_may_be_overridden(tmp_path: Path) -> None:
    file = write(tmp_path, "backbone_kwargs: {<<: &base {a: 1, b: 2}, a: 3}\nfsdp_config: {<<: *base, b: 1}\n")
    assert checked_recipe(file).settings == {"backbone_kwargs": {"a": 3, "b": 2}, "fsdp_config": {"a": 1, "b": 1}}


SCALARS = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.dates(), st.datetimes(), st.binary()),
    st.sampled_from([10**30, -(10**400), "1e400", "none", "~", "&a", "auto", "no", 2**63 - 1, "\0", "a" * 5000]),
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(SCALARS, inner), max_leaves=5)
MAPPINGS = st.dictionaries(st.sampled_from(SETTINGS), VALUES, min_size=1, max_size=4).map(
    lambda content: yaml.dump(content, allow_unicode=True).encode(errors="surrogatepass")
)
TAGS = ["!!int ", "!!float ", "!!python/name:os.system ", "!!timestamp ", "!!omap ", "!!set ", "&a ", "*a", "<<: "]
PLAIN = ["1", "0x1", "1_0", "12:30", ".nan", ".inf", "2026-13-45", "no", "---\n", "...\n", "%YAML 9.9\n"]
WORDS = st.sampled_from([*SETTINGS, *TAGS, *PLAIN, ": ", "\n  ", "- ", "? ", *":|>[]{},'\"\t#=~\n\ufeff\x85"])
TEXTS = st.one_of(
    st.lists(WORDS, max_size=20).map(lambda words: "".join(words).encode()),
    st.tuples(st.sampled_from(SETTINGS), st.text()).map(lambda pair: ": ".join(pair).encode(errors="surrogatepass")),
    st.binary(),
    st.tuples(MAPPINGS, st.binary(max_size=3), st.integers(0, 50)).map(lambda t: t[0][: t[2]] + t[1] + t[0][t[2] :]),
)


@given(text=st.one_of(MAPPINGS, TEXTS))
@example(text=b"warmup_steps: !!float ''")
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
def test_no_recipe_is_a_traceback(text: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    with suppress(ValueError, OSError, ImportError):  # what the command prints as one line
        parse_run(["--recipe", write(folder, text)])
