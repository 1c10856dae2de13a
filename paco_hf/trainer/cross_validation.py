"""Cross-validation of a classifier on features: settings are chosen by it, and no image is held out in the end."""

import copy
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate.utils import convert_outputs_to_fp32
from tqdm.auto import tqdm

from ..arguments.training_args import PaCoTrainingArguments
from ..data.long_tail import class_counts, stratified_folds
from ..data.samplers import EpochSampler
from ..data.torch_datasets import FeatureDataset
from ..evaluation.selection import balanced_log_loss, most_alike, same_images
from ..inference.features import Embeddings
from ..losses.functional import LossTerms
from ..losses.modules import LossModule
from ..metrics import long_tailed_accuracy
from ..models.modeling_contrastive import PaCoForContrastiveTraining
from ..models.modeling_paco import CosineClassifier, PaCoForImageClassification
from ..utils.hardware import one_thread
from .class_centers import start_from_centers
from .optimizer import optimizer_and_settings, weight_decay_groups
from .schedules import rate_schedule
from .step_timer import updates_per_epoch
from .training_model import training_model
from .validation import prior_counts


@dataclass(frozen=True)
class HeadSettings:
    """What is tried.

    Args:
        learning_rate (`float`): the highest of the schedule; 0: nothing is trained.
        weight_decay (`float`): of all but the scale.
        scale (`float`): of a cosine classifier.
    """

    learning_rate: float
    weight_decay: float
    scale: float

    def describe(self, classifier: str) -> str:
        """What is chosen of a kind of classifier, in words.

        Args:
            classifier (`str`): `linear` or `cosine`.
        """
        if not self.learning_rate:
            return "initial class centers (learning rate 0)"
        scale = f"scale {self.scale:g}, " if classifier == "cosine" else ""
        return f"{scale}learning rate {self.learning_rate:g}"

    def apply(self, args: PaCoTrainingArguments, model: PaCoForImageClassification) -> PaCoTrainingArguments:
        """The arguments with these settings; the model's classifier gets the scale.

        Args:
            args (`PaCoTrainingArguments`): other settings.
            model (`PaCoForImageClassification`): whose classifier is to be trained.
        """
        if isinstance(model.classifier, CosineClassifier):
            model.config.classifier_scale = model.classifier.initial_scale = self.scale
            model.classifier.scale.data.fill_(self.scale)
        return args.changed(learning_rate=self.learning_rate, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class HeldOut:
    """What cross-validation tells.

    Args:
        settings ([`HeadSettings`]): the best: of the least log loss, at its best temperature and each class counting
            alike. It tells settings apart that get the same few images of rare classes right.
        logits (`(M, C)`): of the images that were held out once, by the classifier that had not seen them.
        rows (`(M,)`): which images these are.
        scores (`dict`): log loss, in nats, and balanced accuracy, 0 to 1, of all settings that were tried.
    """

    settings: HeadSettings
    logits: np.ndarray
    rows: np.ndarray
    scores: dict[HeadSettings, tuple[float, float]]


def cross_validate(
    model: PaCoForImageClassification,
    args: PaCoTrainingArguments,
    embeddings: Embeddings,
    candidates: Sequence[HeadSettings],
    folds: int,
    *,
    centers: Embeddings | None,
    views: Sequence[np.ndarray] | None = None,
) -> HeldOut:
    """Train a classifier on all folds but one, for each fold and each of the settings.

    Images that are the same are held out together.

    Args:
        model (`PaCoForImageClassification`): its classifier is copied, not changed.
        args (`PaCoTrainingArguments`): loss, batch, epochs, momentum, seed.
        embeddings ([`Embeddings`]): features and labels of the training images, as they are scored.
        candidates (sequence of [`HeadSettings`]): to try.
        folds (`int`): their number.
        centers ([`Embeddings`], *optional*): of labeled images, whose class means the classifier starts from; of those
            that a fold holds out it sees nothing.
        views (sequence of `(V, N, F)` arrays, *optional*): what is trained on, as for [`FeatureDataset`]; the features
            themselves where there are none.

    Raises:
        ValueError: no class has two images.
    """
    assert embeddings.labels is not None
    features, labels = embeddings.features, embeddings.labels
    views = views or [features[None]]
    fold_numbers = stratified_folds(labels, folds, args.order_seed, same_images(features, labels))
    starts = _Starts(embeddings, centers) if centers else None
    rows = np.flatnonzero(fold_numbers >= 0)
    classes, best, scores = model.config.num_labels, None, {}
    counts = class_counts(labels, classes)
    logit_counts = counts if prior_counts(args, model.config) is None else None
    total, shown = len(candidates) * folds, None if len(labels) * args.num_train_epochs > 20_000 else True
    with (
        tqdm(total=total, desc="cross-validation", unit=" trainings", leave=False, disable=shown) as progress,
        one_thread(),
    ):
        for settings in candidates:
            logits = np.empty((len(labels), classes), dtype=np.float32)
            for fold in range(folds):
                held_out = fold_numbers == fold
                if not held_out.any():
                    continue
                start = starts.without(held_out) if starts else None
                trained = FeatureDataset([view[:, ~held_out] for view in views], labels[~held_out], args.spec.views)
                head = train_head(model, args, trained, settings, start)
                with torch.no_grad():
                    inputs = torch.from_numpy(features[held_out]).float().to(model.device)
                    logits[held_out] = head.classifier(inputs).float().cpu().numpy()
                progress.update()
            predictions, balanced = logits[rows].argmax(1), "balanced_accuracy"
            accuracy = float(long_tailed_accuracy(predictions, labels[rows], counts)[balanced] or 0)
            loss = balanced_log_loss(logits[rows], labels[rows], logit_counts)
            scores[settings] = loss if math.isfinite(loss) else math.inf, accuracy
            if best is None or scores[settings][0] < scores[best[0]][0]:
                best = settings, logits[rows]
    assert best is not None
    return HeldOut(best[0], best[1], rows, scores)


class _Starts:
    """Embeddings that class centers are the means of, without the images that a fold holds out.

    Embeddings of a file may be of these images, at whatever size and precision they were made: each counts as being of
    the training image that it is most like.
    """

    def __init__(self, embeddings: Embeddings, centers: Embeddings) -> None:
        self.embeddings, self.centers = embeddings, centers
        if centers is embeddings:
            self.images = np.arange(len(embeddings.features))
        else:
            self.images = most_alike(centers.features, embeddings.features)

    def without(self, held_out: np.ndarray) -> Embeddings:
        features, labels = self.embeddings.features, self.embeddings.labels
        kept = ~held_out[self.images]
        assert labels is not None
        assert self.centers.labels is not None
        # Of a class whose center is of images held out alone there are others, which are trained on.
        others = ~held_out & ~np.isin(labels, self.centers.labels[kept])
        return Embeddings(
            np.concatenate([self.centers.features[kept], features[others]]),
            np.concatenate([self.centers.labels[kept], labels[others]]),
        )


def seconds_a_step(
    model: PaCoForImageClassification, args: PaCoTrainingArguments, trained: FeatureDataset, settings: HeadSettings
) -> float:
    """What a step of [`cross_validate`] takes.

    Args:
        model, args: as there.
        trained ([`FeatureDataset`]): features like those of the run.
        settings ([`HeadSettings`]): of the classifier.
    """
    steps, start = 20, time.monotonic()
    with one_thread():
        train_head(model, args.changed(max_steps=steps), trained, settings, None)
    return (time.monotonic() - start) / steps


def train_head(
    model: PaCoForImageClassification,
    args: PaCoTrainingArguments,
    trained: FeatureDataset,
    settings: HeadSettings,
    start: Embeddings | None,
) -> PaCoForImageClassification:
    """A copy of the model, on the same backbone, whose classifier is trained on features: step by step what
    [`PaCoTrainer`] does, in half the time of its steps, which are for larger ones.

    Args:
        model, args: as those of [`cross_validate`].
        trained ([`FeatureDataset`]): features and labels.
        settings ([`HeadSettings`]): of the training.
        start ([`Embeddings`], *optional*): whose class means the classifier starts from.
    """
    backbone = model.paco.backbone
    copied = copy.deepcopy(model, {id(backbone): backbone})
    args = settings.apply(args, copied)
    counts = torch.bincount(trained.labels, minlength=model.config.num_labels)
    copied.config.class_counts = counts.tolist()
    if start:
        start_from_centers(copied, start, "a fold")
    head = training_model(copied, args).train()
    if not settings.learning_rate:
        return head
    loss = LossModule(args.loss, prior_counts(args, copied.config), **args.spec.formula_settings(args)).to(head.device)
    optimizer_class, options = optimizer_and_settings(args, head)
    optimizer = optimizer_class(options.pop("params", None) or weight_decay_groups(head, args), **options)
    per_epoch = updates_per_epoch(args, len(trained))
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)
    schedule = rate_schedule(args, optimizer, steps, per_epoch)
    parameters = [parameter for parameter in head.parameters() if parameter.requires_grad]
    averaged = head.key_and_query_parameters() if isinstance(head, PaCoForContrastiveTraining) else None
    forward, precision = convert_outputs_to_fp32(head), torch.autocast(head.device.type, torch.bfloat16, args.bf16)
    for epoch, batches in itertools.islice(_steps(args, len(trained)), steps):
        optimizer.zero_grad()
        for rows in batches:
            inputs = {name: tensor.to(head.device) for name, tensor in trained.batch(rows, epoch).items()}
            labels = inputs["labels"] if args.spec.contrastive else inputs.pop("labels")
            with precision:
                outputs = forward(**inputs, return_dict=True)
            terms = loss.outputs_loss(outputs, labels)
            ((terms.total if isinstance(terms, LossTerms) else terms) / len(batches)).backward()
        if args.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(parameters, args.max_grad_norm)
        optimizer.step()
        schedule.step()
        if averaged:
            head.update_key_encoder(averaged)
    return head


def _steps(args: PaCoTrainingArguments, images: int) -> Iterator[tuple[int, list[torch.Tensor]]]:
    """Epoch, and rows of the batches of each step, without end."""
    sampler, size = EpochSampler(images, args.order_seed), args.per_device_train_batch_size
    for epoch in itertools.count():
        sampler.set_epoch(epoch)
        batches = torch.from_numpy(sampler.order()).split(size)
        if args.dataloader_drop_last and len(batches) > 1 and len(batches[-1]) < size:
            batches = batches[:-1]
        for first in range(0, len(batches), args.gradient_accumulation_steps):
            yield epoch, list(batches[first : first + args.gradient_accumulation_steps])
