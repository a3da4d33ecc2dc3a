"""Squeeze-excite, the paper's comparison (Table 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from cbsurgeon.operators.base import Operator
from cbsurgeon.operators.common.cost import Cost, Folding, Traffic

REDUCTION = 16
"""Channels per hidden unit, the default of the squeeze-excite paper (Hu et al., CVPR 2018)."""


class SE(Operator):
    """Squeeze-excite: ``x * sigmoid(W2 relu(W1 mean + b1) + b2)`` with the mean over all tokens.

    ``W1`` has shape ``[C // r, C]`` and ``W2`` ``[C, C // r]``, so that it adds ``2 C (C // r) + C // r + C``
    parameters. They start as ``nn.Linear`` does (none at zero): the operator is not the identity at the start, and two
    insertions start from different numbers unless the random seed is set.

    Args:
        reduction: ``r``.
    """

    name = "se"
    formula = "x · sigmoid(W2 relu(W1 mean x + b1) + b2)"

    def __init__(
        self, channels: int, channel_axis: int, token_axes: Sequence[int], *, reduction: int = REDUCTION
    ) -> None:
        super().__init__(channels, channel_axis, token_axes)
        if not isinstance(reduction, int) or reduction < 1:
            raise ValueError(f"reduction is {reduction!r}, not a whole number of at least 1")
        self.reduction = reduction
        hidden = _hidden(channels, reduction)
        self.fc1, self.fc2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def options(self) -> dict[str, Any]:
        """``reduction``, where it is not 16."""
        return {"reduction": self.reduction} if self.reduction != REDUCTION else {}

    def forward(self, x: Tensor) -> Tensor:
        """The tensor with every channel gated, same shape and type as ``x``."""
        mean = self.mean(x).movedim(self.channel_axis, -1)
        gate: Tensor = self.fc2(self.fc1(mean).relu()).sigmoid()
        return x * gate.movedim(-1, self.channel_axis)

    @classmethod
    def cost(cls, tokens: int, channels: int, /, **options: Any) -> Cost:
        """2NC + 4CH + 2C + H; the paper's convention counts the gate, both layers and the mean, NC + 2CH + C.

        Fused, the activations join the two layers and the gate joins the residual addition; the layers stay kernels.
        """
        reduction = options.get("reduction", REDUCTION)
        n, c, h = tokens, channels, _hidden(channels, reduction)
        weights = 2 * c * h + h + c
        layers = 4 * c + 2 * h  # the mean, the hidden layer and the gate are each written and read
        traffic = (
            Traffic("line", 6, 3 * n * c + 6 * c + 4 * h, weights),
            Traffic("kernel", 4, 3 * n * c + layers, weights),
            Traffic("folded", 3, n * c + layers, weights),
            Traffic("fused", 2, layers, weights),
        )
        formula = f"2NC + 4CH + 2C + H, H = C // {reduction}: sum, 1/N, two linear layers, relu, sigmoid, gate"
        return Cost(2 * c * h + c + n * c, 2 * n * c + 4 * c * h + 2 * c + h, weights, formula, traffic)

    @classmethod
    def folding(cls, **options: Any) -> Folding:
        """Nothing: the gate differs from sample to sample."""
        return Folding(reason="the gate is computed from the mean of every sample, so weights cannot hold it")


def _hidden(channels: int, reduction: int) -> int:
    return max(1, channels // reduction)
