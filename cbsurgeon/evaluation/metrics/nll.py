"""Negative log-likelihood."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from cbsurgeon.evaluation.metrics.base import Metric


class NLL(Metric):
    """Mean of ``-ln p(class)`` in nats; ``p`` is the softmax of the outputs."""

    name, title, higher, percent = "nll", "NLL", False, False

    def record(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Record the loss of each image."""
        return cross_entropy(outputs.double(), targets, reduction="none")[:, None]
