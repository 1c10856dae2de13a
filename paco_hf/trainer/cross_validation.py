"""Cross-validation of a classifier on features: settings are chosen by it, and no image is held out in the end."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from ..arguments.training_args import PaCoTrainingArguments
from ..data.long_tail import class_counts, stratified_folds
from ..inference.features import Embeddings
from ..losses.modules import LossModule
from ..metrics import long_tailed_accuracy
from ..models.modeling_paco import CosineClassifier, PaCoForImageClassification
from .class_centers import set_centers
from .optimizer import optimizer_and_settings


@dataclass(frozen=True)
class HeadSettings:
    """What is tried: `learning_rate`, `weight_decay` and, of a cosine classifier, `scale`."""

    learning_rate: float
    weight_decay: float
    scale: float

    def __str__(self) -> str:
        return f"learning rate {self.learning_rate:g}, weight decay {self.weight_decay:g}, scale {self.scale:g}"


@dataclass(frozen=True)
class OutOfFold:
    """What cross-validation tells.

    Args:
        settings ([`HeadSettings`]): the best, by balanced accuracy.
        logits (`(M, C)`): of the images that were held out once, by the classifier that had not seen them.
        rows (`(M,)`): which images these are.
        scores (`dict`): balanced accuracy, 0 to 1, of all settings that were tried.
    """

    settings: HeadSettings
    logits: np.ndarray
    rows: np.ndarray
    scores: dict[HeadSettings, float]


def cross_validate(
    model: PaCoForImageClassification,
    args: PaCoTrainingArguments,
    embeddings: Embeddings,
    candidates: Sequence[HeadSettings],
    folds: int,
    means: bool,
) -> OutOfFold:
    """Train a classifier on all folds but one, for each fold and each of the settings.

    The training is that of [`PaCoTrainer`] on features: its loss, optimizer, batches and a cosine to zero.

    Args:
        model (`PaCoForImageClassification`): its classifier is copied, not changed.
        args (`PaCoTrainingArguments`): loss, batch, epochs, momentum, seed.
        embeddings ([`Embeddings`]): features and labels of the training images.
        candidates (sequence of [`HeadSettings`]): to try.
        folds (`int`): their number.
        means (`bool`): whether the classifier starts from class means.

    Raises:
        ValueError: no class has two images.
    """
    assert embeddings.labels is not None
    labels, fold_of = embeddings.labels, stratified_folds(embeddings.labels, folds, args.order_seed)
    rows = np.flatnonzero(fold_of >= 0)
    classes, best, scores = model.config.num_labels, None, {}
    steps = tqdm(total=len(candidates) * folds, desc="cross-validation", unit=" trainings", leave=False, disable=None)
    with steps:
        for settings in candidates:
            logits = np.empty((len(labels), classes), dtype=np.float32)
            for fold in range(folds):
                held_out = fold_of == fold
                trained = Embeddings(embeddings.features[~held_out], labels[~held_out], None, embeddings.class_names)
                classifier = _train(model, args, trained, settings, means)
                with torch.no_grad():
                    logits[held_out] = classifier(torch.from_numpy(embeddings.features[held_out])).numpy()
                steps.update()
            predictions = logits[rows].argmax(1)
            score = long_tailed_accuracy(predictions, labels[rows], class_counts(labels, classes))["balanced_accuracy"]
            scores[settings] = float(score or 0)
            if best is None or scores[settings] > scores[best[0]]:
                best = settings, logits[rows]
    assert best is not None
    return OutOfFold(best[0], best[1], rows, scores)


def _train(
    model: PaCoForImageClassification,
    args: PaCoTrainingArguments,
    embeddings: Embeddings,
    settings: HeadSettings,
    means: bool,
) -> torch.nn.Module:
    """A copy of the model's classifier, trained on all of the features."""
    features, labels = torch.from_numpy(embeddings.features), torch.from_numpy(embeddings.labels)
    classifier = copy.deepcopy(model.classifier)
    if isinstance(classifier, CosineClassifier):
        classifier.scale.data.fill_(settings.scale)
    if means:
        set_centers(classifier, model.config, embeddings, "a fold")
    counts = torch.bincount(labels, minlength=model.config.num_labels)
    prior = counts if args.class_prior and args.spec.prior != "none" else None
    loss = LossModule(args.loss, prior, **args.spec.formula_settings(args))
    optimizer_class, options = optimizer_and_settings(args.changed(learning_rate=settings.learning_rate))
    groups = [
        {"params": [parameter], "weight_decay": 0 if name == "scale" else settings.weight_decay}
        for name, parameter in classifier.named_parameters()
        if parameter.requires_grad
    ]
    optimizer = optimizer_class(groups, **options)
    batch = min(args.per_device_train_batch_size * args.gradient_accumulation_steps, len(labels))
    per_epoch = len(labels) // batch
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(args.order_seed)
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(len(labels), generator=generator)
        rows = order[step % per_epoch * batch :][:batch]
        optimizer.zero_grad()
        loss(classifier(features[rows]), labels[rows]).backward()
        optimizer.step()
        schedule.step()
    return classifier
