"""Settings that fit a dataset of one's own, where the user and no recipe chose any."""

import math
from typing import Any

from ..losses.specs import DEFAULT_LOSS, loss_spec
from ..models.image_processing import SMALL_IMAGE
from .fine_tuning import FineTuning

# What `suggested_settings` may choose, and so what a finished run may differ in from the defaults.
SUGGESTED = (
    *("num_train_epochs", "per_device_train_batch_size", "learning_rate", "epoch_schedule", "warmup_epochs"),
    *("queue_size", "projection_dim", "key_momentum", "temperature", "alpha", "save_strategy"),
)

# What else is chosen where the features of a frozen backbone are trained on.
CHOSEN_FOR_FEATURES = (
    *("freeze_backbone", "loss", "classifier", "class_centers", "image_size", "image_fit"),
    *("classifier_scale", "weight_decay", "validation_fraction", "precision"),
)
# What else is chosen where a pretrained backbone is fine-tuned.
CHOSEN_FOR_FINE_TUNING = ("optim", "layer_decay", "head_learning_rate", "weight_decay", "decay_all_parameters")
# On a pretrained backbone where the user named none: what does best in `benchmarks/pretrained.md`, and of losses
# that do as well the cheapest.
PRETRAINED_LOSS, PRETRAINED_CLASSIFIER, PRETRAINED_CENTERS = "balanced_softmax", "cosine", "means"

_FEW, _SOME, _MANY = 2000, 5000, 50_000  # training images


def suggested_settings(
    images: int,
    image_size: int,
    pretrained: bool,
    *,
    loss: str = DEFAULT_LOSS,
    batch: int | None = None,
    epochs: float | None = None,
    max_steps: int = 0,
    rate: float | None = None,
    on_features: bool = False,
    cosine: bool = False,
    fine_tuning: FineTuning | None = None,
) -> dict[str, Any]:
    """Settings for a dataset of its size.

    What is known are the recipes of the papers: CIFAR-100-LT (10,847 images of 32 pixels: queue 1024, projection 32,
    alpha 0.01, temperature 0.05, learning rate 0.05 to 0.1 at a batch of 128) and ImageNet-LT (115,846 images: queue
    8192, projection 128, alpha 0.05, temperature 0.2). Between and below them this package interpolates:

    * The queue holds about a tenth of the images, as in both recipes; a longer one would hold an image's old features
      beside its new ones.
    * The batch shrinks with the data, so that an epoch keeps its steps, and is a quarter of the images at most.
    * alpha and temperature are CIFAR's for less than 50,000 images, the temperature also for small images.
    * The key encoder's momentum of 0.999 averages over a thousand steps, too slow for trainings of less than 10,000.
    * From scratch the images are seen as often as the steps need; pretrained weights need fewer passes, at a fifth of
      the rate, or they are lost. The rate is proportional to the batch and follows a cosine after a warm-up over a
      tenth of the epochs.
    * A backbone that is fine-tuned has the optimizer and the rates of its kind ([`choose_fine_tuning`]), and so few
      epochs that one sees the end on a laptop; their number is not measured yet.

    Args:
        images (`int`): number of training images.
        image_size (`int`): side of the input in pixels.
        pretrained (`bool`): whether the backbone starts from pretrained weights.
        loss (`str`, *optional*, defaults to `"paco"`): settings that it ignores are left out.
        batch (`int`, *optional*): images a step over all processes, where the user chose them; the rest follows.
        epochs (`float`, *optional*): passes over the images, likewise.
        max_steps (`int`, *optional*, defaults to `0`): optimizer steps, likewise; 0: as many as the epochs have.
        rate (`float`, *optional*): learning rate, likewise.
        on_features (`bool`, *optional*, defaults to `False`): whether a classifier is trained on features, which takes
            seconds.
        cosine (`bool`, *optional*, defaults to `False`): whether a classifier of features compares by cosines.
        fine_tuning ([`FineTuning`], *optional*): of the kind of the backbone, where all of it is trained from
            pretrained weights.

    Returns:
        `dict` of settings by name; the batch as `batch`, over all processes.

    Raises:
        ValueError: there is no such loss.
    """
    small = image_size <= SMALL_IMAGE
    if batch is None:
        usual = 128 if images >= _SOME else 64 if images >= 1000 else 32
        if on_features:  # steps so small take as long for more
            usual = 512 if images >= _SOME else 128
        batch = min(max(min(usual, images // 4), 8), images)
    if epochs is None and on_features:
        epochs = 30 if images < _SOME else 10
    elif epochs is None and fine_tuning:
        epochs = 20 if images < _FEW else 10
    elif epochs is None and pretrained:
        epochs = 60 if images < _FEW else 30
    elif epochs is None:
        epochs = 200 if images < _FEW else 150 if images < _SOME else 100
    per_epoch = max(images // batch, 1)
    steps = max_steps if max_steps > 0 else epochs * per_epoch
    spec = loss_spec(loss)
    usual_rate = fine_tuning.rate(batch) if fine_tuning else (0.02 if pretrained and not cosine else 0.1) * batch / 128
    warmed = {"epoch_schedule": "cosine", "warmup_epochs": int(steps // per_epoch // 10)}
    settings = {
        "num_train_epochs": epochs,
        "batch": batch,
        "learning_rate": float(f"{usual_rate:.3g}"),
        **({"epoch_schedule": "none"} if on_features else warmed),
        "queue_size": 2 ** min(max(round(math.log2(images / 10)), 8), 13),
        "projection_dim": 32 if small else 128,
        "temperature": 0.05 if small or images < _MANY else 0.2,
        "key_momentum": 0.99 if steps < 10_000 else 0.999,
    }
    if spec.alpha_per_positive:
        settings["alpha"] = 0.01 if images < _MANY else 0.05
    if on_features:
        settings["save_strategy"] = "no"
        if cosine:  # only directions count, and weight decay would turn them faster
            settings["weight_decay"] = 0.0
    if fine_tuning:
        settings |= fine_tuning.settings
        if fine_tuning.head_factor:
            backbone_rate = settings["learning_rate"] if rate is None else rate
            settings["head_learning_rate"] = float(f"{fine_tuning.head_factor * backbone_rate:.3g}")
    return {name: value for name, value in settings.items() if name not in spec.ignores}
