"""Tokens that a model keeps apart: along an axis of views, crops or variates, or in groups along a single axis.

If each output of a model has such an axis, and each position along it only changes itself, then a mean over all tokens
mixes what the model never mixes. The same holds if each token only changes those of its own group (views that were
joined to one row of tokens, windows in every layer). The blocks get a note about it. An axis that a later layer pools
is not of this kind, and neither are the tokens of a model that mixes none of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import fx

from cbsurgeon.graph.attention.probing.influence import Probe
from cbsurgeon.graph.attention.probing.stretches import Stretch, Tokens, begin, is_float, layout_of, tokens_of
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.table import Factor
from cbsurgeon.graph.block import APART, Block
from cbsurgeon.graph.blocks.reading import Found, Reading


def with_notes(reading: Reading, groups: Sequence[list[Found]], blocks: Sequence[Block], run: Probe) -> list[Block]:
    """Return the blocks, with a note if the mean over their tokens mixes positions that the model keeps apart.

    Args:
        reading: what was read from the program.
        groups: the occurrences of each block.
        blocks: the blocks.
        run: runs the program.
    """
    known: dict[tuple[str, Tokens], str] = {}
    result = []
    for group, block in zip(groups, blocks, strict=True):
        stream = group[0].branch.stream
        tokens = tokens_of(reading.flow, stream) if stream is not None else None
        if stream is not None and tokens is not None:
            key = (block.stack, tokens)
            known[key] = known[key] if key in known else _mixed(reading, stream, tokens, run)
            if known[key]:
                block = replace(block, notes=(*block.notes, f"a mean over all tokens mixes {known[key]} {APART}"))
        result.append(block)
    return result


def _mixed(reading: Reading, stream: fx.Node, tokens: Tokens, run: Probe) -> str:
    """Return what a mean over all tokens mixes, although the model keeps it apart; empty if it keeps nothing apart."""
    positions = _positions(reading, stream, tokens, run) if len(tokens) > 1 else 0
    if positions:
        return f"{positions} positions of an axis"
    part = _to_outputs(reading, begin(reading, stream, tokens), tokens)
    groups = run.groups(part) if part is not None else 0
    return f"{groups} groups of tokens" if groups else ""


def _positions(reading: Reading, stream: fx.Node, tokens: Tokens, run: Probe) -> int:
    """Return the number of positions that are kept apart, each with several tokens that are not; 0 if there are
    none."""
    if len(set(tokens)) != len(tokens):
        return 0  # pieces of equal size with one axis identity are not told apart
    parts = [(factor, part) for factor in tokens if (part := _along(reading, stream, tokens, factor)) is not None]
    apart = [factor.size for factor, part in parts if run.apart(part)]
    return math.prod(apart) if 0 < len(apart) < len(tokens) else 0


def _along(reading: Reading, stream: fx.Node, tokens: Tokens, factor: Factor) -> Stretch | None:
    """Return the stretch from the first tensor with these tokens to the outputs of the model, with the positions along
    one axis as its tokens; ``None`` if an output does not have this axis."""
    if factor.size < 2:
        return None
    return _to_outputs(reading, begin(reading, stream, tokens), (factor,))


def _to_outputs(reading: Reading, entry: fx.Node, tokens: Tokens) -> Stretch | None:
    exits = tuple(dict.fromkeys(_outputs(reading.flow, entry)))
    layouts = {node: layout_of(reading.flow, node, tokens, alone=True) for node in (entry, *exits)}
    found = {node: layout for node, layout in layouts.items() if layout is not None}
    sizes = tuple(factor.size for factor in tokens)
    return Stretch(entry, exits, found, sizes) if exits and len(found) == len(layouts) else None


def _outputs(flow: Flow, entry: fx.Node) -> Iterator[fx.Node]:
    """Yield the outputs of the model that depend on a node."""
    reached = {entry}
    for node in list(flow.order)[flow.order[entry] + 1 :]:
        if node.op == "output":
            yield from (each for each in node.all_input_nodes if each in reached and is_float(each))
        elif reached.intersection(node.all_input_nodes):
            reached.add(node)
