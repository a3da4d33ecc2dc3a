"""Which tokens of a stretch influence which others by an arbitrarily small change.

A small change leaves an order in place that the stretch computes from its tokens, such as that of a learned score.
Noise changes such an order, so that each token seems to influence each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from cbsurgeon.graph.attention.probing.order import REACHED, spread
from cbsurgeon.graph.attention.probing.stretches import Stretch
from cbsurgeon.graph.capture.execution import Execution

STEPS = 64
"""Backward passes after which the tokens that influence another one are not followed further."""

SPREAD, NEAR = 4, 2
"""Number of tokens that are tested, spread over all; and of those that are tested with each because they influence
it."""


class Derivatives:
    """The derivatives of the last exit of a stretch with respect to its entry.

    Args:
        execution: runs the program.
        example: the inputs of the program.
        override: node name → tensor that replaces its value.
        part: the stretch.
        entry: the value of the entry.
    """

    def __init__(
        self,
        execution: Execution,
        example: Mapping[str, Tensor],
        override: Mapping[str, Tensor],
        part: Stretch,
        entry: Tensor,
    ) -> None:
        self._part, self._entry = part, entry.detach().requires_grad_()
        last = part.exits[-1]
        values = execution.values(example, [last.name], {**override, part.entry.name: self._entry}, grad=True)
        self._rows = part.layouts[last].rows(values[last.name])
        noise = torch.randn(self._rows.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
        self._weights = noise.to(self._rows)

    def __call__(self, looked: Tensor) -> Tensor:
        """Return ``[tokens]``, true for the tokens of the entry that influence some of the given tokens of the exit."""
        found = self.gradient(looked)
        if found is None:
            return looked
        return looked | _nonzero(self._part.layouts[self._part.entry].rows(found).abs().amax(dim=1))

    def read(self, looked: Tensor) -> Tensor | None:
        """Return which values of the entry influence some of the given tokens of the exit, as a tensor of truth values;
        ``None`` if none does."""
        found = self.gradient(looked)
        return None if found is None else _nonzero(found.abs())

    def gradient(self, looked: Tensor) -> Tensor | None:
        """Return the derivative of a random sum of the given tokens of the exit; ``None`` if it is zero."""
        total = (self._rows[looked] * self._weights[looked]).sum()
        if not total.requires_grad:
            return None
        found: Tensor | None = torch.autograd.grad(total, self._entry, retain_graph=True, allow_unused=True)[0]
        return found


def _nonzero(size: Tensor) -> Tensor:
    known = size.isfinite()
    largest = float(size[known].max()) if bool(known.any()) else 0.0
    return ~(size <= REACHED * largest)


def sources(run: Callable[[Tensor], Tensor], count: int) -> dict[int, Tensor] | None:
    """Return the tokens that influence some tested tokens, however many times the stretch is repeated, if the tested
    tokens see each other in an order; else ``None``.

    Either no two of them see each other both ways; or of each two, one sees the other, and a third of the pairs or more
    see each other one way. In both cases some token is between two others. This is not so for experts, for neighbours
    that are chosen by their similarity, for tokens of which some are seen by all, and for a class token.
    """
    found: dict[int, Tensor] = {}
    places = dict.fromkeys(spread(count, SPREAD).tolist())
    at_once = True
    for place in places:
        at_once &= _follow(run, count, place, found)
        if place not in found:
            return None
    one_way, both_ways, _ = _pairs(found)
    if both_ways and not one_way:
        return None
    for place in list(places):
        others = [other for other in found[place].nonzero().flatten().tolist() if other != place]
        for step in range(1, NEAR + 1):
            other = others[step * len(others) // (NEAR + 1)] if others else place
            at_once &= other in found or _follow(run, count, other, found)
            if other not in found:
                return None
    one_way, both_ways, neither = _pairs(found)
    if both_ways and (neither or not at_once or 3 * one_way < one_way + both_ways):
        return None
    return found if _is_chain(found) else None


def _follow(run: Callable[[Tensor], Tensor], count: int, place: int, found: dict[int, Tensor]) -> bool:
    """Add the tokens that influence a token; return whether all of them do so at once. Nothing is added if
    :data:`STEPS` runs do not show all of them."""
    reached = torch.zeros(count, dtype=torch.bool)
    reached[place] = True
    for step in range(STEPS):
        grown = run(reached)
        if bool(grown.all()) or torch.equal(grown, reached):
            found[place] = grown
            return step <= 1
        reached = grown
    return False


def _pairs(found: Mapping[int, Tensor]) -> tuple[int, int, int]:
    """Return the number of pairs of tokens that see each other one way, both ways, and not at all."""
    places = list(found)
    seen = torch.stack([found[place][places] for place in places])
    pairs = torch.ones_like(seen).triu(1)
    one_way, both_ways, neither = (int((one & pairs).sum()) for one in (seen ^ seen.T, seen & seen.T, ~seen & ~seen.T))
    return one_way, both_ways, neither


def _is_chain(found: Mapping[int, Tensor]) -> bool:
    """Return whether some token sees another one way, and is seen by a third one way."""
    places = list(found)
    seen = torch.stack([found[place][places] for place in places])
    one_way = seen & ~seen.T
    return bool((one_way.any(0) & one_way.any(1)).any())
