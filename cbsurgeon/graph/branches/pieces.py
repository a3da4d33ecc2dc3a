"""Recognise a ``cat`` of pieces of one tensor: reordered channels, halves normalised separately, shifted tokens."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.axes.flow import Flow

CUTS = frozenset({"split", "split_with_sizes", "chunk", "tensor_split"})
"""Operators that cut a tensor into a list of pieces along one axis."""

_STEPS = 12
"""How many steps there may be between a piece and the tensor that it was cut from."""


class Piece(NamedTuple):
    """The positions ``start`` to ``stop`` along an axis of a tensor."""

    source: fx.Node
    start: int
    stop: int


def common(flow: Flow, node: fx.Node, up: Callable[[fx.Node], fx.Node | None]) -> fx.Node | None:
    """Return the tensor of the same size that all inputs of a ``cat`` were cut from, or ``None``.

    Args:
        flow: axis factors of the graph.
        node: the ``cat``.
        up: function from a node to its input that carries the stream; ``None`` at a boundary.
    """
    pieces = aten.tensors(node)
    if len(pieces) < 2 or not all(flow.is_activation(piece) for piece in pieces):
        return None
    walks = [_walk(piece, up) for piece in pieces]
    sizes = flow.table.sizes(node)
    for candidate in walks[0][1:]:
        if all(candidate in walk[1:] for walk in walks[1:]):
            return candidate if candidate in flow.table.dims and flow.table.sizes(candidate) == sizes else None
    return None


def _walk(node: fx.Node, up: Callable[[fx.Node], fx.Node | None]) -> list[fx.Node]:
    nodes = [node]
    while len(nodes) < _STEPS and (source := up(nodes[-1])) is not None:
        nodes.append(source)
    return nodes


def shifts(flow: Flow, node: fx.Node) -> bool:
    """Whether a ``cat`` shifts tokens: pieces of one tensor are joined along the axis they were cut on and overlap, so
    that positions come from their neighbours."""
    sizes = flow.table.sizes(node)
    where = aten.argument(node, 1, "dim", 0)
    if not isinstance(where, int):
        return False
    axis = where % len(sizes)
    if any(len(flow.table.sizes(source)) != len(sizes) for source in aten.tensors(node)):
        return False  # an empty tensor of one axis may be joined to any other
    pieces = [_cut(flow, source, axis) for source in aten.tensors(node)]
    spans = sorted((one.start, one.stop) for one in pieces)
    source = pieces[0].source if pieces else None
    if len(pieces) < 2 or any(one.source is not source for one in pieces) or source not in flow.table.dims:
        return False
    assert source is not None
    same = len(flow.table.sizes(source)) == len(sizes) and flow.table.sizes(source)[axis] == sizes[axis]
    return same and any(later[0] < earlier[1] for earlier, later in pairwise(spans))


def _cut(flow: Flow, node: fx.Node, axis: int) -> Piece:
    """The piece of a tensor that a node is, through slices along one axis; slices of other axes select channels."""
    start, stop = 0, flow.table.sizes(node)[axis]
    for _ in range(_STEPS):
        if aten.name(node) not in ("slice", "contiguous", "clone", "alias"):
            break
        source = aten.tensors(node)[0]
        if aten.name(node) == "slice":
            place, first = aten.argument(node, 1, "dim", 0), aten.argument(node, 2, "start", 0)
            if (
                not isinstance(place, int)
                or not isinstance(first, int | None)
                or aten.argument(node, 4, "step", 1) != 1
            ):
                break
            if place % len(flow.table.sizes(source)) == axis:
                first = first or 0
                offset = first + flow.table.sizes(source)[axis] if first < 0 else first
                start, stop = start + offset, stop + offset
        node = source
    return Piece(node, start, stop)
