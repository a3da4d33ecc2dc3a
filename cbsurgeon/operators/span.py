"""A slice of the token axis, as it is written in a recipe: ``1:``, ``:40``, ``1:-1``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_FORM = re.compile(r"^(-?\d+)?:(-?\d+)?$")


@dataclass(frozen=True)
class Span:
    """Tokens ``start`` up to, not including, ``stop``, counted as Python does."""

    start: int | None
    stop: int | None

    @classmethod
    def read(cls, text: str) -> Span:
        """Read ``START:STOP``.

        Raises:
            ValueError: something else is written there.
        """
        found = _FORM.match(text) if isinstance(text, str) else None
        if found is None:
            raise ValueError(f"tokens={text!r} is not a slice such as 1: or :40")
        start, stop = (int(number) if number else None for number in found.groups())
        return cls(start or None, stop)

    def __str__(self) -> str:
        return f"{'' if self.start is None else self.start}:{'' if self.stop is None else self.stop}"

    def refusal(self, tokens: int) -> str:
        """Why these tokens do not exist among so many; empty where they do."""
        ends = [end for end in (self.start, self.stop) if end is not None]
        if any(end > tokens or end < -tokens for end in ends) or not range(tokens)[self.start : self.stop]:
            return f"there are {tokens} tokens, and {self} holds none of them or reaches past them"
        return ""

    def count(self, tokens: int) -> int:
        """How many of so many tokens it holds."""
        return len(range(tokens)[self.start : self.stop])

    def apply(self, x: Tensor, axis: int, function: Callable[[Tensor], Tensor]) -> Tensor:
        """``x`` with the span replaced by ``function`` of it."""

        def part(start: int | None, stop: int | None) -> Tensor:
            return x[(slice(None),) * axis + (slice(start, stop),)]

        pieces = [part(None, self.start)] if self.start is not None else []
        pieces.append(function(part(self.start, self.stop)))
        pieces += [part(self.stop, None)] if self.stop is not None else []
        return torch.cat(pieces, dim=axis)
