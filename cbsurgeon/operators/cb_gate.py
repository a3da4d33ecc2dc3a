"""CB_gate (appendix B.7): every token is multiplied by the class token."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cbsurgeon.operators.class_token import ClassToken
from cbsurgeon.operators.common.cost import Cost, Folding, Traffic


class CBGate(ClassToken):
    """``CB_gate(x_i) = x_i * (x_cls + 1)`` (appendix B.7), without parameters."""

    name = "cb_gate"
    formula = "x · (x_cls + 1)"

    def forward(self, x: Tensor) -> Tensor:
        """The gated tensor, same shape and type as ``x``."""
        return x * (self.class_token(x) + 1)

    @classmethod
    def cost(cls, tokens: int, channels: int, /, **options: Any) -> Cost:
        """NC + C; the paper counts NC. It has no mean: fused, only the class token is read once more."""
        n, c = tokens, channels
        traffic = (
            Traffic("line", 2, 2 * n * c + 3 * c),
            Traffic("kernel", 1, 2 * n * c + c),
            Traffic("folded", 0, c),
            Traffic("fused", 0, c),
        )
        return Cost(n * c, n * c + c, 0, "NC + C: gate x, class token + 1", traffic)

    @classmethod
    def folding(cls, **options: Any) -> Folding:
        """Nothing: the gate differs from sample to sample."""
        return Folding(reason="the gate is computed from the class token of every sample, so weights cannot hold it")
