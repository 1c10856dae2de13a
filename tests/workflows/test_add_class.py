"""`paco-hf add-class`: from a run and photos of a new class to a run folder that has it, measured first."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from user_data import complaint

from paco_hf import PaCoConfig
from paco_hf.cli import main
from paco_hf.hub.upload import stage_model
from paco_hf.workflows.add_class import add_class
from paco_hf.workflows.addition_data import class_sample

COLORS = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (40, 40, 200), "gray": (120, 120, 120)}
NEW = (220, 220, 30)


def colored(folder: Path, color: tuple[int, int, int], count: int, seed: int) -> Path:
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = np.clip(generator.normal(color, 40, (32, 32, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data`, with colors for classes; `run`, whose classifier is of their class means; `photos` of another color."""
    root = tmp_path_factory.mktemp("classes")
    for number, (name, color) in enumerate(COLORS.items()):
        colored(root / "data" / "train" / name, color, 12 - 2 * number, number)
        colored(root / "data" / "test" / name, color, 5, 10 + number)
    colored(root / "photos", NEW, 8, 20)
    settings = ["--backbone", "test_resnet", "--freeze_backbone", "true", "--image_size", "32", "--image_fit", "crop"]
    settings += ["--cross_validation", "none", "--validation_fraction", "0", "--max_steps", "1", "--report", "false"]
    settings += ["--classifier", "cosine", "--class_centers", "means", "--learning_rate", "1e-6"]
    assert main(["train", "--dataset", str(root / "data"), *settings, "--output_dir", str(root / "run")]) == 0
    return root


def add(made: Path, into: Path, *more: str, run: str = "run", photos: str = "photos", name: str = "yellow") -> int:
    argv = ["add-class", str(made / run), str(made / photos), "--name", name, "--output_dir", str(into), *more]
    return main(argv)


def test_a_complete_run_with_the_class(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    new = tmp_path / "new"
    assert add(made, new) == 0
    printed = capsys.readouterr().out
    (record,) = json.loads((new / "added_classes.json").read_text())["classes"]
    left_out, others = record["left_one_out"], record["other_classes"]
    assert (record["label"], record["images"], record["made_from"]) == (4, 8, "run")
    assert f"recognized: {left_out['right']} of 8 photos (leave-one-out)" in printed
    assert left_out["right"] >= 6
    scores = json.loads((made / "run" / "metrics.json").read_text())["test"]
    assert {key: scores[key] for key in others["before"]} == others["before"]
    assert (others["role"], others["images"], others["after"]["balanced_accuracy"] > 0.7) == ("test", 20, True)
    # What it says of itself is what an evaluation finds: on the run's data, and on data that has the class.
    assert main(["evaluate", str(new), "--no_report", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(others["after"]["accuracy"])
    both = tmp_path / "both"
    shutil.copytree(made / "data" / "test", both)
    colored(both / "yellow", NEW, 5, 30)
    assert main(["evaluate", str(new), "--dataset", str(both), "--no_report", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["per_class"][4] >= 0.6
    assert main(["predict", str(new), str(both / "yellow"), "--top", "1", "--json"]) == 0
    assert "yellow" in {entry["label"] for entry in json.loads(capsys.readouterr().out)}
    card, config = (new / "README.md").read_text(), PaCoConfig.from_pretrained(new)
    assert config.class_counts == config.selection_counts == [8, 6, 10, 12, 8]
    right = f"{left_out['right']} of 8 photos are recognized"
    for text in ('Added class "yellow"', right, "This is the training of `run`, without the added class"):
        assert text in card
    assert not (new / "metrics.json").exists()


def test_photos_that_the_data_has_too_are_not_held_out(made: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    shutil.copytree(made / "data" / "test", both)
    shutil.copytree(made / "photos", both / "yellow")
    settings = {"dataset": str(both)}
    record = add_class(made / "run", [made / "photos"], "yellow", tmp_path / "one", **settings)
    assert record["held_out"] is None
    colored(tmp_path / "more", NEW, 5, 30)
    for file in (tmp_path / "more").iterdir():
        shutil.copyfile(file, both / "yellow" / f"other{file.name}")
    record = add_class(made / "run", [made / "photos"], "yellow", tmp_path / "two", **settings)
    assert (record["held_out"]["images"], record["held_out"]["right"] >= 3) == (5, True)


def test_a_second_class_and_what_is_published(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    photos = colored(tmp_path / "black", (10, 10, 10), 3, 40)
    shutil.copyfile(photos / "0.png", photos / "copy.png")
    (photos / "broken.png").write_text("no image")
    assert add(made, tmp_path / "one") == 0
    argv = ["add-class", str(tmp_path / "one"), str(photos), "--name", "black", "--output_dir", str(tmp_path / "two")]
    assert main(argv) == 1
    printed, errors = capsys.readouterr()
    assert "1 of 5 images cannot be read" in errors
    assert "1 photos are exact copies of others" in printed
    assert "fewer than 5 different photos, so it is unknown" in printed
    first, second = json.loads((tmp_path / "two" / "added_classes.json").read_text())["classes"]
    assert (first["name"], second["name"], second["label"], second["images"]) == ("yellow", "black", 5, 3)
    assert (second["copies"], second["undecodable"], second["left_one_out"]) == (1, 1, None)
    weights = [load_file(tmp_path / name / "model.safetensors")["classifier.weight"] for name in ("one", "two")]
    assert np.array_equal(weights[1][:5], weights[0])
    (tmp_path / "staged").mkdir()
    stage_model(tmp_path / "two", tmp_path / "staged", include_training_state=False)
    for name in ("added_classes.json", "README.md"):
        text = (tmp_path / ("staged" if name.endswith("json") else "two") / name).read_text()
        assert str(made) not in text
        assert str(tmp_path) not in text


def test_without_the_data_it_says_so(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (lost := tmp_path / "lost").mkdir()
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        shutil.copyfile(made / "run" / name, lost / name)
    argv = ["add-class", str(lost), str(made / "photos"), "--name", "yellow", "--output_dir", str(tmp_path / "new")]
    assert "--max_loss needs images of the other classes" in complaint(capsys, *argv, "--max_loss", "0.5")
    config, weights = (json.loads((lost / "config.json").read_text()), load_file(lost / "model.safetensors"))
    assert main(argv) == 0
    assert "the effect on the other classes was not measured (" in capsys.readouterr().out
    assert "The effect on the other classes has not been measured" in (tmp_path / "new" / "README.md").read_text()
    del weights["classifier.scale"]
    save_file({**weights, "classifier.bias": np.zeros(4, np.float32)}, lost / "model.safetensors", {"format": "pt"})
    (lost / "config.json").write_text(json.dumps({**config, "classifier": "linear"}))
    argv[-1] = str(tmp_path / "linear")
    assert "needs images of the other classes, which are not available (" in (line := complaint(capsys, *argv))
    assert line.endswith("pass them with --dataset")
    assert main([*argv, "--dataset", str(made / "data")]) == 0


def test_without_a_test_split_it_is_what_was_trained_on(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run, data = (Path(shutil.copytree(made / name, tmp_path / name)) for name in ("run", "data"))
    shutil.rmtree(data / "test")
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace(str(made / "data"), str(data)))
    assert add(tmp_path, tmp_path / "new", photos=str(made / "photos")) == 0
    assert (
        "the model was trained on these images of the other classes: expect larger losses on new images"
        in capsys.readouterr().out
    )
    (record,) = json.loads((tmp_path / "new" / "added_classes.json").read_text())["classes"]
    assert (record["other_classes"]["role"], record["other_classes"]["images"]) == ("train", 36)
    assert "which the model was trained on: new images lose more" in (tmp_path / "new" / "README.md").read_text()


def test_refusals_come_in_one_line_and_write_nothing(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    new, run, photos = tmp_path / "new", str(made / "run"), str(made / "photos")
    (tmp_path / "empty").mkdir()
    same = made / "data" / "test" / "red"

    def refused(*argv: str) -> str:
        line = complaint(capsys, "add-class", *argv, "--output_dir", str(new))
        assert not new.exists()
        return line

    assert "already has a class 'red': use another --name" in refused(run, photos, "--name", "red")
    assert "'red' differs from it only in case" in refused(run, photos, "--name", "Red")
    assert "no image files" in refused(run, str(tmp_path / "empty"), "--name", "yellow")
    assert "no validation split" in refused(run, photos, "--name", "yellow", "--split", "validation")
    lost = refused(run, str(same), "--name", "crimson", "--max_loss", "0.01")
    assert "points of balanced accuracy, more than --max_loss 0.01 allows, so nothing is written" in lost
    prior = shutil.copytree(made / "run", tmp_path / "prior")
    config = json.loads((prior / "config.json").read_text())
    (prior / "config.json").write_text(json.dumps({**config, "inference_prior": [0.25] * 4}))
    assert "stored class frequencies (inference_prior)" in refused(str(prior), photos, "--name", "yellow")


def test_a_sample_has_of_each_class_as_many() -> None:
    labels = np.repeat([0, 1, 2, 3], [3000, 900, 40, 500])
    counts = np.bincount(labels[class_sample(labels, 3)], minlength=4)
    assert (counts.sum(), counts[2], counts[3], abs(counts[0] - counts[1]) <= 1) == (1000, 40, 0, True)
