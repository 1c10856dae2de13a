"""The commands as a user types them: what they leave, what they print, and one clear line for what is wrong."""

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import SHORT
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from transformers import pipeline
from user_data import complaint, encoded, folders

import paco_hf
from paco_hf.cli import main
from paco_hf.data.loading import load_data


@pytest.fixture(scope="module")
def run(paco_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(paco_run, tmp_path_factory.mktemp("run") / "paco"))


@pytest.fixture(scope="module")
def own_images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags for a data set of a few."""
    return ["--dataset", str(folders(tmp_path_factory.mktemp("own") / "birds", {"a": 48, "b": 32}, size=(32, 32)))]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    test = load_data().test
    for i in (0, 700, 1500):
        test.open(i).save(folder / f"{i:04}.png")
    return folder


def test_run_folder(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "metrics.json",
        "recipe.yaml",
        "log.jsonl",
    } <= names
    assert "checkpoint-4" in names
    assert not (run / "paco_training_state.safetensors").exists()
    metrics = json.loads((run / "metrics.json").read_text())
    for split, size in (("test", 20), ("validation", 20)):
        scores = metrics[split]
        assert {
            "accuracy",
            "balanced_accuracy",
            "many",
            "medium",
            "few",
            "worst_class",
            "harmonic_mean",
        } <= scores.keys()
        assert len(scores["per_class"]) == size
    config = json.loads((run / "config.json").read_text())
    assert sum(config["selection_counts"]) == 1313
    assert sum(config["class_counts"]) < 1313
    assert config["id2label"]["0"] == "apple"


def test_resolved_recipe_reproduces_the_run(run: Path, tmp_path) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert recipe["loss"] == "paco"
    assert recipe["max_steps"] == 4
    assert not {"output_dir", "resume", "overwrite"} & recipe.keys()
    assert main(["train", "--recipe", str(run / "recipe.yaml"), "--output_dir", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_flags_win_over_the_recipe() -> None:
    from paco_hf.arguments.parser import parse_run

    run, args = parse_run(["--recipe", "paco-resnet32-cifar100-lt-100", "--queue_size", "77", "--output_dir", "x"])
    assert (run.dataset, run.imbalance_factor, run.validation_fraction) == ("cifar100-lt", 100, 0)
    assert (run.query_view, run.key_view, run.backbone) == ("cifar_reg", "cifar_sim", "cifar_resnet32")
    assert (args.loss, args.alpha, args.temperature, args.beta, args.gamma) == ("paco", 0.01, 0.05, 1.0, 1.0)
    assert (args.projection_dim, args.key_momentum, args.queue_size) == (32, 0.999, 77)
    assert (args.learning_rate, args.momentum, args.weight_decay, args.nesterov) == (0.05, 0.9, 5e-4, False)
    assert (args.epoch_schedule, args.warmup_epochs, args.num_train_epochs) == ("cifar_step", 10, 400)
    assert (args.per_device_train_batch_size, args.decay_all_parameters, args.dataloader_drop_last) == (
        128,
        True,
        True,
    )
    assert args.max_grad_norm == 0
    default, _ = parse_run(["--loss", "ce"])
    assert default.dataset == "builtin"
    assert parse_run(["--loss", "ce"])[1].epoch_schedule == "cosine"
    _, stepwise = parse_run(["--lr_scheduler_type", "constant_with_warmup", "--warmup_steps", "50"])
    assert (stepwise.epoch_schedule, stepwise.lr_scheduler_type) == ("none", "constant_with_warmup")
    for data in ("cifar100-lt", "photos"):  # a warm-up in epochs speaks for a schedule that has one
        run, warmed = parse_run(["--dataset", data, "--warmup_epochs", "3"])
        assert (warmed.epoch_schedule, warmed.warmup_epochs) == ("cosine", 3)
        assert not run.automatic & {"epoch_schedule", "warmup_epochs"}
    _, plain = parse_run(["--epoch_schedule", "none"])  # without the recipe's warm-up
    assert plain.epoch_schedule == "none"


def test_evaluate_agrees_with_the_run_and_with_pipeline(run: Path, capsys, blank_figures) -> None:
    metrics = json.loads((run / "metrics.json").read_text())["test"]
    capsys.readouterr()
    assert main(["evaluate", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: found[name] for name in metrics} == metrics
    assert main(["evaluate", str(run), "--no_report"]) == 0
    assert f"{100 * metrics['accuracy']:.1f}" in capsys.readouterr().out
    data = load_data()
    classify = pipeline("image-classification", model=str(run))
    rows = list(range(0, 2000, 20))
    guesses = [out[0]["label"] for out in classify([data.test.open(i) for i in rows], batch_size=32)]
    right = [guess == data.class_names[data.test.labels[i]] for guess, i in zip(guesses, rows, strict=True)]
    by_class = [sum(right[5 * c : 5 * c + 5]) for c in range(20)]
    assert all(total == 0 for total, a in zip(by_class, metrics["per_class"], strict=True) if a == 0)
    assert any(by_class)


def test_predict(run: Path, photos: Path, capsys) -> None:
    capsys.readouterr()
    assert (
        main(["predict", str(run), str(photos), str(photos / "0000.png"), "--json", "--top", "3", "--batch_size", "2"])
        == 0
    )
    results = json.loads(capsys.readouterr().out)
    assert [Path(r["file"]).name for r in results] == ["0000.png", "0700.png", "1500.png", "0000.png"]
    classify = pipeline("image-classification", model=str(run))
    for result in results:
        assert set(result) == {"file", "label", "score", "top"}
        assert len(result["top"]) == 3
        assert result["top"][0] == {"label": result["label"], "score": result["score"]}
        expected = classify(result["file"])[0]
        assert result["label"] == expected["label"]
        assert result["score"] == pytest.approx(expected["score"], abs=1e-5)
    assert main(["predict", str(run), str(photos)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_folder_with_a_run_in_it(run: Path, own_images: list[str], capsys, tmp_path) -> None:
    assert "not empty: resume its run with --resume" in complaint(capsys, "train", *SHORT, "--output_dir", str(run))
    before = (run / "model.safetensors").read_bytes()
    assert main(["train", *SHORT, "--output_dir", str(run), "--resume"]) == 0
    assert "is already finished" in capsys.readouterr().out
    assert (run / "model.safetensors").read_bytes() == before
    changed = complaint(capsys, "train", *SHORT, "--output_dir", str(run), "--resume", "--learning_rate", "0.5")
    assert "finished and was trained with different settings (learning_rate 0.1 -> 0.5)" in changed
    (tmp_path / "notes.txt").write_text("mine")
    again = ["train", *own_images, *SHORT, "--overwrite", "--loss", "ce", "--output_dir"]
    assert "is not empty and has no run (notes.txt)" in complaint(capsys, *again, str(tmp_path))
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    (copy / "notes.txt").write_text("mine")
    assert main([*again, str(copy)]) == 0
    assert (copy / "notes.txt").read_text() == "mine"
    assert yaml.safe_load((copy / "recipe.yaml").read_text())["loss"] == "ce"
    assert "contradict" in complaint(capsys, "train", "--resume", "--overwrite")


def test_finished_run_can_be_lengthened(own_images: list[str], tmp_path) -> None:
    command = ["train", *own_images, *SHORT, "--output_dir", str(tmp_path), "--eval_steps", "2"]
    assert main(command) == 0
    (tmp_path / "metrics.json").unlink()
    assert main([*command, "--resume", "--max_steps", "6"]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["last_step"] == 6
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["max_steps"] == 6


@pytest.mark.slow
def test_truncated_checkpoint_is_named(own_images: list[str], tmp_path, capsys) -> None:
    command = ["train", *own_images, *SHORT, "--output_dir", str(tmp_path)]
    assert main(command) == 0
    (tmp_path / "metrics.json").unlink()
    before = (tmp_path / "model.safetensors").read_bytes()
    damaged = [
        "optimizer.pt",
        "scheduler.pt",
        "paco_training_state.safetensors",
        "model.safetensors",
        "trainer_state.json",
    ]
    for name in damaged:
        file = tmp_path / "checkpoint-4" / name
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        line = complaint(capsys, *command, "--resume")
        assert f"checkpoint-4/{name.split('.')[0]}" in line or name == "scheduler.pt"
        assert "cannot be read" in line
        file.write_bytes(content)
    (tmp_path / "checkpoint-4" / "optimizer.pt").rename(tmp_path / "aside.pt")
    assert "lacks optimizer.pt" in complaint(capsys, *command, "--resume")
    (tmp_path / "aside.pt").rename(tmp_path / "checkpoint-4" / "optimizer.pt")
    # Nothing was left to train, so the whole files give the model that the run ended with.
    assert main([*command, "--resume"]) == 0
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert json.loads((tmp_path / "metrics.json").read_text())["last_step"] == 4
    (tmp_path / "metrics.json").write_text("{")
    assert "metrics.json is damaged" in complaint(capsys, *command, "--resume")
    (tmp_path / "model.safetensors").write_bytes(before[:999])
    assert "cannot be read" in complaint(capsys, "evaluate", str(tmp_path))


def test_dry_run_checks_everything_and_writes_nothing(tmp_path, capsys, no_rehearsal) -> None:
    assert main(["train", *SHORT, "--dry_run", "--output_dir", str(tmp_path / "none")]) == 0
    out = capsys.readouterr().out
    assert "20 classes, 250 to 5 images per class" in out
    assert "max_steps: 4" in out
    assert not (tmp_path / "none").exists()


def test_bad_input_is_one_clear_line_before_any_work(tmp_path, capsys) -> None:
    features = Features({"image": ImageFeature(), "label": Value("int64")})
    for name, labels, images in (
        ("good", [0, 1, 1], None),
        ("broken", [0, 1, 1], [encoded(), {"bytes": b"no image", "path": "b.png"}, encoded()]),
    ):
        (tmp_path / name).mkdir()
        rows = {"image": images or [encoded(i) for i in range(3)], "label": labels}
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / name / "train.parquet")
    (tmp_path / "badtest").mkdir()
    for source, split in (("good", "train"), ("broken", "test")):
        (tmp_path / "badtest" / f"{split}.parquet").write_bytes((tmp_path / source / "train.parquet").read_bytes())
    (tmp_path / "recipe.yaml").write_text("projection_dim: 16.5")
    out = [
        "--output_dir",
        str(tmp_path / "out"),
        "--max_steps",
        "1",
        "--per_device_train_batch_size",
        "1",
        "--image_size",
        "32",
    ]
    good = ["--dataset", str(tmp_path / "good"), *out]
    for argv, message in (
        ((*out, "--backbone", "resnet5O"), "unknown backbone 'resnet5O': did you mean"),
        ((*out, "--backbone_kwargs", "{oops"), "backbone_kwargs must be a JSON object"),
        ((*good, "--label_column", "species"), "no column 'species' (columns: image, label)"),
        (("--dataset", str(tmp_path / "broken"), *out), "(b.png) cannot be decoded"),
        (("--dataset", "nobody/nothing", *out), "cannot be loaded from the Hub"),
        ((*out, "--query_view", "cifar"), "unknown view 'cifar'"),
        ((*out, "--recipe", "paco-resnet32-cifar100"), "did you mean paco-resnet32-cifar100-lt-100"),
        ((*out, "--learning_rat", "1"), "unknown argument '--learning_rat': did you mean --learning_rate"),
        ((*out, "--validation_fraction", "1.5"), "validation_fraction must be"),
        ((*out, "--temperature", "-1"), "temperature must be positive"),
        ((*out, "--queue_size", "many"), "invalid int value: 'many'"),
        ((*out, "--loss", "focal"), "invalid choice: 'focal'"),
        ((*out, "--image_size", "0"), "image_size must be at least 2"),
        ((*out, "--augment_backend", "gpu"), "invalid choice: 'gpu'"),
        (
            (*out, "--augment_backend", "tensor", "--image_size", "24"),
            "--augment_backend tensor cannot be used: 'cifar_light' needs images of 24 x 24 pixels, not 32 x 32",
        ),
        ((*out, "--view_draws", "each"), "invalid choice: 'each'"),
        (
            (*out, "--view_draws", "batch", "--augment_backend", "pil"),
            "--view_draws batch has no effect with --augment_backend pil",
        ),
        ((*out, "--view_draws", "image", "--image_size", "24"), "image has no effect on views of the pil backend"),
        ((*good, "--report_to", "nothing_known"), "nothing_known"),
        (("--dataset", str(tmp_path / "badtest"), *out), "image 1 of"),
        ((*out, "--backbone", "vit_tiny_patch16_224", "--backbone_kwargs", '{"num_heads": 5}'), "cannot be built"),
        ((*out, "--backbone", "dla46_c", "--image_size", "8"), "cannot take images of 8 x 8 pixels"),
        (("--recipe", str(tmp_path / "recipe.yaml"), *out), "invalid int value: '16.5'"),
    ):
        assert message in complaint(capsys, "train", *argv)
    assert "fewer than one batch" in complaint(capsys, "train", *good, "--per_device_train_batch_size", "9999")
    assert not (tmp_path / "out").exists()


def test_bad_input_of_the_other_verbs(run: Path, photos: Path, tmp_path, capsys) -> None:
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    for argv, message in (
        (("predict", str(run), str(tmp_path / "text.png"), "--strict"), "text.png cannot be decoded as an image"),
        (("predict", str(run), str(tmp_path / "empty")), "has no image files"),
        (("predict", str(run), str(tmp_path / "none.png")), "none.png does not exist"),
        (
            ("predict", str(tmp_path / "nowhere"), str(tmp_path / "text.png")),
            "nowhere' is neither a local folder nor a Hub id",
        ),
        (("evaluate", str(run), "--dataset", "nobody/nothing"), "cannot be loaded from the Hub"),
        (("recipes", "show", "nothing"), "'nothing' is neither a recipe nor a file"),
        (("fly",), "unknown verb 'fly'"),
        (("predict", str(run), str(photos), "--top", "0"), "--top must be at least 1, got 0"),
        (("predict", str(run)), "the following arguments are required: images"),
        (("predict", str(run), str(photos), "--precision", "fp16"), "fp16 needs a GPU"),
        (("evaluate", str(run), "--precision", "half"), "invalid choice: 'half'"),
        (("evaluate", str(run), "--batch_size", "0"), "--batch_size must be at least 1, got 0"),
    ):
        assert message in complaint(capsys, *argv)


def test_loss_that_explodes_ends_with_one_line(tmp_path, capsys) -> None:
    line = complaint(
        capsys,
        "train",
        *SHORT,
        "--loss",
        "ce",
        "--learning_rate",
        "1e30",
        "--epoch_schedule",
        "none",
        "--output_dir",
        str(tmp_path),
    )
    assert "at step" in line
    assert "learning_rate" in line


def test_a_reader_that_has_enough_is_no_error() -> None:
    command = f"{sys.executable} -m paco_hf recipes | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("141", "")


def test_help_is_readable(capsys) -> None:
    for arguments, expected, length in (
        (["--help"], "verbs:", 30),
        (["train", "--help"], "--loss {paco,gpaco", 295),
        (["predict", "--help"], "--json", 65),
        (["evaluate", "--help"], "--dataset_path", 75),
    ):
        with contextlib.suppress(SystemExit):  # argparse's
            main(arguments)
        out = capsys.readouterr().out
        assert expected in out
        assert len(out.splitlines()) < length
        assert "--deepspeed" not in out
    assert (
        "paco-hf VERB"
        in subprocess.run([sys.executable, "-m", "paco_hf", "--help"], capture_output=True, text=True).stdout
    )


def test_defaults_follow_the_size_of_the_images(tmp_path, capsys, no_rehearsal) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (300, 280), (i, 0, 0)).save(tmp_path / "photos" / split / name / f"{i}.png")
    assert main(["train", "--dataset", str(tmp_path / "photos"), "--dry_run", "--backbone", "resnet18"]) == 0
    photos = capsys.readouterr().out
    assert "query_view: regular" in photos
    assert "image_size: 224" in photos
    assert "augment_backend: pil" in photos
    builtin = Path(paco_hf.__file__).parent / "data" / "builtin"
    assert main(["train", "--dataset", str(builtin), "--dry_run", "--inspect", "false"]) == 0
    small = capsys.readouterr().out
    assert "backbone: cifar_resnet32" in small
    assert "image_size: 32" in small
    assert "augment_backend: tensor" in small
    assert main(["train", "--dataset", "builtin", "--recipe", "paco-resnet32-cifar100-lt-100", "--dry_run"]) == 0
    assert "query_view: cifar_reg" in capsys.readouterr().out


def test_recipes(capsys) -> None:
    assert main(["recipes"]) == 0
    assert "paco-resnet32-cifar100-lt-100" in capsys.readouterr().out.split()
    assert main(["recipes", "show", "paco-resnet32-cifar100-lt-100"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert "52.0" in shown["about"]


def test_photos_are_turned_as_their_exif_says(run: Path, tmp_path, capsys) -> None:
    upright = load_data().test.open(700).resize((64, 64))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    upright.save(tmp_path / "upright.png")
    capsys.readouterr()
    assert main(["predict", str(run), str(tmp_path), "--json"]) == 0
    turned, plain = json.loads(capsys.readouterr().out)
    assert turned["top"] == plain["top"]


def test_evaluate_needs_the_test_split_alone_and_the_same_classes(run: Path, tmp_path, capsys) -> None:
    folder = Path(paco_hf.__file__).parent / "data" / "builtin"
    (tmp_path / "test.parquet").write_bytes((folder / "test.parquet").read_bytes())
    capsys.readouterr()
    assert main(["evaluate", str(run), "--dataset", str(tmp_path), "--no_report", "--json"]) == 0
    metrics = json.loads((run / "metrics.json").read_text())["test"]
    found = json.loads(capsys.readouterr().out)
    assert {name: found[name] for name in metrics} == metrics
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["apple", "unicorn", "bed"])})
    rows = {"image": [encoded(i) for i in range(3)], "label": [0, 1, 2]}
    (tmp_path / "other").mkdir()
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "other" / "test.parquet")
    line = complaint(capsys, "evaluate", str(run), "--dataset", str(tmp_path / "other"))
    assert "has a class 'unicorn' that is not a class of" in line
    assert f"is not a class of {run} (which has 'apple', 'bed', " in line


def test_backbones_of_a_fixed_size_are_built_for_the_images(own_images: list[str], capsys, tmp_path) -> None:
    small = [*own_images, "--max_steps", "1", "--per_device_train_batch_size", "8", "--output_dir", str(tmp_path)]
    assert main(["train", "--backbone", "test_vit", "--loss", "ce", *small]) == 0
    assert json.loads((tmp_path / "config.json").read_text())["backbone_kwargs"] == {"img_size": 32}
