"""CB_retrofit: starts as the identity and becomes CB over a schedule, for a model that is already trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cbsurgeon.errors import UsageError
from cbsurgeon.operators.common.cost import Cost, Folding, Traffic, around_a_mean, around_a_scan
from cbsurgeon.operators.context import Context

FULL = 0.5
"""The strength at which the operator is CB."""


class CBRetrofit(Context):
    """``x_i + a * (mean_j x_j - x_i)`` with ``a`` a buffer: bit-exact identity at 0, CB at 0.5.

    The strength is saved with the weights (one key, ``strength``, per site), so that training can resume in the middle
    of a schedule. Change it with :func:`set_strength`. It is a buffer: it is not trained, and adds no parameter.

    Args:
        strength: ``a`` at the start.
        tokens, causal, masked: as for ``cb``.
    """

    name = "cb_retrofit"
    formula = "x + strength · (mean x - x)"
    twice = "cb_retrofit twice moves x towards its mean by more than the strength"
    identity_at_start = True
    start = ("strength",)
    strength: Tensor

    def __init__(
        self,
        channels: int,
        channel_axis: int,
        token_axes: Sequence[int],
        *,
        strength: float = 0.0,
        tokens: str | None = None,
        causal: bool = False,
        masked: bool = False,
    ) -> None:
        super().__init__(channels, channel_axis, token_axes, tokens=tokens, causal=causal, masked=masked)
        self.initial = _checked(strength)
        self.register_buffer("strength", torch.tensor(self.initial))

    def options(self) -> dict[str, Any]:
        """``strength`` if it does not start at 0, and the options of :class:`Context`."""
        return {**({"strength": self.initial} if self.initial else {}), **super().options()}

    def forward(self, x: Tensor) -> Tensor:
        """``x + strength * (mean - x)``, same shape and type as ``x``."""
        return self.over(x, self._mix)

    def _mix(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        return x + self.strength * (self.context(x, hidden) - x)

    @classmethod
    def plain_cost(cls, n: int, c: int) -> Cost:
        """4NC + C; the paper's convention counts NC. The strength is one value."""
        traffic = (Traffic("line", 4, 8 * n * c + 2 * c, 1), *around_a_mean(n, c, shared=1))
        return Cost(n * c, 4 * n * c + c, 0, "4NC + C: sum, 1/N, subtract, scale, add", traffic)

    @classmethod
    def causal_cost(cls, n: int, c: int) -> Cost:
        """5NC; the paper's convention counts NC."""
        traffic = (Traffic("line", 6, 12 * n * c, 2 * n + 1), *around_a_scan(n, c, shared=1))
        return Cost(n * c, 5 * n * c, 0, "5NC: running sum, divide, subtract, scale, add", traffic)

    @classmethod
    def folding(cls, **options: Any) -> Folding:
        """Nothing: the strength is a value in the graph that a schedule changes."""
        return Folding(reason="its strength is a value that a schedule changes; insert cb when the schedule is done")


def set_strength(module: nn.Module, strength: float) -> int:
    """Set the strength of every ``cb_retrofit`` in a module, in place; call it during training.

    Args:
        module: a model, or any part of one.
        strength: from 0 (identity) to 0.5 (CB).

    Returns:
        The number of operators whose strength was set.

    Raises:
        UsageError: the strength is out of range (CB-OP-05), or there is no such operator (CB-OP-06).
    """
    try:
        value = _checked(strength)
    except ValueError as error:
        raise UsageError(
            "the strength cannot be set",
            code="CB-OP-05",
            where=f"strength={strength!r}",
            why=str(error),
            do="0 is the identity, 0.5 is CB",
        ) from None
    sites = [part for part in module.modules() if isinstance(part, CBRetrofit)]
    if not sites:
        raise UsageError(
            "there is no strength to set",
            code="CB-OP-06",
            where=type(module).__name__,
            why="the module holds no cb_retrofit operator",
            do='insert one: cbs.plan(found, op="cb_retrofit")',
        )
    for site in sites:
        site.strength.fill_(value)
    return len(sites)


def _checked(strength: float) -> float:
    value = float(strength)
    if not math.isfinite(value) or not 0.0 <= value <= FULL:
        raise ValueError(f"the strength is {strength!r}, not between 0 and {FULL}")
    return value
