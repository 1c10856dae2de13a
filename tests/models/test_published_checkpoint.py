"""The checkpoint in `model_cards` loads where it lies, and is as good as its card says."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from transformers import pipeline

import paco_hf
from paco_hf.data.images import Images
from paco_hf.data.loading import load_data
from paco_hf.models.modeling_paco import CODE_FILES

FOLDER = ROOT / "model_cards" / "paco-resnet32-cifar100-lt-100"


@pytest.mark.parametrize("classes", [[0, 9, 19], pytest.param(range(20), marks=pytest.mark.slow)], ids=["few", "all"])
def test_it_classifies_as_its_card_says(classes: Sequence[int]) -> None:
    # The built-in test images are CIFAR-100's own of 20 of its classes.
    data = load_data("builtin")
    labels = np.asarray(data.test.labels)
    rows = np.flatnonzero(np.isin(labels, classes))
    images = Images(data.test.select(rows.tolist()))
    classify = pipeline("image-classification", model=str(FOLDER), top_k=1, batch_size=250)
    found = [best[0]["label"] for best in classify([images[i] for i in range(len(images))])]
    metrics = json.loads((FOLDER / "metrics.json").read_text())["test"]
    label2id = classify.model.config.label2id
    for label in classes:
        name = data.class_names[label]
        right = np.mean([found[i] == name for i in np.flatnonzero(labels[rows] == label)])
        # Another batch or processor may decide for another class where two are as good as equal.
        assert abs(right - metrics["per_class"][label2id[name]]) <= 0.011, name
    assert f"| **PaCo** | {100 * metrics['accuracy']:.1f} |" in (FOLDER / "README.md").read_text()


def test_its_code_is_that_of_the_package() -> None:
    for name in CODE_FILES:
        own = (Path(paco_hf.__file__).parent / "models" / name).read_text()
        assert (FOLDER / name).read_text() == own, f"copy paco_hf/models/{name} to {FOLDER.name}"
