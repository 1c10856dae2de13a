"""The recipes are the reference's rows, read afresh; and how recipe, flags and number of processes make a run."""

import json
from pathlib import Path

import pytest
import yaml
from user_data import complaint

from paco_hf import PaCoTrainingArguments
from paco_hf.arguments.parser import parse_run, resolved_recipe
from paco_hf.arguments.recipes import overview, read_recipe, recipe_names
from paco_hf.arguments.settings import run_settings
from paco_hf.cli import main

# By row: the recipe, the figure reported, prior, views and precision.
WHAT = """
P1  paco-resnet50-imagenet-lt        57.0 yes randcls-n2-m10 sim          fp32
P2  paco-resnext50-imagenet-lt       58.2 yes stack-n2-m10   sim          fp32
P3  paco-resnext101-imagenet-lt      60.0 yes stack-n3-m10   sim          fp32
P4  paco-resnet50-inat2018           73.2 yes randcls-n2-m10 sim          fp32
P5  paco-resnet152-inat2018          75.2 yes randcls-n2-m10 sim          fp32
P6  paco-resnet152-places-lt         41.2 yes sim            sim          fp16
P7  paco-resnet32-cifar100-lt-100    52.0 yes cifar_reg      cifar_sim    fp32
P8  paco-resnet32-cifar100-lt-50     56.0 yes cifar_reg      cifar_sim    fp32
P9  paco-resnet32-cifar100-lt-10     64.2 yes cifar_reg      cifar_sim    fp32
P10 paco-resnet50-imagenet           79.3 no  randcls-n2-m10 sim          fp32
P11 paco-resnet101-imagenet          80.9 no  randcls-n2-m10 sim          fp32
P12 paco-resnet200-imagenet          81.8 no  stack-n3-m12   sim          fp16
G1  gpaco-resnet50-imagenet-lt       58.5 yes randcls-n2-m10 stack-n2-m10 fp32
G2  gpaco-resnext50-imagenet-lt      58.9 yes randcls-n3-m10 stack-n3-m10 fp32
G3  gpaco-resnext101-imagenet-lt     60.8 yes randcls-n5-m10 stack-n5-m10 fp32
G5  gpaco-resnet50-inat2018          75.4 yes randcls-n2-m10 sim          fp32
G6  gpaco-resnet152-inat2018         78.1 yes randcls-n2-m10 sim          fp32
G7  gpaco-resnet152-places-lt        41.7 yes sim            sim          fp16
G8  gpaco-resnet50-cifar100          80.3 yes cifar_sim      cifar_sim    fp32
G9  gpaco-resnet50-imagenet          79.7 no  randcls-n2-m10 stack-n2-m10 fp32
M1  multitask-resnext50-imagenet-lt  -    yes randcls-n3-m10 stack-n3-m10 fp32
M2  multitask-resnext101-imagenet-lt -    yes randcls-n5-m10 stack-n5-m10 fp32
M3  multitask-resnet50-cifar100      79.1 no  cifar_sim      cifar_sim    fp32
V1  gpaco-vit-base-imagenet          84.0 no  stack-n12-m10  sim          fp16
V2  gpaco-vit-large-imagenet         86.0 no  stack-n12-m10  sim          fp16
V3  multitask-vit-base-imagenet      83.4 no  stack-n12-m10  sim          fp16
V4  gpaco_single-vit-base-imagenet   -    no  stack-n12-m10  -            fp16
"""
# By row: smoothing, alpha, temperature, K, D, learning rate, schedule, warm-up, epochs, weight decay, batch.
HOW = """
P1  0   0.05  0.2  8192 128 0.02  cosine     10 400 0.0005 128
P2  0   0.05  0.07 8192 128 0.02  cosine     10 400 0.0005 128
P3  0   0.05  0.2  8192 128 0.03  cosine     10 400 0.0005 128
P4  0   0.05  0.2  8192 128 0.02  cosine     10 400 0.0001 128
P5  0   0.05  0.2  8192 128 0.02  cosine     10 400 0.0001 128
P6  0   0.05  0.2  8192 128 0.02  cosine     5  30  0.0005 128
P7  0   0.01  0.05 1024 32  0.05  cifar_step 10 400 0.0005 128
P8  0   0.01  0.05 1024 32  0.05  cifar_step 10 400 0.0005 128
P9  0   0.01  0.05 1024 32  0.05  cifar_step 10 400 0.0005 128
P10 0   0.05  0.2  8192 128 0.04  cosine     10 400 0.0001 256
P11 0   0.05  0.2  8192 128 0.04  cosine     10 400 0.0001 256
P12 0   0.05  0.2  8192 128 0.04  cosine     10 400 0.0001 256
G1  0   0.045 0.2  8192 128 0.04  cosine     10 400 0.0005 128
G2  0   0.05  0.2  8192 128 0.06  cosine     10 400 0.0005 128
G3  0   0.05  0.2  8192 128 0.06  cosine     10 400 0.0005 128
G5  0   0.05  0.2  8192 128 0.04  cosine     10 400 0.0001 128
G6  0   0.05  0.2  8192 128 0.04  cosine     10 400 0.0001 128
G7  0   0.02  0.2  8192 128 0.02  cosine     5  30  0.0005 128
G8  0   0.01  0.07 1024 128 0.05  cifar_step 10 400 0.0005 128
G9  0.1 0.05  0.2  8192 128 0.08  cosine     10 400 0.0001 512
M1  0   0.5   0.2  8192 128 0.06  cosine     10 400 0.0005 128
M2  0   0.5   0.2  8192 128 0.06  cosine     10 400 0.0005 128
M3  0   0.5   0.07 1024 128 0.05  cifar_step 10 400 0.0005 128
V1  0.1 0.2   0.2  8192 128 0.002 mae        5  100 0.05   1024
V2  0.1 0.2   0.2  8192 128 0.004 mae        5  50  0.05   1024
V3  0.1 0.5   0.2  8192 128 0.002 mae        5  100 0.05   1024
V4  0.1 0.2   0.2  8192 128 0.002 mae        5  100 0.05   1024
"""
DATA_SETS = ("imagenet-lt", "imagenet", "inat2018", "places-lt", "cifar100-lt", "cifar100")
BACKBONES = {
    "resnext50": "resnext50_32x4d",
    "resnext101": "resnext101_32x4d",
    "vit-base": "vit_base_patch16_224.mae",
    "vit-large": "vit_large_patch16_224.mae",
}
ROWS = [line.split() for line in WHAT.strip().splitlines()]
SETTINGS = {row: values for row, *values in (line.split() for line in HOW.strip().splitlines())}
# Of a row: layer decay, stochastic depth, accumulated micro-batches.
VITS = {"V1": (0.65, 0.1, 4), "V2": (0.75, 0.2, 8), "V3": (0.65, 0.1, 4), "V4": (0.65, 0.1, 4)}


@pytest.mark.parametrize("fields", ROWS, ids=lambda fields: fields[0])
def test_settings_are_the_rows(fields: list[str]) -> None:
    row, name, top1, prior, query, key, precision = (None if field == "-" else field for field in fields)
    smooth, alpha, temperature, k, d, rate, schedule, warmup, epochs, decay, batch = SETTINGS[row]
    loss, _, rest = name.partition("-")
    dataset = next(known for known in DATA_SETS if known in rest)
    backbone, imbalance = rest.split(f"-{dataset}")
    prefix, tag = "cifar_" * dataset.startswith("cifar"), ".tv_in1k" * (dataset == "places-lt")
    recipe = read_recipe(name)
    assert recipe.row == row
    assert (recipe.reported or {"top1": None})["top1"] == (top1 and float(top1))
    assert recipe.settings.get("precision") == precision
    run, args = parse_run(["--recipe", name, "--precision", "fp32"])
    assert (args.loss, run.dataset) == (loss, dataset)
    assert run.backbone == f"{prefix}{BACKBONES.get(backbone, backbone)}{tag}"
    assert not imbalance or run.imbalance_factor == int(imbalance.removeprefix("-"))
    assert (args.class_prior, args.label_smoothing_factor) == (prior == "yes", float(smooth))
    assert (args.alpha, args.temperature) == (float(alpha), float(temperature))
    assert (args.queue_size, args.projection_dim) == (int(k), int(d))
    assert (args.learning_rate, args.epoch_schedule, args.warmup_epochs) == (float(rate), schedule, int(warmup))
    assert (args.num_train_epochs, args.weight_decay) == (int(epochs), float(decay))
    assert run.global_batch_size == args.per_device_train_batch_size * args.gradient_accumulation_steps == int(batch)
    assert (run.query_view, run.key_view) == (query, key)
    assert (args.beta, args.gamma, args.supervised_temperature, args.key_momentum) == (1, 1, 1, 0.999)
    assert (run.validation_fraction, args.seed, args.max_grad_norm) == (0, 0, 0)
    assert (args.dataloader_drop_last, args.gather_batch, args.projector) == (True, False, "auto")
    assert run.notes == ()
    if row in VITS:
        layers, depth, accumulated = VITS[row]
        assert (args.optim, args.adam_beta1, args.adam_beta2, args.adam_epsilon) == ("adamw_torch", 0.9, 0.999, 1e-8)
        assert (args.layer_decay, args.decay_all_parameters, args.min_learning_rate) == (layers, False, 1e-6)
        assert run.backbone_options == {"global_pool": "avg", "drop_path_rate": depth}
        assert (args.gradient_accumulation_steps, run.eval_interpolation) == (accumulated, "bicubic")
        assert (run.pretrained, run.classifier_init_std) == (True, 2e-5)
    else:
        assert (args.optim, args.momentum, args.nesterov) == ("sgd", 0.9, False)
        assert (args.layer_decay, args.decay_all_parameters) == (None, True)
        assert (args.gradient_accumulation_steps, run.eval_interpolation) == (1, "bilinear")
        assert (run.pretrained, run.classifier_init_std) == (dataset == "places-lt", None)
        fresh = not (prefix or tag)
        assert run.backbone_options == ({"zero_init_last": False} if fresh else {})
    assert args.trainable_convolutions == ("layer4.2" if dataset == "places-lt" else None)


def test_every_row_has_one_file() -> None:
    recipes = [read_recipe(name) for name in recipe_names()]
    rows = sorted(recipe.row for recipe in recipes if recipe.row)
    numbers = {"P": 12, "G": 9, "M": 3, "V": 4}
    assert rows == sorted(f"{part}{i + 1}" for part, count in numbers.items() for i in range(count))
    assert set(rows) == {*SETTINGS, "G4"} == {*(fields[0] for fields in ROWS), "G4"}
    for recipe in recipes:
        assert recipe.about
        if recipe.row is None:
            assert recipe.reported is None
        elif recipe.reported is None:
            assert "reports no figure" in recipe.about
        else:
            later = "a later work's table, SCoRe_GLMC/README.md in amajee11us/SCoRe"
            measured_by_others = ("reference README", later, f"{later}; one leaderboard copy shows 50.9")
            assert recipe.reported["source"] in measured_by_others
            assert (recipe.reported["source"] == "reference README") == (recipe.row not in ("P7", "P8", "P9"))


def test_names_say_loss_backbone_and_data() -> None:
    for name in recipe_names():
        recipe = read_recipe(name)
        if recipe.ensemble:
            continue
        settings = recipe.settings
        backbone = settings["backbone"].split(".")[0].removeprefix("cifar_")
        backbone = backbone.replace("_32x4d", "").replace("_patch16_224", "").replace("_", "-")
        parts = [settings["loss"], backbone, settings["dataset"], settings.get("imbalance_factor")]
        assert name == "-".join(str(part) for part in parts if part is not None)


def test_show_is_a_recipe_with_the_same_settings(tmp_path, capsys) -> None:
    file = tmp_path / "shown.yaml"
    for name in recipe_names():
        capsys.readouterr()
        assert main(["recipes", "show", name]) == 0
        file.write_text(capsys.readouterr().out)
        shown = yaml.safe_load(file.read_text())
        recipe = read_recipe(name)
        assert {key: shown[key] for key in recipe.metadata if key != "about"} == {
            key: value for key, value in recipe.metadata.items() if key != "about"
        }
        assert shown["about"].split() == recipe.about.split()
        if recipe.ensemble:
            continue
        assert shown["precision"] == recipe.settings.get("precision", "auto")
        assert {"projector", "max_grad_norm", "eval_interpolation"} <= shown.keys()
        again = resolved_recipe(str(file))
        assert {**again, "about": None} == {**resolved_recipe(name), "about": None}
        settings = run_settings(*parse_run(["--recipe", str(file), "--precision", "fp32"]))
        assert settings == run_settings(*parse_run(["--recipe", name, "--precision", "fp32"]))


def test_table(capsys) -> None:
    assert main(["recipes"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(recipe_names()) < lines.keys()
    assert " ".join(lines["paco-resnet50-imagenet-lt"].split()) == (
        "paco-resnet50-imagenet-lt P1 imagenet-lt resnet50 400 128 57.0 (reference README)"
    )
    assert lines["paco-resnet32-cifar100-lt-10"].endswith(" 64.2 (SCoRe README)")
    assert lines["28"] == "28 published rows and 5 for the built-in dataset"
    assert lines["gpaco_single-vit-base-imagenet"].endswith("1024   -")
    assert main(["recipes", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert entries == overview()
    assert entries[0]["reported"] == {"top1": 57.0, "source": "reference README"}


def test_ensemble_is_not_trained(capsys) -> None:
    line = complaint(capsys, "train", "--recipe", "gpaco-ensemble-imagenet-lt")
    assert "train its members, gpaco-resnext101-imagenet-lt and gpaco-resnext50-imagenet-lt, then" in line
    assert "paco-hf evaluate" in line
    for member in read_recipe("gpaco-ensemble-imagenet-lt").ensemble or []:
        assert member in recipe_names()
    assert "did you mean gpaco-resnet50-imagenet-lt" in complaint(
        capsys, "recipes", "show", "gpaco-resnet50-imagenet-tl"
    )


def batch_of(*argv: str) -> tuple[int, int | None, float, str | None]:
    run, args = parse_run(["--recipe", "paco-resnet50-imagenet-lt", *argv])
    return (
        args.per_device_train_batch_size,
        run.global_batch_size,
        args.learning_rate,
        run.notes[0] if run.notes else None,
    )


def test_batch_and_learning_rate_follow_the_processes(monkeypatch, tmp_path) -> None:
    assert batch_of() == (128, 128, 0.02, None)
    assert batch_of("--gradient_accumulation_steps", "4") == (32, 128, 0.02, None)
    note = (
        "batch size 64 instead of the recipe's 128: learning rate 0.02 -> 0.01 (--scale_learning_rate false "
        "keeps the recipe's)"
    )
    assert batch_of("--per_device_train_batch_size", "64") == (64, 64, 0.01, note)
    assert batch_of("--global_batch_size", "64") == (64, 64, 0.01, note)
    assert batch_of("--per_device_train_batch_size=64", "--scale_learning_rate", "false")[2:] == (0.02, None)
    assert batch_of("--per_device_train_batch_size", "64", "--learning_rate", "0.5")[1:] == (64, 0.5, None)
    recipe = tmp_path / "heads.yaml"
    recipe.write_text("loss: paco\nglobal_batch_size: 64\nlearning_rate: 0.1\nhead_learning_rate: 0.4\n")
    for flags, rates in (([], (0.05, 0.2)), (["--head_learning_rate", "0.3"], (0.05, 0.3))):
        run, args = parse_run(["--recipe", str(recipe), "--per_device_train_batch_size", "32", *flags])
        assert (args.learning_rate, args.head_learning_rate) == rates
        assert ("head learning rate 0.4 -> 0.2" in run.notes[0]) is not bool(flags)
    monkeypatch.setattr(PaCoTrainingArguments, "world_size", property(lambda self: 4))
    assert batch_of() == (32, 128, 0.02, None)
    per_process, batch, rate, _ = batch_of("--gradient_accumulation_steps", "50")
    assert (per_process, batch, rate) == (1, 200, pytest.approx(0.02 * 200 / 128))
    monkeypatch.setattr(PaCoTrainingArguments, "world_size", property(lambda self: 3))
    assert batch_of()[:3] == (43, 129, pytest.approx(0.02 * 129 / 128))
    # The recipe that the run saves gives the same run, and nothing is scaled twice.
    first = run_settings(*parse_run(["--recipe", "paco-resnet50-imagenet-lt"]))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(first))
    run, args = parse_run(["--recipe", str(tmp_path / "recipe.yaml")])
    assert run_settings(run, args) == first
    assert run.notes == ()


def test_least_rate_and_users_batches_are_left_alone() -> None:
    short = ["--recipe", "gpaco-vit-base-imagenet", "--precision", "fp32", "--gradient_accumulation_steps", "1"]
    _, args = parse_run([*short, "--per_device_train_batch_size", "32"])
    assert (args.learning_rate, args.min_learning_rate) == (pytest.approx(2e-3 / 32), 1e-6)
    run, args = parse_run(["--dataset", "imagenet-lt", "--per_device_train_batch_size", "32"])
    assert (run.global_batch_size, args.learning_rate, args.per_device_train_batch_size) == (None, 0.02, 32)
    run, args = parse_run(["--dataset", "imagenet-lt", "--global_batch_size", "64"])
    assert (args.per_device_train_batch_size, args.learning_rate, run.notes) == (64, 0.02, ())
    with pytest.raises(ValueError, match="global_batch_size must be at least 1, got 0"):
        parse_run(["--global_batch_size", "0"])


@pytest.mark.slow
def test_scaled_run_says_so_once_and_resumes_without_a_change(tmp_path, capsys) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{loss: ce, backbone: cifar_resnet20, max_steps: 1, global_batch_size: 64, learning_rate: 0.1}")
    command = ["train", "--recipe", str(recipe), "--output_dir", str(tmp_path / "run")]
    command += ["--per_device_train_batch_size", "32", "--eval_interpolation", "bicubic"]
    assert main(command) == 0
    assert capsys.readouterr().out.count("batch size 32 instead of the recipe's 64: learning rate 0.1 -> 0.05") == 1
    processor = json.loads((tmp_path / "run" / "preprocessor_config.json").read_text())
    assert processor["resample"] == 3
    saved = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert (saved["global_batch_size"], saved["learning_rate"]) == (32, 0.05)
    assert main([*command, "--resume"]) == 0
    assert "nothing to resume" in capsys.readouterr().out
    (tmp_path / "run" / "metrics.json").unlink()
    assert main([*command, "--resume"]) == 0
    out = capsys.readouterr().out
    assert "resuming from" in out
    assert "changed settings" not in out


@pytest.mark.slow
def test_the_documented_table_is_that_of_the_recipes() -> None:
    from benchmarks.rows import DOCUMENT, document_table, table

    assert document_table(DOCUMENT.read_text(encoding="utf-8")) == table()


def test_every_setting_of_a_recipe_is_honored_or_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    content = {"dataset": "photos", "output_dir": "my-run", "overwrite": True, "save_steps": 7, "eval_steps": 5}
    recipe.write_text(yaml.safe_dump(content))
    run, args = parse_run(["--recipe", str(recipe)])
    assert (args.output_dir, run.overwrite) == ("my-run", True)
    assert (args.save_strategy, args.save_steps, args.eval_strategy, args.eval_steps) == ("steps", 7, "steps", 5)
    assert parse_run(["--recipe", str(recipe), "--output_dir", "another"])[1].output_dir == "another"
    recipe.write_text(yaml.safe_dump({**content, "save_strategy": "epoch"}))
    assert parse_run(["--recipe", str(recipe)])[1].save_strategy == "epoch"
    assert parse_run(["--recipe", str(recipe), "--save_steps", "3"])[1].save_strategy == "steps"
    for name in ("recipe", "notes", "automatic"):
        recipe.write_text(yaml.safe_dump({"dataset": "photos", name: ["learning_rate"]}))
        with pytest.raises(ValueError, match=f"has an unknown setting '{name}'"):
            parse_run(["--recipe", str(recipe)])
