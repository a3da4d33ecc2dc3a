"""Find residual branches: additions in which one operand (the branch) was computed from the other (the stream)."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, field, replace

from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.branches.body import Body, body_before, deepen
from cbsurgeon.graph.branches.projection import Projection, projection
from cbsurgeon.graph.branches.steps import chain, is_spatial, operands, step

DEPTH = 3
"""Number of projections that an MLP may have in addition to two."""


@dataclass(frozen=True)
class Branch:
    """One operand of a sum, followed back to the stream that it was computed from.

    Attributes:
        total: the residual add.
        stream: the residual stream: the tensor that both the branch and the other operand come from, or ``None``.
        last: the down projection.
        between: the body before the down projection.
        tail: nodes from the down projection's output (included) to the addition (excluded), in graph order.
        head_spatial: there is a depthwise convolution or pooling between the stream and the up projection.
        others: candidates for the stream in the other operands.
        blocked_by: a step after the down projection that is not element-wise, if there is one.
    """

    total: fx.Node
    stream: fx.Node | None
    last: Projection
    between: Body
    tail: tuple[fx.Node, ...]
    head_spatial: bool = False
    others: tuple[fx.Node, ...] = field(default=(), repr=False)
    blocked_by: fx.Node | None = None

    @property
    def has_spatial(self) -> bool:
        """Whether there is a depthwise convolution or pooling between the stream and the down projection."""
        return self.between.spatial or self.head_spatial


def branches(flow: Flow, total: fx.Node, stop: Container[fx.Node]) -> Iterator[Branch]:
    """Yield every operand of a sum as a branch.

    Args:
        flow: axis factors of the graph.
        total: a node that adds two or more full-sized activations.
        stop: additions that are known to end a branch; a walk stops there.
    """
    terms = operands(flow, total)
    for place, term in enumerate(terms):
        rest = [other for k, other in enumerate(terms) if k != place and other is not term]
        others = [node for other in rest for node in _streams(flow, other)]
        if others:
            yield from _read(flow, total, term, others, stop, [])


def _streams(flow: Flow, node: fx.Node, depth: int = 4) -> list[fx.Node]:
    """Return candidates for the stream in the other operand: its chain, and the chains of the terms of a sum that has
    no other reader."""
    nodes = chain(flow, node)
    inner = operands(flow, nodes[-1])
    if depth and inner and all(len(one.users) == 1 for one in nodes):
        for term in inner:
            nodes = nodes + _streams(flow, term, depth - 1)
    return nodes


def _read(
    flow: Flow, total: fx.Node, term: fx.Node, others: list[fx.Node], stop: Container[fx.Node], tail: list[fx.Node]
) -> Iterator[Branch]:
    """Walk one operand back to its down projection; a sum of branches is followed into each of them."""
    current, tail = term, list(tail)
    while True:
        last = projection(flow, current)
        if last is not None:
            yield _complete(flow, total, last, others, stop, [current, *reversed(tail)])
            return
        if current in others:
            return
        inner = operands(flow, current)
        if inner and current not in stop:
            mixed = _mixed(flow, inner)
            if mixed is not None:
                yield from _upstream_of_blocker(flow, total, mixed, others, stop)
                return
            for one in inner:
                yield from _read(flow, total, one, others, stop, [*tail, current])
            return
        up = step(flow, current)
        if up is None or up.kind in ("activation", "spatial"):
            yield from _upstream_of_blocker(flow, total, current, others, stop)
            return
        tail.append(current)
        current = up.source


def _mixed(flow: Flow, terms: list[fx.Node]) -> fx.Node | None:
    """Return a convolution or pooling in a sum of several functions of one tensor (re-parameterised branches)."""
    walks = []
    for term in terms:
        nodes = [term]
        while (up := step(flow, nodes[-1])) is not None and len(nodes) < 16:
            nodes.append(up.source)
        walks.append(nodes)
    for walk in walks:
        spatial = next((node for node in walk if is_spatial(flow, node)), None)
        if spatial is not None and any(set(walk) & set(other) for other in walks if other is not walk):
            return spatial
    return None


def _upstream_of_blocker(
    flow: Flow, total: fx.Node, blocker: fx.Node, others: list[fx.Node], stop: Container[fx.Node]
) -> Iterator[Branch]:
    """Yield the branches upstream of a step that is not element-wise. They are experts, or rejected with a reason."""
    if is_spatial(flow, blocker):
        core = Projection(blocker, aten.tensors(blocker)[0], (blocker,), blocker, (), spatial=True, convolution=True)
        yield Branch(total, None, core, Body(), (blocker,), others=tuple(others), blocked_by=blocker)
    queue, seen = [blocker], set[fx.Node]()
    while queue and len(seen) < 12:
        node = queue.pop()
        if node in seen or node in others or node in stop or not flow.is_activation(node):
            continue
        seen.add(node)
        last = projection(flow, node)
        if last is None:
            queue.extend(aten.tensors(node))
        else:
            yield replace(_complete(flow, total, last, others, stop, [node]), blocked_by=blocker)


class _Either:
    """Membership in either of two containers."""

    def __init__(self, first: Container[fx.Node], second: Container[fx.Node]) -> None:
        self.first, self.second = first, second

    def __contains__(self, node: object) -> bool:
        return node in self.first or node in self.second


def _complete(
    flow: Flow,
    total: fx.Node,
    last: Projection,
    others: list[fx.Node],
    stop: Container[fx.Node],
    tail: list[fx.Node],
) -> Branch:
    streams = frozenset(others)
    between = body_before(flow, last, _Either(streams, stop))
    paths, stream = _common_stream(flow, between, streams)
    for _ in range(DEPTH):
        spatial = any(first.spatial for first in between.firsts)
        if stream is not None or not between.firsts or between.attention or spatial:
            break
        deeper = deepen(flow, between, _Either(streams, stop))
        if not deeper.firsts:
            break
        paths, stream = _common_stream(flow, deeper, streams)
        if stream is not None:
            between = deeper
    spatial = False
    for path in paths:
        before = path[: path.index(stream)] if stream is not None else path
        spatial |= any((up := step(flow, node)) is not None and up.kind == "spatial" for node in before)
    return Branch(total, stream, last, between, tuple(tail), spatial, tuple(others))


def _common_stream(
    flow: Flow, between: Body, streams: Container[fx.Node]
) -> tuple[list[list[fx.Node]], fx.Node | None]:
    """The nodes upstream of each up projection, and the first node of the stream that is among all of them."""
    paths = [chain(flow, first.source) for first in between.firsts]
    if not paths:
        return [], None
    return paths, next((node for node in paths[0] if node in streams and all(node in path for path in paths)), None)


def mixes_tokens(flow: Flow, total: fx.Node, stop: Container[fx.Node], limit: int = 300) -> bool:
    """Return whether a sum that is not a block adds a token mixer to its stream.

    A token mixer is attention, or a pooling or depthwise convolution with less than two projections. With two
    projections it would be an inverted bottleneck.
    """
    terms = operands(flow, total)
    for place, term in enumerate(terms):
        streams = {node for k, other in enumerate(terms) if k != place for node in _streams(flow, other)}
        queue, seen, touched = [term], set[fx.Node](), False
        attention, spatial, projections = False, False, 0
        while queue and len(seen) < limit:
            node = queue.pop()
            touched |= node in streams
            if node in seen or node in streams or node in stop or not flow.is_activation(node):
                continue
            seen.add(node)
            name = aten.name(node)
            live = [source for source in aten.tensors(node) if flow.is_activation(source)]
            up = step(flow, node)
            attention |= name in aten.ATTENTION | aten.SAMPLED or (name in aten.MATMUL and len(live) > 1)
            spatial |= up is not None and up.kind == "spatial"
            projections += node in flow.projections
            queue.extend(live)
        if touched and (attention or (spatial and projections < 2)):
            return True
    return False
