"""The plain literal side: PaCo as one would write it from the paper in PyTorch, float32, one thing at a time.

Nothing here is deliberately slow, and of the package it takes only the backbone and the images.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from transformers import ResNetConfig, ResNetForImageClassification, pipeline

import paco_hf  # noqa: F401  registers cifar_resnet32 in timm
from paco_hf.data.published import CIFAR_MEAN, CIFAR_STD

from .setup import (
    Setup,
    builtin,
    classifier_folder,
    image_files,
    image_processor,
    photographs,
    resnet50,
    training_images,
)


def paco_loss(
    features: Tensor | Sequence[Tensor],
    labels: Tensor,
    class_logits: Tensor,
    class_counts: Tensor,
    alpha: float,
    temperature: float,
) -> Tensor:
    """Equation 5 of PaCo with masks, as in code for supervised contrastive learning.

    `features` are the rows `[query; key; queue]`, or parts of them to be put together.
    """
    if not isinstance(features, Tensor):
        features = torch.cat(list(features))
    n, num_classes = class_logits.shape
    prior = (class_counts / class_counts.sum() + 1e-9).log()
    logits = torch.cat([class_logits + prior, features[:n] @ features.T / temperature], dim=1)

    same_class = (labels[:n, None] == labels[None, :]).float()
    others = torch.ones_like(same_class).scatter_(1, torch.arange(n)[:, None], 0)
    positives = torch.cat([F.one_hot(labels[:n], num_classes).float(), alpha * same_class * others], dim=1)
    others = torch.cat([torch.ones_like(class_logits), others], dim=1)

    logits = logits - logits.max(dim=1, keepdim=True).values.detach()
    exp_logits = torch.exp(logits) * others
    log_prob = logits - torch.log(exp_logits.sum(dim=1, keepdim=True) + 1e-12)
    mean_log_prob = (positives * log_prob).sum(dim=1) / positives.sum(dim=1)
    return -mean_log_prob.mean()


@torch.no_grad()
def update_key_encoder(pairs: Iterable[tuple[Tensor, Tensor]], momentum: float) -> None:
    """`k <- m k + (1 - m) q` for each pair `(k, q)`, written as in MoCo's code and PaCo's."""
    for key, query in pairs:
        key.data = key.data * momentum + query.data * (1.0 - momentum)


class Cutout(nn.Module):
    """A black square with a center uniform over the image."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        y, x = torch.randint(height, (1,)).item(), torch.randint(width, (1,)).item()
        half = self.side // 2
        image[:, max(y - half, 0) : y + half, max(x - half, 0) : x + half] = 0
        return image


class GaussianBlur(nn.Module):
    """PIL's blur with a radius of 0.1 to 2 pixels."""

    def forward(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(float(torch.empty(1).uniform_(0.1, 2.0))))


def query_view(size: int = 32) -> v2.Compose:
    """`cifar_reg`: PIL image to normalized float tensor."""
    return v2.Compose(
        [
            v2.RandomCrop(size, padding=size // 8),
            v2.RandomHorizontalFlip(),
            v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, fill=[128, 128, 128]),
            v2.ToImage(),
            Cutout(size // 2),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(CIFAR_MEAN, CIFAR_STD),
        ]
    )


def key_view(size: int = 32) -> v2.Compose:
    """`cifar_sim`: PIL image to normalized float tensor."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.2, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            v2.RandomApply([GaussianBlur()], p=0.5),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(CIFAR_MEAN, CIFAR_STD),
        ]
    )


class TwoViews(Dataset):
    """Decoded images to `(query view, key view, label)`."""

    def __init__(self, images: list[np.ndarray], labels: list[int]) -> None:
        self.images, self.labels = images, labels
        self.query_view, self.key_view = query_view(), key_view()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        image = Image.fromarray(self.images[index])
        return self.query_view(image), self.key_view(image), self.labels[index]


def endless(loader: DataLoader) -> Iterator[Any]:
    """Epoch after epoch."""
    while True:
        yield from loader


class MomentumContrast:
    """Query encoder, classifier, key encoder and queue."""

    def __init__(self, dim: int, queue: int, classes: int) -> None:
        backbone = timm.create_model("cifar_resnet32", num_classes=0)
        width = backbone.num_features
        projector = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, dim))
        self.query_encoder = nn.ModuleDict({"backbone": backbone, "projector": projector})
        self.key_encoder = copy.deepcopy(self.query_encoder).requires_grad_(False)
        self.classifier = nn.Linear(width, classes)
        self.queue = F.normalize(torch.randn(queue, dim), dim=0)
        self.queue_labels = torch.randint(classes, (queue,))
        self.pointer = 0

    def parameters(self) -> list[nn.Parameter]:
        return [*self.query_encoder.parameters(), *self.classifier.parameters()]

    def pairs(self) -> Iterable[tuple[Tensor, Tensor]]:
        return zip(self.key_encoder.parameters(), self.query_encoder.parameters(), strict=True)

    def enqueue(self, keys: Tensor, labels: Tensor) -> None:
        slots = (self.pointer + torch.arange(len(keys))) % len(self.queue)
        self.queue[slots], self.queue_labels[slots] = keys, labels
        self.pointer = (self.pointer + len(keys)) % len(self.queue)


def make_step(setup: Setup) -> Callable[[], float]:
    """One call is one training step, the wait for its batch included."""
    torch.manual_seed(setup.seed)
    images, labels = training_images(setup)
    counts = torch.bincount(torch.tensor(labels))
    loader = DataLoader(
        TwoViews(images, labels),
        setup.batch,
        shuffle=True,
        drop_last=True,
        num_workers=2,
        persistent_workers=True,
    )
    batches = endless(loader)
    setup.cleanup.callback(batches.close)
    model = MomentumContrast(setup.dim, setup.queue, len(counts))
    optimizer = torch.optim.SGD(model.parameters(), setup.learning_rate, momentum=0.9, weight_decay=5e-4)

    def step() -> float:
        query_images, key_images, labels = next(batches)
        pooled = model.query_encoder["backbone"](query_images)
        query = F.normalize(model.query_encoder["projector"](pooled), dim=1)
        with torch.no_grad():
            key = model.key_encoder["projector"](model.key_encoder["backbone"](key_images))
            key = F.normalize(key, dim=1)
        loss = paco_loss(
            [query, key, model.queue],
            torch.cat([labels, labels, model.queue_labels]),
            model.classifier(pooled),
            counts,
            setup.alpha,
            setup.temperature,
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        update_key_encoder(model.pairs(), setup.key_momentum)
        model.enqueue(key, labels)
        return loss.item()

    return step


def make_key_update(setup: Setup) -> Callable[[], None]:
    """The key encoder's step after an optimizer step, for a CIFAR ResNet-32 with projector."""
    model = MomentumContrast(setup.dim, setup.queue, 100)
    return lambda: update_key_encoder(model.pairs(), setup.key_momentum)


def make_views(setup: Setup) -> Callable[[], tuple[Tensor, Tensor]]:
    """Two normalized views `(B, 3, 32, 32)` of the same decoded images, in this process."""
    images = training_images(setup)[0][: setup.batch]
    views = query_view(), key_view()

    def two_views() -> tuple[Tensor, Tensor]:
        opened = [Image.fromarray(image) for image in images]
        first, second = (torch.stack([view(image) for image in opened]) for view in views)
        return first, second

    return two_views


def make_evaluation(setup: Setup) -> Callable[[Tensor], Tensor]:
    """ResNet-50 `(B, 3, 224, 224)` images to `(B, 1000)` logits: eager, float32, contiguous."""
    model = resnet50(setup.seed)

    @torch.inference_mode()
    def logits(pixels: Tensor) -> Tensor:
        return model(pixels).logits

    return logits


make_compiled_evaluation = make_evaluation


def make_predict(setup: Setup) -> Callable[[], list[str]]:
    """Labels of the image files, by a `pipeline` that is loaded."""
    files = image_files(setup)
    classify = pipeline("image-classification", model=classifier_folder(setup))
    return lambda: [ranked[0]["label"] for ranked in classify(files, batch_size=32)]


def make_pipeline(setup: Setup) -> Callable[[], Any]:
    """16 images through `pipeline`: transformers' own ResNet-50."""
    torch.manual_seed(setup.seed)
    model = ResNetForImageClassification(ResNetConfig(num_labels=1000)).eval()
    return classify_photographs(model, setup)


def classify_photographs(model: Any, setup: Setup) -> Callable[[], Any]:
    """`model` in a pipeline, called with 16 images of 224 pixels."""
    classify = pipeline("image-classification", model=model, image_processor=image_processor(224))
    images = photographs()
    return lambda: classify(images, batch_size=setup.inference_batch)


def make_reads(setup: Setup) -> Callable[[], int]:
    """Read images of the built-in test split, decoding each: the number of pixels."""
    test = builtin().test
    assert test is not None

    def read() -> int:
        return sum(image.width * image.height for image in map(test.open, range(setup.files)))

    return read
