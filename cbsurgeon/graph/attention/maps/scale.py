"""The scale of attention scores: the factor between the product of queries and keys and the input of the softmax."""

from __future__ import annotations

import math

from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.attention.maps.following import operand
from cbsurgeon.graph.attention.maps.map import Map
from cbsurgeon.graph.attention.scores import NEAR
from cbsurgeon.graph.axes.flow import Flow


def logit_scale(flow: Flow, one: Map) -> tuple[float, bool]:
    """Return the scale, and whether it was read from the graph.

    It is the product of all numbers that queries, keys and scores are multiplied with after their projections. If one
    of them is a parameter (a learned temperature), the usual ``1 / sqrt(channels of a head)`` is returned instead.
    """
    channels = _contracted(flow, one)
    usual = 1 / math.sqrt(channels) if channels else 1.0
    factors = [*_upstream(flow, one.asking.node), *_upstream(flow, one.asked.node), *map(_factor, one.before)]
    if one.fused:
        given = aten.argument(one.node, 6, "scale")
        factors.append(float(given) if isinstance(given, int | float) else usual)
    if any(factor is None for factor in factors):
        return usual, False
    return math.prod(factor for factor in factors if factor is not None), True


def _contracted(flow: Flow, one: Map) -> int:
    """Channels of a head."""
    if one.fused:
        return flow.table.sizes(one.asking.node)[-1]
    part = operand(flow, one.scores, one.asking.node) if one.scores is not None else None
    sizes = flow.table.sizes(one.asking.node)
    return math.prod(sizes[axis] for axis in part.contracted) if part is not None else 0


def _upstream(flow: Flow, node: fx.Node) -> list[float | None]:
    """The factors between a projection and its reader."""
    found: list[float | None] = []
    for _ in range(NEAR):
        if node in flow.projections or node.op != "call_function" or aten.name(node) in aten.NORM:
            break
        found.append(_factor(node))
        sources = aten.tensors(node)
        node = next((source for source in sources if flow.is_activation(source)), node)
        if node not in sources:
            break
    return found


def _factor(node: fx.Node) -> float | None:
    """The number a node multiplies with; 1 for other nodes; ``None`` if the graph does not show the number."""
    name = aten.name(node)
    if name == "baddbmm":
        beta = aten.argument(node, 4, "alpha", 1)
        return float(beta) if isinstance(beta, int | float) else None
    if name not in ("mul", "div") or len(node.args) < 2:
        return 1.0
    number = next((arg for arg in node.args if isinstance(arg, int | float)), None)
    if number is not None:
        return float(number) if name == "mul" else 1 / float(number)
    second = node.args[1]
    single = isinstance(second, fx.Node) and _is_learned(second)
    return None if single else 1.0


def _is_learned(node: fx.Node) -> bool:
    """Whether a tensor is a parameter with one number, or one per head (and not a computed norm of queries or keys)."""
    value = aten.value(node)
    long = [size for size in value.shape if not isinstance(size, int) or size > 1] if value is not None else []
    if len(long) > 1:
        return False
    while node.op == "call_function" and aten.tensors(node):
        node = aten.tensors(node)[0]
    return node.op in ("placeholder", "get_attr")
