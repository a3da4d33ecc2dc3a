"""Copies of a stream (hyper-connections): layers mix the copies, read a weighted sum, and write their result to each.

The weights are parameters, or a layer computes them from the copies. Such products do not end a residual branch: they
keep tokens and channels, as a scale does. :attr:`Flow.mixtures` holds them.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.table import Dim

_NEAR = 400
"""Number of nodes that may lie between the copies and the weights computed from them."""


def are_copies(flow: Flow, dim: Dim) -> bool:
    """Whether every factor of a dimension started as copies of one tensor."""
    seen = [flow.table.evidence(factor.axis) for factor in dim]
    return all(one.repeated or one.copies for one in seen)


def note_mixture(flow: Flow, node: fx.Node, source: fx.Node, dims: Iterable[Dim]) -> None:
    """Record a node that mixes, or writes to, copies of a stream, and that these dimensions hold copies.

    Args:
        flow: axis factors of the graph.
        node: the product.
        source: the operand that carries the stream; the other one holds weights.
        dims: the dimensions of copies before and after the product.
    """
    flow.mixtures[node] = source
    for dim in dims:
        for factor in dim:
            seen = flow.table.evidence(factor.axis)
            seen.repeated = seen.copies = True


def weighed(flow: Flow, first: tuple[fx.Node, Dim], second: tuple[fx.Node, Dim]) -> fx.Node | None:
    """Return the operand of a product whose copies it mixes, with weights computed from them; ``None`` if neither.

    Weights that compare tokens with each other (attention) are not of this kind.

    Args:
        flow: axis factors of the graph.
        first: an operand, and its dimension that the product contracts, before the two dimensions are joined.
        second: the other operand.
    """
    found = [
        source
        for (source, dim), (weights, _) in ((first, second), (second, first))
        if dim and are_copies(flow, dim) and _computed(flow, weights, source)
    ]
    return found[0] if len(found) == 1 else None


def _computed(flow: Flow, weights: fx.Node, source: fx.Node) -> bool:
    """Whether weights were computed from a tensor, without a product of two activations on the way."""
    roots = {source}
    while aten.name(source) in aten.LAYOUT:
        source = aten.tensors(source)[0]
        roots.add(source)
    queue, seen, reached = [weights], set[fx.Node](), False
    while queue and len(seen) < _NEAR:
        node = queue.pop()
        if node in roots:
            reached = True
            continue
        if node in seen or not flow.is_activation(node):
            continue
        seen.add(node)
        live = [one for one in aten.tensors(node) if flow.is_activation(one)]
        if len(live) > 1 and aten.name(node) in aten.MATMUL | aten.ATTENTION | {"einsum"}:
            return False
        queue.extend(live)
    return reached and not queue
