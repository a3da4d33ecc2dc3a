"""Uniform heads (Table 1 A, B, C): attention heads that give all keys the same weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cbsurgeon.operators.base import Operator
from cbsurgeon.operators.common.cost import Cost, Folding, Traffic

Ranges = Sequence[tuple[int, int]]
"""``(start, stop)`` of runs of channels."""


class UniformHead(Operator):
    """Sets the queries of the chosen heads to zero: the softmax of equal scores is exactly ``1/N``.

    It is inserted after the projection that computes the queries, alone or together with keys and values. With an
    attention mask, the head is uniform over the keys that are not masked, so it leaks neither later tokens nor padding.
    The weights for the queries and keys of these heads have no effect and get no gradient; values and the output
    projection are unchanged. It adds no parameter and no key to a state dict.

    Before :meth:`choose` is called, all channels are set to zero.

    Args:
        heads: one number or several, counted from 0; negative numbers count from the last head.
    """

    name = "uniform_head"
    formula = "q of the head := 0, so that its attention is 1/N"
    twice = "the heads can be chosen together: --op-option heads=[0,1]"
    mixes_tokens = False
    fixed_position = "query"
    keep: Tensor

    def __init__(
        self, channels: int, channel_axis: int, token_axes: Sequence[int], *, heads: int | Sequence[int] = 0
    ) -> None:
        super().__init__(channels, channel_axis, token_axes)
        given = [heads] if isinstance(heads, int) else list(heads)
        if not given or any(not isinstance(head, int) or isinstance(head, bool) for head in given):
            raise ValueError(f"heads is {heads!r}, not a number such as 0 or a list such as [0, 3]")
        self.heads = tuple(sorted(set(given)))
        self.silent: tuple[tuple[int, int], ...] = ((0, channels),)
        self.register_buffer("keep", torch.zeros(channels), persistent=False)

    def options(self) -> dict[str, Any]:
        """``heads``, unless it is the first head."""
        return {"heads": list(self.heads)} if self.heads != (0,) else {}

    def choose(self, heads: Sequence[Ranges]) -> None:
        """Set which channels are the queries of each head.

        Raises:
            ValueError: a chosen head does not exist.
        """
        for head in self.heads:
            if not -len(heads) <= head < len(heads):
                raise ValueError(f"the attention has {len(heads)} heads, and no head {head}")
        self.silent = tuple((start, stop) for head in self.heads for start, stop in heads[head])
        self._fill()

    def _fill(self) -> None:
        with torch.no_grad():
            self.keep.fill_(1.0)
            for start, stop in self.silent:
                self.keep[start:stop] = 0.0

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """As for any module; then the mask is filled again, because ``to_empty`` does not copy values."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._fill()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """The projection's result without the queries of the chosen heads, same shape and type as ``x``."""
        keep = self.per_channel(self.keep, x)
        return x * (keep if keep.dtype == x.dtype else keep.to(x.dtype))

    @classmethod
    def cost(cls, tokens: int, channels: int, /, **options: Any) -> Cost:
        """NC in both conventions; 0 after the zeros are folded into the projection's weights."""
        n, c = tokens, channels
        traffic = (
            Traffic("line", 1, 2 * n * c, c),
            Traffic("kernel", 1, 2 * n * c, c),
            Traffic("folded", 0, 0),
            Traffic("fused", 0, 0),
        )
        return Cost(n * c, n * c, 0, "NC: mask the queries", traffic)

    @classmethod
    def folding(cls, **options: Any) -> Folding:
        """The zeros, into the projection before the operator."""
        return Folding(zeros=True, reason="")
