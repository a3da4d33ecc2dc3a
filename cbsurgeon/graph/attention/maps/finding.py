"""Find every attention of a graph that has a map.

An attention is one ``scaled_dot_product_attention``, or a softmax between two products: queries times keys before it,
weights times values after it. In between there may be scales, masks, biases, changes of type and layout, and
projections over the heads (talking heads).
"""

from __future__ import annotations

from typing import Literal

from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.attention.maps.comparing import FUSED, Before, comparison, fixed_comparison, softmax_input
from cbsurgeon.graph.attention.maps.following import moved, operand, pair
from cbsurgeon.graph.attention.maps.map import Map, Place
from cbsurgeon.graph.attention.maps.weighing import After, weighing
from cbsurgeon.graph.attention.scores import NEAR
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.table import BATCH


def find_maps(flow: Flow) -> list[Map]:
    """Return every attention of a graph that has a map, in graph order."""
    found = (_fused(flow, node) if aten.name(node) == FUSED else _spelled(flow, node) for node in flow.order)
    return [one for one in found if one is not None and _compares_tokens(flow, one)]


def _fused(flow: Flow, node: fx.Node) -> Map | None:
    query, key = node.args[0], node.args[1]
    if not isinstance(query, fx.Node) or not isinstance(key, fx.Node):
        return None
    rank = len(flow.table.sizes(query))
    positions = rank - 2
    return Map(
        node, True, query, None, node, tuple(range(positions)), positions, positions,
        Place(query, positions), Place(key, positions),
    )  # fmt: skip


def _spelled(flow: Flow, node: fx.Node) -> Map | None:
    read = softmax_input(flow, node)
    if read is None:
        return None
    before = comparison(flow, *read) if flow.is_activation(node) else fixed_comparison(flow, read[0])
    if before is None:
        return None
    after = weighing(flow, node, read[1])
    if after is None:
        return None
    return _assembled(flow, node, read[1], before, after)


def _assembled(flow: Flow, node: fx.Node, axis: int, before: Before, after: After) -> Map | None:
    ends = _ends(flow, before, axis)
    if ends is None:
        return None
    asking, asked, query_at_softmax = ends
    cut = after.way.index(after.mixers[0]) if after.mixers else len(after.way)
    weights = after.way[cut - 1]
    key, query = axis, query_at_softmax
    for source, user in zip(after.way[:cut], after.way[1:cut], strict=False):
        key_there = moved(flow, source, key, user)
        if key_there is None:
            return None
        key = key_there
        query = moved(flow, source, query, user) if query is not None else None
    if not after.mixers and after.query is not None:
        query = after.query
    mixed = (after.way[-1], after.query, after.key) if after.mixers and after.query is not None else None
    if query is None or query == key:
        return None
    talking: Literal["", "scores", "weights", "both"] = "scores" if before.mixed else ""
    if after.mixers:
        talking = "both" if before.mixed else "weights"
    return Map(
        node, False, weights, mixed, after.product,
        tuple(i for i in range(len(flow.table.sizes(weights))) if i not in (query, key)), query, key,
        asking, asked, before.product, tuple(before.way), tuple(after.way[:cut]), talking,
    )  # fmt: skip


def _ends(flow: Flow, before: Before, axis: int) -> tuple[Place, Place, int | None] | None:
    """Queries and keys with their position axes, and the axis of the queries in the softmax's input."""
    factors = pair(before.product)
    assert factors is not None
    reached: dict[int, int | None] = {}
    for place in range(len(flow.table.sizes(before.product))):
        here: int | None = place
        for source, user in zip(before.way, before.way[1:], strict=False):
            here = moved(flow, source, here, user) if here is not None else None
        reached[place] = here
    if None in reached.values() and flow.table.sizes(before.product) == flow.table.sizes(before.way[-1]):
        reached = {place: place for place in reached}  # axes were split on the way, and merged again
    own = [own_axes(flow, before.product, factor) for factor in factors]
    for mine, other in ((0, 1), (1, 0)):
        for axis_there, out in own[mine]:
            if reached.get(out) == axis:
                queries = own[other]
                if len(queries) != 1:
                    return None
                return (
                    Place(factors[other], queries[0][0]),
                    Place(factors[mine], axis_there),
                    reached.get(queries[0][1]),
                )
    return None


def own_axes(flow: Flow, product: fx.Node, factor: fx.Node) -> list[tuple[int, int]]:
    """Return the axes of a factor that the other factor does not have, with their index in the product."""
    part = operand(flow, product, factor)
    if part is None:
        return []
    pairs = ((axis, moved(flow, factor, axis, product)) for axis in part.own)
    return [(axis, out) for axis, out in pairs if out is not None]


def _compares_tokens(flow: Flow, one: Map) -> bool:
    """Whether the keys are positions: neither channels (cross-covariance attention) nor samples."""
    return not flow.table.holds_batch(flow.of(one.asked.node)[one.asked.axis]) and not is_channel(flow, one.asked)


def channels_of(flow: Flow, node: fx.Node) -> set[int]:
    """Return the axes made by the nearest projections upstream of a tensor: its channels, split into heads or not."""
    queue, seen, found = [node], set[fx.Node](), set[int]()
    while queue and len(seen) < NEAR * 2:
        current = queue.pop()
        if current in seen:
            continue
        seen.add(current)
        if current in flow.projections:
            before = {axis for dim in flow.of(flow.projections[current][0]) for axis in flow.table.axes(dim)}
            found |= {axis for dim in flow.of(current) for axis in flow.table.axes(dim)} - before
        else:
            queue += aten.tensors(current)
    return found - {BATCH}


def is_channel(flow: Flow, place: Place) -> bool:
    """Whether an axis of a tensor is (a piece of) its channels."""
    axes = flow.table.axes(flow.of(place.node)[place.axis])
    return bool(axes) and axes <= channels_of(flow, place.node)
