"""A class that a classifier gets without training: where its center lies, and what the others keep."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_trainer import COUNTS, make_model

from paco_hf import PaCoForImageClassification
from paco_hf.conversion.imprinting import Imprinter, common_direction, has_abstention

WIDTH, IMAGES = 16, 40  # of a feature; of each class


def features_of(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features that are mostly what all classes share, as those behind a ReLU are."""
    generator = torch.Generator().manual_seed(0)
    shared = 12 * torch.rand(WIDTH, generator=generator)
    centers = 1.5 * torch.randn(classes, WIDTH, generator=generator)
    noise = 0.3 * torch.randn(classes, IMAGES, WIDTH, generator=generator)
    labels = torch.arange(classes).repeat_interleave(IMAGES)
    return (shared + centers[:, None] + noise).flatten(0, 1), labels


def trained(kind: str, **fields) -> PaCoForImageClassification:
    """A model whose centers are those of five classes, without what these share."""
    model = make_model("resnet18", classifier=kind, classifier_scale=16, **fields).eval()
    features, labels = features_of(5)
    units = F.normalize(features, dim=1)
    means = torch.stack([units[labels == c].mean(0) for c in range(5)])
    with torch.no_grad():
        model.classifier.weight.copy_((means - means.mean(0)) * torch.linspace(20, 30, 5)[:, None])
        if kind == "linear":
            model.classifier.bias.copy_(torch.linspace(-1, 2, 5))
    return model


def known() -> tuple[torch.Tensor, torch.Tensor]:
    features, labels = features_of(6)
    return features[labels < 5], labels[labels < 5]


def new_features() -> torch.Tensor:
    features, labels = features_of(6)
    return features[labels == 5]


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@torch.no_grad()
def test_the_class_is_recognized_and_the_others_stay(kind: str) -> None:
    model, (features, labels), photos = trained(kind), known(), new_features()
    before = model.classifier(features)
    assert torch.equal(before.argmax(1), labels)
    made = Imprinter(model, common_direction(features, labels)).with_class("okapi", photos[:10])
    after = made.classifier(features)
    assert torch.equal(after[:, :5], before)
    assert torch.equal(after.argmax(1), labels)
    assert (made.classifier(photos[10:]).argmax(1) == 5).all()
    # Why the common part matters: a mean of features as it is would win every image.
    raw = F.normalize(F.normalize(photos[:10], dim=1).mean(0), dim=0) * model.classifier.weight.norm(dim=1).mean()
    made.classifier.weight[5] = raw
    assert (made.classifier(features).argmax(1) == 5).float().mean() > 0.9


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@torch.no_grad()
def test_the_center_is_comparable_to_the_others(kind: str) -> None:
    model, (features, labels) = trained(kind), known()
    common = common_direction(features, labels)
    weight = Imprinter(model, common).with_class("okapi", new_features()).classifier.weight.double()
    lengths, parts = weight.norm(dim=1), F.normalize(weight, dim=1) @ common
    assert lengths[5] == pytest.approx(lengths[:5].mean().item(), rel=1e-6)
    assert parts[5] == pytest.approx(parts[:5].mean().item(), abs=1e-6)


@torch.no_grad()
def test_a_cosine_classifier_tells_itself_what_its_centers_share() -> None:
    model = trained("cosine")
    model.classifier.weight += 20  # as centers that started from means keep some
    units = F.normalize(model.classifier.weight.double(), dim=1)
    common = F.normalize(units.mean(0), dim=0)
    center = Imprinter(model).center(new_features().mean(0))
    assert (F.normalize(center, dim=0) @ common).item() == pytest.approx((units @ common).mean().item())
    with pytest.raises(ValueError, match=r"the centers of a linear classifier do not contain .*: pass images"):
        Imprinter(trained("linear"))


@torch.no_grad()
def test_the_bias_carries_the_number_of_images_where_logits_do() -> None:
    features, labels = known()
    common, photos = common_direction(features, labels), new_features()
    balanced = Imprinter(trained("linear"), common).with_class("okapi", photos).classifier.bias
    assert balanced[5] == pytest.approx(balanced[:5].mean().item())
    model = trained("linear", balanced_logits=False)
    biases = Imprinter(model, common).with_class("okapi", photos[:7]).classifier.bias
    levels = [bias - math.log(count) for bias, count in zip(biases.tolist(), [*COUNTS, 7], strict=True)]
    assert levels[5] == pytest.approx(sum(levels[:5]) / 5, abs=1e-6)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@torch.no_grad()
def test_each_photo_is_left_out_in_turn(kind: str) -> None:
    features, labels = known()
    imprinter = Imprinter(trained(kind, balanced_logits=False), common_direction(features, labels))
    photos = new_features()[:6]
    expected = torch.stack(
        [
            imprinter.with_class("okapi", torch.cat([photos[:i], photos[i + 1 :]])).classifier(photos[i])
            for i in range(6)
        ]
    )
    assert torch.allclose(imprinter.left_out_logits(photos).float(), expected, rtol=1e-4, atol=1e-4)


def test_the_configuration_knows_the_class() -> None:
    features, labels = known()
    model = trained("cosine", selection_counts=[10, 8, 6, 4, 3], temperature=0.5).to(torch.bfloat16)
    model.config.update({"abstention": {"thresholds": [0.5] * 5}})
    with torch.no_grad():
        model.classifier.scale.fill_(9.0)  # trained
    made = Imprinter(model, common_direction(features, labels)).with_class("okapi", new_features()[:7])
    config = made.config
    assert (config.num_labels, config.id2label[5], config.label2id["okapi"]) == (6, "okapi", 5)
    assert (config.class_counts, config.selection_counts) == ([*COUNTS, 7], [10, 8, 6, 4, 3, 7])
    assert (config.temperature, model.config.num_labels, model.config.class_counts) == (0.5, 5, COUNTS)
    assert (made.classifier.weight.dtype, made.classifier.scale.item()) == (torch.bfloat16, 9.0)
    assert (config.to_dict()["abstention"], has_abstention(model.config)) == (None, True)
    model.set_prior([1, 2, 3, 4, 5])
    with pytest.raises(ValueError, match=r"stored class frequencies \(inference_prior\).*set_prior\(None\)"):
        Imprinter(model, common_direction(features, labels))
