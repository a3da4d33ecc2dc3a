"""Squeeze-excite, the paper's comparison (Table 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from cbsurgeon.operators.base import Cost, Operator

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

    def __init__(
        self, channels: int, channel_axis: int, token_axes: Sequence[int], *, reduction: int = REDUCTION
    ) -> None:
        super().__init__(channels, channel_axis, token_axes)
        if not isinstance(reduction, int) or reduction < 1:
            raise ValueError(f"reduction is {reduction!r}, not a whole number from 1 on")
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
        """Closed form at a reduction; the paper's convention counts the mean as C."""
        reduction = options.get("reduction", REDUCTION)
        n, c, h = tokens, channels, _hidden(channels, reduction)
        return Cost(
            2 * c * h + c + n * c,
            2 * n * c + 4 * c * h + 2 * c + h,
            3 * n * c + 2 * c * h + 7 * c + 5 * h,
            2 * c * h + h + c,
            f"2NC + 4CH + 2C + H, H = C // {reduction}: sum, 1/N, two linear layers, relu, sigmoid, gate",
        )


def _hidden(channels: int, reduction: int) -> int:
    return max(1, channels // reduction)
