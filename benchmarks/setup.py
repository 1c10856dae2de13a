"""What both sides of a comparison are given: `Setup`, and the inputs that are the same for all of them."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import BitImageProcessor

from paco_hf import PaCoForImageClassification
from paco_hf.data.images import ImageData, Images
from paco_hf.data.loading import load_data
from paco_hf.data.published import CIFAR_MEAN, CIFAR_STD

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class Setup:
    """The sizes of a row, a scratch folder, and what is to be closed after it.

    Args:
        scratch (`Path`): an empty folder of this row, removed afterwards.
        cleanup (`ExitStack`): register here what must be stopped: `setup.cleanup.callback(function)`.
        batch, queue, dim (`int`): `B`, `K` and `D`.
        images (`int`): training images; drawn with replacement from the built-in ones.
        precision (`str`): `auto` or `fp32`; a literal implementation may ignore it.
        torch_compile (`bool`): the trainer's flag of that name; a literal implementation may ignore it.
        augment_backend (`str`, *optional*): the trainer's flag of that name; `None` leaves the flag out.
        alpha, temperature, key_momentum, learning_rate (`float`): of the method.
        inference_batch (`int`): images a forward pass of the evaluation and inference rows.
        files (`int`): image files to classify, or to read.
        seed (`int`): of data and weights.
    """

    scratch: Path
    cleanup: ExitStack = field(default_factory=ExitStack)
    batch: int = 128
    queue: int = 1024
    dim: int = 32
    images: int = 10_847
    precision: str = "auto"
    torch_compile: bool = False
    augment_backend: str | None = "tensor"
    alpha: float = 0.01
    temperature: float = 0.05
    key_momentum: float = 0.999
    learning_rate: float = 0.05
    inference_batch: int = 8
    files: int = 512
    seed: int = 0


@cache
def builtin() -> ImageData:
    """The package's own images: 20 classes of CIFAR-100, long-tailed."""
    return load_data()


def training_rows(setup: Setup) -> list[int]:
    """Rows of the built-in training split, `setup.images` of them, drawn with replacement."""
    return np.random.default_rng(setup.seed).integers(len(builtin().train.labels), size=setup.images).tolist()


def training_images(setup: Setup) -> tuple[list[np.ndarray], list[int]]:
    """Decoded `uint8` `(32, 32, 3)` images and their labels, as [`training_rows`] draws them."""
    split = builtin().train
    decoded = [np.asarray(image) for image in Images(split)]
    rows = training_rows(setup)
    return [decoded[row] for row in rows], [split.labels[row] for row in rows]


@dataclass
class LossInputs:
    """Inputs of the loss; `features` are `[query; key; queue]`, of which only the queries change in training."""

    features: Tensor
    labels: Tensor
    class_logits: Tensor
    class_counts: Tensor


def loss_inputs(batch: int, queue: int, dim: int, classes: int, seed: int = 0) -> LossInputs:
    """Unit features, long-tailed labels of `classes` classes, logits of a classifier."""
    generator = torch.Generator().manual_seed(seed)
    rows = 2 * batch + queue
    counts = (500 * 0.01 ** torch.linspace(0, 1, classes)).round().clamp(min=1).long()
    labels = torch.multinomial(counts.float(), rows, replacement=True, generator=generator)
    labels[batch : 2 * batch] = labels[:batch]
    features = F.normalize(torch.randn(rows, dim, generator=generator), dim=1)
    return LossInputs(features, labels, torch.randn(batch, classes, generator=generator), counts)


def resnet50(seed: int = 0) -> PaCoForImageClassification:
    """A ResNet-50 of 1,000 classes with weights drawn by `seed`, in evaluation mode."""
    torch.manual_seed(seed)
    return PaCoForImageClassification.from_timm("resnet50", num_labels=1000, image_size=224).eval()


def image_processor(size: int) -> BitImageProcessor:
    """Resize, crop and normalize, as a run folder's `preprocessor_config.json` has it."""
    small = size == 32
    return BitImageProcessor(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        resample=Image.Resampling.BILINEAR,
        image_mean=list(CIFAR_MEAN if small else IMAGENET_MEAN),
        image_std=list(CIFAR_STD if small else IMAGENET_STD),
    )


def image_files(setup: Setup) -> list[str]:
    """Write `setup.files` built-in test images as PNG into the scratch folder, once; their sorted paths."""
    folder = setup.scratch / "images"
    if not folder.exists():
        folder.mkdir()
        test = builtin().test
        assert test is not None
        for index in range(setup.files):
            test.open(index).save(folder / f"{index:05}.png")
    return [str(path) for path in sorted(folder.iterdir())]


def classifier_folder(setup: Setup) -> str:
    """A saved CIFAR ResNet-32 with its image processor, made once in the scratch folder."""
    folder = setup.scratch / "model"
    if not folder.exists():
        torch.manual_seed(setup.seed)
        names = dict(enumerate(builtin().class_names))
        model = PaCoForImageClassification.from_timm(
            "cifar_resnet32", num_labels=len(names), id2label=names, image_size=32, class_counts=builtin().class_counts
        )
        model.save_pretrained(folder)
        image_processor(32).save_pretrained(folder)
    return str(folder)


def photographs(count: int = 16, size: int = 224) -> list[Image.Image]:
    """Built-in test images, enlarged to `size` pixels."""
    test = builtin().test
    assert test is not None
    return [test.open(index).resize((size, size), Image.Resampling.BICUBIC) for index in range(count)]
