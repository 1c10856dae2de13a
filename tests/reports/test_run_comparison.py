"""Runs beside each other: right means, other images kept apart, unreadable files named, a page that is whole."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pages import (
    assert_self_contained,
    assert_well_formed,
    browse,
    in_chromium,
    narrow,
    on_paper,
    printed,
    rows_of,
)
from PIL import Image

from paco_hf.reports.comparison_report import comparison_text, write_comparison
from paco_hf.reports.plots import SERIES, plot_curves, plot_training
from paco_hf.reports.run_comparison import compare_runs
from paco_hf.runs.layout import EVALUATION_FOLDER, EVALUATION_NAME

EVALUATION = Path(EVALUATION_FOLDER) / EVALUATION_NAME


def make_run(
    folder: Path,
    seed: int,
    accuracy: float,
    *,
    hours: float | None = 1.5,
    before: dict[str, float] | None = None,
    selection: str | None = "a" * 64,
    validated: bool = True,
    **settings: Any,
) -> Path:
    folder.mkdir(parents=True)
    scores = {"accuracy": accuracy, "balanced_accuracy": accuracy - 0.01, "many": accuracy + 0.2, "medium": accuracy}
    scores |= {"few": accuracy - 0.2, "per_class": [accuracy] * 3}
    (folder / "metrics.json").write_text(json.dumps({"test": scores}))
    record = {
        "dataset": "builtin",
        "data": {
            "train": {"name": "builtin train", "images": 1000},
            "test": {"name": "builtin test", "images": 2000, "selection": selection},
        },
        "training": {
            "seconds": hours and 3600 * hours,
            **(before or {}),
            "hardware": "a <fast> CPU, 2 cores",
            "processes": 1,
            "precision": "bf16",
        },
        "finished": "2026-11-26T19:43:28+00:00",
    }
    (folder / "run.json").write_text(json.dumps(record))
    recipe = {"dataset": "builtin", "loss": "paco", "backbone": "cifar_resnet32", "learning_rate": 0.1, "seed": seed}
    recipe["dataset_path"] = str(folder)
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe, **settings}))
    entries: list[dict[str, float]] = []
    for epoch in range(1, 21):
        entries.append({"epoch": epoch, "step": 10 * epoch, "loss": 5 / epoch**0.5 + 0.03 * seed})
        if validated:
            entries.append({"epoch": epoch, "step": 10 * epoch, "eval_accuracy": accuracy * (1 - 0.8**epoch)})
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Three seeds of a method, two of another, one of a third."""
    made = [make_run(tmp_path / f"paco-{seed}", seed, a) for seed, a in enumerate((0.337, 0.304, 0.345))]
    made += [make_run(tmp_path / f"ce-{seed}", seed, a, loss="ce") for seed, a in enumerate((0.262, 0.244))]
    return [*made, make_run(tmp_path / "slow", 0, 0.3, learning_rate=0.05, hours=None)]


def test_comparison_is_mean_and_deviation_over_seeds(runs: list[Path]) -> None:
    comparison = compare_runs(runs)
    json.dumps(comparison)
    (section,) = comparison["sections"]
    names = ["paco, learning_rate 0.1", "ce", "paco, learning_rate 0.05"]
    assert [group["name"] for group in section["groups"]] == names
    paco, ce, slow = section["groups"]
    values = [0.337, 0.304, 0.345]
    assert paco["scores"]["accuracy"]["values"] == values
    assert paco["scores"]["accuracy"]["mean"] == pytest.approx(np.mean(values))
    assert paco["scores"]["accuracy"]["sd"] == pytest.approx(np.std(values, ddof=1))
    assert paco["cost"]["hours"]["mean"] == 1.5
    assert ce["scores"]["few"]["sd"] == pytest.approx(np.std([0.062, 0.044], ddof=1))
    assert slow["scores"]["accuracy"]["sd"] is None
    assert slow["cost"]["hours"] is None
    assert comparison["settings"] == {"loss": ["paco", "ce", "paco"], "learning_rate": [0.1, 0.1, 0.05]}
    assert comparison["notes"] == []
    text = comparison_text(comparison)
    assert re.search(r"paco, learning_rate 0.1 +3 +32.9 ± 2.2 ", text)
    assert re.search(r"paco, learning_rate 0.05 +1 +30.0 .* not recorded", text)


def test_what_precedes_training_stands_beside_it(tmp_path: Path) -> None:
    before = {"feature_seconds": 90, "cross_validation_seconds": 7200}
    run = make_run(tmp_path / "frozen", 0, 0.3, hours=4.2 / 3600, before=before)
    comparison = compare_runs([run])
    expected = "4.2 s + 1.5 min features + 2.0 h folds"
    assert expected in comparison_text(comparison)
    assert expected in write_comparison(comparison, tmp_path / "comparison.html").read_text(encoding="utf-8")


def test_comparison_page(runs: list[Path], tmp_path: Path) -> None:
    runs.append(make_run(tmp_path / "x", 0, 0.2, backbone="<img src=x onerror=alert(1)>"))
    runs.append(make_run(tmp_path / "y", 0, 0.2, learning_rate=0.00123))
    html = write_comparison(compare_runs(runs), tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert html.count("&lt;img src=x onerror=alert(1)&gt;") > 5
    figure = html[html.index("<svg") : html.index("</svg>")]
    assert ">paco, cifar_resnet32, learning_rate 0.00123</text>" in figure
    assert_self_contained(html)
    assert_well_formed(html)
    row = next(row for row in rows_of(html) if row[0] == "paco, cifar_resnet32, learning_rate 0.1")
    assert row[1:3] == ["3", "32.9 ± 2.233.7, 30.4, 34.5"]
    assert "a &lt;fast&gt; CPU" in html
    assert html.count("<svg") == 1


def test_the_page_names_the_runs_without_validation(runs: list[Path], tmp_path: Path) -> None:
    plain = make_run(tmp_path / "plain", 3, 0.3, validated=False)

    def written(*folders: Path) -> str:
        page = write_comparison(compare_runs(folders), tmp_path / "page.html").read_text(encoding="utf-8")
        return re.sub("<wbr>", "", page[page.index("<h2>Training</h2>") :])

    assert "Runs without a validation split: plain." in written(*runs, plain)
    assert "The runs had no validation split during training" in written(plain)
    assert "ithout a validation split" not in written(*runs)
    assert "no validation split" not in written(*runs)


def test_runs_of_other_test_images_are_kept_apart(runs: list[Path], tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", 3, 0.5, selection="b" * 64)
    comparison = compare_runs([*runs, other])
    first, second = comparison["sections"]
    assert [run for group in second["groups"] for run in group["runs"]] == [str(other)]
    assert str(other) not in [run for group in first["groups"] for run in group["runs"]]
    assert first["groups"][0]["scores"]["accuracy"]["mean"] == pytest.approx(np.mean([0.337, 0.304, 0.345]))
    assert "2 different sets of images" in comparison["notes"][0]
    assert "2 different sets of images" in comparison_text(comparison)
    html = write_comparison(comparison, tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "2 different sets of images" in html
    assert html.count("Scores on builtin test") == 2


def test_notes_of_a_comparison(tmp_path: Path) -> None:
    twice = [make_run(tmp_path / name, 0, 0.3, selection=None) for name in "ab"]
    notes = "\n".join(compare_runs(twice)["notes"])
    assert "a seed appears twice" in notes
    assert "do not record which images" in notes


def test_seeds_with_and_without_a_temperature_are_named(runs: list[Path]) -> None:
    temperatures = [1.3, None, 1.2, None, None]
    for run, accuracy, temperature in zip(runs, (0.337, 0.304, 0.345, 0.262, 0.244), temperatures, strict=False):
        (run / EVALUATION).parent.mkdir()
        metrics = {"accuracy": {"value": accuracy}, "ece": {"value": 0.1}}
        results = {"selection": "a" * 64, "metrics": metrics, "calibration": {"temperature": temperature}}
        (run / EVALUATION).write_text(json.dumps(results))
    comparison = compare_runs(runs)
    assert [run["calibrated"] for run in comparison["runs"]] == [True, False, True, False, False, None]
    (note,) = comparison["notes"]
    assert note.startswith("paco, learning_rate 0.1: some runs have a stored temperature and some do not")
    assert "calibration error, log loss and Brier score are not comparable" in comparison_text(comparison)
    # Neither a group of one kind, nor an evaluation that is left aside.
    assert compare_runs([runs[0], *runs[2:]])["notes"] == []
    results = json.loads((runs[1] / EVALUATION).read_text())
    (runs[1] / EVALUATION).write_text(json.dumps(results | {"selection": "another"}))
    assert not any("stored temperature" in note for note in compare_runs(runs)["notes"])


def test_settings_count_where_the_loss_uses_them(tmp_path: Path) -> None:
    contrastive = {"temperature": 0.07, "queue_size": 1024, "projector": "mlp3-relu"}
    made = [
        make_run(tmp_path / "a", 0, 0.3, **contrastive),
        make_run(tmp_path / "b", 0, 0.3, temperature=0.1, gamma=0.5, key_momentum=0.99),
        # Of one setting, whatever the recipes say of a contrast that there is not.
        make_run(tmp_path / "c", 0, 0.3, loss="ce", key_view="cifar_sim", **contrastive),
        make_run(tmp_path / "d", 1, 0.3, loss="ce", alpha=0.1, class_prior=False),
        make_run(tmp_path / "e", 0, 0.3, loss="balanced_softmax", learning_rate=0.2, beta=2.0),
        make_run(tmp_path / "f", 0, 0.3, loss="multitask", temperature=0.1, gamma=0.5, key_momentum=0.9),
    ]
    comparison = compare_runs(made)
    assert comparison["groups"] == [
        "paco, projector mlp3-relu",
        "paco, projector auto",
        "ce",
        "balanced_softmax",
        "multitask",
    ]
    settings = comparison["settings"]
    assert settings["temperature"] == [0.07, 0.1, None, None, 0.1]
    assert settings["learning_rate"] == [0.1, 0.1, 0.1, 0.2, 0.1]
    assert settings["gamma"] == [1.0, 0.5, None, None, None]
    assert settings["key_momentum"] == [0.999, 0.99, None, None, None]
    assert settings["projector"] == ["mlp3-relu", "auto", None, None, "auto"]
    assert not {"alpha", "beta", "class_prior", "key_view"} & settings.keys()
    # What all that have it have alike follows from the loss.
    assert compare_runs([made[0], made[2]])["settings"] == {"loss": ["paco", "ce"]}

    html = write_comparison(comparison, tmp_path / "comparison.html").read_text(encoding="utf-8")
    rows = rows_of(html[html.index("Settings that differ") :])
    assert rows[1][0] == "paco, projector mlp3-relu"
    assert "temperature 0.07" in rows[1][1]
    assert rows[3] == ["ce", "loss ce learning_rate 0.1"]
    few = compare_runs([make_run(tmp_path / "g", 0, 0.3), made[2], make_run(tmp_path / "h", 0, 0.3, temperature=0.1)])
    html = write_comparison(few, tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert rows_of(html[html.index("Settings that differ") :])[:4] == [
        ["runs", "loss", "temperature"],
        ["paco, temperature 0.2", "paco", "0.2"],
        ["ce", "ce", "-"],
        ["paco, temperature 0.1", "paco", "0.1"],
    ]


def test_scores_of_an_evaluation_count_where_the_images_are_the_same(runs: list[Path]) -> None:
    metrics: dict[str, Any] = {
        "ece": {"value": 0.1, "low": 0.09, "high": 0.11},
        "nll": {"value": 2.0, "low": 1.9, "high": 2.1},
    }
    results = {"dataset": "some/where/builtin", "split": "builtin test", "images": 2000, "metrics": metrics}
    for run, accuracy in zip(runs[:3], (0.337, 0.304, 0.345), strict=True):
        (run / EVALUATION).parent.mkdir()
        metrics["accuracy"] = {"value": accuracy}
        results["selection"] = json.loads((run / "run.json").read_text())["data"]["test"]["selection"]
        (run / EVALUATION).write_text(json.dumps(results))
    comparison = compare_runs(runs)
    assert comparison["sections"][0]["groups"][0]["scores"]["ece"]["mean"] == pytest.approx(0.1)
    assert comparison["sections"][0]["groups"][1]["scores"]["ece"] is None
    (runs[1] / EVALUATION).write_text(json.dumps(results | {"selection": "another"}))
    comparison = compare_runs(runs)
    assert comparison["sections"][0]["groups"][0]["scores"]["ece"] is None
    assert "on other images" in comparison["notes"][0]
    (runs[1] / EVALUATION).write_text(json.dumps(results))
    assert "belongs to another model" in compare_runs(runs)["notes"][0]


@pytest.mark.parametrize("name", ["metrics.json", "run.json", "recipe.yaml", "log.jsonl"])
def test_unreadable_files_are_named(runs: list[Path], name: str) -> None:
    file = runs[1] / name
    for content, error in (("{", ValueError), ("[1]\n", ValueError), (b"\xff\xfe", ValueError), (None, OSError)):
        file.unlink()
        if content is not None:
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        with pytest.raises(error, match=re.escape(str(file))):
            compare_runs(runs)
        if content is None:
            break


def test_bad_requests(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no runs"):
        compare_runs([])
    with pytest.raises(ValueError, match="passed twice"):
        compare_runs([runs[0], runs[0].parent / "." / runs[0].name])
    (runs[0] / "metrics.json").write_text('{"selected_step": 3}')
    with pytest.raises(ValueError, match="holds no test or validation scores"):
        compare_runs(runs)
    with pytest.raises(OSError, match="nowhere"):
        compare_runs([tmp_path / "nowhere"])


@in_chromium
def test_in_chromium(runs: list[Path], tmp_path: Path) -> None:
    dom, console, asked = browse(write_comparison(compare_runs(runs), tmp_path / "comparison.html"), tmp_path)
    assert console == asked == []
    assert "paco, learning_rate 0.05" in [row[0] for row in rows_of(dom)]
    assert "<script" not in dom


@pytest.fixture(params=["few settings", "many settings"])
def crowd(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, dict[str, Any]]:
    """Of ten groups, in either form of what differs: the page, and the comparison."""
    made = []
    for i, loss in enumerate(("paco", "gpaco", "multitask", "ce", "balanced_softmax")):
        for backbone in ("vit_base_patch16_clip_224.openai_ft_in12k_in1k", "cifar_resnet32"):
            settings = {"loss": loss, "backbone": backbone, "per_device_train_batch_size": 32 + i}
            if request.param == "many settings":
                settings |= {"learning_rate": (i + 1) / 100, "weight_decay": (i + 1) / 1000, "temperature": 0.07 + i}
                settings |= {"backbone_kwargs": {"drop_path_rate": i / 10}, "gradient_accumulation_steps": i + 1}
            made += [
                make_run(tmp_path / f"{i}-{backbone}-{seed}", seed, 0.3 + seed / 100, **settings) for seed in range(6)
            ]
    comparison = compare_runs(made)
    return write_comparison(comparison, tmp_path / "comparison.html"), comparison


@on_paper
def test_many_groups_on_paper(crowd: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    page, comparison = crowd
    text = printed(page, tmp_path)
    settings = comparison["settings"]
    differs = text[text.index("Whatdiffers") : text.index("Onelinearun")]
    assert len(comparison["groups"]) == 10
    for place, group in enumerate(comparison["groups"]):
        values = {name: values[place] for name, values in settings.items()}
        if len(settings) <= 4:
            row = [group, *("-" if value is None else value for value in values.values())]
        else:
            row = [group, *(f"{name}{value}" for name, value in values.items() if value is not None)]
        assert "".join(map(str, row)).replace(" ", "") in differs
        assert group.replace(" ", "") in text[: text.index("Cost")]
    assert all(name in differs for name in settings)
    # The values of all seeds, in the last column, too.
    assert text.count("29.0,30.0,31.0,32.0,33.0,34.0") == 10


@in_chromium
def test_many_groups_on_a_narrow_screen(crowd: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    page, comparison = crowd
    width, needed, over = narrow(page, tmp_path)
    assert needed == width <= 400
    _, _, what_differs, _, _ = over
    if len(comparison["settings"]) > 4:
        assert what_differs == 0


def epoch_ticks(svg: str) -> list[str]:
    return re.findall(r'<g id="xtick_\d+">.*?<text[^>]*>(.*?)</text>', svg, re.DOTALL)


def one_run(epoch: float) -> list[dict[str, Any]]:
    return [{"group": "paco", "loss": [(epoch, 3.0)], "accuracy": [(epoch, 0.3)]}]


def one_log(epoch: float) -> list[dict[str, Any]]:
    return [{"epoch": epoch, "loss": 3.0}, {"epoch": epoch, "eval_accuracy": 0.3, "eval_many": 0.4}]


@pytest.mark.parametrize(("plot", "data"), [(plot_curves, one_run), (plot_training, one_log)])
def test_a_single_epoch_is_a_dot(plot: Callable[..., None], data: Callable[[float], Any], tmp_path: Path) -> None:
    for epoch, ticks in ((1.0, ["0", "1", "2"]), (0.3, ["0", "1"])):
        svg = io.StringIO()
        plot(data(epoch), svg)
        assert epoch_ticks(svg.getvalue()) == 2 * ticks
    plot(data(1.0), tmp_path / "plot.png")
    pixels = np.asarray(Image.open(tmp_path / "plot.png").convert("RGB"))
    color = [int(SERIES[0][i : i + 2], 16) for i in (1, 3, 5)]
    middle = pixels.shape[1] // 2
    # In the middle of both panels; the legend is on the left.
    for panel in np.array_split(pixels[:, middle - 100 : middle + 200], 2):
        assert (panel == color).all(-1).sum() > 30


def test_several_epochs_are_a_line(tmp_path: Path) -> None:
    svg = io.StringIO()
    plot_curves([{"group": "paco", "loss": [(1.0, 3.0), (2.0, 2.0), (3.0, 1.5)], "accuracy": []}], svg)
    assert epoch_ticks(svg.getvalue()) == ["1", "2", "3"]
    style = re.findall(r'<use [^>]*style="[^"]*"', svg.getvalue())
    assert not any(SERIES[0] in use for use in style)


def test_curves_show_the_accuracy_that_models_are_selected_by() -> None:
    def drawn(plot: Callable[..., None], data: Any) -> str:
        svg = io.StringIO()
        plot(data, svg)
        return svg.getvalue()

    log = [{"epoch": e, "eval_accuracy": 0.9, "eval_balanced_accuracy": 0.1 * e, "eval_few": 0.0} for e in (1, 2)]
    figure = drawn(plot_training, log)
    assert ">balanced validation accuracy (%)<" in figure
    assert ">balanced<" in figure
    assert ">top-1<" not in figure
    # Logs of before have plain accuracy alone.
    old = drawn(plot_training, [{"epoch": e, "eval_accuracy": 0.9} for e in (1, 2)])
    assert ">validation accuracy (%)<" in old
    assert ">top-1<" in old
    curve = [(1.0, 0.5), (2.0, 0.6)]
    runs = [{"group": "paco", "loss": curve, "accuracy": curve, "balanced_accuracy": curve}]
    assert ">balanced validation accuracy (%)<" in drawn(plot_curves, runs)
    runs.append({"group": "ce", "loss": curve, "accuracy": curve, "balanced_accuracy": []})
    assert ">validation accuracy (%)<" in drawn(plot_curves, runs)
