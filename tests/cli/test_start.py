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
from loopback_hub import Hub

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


def run_light(
    commands: list[list[str]], folder: Path, changed: dict[str, str] | None = None
) -> list[tuple[int, str, str]]:
    """Status, output and error of each command; fails at the first that loads torch, transformers or timm."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(changed or {})}
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


EMBED = ["embed", CHECKPOINT, "--output", "x.safetensors"]
CONVERT = ["convert", PICTURE, "out"]
# Beside them lie: `empty/`, `full/` with a file, `bad.json`, which is no JSON, and `damaged/`, whose configuration is.
WRONG = [
    (["predict", CHECKPOINT, PICTURE, "--nosuch"], "unknown argument '--nosuch'"),
    (["predict", CHECKPOINT, ""], "argument images: is empty: give it a value, or remove it"),
    (["predict", CHECKPOINT, PICTURE, "--image_column", ""], "--image_column is empty: give it a value, or remove"),
    (["data", "stats", "builtin", "--label_column="], "--label_column is empty: give it a value, or remove it"),
    (["predict", "full", PICTURE], "full has no config.json with weights"),
    (["predict", CHECKPOINT, "none.png"], "argument images: none.png does not exist: pass image files"),
    (["predict", CHECKPOINT, "empty"], "the folder empty has no image files: pass image files"),
    (["predict", f"{CHECKPOINT}/model.safetensors", PICTURE], "is a file: pass the folder of the checkpoint, "),
    (["predict", "none", PICTURE], "'none' is neither a local folder nor a Hub id"),
    (["predict", "nobody/none", PICTURE], "'nobody/none' is not a local folder, and cannot be loaded from the Hub"),
    (["predict", ".", PICTURE], ". has no config.json"),
    (["predict", "damaged", PICTURE], "config.json is damaged (id2label does not match"),
    (["predict", CHECKPOINT, PICTURE, "--prior", "none.json"], "--prior must be training, none or a file"),
    (["predict", CHECKPOINT, PICTURE, "--prior", "bad.json"], "bad.json must be a file from `paco-hf estimate-prior"),
    (["predict", CHECKPOINT, PICTURE, "--top", "0"], "--top must be at least 1, got 0"),
    (["predict", CHECKPOINT, PICTURE, "--top", "many"], "--top must be an integer, got 'many'"),
    (["predict", CHECKPOINT, PICTURE, "--batch_size", "-1"], "--batch_size must be at least 1, got -1"),
    (["estimate-prior", CHECKPOINT, "none.png"], "none.png does not exist"),
    (["estimate-prior", CHECKPOINT, PICTURE, "--output", "none/x.json"], "there is no folder none"),
    (["estimate-prior", CHECKPOINT, PICTURE, "--resamples", "0"], "--resamples must be at least 1, got 0"),
    (["embed", CHECKPOINT, "none.png", "--output", "x.safetensors"], "none.png does not exist"),
    (["embed", CHECKPOINT, "--output", "none/x.safetensors"], "there is no folder none"),
    (["embed", CHECKPOINT, "--output", "x.npz"], "--output must be a file ending in .safetensors"),
    ([*EMBED, "--gallery", "none"], "--gallery: none does not exist: pass a file from `paco-hf embed`"),
    ([*EMBED, "--gallery", "bad.json"], "--gallery: bad.json cannot be read"),
    (
        [*EMBED, "--dataset", "builtin", "--test_list", "bad.json"],
        "--test_list is for imagenet-lt, inat2018, places-lt",
    ),
    ([*EMBED, "--dataset", "none.csv"], "none.csv does not exist"),
    ([*EMBED, "--dataset_path", "none"], "--dataset_path: none does not exist: pass a folder from `paco-hf data"),
    ([*EMBED, "--train_list", "none"], "--train_list: none does not exist: pass a list file"),
    ([*EMBED, "--dataset", "builtin", "--train_split", "x"], "the splits of builtin are fixed"),
    ([*EMBED, "--neighbors", "nan"], "--neighbors must be an integer, got 'nan'"),
    (["index", "none"], "'none' is neither a local folder nor a Hub id"),
    (["index", CHECKPOINT, "--dataset", "none/none/none"], "none/none/none does not exist"),
    (["index", CHECKPOINT, "--dataset_path", "none"], "--dataset_path: none does not exist"),
    (["index", CHECKPOINT, "--test_list", "none"], "--test_list: none does not exist"),
    (["index", CHECKPOINT, "--output", "full"], "full is not empty: use --overwrite, which replaces only an index"),
    (["index", CHECKPOINT, "--output", "bad.json/x"], "cannot be created"),
    (["demo", "none"], "'none' is neither a local folder nor a Hub id"),
    (["demo", CHECKPOINT, "--examples", "none.png"], "none.png does not exist"),
    (["demo", CHECKPOINT, "--index", "empty"], "empty is not an image index: create one with `paco-hf index`"),
    (["demo", CHECKPOINT, "--port", "0"], "--port must be 1 to 65535"),
    (["export", "none", "out", "--to", "timm"], "'none' is neither a local folder nor a Hub id"),
    (["export", CHECKPOINT, "full", "--to", "timm"], "full exists and is not an empty folder"),
    (["export", CHECKPOINT, "out", "--to", "tflite"], "invalid choice: 'tflite'"),
    (["push", TRAINED, "ada/x", "--to", "tflite"], "invalid choice: 'tflite'"),
    (
        ["predict", "--onnx", "none.onnx", PICTURE],
        "--onnx: none.onnx does not exist: pass a file from `paco-hf export",
    ),
    (["convert", "none.pth", "out"], "none.pth does not exist"),
    (["convert", "hf://user/name", "out"], "'hf://user/name' is not the URL of a file"),
    (["convert", "ftp://x/y.pth", "out"], "is neither a file nor a known URL: pass a file"),
    (["convert", PICTURE, "full"], "full exists and is not an empty folder"),
    ([*CONVERT, "--recipe", "none"], "--recipe: 'none' is neither a recipe nor a file"),
    ([*CONVERT, "--recipe", "gpaco-ensemble-imagenet-lt"], "is an ensemble of"),
    ([*CONVERT, "--backbone_kwargs", "[1]"], "backbone_kwargs must be a JSON object"),
    ([*CONVERT, "--dataset", "none.csv"], "none.csv does not exist"),
    ([*CONVERT, "--dataset", "imagenet", "--dataset_path", "none"], "--dataset_path: none does not exist"),
    ([*CONVERT, "--dataset", "imagenet-lt", "--train_list", "none"], "--train_list: none does not exist"),
    ([*CONVERT, "--dataset", "full", "--dataset_path", "full"], "for your own folder, use --dataset full"),
    ([*CONVERT, "--batch_size", "0"], "--batch_size must be at least 1, got 0"),
    (["data", "stats", "none.csv"], "none.csv does not exist"),
    (["data", "stats", "nobody/none"], "'nobody/none' is not a local folder, and cannot be loaded from the Hub"),
    (["data", "stats", "imagenet", "--dataset_path", "none"], "--dataset_path: none does not exist"),
    (["data", "stats", "builtin", "--plot", "none/x.png"], "there is no folder none"),
    (["data", "stats", "builtin", "--plot", "x.txt"], "--plot must be a file ending in .png, .svg, .pdf"),
    (["data", "stats", "cifar100-lt", "--imbalance_factor", "inf"], "--imbalance_factor must be at least 1, got inf"),
    (["data", "verify", "none.txt"], "none.txt does not exist: pass a list file"),
    (["data", "verify", "empty"], "empty is empty: pass a folder from"),
    (["data", "prepare", "./none", "--out", "x"], "./none does not exist"),
    (["data", "prepare", "imagenet", "--source", "./none", "--out", "x"], "./none does not exist"),
    (["data", "prepare", "imagenet", "--source", "nobody/none", "--out", "x"], "cannot be loaded from the Hub"),
    (["data", "prepare", "imagenet-lt", "--list", "test=none", "--out", "x"], "--list: none does not exist"),
    (["data", "prepare", "imagenet-lt", "--out", "full"], "--out full is not empty"),
    (["data", "prepare", "imagenet-lt", "--out", "x", "--threads", "0"], "--threads must be at least 1, got 0"),
    (["data", "prepare", "imagenet-lt", "--out", "x", "--shard_mib", "0"], "--shard_mib must be positive, got 0"),
    (
        ["data", "prepare", "imagenet-lt", "--list", "val=none.txt", "--out", "x"],
        "use FILE or SPLIT=FILE, where SPLIT is one of train",
    ),
    (["data", "prepare", "builtin", "--out", "x"], "the built-in dataset needs no preparation"),
    (["card", "--recipes", "bad.json"], "argument --recipes: bad.json is not a folder"),
    (["data", "nonsense"], "invalid choice: 'nonsense'"),
    (["recipes", "show", "none"], "'none' is neither a recipe nor a file"),
    (["report", "none"], "is missing: pass the folder of a finished run"),
    (["report", TRAINED, "--output", "none/x.html"], "there is no folder none"),
    (["card", "none"], "none does not exist: pass a run folder"),
    (["card", "empty"], "empty has no finished model"),
    (["card", "damaged"], "config.json is damaged (id2label does not match the classes: 'x')"),
    (["card", TRAINED, "--recipe", "none"], "--recipe: 'none' is neither a recipe nor a file"),
    (["card", TRAINED, "--repo_id", "a/b/c"], "'a/b/c' is not a Hub id: use user/name"),
    (["card", TRAINED, "--baselines", "none"], "--baselines: none does not exist"),
    (["push", "none", "nobody/none"], "none does not exist: pass a run folder"),
    (["push", "empty", "nobody/none"], "empty has no finished model"),
    (["push", TRAINED, "nobody/none", "--space", "--examples", "none.png"], "none.png does not exist"),
    (["push", TRAINED, "nobody/none", "--space", "--write_only", "full"], "full exists and is not an empty folder"),
    (["push", TRAINED, "nobody/none", "--space", "--include_index"], "has no index/ to include"),
    (["train", "--nproc", "0"], "--nproc must be a number of processes, at least 1, got '0'"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the commands of `WRONG` run."""
    for name in ("empty", "full", "damaged"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "damaged" / "config.json").write_text('{"id2label": "x"}')
    (tmp_path / "damaged" / "model.safetensors").touch()
    return tmp_path


def test_wrong_flags_and_missing_files_load_no_library(folder: Path) -> None:
    for (argv, message), (status, out, error) in zip(WRONG, run_light([a for a, _ in WRONG], folder), strict=True):
        assert (status, out) == (2, ""), argv
        assert error.startswith(f"paco-hf {argv[0]}: "), error
        assert message in error
        assert error.count("\n") == 1
    assert not (folder / "x").exists()
    assert not (folder / "out").exists()


def test_what_is_not_on_the_hub_is_refused_before_libraries_load(tmp_path: Path) -> None:
    with Hub({"token-ada": "ada"}) as hub:
        online = {**hub.environment("token-ada", tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        commands = [["predict", "runs/typo", PICTURE], ["data", "stats", "nobody/none"]]
        for (*_, name), (status, _, error) in zip(commands, run_light(commands, tmp_path, online), strict=True):
            repo_id = "runs/typo" if name == PICTURE else name
            assert status == 2
            assert f"'{repo_id}' is not a local folder, and cannot be loaded from the Hub (HTTP 404" in error
            assert error.count("\n") == 1
    assert [request.path for request in hub.requests] == ["/api/models/runs/typo", "/api/datasets/nobody/none"]


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
        ["data", "stats", "imagenet", "--dataset_path", "tree"],
        ["report", TRAINED, "copy", "--json"],
        ["card", "copy"],
    ]
    (tmp_path / "run").symlink_to(tmp_path / "copy")
    subprocess.run(["cp", "-r", TRAINED, tmp_path / "copy"], check=True)
    recipe = tmp_path / "copy" / "recipe.yaml"
    recipe.write_text(f"{recipe.read_text().replace('pretrained: false', 'pretrained: true')}adam_beta1: 0.8\n")
    record = json.loads((tmp_path / "copy" / "run.json").read_text())
    (tmp_path / "copy" / "run.json").write_text(json.dumps(record | {"base_model": "ada/weights"}))
    for name in ("train/n01440764/a.png", "train/n01443537/b.png", "val/n01440764/c.png"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True)
        (tmp_path / "tree" / name).symlink_to(PICTURE)
    for status, _, error in run_light(commands, tmp_path):
        assert status == 0, error
    assert "base_model: ada/weights" in (tmp_path / "copy" / "README.md").read_text()


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
    code = "from paco_hf.utils.console import announce_loading; import importlib.util as u"
    code += "\nwith announce_loading('paco-hf x'): "

    printed = on_a_terminal(f"{code}u.find_spec('torch'); u.find_spec('timm')")
    assert printed == "paco-hf x: loading PyTorch ...\n"
    assert on_a_terminal(f"{code}pass\nu.find_spec('torch')") == ""


def test_a_run_says_so_at_once_without_a_terminal() -> None:
    code = "from paco_hf.utils.console import announce_loading; import sys"
    code += "\nwith announce_loading('paco-hf train', at_once=True): "
    check = "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("paco-hf train: loading PyTorch and transformers ...\n", "")
