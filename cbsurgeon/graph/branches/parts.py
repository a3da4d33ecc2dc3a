"""Find which parts of an MLP branch a candidate has."""

from __future__ import annotations

from collections.abc import Container, Sequence

from torch import fx

from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.branches.body import Body
from cbsurgeon.graph.branches.projection import Projection
from cbsurgeon.graph.branches.steps import chain, step
from cbsurgeon.graph.reasons import Part


def parts_of(
    flow: Flow,
    between: Body,
    last: Projection,
    *,
    streams: Container[fx.Node] = (),
    tail: Sequence[fx.Node] = (),
) -> tuple[Part, ...]:
    """Return the parts that a candidate has, in the order in which data passes through them.

    Args:
        flow: axis factors of the graph.
        between: the body before the down projection.
        last: the down projection, or the node that replaces it.
        streams: the residual stream that the candidate is added to, or candidates for it.
        tail: nodes from the down projection to the residual add.
    """
    paths = [chain(flow, one.source) for one in between.firsts or [last]]
    meeting = [next((place for place, node in enumerate(path) if node in streams), None) for path in paths]
    before = [node for path, place in zip(paths, meeting, strict=True) for node in path[:place]]
    has = {
        Part.NORM: any(_is_norm(flow, node) for node in (*before, *tail)),
        Part.UP: bool(between.firsts),
        Part.ACTIVATION: between.activation or between.gate,
        Part.DOWN: last.core in flow.projections,
        Part.ADD: all(place is not None for place in meeting),
    }
    return tuple(part for part in Part if has[part])


def _is_norm(flow: Flow, node: fx.Node) -> bool:
    up = step(flow, node)
    return up is not None and up.kind == "norm"
