"""The table of axes: every dimension of every tensor as a product of factors, each with an axis identity.

Each tensor dimension is a tuple of *factors*, in row-major order, so that splits and merges (``view``, windows, heads)
can be followed exactly. A factor has a size and an axis identity. If two dimensions are added or contracted with each
other, they are the same axis and their identities are joined (union-find). Sizes never decide a role: the batch is
recognised by its symbol, and for the arithmetic of ``view`` the symbol is replaced by a large prime.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import fx

PRIME = 1_000_003
"""Replaces the symbolic batch in size arithmetic; no real dimension is a multiple of it."""

OTHER_PRIME = 1_000_033
"""Replaces sizes that depend on values (how many tokens an expert gets), which are not the batch."""

BATCH = 0
"""Identity of the batch axis."""


class Factor(NamedTuple):
    """A piece of a dimension: ``size`` positions along the axis called ``axis``."""

    size: int
    axis: int


Dim = tuple[Factor, ...]
Dims = tuple[Dim, ...]


@dataclass
class Evidence:
    """What the operators of a graph do along one axis.

    Attributes:
        normalised: how often a normalisation ran along it (and along nothing else).
        contracted: how often a projection contracted it.
        scaled: how often a vector parameter was multiplied or added along it.
        slid: how often a spatial convolution or pooling slid along it.
        feature: it was produced by a projection or an embedding.
        given: it is an axis of an input.
        repeated: an activation was expanded along it, so that it started as copies of one tensor.
        copies: it is repeated and a projection mixes the copies: copies of a stream (hyper-connections).
    """

    normalised: int = 0
    contracted: int = 0
    scaled: int = 0
    slid: int = 0
    feature: bool = False
    given: bool = False
    repeated: bool = False
    copies: bool = False

    def add(self, other: Evidence) -> None:
        """Add the evidence of another axis that is the same axis."""
        self.normalised += other.normalised
        self.contracted += other.contracted
        self.scaled += other.scaled
        self.slid += other.slid
        self.feature |= other.feature
        self.given |= other.given
        self.repeated &= other.repeated  # expanding a norm's statistics to its tensor makes no copies
        self.copies |= other.copies


@dataclass
class AxisTable:
    """Factors of every node's dimensions, and the evidence about every axis."""

    dims: dict[fx.Node, Dims] = field(default_factory=dict)
    parts: dict[fx.Node, list[Dims]] = field(default_factory=dict)
    _parent: list[int] = field(default_factory=lambda: [BATCH])
    _evidence: dict[int, Evidence] = field(default_factory=lambda: defaultdict(Evidence))
    _sizes: dict[object, int] = field(default_factory=dict)

    def new(self, *, feature: bool = False, given: bool = False) -> int:
        """Return a new axis identity."""
        self._parent.append(len(self._parent))
        axis = len(self._parent) - 1
        if feature or given:
            self._evidence[axis] = Evidence(feature=feature, given=given)
        return axis

    def root(self, axis: int) -> int:
        """Return the representative of an axis identity."""
        parent = self._parent
        while parent[axis] != axis:
            parent[axis] = parent[parent[axis]]
            axis = parent[axis]
        return axis

    def join(self, first: int, second: int) -> None:
        """Join two identities that are one axis. The batch is never joined to anything."""
        a, b = self.root(first), self.root(second)
        if a == b or BATCH in (a, b):
            return
        low, high = min(a, b), max(a, b)
        self._parent[high] = low
        self._evidence[low].add(self._evidence.pop(high, Evidence()))

    def evidence(self, axis: int) -> Evidence:
        """Return the evidence about an axis."""
        return self._evidence[self.root(axis)]

    def size(self, dim: int | torch.SymInt) -> int:
        """Return the size of a dimension, with the prime in place of the batch; adds no guard to the symbol."""
        if isinstance(dim, int):
            return dim
        expression = dim.node.expr
        known = self._sizes.get(expression)
        if known is None:
            by_values = {symbol for symbol in expression.free_symbols if str(symbol).startswith(("u", "zuf"))}
            stand_ins = {symbol: OTHER_PRIME if symbol in by_values else PRIME for symbol in expression.free_symbols}
            known = int(expression.subs(stand_ins))
            self._sizes[expression] = known
        return known

    def sizes(self, node: fx.Node) -> tuple[int, ...]:
        """Return all sizes of a node's tensor."""
        return tuple(self.size(dim) for dim in node.meta["val"].shape)

    def fresh(self, size: int, *, feature: bool = False, given: bool = False) -> Dim:
        """Return a new dimension; if its size is a multiple of the prime, it contains the batch."""
        if size == 1:
            return ()
        if size and size % PRIME == 0:
            rest = size // PRIME
            return (Factor(PRIME, BATCH), *((Factor(rest, self.new(given=given)),) if rest > 1 else ()))
        return (Factor(size, self.new(feature=feature, given=given)),)

    def chosen(self, dim: Dim, size: int) -> Dim:
        """Return the dimension of positions that were picked from ``dim`` in an unknown order.

        If ``dim`` holds samples and tokens, it is unknown which sample a picked position belongs to. All factors of the
        result are then the batch.
        """
        if not self.holds_batch(dim):
            return self.resized(dim, size)
        rest, odd = divmod(size, PRIME)
        if odd or rest < 2:
            return (Factor(size, BATCH),)
        return Factor(PRIME, BATCH), Factor(rest, BATCH)

    def resized(self, dim: Dim, size: int) -> Dim:
        """Return the same axis with another number of positions (after a slice, a pad, a stride)."""
        if extent(dim) == size:
            return dim
        if size == 1:
            return ()
        if not dim:
            return self.fresh(size)
        if self.holds_batch(dim):
            return self.chosen(dim, size)
        if len(dim) == 1:
            return (Factor(size, dim[0].axis),)
        result = self.fresh(size)
        self.join(result[-1].axis, dim[-1].axis)
        return result

    def align(self, first: Dim, second: Dim) -> None:
        """Join the axes of two dimensions that are added, multiplied or contracted with each other."""
        if first == second or not first or not second or extent(first) != extent(second):
            return
        if len(first) == len(second):
            if all(a.size == b.size for a, b in zip(first, second, strict=True)):
                for a, b in zip(first, second, strict=True):
                    self.join(a.axis, b.axis)
            return
        axes = [self.axes(first), self.axes(second)]
        if all(len(roots) == 1 and BATCH not in roots for roots in axes):
            self.join(axes[0].pop(), axes[1].pop())

    def regroup(self, factors: Sequence[Factor], sizes: Sequence[int]) -> Dims:
        """Distribute row-major factors over the dimensions of a ``view``, splitting factors as needed."""
        queue = list(reversed(factors))
        result: list[Dim] = []
        for place, size in enumerate(sizes):
            taken: list[Factor] = []
            need = size
            while need > 1 and queue:
                factor = queue.pop()
                common = math.gcd(need, factor.size)
                if common == factor.size:
                    taken.append(factor)
                elif common > 1 and (common == need or factor.size % need == 0):
                    taken.append(self._piece(factor, need))
                    queue.append(self._piece(factor, factor.size // need))
                elif common > 1:
                    taken.append(self._piece(factor, common))
                    queue.append(self._piece(factor, factor.size // common))
                else:
                    return (*result, *(self.fresh(rest) for rest in sizes[place:]))
                need //= taken[-1].size
            if need > 1:
                return (*result, *(self.fresh(rest) for rest in sizes[place:]))
            result.append(self._settled(tuple(taken), size))
        return tuple(result)

    def _settled(self, dim: Dim, size: int) -> Dim:
        """Return a dimension of a view. A piece of samples in an unknown order that holds no whole sample becomes a new
        axis."""
        cut = bool(dim) and size % PRIME != 0 and all(factor.axis == BATCH for factor in dim)
        return self.fresh(size) if cut else dim

    def _piece(self, factor: Factor, size: int) -> Factor:
        """One piece of a split factor; it keeps the axis identity."""
        if factor.axis == BATCH:
            return Factor(size, BATCH)
        return Factor(size, factor.axis)

    # questions

    def axes(self, dim: Dim) -> set[int]:
        """Return the representatives of the axes in a dimension."""
        return {self.root(factor.axis) for factor in dim}

    def holds_batch(self, dim: Dim) -> bool:
        """Whether the batch is (part of) this dimension."""
        return any(factor.axis == BATCH for factor in dim)


def extent(dim: Iterable[Factor]) -> int:
    """Return the number of positions of a dimension."""
    return math.prod(factor.size for factor in dim)


def most_normalised(table: AxisTable, axes: Iterable[int]) -> int | None:
    """Return the axis that is normalised more often than every other, if there is one."""
    return _winner(Counter({axis: table.evidence(axis).normalised for axis in axes}))


def most_scaled(table: AxisTable, axes: Iterable[int]) -> int | None:
    """Return the axis that vector parameters scale or shift more often than every other, if there is one."""
    return _winner(Counter({axis: table.evidence(axis).scaled for axis in axes}))


def _winner(votes: Counter[int]) -> int | None:
    ranked = votes.most_common(2)
    if not ranked or ranked[0][1] == 0 or (len(ranked) > 1 and ranked[1][1] == ranked[0][1]):
        return None
    return ranked[0][0]
