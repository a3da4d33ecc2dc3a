"""Axis rules of the operators that move, split, merge, cut and join axes.

A rule returns the dimensions of the node's result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.table import BATCH, Dim, Dims


def permute(flow: Flow, node: fx.Node) -> Dims:
    """``permute``: the axes in another order."""
    dims = flow.of(flow.sources(node)[0])
    order = cast(Sequence[int], aten.argument(node, 1, "dims"))
    return tuple(dims[i] for i in order)


def transpose(flow: Flow, node: fx.Node) -> Dims:
    """``transpose``: two axes swapped, by default the last two."""
    dims = list(flow.of(flow.sources(node)[0]))
    if aten.name(node) in ("t", "numpy_T", "mT", "transpose") and len(node.args) < 3:
        if len(dims) >= 2:
            dims[-1], dims[-2] = dims[-2], dims[-1]
        return tuple(dims)
    first, second = cast(int, node.args[1]), cast(int, node.args[2])
    dims[first], dims[second] = dims[second], dims[first]
    return tuple(dims)


def movedim(flow: Flow, node: fx.Node) -> Dims:
    """``movedim``: axes moved to other positions."""
    dims = flow.of(flow.sources(node)[0])
    source, target = node.args[1], node.args[2]
    numbered = torch.empty(tuple(range(1, len(dims) + 1)), device="meta")  # the size of an axis is its number
    return tuple(dims[size - 1] for size in torch.movedim(numbered, source, target).shape)  # type: ignore[arg-type]


def view(flow: Flow, node: fx.Node) -> Dims:
    """``view``: the factors of all axes, regrouped by the new sizes."""
    dims = flow.of(flow.sources(node)[0])
    return flow.table.regroup([factor for dim in dims for factor in dim], flow.table.sizes(node))


def expand(flow: Flow, node: fx.Node) -> Dims:
    """``expand``: axes of size 1 become new axes of the expanded size."""
    dims, sizes = flow.of(flow.sources(node)[0]), flow.table.sizes(node)
    lead = len(sizes) - len(dims)
    padded = ((),) * lead + dims
    result = tuple(dim if dim else flow.table.fresh(size) for dim, size in zip(padded, sizes, strict=True))
    _note_repeated(flow, node, padded, result)
    return result


def _note_repeated(flow: Flow, node: fx.Node, before: Dims, after: Dims) -> None:
    """Record the new axes along which an activation was repeated."""
    if flow.is_activation(node):
        for old, new in zip(before, after, strict=True):
            if not old and new and not flow.table.holds_batch(new):
                flow.table.evidence(new[0].axis).repeated = True


def unsqueeze(flow: Flow, node: fx.Node) -> Dims:
    """``unsqueeze``: a new axis of size 1."""
    dims = flow.of(flow.sources(node)[0])
    place = cast(int, node.args[1]) % (len(dims) + 1)
    return (*dims[:place], (), *dims[place:])


def squeeze(flow: Flow, node: fx.Node) -> Dims:
    """``squeeze``: axes of size 1 removed."""
    dims, rank = flow.of(flow.sources(node)[0]), len(flow.table.sizes(node))
    where = aten.argument(node, 1, "dim")
    if where is None:
        return tuple(dim for dim in dims if dim)
    places = {place % len(dims) for place in ([where] if isinstance(where, int) else cast(Sequence[int], where))}
    kept = tuple(dim for place, dim in enumerate(dims) if place not in places or dim)
    return kept if len(kept) == rank else tuple(dim for dim in dims if dim)


def select(flow: Flow, node: fx.Node) -> Dims:
    """``select``: one axis removed."""
    dims = flow.of(flow.sources(node)[0])
    place = cast(int, node.args[1]) % len(dims)
    return (*dims[:place], *dims[place + 1 :])


def repeat(flow: Flow, node: fx.Node) -> Dims:
    """``repeat``: the same axes with larger sizes."""
    dims, sizes = flow.of(flow.sources(node)[0]), flow.table.sizes(node)
    padded = ((),) * (len(sizes) - len(dims)) + dims
    result = tuple(flow.table.resized(dim, size) for dim, size in zip(padded, sizes, strict=True))
    _note_repeated(flow, node, padded, result)
    return result


def same_rank(flow: Flow, node: fx.Node) -> Dims:
    """Slices, pads, pools, index selections: the same axes, possibly with other sizes."""
    dims, sizes = flow.of(flow.sources(node)[0]), flow.table.sizes(node)
    if len(dims) != len(sizes):
        return tuple(flow.table.fresh(size) for size in sizes)
    return tuple(flow.table.resized(dim, size) for dim, size in zip(dims, sizes, strict=True))


def pool(flow: Flow, node: fx.Node) -> Dims:
    """Pooling: the same axes; all after the channels are recorded as spatial."""
    note_slid(flow, flow.of(flow.sources(node)[0])[2:])
    return same_rank(flow, node)


def note_slid(flow: Flow, dims: Sequence[Dim]) -> None:
    """Record that a window slides over these axes, so that they hold positions."""
    for dim in dims:
        for axis in flow.table.axes(dim):
            if axis != BATCH:
                flow.table.evidence(axis).slid += 1


def cat(flow: Flow, node: fx.Node) -> Dims:
    """``cat``: one axis becomes longer; the others are the same axis in all inputs."""
    parts = [source for source in flow.sources(node) if flow.of(source)]
    sizes = flow.table.sizes(node)
    where = cast(int, aten.argument(node, 1, "dim", 0)) % len(sizes)
    parts = [source for source in parts if len(flow.of(source)) == len(sizes)]
    parts.sort(key=lambda source: not flow.is_activation(source))
    result: list[Dim] = []
    for place, size in enumerate(sizes):
        dims = [flow.of(source)[place] for source in parts if flow.of(source)[place]]
        first = dims[0] if dims else ()
        for other, source in zip(dims[1:], parts[1:], strict=False):
            if flow.is_activation(source) and len(first) == len(other) == 1:
                flow.table.join(first[0].axis, other[0].axis)
        if place == where:  # if this axis holds samples, the tokens of one sample may no longer be adjacent
            joined = next((dim for dim in dims if flow.table.holds_batch(dim)), first)
            result.append(flow.table.chosen(joined, size) if len(dims) > 1 else flow.table.resized(first, size))
        else:
            result.append(first or flow.table.fresh(size))
    return tuple(result)


def stack(flow: Flow, node: fx.Node) -> Dims:
    """``stack``: a new axis; the others are the same axis in all inputs."""
    sources, sizes = flow.sources(node), flow.table.sizes(node)
    where = cast(int, aten.argument(node, 1, "dim", 0)) % len(sizes)
    dims = flow.of(sources[0])
    for other in sources[1:]:
        for first, second in zip(dims, flow.of(other), strict=False):
            flow.table.align(first, second)
    new = flow.table.fresh(sizes[where])
    if len(sources) == 1 and flow.is_activation(node) and new:
        flow.table.evidence(new[0].axis).repeated = True
    return (*dims[:where], new, *dims[where:])


def picked(flow: Flow, node: fx.Node) -> Dims:
    """``index_select`` and similar: positions are picked along one axis, in an unknown order."""
    dims, sizes = same_rank(flow, node), flow.table.sizes(node)
    place, before = cast(int, aten.argument(node, 1, "dim", 0)), flow.of(flow.sources(node)[0])
    if not isinstance(place, int) or len(before) != len(sizes):
        return dims
    place %= len(dims)
    return (*dims[:place], flow.table.chosen(before[place], sizes[place]), *dims[place + 1 :])


def index(flow: Flow, node: fx.Node) -> Dims:
    """Advanced indexing: the axes before and after the indexed axes are kept if they can be identified."""
    sizes, dims = flow.table.sizes(node), flow.of(flow.sources(node)[0])
    indices = cast(Sequence[object], node.args[1])
    indexed = [place for place, index in enumerate(indices) if index is not None]
    covered = sum(_covers(one) for one in indices if one is not None)
    place, new = indexed[0] if indexed else 0, len(sizes) - (len(dims) - covered)
    together = indexed == list(range(place, place + len(indexed)))
    if not indexed or not together or new < 0 or place + covered > len(dims):
        return tuple(flow.table.fresh(size) for size in sizes)
    taken, middle = dims[place : place + covered], sizes[place : place + new]
    if covered == 1 and new == 1:
        grown: Dims = (flow.table.chosen(taken[0], middle[0]),)
    elif new == 1 and any(flow.table.holds_batch(dim) for dim in taken):
        grown = (flow.table.chosen(tuple(factor for dim in taken for factor in dim), middle[0]),)
    else:
        grown = tuple(map(flow.table.fresh, middle))
    return (*dims[:place], *grown, *dims[place + covered :])


def _covers(index: object) -> int:
    """Return the number of axes that one index consumes: the number of its own axes for a boolean mask, else one."""
    value = index.meta.get("val") if isinstance(index, fx.Node) else None
    return value.dim() if isinstance(value, Tensor) and value.dtype == torch.bool else 1


def unfold(flow: Flow, node: fx.Node) -> Dims:
    """``unfold``: one axis becomes windows and the positions inside a window."""
    dims, sizes = flow.of(flow.sources(node)[0]), flow.table.sizes(node)
    place = cast(int, node.args[1]) % len(dims)
    window = flow.table.resized(dims[place], sizes[-1])
    return (*dims[:place], flow.table.resized(dims[place], sizes[place]), *dims[place + 1 :], window)


def im2col(flow: Flow, node: fx.Node) -> Dims:
    """``im2col``: channels and the positions inside a patch on one axis, the patches on another."""
    dims, sizes = flow.of(flow.sources(node)[0]), flow.table.sizes(node)
    kernel = cast(Sequence[int], node.args[1])
    inside = tuple(factor for size in kernel for factor in flow.table.fresh(size))
    return (dims[0], (*dims[1], *inside), flow.table.fresh(sizes[2]))
