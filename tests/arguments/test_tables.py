"""The argument tables: what they load, what they refuse, and which flags the parser makes of them."""

import ast
import dataclasses
import re
import subprocess
import sys

import pytest

from paco_hf.arguments.method_arguments import ChangedDefaults, CommonArguments, MethodArguments
from paco_hf.arguments.parser import RunParser, parse_run
from paco_hf.arguments.run_arguments import RUN_TABLES, RunArguments
from paco_hf.arguments.training_args import PaCoTrainingArguments

TABLES = "paco_hf.arguments.run_arguments, paco_hf.arguments.method_arguments, paco_hf.arguments.recipes"


def test_tables_load_neither_torch_nor_transformers() -> None:
    code = f"import sys, {TABLES}\nprint({{'torch', 'transformers', 'timm', 'datasets'}} & sys.modules.keys())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "set()"


def test_every_field_is_a_flag_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    RunParser("paco-hf train").print_help()
    shown = capsys.readouterr().out
    for table in (*RUN_TABLES, PaCoTrainingArguments):
        for field in dataclasses.fields(table):
            assert not field.init or f"--{field.name}" in shown
    assert not {"--automatic", "--notes"} & set(shown.split())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"validation_fraction": 1}, "validation_fraction must be at least 0 and below 1, got 1"),
        ({"split_seed": -1}, "split_seed must be at least 0, got -1"),
        ({"augment_backend": "gpu"}, "augment_backend must be one of auto, pil, tensor, got 'gpu'"),
        ({"imbalance_kind": "x"}, "imbalance_kind must be one of exp, step, pareto, got 'x'"),
        ({"lora_rank": 8, "freeze_backbone": True}, "--lora_rank trains adapters"),
        ({"backbone_kwargs": "[1]"}, "backbone_kwargs must be a JSON object"),
        ({"resume": True, "overwrite": True}, "--resume and --overwrite contradict each other"),
    ],
)
def test_values_that_cannot_be(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        RunArguments(**values)


@pytest.mark.parametrize(
    "name", ["layer_decay", "key_momentum", "momentum", "queue_size", "projection_dim", "learning_rate"]
)
def test_ranges_of_the_training(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be .*, got -1"):
        PaCoTrainingArguments(**{name: -1})


@pytest.mark.parametrize(
    "flags",
    [
        "--image_size 1",
        "--momentum 1.5",
        "--data_seed -1",
        "--dataloader_prefetch_factor 0",
        "--eval_accumulation_steps 0",
        "--eval_accumulation_steps -1",
        "--remove_unused_columns true",
    ],
)
def test_what_would_break_a_run_is_refused_while_parsing(flags: str) -> None:
    with pytest.raises(ValueError, match=r"must be at least|would remove the images"):
        parse_run(["--precision", "fp32", *flags.split()])


def test_flags_are_those_that_were_passed() -> None:
    parser = RunParser("paco-hf train")
    assert parser.parse_flags([]) == {}
    argv = ["--queue-size=7", "--no_channels_last", "--nesterov", "--report", "false", "--alpha", "0.5"]
    flags = {"queue_size": 7, "channels_last": False, "nesterov": True, "report": False, "alpha": 0.5}
    assert parser.parse_flags(argv) == flags
    with pytest.raises(ValueError, match="did you mean --queue_size"):
        parser.parse_flags(["--queu_size", "7"])
    assert parser.convert({"queue_size": "9", "nesterov": "yes"}) == {"queue_size": 9, "nesterov": True}
    with pytest.raises(ValueError, match="argument --queue_size/--queue-size: invalid int value: 'many'"):
        parser.convert({"queue_size": "many"})


@pytest.mark.parametrize("name", ["recipe", "backbone", "output_dir", "test_split", "report", "seed", "loss"])
def test_an_empty_value_is_refused_but_in_a_recipe(name: str, tmp_path) -> None:
    for argv in ([f"--{name}", ""], [f"--{name}", "  "], [f"--{name}="]):
        with pytest.raises(ValueError, match=f"^--{name} is empty: give it a value, or remove it$"):
            parse_run(["--seed", "1", *argv])
    (tmp_path / "r.yaml").write_text("test_split:\n")
    assert parse_run(["--recipe", str(tmp_path / "r.yaml")])[0].test_split is None


def test_copies_leave_the_arguments_as_they_are() -> None:
    _, args = parse_run(["--precision", "fp32"])
    before = {name: repr(value) for name, value in vars(args).items()}
    copy = args.changed(learning_rate=0.5, dataloader_num_workers=2)
    assert (copy.learning_rate, copy.dataloader_num_workers, copy.device) == (0.5, 2, args.device)
    assert {name: repr(value) for name, value in vars(args).items()} == before


@pytest.mark.parametrize("table", [*RUN_TABLES, MethodArguments, CommonArguments, ChangedDefaults])
def test_the_docstring_of_a_table_is_its_help_and_tells_its_defaults(table) -> None:
    described = re.findall(
        r"^\s+(\w+) \(`[\w.]+`, \*optional\*(?:, defaults to `(.+?)`)?\):", table.__doc__, re.MULTILINE
    )
    assert [name for name, _ in described] == list(table.__annotations__)
    for field, (name, default) in zip(dataclasses.fields(table), described, strict=True):
        assert field.name == name
        assert field.default == (ast.literal_eval(default) if default else None), name
        assert field.metadata["help"].strip()
