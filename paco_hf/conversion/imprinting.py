"""A class more for a classifier, without training: its center is made of the features of its images (imprinted
weights: Qi et al., CVPR 2018)."""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.configuration_paco import PaCoConfig
from ..models.modeling_paco import CosineClassifier, PaCoForImageClassification


def common_direction(features: Tensor, labels: Tensor) -> Tensor:
    """What the features of all classes share: the direction of the mean of their class means.

    Args:
        features (`(N, F)`): of images of the classes that a classifier knows, some of each.
        labels (`(N,)`): their classes.

    Returns:
        `(F,)` in 64 bits, of length 1.
    """
    units, (classes, index) = F.normalize(features.double(), dim=1), labels.unique(return_inverse=True)
    means = units.new_zeros(len(classes), units.shape[1]).index_add_(0, index, units)
    return F.normalize((means / index.bincount()[:, None]).mean(0), dim=0)


def has_abstention(config: PaCoConfig) -> bool:
    """Whether a configuration says whether the model abstains."""
    return config.to_dict().get("abstention") is not None


@dataclass(frozen=True)
class Imprinter:
    """Makes centers that are comparable to those that a classifier was trained to have.

    A mean of features points mostly to where the features of every class point, and training takes that off the
    centers as far as it does not tell classes apart: a mean as it is would win images of all classes. So its part in
    the common direction is set to what the centers of the classifier have there on average. Its length is their mean
    length, its bias the mean of theirs. Where the logits carry the log of the class frequencies in training, the bias
    does so for the new class's images, too; a cosine classifier has none that could.

    Args:
        model (`PaCoForImageClassification`): what a class is added to.
        common (`(F,)`, *optional*): of [`common_direction`]. Where it is `None`, that of the mean of the centers,
            which only those of a cosine classifier have kept.

    Raises:
        ValueError: a linear classifier without the common direction, or a model with an `inference_prior`.
    """

    model: PaCoForImageClassification
    common: Tensor | None = None

    def __post_init__(self) -> None:
        if self.model.config.inference_prior is not None:
            raise ValueError(
                "the model has stored class frequencies (inference_prior), which do not include the new class: remove "
                "them with `model.set_prior(None)`, save the model, and store new ones after adding the class"
            )
        if self.common is None and not self.is_cosine:
            raise ValueError(
                "the centers of a linear classifier do not contain the common part of its features, without "
                "which a new class takes images of all others: pass images of its classes"
            )

    @property
    def is_cosine(self) -> bool:
        return isinstance(self.model.classifier, CosineClassifier)

    def center(self, means: Tensor) -> Tensor:
        """The center of a class.

        Args:
            means (`(..., F)`): of features of its images, each of length 1; of several choices of images in rows.

        Returns:
            `(..., F)` in 64 bits.
        """
        weight = self.model.classifier.weight.detach().cpu().double()
        units = F.normalize(weight, dim=1)
        common = F.normalize(units.mean(0), dim=0) if self.common is None else self.common
        part = (units @ common).mean()
        means = F.normalize(means.double(), dim=-1)
        rest = F.normalize(means - (means @ common)[..., None] * common, dim=-1)
        return weight.norm(dim=1).mean() * (rest * (1 - part**2).clamp(min=0).sqrt() + part * common)

    def bias(self, images: int) -> Tensor | None:
        """The bias of a class; `None` of a cosine classifier.

        Args:
            images (`int`): that its center is made of.
        """
        if self.model.classifier.bias is None:
            return None
        biases, counts = self.model.classifier.bias.detach().cpu().double(), self.model.config.logit_counts
        if counts is not None and self.model.config.class_counts is not None:
            biases = biases - torch.tensor(counts, dtype=torch.float64).clamp(min=1).log() + torch.tensor(images).log()
        return biases.mean()

    @torch.no_grad()
    def with_class(self, name: str, features: Tensor) -> PaCoForImageClassification:
        """The model with one class more, on the same backbone; without a stored abstention, which is of its classes.

        Args:
            name (`str`): of the class, which is the last then.
            features (`(K, F)`): of its images, whose number is entered in the counts that the configuration has.
        """
        config, label, images = copy.deepcopy(self.model.config), self.model.config.num_labels, len(features)
        config.id2label = {**config.id2label, label: name}
        config.label2id = {known: number for number, known in config.id2label.items()}
        for counts in filter(None, (config.class_counts, config.selection_counts)):
            counts.append(images)
        if has_abstention(config):
            config.update({"abstention": None})
        config.check()
        made, old = PaCoForImageClassification(config, paco=self.model.paco), self.model.classifier
        made.classifier.to(old.weight)  # its device and precision
        center = self.center(F.normalize(features.double(), dim=1).mean(0))
        made.classifier.weight.copy_(torch.cat([old.weight, center.to(old.weight)[None]]))
        if (bias := self.bias(images)) is not None:
            made.classifier.bias.copy_(torch.cat([old.bias, bias.to(old.bias)[None]]))
        if isinstance(made.classifier, CosineClassifier) and isinstance(old, CosineClassifier):
            made.classifier.scale.copy_(old.scale)
        return made.eval()

    @torch.no_grad()
    def left_out_logits(self, features: Tensor) -> Tensor:
        """Logits of the images of a class, for each of which its center is made of the others.

        Args:
            features (`(K, F)`): of the images, of which there are two at least.

        Returns:
            `(K, C + 1)` in 64 bits, the new class last; without temperature.
        """
        classifier = copy.deepcopy(self.model.classifier).cpu().double()
        units = F.normalize(features.double(), dim=1)
        centers = self.center(units.sum(0) - units)
        if isinstance(classifier, CosineClassifier):
            new_logits = classifier.scale * (units * F.normalize(centers, dim=1)).sum(1)
        else:
            new_logits = (features.double() * centers).sum(1) + (self.bias(len(features) - 1) or 0)
        return torch.cat([classifier(features.double()), new_logits[:, None]], dim=1)
