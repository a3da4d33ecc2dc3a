"""Find the class token of a stream, proved on the graph.

A class token is a learned vector of one position that is joined to the tokens (``cat``, or written over a part of them)
and that is read separately later (``x[:, 0]``). A token that lacks one of these properties is not a class token: the
first patch of a mixer, BERT's ``[CLS]`` (a word of the vocabulary), or a register token that is never read separately.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.attention.cutting import bounds_of, cut
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.table import Dim
from cbsurgeon.graph.block import Block, Site
from cbsurgeon.graph.blocks.reading import Found, Reading
from cbsurgeon.graph.branches.steps import operands, step

FIRST = 8
"""Number of positions from the front that are tried, besides the last; known models have up to five learned tokens."""

_FAR = 4000
_MOVED = frozenset({"roll", "flip", "sort", "cumsum"})


class Spot(NamedTuple):
    """One position along one axis of one tensor; ``placed`` if the walk upstream has passed a ``cat``."""

    node: fx.Node
    axis: int
    position: int
    placed: bool = False


def proved(reading: Reading, groups: Sequence[Sequence[Found]], blocks: Sequence[Block]) -> list[Block]:
    """Return the blocks, with the position of the class token set at every site that has one.

    Args:
        reading: what was read from the program.
        groups: the occurrences of every block.
        blocks: the blocks, in the order of ``groups``.
    """
    tokens = ClassTokens(reading.flow)
    if not tokens.read_out:
        return list(blocks)
    nodes = {node.name: node for node in reading.flow.order}

    def marked(site: Site, group: Sequence[Found]) -> Site:
        if len(site.token_axes) != 1 or site.unfold is not None:
            return site
        pairs = zip(site.uses, group, strict=True)
        found = {_position(tokens, reading.flow, site, nodes[use.value], one.branch.total) for use, one in pairs}
        return replace(site, class_token=found.pop()) if len(found) == 1 else site

    return [
        replace(block, sites={position: marked(site, group) for position, site in block.sites.items()})
        for block, group in zip(blocks, groups, strict=True)
    ]


def _position(tokens: ClassTokens, flow: Flow, site: Site, value: fx.Node, total: fx.Node) -> int | None:
    """The position of the class token in a site's tensor; at the End, that in the stream it is added to."""
    (axis,) = site.token_axes
    found = tokens.position(value, axis, site.tokens)
    if found is None and site.position == "end" and flow.table.sizes(total) == flow.table.sizes(value):
        return tokens.position(total, axis, site.tokens)
    return found


class ClassTokens:
    """The learned tokens of one graph.

    Attributes:
        read_out: the learned vectors that are joined to the tokens and read separately later.
    """

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._known: dict[Spot, Spot | None] = {}
        self.read_out = {origin for spot in self._reads() if (origin := self.origin(spot)) is not None}

    def position(self, node: fx.Node, axis: int, tokens: int) -> int | None:
        """Return the first position along an axis that holds a class token, or ``None``."""
        tried: dict[int, None] = dict.fromkeys((*range(min(FIRST, tokens)), tokens - 1))
        return next((place for place in tried if self.origin(Spot(node, axis, place)) in self.read_out), None)

    def origin(self, spot: Spot) -> fx.Node | None:
        """Return the learned vector that a position comes from, through steps that treat each token alone, or
        ``None``."""
        found = self.placed(spot)
        return _vector(found.node) if found and self._flow.table.sizes(found.node)[found.axis] == 1 else None

    def placed(self, spot: Spot) -> Spot | None:
        """Return the position in a joined tensor of parameters that a position comes from, or ``None``."""
        if spot in self._known:
            return self._known[spot]
        self._known[spot] = None
        self._known[spot] = self._placed(spot)
        return self._known[spot]

    def _placed(self, spot: Spot) -> Spot | None:
        flow = self._flow
        for _ in range(_FAR):
            node = spot.node
            if node not in flow.table.dims:
                return None
            if not flow.is_activation(node):
                return spot if spot.placed else None
            terms = operands(flow, node)
            if len(terms) > 1:
                # A stream with a single token starts as the learned token itself, expanded to the batch.
                alone = flow.table.sizes(node)[spot.axis] == 1
                own = sorted((term for term in terms if alone or flow.is_activation(term)), key=flow.is_activation)
                found = (self.placed(spot._replace(node=term)) for term in own)
                return next((placed for placed in found if placed is not None), None)
            before = self.before(spot)
            if before is None:
                return None
            spot = before
        return None

    def before(self, spot: Spot) -> Spot | None:
        """Return the same position one step upstream, or ``None`` if the step mixes positions."""
        node, axis = spot.node, spot.axis
        flow, name = self._flow, aten.name(node)
        if name == "cat":
            return self._part(spot)
        if name == "slice_scatter":
            return self._written(spot)
        if name in _MOVED or name in aten.POOL:
            return None
        sources = [source for source in aten.tensors(node) if flow.is_activation(source)]
        if name in ("slice", "narrow", "select") or (name == "getitem" and aten.value(node) is not None):
            return self._cut(spot)
        if name in aten.CROP or not sources:
            return None
        if name in aten.LAYOUT:
            return self._along(spot, sources[0])
        if node in flow.projections:
            return self._along(spot, flow.projections[node][0])
        if name == "scaled_dot_product_attention":
            return spot._replace(node=sources[0]) if axis == len(flow.of(node)) - 2 else None
        if name in aten.MATMUL and len(sources) == 2:
            last = len(flow.of(node)) - axis  # 2: a row of the first factor, 1: a column of the second
            return spot._replace(node=sources[2 - last]) if last in (1, 2) else None
        up = step(flow, node)
        if up is not None and up.kind in ("norm", "dropout", "scale", "activation"):
            return self._same(spot, up.source)
        return self._same(spot, sources[0]) if name in aten.ELEMENTWISE else None

    def _same(self, spot: Spot, source: fx.Node) -> Spot | None:
        """The position before a step that keeps every axis; ``None`` if the source was broadcast along the axis."""
        flow = self._flow
        if source not in flow.table.dims:
            return None
        axis = spot.axis - len(flow.of(spot.node)) + len(flow.of(source))
        if axis < 0 or flow.table.sizes(source)[axis] != flow.table.sizes(spot.node)[spot.axis]:
            return None
        return spot._replace(node=source, axis=axis)

    def _along(self, spot: Spot, source: fx.Node) -> Spot | None:
        """The position before a step that moves or makes axes: the axis with the same identity in the source."""
        flow = self._flow
        if source not in flow.table.dims:
            return None
        if len(flow.of(spot.node)[spot.axis]) == 0:  # an axis of one position has no identity
            return self._same(spot, source) if len(flow.of(source)) == len(flow.of(spot.node)) else None
        wanted = self._identity(flow.of(spot.node)[spot.axis])
        places = [place for place, dim in enumerate(flow.of(source)) if self._identity(dim) == wanted]
        return spot._replace(node=source, axis=places[0]) if len(places) == 1 else None

    def _identity(self, dim: Dim) -> tuple[tuple[int, int], ...]:
        return tuple((factor.size, self._flow.table.root(factor.axis)) for factor in dim)

    def _part(self, spot: Spot) -> Spot | None:
        """The operand of a concatenation that a position comes from."""
        flow, node = self._flow, spot.node
        parts = aten.argument(node, 0, "tensors")
        where = aten.argument(node, 1, "dim", 0)
        if not isinstance(parts, list | tuple) or not isinstance(where, int):
            return None
        if where % len(flow.of(node)) != spot.axis:
            return None
        position = spot.position
        for part in parts:
            if not isinstance(part, fx.Node) or part not in flow.table.dims:
                return None
            sizes = flow.table.sizes(part)
            size = sizes[spot.axis] if spot.axis < len(sizes) else 0  # an empty tensor may be joined to any other
            if position < size:
                return Spot(part, spot.axis, position, True)
            position -= size
        return None

    def _written(self, spot: Spot) -> Spot | None:
        """The position before ``x[:, :1] = token``: in the written tensor, or in the tensor it was written into."""
        node = spot.node
        base, written = node.args[0], node.args[1]
        bounds = bounds_of(node, 2, self._flow.table.sizes(node))
        if (
            bounds is None
            or bounds[0] != spot.axis
            or not isinstance(base, fx.Node)
            or not isinstance(written, fx.Node)
        ):
            return None
        _, start, stop = bounds
        if start <= spot.position < stop:
            return Spot(written, spot.axis, spot.position - start, True)
        return spot._replace(node=base)

    def _cut(self, spot: Spot) -> Spot | None:
        """The position before a slice, a selection, or a part of a split."""
        taken = cut(self._flow, spot.node)
        if taken is None:
            return None
        source, where, start, gone = taken
        if gone:
            return spot._replace(node=source, axis=spot.axis + (spot.axis >= where))
        if where != spot.axis:
            return spot._replace(node=source)
        return spot._replace(node=source, position=spot.position + start)

    def _reads(self) -> Iterator[Spot]:
        """Return every single position that is taken out of an axis."""
        flow = self._flow
        for node in flow.order:
            if node.op != "call_function" or not flow.is_activation(node) or node not in flow.table.dims:
                continue
            if aten.name(node) not in ("slice", "narrow", "select", "getitem"):
                continue
            taken = cut(flow, node)
            if taken is None or taken.source not in flow.table.dims:
                continue
            alone = taken.gone or flow.table.sizes(node)[taken.axis] == 1
            if alone and flow.table.sizes(taken.source)[taken.axis] > 1:
                yield Spot(taken.source, taken.axis, taken.start)


def _vector(node: fx.Node) -> fx.Node:
    """The parameter behind an expanded learned vector, so that all its uses compare equal; else the node itself."""
    current = node
    while current.op == "call_function" and len(aten.tensors(current)) == 1:
        (source,) = aten.tensors(current)
        if aten.value(source) is None or _values(source) > _values(current):
            break
        current = source
    return current


def _values(node: fx.Node) -> float:
    value = aten.value(node)
    sizes = [] if value is None else [size if isinstance(size, int) else math.inf for size in value.shape]
    return math.prod(sizes)
