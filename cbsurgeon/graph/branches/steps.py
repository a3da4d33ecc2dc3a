"""Walk upstream from a node, one step at a time, and find the kind of each step and the input that carries the stream.

The walk follows the *full-sized* operand: of ``x * gate`` with a gate of shape ``[B, 1, C]`` that is ``x``, and of
``x * rsqrt(mean(x * x))`` (a normalisation written out) it is ``x`` as well. If two operands are full-sized the walk
stops: the node is a sum of two streams, a gate, or an activation written out, and the caller decides.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.axes.contractions import is_depthwise
from cbsurgeon.graph.axes.copies import are_copies
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.branches.pieces import CUTS, common, shifts

Kind = Literal["layout", "crop", "dropout", "norm", "scale", "activation", "spatial"]


class Step(NamedTuple):
    """A step from a node to the input that carries the stream."""

    kind: Kind
    source: fx.Node


def step(flow: Flow, node: fx.Node) -> Step | None:
    """Return the step that made ``node``, or ``None`` at a boundary (projection, sum of two streams, input ...)."""
    name = aten.name(node)
    if node in flow.projections or not name or name in aten.FILLED:
        return None
    live = [source for source in aten.tensors(node) if flow.is_activation(source)]
    if not live:
        return None
    if node in flow.mixtures:
        return Step("scale", flow.mixtures[node])
    if name in ("sum", "mean") and _joins_copies(flow, node, live[0]):
        return Step("scale", live[0])
    for kind, names in (("layout", aten.LAYOUT), ("crop", aten.CROP), ("dropout", aten.DROPOUT), ("norm", aten.NORM)):
        if name in names:
            return Step(kind, live[0])  # type: ignore[arg-type]
    if is_spatial(flow, node):
        return Step("spatial", live[0])
    if name in aten.POOL or (name in aten.CONVOLUTION and is_depthwise(flow, node)):
        return Step("scale", live[0])
    if name == "cat":
        return joined(flow, node)
    if name == "getitem" and aten.name(live[0]) in CUTS:
        base = aten.tensors(live[0])[0]
        return Step("crop", base) if base not in flow.projections else None
    if name in ("index_select", "gather", "index", "getitem") and aten.value(node) is not None:
        return Step("crop", live[0]) if live[0] in flow.table.dims else None
    if name in aten.NONLINEAR and len(live) == 1:
        if aten.is_guard(node):
            return Step("scale", live[0])
        return Step("activation", live[0])
    if name in aten.ELEMENTWISE and aten.value(node) is not None:
        return _elementwise(flow, node, live)
    return None


def _joins_copies(flow: Flow, node: fx.Node, source: fx.Node) -> bool:
    """Whether a sum or mean reduces only an axis of copies of a stream."""
    if node not in flow.table.dims or source not in flow.table.dims:
        return False
    gone = [dim for dim in flow.of(source) if dim and dim not in flow.of(node)]
    return bool(gone) and all(flow.table.evidence(factor.axis).copies for dim in gone for factor in dim)


def joined(flow: Flow, node: fx.Node) -> Step | None:
    """Return the step of a ``cat`` that joins all pieces of one tensor: reordered, or normalised separately."""
    source = common(flow, node, lambda piece: _piece_source(flow, piece))
    if source is None or shifts(flow, node):
        return None
    return Step("norm", source)


def _piece_source(flow: Flow, piece: fx.Node) -> fx.Node | None:
    up = step(flow, piece) if aten.name(piece) != "cat" else None
    return up.source if up is not None and up.kind in ("layout", "crop", "dropout", "norm", "scale") else None


def is_spatial(flow: Flow, node: fx.Node) -> bool:
    """Whether a node mixes tokens with fixed weights: a depthwise convolution wider than one position, a pooling that
    leaves more than one position, a Fourier transform."""
    name = aten.name(node)
    if name in aten.CONVOLUTION and is_depthwise(flow, node):
        return any(size > 1 for size in flow.table.sizes(node.args[1])[2:])  # type: ignore[arg-type]
    if name in aten.POOL:
        return node in flow.table.dims and any(flow.of(node)[2:])
    return name in aten.FOURIER or (name == "cat" and shifts(flow, node))


def _elementwise(flow: Flow, node: fx.Node, live: list[fx.Node]) -> Step | None:
    if aten.name(node) in ("softmax", "_softmax", "log_softmax", "cumsum", "sort"):
        return None
    sizes = flow.table.sizes(node)
    full = [source for source in live if aten.value(source) is not None and _own_sizes(flow, source) == sizes]
    if len(live) == 1:
        return Step("scale", live[0])
    if len(full) == 1:
        return Step("scale", full[0])
    if not full:
        written = [source for source in live if _lacks_copies_only(flow, node, source)]
        return Step("scale", written[0]) if len(written) == 1 else None
    return None


def _lacks_copies_only(flow: Flow, node: fx.Node, source: fx.Node) -> bool:
    """Whether the axes of a product that one factor lacks hold copies of a stream: the other factor has weights, with
    which a result is written to each copy."""
    if node not in flow.table.dims or source not in flow.table.dims:
        return False
    after, own = flow.of(node), flow.of(source)
    padded = ((),) * (len(after) - len(own)) + own
    missing = [dim for dim, held in zip(after, padded, strict=True) if dim and not held]
    return bool(missing) and all(are_copies(flow, dim) for dim in missing)


def _own_sizes(flow: Flow, node: fx.Node) -> tuple[int, ...]:
    """The sizes of a tensor before it was expanded: an expanded factor is not a full-sized operand."""
    while aten.name(node) in ("expand", "expand_as"):
        node = aten.tensors(node)[0]
    return flow.table.sizes(node)


def chain(flow: Flow, start: fx.Node, limit: int = 64) -> list[fx.Node]:
    """Return the nodes upstream of ``start`` (included) up to a boundary (included)."""
    nodes = [start]
    while len(nodes) < limit:
        up = step(flow, nodes[-1])
        if up is None or up.kind == "activation":
            break
        nodes.append(up.source)
    return nodes


def operands(flow: Flow, node: fx.Node) -> list[fx.Node]:
    """Return the two or more full-sized tensors that a node adds, at least one an activation; empty for other nodes.

    A constant counts if it was expanded to the batch: a stream may start as learned queries.
    """
    if aten.value(node) is None:
        return []  # a sum of sizes
    name = aten.name(node)
    if name in ("addcmul", "addcdiv", "lerp") or name in aten.SUM:
        sizes = flow.table.sizes(node)
        sources = flow.sources(node)[:2] if name == "lerp" else flow.sources(node)
        known = [source for source in sources if flow.table.sizes(source) == sizes]
        full = [
            source
            for source in known
            if flow.is_activation(source) or any(map(flow.table.holds_batch, flow.of(source)))
        ]
        if len(full) >= 2 and any(map(flow.is_activation, full)):
            return full
    return _stacked(flow, node) if name == "sum" else []


def is_difference(flow: Flow, node: fx.Node) -> bool:
    """Whether a node is ``f(x) - x`` in ``x + a * (f(x) - x)``: the addition that follows is the residual add."""
    terms = operands(flow, node) if aten.name(node) == "sub" else []
    if len(terms) != 2:
        return False
    scaled = node
    while len(scaled.users) == 1:
        user = next(iter(scaled.users))
        if terms[1] in operands(flow, user):
            return aten.name(user) == "add" and scaled is not node
        up = step(flow, user)
        if up is None or up.kind != "scale" or up.source is not scaled:
            return False
        scaled = user
    return False


def _stacked(flow: Flow, node: fx.Node) -> list[fx.Node]:
    """The parts that ``stack([a, b, ...], dim).sum(dim)`` adds; empty for other nodes."""
    source = aten.tensors(node)[0]
    where = aten.argument(node, 1, "dim")
    if aten.name(source) != "stack" or where not in (
        [aten.argument(source, 1, "dim", 0)],
        aten.argument(source, 1, "dim", 0),
    ):
        return []
    parts = [part for part in aten.tensors(source) if flow.is_activation(part)]
    return parts if len(parts) >= 2 else []
