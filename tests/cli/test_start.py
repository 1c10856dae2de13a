"""The command answers at once: what needs no model loads neither torch nor transformers nor timm.

What is asserted are the modules that a process has loaded afterwards, not its seconds.
"""

import dataclasses
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from paco_hf.arguments.defaults import expected_settings
from paco_hf.arguments.parser import RunParser, resolved_recipe
from paco_hf.arguments.recipes import read_recipe, recipe_names
from paco_hf.arguments.train_help import HELP_TABLES, help_parser
from paco_hf.arguments.training_args import PaCoTrainingArguments
from paco_hf.cli.main import _VERBS

CHECKPOINT = str(ROOT / "model_cards" / "paco-resnet32-cifar100-lt-100")
PICTURE = f"{CHECKPOINT}/prior.png"
TRAINED = str(ROOT / "tests" / "old_runs" / "csv_paco" / "run")
# Runs commands one after the other in one process, and tells after each what it has loaded.
SCRIPT = """
import contextlib, io, json, sys
from paco_hf.cli import main
results = []
for argv in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(argv)
        except SystemExit as exit:
            status = exit.code
    loaded = [name for name in ("torch", "transformers", "timm") if name in sys.modules]
    results.append([status, out.getvalue(), err.getvalue(), loaded])
print(json.dumps(results))
"""


def run_light(commands: list[list[str]], folder: Path) -> list[tuple[int, str, str]]:
    """Status, output and error of each command; fails at the first that loads torch, transformers or timm."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, json.dumps(commands)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    for argv, (_, _, error, loaded) in zip(commands, results, strict=True):
        assert not loaded, f"paco-hf {' '.join(argv)} loads {loaded}: {error}"
    return [(status or 0, out, error) for status, out, error, _ in results]


def test_help_and_lists_load_no_library(tmp_path: Path) -> None:
    helps = [[verb, "--help"] for verb in _VERBS] + [["data", action, "--help"] for action in ("prepare", "stats")]
    commands = [[], ["--help"], ["--version"], ["nonsense"], ["recipes"], ["recipes", "--json"], *helps]
    statuses = [status for status, _, _ in run_light(commands, tmp_path)]
    assert statuses == [2, 0, 0, 2] + [0] * (2 + len(helps))


WRONG = [
    (["predict", CHECKPOINT, PICTURE, "--nosuch"], "unrecognized arguments: --nosuch"),
    (["predict", CHECKPOINT, "none.png"], "none.png does not exist"),
    (["predict", "none", PICTURE], "'none' is no local folder"),
    (
        ["predict", "nobody/none", PICTURE],
        "'nobody/none' is no local folder, and cannot be loaded from the Hub",
    ),
    (["predict", ".", PICTURE], ". has no config.json"),
    (["predict", CHECKPOINT, PICTURE, "--prior", "none.json"], "--prior must be training, none or a file"),
    (["estimate-prior", CHECKPOINT, "none.png"], "none.png does not exist"),
    (["estimate-prior", CHECKPOINT, PICTURE, "--output", "none/x.json"], "there is no folder none"),
    (["embed", CHECKPOINT, "none.png", "--output", "x.safetensors"], "none.png does not exist"),
    (["embed", CHECKPOINT, "--output", "none/x.safetensors"], "there is no folder none"),
    (["embed", CHECKPOINT, "--output", "x.npz"], "--output must be a file ending in .safetensors"),
    (["embed", CHECKPOINT, "--output", "x.safetensors", "--gallery", "none"], "there is no file 'none' of embeddings"),
    (["embed", CHECKPOINT, "--output", "x.safetensors", "--dataset", "none.csv"], "none.csv does not exist"),
    (["index", "none"], "'none' is no local folder"),
    (["index", CHECKPOINT, "--dataset", "none/none/none"], "none/none/none does not exist"),
    (["demo", "none"], "'none' is no local folder"),
    (["demo", CHECKPOINT, "--examples", "none.png"], "none.png does not exist"),
    (["demo", CHECKPOINT, "--index", "none"], "none is not a folder"),
    (["demo", CHECKPOINT, "--port", "0"], "--port must be 1 to 65535"),
    (["export", "none", "out", "--to", "timm"], "'none' is no local folder"),
    (["export", CHECKPOINT, "out", "--to", "tflite"], "invalid choice: 'tflite'"),
    (["convert", "none.pth", "out"], "none.pth does not exist"),
    (["convert", PICTURE, "out", "--dataset", "none.csv"], "none.csv does not exist"),
    (["data", "stats", "none.csv"], "none.csv does not exist"),
    (["data", "stats", "nobody/none"], "'nobody/none' is no local folder, and cannot be loaded from the Hub"),
    (["data", "verify", "none.txt"], "the list none.txt does not exist"),
    (["data", "prepare", "./none", "--out", "x"], "./none does not exist"),
    (["data", "nonsense"], "invalid choice: 'nonsense'"),
    (["recipes", "show", "none"], "no recipe and no file 'none'"),
    (["report", "none"], "none is no folder of a finished run"),
    (["card", "none"], "none is not a folder"),
    (["card", TRAINED, "--baselines", "none"], "none is not a folder"),
    (["push", "none", "nobody/none"], "none is not a folder"),
    (["push", TRAINED, "nobody/none", "--space", "--examples", "none.png"], "none.png does not exist"),
]


def test_wrong_flags_and_missing_files_load_no_library(tmp_path: Path) -> None:
    for (argv, message), (status, _, error) in zip(WRONG, run_light([a for a, _ in WRONG], tmp_path), strict=True):
        assert status == 2, argv
        assert error.startswith(f"paco-hf {argv[0]}: "), error
        assert message in error
        assert error.count("\n") == 1


def test_wrong_flags_of_every_verb_load_no_library(tmp_path: Path) -> None:
    verbs = [verb for verb in _VERBS if verb not in ("train", "evaluate")]
    for status, _, error in run_light([[verb, "--nosuch"] for verb in verbs], tmp_path):
        assert status == 2
        assert "--help lists the arguments" in error


def test_descriptions_of_data_and_runs_load_no_library(tmp_path: Path) -> None:
    commands = [
        ["data", "stats", "builtin", "--plot", "counts.png"],
        ["report", TRAINED, "--output", str(tmp_path / "comparison.html")],
        ["card", str(tmp_path / "run"), "--baselines", TRAINED],
    ]
    (tmp_path / "run").symlink_to(tmp_path / "copy")
    subprocess.run(["cp", "-r", TRAINED, tmp_path / "copy"], check=True)
    for status, _, error in run_light(commands, tmp_path):
        assert status == 0, error
    assert (tmp_path / "copy" / "README.md").is_file()


def test_help_of_train_is_that_of_the_parser() -> None:
    shown = {action.dest: action for action in help_parser("paco-hf train")._actions}
    parsed = {option: action for action in RunParser("paco-hf train")._actions for option in action.option_strings}
    flags = {field.name for table in HELP_TABLES for field in dataclasses.fields(table)}
    assert shown.keys() == flags | {"help", "help_all"}
    for name in flags:
        ours, theirs = shown[name], parsed[f"--{name}"]
        assert ours.option_strings == [f"--{name}"]
        assert (ours.help, ours.nargs) == (theirs.help, theirs.nargs), name
        assert list(ours.choices or ()) == list(theirs.choices or ()), name


def test_defaults_of_the_tables_are_those_of_the_arguments() -> None:
    values = {field.name: field.default for field in dataclasses.fields(PaCoTrainingArguments)}
    for table in HELP_TABLES[-2:]:
        assert {field.name: values[field.name] for field in dataclasses.fields(table)} == {
            field.name: field.default for field in dataclasses.fields(table)
        }


@pytest.mark.parametrize("name", [name for name in recipe_names() if not read_recipe(name).ensemble])
def test_settings_that_a_card_expects_are_those_of_a_run(name: str) -> None:
    resolved = resolved_recipe(name)
    expected = expected_settings(read_recipe(name).settings)
    assert not {
        key: (resolved[key], expected[key]) for key in resolved.keys() & expected if resolved[key] != expected[key]
    }


def on_a_terminal(code: str) -> str:
    """What a process of its own prints on a terminal."""
    main, terminal = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    printed = b""
    try:
        while chunk := os.read(main, 4096):
            printed += chunk
    except OSError:  # Linux: the other end is closed
        pass
    process.wait()
    os.close(main)
    return printed.decode().replace("\r\n", "\n")


def test_one_line_says_that_libraries_load() -> None:
    code = "from paco_hf.utils.console import announce_loading; announce_loading('paco-hf x'); "

    printed = on_a_terminal(f"{code}import importlib.util as u; u.find_spec('torch'); u.find_spec('timm')")
    assert printed == "paco-hf x: loading PyTorch ...\n"


def test_a_run_says_so_at_once_without_a_terminal() -> None:
    code = "from paco_hf.utils.console import announce_loading; announce_loading('paco-hf train', at_once=True); "
    check = "import sys; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("paco-hf train: loading PyTorch and transformers ...\n", "")
