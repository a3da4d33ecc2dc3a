"""Find attentions without a map of queries by keys, with the reasons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.attention.maps.comparing import PASSED, SOFTMAX, comparison, softmax_input
from cbsurgeon.graph.attention.maps.finding import is_channel, own_axes
from cbsurgeon.graph.attention.maps.following import operand, pair
from cbsurgeon.graph.attention.maps.map import Map, Place
from cbsurgeon.graph.attention.maps.weighing import weighing
from cbsurgeon.graph.attention.scores import NEAR
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.reasons import Reason

Mapless = tuple[fx.Node, fx.Node, Reason]
"""The first node of an attention without a map, its last one, and the reason."""


def find_mapless(flow: Flow, maps: Sequence[Map]) -> list[Mapless]:
    """Return every attention without a map.

    Args:
        flow: axis factors of the graph.
        maps: the attentions that have a map.
    """
    known = {node for one in maps for node in (one.node, one.product)}
    found = list(_reordered(flow, known))
    products = known | {node for one in found for node in one[:2]}
    for node in flow.order:
        if node not in known and flow.is_activation(node) and (read := softmax_input(flow, node)) is not None:
            found += _lost(flow, node, *read, products)
    return found


def _reordered(flow: Flow, known: set[fx.Node]) -> Iterator[Mapless]:
    """Attentions that multiply keys with values first, and the result (channels by channels) with the queries."""
    for node in flow.order:
        factors = pair(node)
        if (
            factors is None
            or node in known
            or node in flow.mixtures
            or not all(map(flow.is_activation, factors))
            or factors[0] is factors[1]
        ):
            continue
        part = operand(flow, node, factors[0])
        if part is None or len(part.contracted) != 1 or not _sums_tokens(flow, Place(factors[0], part.contracted[0])):
            continue
        if not all(is_channel(flow, Place(one, axis)) for one in factors for axis, _ in own_axes(flow, node, one)):
            continue
        last, weighed = _multiplied(flow, node)
        if last is not None:
            yield node, last, Reason.CHANNEL_ATTENTION if weighed else Reason.LINEAR_ATTENTION


def _lost(flow: Flow, node: fx.Node, read: fx.Node, axis: int, products: set[fx.Node]) -> Iterator[Mapless]:
    """The attention of a softmax that reads scores of queries and keys or weighs values, but not both."""
    before, after = comparison(flow, read, axis), weighing(flow, node, axis)
    if before is not None and node.users and len(flow.table.sizes(node)) > 2 and not _is_channels(flow, before.product):
        yield before.product, node, Reason.MAP_UNDECIDED
    elif before is None and after is not None and after.product not in products:
        yield node, after.product, Reason.PROJECTED_WEIGHTS


def _is_channels(flow: Flow, product: fx.Node) -> bool:
    """Whether a product of two activations is one of channels with channels."""
    own = [Place(one, axis) for one in pair(product) or () for axis, _ in own_axes(flow, product, one)]
    return any(is_channel(flow, place) for place in own)


def _sums_tokens(flow: Flow, place: Place) -> bool:
    dim = flow.of(place.node)[place.axis]
    return bool(dim) and not flow.table.holds_batch(dim) and not is_channel(flow, place)


def _multiplied(flow: Flow, node: fx.Node) -> tuple[fx.Node | None, bool]:
    """The next product of two activations downstream of a node, and whether there is a softmax before it."""
    queue, seen = [(node, False)], {node}
    while queue and len(seen) < NEAR:
        current, weighed = queue.pop(0)
        for user in current.users:
            if user in seen or aten.value(user) is None:
                continue
            seen.add(user)
            factors = pair(user)
            if factors is not None and current in factors and all(map(flow.is_activation, factors)):
                return user, weighed
            if aten.name(user) in PASSED:
                queue.append((user, weighed or aten.name(user) in SOFTMAX))
    return None, False
