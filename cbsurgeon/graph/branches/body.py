"""The body of a branch: everything between its up and down projections, found by walking back from the last one."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.table import BATCH
from cbsurgeon.graph.branches.projection import Projection, projection
from cbsurgeon.graph.branches.steps import is_spatial, step

LIMIT = 600
"""Largest number of nodes that a walk visits; the widest attention that was seen needs under 200."""


@dataclass
class Body:
    """The body of a branch, between its up projections and its down projection.

    Attributes:
        firsts: the up projections: those whose feature axis the down projection contracts, in graph order.
        others: other projections that the walk reached (of queries, of keys).
        nodes: every node visited.
        activation, gate: there is a non-linearity; two different tensors are multiplied.
        attention: tokens are mixed by weights that are computed from tokens.
        spatial: tokens are mixed by a depthwise convolution, a pooling or a Fourier transform.
        opened: the walk stopped at a node that no projection precedes.
    """

    firsts: list[Projection] = field(default_factory=list)
    others: list[Projection] = field(default_factory=list)
    nodes: set[fx.Node] = field(default_factory=set)
    activation: bool = False
    gate: bool = False
    attention: bool = False
    spatial: bool = False
    opened: bool = False


def body_before(flow: Flow, last: Projection, stop: Container[fx.Node]) -> Body:
    """Return the body before a projection, walking back from its input to the projections that feed it."""
    found = Body()
    hidden = flow.table.axes(last.contracted)
    source_dims = flow.of(last.source)
    tokens = set().union(*(flow.table.axes(dim) for dim in source_dims)) - hidden - {BATCH}
    pooled_last = is_pooled(flow, last)
    live = flow.is_activation(last.source)
    queue = [last.source]
    while queue:
        node = queue.pop()
        if node in found.nodes or (live and not flow.is_activation(node)):
            continue
        if node in stop or node.op != "call_function" or len(found.nodes) > LIMIT:
            found.opened = found.opened or live
            continue
        found.nodes.add(node)
        inner = projection(flow, node)
        if inner is None:
            _note(flow, node, tokens, found)
            queue.extend(aten.tensors(node)[:1] if aten.name(node).endswith("_as") else aten.tensors(node))
        elif (is_pooled(flow, inner) and not pooled_last) or (
            flow.table.axes(inner.contracted) <= tokens and not inner.spatial
        ):
            queue.append(inner.source)
        elif _features(flow, inner) & hidden:
            if all(inner.core is not first.core for first in found.firsts):
                found.firsts.append(inner)
        else:
            found.others.append(inner)
    found.firsts.sort(key=lambda first: flow.order[first.core])
    return found


def deepen(flow: Flow, between: Body, stop: Container[fx.Node]) -> Body:
    """Return the body extended by one more projection upstream, for an MLP of three or more layers."""
    joined = Body(nodes=set(between.nodes), others=list(between.others))
    for first in between.firsts:
        below = body_before(flow, first, stop)
        joined.firsts += [one for one in below.firsts if all(one.core is not known.core for known in joined.firsts)]
        joined.others += below.others
        joined.nodes |= below.nodes | {first.core, first.output}
        for flag in ("activation", "gate", "attention", "spatial", "opened"):
            setattr(joined, flag, getattr(joined, flag) or getattr(below, flag) or getattr(between, flag))
    return joined


def _features(flow: Flow, found: Projection) -> set[int]:
    """The axis that a projection produces."""
    dims = flow.of(found.core)
    if found.convolution:
        return flow.table.axes(dims[1])
    before = flow.of(found.source)
    if aten.name(found.core) in ("linear", "addmm"):
        return flow.table.axes(dims[-1])
    known = set().union(*(flow.table.axes(dim) for dim in before))
    made = set().union(*(flow.table.axes(dim) for dim in dims))
    return (made - known) or flow.table.axes(dims[-1])


def is_pooled(flow: Flow, found: Projection) -> bool:
    """Whether a projection reads a tensor of one token: it has no axes but the batch and the contracted one."""
    dims = flow.of(found.source)
    rest = [dim for dim in dims if dim and dim != found.contracted]
    return all(flow.table.axes(dim) == {BATCH} for dim in rest)


def _note(flow: Flow, node: fx.Node, tokens: set[int], found: Body) -> None:
    name = aten.name(node)
    live = [source for source in aten.tensors(node) if flow.is_activation(source)]
    if name in aten.SAMPLED or (name in aten.MATMUL and len(live) >= 2) or _weighted_sum(flow, node, tokens):
        found.attention = True
    elif (region := aten.inner(node)) is not None:
        _note_region(region, found)
    elif name in ("softmax", "_softmax", "log_softmax"):
        found.activation = True
        place = aten.argument(node, 1, "dim", -1)
        dims = flow.of(node)
        if isinstance(place, int) and flow.table.axes(dims[place]) & tokens:
            found.attention = True
    elif name == "glu":
        found.activation = found.gate = True
    elif name in aten.NONLINEAR or name in aten.COMPARISON or (name == "mul" and node.args[0] is node.args[1]):
        found.activation = True
    elif is_spatial(flow, node):
        found.spatial = True
    elif name == "mul" and len(live) == 2 and all(flow.table.sizes(one) == flow.table.sizes(node) for one in live):
        first, second = (_origin(flow, one) for one in live)
        found.gate = found.gate or first is not second
        found.activation = found.activation or first is second


def _weighted_sum(flow: Flow, node: fx.Node, tokens: set[int]) -> bool:
    """A sum over tokens of one activation weighted by another (additive attention)."""
    if aten.name(node) not in ("sum", "mean"):
        return False
    product = aten.tensors(node)[0]
    live = [source for source in aten.tensors(product) if flow.is_activation(source)]
    if aten.name(product) != "mul" or len(live) != 2 or product not in flow.table.dims:
        return False
    before = set().union(*(flow.table.axes(dim) for dim in flow.of(product)))
    after = set().union(*(flow.table.axes(dim) for dim in flow.of(node)))
    return bool((before - after) & tokens)


def _note_region(region: fx.Graph, found: Body) -> None:
    """Record what a separate region (autocast, gradient mode) contains, by the kinds of its operators."""
    constant = {node for node in region.nodes if node.op == "get_attr"}
    for node in region.nodes:
        name = aten.name(node)
        pair = sum(source not in constant for source in aten.tensors(node)) >= 2
        found.attention |= name == "scaled_dot_product_attention" or (name in aten.MATMUL and pair)
        found.activation |= name in aten.NONLINEAR


def _origin(flow: Flow, node: fx.Node) -> fx.Node:
    """The projection, slice or split that a tensor was computed from by pointwise steps."""
    for _ in range(64):
        name = aten.name(node)
        if name in ("getitem", "slice", "select", "narrow") or projection(flow, node) is not None:
            return node
        up = step(flow, node)
        live = [source for source in aten.tensors(node) if flow.is_activation(source)]
        if up is not None:
            node = up.source
        elif live and name in aten.ELEMENTWISE:
            node = live[0]
        else:
            return node
    return node
