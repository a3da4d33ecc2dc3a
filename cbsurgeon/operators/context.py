"""Operators that use the token mean: of all tokens, of a slice, of those that are not padding, or causal."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cbsurgeon.operators.base import Operator
from cbsurgeon.operators.common.cost import Cost, Traffic
from cbsurgeon.operators.common.masking import Masking

_FORM = re.compile(r"^(-?\d+)?:(-?\d+)?$")


@dataclass(frozen=True)
class Span:
    """A slice of tokens: from ``start`` up to, not including, ``stop``, as in Python."""

    start: int | None
    stop: int | None

    @classmethod
    def read(cls, text: str) -> Span:
        """Read ``START:STOP``.

        Raises:
            ValueError: the text has another form.
        """
        found = _FORM.match(text) if isinstance(text, str) else None
        if found is None:
            raise ValueError(f"tokens={text!r} is not a slice such as 1: or :40")
        start, stop = (int(number) if number else None for number in found.groups())
        return cls(start or None, stop)

    def __str__(self) -> str:
        return f"{'' if self.start is None else self.start}:{'' if self.stop is None else self.stop}"

    def refusal(self, tokens: int) -> str:
        """Return why the slice does not fit a sequence of this many tokens; empty if it does."""
        ends = [end for end in (self.start, self.stop) if end is not None]
        if any(end > tokens or end < -tokens for end in ends) or not range(tokens)[self.start : self.stop]:
            return f"there are {tokens} tokens, and {self} selects none of them or reaches past the last"
        return ""

    def count(self, tokens: int) -> int:
        """Return how many tokens it selects from a sequence of this many."""
        return len(range(tokens)[self.start : self.stop])

    def apply(self, x: Tensor, axis: int, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``x`` with its slice replaced by ``function(slice)``."""

        def part(start: int | None, stop: int | None) -> Tensor:
            return x[(slice(None),) * axis + (slice(start, stop),)]

        pieces = [part(None, self.start)] if self.start is not None else []
        pieces.append(function(part(self.start, self.stop)))
        pieces += [part(self.stop, None)] if self.stop is not None else []
        return torch.cat(pieces, dim=axis)


class Context(Operator):
    """Base class of operators that use the token mean.

    A subclass defines ``forward`` as ``self.over(x, mix)``, where ``mix`` takes tokens and padding and calls
    :meth:`context` for the mean. It then takes the three options below.

    Args:
        tokens: a slice of the single token axis, such as ``1:``, ``:40`` or ``40:``. The mean is that of these tokens
            and only they receive it; the others are unchanged (ViLT's image or text part, Table 10).
        causal: token ``i`` receives the mean of tokens ``0 .. i`` instead of all tokens, accumulated in float32 (in
            float64 for float64), so that it does not depend on later tokens. It needs the whole sequence in one pass:
            with a key-value cache, the mean would be that of the newest tokens only.
        masked: the mean is that of the tokens that are not padding, accumulated in float32. Every position receives
            it, padding too (the model ignores padding). The mean of a sample that is all padding is 0. With ``causal``,
            padding is left out of the mean of tokens ``0 .. i``; with ``tokens``, it is left out of the slice.

    Attributes:
        masking: gives a masked operator the mask of the current forward pass.
        batch_axis: batch axis of the tensor, for aligning the mask; by default the first axis that is neither token nor
            channel.
        site: path of its site, for messages and to find the mask of a repeated call.
    """

    forms = ("tokens", "causal", "masked")
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
        """Set where the mask comes from, and which axis of the tensor holds the samples."""
        self.masking, self.batch_axis, self.site = masking, batch_axis, site

    def options(self) -> dict[str, Any]:
        """``tokens``, ``causal`` and ``masked``, those that are set."""
        given: dict[str, Any] = {} if self.span is None else {"tokens": str(self.span)}
        return {**given, **({"causal": True} if self.causal else {}), **({"masked": True} if self.masked else {})}

    def refusal(self, tokens: int) -> str:
        """Return why the slice of tokens does not fit this many tokens; empty if it does."""
        return self.span.refusal(tokens) if self.span is not None else ""

    def context(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Return the token mean (token axes of size 1), or in the causal form, for each token, the mean up to it.

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
        # Padding is replaced, not multiplied by 0: it may hold NaN.
        own, one = _wide(x).masked_fill(hidden, 0.0), (~hidden).to(_wide(x).dtype)
        if self.causal:
            total, count = own.cumsum(dim=axis), one.cumsum(dim=axis)
        else:
            total, count = own.sum(dim=axis, keepdim=True), one.sum(dim=axis, keepdim=True)
        return (total / count.clamp(min=1.0)).to(x.dtype)

    def over(self, x: Tensor, mix: Callable[[Tensor, Tensor | None], Tensor]) -> Tensor:
        """Apply ``mix`` to the chosen tokens of ``x``; its second argument is true at padding, or ``None``."""
        axis = self.token_axes[0]
        hidden = None if self.masking is None else self.masking.hidden(x, self.batch_axis, axis, self.site)
        if self.span is None:
            return mix(x, hidden)
        if hidden is not None:
            hidden = hidden[(slice(None),) * axis + (slice(self.span.start, self.span.stop),)]
        return self.span.apply(x, axis, lambda part: mix(part, hidden))

    @classmethod
    def cost(cls, tokens: int, channels: int, /, **options: Any) -> Cost:
        """Return the closed-form cost on ``tokens`` tokens of ``channels`` channels, batch 1, with these options."""
        span = options.get("tokens")
        n, c = tokens if span is None else Span.read(span).count(tokens), channels
        causal = bool(options.get("causal"))
        found = cls.causal_cost(n, c) if causal else cls.plain_cost(n, c)
        if options.get("masked"):
            found = _masked_cost(found, n, c, causal)
        return found if span is None else _span_cost(found, n, c, tokens)

    @classmethod
    def plain_cost(cls, n: int, c: int) -> Cost:
        """Return the cost with one mean for all ``n`` tokens."""
        raise NotImplementedError(f"{cls.__name__} defines no cost")

    @classmethod
    def causal_cost(cls, n: int, c: int) -> Cost:
        """Return the cost with a mean for every token: a running sum, divided by the number of tokens so far."""
        raise NotImplementedError(f"{cls.__name__} defines no cost of its causal form")


def _masked_cost(plain: Cost, n: int, c: int, causal: bool) -> Cost:
    """Return the cost of the masked form, which selects values, counts them, and divides by at least 1.

    Unfused, seven kernels (select, invert, convert, two sums, clamp, divide) replace the one of the plain mean, or the
    three of the causal mean, whose token positions (``shared``) are not needed. Each value of a mask is one element.
    """
    last, name = (n, "N") if causal else (1, "1")
    line, *fused = plain.traffic
    if causal:
        extra = Traffic("line", 4, 2 * n * c + 10 * n, -2 * n)
    else:
        extra = Traffic("line", 6, 2 * n * c + 6 * n + 2 * c + 4)
    unfused = Traffic("line", line.kernels + extra.kernels, line.elements + extra.elements, line.shared + extra.shared)
    return replace(
        plain,
        flops=plain.flops + n * c + n + last,
        formula=f"{plain.formula}; masked: NC + N + {name}, select x, count, at least 1",
        traffic=(unfused, *(replace(form, elements=form.elements + n) for form in fused)),  # fused, the mask is read
    )


def _span_cost(part: Cost, n: int, c: int, tokens: int) -> Cost:
    """Return the cost on a slice of ``n`` tokens; the others are copied into the new tensor of the result."""

    def traffic(form: Traffic) -> Traffic:
        if form.form == "line":
            return replace(form, kernels=form.kernels + 1, elements=form.elements + 2 * tokens * c)
        if form.form == "kernel":
            return replace(form, elements=form.elements + 2 * (tokens - n) * c)
        return form

    formula = f"{part.formula}; N = {n} of {tokens} tokens"
    return replace(part, formula=formula, traffic=tuple(traffic(form) for form in part.traffic))


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
