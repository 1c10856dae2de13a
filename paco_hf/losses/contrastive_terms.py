"""What the contrastive losses need of each anchor, with one similarity buffer and a backward pass of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Similarities of a block. On a CPU 1 MiB in float32, which stays in a core's cache from the matrix product to the last
# use; on a GPU 256 MiB, so that few kernels do the work.
BLOCK_ELEMENTS = 2**18
GPU_BLOCK_ELEMENTS = 2**26


@dataclass
class TermSettings:
    """Shapes and constants of [`anchor_terms`].

    Args:
        anchors (`int`): `n`, the number of anchors.
        num_classes (`int`): `C`.
        temperature (`float`): divides the similarities.
        gamma (`float`, *optional*, defaults to `1.0`): weight of the rows in the denominator.
        supervised_temperature (`float`, *optional*, defaults to `1.0`): divides class logits and prior together.
        label_smoothing (`float`, *optional*, defaults to `0.0`): mass of the target on the `C - 1` other classes.
        eps (`float`, *optional*, defaults to `0.0`): added inside the logarithm, after the shift by the maximum.
    """

    anchors: int
    num_classes: int
    temperature: float
    gamma: float = 1.0
    supervised_temperature: float = 1.0
    label_smoothing: float = 0.0
    eps: float = 0.0

    @property
    def other_mass(self) -> float:
        """Weight of each class that is not the anchor's in the smoothed target."""
        return self.label_smoothing / max(self.num_classes - 1, 1)

    @property
    def target_mass(self) -> float:
        """Sum of the smoothed target, 1 where there are other classes to smooth over."""
        return 1 - self.label_smoothing + self.other_mass * (self.num_classes - 1)

    @property
    def contrasts(self) -> bool:
        """Whether the similarities have a part in the denominator."""
        # `eps` asks for the reference's shift, which is over all similarities even where gamma leaves them out.
        return self.gamma != 0 or self.eps > 0


def anchor_terms(
    features: Sequence[Tensor],
    class_logits: Tensor | None,
    labels: Tensor,
    log_prior: Tensor | None,
    settings: TermSettings,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log denominator, target logit, and sum and number of positives of each anchor.

    With `a = (class_logits + log_prior) / supervised_temperature` and `z_ij = <f_i, f_j> / temperature`:

        D_i = log( sum_c exp(a_ic) + gamma * sum_{j != i} exp(z_ij) )     dD_i / da_ic = exp(a_ic - D_i)
                                                                          dD_i / dz_ij = gamma * exp(z_ij - D_i)

    The similarities are worked through in blocks of rows `j` with a running maximum. The sums of `exp(z_ij) f_j` that
    the anchors' gradient needs are kept; the blocks of rows that take a gradient themselves are computed a second
    time in the backward pass. So the memory does not grow with `N`, but for the gradient. The positives come from
    sums over the rows of each anchor's class, without an `(n, N)` mask.

    Args:
        features (sequence of `Tensor` `(N_p, D)`): parts of the `N` rows; the first `n` rows of the first are the
            anchors. A part that requires no gradient costs none.
        class_logits (`Tensor` of shape `(n, C)`, *optional*): without them `D_i` is over the rows alone.
        labels (`Tensor` of shape `(N,)`): class of each row.
        log_prior (`Tensor` of shape `(C,)`, *optional*): added to the logits; it takes no gradient.
        settings (`TermSettings`): constants.

    Returns:
        four `(n,)` tensors: `D_i`; `sum_c t_ic a_ic` of the smoothed target `t` (0 without logits); the sum of `z_ij`
        over the positives; their number (no gradient).
    """
    return _AnchorTerms.apply(class_logits, labels, log_prior, settings, *features)


class _AnchorTerms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        class_logits, labels, log_prior, settings, *features = inputs
        n = settings.anchors
        anchors = features[0][:n]
        same, class_sums, counts = _class_sums(features, labels, settings)
        # An anchor whose label names no class has no positive.
        known = same[:n] < n
        attracted = (class_sums[same[:n]] - anchors) * known[:, None]
        positives = (anchors * attracted).sum(1) / settings.temperature
        positive_count = (counts[same[:n]] - 1) * known

        target = torch.zeros_like(positives)
        shift = torch.full_like(positives, torch.finfo(positives.dtype).min)
        total = torch.zeros_like(positives)
        largest = weighted = None
        if class_logits is not None:
            logits = _adjusted(class_logits, log_prior, settings)
            at_label = logits.gather(1, labels[:n, None]).squeeze(1)
            target = (1 - settings.label_smoothing) * at_label
            if settings.label_smoothing > 0:
                target += settings.other_mass * (logits.sum(1) - at_label)
            shift = logits.amax(1)
            total = logits.sub_(shift[:, None]).exp_().sum(1)
            del logits
        if settings.contrasts:
            largest, contrast, weighted = _contrast(features, settings, any(ctx.needs_input_grad[4:]))
            common = torch.maximum(shift, largest)
            total = total * (shift - common).exp() + settings.gamma * contrast * (largest - common).exp()
            shift = common
        # Finite also for an anchor that has nothing to be contrasted with.
        log_denominator = (shift + (total + settings.eps).log()).clamp_(min=torch.finfo(total.dtype).min)

        ctx.settings = settings
        ctx.save_for_backward(
            class_logits, labels, log_prior, same, attracted, log_denominator, largest, weighted, *features
        )
        ctx.mark_non_differentiable(positive_count)
        return log_denominator, target, positives, positive_count

    @staticmethod
    def backward(
        ctx: Any, grad_denominator: Tensor, grad_target: Tensor, grad_positives: Tensor, _: Any
    ) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the contrastive losses have no second derivative: remove create_graph=True")
        class_logits, labels, log_prior, same, attracted, log_denominator, *saved = ctx.saved_tensors
        largest, weighted, *features = saved
        settings: TermSettings = ctx.settings
        n = settings.anchors
        grad_logits = None
        grad_features: list[Tensor | None] = [None] * len(features)
        with torch.autocast(log_denominator.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                grad_logits = _adjusted(class_logits, log_prior, settings).sub_(log_denominator[:, None]).exp_()
                grad_logits.mul_(grad_denominator[:, None])
                grad_label = grad_target * (1 - settings.label_smoothing - settings.other_mass)
                grad_logits.scatter_add_(1, labels[:n, None], grad_label[:, None])
                if settings.label_smoothing > 0:
                    grad_logits.add_(settings.other_mass * grad_target[:, None])
                if settings.supervised_temperature != 1:
                    grad_logits.div_(settings.supervised_temperature)
            if any(ctx.needs_input_grad[4:]):
                anchors = features[0][:n]
                if settings.contrasts:
                    slope = grad_denominator * settings.gamma * (largest - log_denominator).exp()
                    push = slope[:, None] / settings.temperature
                    blocks, repel = _Blocks(features, settings), push * anchors
                pull = (grad_positives * (same[:n] < n))[:, None] / settings.temperature
                pulls = anchors.new_zeros(n + 1, anchors.shape[1]).index_add_(0, same[:n], pull * anchors)
                for i, slots in enumerate(same.split([len(part) for part in features])):
                    if ctx.needs_input_grad[4 + i]:
                        # As the `j` of `z_ij`: the positives' part, plus the denominator's.
                        grad_features[i] = rows_gradient = pulls[slots]
                        for rows, block in blocks.iterate(i) if settings.contrasts else ():
                            blocks.mask(block, rows, i)
                            rows_gradient[rows].addmm_(block.sub_(largest).exp_(), repel)
                if grad_features[0] is not None:
                    # An anchor is no positive of its own, and stands on the other side of its similarities too.
                    grad_anchors = grad_features[0][:n].add_(pull * (attracted - anchors))
                    if settings.contrasts:
                        grad_anchors.addcmul_(push, weighted)
        return grad_logits, None, None, None, *grad_features


def _adjusted(class_logits: Tensor, log_prior: Tensor | None, settings: TermSettings) -> Tensor:
    """The class logits as the loss sees them, in memory of their own."""
    adjusted = class_logits.clone() if log_prior is None else class_logits + log_prior
    return adjusted if settings.supervised_temperature == 1 else adjusted.div_(settings.supervised_temperature)


def _class_sums(features: Sequence[Tensor], labels: Tensor, settings: TermSettings) -> tuple[Tensor, Tensor, Tensor]:
    """A slot for each anchor's class, and the sum and number of rows in each: `(N,)`, `(n + 1, D)`, `(n + 1,)`.

    A class has the slot of one of its anchors; slot `n` collects the rows of no anchor's class, and labels that name
    no class. So the sums need `(n + 1) * D` numbers, however many classes there are.
    """
    n, classes = settings.anchors, settings.num_classes
    valid = torch.where((labels >= 0) & (labels < classes), labels, classes)
    slots = labels.new_full((classes + 1,), n)
    slots[valid[:n]] = torch.arange(n, device=labels.device)
    slots[classes] = n
    same = slots[valid]
    sums = features[0].new_zeros(n + 1, features[0].shape[1])
    for part, part_slots in zip(features, same.split([len(part) for part in features]), strict=True):
        sums.index_add_(0, part_slots, part)
    counts = sums.new_zeros(n + 1).index_add_(0, same, torch.ones_like(same, dtype=sums.dtype))
    return same, sums, counts


class _Blocks:
    """The similarities `z_ij` of the anchors to all rows, a block `(rows j, n)` at a time, in one buffer.

    A block has the rows first, the faster shape to multiply. It is `-inf` at `j = i` once `mask` has been called.
    """

    def __init__(self, features: Sequence[Tensor], settings: TermSettings) -> None:
        self.features, self.anchors = features, features[0][: settings.anchors]
        self.scaled = (self.anchors / settings.temperature).T
        elements = BLOCK_ELEMENTS if self.anchors.is_cpu else GPU_BLOCK_ELEMENTS
        self.length = max(elements // max(settings.anchors, 1), 1)
        self.buffer = self.anchors.new_empty(min(self.length, max(map(len, features))), settings.anchors)

    def iterate(self, i: int) -> Iterator[tuple[slice, Tensor]]:
        """The rows of a part that a block is of, and the block."""
        part = self.features[i]
        for start in range(0, len(part), self.length):
            rows = slice(start, min(start + self.length, len(part)))
            yield rows, torch.mm(part[rows], self.scaled, out=self.buffer[: rows.stop - rows.start])

    def mask(self, block: Tensor, rows: slice, i: int) -> None:
        if i == 0 and rows.start < len(self.anchors):
            block[:, rows.start :].fill_diagonal_(float("-inf"))


def _contrast(
    features: Sequence[Tensor], settings: TermSettings, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Largest similarity `m_i`, `sum_j exp(z_ij - m_i)` and, for the gradient, `sum_j exp(z_ij - m_i) f_j`."""
    blocks = _Blocks(features, settings)
    largest = torch.full_like(blocks.anchors[:, 0], torch.finfo(blocks.anchors.dtype).min)
    total = torch.zeros_like(largest)
    weighted = torch.zeros_like(blocks.anchors) if with_gradient else None
    for i, part in enumerate(features):
        for rows, block in blocks.iterate(i):
            # The anchor itself takes no part in the shift (at low temperature it would underflow everything else),
            # except where `eps` asks for the reference's arithmetic.
            if settings.eps == 0:
                blocks.mask(block, rows, i)
            common = torch.maximum(largest, block.amax(0))
            if settings.eps > 0:
                blocks.mask(block, rows, i)
            shrink = (largest - common).exp_()
            block.sub_(common).exp_()
            total = block.sum(0).addcmul_(total, shrink)
            if weighted is not None:
                weighted.mul_(shrink[:, None]).addmm_(block.T, part[rows])
            largest = common
    return largest, total, weighted
