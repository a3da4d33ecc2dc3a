"""Axis rules of the operators that contract an axis: projections, products, attention, convolutions.

A rule returns the dimensions of the node's result.
"""

from __future__ import annotations

from typing import cast

from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.axes.copies import are_copies, note_mixture, weighed
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.layout import note_slid
from cbsurgeon.graph.axes.pointwise import like_inputs
from cbsurgeon.graph.axes.table import BATCH, Dim, Dims, extent


def linear(flow: Flow, node: fx.Node) -> Dims:
    """A projection of the last axis."""
    source, weight = cast(fx.Node, node.args[0]), cast(fx.Node, node.args[1])
    return _contract(flow, node, source, weight, len(flow.of(source)) - 1)


def addmm(flow: Flow, node: fx.Node) -> Dims:
    """A projection of the last of two axes, with a bias."""
    return _contract(flow, node, cast(fx.Node, node.args[1]), cast(fx.Node, node.args[2]), 1)


def _contract(flow: Flow, node: fx.Node, source: fx.Node, weight: fx.Node, place: int) -> Dims:
    """A projection of the last axis: everything before it stays, a new feature axis appears."""
    dims = flow.of(source)
    made = flow.table.fresh(flow.table.sizes(node)[-1], feature=True)
    _project(flow, node, source, weight, dims[place], made)
    return (*dims[:-1], made)


def _project(flow: Flow, node: fx.Node, source: fx.Node, weight: fx.Node, dim: Dim, made: Dim) -> None:
    """Record a projection of one axis; or, if that axis holds copies of a stream, a mixture of copies."""
    if dim and are_copies(flow, dim):
        note_mixture(flow, node, source, (dim, made))
        return
    flow.projections[node] = (source, weight, dim)
    _note_contracted(flow, dim)


def _note_contracted(flow: Flow, dim: Dim) -> None:
    axes = flow.table.axes(dim)
    if len(axes) == 1 and BATCH not in axes:
        flow.table.evidence(axes.pop()).contracted += 1


def matmul(flow: Flow, node: fx.Node) -> Dims:
    """A projection if one factor is a parameter; otherwise a product of activations."""
    operands = flow.sources(node)[:2] if aten.name(node) != "baddbmm" else flow.sources(node)[1:3]
    if len(operands) == 1:
        operands = operands * 2
    left, right = operands
    a, b, sizes = flow.of(left), flow.of(right), flow.table.sizes(node)
    if len(b) == 1 and len(a) > 1 and flow.is_activation(left) and not flow.is_activation(right):
        if a[-1] and are_copies(flow, a[-1]):
            _project(flow, node, left, right, a[-1], ())  # a weighted sum of copies
        return a[:-1]
    if len(a) < 2 or len(b) < 2:
        return like_inputs(flow, node) if len(a) == len(sizes) else tuple(flow.table.fresh(size) for size in sizes)
    if flow.is_activation(left) and not flow.is_activation(right):
        made = flow.table.fresh(sizes[-1], feature=True)
        _project(flow, node, left, right, a[-1], made)
        return (*_broadcast(flow, a[:-2], b[:-2]), a[-2], made)
    if flow.is_activation(right) and not flow.is_activation(left):
        made = flow.table.fresh(sizes[-2], feature=True)
        _project(flow, node, right, left, b[-2], made)
        return (*_broadcast(flow, b[:-2], a[:-2]), made, b[-1])
    mixed = weighed(flow, (left, a[-1]), (right, b[-2]))
    flow.table.align(a[-1], b[-2])
    if mixed is not None:
        note_mixture(flow, node, mixed, (a[-1], b[-1] if mixed is left else a[-2]))
    return (*_broadcast(flow, a[:-2], b[:-2]), a[-2], b[-1])


def _broadcast(flow: Flow, first: Dims, second: Dims) -> Dims:
    rank = max(len(first), len(second))
    a = ((),) * (rank - len(first)) + first
    b = ((),) * (rank - len(second)) + second
    for x, y in zip(a, b, strict=True):
        flow.table.align(x, y)
    return tuple(x or y for x, y in zip(a, b, strict=True))


def einsum(flow: Flow, node: fx.Node) -> Dims:
    """``einsum`` of two operands: the axes are matched by their letters."""
    operands, sizes = flow.sources(node), flow.table.sizes(node)
    equation = cast(str, node.args[0]).replace(" ", "")
    if "->" not in equation or len(operands) != 2:
        return tuple(flow.table.fresh(size) for size in sizes)
    terms, out = _letters(equation, [len(flow.of(one)) for one in operands], len(sizes))
    seen: dict[str, Dim] = {}
    held: dict[str, list[bool]] = {}
    ranked = sorted(zip(terms, operands, strict=True), key=lambda pair: not flow.is_activation(pair[1]))
    if all(flow.is_activation(operand) for operand in operands):
        _note_copies(flow, node, ranked, out)
    for term, operand in ranked:
        active = flow.is_activation(operand)
        for letter, dim in zip(term, flow.of(operand), strict=True):
            held.setdefault(letter, []).append(active)
            if not seen.get(letter):
                seen[letter] = (
                    dim
                    if active or not flow.is_activation(ranked[0][1])
                    else flow.table.fresh(extent(dim), feature=True)
                )
            elif active:
                flow.table.align(seen[letter], dim)
    gone = [letter for letter, who in held.items() if letter not in out and who == [True, False]]
    if len(gone) == 1:
        new = [seen[letter] for letter, who in held.items() if letter in out and who == [False]]
        _project(flow, node, ranked[0][1], ranked[1][1], seen[gone[0]], new[0] if len(new) == 1 else ())
    return tuple(seen[letter] for letter in out)


def _letters(equation: str, ranks: list[int], rank: int) -> tuple[list[str], str]:
    """The terms of an equation of ``einsum``, with a letter of its own for each axis that ``...`` stands for."""
    left, out = equation.split("->")
    spare = [letter for letter in map(chr, range(ord("α"), ord("ω"))) if letter not in equation]

    def written(term: str, axes: int) -> str:
        count = axes - len(term.replace("...", ""))
        return term.replace("...", "".join(reversed(spare[:count])))

    return [written(term, axes) for term, axes in zip(left.split(","), ranks, strict=True)], written(out, rank)


def _note_copies(flow: Flow, node: fx.Node, terms: list[tuple[str, fx.Node]], out: str) -> None:
    """Record a product of two activations that mixes copies of a stream, or writes a result to each copy."""
    dims = [dict(zip(term, flow.of(operand), strict=True)) for term, operand in terms]
    gone = [letter for letter in dict.fromkeys(terms[0][0] + terms[1][0]) if letter not in out]
    gone = [letter for letter in gone if any(one.get(letter) for one in dims)]
    left, right = ((operand, own) for (_, operand), own in zip(terms, dims, strict=True))
    for (source, read), (_, weights) in ((left, right), (right, left)):
        added = [dim for letter, dim in weights.items() if letter not in read and dim]
        if not gone and added and all(are_copies(flow, dim) for dim in added):
            note_mixture(flow, node, source, added)
            return
    if len(gone) == 1 and all(gone[0] in one for one in dims):
        mixed = weighed(flow, (left[0], left[1][gone[0]]), (right[0], right[1][gone[0]]))
        if mixed is not None:
            read, weights = (left[1], right[1]) if mixed is left[0] else (right[1], left[1])
            made = [dim for letter, dim in weights.items() if letter not in read]
            note_mixture(flow, node, mixed, [weights[gone[0]], read[gone[0]], *made])


def attention(flow: Flow, node: fx.Node) -> Dims:
    """Attention: the positions of the queries with the channels of the values."""
    query, key, val = (flow.of(cast(fx.Node, arg)) for arg in node.args[:3])
    flow.table.align(query[-1], key[-1])
    flow.table.align(key[-2], val[-2])
    return (*query[:-1], val[-1])


def embedding(flow: Flow, node: fx.Node) -> Dims:
    """An embedding: the axes of the indices and a new feature axis."""
    index = flow.of(cast(fx.Node, node.args[1]))
    return (*index, flow.table.fresh(flow.table.sizes(node)[-1], feature=True))


def convolution(flow: Flow, node: fx.Node) -> Dims:
    """A convolution: a projection of the channels, and the spatial axes."""
    source, weight = cast(fx.Node, node.args[0]), cast(fx.Node, node.args[1])
    dims, sizes = flow.of(source), flow.table.sizes(node)
    if len(dims) != len(sizes):
        return tuple(flow.table.fresh(size) for size in sizes)
    kernel = flow.table.sizes(weight)[2:]
    spatial = tuple(flow.table.resized(dim, size) for dim, size in zip(dims[2:], sizes[2:], strict=True))
    if any(size > 1 for size in kernel):
        note_slid(flow, dims[2:])
    if is_depthwise(flow, node):
        return (dims[0], flow.table.resized(dims[1], sizes[1]), *spatial)
    flow.projections[node] = (source, weight, dims[1])
    _note_contracted(flow, dims[1])
    return (dims[0], flow.table.fresh(sizes[1], feature=True), *spatial)


def groups(node: fx.Node) -> int:
    """Number of groups of a convolution."""
    return cast(int, aten.argument(node, 8 if aten.name(node) == "convolution" else 6, "groups", 1))


def is_depthwise(flow: Flow, node: fx.Node) -> bool:
    """Whether a convolution is depthwise: one group per channel."""
    channels = flow.table.sizes(cast(fx.Node, node.args[0]))[1]
    return groups(node) == channels and channels > 1


def solved(flow: Flow, node: fx.Node) -> Dims:
    """``solve_triangular(A, B)`` and similar: the axes of the right-hand side, whose shape the result has."""
    place = {"cholesky_solve": 0, "linalg_lu_solve": 2}.get(aten.name(node), 1)
    sources = aten.tensors(node)
    if len(sources) <= place or sources[place] not in flow.table.dims:
        return ()
    return flow.of(sources[place])
