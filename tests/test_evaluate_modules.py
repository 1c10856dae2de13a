"""The `evaluate` modules as users meet them: by path, in the Trainer, in evaluate's tools, and as Spaces."""

import doctest
import functools
import http.server
import itertools
import json
import re
import runpy
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import evaluate
import numpy as np
import pandas
import pytest
import torch
import transformers
import yaml
from datasets import Dataset
from evaluate.evaluator import base as evaluators
from PIL import Image
from transformers import BitImageProcessor, ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments
from transformers import pipeline as make_pipeline

import paco_hf
from paco_hf.metrics import expected_calibration_error, long_tailed_accuracy

MODULES = Path(paco_hf.__file__).parent / "evaluate_modules"
NAMES = ["long_tailed_accuracy", "expected_calibration_error"]
COUNTS = [500, 50, 5, 1]
PREDICTIONS, REFERENCES = [0, 1, 1, 0, 2], [0, 0, 1, 3, 2]
PROBABILITIES = [[0.75, 0.25, 0, 0], [0.2, 0.8, 0, 0], [0, 1, 0, 0], [0.4, 0.2, 0.2, 0.2], [0.1, 0.2, 0.6, 0.1]]

# The features and the result of the Hub's metric, which cannot be loaded offline.
ACCURACY = """
import datasets
import evaluate


class Accuracy(evaluate.Metric):
    def _info(self):
        ids = {"predictions": datasets.Value("int32"), "references": datasets.Value("int32")}
        return evaluate.MetricInfo(description="", citation="", features=datasets.Features(ids))

    def _compute(self, predictions, references, normalize=True, sample_weight=None):
        right = [p == r for p, r in zip(predictions, references)]
        return {"accuracy": sum(right) / len(right)}
"""

EXPERIMENTS = itertools.count()


def forget_loaded_modules() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "evaluate_modules"]:
        del sys.modules[name]


@pytest.fixture(autouse=True, scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """evaluate's caches in a folder of their own."""
    root = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_EVALUATE_CACHE", "HF_METRICS_CACHE", "HF_MODULES_CACHE", "DOWNLOADED_EVALUATE_PATH"):
            patch.setattr(evaluate.config, name, root / name)
        patch.setattr(evaluate.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
        patch.setattr(sys, "path", [*sys.path])
        forget_loaded_modules()
        yield root
    forget_loaded_modules()


def load(name: str, **arguments: Any) -> Any:
    """With a cache file of its own: another metric that is still around has the usual one locked for a second."""
    return evaluate.load(str(MODULES / name), experiment_id=str(next(EXPERIMENTS)), **arguments)


def by_hand(name: str, **options: Any) -> dict[str, Any]:
    if name == "long_tailed_accuracy":
        return long_tailed_accuracy(PREDICTIONS, REFERENCES, COUNTS, **options)
    return expected_calibration_error(np.float32(PROBABILITIES), REFERENCES, COUNTS, **options)


def inputs(name: str) -> dict[str, Any]:
    return {
        "predictions": PREDICTIONS if name == "long_tailed_accuracy" else PROBABILITIES,
        "references": REFERENCES,
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_and_the_file_load(name: str, caches: Path) -> None:
    for path in (MODULES / name, MODULES / name / f"{name}.py"):
        metric = evaluate.load(str(path), class_counts=COUNTS)
        assert metric.compute(**inputs(name)) == by_hand(name)
        assert metric.name == name
        assert Path(metric.data_dir).is_relative_to(caches)
        assert Path(sys.modules[type(metric).__module__].__file__).is_relative_to(caches)
        assert "@inproceedings" in metric.citation


@pytest.mark.parametrize("name", NAMES)
def test_what_compute_is_given_wins(name: str) -> None:
    metric = load(name, class_counts=[1, 1, 1, 1], many=1000, few=900)
    assert metric.compute(**inputs(name))["many"] is None
    assert metric.compute(**inputs(name), class_counts=COUNTS, many=100, few=20) == by_hand(name)
    assert load(name, class_counts=COUNTS, many=10, few=3).compute(**inputs(name)) == by_hand(name, many=10, few=3)
    late = load(name)
    assert late.compute(**inputs(name), class_counts=np.array(COUNTS)) == by_hand(name)


def test_the_number_of_bins() -> None:
    name = "expected_calibration_error"
    one, usual = by_hand(name, n_bins=1), by_hand(name)
    assert one != usual
    assert load(name, class_counts=COUNTS, n_bins=1).compute(**inputs(name)) == one
    assert load(name, class_counts=COUNTS, n_bins=1).compute(**inputs(name), n_bins=15) == usual


def test_class_counts_are_asked_for() -> None:
    metric = load("long_tailed_accuracy")
    with pytest.raises(ValueError, match=r"class_counts is missing.*evaluate\.load\(\.\.\., class_counts="):
        metric.compute(predictions=[0], references=[0])
    probabilities = load("expected_calibration_error").compute(**inputs("expected_calibration_error"))
    assert list(probabilities) == ["expected_calibration_error"]


@pytest.mark.parametrize("name", NAMES)
def test_batches_and_single_examples(name: str) -> None:
    metric = load(name, class_counts=COUNTS)
    predictions, references = inputs(name).values()
    metric.add_batch(predictions=predictions[:2], references=references[:2])
    metric.add_batch(predictions=predictions[2:4], references=references[2:4])
    metric.add(prediction=predictions[4], reference=references[4])
    assert metric.compute() == by_hand(name)


@pytest.mark.parametrize(
    "form",
    [np.asarray, torch.tensor, lambda values: [np.asarray(value) for value in values]],
    ids=["numpy", "torch", "list of numpy"],
)
@pytest.mark.parametrize("name", NAMES)
def test_arrays_and_tensors(name: str, form: Callable) -> None:
    given = {key: form(values) for key, values in inputs(name).items()}
    assert load(name, class_counts=COUNTS).compute(**given) == by_hand(name)


def test_a_large_softmax_in_float32_and_bfloat16() -> None:
    metric = load("expected_calibration_error")
    logits = 5 * torch.randn(50, 1000, generator=torch.Generator().manual_seed(0))
    references = logits.argmax(-1).roll(1)
    expected = expected_calibration_error(logits.double().softmax(-1).numpy(), references.numpy())
    for dtype, near in ((torch.float32, 1e-6), (torch.bfloat16, 2e-2)):
        probabilities = logits.to(dtype).softmax(-1).requires_grad_()
        result = metric.compute(predictions=probabilities, references=references)
        assert result["expected_calibration_error"] == pytest.approx(expected["expected_calibration_error"], abs=near)


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([[2.0, 1.0], [0.0, 3.0]], "logits need a softmax"),
        ([[0.5, 0.5], [1.0]], "one column for each class in every row"),
        ([0, 1], "don't match the expected format"),
    ],
)
def test_an_error_leaves_the_metric_usable(predictions: list, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of the second that it waits for the file that it has locked itself, before it takes another.
    monkeypatch.setattr(evaluate.Metric._create_cache_file, "__defaults__", (0.01,))
    metric = load("expected_calibration_error", class_counts=COUNTS)
    with pytest.raises(ValueError, match=message):
        metric.compute(predictions=predictions, references=[0, 1])
    assert metric.compute(**inputs("expected_calibration_error")) == by_hand("expected_calibration_error")


def test_combined_with_accuracy(tmp_path: Path) -> None:
    script = tmp_path / "accuracy" / "accuracy.py"
    script.parent.mkdir()
    script.write_text(ACCURACY)
    accuracy = evaluate.load(str(script.parent))
    expected = by_hand("long_tailed_accuracy")
    both = evaluate.combine([accuracy, load("long_tailed_accuracy", class_counts=COUNTS)])
    result = both.compute(predictions=PREDICTIONS, references=REFERENCES)
    assert result.pop("accuracy_accuracy") == result["long_tailed_accuracy_accuracy"] == expected.pop("accuracy")
    assert {key: result[key] for key in expected} == expected
    both.add_batch(predictions=PREDICTIONS[:3], references=REFERENCES[:3])
    both.add_batch(predictions=PREDICTIONS[3:], references=REFERENCES[3:])
    again = both.compute()
    assert again["balanced_accuracy"] == expected["balanced_accuracy"]


def test_the_evaluator(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = not hasattr(transformers, "TFPreTrainedModel")
    monkeypatch.setattr(evaluators, "transformers", transformers)
    forget_loaded_modules()
    metric = load("long_tailed_accuracy", class_counts=COUNTS)
    assert absent == (not hasattr(transformers, "TFPreTrainedModel"))

    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(8)]
    data = Dataset.from_dict({"image": images, "label": [0, 1, 2, 0, 0, 1, 2, 0]})
    torch.manual_seed(0)
    names = {0: "ant", 1: "bee", 2: "cat", 3: "dog"}
    model = paco_hf.PaCoForImageClassification.from_timm(
        "cifar_resnet20", num_labels=4, image_size=32, id2label=names, label2id={v: k for k, v in names.items()}
    ).eval()
    processor = BitImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    pipe = make_pipeline("image-classification", model=model, image_processor=processor)
    result = evaluate.evaluator("image-classification").compute(
        model_or_pipeline=pipe, data=data, metric=metric, label_mapping=model.config.label2id
    )
    with torch.no_grad():
        predicted = model(processor(images, return_tensors="pt")["pixel_values"]).logits.argmax(-1)
    expected = long_tailed_accuracy(predicted.numpy(), data["label"], COUNTS)
    assert {key: result[key] for key in expected} == expected
    assert result["per_class"][3] is None
    assert result["total_time_in_seconds"] > 0


def test_the_evaluators_still_see_all_of_transformers() -> None:
    load("long_tailed_accuracy")
    assert evaluators.transformers.PreTrainedModel is transformers.PreTrainedModel
    assert not isinstance(torch.nn.Linear(1, 1), evaluators.transformers.TFPreTrainedModel)
    with pytest.raises(AttributeError, match="NoSuchThing"):
        _ = evaluators.transformers.NoSuchThing


def test_in_a_trainer(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [
        {"pixel_values": torch.randn(3, 32, 32, generator=generator), "labels": torch.tensor(label)}
        for label in (0, 1, 2, 0, 0, 1, 2, 0)
    ]
    torch.manual_seed(0)
    model = ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", num_labels=4)
    )
    metric = load("long_tailed_accuracy", class_counts=COUNTS)
    trainer = Trainer(
        model,
        TrainingArguments(
            str(tmp_path),
            num_train_epochs=3,
            per_device_train_batch_size=8,
            eval_strategy="epoch",
            save_strategy="epoch",
            logging_strategy="epoch",
            metric_for_best_model="balanced_accuracy",
            load_best_model_at_end=True,
            use_cpu=True,
            report_to="none",
        ),
        train_dataset=rows,
        eval_dataset=rows,
        compute_metrics=lambda p: metric.compute(predictions=p.predictions.argmax(-1), references=p.label_ids),
    )
    trainer.train()
    scores = trainer.evaluate()
    logged = [entry for entry in trainer.state.log_history if "eval_balanced_accuracy" in entry]
    assert len(logged) == 4
    predicted = trainer.predict(rows).predictions
    expected = long_tailed_accuracy(predicted.argmax(-1), [row["labels"].item() for row in rows], COUNTS)
    assert {key: scores[f"eval_{key}"] for key in expected} == expected
    assert scores["eval_per_class"][3] is None
    state = json.loads(next(tmp_path.glob("checkpoint-*/trainer_state.json")).read_text())
    assert any("eval_worst_class" in entry for entry in state["log_history"])

    calibration = load("expected_calibration_error", class_counts=COUNTS)
    trainer.compute_metrics = lambda p: calibration.compute(
        predictions=torch.from_numpy(p.predictions).softmax(-1), references=p.label_ids
    )
    assert 0 <= trainer.evaluate()["eval_expected_calibration_error"] <= 1


@pytest.mark.parametrize("name", NAMES)
def test_the_files_of_a_space(name: str) -> None:
    folder = MODULES / name
    assert "paco-hf" in (folder / "requirements.txt").read_text().split()
    front, text = re.fullmatch(r"---\n(.*?)\n---\n(.*)", (folder / "README.md").read_text(), re.DOTALL).groups()
    front = yaml.safe_load(front)
    assert (front["sdk"], front["app_file"]) == ("gradio", "app.py")
    assert front["title"]
    assert front["description"]
    assert {"evaluate", "metric"} <= set(front["tags"])
    for heading in ("Description", "How to use", "Inputs", "Outputs", "Limits", "Citation"):
        assert re.search(rf"^##+ {heading}$", text, re.MULTILINE), heading


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_the_cards_and_docstrings(name: str) -> None:
    metric = load(name)
    card = (MODULES / name / "README.md").read_text()
    blocks = [block for block in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if block.startswith(">>>")]
    globs = {"path": str(MODULES / name), "evaluate": evaluate}
    runner = doctest.DocTestRunner()
    for example in [*blocks, metric.inputs_description]:
        runner.run(doctest.DocTestParser().get_doctest(example, dict(globs), name, None, None))
    assert runner.failures == 0
    assert runner.tries >= 8


@pytest.mark.parametrize("name", NAMES)
def test_a_space_loads_by_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """From a hub that has the folder's files on the main branch, and no tag of evaluate's version."""
    shutil.copytree(MODULES / name, tmp_path / "spaces" / "user" / name / "resolve" / "main")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(evaluate.config, "HUB_EVALUATE_URL", host + "/spaces/{path}/resolve/{revision}/{name}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    try:
        metric = evaluate.load(f"user/{name}", class_counts=COUNTS)
    finally:
        server.shutdown()
        server.server_close()
    assert metric.compute(**inputs(name)) == by_hand(name)
    assert f"user--{name}" in type(metric).__module__
    assert f"/resolve/main/{name}.py" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "table", "expected"),
    [
        ("long_tailed_accuracy", {"predictions": [0, 0, 1], "references": [0, 1, 1]}, {"many": 1.0, "medium": 0.5}),
        (
            "expected_calibration_error",
            {"predictions": ["[0.75, 0.25]", "[0.25, 0.75]"], "references": [0, 0]},
            {"expected_calibration_error": 0.25},
        ),
    ],
)
def test_the_widget_of_a_space(
    name: str, table: dict, expected: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the parts of gradio that the widget uses, as gradio 4 and later have them."""
    shown: dict[str, Any] = {}

    class Interface:
        def __init__(self, **settings: Any) -> None:
            shown.update(settings)

        def launch(self) -> None:
            shown["launched"] = True

    gradio = ModuleType("gradio")
    gradio.Interface = Interface
    gradio.Dataframe = lambda headers, row_count, datatype: (headers, datatype)
    gradio.Textbox = lambda label: label
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    space = tmp_path / "app"
    shutil.copytree(MODULES / name, space)
    monkeypatch.syspath_prepend(space)
    runpy.run_path(str(space / "app.py"), run_name="__main__")
    assert shown["launched"]
    assert shown["outputs"] == name
    assert shown["inputs"][0] == ("predictions", "references")
    assert shown["article"].lstrip().startswith("# Metric card")
    result = shown["fn"](pandas.DataFrame(table))
    assert {key: result[key] for key in expected} == expected
