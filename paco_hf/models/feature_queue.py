"""The queue of past key features."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FeatureQueue(nn.Module):
    """The last `size` key features with their labels; all rows take part in the contrast from the first step on.

    The rows start as the reference's: normal noise with each *column* at unit length, so rows are about `sqrt(D /
    size)` long, and random labels.

    Args:
        size (`int`): number of rows `K`; 0 is no queue.
        dim (`int`): width `D` of a row.
        num_classes (`int`): the initial labels are below it.
        seed (`int`, *optional*, defaults to `0`): of the initial rows and labels.

    Attributes:
        features (`Tensor` of shape `(K, D)`): the rows.
        labels (`Tensor` of shape `(K,)`): their classes.
        pointer (`Tensor` of shape `(1,)`): the oldest row, which is overwritten next.
    """

    features: Tensor
    labels: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int, num_classes: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        features = F.normalize(torch.randn(size, dim, generator=generator), dim=0)
        self.register_buffer("features", features)
        self.register_buffer("labels", torch.randint(num_classes, (size,), generator=generator))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, features: Tensor, labels: Tensor) -> None:
        """Overwrite the oldest rows. Of more than `size` rows the last `size` stay.

        Args:
            features (`Tensor` of shape `(B, D)`): the new rows; any `B`.
            labels (`Tensor` of shape `(B,)`): their classes.
        """
        size, rows = self.labels.shape[0], labels.shape[0]
        if size == 0:
            return
        start = self.pointer + max(rows - size, 0)
        slots = (start + torch.arange(min(rows, size), device=self.pointer.device)) % size
        self.features[slots] = features[-size:].to(self.features.dtype)
        self.labels[slots] = labels[-size:]
        self.pointer.copy_((self.pointer + rows) % size)
