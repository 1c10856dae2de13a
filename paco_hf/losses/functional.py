"""The losses: PaCo and GPaCo, the multi-task variant, and the baselines they are compared with.

Pure functions of tensors, and thin modules around them that the trainer holds. Nothing here knows a model.

Notation of the papers: `B` images a batch, `K` queue length, `C` classes, `D` projection width, `n` anchors (`B` for
PaCo, `2B` for GPaCo), `N = 2B + K` rows of the feature matrix. The class centers of the papers are the rows of the
classifier's weight matrix, so a class logit *is* the similarity of an image to a center: `class_logits` is all that
the losses need of them.

References: PaCo = "Parametric Contrastive Learning" (ICCV 2021), equations 4 to 6; GPaCo = "Generalized Parametric
Contrastive Learning" (TPAMI 2023), equation 7.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .contrastive_terms import TermSettings, anchor_terms


class LossTerms(NamedTuple):
    """The terms of a contrastive loss, and the number of positives of each anchor.

    Args:
        class_part (scalar `Tensor`): term of the class logits.
        contrast_part (scalar `Tensor`): term of the positive rows.
        positive_count (`Tensor` of shape `(n,)`): positive rows of each anchor.
    """

    class_part: Tensor
    contrast_part: Tensor
    positive_count: Tensor

    @property
    def total(self) -> Tensor:
        """The loss."""
        return self.class_part + self.contrast_part


def log_class_prior(class_counts: Any, like: Tensor) -> Tensor:
    """Logarithm of the class frequencies, `log(n_c / sum n + 1e-9)`.

    Args:
        class_counts (`list[int]`, `np.ndarray` or `Tensor` of shape `(C,)`): training images of each class.
        like (`Tensor`): the dtype and device of the result.

    Returns:
        `Tensor` of shape `(C,)`. The `1e-9` is from the reference implementation; it keeps an empty class finite.

    Raises:
        ValueError: there is not one count per class.
    """
    counts = torch.as_tensor(class_counts).to(like.dtype).to(like.device)  # not every one has float64
    if counts.shape != like.shape[-1:]:
        raise ValueError(
            f"class_counts must have one entry for each of the {like.shape[-1]} classes, got {counts.numel()}"
        )
    return (counts / counts.sum() + 1e-9).log()


def paco_loss(
    features: Tensor | Sequence[Tensor],
    labels: Tensor,
    class_logits: Tensor,
    *,
    class_counts: Any = None,
    alpha: float = 0.05,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 0.2,
    supervised_temperature: float = 1.0,
    base_temperature: float | None = None,
    label_smoothing: float = 0.0,
    eps: float = 0.0,
    return_terms: bool = False,
) -> Any:
    """Parametric contrastive loss of PaCo (equation 5) and GPaCo (equation 7); they differ in which rows are anchors.

    For anchor `i`, with class logits `a` (prior added, divided by `supervised_temperature`), similarities
    `z_ij = <f_i, f_j> / temperature` to all other rows and `P_i` rows of its own class among them:

        D_i = log( sum_c exp(a_ic) + gamma * sum_{j != i} exp(z_ij) )
        L_i = -( beta * (a_iy - D_i) + alpha * sum_{j positive} (z_ij - D_i) ) / (beta + alpha * P_i)

    An anchor without any positive weight (`beta = 0` and no positive) adds nothing to the sum; the mean still runs
    over all `n` anchors. Half-precision inputs are computed in float32, also under autocast.

    Args:
        features (`Tensor` of shape `(N, D)`): rows `[query; key; queue]`; the first `n` rows are the anchors. Or a
            sequence of parts `(N_p, D)`, with all anchors in the first part; a part that requires no gradient (the
            queue) then costs no backward pass.
        labels (`Tensor` of shape `(N,)`): class of each row. A label outside `0..C-1` matches no anchor.
        class_logits (`Tensor` of shape `(n, C)`): raw logits of the anchors.
        class_counts (`(C,)`, *optional*): training images of each class; adds the log prior to the logits.
        alpha (`float`, *optional*, defaults to `0.05`): weight of each positive row.
        beta (`float`, *optional*, defaults to `1.0`): weight of the anchor's class center.
        gamma (`float`, *optional*, defaults to `1.0`): weight of the rows in the denominator (not of the centers).
        temperature (`float`, *optional*, defaults to `0.2`): divides the similarities.
        supervised_temperature (`float`, *optional*, defaults to `1.0`): divides logits and prior together.
        base_temperature (`float`, *optional*): scales the loss by `temperature / base_temperature`; `None`: by 1.
        label_smoothing (`float`, *optional*, defaults to `0.0`): mass spread over the `C - 1` other classes.
        eps (`float`, *optional*, defaults to `0.0`): added inside the logarithm after shifting by the row's maximum,
            self column included. The reference implementation uses `1e-12`, which is harmless at T >= 0.05 and wrong
            below; 0 is the exact log-sum-exp.
        return_terms (`bool`, *optional*, defaults to `False`): return [`LossTerms`] instead of the sum.

    Returns:
        scalar `Tensor`, the mean over the anchors. The gradient cannot be differentiated a second time.

    Raises:
        ValueError: the shapes do not match.

    Example:

    ```python
    import torch
    from paco_hf import paco_loss

    features = torch.nn.functional.normalize(torch.randn(24, 16), dim=1)  # 4 query, 4 key and 16 queue rows
    labels = torch.randint(3, (24,))
    loss = paco_loss(features, labels, torch.randn(4, 3, requires_grad=True), class_counts=[500, 50, 5])
    loss.backward()
    ```
    """
    parts, labels, class_logits = _checked(features, labels, class_logits)
    with torch.autocast(class_logits.device.type, enabled=False):
        prior = None if class_counts is None else log_class_prior(class_counts, class_logits)
        anchors, classes = class_logits.shape
        settings = TermSettings(anchors, classes, temperature, gamma, supervised_temperature, label_smoothing, eps)
        log_denominator, target, positive_sum, positive_count = anchor_terms(
            parts, class_logits, labels, prior, settings
        )
        log_target = target - settings.target_mass * log_denominator
        positives = positive_sum - positive_count * log_denominator

        weight = beta + alpha * positive_count
        scale = -_outer_scale(temperature, base_temperature) * torch.where(weight > 0, 1 / weight, 0.0)
        class_part, contrast_part = (scale * beta * log_target).mean(), (scale * alpha * positives).mean()
        return LossTerms(class_part, contrast_part, positive_count) if return_terms else class_part + contrast_part


def multitask_loss(
    features: Tensor | Sequence[Tensor],
    labels: Tensor,
    class_logits: Tensor,
    *,
    class_counts: Any = None,
    alpha: float = 0.5,
    temperature: float = 0.2,
    base_temperature: float | None = None,
    label_smoothing: float = 0.0,
    eps: float = 0.0,
    return_terms: bool = False,
) -> Any:
    """Cross-entropy plus `alpha` times a supervised contrastive loss, the multi-task setting of GPaCo (section 4).

    With `class_counts`, the cross-entropy includes the class prior (balanced softmax). It spreads `label_smoothing`
    over all `C` classes. The contrastive part averages over each anchor's positives; an anchor without positives adds
    nothing. The "effective number" weights of the reference implementation are always exactly 1 and are omitted.

    Args:
        features (`Tensor` of shape `(N, D)`): rows `[query; key; queue]`, the first `n` the anchors, or parts of it,
            as in [`paco_loss`].
        labels (`Tensor` of shape `(N,)`): class of each row. A label outside `0..C-1` matches no anchor.
        class_logits (`Tensor` of shape `(n, C)`): raw logits of the anchors.
        class_counts (`(C,)`, *optional*): training images of each class; adds the log prior to the logits.
        alpha (`float`, *optional*, defaults to `0.5`): weight of the contrastive part.
        temperature (`float`, *optional*, defaults to `0.2`): divides the similarities.
        base_temperature (`float`, *optional*): scales the contrastive part by `temperature / base_temperature`.
        label_smoothing (`float`, *optional*, defaults to `0.0`): mass spread over all `C` classes.
        eps (`float`, *optional*, defaults to `0.0`): as in [`paco_loss`].
        return_terms (`bool`, *optional*, defaults to `False`): return [`LossTerms`] instead of the sum.

    Returns:
        scalar `Tensor`, the mean over the anchors. The gradient cannot be differentiated a second time.

    Raises:
        ValueError: the shapes do not match.
    """
    parts, labels, class_logits = _checked(features, labels, class_logits)
    with torch.autocast(class_logits.device.type, enabled=False):
        anchors, num_classes = class_logits.shape
        if class_counts is not None:
            class_logits = class_logits + log_class_prior(class_counts, class_logits)
        cross_entropy = F.cross_entropy(class_logits, labels[:anchors], label_smoothing=label_smoothing)

        settings = TermSettings(anchors, num_classes, temperature, eps=eps)
        log_denominator, _, positive_sum, positive_count = anchor_terms(parts, None, labels, None, settings)
        positives = positive_sum - positive_count * log_denominator
        contrast = -_outer_scale(temperature, base_temperature) * positives / positive_count.clamp(min=1)
        contrast_part = alpha * contrast.mean()
        terms = LossTerms(cross_entropy, contrast_part, positive_count)
        return terms if return_terms else cross_entropy + contrast_part


def balanced_softmax_loss(
    class_logits: Tensor, labels: Tensor, class_counts: Any, *, tau: float = 1.0, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy with `tau` times the log prior added to the logits.

    `tau = 1` is balanced softmax (Ren et al., NeurIPS 2020), other values are logit adjustment (Menon et al., ICLR
    2021).

    Args:
        class_logits (`Tensor` of shape `(B, C)`): raw logits.
        labels (`Tensor` of shape `(B,)`): class indices.
        class_counts (`(C,)`): training images of each class.
        tau (`float`, *optional*, defaults to `1.0`): strength of the prior.
        label_smoothing (`float`, *optional*, defaults to `0.0`): mass spread over all `C` classes.

    Returns:
        scalar `Tensor`.
    """
    class_logits = at_least_float32(class_logits)
    with torch.autocast(class_logits.device.type, enabled=False):
        adjusted = class_logits + tau * log_class_prior(class_counts, class_logits)
        return F.cross_entropy(adjusted, labels, label_smoothing=label_smoothing)


def cross_entropy_loss(class_logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy without a prior, computed in float32 for half-precision logits.

    Args:
        class_logits (`Tensor` of shape `(B, C)`): raw logits.
        labels (`Tensor` of shape `(B,)`): class indices.
        label_smoothing (`float`, *optional*, defaults to `0.0`): mass spread over all `C` classes.

    Returns:
        scalar `Tensor`.
    """
    return F.cross_entropy(at_least_float32(class_logits), labels, label_smoothing=label_smoothing)


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor, in float32 where it is in half precision."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _checked(
    features: Tensor | Sequence[Tensor], labels: Tensor, class_logits: Tensor
) -> tuple[list[Tensor], Tensor, Tensor]:
    parts = [features] if isinstance(features, Tensor) else list(features)
    if not parts or any(part.ndim != 2 for part in parts) or class_logits.ndim != 2 or labels.ndim != 1:
        raise ValueError(
            "expected features (N, D), labels (N,) and class_logits (n, C), got "
            f"{', '.join(str(tuple(part.shape)) for part in parts)}; {tuple(labels.shape)} and "
            f"{tuple(class_logits.shape)}"
        )
    rows, anchors = sum(len(part) for part in parts), len(class_logits)
    if len(labels) != rows or anchors > len(parts[0]):
        raise ValueError(
            f"labels must have one entry for each of the {rows} feature rows (got {len(labels)}), and "
            f"class_logits at most as many rows as the features (of the first part: {len(parts[0])}), got {anchors}"
        )
    widths = {part.shape[1] for part in parts}
    if len(widths) > 1:
        raise ValueError(f"the parts of the features must have one width D, got {sorted(widths)}")
    dtype = at_least_float32(parts[0]).dtype
    return [part.to(dtype) for part in parts], labels.long(), class_logits.to(dtype)


def _outer_scale(temperature: float, base_temperature: float | None) -> float:
    return 1.0 if base_temperature is None else temperature / base_temperature
