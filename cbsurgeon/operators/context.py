"""CB and CB_S (section 3.2 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cbsurgeon.operators.base import Cost, Operator


class CB(Operator):
    """Context Broadcasting: ``CB(x_i) = (x_i + mean_j x_j) / 2`` (eq. 1), without parameters.

    Written as the paper's line, ``0.5 * x + 0.5 * x.mean(dim, keepdim=True)``, so that eager fp32 results are
    bit-equal to a model with that line in its source. It keeps the mean of the tokens and halves their
    deviations from it; a model has to be trained or fine-tuned with it.
    """

    name = "cb"

    def forward(self, x: Tensor) -> Tensor:
        """Eq. 1 on a tensor of any shape; the result has the same shape and type."""
        return 0.5 * x + 0.5 * self.mean(x)

    @classmethod
    def cost(cls, tokens: int, channels: int) -> Cost:
        """Closed form on ``tokens`` tokens of ``channels`` channels, batch 1."""
        n, c = tokens, channels
        return Cost(n * c, 3 * n * c + 2 * c, 5 * n * c + 4 * c, 0, "3NC + 2C: sum, 1/N, half x, half mean, add")


class CBS(Operator):
    """CB with dimension scaling: ``CB_S(x_i) = x_i + scale * mean_j x_j`` (section 3.2), ``scale`` of shape ``[C]``.

    ``scale`` starts at ``initial``; at 0, the default, the operator is the exact identity and its gradient
    ``sum_i g_i * mean`` is not degenerate. Give ``scale`` no weight decay.
    """

    name = "cb_s"
    identity_at_start = True

    def __init__(
        self, channels: int, channel_axis: int, token_axes: Sequence[int], *, initial: float = 0.0
    ) -> None:
        super().__init__(channels, channel_axis, token_axes)
        self.initial = float(initial)
        self.scale = nn.Parameter(torch.full((channels,), self.initial))

    def options(self) -> dict[str, Any]:
        """``initial``, where it is not 0."""
        return {"initial": self.initial} if self.initial else {}

    def forward(self, x: Tensor) -> Tensor:
        """``x + scale * mean``, same shape and type as ``x``."""
        return x + self.per_channel(self.scale, x) * self.mean(x)

    @classmethod
    def cost(cls, tokens: int, channels: int) -> Cost:
        """Closed form on ``tokens`` tokens of ``channels`` channels, batch 1."""
        n, c = tokens, channels
        return Cost(c, 2 * n * c + 2 * c, 3 * n * c + 4 * c, c, "2NC + 2C: sum, 1/N, scale mean, add")
