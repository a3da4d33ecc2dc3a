"""Find the piece of an axis that a slice, a selection or a part of a split returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.axes.flow import Flow


class Cut(NamedTuple):
    """A piece of an axis: where it starts in the source, and whether the axis is gone."""

    source: fx.Node
    axis: int
    start: int
    gone: bool


def cut(flow: Flow, node: fx.Node) -> Cut | None:
    """Return the piece that a slice, a selection or a part of a split returns; ``None`` for strides and indexing."""
    name = aten.name(node)
    source = node.args[0]
    if not isinstance(source, fx.Node):
        return None
    if name == "getitem":
        return _split(flow, source, node.args[1])
    if source not in flow.table.dims:
        return None
    sizes = flow.table.sizes(source)
    if name == "select":
        where, index = aten.argument(node, 1, "dim"), aten.argument(node, 2, "index")
        if not isinstance(where, int) or not isinstance(index, int):
            return None
        return Cut(source, where % len(sizes), index % sizes[where], True)
    if name == "narrow":
        where, start = aten.argument(node, 1, "dim"), aten.argument(node, 2, "start")
        if not isinstance(where, int) or not isinstance(start, int):
            return None
        return Cut(source, where % len(sizes), start % sizes[where], False)
    bounds = bounds_of(node, 1, sizes)
    return Cut(source, bounds[0], bounds[1], False) if bounds is not None else None


def _split(flow: Flow, pieces: fx.Node, index: object) -> Cut | None:
    name = aten.name(pieces)
    if name not in ("split", "split_with_sizes", "chunk", "tensor_split", "unbind") or not isinstance(index, int):
        return None
    source = aten.tensors(pieces)[0]
    where = aten.argument(pieces, 1 if name == "unbind" else 2, "dim", 0)
    if not isinstance(where, int) or source not in flow.table.dims:
        return None
    axis = where % len(flow.of(source))
    if name == "unbind":
        return Cut(source, axis, index, True)
    values = pieces.meta["val"]
    sizes = [flow.table.size(value.shape[axis]) for value in values]
    return Cut(source, axis, sum(sizes[: index % len(sizes)]), False)


def bounds_of(node: fx.Node, first: int, sizes: Sequence[int]) -> tuple[int, int, int] | None:
    """Axis, start and stop of a slice with stride 1, its arguments beginning with argument ``first``."""
    where = aten.argument(node, first, "dim", 0)
    start = aten.argument(node, first + 1, "start")
    stop = aten.argument(node, first + 2, "end")
    if not isinstance(where, int) or aten.argument(node, first + 3, "step", 1) != 1:
        return None
    size = sizes[where]
    low = 0 if start is None else start
    high = size if stop is None else stop
    if not isinstance(low, int) or not isinstance(high, int):
        return None
    low, high, _ = slice(low, high).indices(size)
    return where % len(sizes), low, high
