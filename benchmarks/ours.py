"""The package's side: the functions of `plain`, through the package's public ones, and `train` for its `make_step`."""

import contextlib
import io
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoImageProcessor, TrainerCallback

from paco_hf import PaCoForContrastiveTraining, PaCoForImageClassification
from paco_hf import paco_loss as package_loss
from paco_hf.arguments.parser import parse_run
from paco_hf.data.augmentation.batched_draws import ImageDraws, image_keys
from paco_hf.data.augmentation.batched_transforms import BatchedView
from paco_hf.data.images import Images
from paco_hf.data.published import CIFAR_MEAN, CIFAR_STD
from paco_hf.inference.forward import fast_forward
from paco_hf.inference.prediction import classify
from paco_hf.workflows import train as workflow

from .plain import classify_photographs
from .setup import Setup, builtin, classifier_folder, image_files, resnet50, training_images, training_rows


def paco_loss(
    features: Tensor | Sequence[Tensor],
    labels: Tensor,
    class_logits: Tensor,
    class_counts: Tensor,
    alpha: float,
    temperature: float,
) -> Tensor:
    """The package's loss, which takes rows in one tensor or in several."""
    return package_loss(
        features, labels, class_logits, class_counts=class_counts, alpha=alpha, temperature=temperature
    )


class Between(TrainerCallback):
    """Calls `between` when training is about to begin and after each step of it."""

    def __init__(self, between: Callable[[], None]) -> None:
        self.between = between

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.between()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.between()


def train(setup: Setup, between: Callable[[], None]) -> None:
    """`paco-hf train` with the recipe of long-tailed CIFAR-100, until `between` raises.

    The trainer's loop cannot be called a step at a time, so what is to happen between two steps is called from it:
    before the first and after each. From one call's end to the next call's start is one step with its data.
    """
    data = setup.scratch / "data"
    data.mkdir()
    builtin().train.data.select(training_rows(setup)).to_parquet(data / "train.parquet")
    flags = {
        "recipe": "paco-resnet32-cifar100-lt-100",
        "dataset": data,
        "output_dir": setup.scratch / "run",
        "per_device_train_batch_size": setup.batch,
        "queue_size": setup.queue,
        "projection_dim": setup.dim,
        "learning_rate": setup.learning_rate,
        "alpha": setup.alpha,
        "temperature": setup.temperature,
        "key_momentum": setup.key_momentum,
        "precision": setup.precision,
        "augment_backend": setup.augment_backend,
        "torch_compile": setup.torch_compile,
        "logging_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": setup.seed,
    }
    run, args = parse_run([f"--{name}={value}" for name, value in flags.items() if value is not None])
    with contextlib.redirect_stdout(io.StringIO()):
        workflow.train(run, args, callbacks=[Between(between)])


def make_key_update(setup: Setup) -> Callable[[], None]:
    """`update_key_encoder` of a CIFAR ResNet-32 with projector, as the trainer calls it."""
    model = PaCoForContrastiveTraining.from_classifier(
        PaCoForImageClassification.from_timm("cifar_resnet32", num_labels=100),
        projection_dim=setup.dim,
        queue_size=setup.queue,
        key_momentum=setup.key_momentum,
    )
    parameters = model.key_and_query_parameters()
    return lambda: model.update_key_encoder(parameters)


def make_views(setup: Setup) -> Callable[[], tuple[Tensor, Tensor]]:
    """Two normalized views `(B, 3, 32, 32)` of the same decoded images, a batch at a time."""
    images = torch.from_numpy(np.stack(training_images(setup)[0][: setup.batch])).permute(0, 3, 1, 2).contiguous()
    views, epochs = (BatchedView("cifar_reg", 32), BatchedView("cifar_sim", 32)), count()
    mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in (CIFAR_MEAN, CIFAR_STD))

    def two_views() -> tuple[Tensor, Tensor]:
        keys = image_keys(setup.seed, next(epochs), torch.arange(len(images)))
        first, second = ((view(images, ImageDraws(keys, i)).float() - mean) / std for i, view in enumerate(views))
        return first, second

    return two_views


def make_evaluation(setup: Setup) -> Callable[[Tensor], Tensor]:
    """ResNet-50 `(B, 3, 224, 224)` images to `(B, 1000)` logits: the package's fast forward pass."""
    return fast_forward(resnet50(setup.seed), precision="bf16")


def make_compiled_evaluation(setup: Setup) -> Callable[[Tensor], Tensor]:
    """[`make_evaluation`] with `torch.compile`."""
    return fast_forward(resnet50(setup.seed), precision="bf16", compile=True)


def make_predict(setup: Setup) -> Callable[[], list[str]]:
    """Labels of the image files, by a model that is loaded: `paco-hf predict` in the precision of `setup`."""
    folder, files = classifier_folder(setup), [Path(file) for file in image_files(setup)]
    model = PaCoForImageClassification.from_pretrained(folder)
    forward, processor = fast_forward(model, setup.precision), AutoImageProcessor.from_pretrained(folder)

    def labels() -> list[str]:
        results = classify(forward, model.config, processor, files, top=5, batch_size=32)
        return [result["label"] for result in results]

    return labels


def make_pipeline(setup: Setup) -> Callable[[], Any]:
    """16 images through `pipeline`: the package's ResNet-50."""
    return classify_photographs(resnet50(setup.seed), setup)


def make_reads(setup: Setup) -> Callable[[], int]:
    """Read images of the built-in test split, decoded once: the number of pixels."""
    images = Images(builtin().test)

    def read() -> int:
        return sum(image.width * image.height for image in map(images.__getitem__, range(setup.files)))

    return read
