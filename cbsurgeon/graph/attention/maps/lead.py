"""The leading axes of a map, however they are merged: samples, windows of a sample, heads."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from torch import fx

from cbsurgeon.graph.attention.maps.finding import channels_of
from cbsurgeon.graph.attention.maps.map import Map
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.table import BATCH, Dim, Factor

Role = Literal["batch", "window", "head"]


class Part(NamedTuple):
    """A piece of a dimension: its size (0 for the batch, which differs from run to run) and what it counts."""

    size: int
    role: Role


Lead = tuple[tuple[Part, ...], ...]
"""The pieces of every leading axis of a map, in order."""


def lead_of(flow: Flow, one: Map) -> Lead:
    """Return the leading axes of a map, split as finely as they are known."""
    dims, keys = flow.of(one.weights), flow.of(one.asked.node)
    lead = [dims[place] for place in one.lead]
    if one.fused:  # an axis of size one in the queries is broadcast to that of the keys
        lead = [dim or (keys[place] if len(keys) == len(dims) else dim) for place, dim in enumerate(lead)]
    elif len(keys) == len(dims):  # queries that are repeated for every window do not tell samples and windows apart
        lead = [keys[place] if _in_unknown_order(dims[place]) else dims[place] for place in one.lead]
    return parts_of(flow, one, lead)


def _in_unknown_order(dim: Dim) -> bool:
    """Whether it is unknown which sample a position of an axis belongs to."""
    return sum(factor.axis == BATCH for factor in dim) > 1


def parts_of(flow: Flow, one: Map, dims: Sequence[Dim]) -> Lead:
    """Some axes of a tensor of an attention, split as finely as they are known.

    A batch of several samples per input (``torch.cat([x, y])``) has two factors, which are one part.
    """
    parts = [[_part(flow, one, own) for own in _samples_together(dim)] for dim in dims]
    if any(part.role == "head" for own in parts if all(one.role != "batch" for one in own) for part in own):
        # If a separate axis holds the heads, what is merged with the batch are windows, even without other evidence.
        parts = [
            [Part(size, "window" if role == "head" else role) for size, role in own]
            if any(part.role == "batch" for part in own)
            else own
            for own in parts
        ]
    return tuple(map(tuple, parts))


def counts(flow: Flow, one: Map) -> tuple[int, int]:
    """Return the numbers of heads and of windows per sample."""
    parts = [part for own in lead_of(flow, one) for part in own]
    heads, windows = (math.prod(part.size for part in parts if part.role == role) for role in ("head", "window"))
    return heads, windows


def _samples_together(dim: Dim) -> Iterator[Factor]:
    """Yield the factors of an axis, and of neighbours that count samples only the first."""
    for number, factor in enumerate(dim):
        if not (number and factor.axis == dim[number - 1].axis == BATCH):
            yield factor


def _part(flow: Flow, one: Map, factor: Factor) -> Part:
    return Part(0 if factor.axis == BATCH else factor.size, _role(flow, one, factor.axis))


def _role(flow: Flow, one: Map, axis: int) -> Role:
    if axis == BATCH:
        return "batch"
    table = flow.table
    root, evidence = table.root(axis), table.evidence(axis)
    if root in channels_of(flow, one.asking.node) | channels_of(flow, one.asked.node):
        return "head"
    return "window" if root in _positions(flow, one) or evidence.slid or evidence.given else "head"


def _positions(flow: Flow, one: Map) -> set[int]:
    """The position axes of queries and keys."""
    places: list[tuple[fx.Node, int]] = [one.asking, one.asked]
    if not one.fused:
        places += [(one.weights, one.query), (one.weights, one.key)]
    dims: list[Dim] = [flow.of(node)[axis] for node, axis in places]
    return {axis for dim in dims for axis in flow.table.axes(dim)}
