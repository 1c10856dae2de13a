"""Classifiers on features that are trained without some of the images, which tell how good they are."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_trainer import COUNTS, make_model

from paco_hf import PaCoTrainer, PaCoTrainingArguments
from paco_hf.data.torch_datasets import FeatureDataset
from paco_hf.inference.features import Embeddings
from paco_hf.trainer.cross_validation import HeadSettings, _Starts, cross_validate, train_head

SETTINGS = HeadSettings(0.1, 1e-3, 12.0)
LABELS = np.repeat(range(5), COUNTS)


def arguments(folder: Path, **settings) -> PaCoTrainingArguments:
    settings = {"loss": "balanced_softmax", "num_train_epochs": 3, "per_device_train_batch_size": 8, **settings}
    settings |= {"learning_rate": 0.1, "weight_decay": 1e-3, "precision": "fp32", "temperature": 0.1, "queue_size": 20}
    quiet = {"save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "projection_dim": 16}
    return PaCoTrainingArguments(output_dir=str(folder), **quiet, **settings)


def frozen_model(**fields):
    model = make_model("resnet18", **fields)
    model.paco.backbone.requires_grad_(False)
    return model


def features_of(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(len(LABELS), 16)) + 2 * rng.normal(size=(5, 16))[LABELS]).astype(np.float32)


@pytest.mark.parametrize("loss", ["balanced_softmax", "ce", "paco", "gpaco"])
@pytest.mark.parametrize(
    "settings",
    [
        {"epoch_schedule": "none"},
        {"epoch_schedule": "cosine", "warmup_epochs": 2, "max_grad_norm": 0.05},
        {"epoch_schedule": "none", "warmup_steps": 3, "gradient_accumulation_steps": 2, "optim": "adamw_torch"},
        {"epoch_schedule": "none", "dataloader_drop_last": False, "decay_all_parameters": False, "max_steps": 7},
    ],
)
def test_it_is_trained_as_a_run_is(loss: str, settings: dict, tmp_path: Path) -> None:
    model, args = frozen_model(classifier="cosine"), arguments(tmp_path, loss=loss, **settings)
    trained = FeatureDataset([features_of()[None]], LABELS.tolist(), args.spec.views)
    head = train_head(model, args, trained, SETTINGS, None)
    SETTINGS.apply(args, model)
    before = copy.deepcopy(model.classifier.weight)
    trainer = PaCoTrainer(model, args, train_dataset=trained, data_collator=dict)
    trainer.train()
    assert not torch.allclose(trainer.model.classifier.weight, before, atol=1e-3)
    for name, value in trainer.model.state_dict().items():
        assert torch.allclose(value, head.state_dict()[name], atol=1e-6), name


def test_an_image_and_its_copy_are_held_out_together(tmp_path: Path) -> None:
    rng, folds = np.random.default_rng(1), 3
    # Nothing to learn but the images themselves.
    labels, features = np.repeat([0, 1, 2, 3, 4], 12), rng.normal(size=(60, 16)).astype(np.float32)
    args = arguments(tmp_path, num_train_epochs=60)

    def accuracy(images: np.ndarray) -> float:
        centers = Embeddings(images, labels)
        told = cross_validate(frozen_model(classifier="cosine"), args, centers, [SETTINGS], folds, centers=centers)
        return told.scores[SETTINGS][1]

    paired = features.copy()
    paired[1::2] = paired[::2] + 1e-7  # as another batch rounds them
    assert accuracy(features) < 0.5
    assert accuracy(paired) < 0.5


def test_without_training_it_is_the_nearest_class_mean(tmp_path: Path) -> None:
    # All images look much alike to the network, so that training at a usual rate loses what tells them apart.
    features = features_of() + 100 * np.ones(16, dtype=np.float32)
    images, args = Embeddings(features, LABELS), arguments(tmp_path, num_train_epochs=30)
    none, usual = HeadSettings(0.0, 0.0, 25.0), HeadSettings(0.1, 0.0, 25.0)
    told = cross_validate(frozen_model(classifier="cosine"), args, images, [usual, none], 3, centers=images)
    assert told.settings == none
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    head = train_head(frozen_model(classifier="cosine"), args, FeatureDataset([features[None]], LABELS), none, images)
    means = np.stack([unit[c == LABELS].mean(0) for c in range(5)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    with torch.no_grad():
        logits = head.classifier(torch.from_numpy(features)).numpy()
    assert np.allclose(logits, 25 * unit @ means.T, atol=1e-4)


@pytest.mark.parametrize("kept", [slice(None), slice(0, 60, 3)])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_class_centers_know_nothing_of_what_is_held_out(kept: slice, noise: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    labels, features = np.repeat([0, 1, 2, 3, 4], 12), rng.normal(size=(60, 16)).astype(np.float32)
    args, model = arguments(tmp_path, learning_rate=1e-6), frozen_model(classifier="cosine")
    slow, images = HeadSettings(1e-6, 0.0, 12.0), Embeddings(features, labels)
    # A file of the same images, perhaps at another size or precision.
    other = features + noise * rng.normal(size=features.shape).astype(np.float32)
    file = Embeddings(2 * other[kept][::-1], labels[kept][::-1].copy())
    told = cross_validate(model, args, images, [slow], 4, centers=file)
    assert told.scores[slow][1] < 0.35  # chance is 0.2; with themselves among the means 0.6 and more


def test_a_class_whose_center_is_held_out_takes_other_images() -> None:
    images = Embeddings(features_of(), LABELS)
    one_each = np.unique(LABELS, return_index=True)[1]
    held_out = np.isin(np.arange(len(LABELS)), one_each[:2])
    start = _Starts(images, Embeddings(images.features[one_each], LABELS[one_each])).without(held_out)
    assert sorted(start.labels) == [0] * 8 + [1] * 6 + [2, 3, 4]
    assert not (start.features[:, None] == images.features[held_out]).all(-1).any()
