"""The losses against the reference's numbers, against a literal transcription, and at their edges."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from conftest import FULL_GOLDENS, HERE, golden

from paco_hf import balanced_softmax_loss, multitask_loss, paco_loss
from paco_hf.losses import contrastive_terms as anchor_terms
from paco_hf.losses.functional import log_class_prior
from paco_hf.losses.modules import LossModule

GOLDENS = sorted({p.name for folder in (HERE / "goldens", FULL_GOLDENS) for p in folder.glob("loss_*.safetensors")})


def golden_loss(tensors: dict, metadata: dict, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss, and gradients of features and logits, of a golden case."""
    features = torch.cat([tensors["q"], tensors["k"], tensors["queue"]]).to(dtype).requires_grad_()
    logits = tensors["sup_logits"].to(dtype).requires_grad_()
    labels = torch.cat([tensors["labels"], tensors["labels"], tensors["queue_labels"]])
    settings = {
        "class_counts": tensors["class_counts"] if metadata["has_prior"] == "True" else None,
        "alpha": float(metadata["alpha"]),
        "temperature": float(metadata["temperature"]),
        "base_temperature": float(metadata["base_temperature"]),
        "eps": 1e-12,
    }
    if metadata["variant"].startswith("multitask"):
        smoothing = 0.1 if metadata["variant"] == "multitask_mae" else 0.0
        loss = multitask_loss(features, labels, logits, label_smoothing=smoothing, **settings)
    else:
        loss = paco_loss(
            features,
            labels,
            logits,
            beta=float(metadata["beta"]),
            gamma=float(metadata["gamma"]),
            supervised_temperature=float(metadata["supt"]),
            label_smoothing=float(metadata["smooth"]),
            **settings,
        )
    loss.backward()
    return loss.detach(), features.grad, logits.grad


@pytest.mark.parametrize("name", GOLDENS)
def test_golden(name: str) -> None:
    tensors, metadata = golden(name)
    expected = tensors["loss"].item()
    loss, feature_gradient, logit_gradient = golden_loss(tensors, metadata, torch.float64)
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    wanted = torch.cat([tensors["grad_q"].double(), tensors["grad_k"].double(), tensors["grad_queue"].double()])
    stored_as_float32 = any(tensors[f"grad_{part}"].dtype == torch.float32 for part in ("q", "k", "queue"))
    for gradient, reference, rounded in (
        (feature_gradient, wanted, stored_as_float32),
        (logit_gradient, tensors["grad_sup_logits"].double(), tensors["grad_sup_logits"].dtype == torch.float32),
    ):
        assert (gradient - reference).abs().max() <= (1e-6 if rounded else 1e-8) * max(
            reference.abs().max().item(), 1e-12
        )
    loss32, *_ = golden_loss(tensors, metadata, torch.float32)
    assert loss32.item() == pytest.approx(expected, rel=1e-4)


def test_all_golden_cases_are_here() -> None:
    assert len(GOLDENS) >= 51


def literal(features, labels, logits, *, counts=None, alpha, beta, gamma, temperature, supt, smooth):
    """The formula, one anchor and one term at a time."""
    n, classes = logits.shape
    prior = torch.zeros(classes) if counts is None else (counts / counts.sum() + 1e-9).log()
    total = torch.zeros((), dtype=features.dtype)
    for i in range(n):
        a = (logits[i] + prior) / supt
        others = [j for j in range(len(features)) if j != i]
        z = {j: features[i] @ features[j] / temperature for j in others}
        terms = [a, *([torch.stack([z[j] for j in others]) + math.log(gamma)] if gamma > 0 else [])]
        denominator = torch.logsumexp(torch.cat(terms), 0)
        positives = [j for j in others if labels[j] == labels[i]]
        weight = beta + alpha * len(positives)
        if weight == 0:
            continue
        target = torch.full((classes,), smooth / (classes - 1), dtype=features.dtype)
        target[labels[i]] = 1 - smooth
        part = beta * (target * (a - denominator)).sum() + alpha * sum(z[j] - denominator for j in positives)
        total = total - part / weight
    return total / n


def random_case(n=6, rows=15, classes=4, dim=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = F.normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64), dim=1)
    labels = torch.randint(classes, (rows,), generator=generator)
    return features, labels, torch.randn(n, classes, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("beta", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("gamma", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("smooth", [0.0, 0.2])
def test_default_equals_the_literal_formula(beta: float, gamma: float, smooth: float) -> None:
    features, labels, logits = random_case()
    counts = torch.tensor([40.0, 10.0, 3.0, 1.0], dtype=torch.float64)
    loss = paco_loss(
        features,
        labels,
        logits,
        class_counts=counts,
        alpha=0.1,
        beta=beta,
        gamma=gamma,
        temperature=0.1,
        supervised_temperature=0.7,
        label_smoothing=smooth,
    )
    expected = literal(
        features,
        labels,
        logits,
        counts=counts,
        alpha=0.1,
        beta=beta,
        gamma=gamma,
        temperature=0.1,
        supt=0.7,
        smooth=smooth,
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_exact_at_low_temperature_where_the_reference_is_not() -> None:
    # Orthogonal rows: every similarity but the self column (1 / 0.01 = 100) is 0, and so are the logits.
    features = torch.eye(8, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 1, 2, 2, 3, 3])
    logits = torch.zeros(2, 4, dtype=torch.float64)
    expected = literal(
        features, labels, logits, alpha=0.05, beta=1.0, gamma=1.0, temperature=0.01, supt=1.0, smooth=0.0
    )
    exact = paco_loss(features, labels, logits, temperature=0.01)
    assert exact.item() == pytest.approx(expected.item(), rel=1e-12)
    assert paco_loss(features.float(), labels, logits.float(), temperature=0.01).item() == pytest.approx(
        expected.item(), rel=1e-5
    )
    reference = paco_loss(features, labels, logits, temperature=0.01, eps=1e-12)
    assert reference.item() > 10 * exact.item()


def test_anchor_without_positive_weight_adds_nothing() -> None:
    features, labels, logits = random_case()
    labels = torch.arange(15) % 4
    labels[0], labels[labels == 3] = 3, 2
    labels[0] = 3
    features.requires_grad_()
    loss = paco_loss(features, labels, logits, beta=0.0)
    loss.backward()
    rest = literal(features, labels, logits, alpha=0.05, beta=0.0, gamma=1.0, temperature=0.2, supt=1.0, smooth=0.0)
    assert loss.item() == pytest.approx(rest.item(), rel=1e-12)
    assert torch.isfinite(features.grad).all()
    lonely = multitask_loss(features[:1], torch.tensor([0]), logits[:1])
    assert lonely.item() == pytest.approx(F.cross_entropy(logits[:1], torch.tensor([0])).item())


def test_labels_outside_the_classes_match_nothing() -> None:
    features, labels, logits = random_case()
    outside = labels.clone()
    outside[10:] = torch.tensor([999, 4, -1, 1000, 7])
    loss = paco_loss(features, outside, logits)
    expected = literal(
        features, outside, logits, alpha=0.05, beta=1.0, gamma=1.0, temperature=0.2, supt=1.0, smooth=0.0
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_gradcheck() -> None:
    features, labels, logits = random_case(n=3, rows=7)
    features.requires_grad_()
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda f, s: paco_loss(f, labels, s, alpha=0.3), (features, logits))
    assert torch.autograd.gradcheck(lambda f, s: multitask_loss(f, labels, s), (features, logits))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_also_under_autocast(dtype: torch.dtype) -> None:
    features, labels, logits = random_case()
    features, logits = features.to(dtype), logits.to(dtype)
    expected = paco_loss(features.float(), labels, logits.float(), temperature=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        for loss in (
            paco_loss(features, labels, logits, temperature=0.05),
            paco_loss(features.float(), labels, logits.float(), temperature=0.05),
        ):
            assert loss.dtype == torch.float32
            assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1, "gamma": 0.5, "eps": 1e-12}])
def test_blocks_and_parts_change_nothing(monkeypatch: pytest.MonkeyPatch, settings: dict) -> None:
    features, labels, logits = random_case(n=3, rows=11)
    features.requires_grad_()
    logits.requires_grad_()

    def value_and_gradients() -> list[torch.Tensor]:
        loss = paco_loss(features, labels, logits, alpha=0.3, temperature=0.1, **settings)
        return [loss.detach(), *torch.autograd.grad(loss, (features, logits))]

    whole = value_and_gradients()
    monkeypatch.setattr(anchor_terms, "BLOCK_ELEMENTS", 6)
    for in_blocks, expected in zip(value_and_gradients(), whole, strict=True):
        assert torch.allclose(in_blocks, expected, rtol=1e-12, atol=1e-15)
    assert torch.autograd.gradcheck(
        lambda f, s: paco_loss(f, labels, s, alpha=0.3, supervised_temperature=0.7, **settings), (features, logits)
    )
    batch = features[:6].detach().requires_grad_()
    loss = paco_loss((batch, features[6:].detach()), labels, logits, alpha=0.3, temperature=0.1, **settings)
    assert loss.item() == pytest.approx(whole[0].item(), rel=1e-12)
    assert torch.allclose(torch.autograd.grad(loss, batch)[0], whole[1][:6], rtol=1e-12, atol=1e-15)


def peak_bytes(run: Callable[[], object]) -> int:
    with torch.profiler.profile(profile_memory=True) as profiler:
        run()
    changes = [e.nbytes() for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(changes))


def test_memory_does_not_grow_with_the_queue() -> None:
    classes, n, dim = 1000, 64, 32
    peaks = []
    for rows in (2**14, 2**16):
        batch = F.normalize(torch.randn(2 * n, dim), dim=1).requires_grad_()
        queue, labels = torch.randn(rows, dim), torch.randint(classes, (2 * n + rows,))
        logits = torch.randn(n, classes, requires_grad=True)

        def step(batch=batch, queue=queue, labels=labels, logits=logits) -> None:
            paco_loss((batch, queue), labels, logits).backward()

        peaks.append(peak_bytes(step))
    # Labels grow (three vectors of 8 bytes a row), similarities (256 bytes a row and buffer) do not.
    assert peaks[1] - peaks[0] < 40 * (2**16 - 2**14)
    # A loss of masks holds some ten such matrices.
    assert peaks[0] < 0.5 * (n * 2**14 * 4)


def test_balanced_softmax_and_cross_entropy() -> None:
    logits, labels, counts = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2]), [50, 10, 2]
    prior = torch.tensor(counts) / 62
    expected = -(logits + prior.log()).log_softmax(1)[range(6), labels].mean()
    assert balanced_softmax_loss(logits, labels, counts).item() == pytest.approx(expected.item(), rel=1e-6)
    assert balanced_softmax_loss(logits, labels, counts, tau=0.0).item() == pytest.approx(
        F.cross_entropy(logits, labels).item()
    )
    assert LossModule("ce")(logits, labels).item() == pytest.approx(F.cross_entropy(logits, labels).item())
    assert LossModule("balanced_softmax", counts)(logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)


def test_module_parts_add_up() -> None:
    features, labels, logits = random_case()
    for variant, function in (("paco", paco_loss), ("multitask", multitask_loss)):
        parts = LossModule(variant, [4, 3, 2, 1], alpha=0.2)(features, labels, logits)
        whole = function(features, labels, logits, class_counts=[4, 3, 2, 1], alpha=0.2)
        assert (parts.class_part + parts.contrast_part).item() == pytest.approx(whole.item(), rel=1e-12)


def test_a_second_derivative_is_refused() -> None:
    features, labels, logits = random_case()
    loss = paco_loss(features.requires_grad_(), labels, logits)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, features, create_graph=True)


def test_an_anchor_of_no_class_has_no_positive() -> None:
    features, _, logits = random_case(n=3, rows=6)
    features.requires_grad_()
    labels = torch.tensor([-100, 0, 1, 3, -100, 0])
    contrast = LossModule("multitask")(features, labels, logits)
    assert contrast.positive_count.tolist() == [0, 1, 0]
    others = LossModule("multitask")(features, torch.tensor([2, 0, 1, 3, 7, 0]), logits)
    assert contrast.contrast_part.item() == pytest.approx(others.contrast_part.item(), rel=1e-12)
    gradients = [torch.autograd.grad(case.contrast_part, features)[0] for case in (contrast, others)]
    assert torch.allclose(*gradients, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("settings", [{"gamma": 0.0}, {"beta": 0.0}, {"gamma": 0.0, "eps": 1e-12}, {"alpha": 0.0}])
def test_gradients_where_a_part_is_switched_off(settings: dict) -> None:
    features, labels, logits = random_case(n=3, rows=8)
    inputs = (features.requires_grad_(), logits.requires_grad_())
    assert torch.autograd.gradcheck(lambda f, s: paco_loss(f, labels, s, **settings), inputs)
    # The second part of two takes a gradient too.
    parts = features[:4].detach().requires_grad_(), features[4:].detach().requires_grad_()
    loss = paco_loss(parts, labels.int(), logits, **settings)
    split = torch.cat(torch.autograd.grad(loss, parts))
    whole = torch.autograd.grad(paco_loss(features, labels, logits, **settings), features)[0]
    assert torch.allclose(split, whole, rtol=1e-12, atol=1e-15)


def test_errors_name_what_does_not_fit() -> None:
    features, labels, logits = random_case()
    with pytest.raises(ValueError, match=r"one width D, got \[2, 3\]"):
        paco_loss((features[:6, :3], features[6:, :2]), labels, logits)
    with pytest.raises(ValueError, match="one entry for each of the 15 feature rows"):
        paco_loss(features, labels[:3], logits)
    with pytest.raises(ValueError, match=r"expected features \(N, D\)"):
        paco_loss(features[0], labels, logits)
    with pytest.raises(ValueError, match="each of the 4 classes"):
        paco_loss(features, labels, logits, class_counts=[1, 2])
    assert log_class_prior([1, 0], logits[:, :2])[1].item() == pytest.approx(torch.tensor(1e-9).log().item(), rel=1e-6)
