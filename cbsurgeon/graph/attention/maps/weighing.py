"""Find the product of attention weights and values, which contracts the axis of the softmax."""

from __future__ import annotations

from typing import NamedTuple

from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.attention.maps.comparing import PASSED, is_computed
from cbsurgeon.graph.attention.maps.following import moved, operand
from cbsurgeon.graph.attention.scores import NEAR
from cbsurgeon.graph.axes.flow import Flow


class After(NamedTuple):
    """The nodes between a softmax and the product of weights and values.

    Attributes:
        way: the nodes from the softmax to the operand of ``product``, both included.
        mixers: the nodes among them that mix heads.
        product: weights times values.
        key, query: axes of keys and queries in the operand of ``product``.
    """

    way: list[fx.Node]
    mixers: list[fx.Node]
    product: fx.Node
    key: int
    query: int | None


def weighing(flow: Flow, node: fx.Node, axis: int) -> After | None:
    """Return the product of weights and values that contracts the axis of the softmax, or ``None``."""
    queue: list[tuple[list[fx.Node], list[fx.Node], int]] = [([node], [], axis)]
    seen = {node}
    while queue and len(seen) < NEAR * 2:
        way, mixers, place = queue.pop(0)
        for user in way[-1].users:
            if aten.value(user) is None or user in seen:
                continue
            seen.add(user)
            part = operand(flow, user, way[-1])
            if part is not None and part.contracted == (place,) and _summed_alone(flow, user, part.other):
                return After(way, mixers, user, place, part.own[0] if len(part.own) == 1 else None)
            mixes = user in flow.projections or part is not None or aten.name(user) in aten.NORM
            if not mixes and aten.name(user) not in PASSED:
                summed = _multiplied_and_summed(flow, user, way, mixers, place)
                if summed is not None:
                    return summed
                continue
            further = moved(flow, way[-1], place, user)
            if further is not None:
                queue.append(([*way, user], [*mixers, user] if mixes else mixers, further))
    return None


def _summed_alone(flow: Flow, product: fx.Node, values: fx.Node) -> bool:
    """Whether the other factor is computed (a vector of parameters would be a projection of the keys)."""
    return flow.is_activation(values) or product not in flow.projections or is_computed(values)


def _multiplied_and_summed(
    flow: Flow, node: fx.Node, way: list[fx.Node], mixers: list[fx.Node], place: int
) -> After | None:
    """``(weights[..., None] * values).sum(keys)`` instead of a matrix product."""
    if aten.name(node) != "sum" or aten.name(way[-1]) != "mul" or len(way) < 2:
        return None
    where = aten.argument(node, 1, "dim")
    rank = len(flow.table.sizes(way[-1]))
    places = [where] if isinstance(where, int) else where
    if not isinstance(places, list | tuple) or [one % rank for one in places] != [place]:
        return None
    if sum(map(flow.is_activation, aten.tensors(way[-1]))) != 2:
        return None
    before = place - rank + len(flow.table.sizes(way[-2]))
    return After(way[:-1], mixers, node, before, None) if before >= 0 else None
