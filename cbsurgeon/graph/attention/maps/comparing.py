"""Find the product of queries and keys that the scores of a softmax come from."""

from __future__ import annotations

from typing import NamedTuple

from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.attention.maps.following import pair
from cbsurgeon.graph.attention.scores import NEAR
from cbsurgeon.graph.axes.flow import Flow

FUSED = "scaled_dot_product_attention"
SOFTMAX = frozenset({"softmax", "_softmax"})
PASSED = aten.DROPOUT | aten.LAYOUT | aten.CROP | aten.ELEMENTWISE | {"getitem", "cat"}
"""Operators that keep every axis of scores or weights."""

_LINEAR = frozenset({"linear", "addmm"}) | aten.CONVOLUTION


class Before(NamedTuple):
    """The product of queries and keys, the nodes from it to the softmax, and whether heads are mixed on the way."""

    product: fx.Node
    way: list[fx.Node]
    mixed: bool


def softmax_input(flow: Flow, node: fx.Node) -> tuple[fx.Node, int] | None:
    """Return the input of a softmax and its axis; also of a softmax written as ``exp(x) / exp(x).sum(axis)``."""
    name = aten.name(node)
    if name in SOFTMAX:
        source, axis = aten.tensors(node)[0], aten.argument(node, 1, "dim")
        return (source, axis % len(flow.table.sizes(source))) if isinstance(axis, int) else None
    if name != "div" or len(aten.tensors(node)) != 2:
        return None
    top, bottom = aten.tensors(node)
    while aten.name(bottom) in ("add", "clamp", "clamp_min", "expand", "unsqueeze") and aten.tensors(bottom):
        bottom = aten.tensors(bottom)[0]
    if aten.name(top) != "exp" or aten.name(bottom) != "sum" or aten.tensors(bottom)[0] is not top:
        return None
    axis = aten.argument(bottom, 1, "dim")
    axis = axis[0] if isinstance(axis, list | tuple) and len(axis) == 1 else axis
    return (aten.tensors(top)[0], axis % len(flow.table.sizes(top))) if isinstance(axis, int) else None


def comparison(flow: Flow, read: fx.Node, axis: int, crossed: int = 0) -> Before | None:
    """Return the product of queries and keys that the scores come from, or ``None``."""
    parent: dict[fx.Node, fx.Node | None] = {read: None}
    queue, crossings = [read], list[fx.Node]()
    while queue and len(parent) < NEAR * 2:
        node = queue.pop(0)
        if node in flow.mixtures:
            continue
        factors = pair(node)
        if factors is not None and all(map(flow.is_activation, factors)):
            return Before(node, _way(parent, node), False)
        if node in flow.projections or (factors is not None and any(map(flow.is_activation, factors))):
            crossings.append(node)
            continue
        if aten.name(node) == FUSED or aten.name(node) in SOFTMAX:
            continue
        for source in aten.tensors(node):
            if flow.is_activation(source) and source not in parent and aten.value(source) is not None:
                parent[source] = node
                queue.append(source)
    return _across(flow, crossings, parent, axis, crossed)


def fixed_comparison(flow: Flow, read: fx.Node) -> Before | None:
    """Return the product of queries and keys that are both learned, as in the first attention of some decoders."""
    way = [read]
    while len(way) < NEAR:
        factors = pair(way[-1])
        if factors is not None:
            return Before(way[-1], way[::-1], False) if all(map(is_computed, factors)) else None
        sources = aten.tensors(way[-1]) if way[-1].op == "call_function" else []
        if not sources or aten.name(way[-1]) not in PASSED:
            return None
        way.append(sources[0])
    return None


def _across(
    flow: Flow, crossings: list[fx.Node], parent: dict[fx.Node, fx.Node | None], axis: int, crossed: int
) -> Before | None:
    """The product upstream of a projection over the heads; or a product with learned queries, which is a projection."""
    for node in crossings if not crossed else ():
        live = next(source for source in aten.tensors(node) if flow.is_activation(source))
        further = comparison(flow, live, axis, crossed + 1)
        if further is not None and aten.name(further.product) not in _LINEAR and not _learned(flow, further.product):
            return Before(further.product, [*further.way, node, *_way(parent, node)[1:]], True)
    for node in crossings:
        if _learned(flow, node):
            return Before(node, _way(parent, node), False)
    return None


def _learned(flow: Flow, node: fx.Node) -> bool:
    """Whether a product compares keys with learned queries: the factor without input was itself projected."""
    factors = pair(node)
    if factors is None or len(flow.table.sizes(node)) < 3:
        return False
    still = [one for one in factors if not flow.is_activation(one)]
    return len(still) == 1 and is_computed(still[0])


def is_computed(node: fx.Node) -> bool:
    """Whether a tensor is the result of a projection of parameters, and not a parameter itself."""
    for _ in range(NEAR):
        if aten.name(node) in aten.MATMUL | _LINEAR:
            return True
        sources = aten.tensors(node) if node.op == "call_function" else []
        if not sources:
            return False
        node = sources[0]
    return False


def _way(parent: dict[fx.Node, fx.Node | None], node: fx.Node) -> list[fx.Node]:
    """The nodes from ``node`` down to the start of the search, both included."""
    way = [node]
    while (below := parent[way[-1]]) is not None:
        way.append(below)
    return way
