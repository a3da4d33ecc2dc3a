"""Roles of a tensor's axes: batch, token or channel."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import fx

from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.table import BATCH, Dims, extent, most_normalised, most_scaled
from cbsurgeon.operators.common.unfolding import Unfold


@dataclass(frozen=True)
class Roles:
    """Axes of one tensor by role, as non-negative indices; axes of size 1 have none.

    Attributes:
        batch, tokens: indices, in order; copies of a stream count as batch.
        channel: index of the channel axis.
        count: number of tokens (product of the token axes).
        channels: size of the channel axis.
        folded: number of token positions that share an axis with the batch.
        unfold: how a shared axis is split first; the indices are then those of the split tensor.
    """

    batch: tuple[int, ...]
    tokens: tuple[int, ...]
    channel: int
    count: int
    channels: int
    folded: int
    unfold: Unfold | None = None


def channel_axis(flow: Flow, stream: fx.Node) -> int | None:
    """Return the axis of a stream that holds its channels.

    Evidence, strongest first: normalisations run along it; a projection made it and no input has it; vector parameters
    scale or shift it; it is the only axis that a projection contracts. Sizes are not used.

    Returns:
        the identity of the axis, or ``None`` if nothing distinguishes it from the token axes.
    """
    table = flow.table
    dims = [dim for dim in flow.of(stream) if dim]
    axes = {axis for dim in dims for axis in table.axes(dim)} - {BATCH}
    whole = {next(iter(table.axes(dim))) for dim in dims if len(table.axes(dim)) == 1} - {BATCH}
    counts = [sum(axis in table.axes(dim) for dim in dims) for axis in whole]
    if not whole or (len(axes) == 1 and counts and counts[0] > 1):
        return None
    winner = most_normalised(table, whole)
    if winner is not None:
        return winner
    made = [axis for axis in whole if table.evidence(axis).feature and not table.evidence(axis).given]
    if len(made) == 1:
        return made[0]
    winner = most_scaled(table, whole)
    if winner is not None:
        return winner
    contracted = [axis for axis in whole if table.evidence(axis).contracted]
    return contracted[0] if len(contracted) == 1 else None


def roles(flow: Flow, dims: Dims, channels: set[int]) -> Roles | None:
    """Return the roles of a tensor's axes, given the identities of the channel axes.

    Returns:
        ``None`` if an axis combines channels with anything else, or there is not exactly one channel axis.
    """
    batch, tokens, channel, folded = list[int](), list[int](), list[int](), 1
    for place, dim in enumerate(dims):
        if not dim:
            continue
        axes = flow.table.axes(dim)
        if axes <= channels:
            channel.append(place)
        elif axes & channels:
            return None
        elif BATCH in axes:
            batch.append(place)
            folded *= extent(factor for factor in dim if factor.axis != BATCH)
        elif all(flow.table.evidence(axis).copies for axis in axes):
            batch.append(place)
        else:
            tokens.append(place)
    if len(channel) != 1:
        return None
    count = math.prod(extent(dims[place]) for place in tokens)
    return Roles(tuple(batch), tuple(tokens), channel[0], count, extent(dims[channel[0]]), folded)


def unfolded(dims: Dims) -> tuple[Dims, Unfold] | None:
    """Split the axis that samples share with something else; return the dimensions after that, and the split.

    Returns:
        ``None`` if the samples do not share an axis, or are not in one piece.
    """
    shared = [place for place, dim in enumerate(dims) if len(dim) > 1 and any(f.axis == BATCH for f in dim)]
    if len(shared) != 1:
        return None
    (axis,) = shared
    where = [place for place, factor in enumerate(dims[axis]) if factor.axis == BATCH]
    if len(where) != 1:
        return None
    pieces = dims[axis][: where[0]], (dims[axis][where[0]],), dims[axis][where[0] + 1 :]
    return (*dims[:axis], *(piece for piece in pieces if piece), *dims[axis + 1 :]), Unfold(
        axis, extent(pieces[0]), extent(pieces[2])
    )


def roles_where_shared(flow: Flow, dims: Dims, channels: set[int]) -> Roles | None:
    """Return the roles of a tensor's axes; if samples and tokens share an axis, those after that axis is split."""
    known = roles(flow, dims, channels)
    if known is None or known.tokens or known.folded == 1 or (split := unfolded(dims)) is None:
        return known
    apart = roles(flow, split[0], channels)
    return replace(apart, unfold=split[1]) if apart is not None and apart.tokens else known
