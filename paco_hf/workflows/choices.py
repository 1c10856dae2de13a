"""What cross-validation on the features of a frozen backbone chooses: its input, and how the classifier is trained."""

from dataclasses import replace

import numpy as np

from ..arguments.input_choice import InputChoice, describe_input
from ..arguments.resolve import RunPlan
from ..evaluation.selection import CLASSES, class_mean, leave_one_out, same_images, small_sample
from ..inference.features import Embeddings, extract_features
from ..models.modeling_paco import PaCoForImageClassification
from ..trainer.cross_validation import HeadSettings, HeldOut, cross_validate
from .features import RunFeatures
from .prepare_data import RunData

# What is tried beside class means as they are: scales of a cosine classifier, and learning rates as parts of the
# suggested one.
SCALES, RATES = (12.0, 16.0, 25.0), {"cosine": (0.3, 1.0), "linear": (0.1, 0.3, 1.0, 3.0)}


def choose_input(plan: RunPlan, data: RunData, model: PaCoForImageClassification) -> tuple[RunPlan, list[str]]:
    """Choose what the backbone sees of an image, by the nearest class mean of a few hundred images.

    Each is told by the means of all others. First it is chosen whether images are cropped or padded, at the smallest
    size; then the size. A dearer one must be better by two standard errors of the paired difference.

    Args:
        plan (`RunPlan`): of the run, with the inputs to choose among.
        data (`RunData`): its splits.
        model (`PaCoForImageClassification`): whose backbone sees the images; its configuration gets the size.

    Returns:
        the plan with one input, and lines for the user to read.
    """
    images, lines = data.images["train"], list[str]()
    if plan.folds and max(np.bincount(images.split.labels)) < 2:
        plan, lines = _without_folds(plan)
    if len(plan.inputs) == 1:
        return plan, lines
    # The same for each seed, so that runs of several seeds see the same features.
    rows = small_sample(images.split.labels, plan.run.split_seed)
    labels = np.asarray(images.split.labels)[rows]
    losses: dict[InputChoice, np.ndarray] = {}

    def score(choice: InputChoice) -> np.ndarray:
        training, backbone = model.training, model.to(plan.args.device).paco
        batch = plan.args.per_device_eval_batch_size
        features = extract_features(backbone, choice.processor, images, f"at {choice}", batch, rows=rows.tolist())
        model.train(training)
        losses[choice] = leave_one_out(features, labels)
        return losses[choice]

    least = plan.inputs[0].size
    best = min((c for c in plan.inputs if c.size == least), key=lambda choice: class_mean(score(choice), labels)[0])
    for choice in plan.inputs:
        if choice.size > least and choice.fit == best.fit:
            gain, error = class_mean(losses[best] - score(choice), labels)
            if gain > 2 * error:
                best = choice
    model.config.image_size = best.size
    plan = plan.with_input(best)
    listed = "; ".join(f"{choice} {class_mean(values, labels)[0]:.3f}" for choice, values in losses.items())
    least_loss, value = min(((c, class_mean(v, labels)[0]) for c, v in losses.items()), key=lambda pair: pair[1])
    if least_loss != best:  # a larger one, within the error
        side = f"{least_loss.size} x {least_loss.size}"
        listed += f". {side} ({value:.3f}) is better by less than two standard errors, so the smaller input is used"
    few = f" of {CLASSES} classes" if len(set(images.split.labels)) > CLASSES else ""
    return plan, [
        f"input {best}, chosen by leave-one-out log loss (lower is better) of nearest class means on {len(rows)} "
        f"images{few}: {listed}",
        describe_input(plan.run, plan.backbone, plan.processor),
    ]


def _without_folds(plan: RunPlan) -> tuple[RunPlan, list[str]]:
    plan = replace(plan, run=replace(plan.run, cross_validation="none")).with_input(plan.inputs[0])
    return plan, [
        "cross-validation, which chooses input size and settings, is off because no class has two different images"
    ]


def head_candidates(plan: RunPlan) -> list[HeadSettings]:
    """What cross-validation chooses among: settings that the user left open.

    Args:
        plan (`RunPlan`): of the run.
    """
    run, args = plan.run, plan.args
    scales, rates = [run.classifier_scale], [args.learning_rate]
    if run.classifier == "cosine" and "classifier_scale" in plan.automatic:
        scales = list(SCALES)
    if "learning_rate" in plan.automatic:
        rates = [float(f"{args.learning_rate * part:.3g}") for part in RATES[run.classifier]]
    candidates = [HeadSettings(rate, args.weight_decay, scale) for rate in rates for scale in scales]
    if "learning_rate" in plan.automatic and run.class_centers != "random":
        # No training does better where features of all images are nearly the same.
        candidates.append(HeadSettings(0.0, args.weight_decay, run.classifier_scale))
    return candidates


def choose_settings(plan: RunPlan, features: RunFeatures) -> tuple[RunPlan, HeldOut | None, list[str]]:
    """Choose what the user left open of the classifier's training, on images held out once.

    Args:
        plan (`RunPlan`): of the run.
        features ([`RunFeatures`]): of its images; their model gets the scale.

    Returns:
        the plan with the settings that did best; what the folds told, where there could be any; lines for the user to
        read.
    """
    run, args, model, embeddings = plan.run, plan.args, features.model, features.plain("train")
    rows, views = np.arange(len(embeddings.features)), features.views() if run.feature_views else None
    if damaged := features.data.damaged():  # theirs are features of other images, which a fold may train on
        rows = np.delete(rows, damaged)
        kept = np.asarray(embeddings.labels)[rows]
        embeddings = replace(embeddings, features=embeddings.features[rows], labels=kept)
        views = views and [view[:, rows] for view in views]
    classes = np.asarray(embeddings.labels)
    if max(np.bincount(classes[np.unique(same_images(embeddings.features, classes))])) < 2:
        plan, lines = _without_folds(plan)
        return plan, None, lines
    candidates = head_candidates(plan)
    centers = embeddings if run.class_centers == "means" else None
    if run.class_centers not in ("means", "random"):
        centers = Embeddings.load(run.class_centers)
    if centers is not None and centers.labels is None:  # one row a class: the model already has them
        centers = None
    result = cross_validate(model, args, embeddings, candidates, plan.folds, centers=centers, views=views)
    best = result.settings
    loss, accuracy = result.scores[best]
    lines = [
        f"cross-validation, {plan.folds} folds: balanced accuracy {100 * accuracy:.1f}, log loss {loss:.3f}, with "
        f"{best.describe(run.classifier)}"
    ]
    if len(candidates) > 1:
        cosine = run.classifier == "cosine"
        form = "({0.scale:g}, {0.learning_rate:g}) {1:.3f}" if cosine else "{0.learning_rate:g}: {1:.3f}"
        tried = "; ".join(form.format(one, v[0]) for one, v in result.scores.items())
        lines[0] += f"; log loss by {'(scale, learning rate)' if cosine else 'learning rate'}: {tried}"
    if alone := len(set(classes) - set(classes[result.rows])):
        have = "1 class has one image, which is" if alone == 1 else f"{alone} classes have one image each, which is"
        lines.append(f"{have} used for training only: the scores do not cover it")
    args = best.apply(args, model)
    plan = replace(plan, args=args, run=replace(run, classifier_scale=best.scale))
    return plan, replace(result, rows=rows[result.rows]), lines
