"""CB_S: Context Broadcasting with dimension scaling (section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cbsurgeon.operators.common.cost import Cost, Folding, Traffic, around_a_mean, around_a_scan
from cbsurgeon.operators.context import Context


class CBS(Context):
    """CB with dimension scaling: ``CB_S(x_i) = x_i + scale * mean_j x_j`` (section 3.2), ``scale`` of shape ``[C]``.

    ``scale`` starts at ``initial``; at 0, the default, the operator is the exact identity and its gradient
    ``sum_i g_i * mean`` is not degenerate. Give ``scale`` no weight decay.
    """

    name = "cb_s"
    formula = "x + scale · mean x"
    twice = "CB_S twice is another operator: x + (2 scale + scale²) mean x"
    identity_at_start = True
    start = ("initial",)

    def __init__(
        self,
        channels: int,
        channel_axis: int,
        token_axes: Sequence[int],
        *,
        initial: float = 0.0,
        tokens: str | None = None,
        causal: bool = False,
        masked: bool = False,
    ) -> None:
        super().__init__(channels, channel_axis, token_axes, tokens=tokens, causal=causal, masked=masked)
        self.initial = float(initial)
        self.scale = nn.Parameter(torch.full((channels,), self.initial))

    def options(self) -> dict[str, Any]:
        """``initial`` if it is not 0, and the options of :class:`Context`."""
        return {**({"initial": self.initial} if self.initial else {}), **super().options()}

    def forward(self, x: Tensor) -> Tensor:
        """``x + scale * mean``, same shape and type as ``x``."""
        return self.over(x, self._mix)

    def _mix(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        broadcast = self.per_channel(self.scale, x) * self.context(x, hidden)
        # Under autocast, x is 16-bit and scale is float32. Without the cast, the sum would be float32, and so would
        # the rest of the branch.
        return x + (broadcast if broadcast.dtype == x.dtype else broadcast.to(x.dtype))

    @classmethod
    def plain_cost(cls, n: int, c: int) -> Cost:
        """2NC + 2C; the paper's convention counts the multiplication of one mean, C."""
        traffic = (Traffic("line", 3, 3 * n * c + 4 * c, c), *around_a_mean(n, c, shared=c))
        return Cost(c, 2 * n * c + 2 * c, c, "2NC + 2C: sum, 1/N, scale mean, add", traffic)

    @classmethod
    def causal_cost(cls, n: int, c: int) -> Cost:
        """4NC; the paper's convention counts the multiplication of every token's mean, NC."""
        traffic = (Traffic("line", 5, 9 * n * c, 2 * n + c), *around_a_scan(n, c, shared=c))
        return Cost(n * c, 4 * n * c, c, "4NC: running sum, divide, scale mean, add", traffic)

    @classmethod
    def folding(cls, **options: Any) -> Folding:
        """Nothing: only the mean has a factor, ``x`` has none."""
        return Folding(reason="x has no factor that weights could take, only its mean has")
