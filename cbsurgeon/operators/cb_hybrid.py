"""CB_hybrid (appendix B.7): CB plus every token multiplied by the class token."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cbsurgeon.operators.class_token import ClassToken
from cbsurgeon.operators.common.cost import Cost, Folding, Traffic, around_a_mean


class CBHybrid(ClassToken):
    """``CB_hybrid(x_i) = x_i * x_cls + CB(x_i)`` (appendix B.7), without parameters.

    The paper reports that it diverged when put on the MLP and on the attention together.
    """

    name = "cb_hybrid"
    formula = "x · x_cls + (x + mean x) / 2"

    def forward(self, x: Tensor) -> Tensor:
        """The gated tensor plus CB of it, same shape and type as ``x``."""
        return x * self.class_token(x) + (0.5 * x + 0.5 * self.mean(x))

    @classmethod
    def cost(cls, tokens: int, channels: int, /, **options: Any) -> Cost:
        """5NC + 2C; the paper counts 2NC."""
        n, c = tokens, channels
        traffic = (Traffic("line", 6, 10 * n * c + 5 * c), *around_a_mean(n, c, elements=c))
        formula = "5NC + 2C: gate x, add; CB: sum, 1/N, half x, half mean, add"
        return Cost(2 * n * c, 5 * n * c + 2 * c, 0, formula, traffic)

    @classmethod
    def folding(cls, **options: Any) -> Folding:
        """Nothing: the gate differs from sample to sample."""
        return Folding(reason="the gate is computed from the class token of every sample, so weights cannot hold it")
