"""An operator of your own: every token receives the largest value of each channel, scaled by a learned vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cbsurgeon import Operator
from cbsurgeon.operators import Cost, Folding, Traffic


class MaxContext(Operator):
    """``x_i + scale * max_j x_j`` over all tokens ``j``; ``scale`` of shape ``[C]`` starts at 0, the identity."""

    name = "max_context"
    formula = "x + scale · max x"
    identity_at_start = True

    def __init__(self, channels: int, channel_axis: int, token_axes: Sequence[int], *, initial: float = 0.0) -> None:
        super().__init__(channels, channel_axis, token_axes)
        self.initial = float(initial)
        self.scale = nn.Parameter(torch.full((channels,), self.initial))

    def forward(self, x: Tensor) -> Tensor:
        """The tensor with the scaled maximum added, same shape and type as ``x``."""
        return x + self.per_channel(self.scale, x) * x.amax(dim=self.token_axes, keepdim=True)

    def options(self) -> dict[str, Any]:
        """The options with which a recipe builds it again."""
        return {"initial": self.initial} if self.initial else {}

    @classmethod
    def cost(cls, tokens: int, channels: int, /, **options: Any) -> Cost:
        """NC comparisons, C multiplications and NC additions; the paper's convention counts the C multiplications.

        Unfused: the maximum reads NC and writes C; the product reads C and the scale and writes C; the addition reads
        NC + C and writes NC. Fused: one kernel for the maximum, one for the rest, which may join the residual addition.
        """
        n, c = tokens, channels
        traffic = (
            Traffic("line", kernels=3, elements=3 * n * c + 4 * c, shared=c),
            Traffic("kernel", kernels=2, elements=3 * n * c + 2 * c, shared=c),
            Traffic("folded", kernels=1, elements=n * c + 2 * c, shared=c),
        )
        return Cost(c, 2 * n * c + c, c, "2NC + C: maximum, scale maximum, add", traffic)

    @classmethod
    def folding(cls, **options: Any) -> Folding:
        """A maximum does not commute with a linear layer, and ``x`` has no factor."""
        return Folding(reason="x has no factor that weights could take")
