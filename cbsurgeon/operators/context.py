"""CB and CB_S (section 3.2 of the paper), over all tokens, a slice of them, those that are no padding, or causally."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cbsurgeon.operators.base import Cost, Operator
from cbsurgeon.operators.masking import Masking
from cbsurgeon.operators.span import Span


class Context(Operator):
    """An operator around the mean of the tokens.

    Args:
        tokens: a slice of the single token axis, such as ``1:``, ``:40`` or ``40:``. The mean is that of these tokens
            and only they receive it; the others pass through untouched (ViLT's image or text part, Table 10).
        causal: token ``i`` receives the mean of tokens ``0 .. i`` instead of all of them, accumulated in float32 (in
            float64 for float64), so that nothing of its future reaches it. It needs the whole sequence in one pass:
            with a key-value cache the mean would be that of the newest tokens alone.
        masked: the mean is that of the tokens a padding mask leaves, accumulated in float32. Every position receives
            it, the padding too (nobody looks there). A sample that is all padding has the mean 0. Together with
            ``causal``, of the tokens so far; together with ``tokens``, of those among them.

    Attributes:
        masking: where a masked operator finds the mask of the forward pass under way.
        batch_axis: the tensor's batch axis, which a mask is laid along; by default the first that is neither token nor
            channel.
        site: where it stands, for people and to tell its tensors from another's.
    """

    masking: Masking | None = None
    site: str = ""

    def __init__(
        self,
        channels: int,
        channel_axis: int,
        token_axes: Sequence[int],
        *,
        tokens: str | None = None,
        causal: bool = False,
        masked: bool = False,
    ) -> None:
        super().__init__(channels, channel_axis, token_axes)
        self.span = Span.read(tokens) if tokens is not None else None
        self.causal = bool(causal)
        if self.span is not None:
            self.single_token_axis("a slice of tokens")
        if self.causal:
            self.single_token_axis("the causal mean")
        self.masked = bool(masked)
        if self.masked:
            others = {0, 1, 2} - {self.single_token_axis("the masked mean") % 3, channel_axis % 3}
            self.tie(Masking(), min(others))

    def tie(self, masking: Masking, batch_axis: int, site: str = "") -> None:
        """Say where the mask comes from, and which of the tensor's axes holds the samples."""
        self.masking, self.batch_axis, self.site = masking, batch_axis, site

    def options(self) -> dict[str, Any]:
        """``tokens``, ``causal`` and ``masked``, where they are given."""
        given: dict[str, Any] = {} if self.span is None else {"tokens": str(self.span)}
        return {**given, **({"causal": True} if self.causal else {}), **({"masked": True} if self.masked else {})}

    def refusal(self, tokens: int) -> str:
        """A slice must hold a token."""
        return self.span.refusal(tokens) if self.span is not None else ""

    def context(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        """What is broadcast: the mean over the tokens (axes of size 1), or every token's mean of those up to it.

        Args:
            x: the tokens.
            hidden: true where there is padding, broadcastable to ``x``.
        """
        if hidden is None:
            return self._prefix_mean(x) if self.causal else self.mean(x)
        return self._masked_mean(x, hidden)

    def _prefix_mean(self, x: Tensor) -> Tensor:
        axis = self.token_axes[0]
        wide = _wide(x)
        count = torch.arange(1, x.shape[axis] + 1, device=x.device, dtype=wide.dtype)
        shape = [1] * x.dim()
        shape[axis] = -1
        return (wide.cumsum(dim=axis) / count.view(shape)).to(x.dtype)

    def _masked_mean(self, x: Tensor, hidden: Tensor) -> Tensor:
        axis = self.token_axes[0]
        # Padding is replaced, not multiplied by 0: what stands there may be no number at all.
        own, one = _wide(x).masked_fill(hidden, 0.0), (~hidden).to(_wide(x).dtype)
        if self.causal:
            total, count = own.cumsum(dim=axis), one.cumsum(dim=axis)
        else:
            total, count = own.sum(dim=axis, keepdim=True), one.sum(dim=axis, keepdim=True)
        return (total / count.clamp(min=1.0)).to(x.dtype)

    def over(self, x: Tensor, mix: Callable[[Tensor, Tensor | None], Tensor]) -> Tensor:
        """Apply ``mix`` to the chosen tokens of ``x`` and to what hides some of them."""
        axis = self.token_axes[0]
        hidden = None if self.masking is None else self.masking.hidden(x, self.batch_axis, axis, self.site)
        if self.span is None:
            return mix(x, hidden)
        if hidden is not None:
            hidden = hidden[(slice(None),) * axis + (slice(self.span.start, self.span.stop),)]
        return self.span.apply(x, axis, lambda part: mix(part, hidden))

    @classmethod
    def cost(cls, tokens: int, channels: int, /, **options: Any) -> Cost:
        """Closed form on ``tokens`` tokens of ``channels`` channels, batch 1.

        Of a slice only its own tokens are computed with, and all are copied; the causal form broadcasts as many means
        as there are tokens; the masked form selects, and counts what it selected.
        """
        span = options.get("tokens")
        n, c = tokens if span is None else Span.read(span).count(tokens), channels
        causal = bool(options.get("causal"))
        found = cls._causal_cost(n, c) if causal else cls._plain_cost(n, c)
        if options.get("masked"):
            last, name = (n, "N") if causal else (1, "1")
            found = replace(
                found,
                flops=found.flops + n * c + n + last,
                elements=found.elements + 2 * n * c + 4 * n + 2 * last,
                formula=f"{found.formula}; masked: NC + N + {name}, select x, count, at least 1",
            )
        if span is not None:
            elements = found.elements + 2 * tokens * c
            found = replace(found, elements=elements, formula=f"{found.formula}; N = {n} of {tokens} tokens")
        return found

    @classmethod
    def _plain_cost(cls, n: int, c: int) -> Cost:
        """One mean for all tokens."""
        raise NotImplementedError(f"{cls.__name__} states no cost")

    @classmethod
    def _causal_cost(cls, n: int, c: int) -> Cost:
        """A mean for every token: a running sum, divided by the number of tokens so far."""
        raise NotImplementedError(f"{cls.__name__} states no cost")


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class CB(Context):
    """Context Broadcasting: ``CB(x_i) = (x_i + mean_j x_j) / 2`` (eq. 1), without parameters.

    Written as the paper's line, ``0.5 * x + 0.5 * x.mean(dim, keepdim=True)``, so that eager fp32 results are
    bit-equal to a model with that line in its source. It keeps the mean of the tokens and halves their
    deviations from it; a model has to be trained or fine-tuned with it.
    """

    name = "cb"

    def forward(self, x: Tensor) -> Tensor:
        """Eq. 1 on a tensor of any shape; the result has the same shape and type."""
        return self.over(x, self._mix)

    def _mix(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        return 0.5 * x + 0.5 * self.context(x, hidden)

    @classmethod
    def _plain_cost(cls, n: int, c: int) -> Cost:
        return Cost(n * c, 3 * n * c + 2 * c, 5 * n * c + 4 * c, 0, "3NC + 2C: sum, 1/N, half x, half mean, add")

    @classmethod
    def _causal_cost(cls, n: int, c: int) -> Cost:
        formula = "5NC: running sum, divide, half x, half mean, add"
        return Cost(2 * n * c, 5 * n * c, 11 * n * c + 2 * n, 0, formula)


class CBS(Context):
    """CB with dimension scaling: ``CB_S(x_i) = x_i + scale * mean_j x_j`` (section 3.2), ``scale`` of shape ``[C]``.

    ``scale`` starts at ``initial``; at 0, the default, the operator is the exact identity and its gradient
    ``sum_i g_i * mean`` is not degenerate. Give ``scale`` no weight decay.
    """

    name = "cb_s"
    identity_at_start = True

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
        """``initial`` where it is not 0, and the form."""
        return {**({"initial": self.initial} if self.initial else {}), **super().options()}

    def forward(self, x: Tensor) -> Tensor:
        """``x + scale * mean``, same shape and type as ``x``."""
        return self.over(x, self._mix)

    def _mix(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        broadcast = self.per_channel(self.scale, x) * self.context(x, hidden)
        # Under autocast x is half the width of scale; adding the wider one would widen the whole branch after it.
        return x + (broadcast if broadcast.dtype == x.dtype else broadcast.to(x.dtype))

    @classmethod
    def _plain_cost(cls, n: int, c: int) -> Cost:
        return Cost(c, 2 * n * c + 2 * c, 3 * n * c + 5 * c, c, "2NC + 2C: sum, 1/N, scale mean, add")

    @classmethod
    def _causal_cost(cls, n: int, c: int) -> Cost:
        return Cost(n * c, 4 * n * c, 9 * n * c + 2 * n + c, c, "4NC: running sum, divide, scale mean, add")
